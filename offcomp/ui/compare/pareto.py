"""Charts of the Compare page: score against size, and score against relative error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from offcomp.results import pareto
from offcomp.results.atlas import read_measurements
from offcomp.results.charts.pareto import MAX_BARS, RUN, agreement_figure, front_figure
from offcomp.results.originals import model_titles
from offcomp.results.pareto import ERROR, front_table, measures_of, metric_named, sharing_an_axis
from offcomp.results.runs import short_names
from offcomp.results.scores import within_sentence
from offcomp.runs.store import Run
from offcomp.ui.charts import show_chart
from offcomp.ui.compare.results import UNIT, UNIT_NAMES, chosen_unit
from offcomp.ui.escape import plain
from offcomp.ui.examples.page import RUN as EXAMPLES_RUN
from offcomp.ui.frame import palette
from offcomp.ui.switch import choose_one

FRONT, MEASURE, MODEL = "compare_front", "compare_measure", "compare_model"
MIN_TO_AGREE = 3


def show_front(runs: Sequence[Run]) -> None:
    """Show which runs perform best for their size: a chart, a summary, a table, and why any runs are left out."""
    runs, others = _of_one_model(runs)
    names, measures = short_names(runs), measures_of(runs)
    measure = _choose_measure(measures)
    shown, left_out = sharing_an_axis(runs, measure)
    summary = f"{len(shown)} of {len(runs) + len(others)} runs shown."
    if others:
        summary += f" {len(others)} left out because sizes and scores are not comparable across models."
    if left_out:
        summary += f" Not on this axis: {pareto.left_out_text(left_out, names)}."
    if not shown:
        st.info(plain(f"None of the runs has a value to plot. {summary}"))
        return
    unit = chosen_unit()
    table = front_table(shown, measure, unit, names)
    references = pareto.reference_table(read_measurements().values(), shown[0], measure, unit)
    metric = metric_named(table["metric"].iloc[0])
    plotted = metric.word if metric is ERROR else f"{metric.word} on {within_sentence(measures[measure])}"
    alt = f"Chart of {plotted} against whole-model size, for each run and the original; the table below has the numbers."
    target = st.container()
    _show_picked(shown, names)
    st.markdown(plain(pareto.front_answer(table)))
    st.caption(plain(f"{summary} {_reading(table, references)}"))
    figure = front_figure(table, palette(), references, _picked(shown))
    as_shown = table[pareto.SHOWN].rename(columns={"size": f"size in {pareto.UNIT_TITLES[unit]}", "ratio": "times smaller"})
    show_chart(target, figure, as_shown, key=FRONT, alt=alt, on_click=_pick_clicked)


def _picked(runs: Sequence[Run]) -> str:
    """Return the id of the run selected for the Examples page, or an empty string if it is not in `runs`."""
    name = st.session_state.get(EXAMPLES_RUN)
    return next((run.id for run in runs if run.id == name), "")


def _pick_clicked() -> None:
    """Select the run whose mark was clicked. Redrawing the chart clears the clicked points but not the selected run."""
    clicked = [point["customdata"] for point in st.session_state[FRONT].selection.points if "customdata" in point]
    if clicked:
        st.session_state[EXAMPLES_RUN] = clicked[0][RUN]


def _show_picked(runs: Sequence[Run], names: Mapping[str, str]) -> None:
    """Show the selected run and a link to its predictions."""
    picked = _picked(runs)
    if not picked:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"Selected: **{plain(names[picked])}**, run {plain(picked)}.", width="content")
        icon, query = ":material/rule:", {"run": picked}
        st.page_link("pages/examples.py", label="See its predictions", icon=icon, query_params=query, width="content")


def _of_one_model(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """Split the runs into those of the chosen model and all others; a selector appears only if there are several models."""
    titles = model_titles(runs)
    models = list(dict.fromkeys(titles.values()))
    if len(models) == 1:
        return list(runs), []
    model = st.selectbox("Model", models, key=MODEL, persist_state="session")
    return [run for run in runs if titles[run.id] == model], [run for run in runs if titles[run.id] != model]


def _choose_measure(measures: Mapping[str, str]) -> str:
    """Let the user choose the unit of size and the measure by which runs are judged."""
    with st.container(horizontal=True, gap="small"):
        measure = choose_one("Judged by", measures, MEASURE)
        choose_one("Size in", UNIT_NAMES, UNIT)
    return measure


def _reading(table: pd.DataFrame, references: pd.DataFrame) -> str:
    """Explain how to read the marks in the chart."""
    runs = table[table["run"] != ""]
    parts = ["Click a mark to select its run."]
    if not runs["on_front"].all():
        parts.append(
            "Pale: another run or the original is at least as small and at least as good; if bars overlap, this may be chance."
        )
    if len(runs) > MAX_BARS and metric_named(table["metric"].iloc[0]) is not ERROR:
        parts.append("With this many runs, only those on the Pareto front show a 95 % interval.")
    if len(references):
        parts.append("Dashed lines: bundled results of rounding every linear weight; the legend shows the sizes.")
    return " ".join(parts)


def agreement_measure(runs: Sequence[Run]) -> str | None:
    """Return the task whose score is plotted against error: the chosen task if it has enough runs, else the first that does."""
    scored = [measure for measure in measures_of(runs) if measure != ERROR.name]
    chosen = st.session_state.get(MEASURE)
    ordered = sorted(scored, key=lambda measure: measure != chosen)
    enough = (measure for measure in ordered if len(_of_the_same(runs, measure)) >= MIN_TO_AGREE)
    return next(enough, None)


def _of_the_same(runs: Sequence[Run], measure: str) -> list[Run]:
    return pareto.of_the_same_weights(sharing_an_axis(runs, measure)[0])


def show_agreement(runs: Sequence[Run], measure: str) -> None:
    """Plot score against error to show whether a smaller error means a better score."""
    shown = _of_the_same(runs, measure)
    table = front_table(shown, measure, "bytes", short_names(runs)).iloc[1:]
    metric = metric_named(table["metric"].iloc[0])
    alt = f"Chart of {metric.word} against relative error, one mark per run; the table below has the numbers."
    target = st.container()
    answer = pareto.agreement_answer(table)
    st.caption(
        plain(f"{answer} Only runs that compress the same weights and have a score are shown: {len(shown)} of {len(runs)}.")
    )
    as_shown = table[["name", "relative_error", "value", "low", "high"]]
    show_chart(target, agreement_figure(table, palette()), as_shown, key="compare_agreement", alt=alt)
