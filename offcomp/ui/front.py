"""The main chart of Compare, score against size, and the small one beside it: whether error and score agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from offcomp.front_charts import MOST_BARS, RUN, agreement_figure, front_figure
from offcomp.fronts import (
    ERROR,
    SHOWN,
    SIZES,
    agreement_answer,
    front_answer,
    front_table,
    left_out_text,
    measures_of,
    metric_named,
    of_the_same_weights,
    reference_table,
    sharing_an_axis,
)
from offcomp.measurements import read_measurements
from offcomp.originals import model_titles
from offcomp.results import short_names
from offcomp.runs import Run
from offcomp.scores import within_sentence
from offcomp.ui.examples import RUN as EXAMPLES_RUN
from offcomp.ui.frame import palette
from offcomp.ui.plain import plain
from offcomp.ui.results import SIZE_UNITS, UNIT, chosen_unit, show_chart

FRONT, MEASURE, MODEL = "compare_front", "compare_measure", "compare_model"
FEWEST_TO_AGREE = 3
UNIT_NAMES = {"bytes": "MB", "parameters": "parameters"}


def show_front(runs: Sequence[Run]) -> None:
    """Which run is best for its size: chart, answer, table, and which runs are not on it and why."""
    runs, others = _of_one_model(runs)
    names, measures = short_names(runs), measures_of(runs)
    measure = _choose_measure(measures)
    shown, left_out = sharing_an_axis(runs, measure)
    said = f"{len(shown)} of {len(runs) + len(others)} runs shown."
    if others:
        kept = f"{len(others)} of other models are not: sizes and scores say something only beside one original."
        said += f" {kept[0].upper()}{kept[1:]}"
    if left_out:
        said += f" Not on this axis: {left_out_text(left_out, names)}."
    if not shown:
        st.info(plain(f"No run has a number to draw here. {said}"))
        return
    unit = chosen_unit()
    table = front_table(shown, measure, unit, names)
    references = reference_table(read_measurements().values(), shown[0], measure, unit)
    metric = metric_named(table["metric"].iloc[0])
    what = metric.word if metric is ERROR else f"{metric.word} on {within_sentence(measures[measure])}"
    alt = f"The {what} of each run against the size of the whole model, with the original; the table below has the numbers."
    place = st.container()
    _show_picked(shown, names)
    st.markdown(plain(front_answer(table)))
    st.caption(plain(f"{said} {_reading(table, references)}"))
    figure = front_figure(table, references, palette(), _picked(shown))
    show_chart(place, figure, _as_shown(table), key=FRONT, alt=alt, on_click=_pick_clicked)


def _picked(runs: Sequence[Run]) -> str:
    """Id of the run that is picked for the page Examples; empty where it is none of these."""
    name = st.session_state.get(EXAMPLES_RUN)
    return next((run.id for run in runs if run.id == name), "")


def _pick_clicked() -> None:
    """A click on a mark picks its run. A change of the chart clears the selection, which picks nothing."""
    known = [point["customdata"] for point in st.session_state[FRONT].selection.points if "customdata" in point]
    if known:
        st.session_state[EXAMPLES_RUN] = known[0][RUN]


def _show_picked(runs: Sequence[Run], names: Mapping[str, str]) -> None:
    """The picked run, and the way to its predictions."""
    picked = _picked(runs)
    if not picked:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"Picked: **{plain(names[picked])}**, run {plain(picked)}.", width="content")
        icon, query = ":material/rule:", {"run": picked}
        st.page_link("pages/examples.py", label="Its predictions", icon=icon, query_params=query, width="content")


def _of_one_model(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """The runs of the model that is asked for, where there are several, and the rest."""
    titles = model_titles(runs)
    models = list(dict.fromkeys(titles.values()))
    if len(models) == 1:
        return list(runs), []
    model = st.selectbox("Model", models, key=MODEL, persist_state="session")
    return [run for run in runs if titles[run.id] == model], [run for run in runs if titles[run.id] != model]


def _choose_measure(measures: Mapping[str, str]) -> str:
    """What the runs are judged by, and the unit of their size."""
    if st.session_state.get(MEASURE) not in measures:
        st.session_state[MEASURE] = next(iter(measures))
    with st.container(horizontal=True, gap="small"):
        measure = st.segmented_control(
            "Judged by",
            list(measures),
            key=MEASURE,
            format_func=lambda name: plain(measures[name]),
            required=True,
            persist_state="session",
        )
        st.session_state.setdefault(UNIT, SIZE_UNITS[0])
        st.segmented_control(
            "Size in", SIZE_UNITS, key=UNIT, format_func=UNIT_NAMES.__getitem__, required=True, persist_state="session"
        )
    return str(measure)


def _as_shown(table: pd.DataFrame) -> pd.DataFrame:
    """The table of a chart with the unit in the name of its size."""
    return table[SHOWN].rename(columns={"size": f"size in {SIZES[table['unit'].iloc[0]][0]}", "ratio": "times smaller"})


def _reading(table: pd.DataFrame, references: pd.DataFrame) -> str:
    """How the marks are to be read."""
    runs = table[table["run"] != ""]
    parts = ["Click a mark to pick its run."]
    if not runs["on_front"].all():
        parts.append("Pale: another is as small and as good, and better in one of both; where bars overlap that may be chance.")
    if len(runs) > MOST_BARS and metric_named(table["metric"].iloc[0]) is not ERROR:
        parts.append("With so many runs only those on the front have their 95 % interval drawn.")
    if len(references):
        parts.append("Broken lines: bundled measurements of rounding every linear weight, with the size that this leaves.")
    return " ".join(parts)


def agreement_measure(runs: Sequence[Run]) -> str | None:
    """The task by which error and score can be set side by side: the one asked for, else the first of enough runs."""
    scored = [measure for measure in measures_of(runs) if measure != ERROR.name]
    asked = st.session_state.get(MEASURE)
    ordered = sorted(scored, key=lambda measure: measure != asked)
    enough = (measure for measure in ordered if len(_of_the_same(runs, measure)) >= FEWEST_TO_AGREE)
    return next(enough, None)


def _of_the_same(runs: Sequence[Run], measure: str) -> list[Run]:
    return of_the_same_weights(sharing_an_axis(runs, measure)[0])


def show_agreement(runs: Sequence[Run], measure: str) -> None:
    """Whether a smaller error goes with a better score."""
    shown = _of_the_same(runs, measure)
    table = front_table(shown, measure, "bytes", short_names(runs)).iloc[1:]
    metric = metric_named(table["metric"].iloc[0])
    alt = f"The {metric.word} of each run against its relative error; the table below has the numbers."
    place = st.container()
    st.caption(plain(f"{agreement_answer(table)} {len(shown)} of {len(runs)} runs: those of the same weights with a score."))
    as_shown = table[["name", "relative_error", "value", "low", "high"]]
    show_chart(place, agreement_figure(table, palette()), as_shown, key="compare_agreement", alt=alt)
