"""Finished runs as shown on a page: the answer, each run's key figures, charts with their tables, and differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pandas as pd
import streamlit as st

from offcomp.planning.data.row_counts import calibration_reading, reading_text
from offcomp.planning.size_notes import size_notes
from offcomp.results import scores
from offcomp.results.bundled import origin
from offcomp.results.charts.runs import LEVELS, error_figure, error_table, size_figure, size_table
from offcomp.results.charts.scores import score_figure, score_table, scores_of
from offcomp.results.charts.start_svg import error_svg
from offcomp.results.originals import model_names
from offcomp.results.paired import flip_count_table
from offcomp.results.runs import difference_table, label, method_title, result_of, run_table, short_names, warnings_of
from offcomp.results.scores import Score, sentence_start
from offcomp.results.sentences import answer, megabytes, origin_text, smaller
from offcomp.runs.store import Run
from offcomp.ui.charts import number_formats, show_chart, show_metric, show_table
from offcomp.ui.escape import plain, plain_table
from offcomp.ui.frame import palette
from offcomp.ui.switch import choose_one

MOST_CARDS = 4
MOST_CONCERNS = 4
MOST_NAMED = 20
MOST_NOTED = 4
MOST_IN_DETAIL = 40
"""With more runs, a mark or a column for each would be illegible and slow."""
METRIC_PIXELS = {"Accuracy": 136, "Score": 136, "Cosine distance": 136, "Agreement": 124, "Stored bytes": 124}
WIDE_METRIC_PIXELS = 158
BRIEF_METRIC_PIXELS = 200
UNIT = "compare_unit"
UNIT_NAMES = {"bytes": "MB", "parameters": "parameters"}
P_HELP = "McNemar's exact test: how likely a split at least this uneven would be if both directions were equally likely."
NO_SCORE = "No task was scored in these runs: add one to the plan to see how well the compressed model still performs."
HELP = {
    **{metric.title: metric.help for metric in scores.METRICS.values()},
    "Score": "How well the compressed model still performs a task.",
    "Agreement": "Share of the test sentences on which the compressed and the original model give the same answer.",
    "Relative error": "Norm of the difference between original and stored weights, divided by the norm of the original, "
    "over all chosen weights. 0 is exact, 1 is as bad as storing zeros.",
    "Cosine distance": "1 minus the cosine between an original row of weights and its reconstruction, averaged over the rows.",
    "Stored parameters": "All numbers that must be stored for the chosen modules: factors, latents, decoder, row norms.",
    "Stored bytes": "Size of all stored numbers in bytes, so a smaller dtype also reduces it.",
}


def show_answer(runs: Sequence[Run]) -> None:
    """Answer the page's question in one sentence, and warn about anything that makes the comparison unfair."""
    st.markdown(plain(answer(runs)))
    warnings = warnings_of(runs)
    for sentence in warnings[:MOST_CONCERNS]:
        st.warning(plain(sentence), icon=":material/warning:")
    if len(warnings) > MOST_CONCERNS:
        st.caption(f"{len(warnings) - MOST_CONCERNS:,} more warnings of this kind are not shown.")
    _show_size_notes(runs)


def _show_size_notes(runs: Sequence[Run]) -> None:
    """Show notes that qualify the sizes, one line per run, for the first few runs that have any."""
    names = short_names(runs)
    noted = [(names[run.id], notes) for run in runs if (notes := size_notes(result_of(run)["groups"]))]
    for name, notes in noted[:MOST_NOTED]:
        st.caption(plain(f"{name}: {' '.join(notes)}"))
    if len(noted) > MOST_NOTED:
        st.caption(f"Notes on the sizes of {len(noted) - MOST_NOTED} more runs are shown by 'offcomp show' and in the report.")


def few_enough(runs: Sequence[Run]) -> bool:
    """Whether a chart can have a mark for every run and group; if not, shows a caption that says so."""
    if len(runs) > MOST_IN_DETAIL:
        st.caption(f"Charts of individual groups and of differences are shown for up to {MOST_IN_DETAIL} runs; choose fewer.")
    return len(runs) <= MOST_IN_DETAIL


def show_figures(runs: Sequence[Run], *, brief: bool = False, columns: int = 2) -> None:
    """Show each run's key figures: one card per run, or a table if there are many."""
    if len(runs) > MOST_CARDS:
        table = run_table(runs).drop(columns=["run", "model"])
        show_table(table, "compare_figures", formats=number_formats(table))
        return
    models = model_names(runs)
    for start in range(0, len(runs), columns):
        for column, run in zip(st.columns(columns), runs[start : start + columns], strict=False):
            with column:
                _card(run, brief=brief, model=models[run.id] if len({*models.values()}) > 1 else "")


def _card(run: Run, *, brief: bool, model: str) -> None:
    """Key figures of one run; `brief` leaves out the less important ones. `model` is empty if all runs share one."""
    with st.container(border=True, key=f"card_{run.id}"):
        details = label(run).removeprefix(method_title(run)).removeprefix(", ") + (f", {model}" if model else "")
        st.markdown(f"**{plain(method_title(run))}** {plain(details)}, {plain(origin(run))}", help=plain(origin_text(run)))
        with st.container(horizontal=True, gap="small"):
            for name, kind, value, note in _metrics(run, brief):
                default_width = METRIC_PIXELS.get(kind, WIDE_METRIC_PIXELS)
                width = BRIEF_METRIC_PIXELS if brief or name != kind else default_width
                show_metric(name, value, note, HELP[kind], width)
        if not brief:
            for task, score in result_of(run)["scores"].items():
                difference = f"{scores.against_original(score)}{_agreeing(run, score)}"
                st.caption(plain(f"{sentence_start(scores.on_task(task, score))}: {difference}."))
                for other in scores.others_text(score):
                    st.caption(plain(f"{other}."))
                if reading := reading_text(score):
                    st.caption(plain(f"{sentence_start(reading)}."))
            if reading := calibration_reading(result_of(run)["groups"]):
                st.caption(plain(f"Calibration: {reading}."))


def _agreeing(run: Run, score: Score) -> str:
    """Share of answers that agree with the original's, if several tasks leave no room for a separate metric."""
    agreement = score["paired"].get("agreement")
    several = len(result_of(run)["scores"]) > 1
    return f"; {scores.metric_of(score).number(agreement)} of the answers agree" if several and agreement is not None else ""


def _metrics(run: Run, brief: bool) -> Iterator[tuple[str, str, str, str]]:
    """Name, kind, value and note of each metric; if there are several scores, they are named after their tasks."""
    by_task = result_of(run)["scores"]
    if not by_task:
        yield "Score", "Score", "not scored", "no task in plan"
    for task, score in by_task.items():
        metric, paired = scores.metric_of(score), score["paired"]
        note = scores.brief_difference(score) if brief else f"{score['compressed']['n']:,} {metric.counts}"
        if len(by_task) > 1:
            yield scores.task_title(task, score), metric.title, scores.score_text(score), note
            continue
        yield metric.title, metric.title, scores.score_text(score), note
        if "agreement" in paired:
            flips = paired["right_to_wrong"] + paired["wrong_to_right"]
            yield "Agreement", "Agreement", metric.number(paired["agreement"]), f"{flips} flips"
    row = run_table([run]).iloc[0]
    figures = [("Relative error", f"{row['relative_error']:.3f}", "chosen weights")]
    if not brief:
        figures.append(("Cosine distance", f"{row['cosine_distance']:.3f}", "mean over rows"))
        figures.append(("Stored bytes", megabytes(row["stored_bytes"]), smaller(row["byte_ratio"])))
    figures.append(("Stored parameters", f"{row['stored_parameters']:,}", smaller(row["parameter_ratio"])))
    yield from ((name, name, value, note) for name, value, note in figures)


def show_first_errors(runs: Sequence[Run]) -> None:
    """Show the relative error of every module as a static image, which appears immediately, with its table."""
    table = error_table(runs, "module")
    title = "Which modules lose more?"
    alt = f"{title} Relative error of each module, one mark per run; the table below has the numbers."
    st.image(error_svg(table, palette(), title=title), width="stretch", alt=alt)
    with st.expander("Show as a table"):
        wide = table.pivot_table("relative_error", "row", "name", sort=False).map("{:.3f}".format)
        st.table(plain_table(wide.rename_axis(index=None, columns=None)))


def show_errors(runs: Sequence[Run]) -> None:
    """Chart and table of the relative error, by group or by module."""
    chart = st.container()
    level = choose_one("Errors by", {level: f"by {level}" for level in LEVELS}, "compare_level", show_label=False)
    table = error_table(runs, level)
    if table.empty:
        st.caption("Nothing was compressed, so there is no error to show.")
        return
    alt = f"Relative error of each {level}, one dot per run; the table below has the numbers."
    show_chart(chart, error_figure(table, palette(), level), table, key="compare_errors", alt=alt)


def score_panels(runs: Sequence[Run]) -> list[Callable[[], object]]:
    """Functions that draw the chart and table of each task, or a single one that says that there is no score."""
    table = score_table(runs)
    parts = [part for _, part in table.groupby(["task", "metric"], sort=False)]
    return [partial(_score_panel, runs, part) for part in parts] or [partial(st.caption, NO_SCORE)]


def _score_panel(runs: Sequence[Run], table: pd.DataFrame) -> None:
    task, metric = str(table["task"].iloc[0]), str(table["metric"].iloc[0])
    shown = scores_of(runs, table)
    what = scores.on_task(task, shown[0])
    alt = f"The {what} of the original and of each run, with 95 % intervals; the table below has the numbers."
    target = st.container()
    if sentence := scores.visible_difference(shown):
        st.caption(plain(sentence))
    show_chart(target, score_figure(table, palette()), table, key=f"compare_score_{task}_{metric}", alt=alt)


def show_flip_counts(runs: Sequence[Run]) -> None:
    """Count the predictions that flipped in each direction: equal accuracies can hide many flips."""
    counts = flip_count_table(runs)
    st.subheader("How many predictions flipped?")
    if counts.empty:
        st.caption("No classification task was scored, so there are no flips to count.")
        return
    hidden = ["run"] if counts["task"].nunique() > 1 else ["run", "task"]
    formats = {"p": st.column_config.NumberColumn(format="%.2g", help=P_HELP)}
    show_table(counts.drop(columns=hidden), "compare_flip_counts", names={"name": "Run", "p": "p"}, formats=formats)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption("Equal accuracies can hide many flips.", width="stretch")
        st.page_link("pages/examples.py", label="See the sentences", icon=":material/rule:", width="content")


def chosen_unit() -> str:
    """The unit of sizes, as set by the switch of the first chart."""
    return str(st.session_state.get(UNIT, "bytes"))


def show_size(runs: Sequence[Run]) -> None:
    """Chart and table of the remaining size, for three denominators."""
    chart = st.container()
    unit = chosen_unit()
    table = size_table(runs)
    alt = (
        f"Share of {unit} that remains in the chosen modules, all weights and the whole model; the table below has the numbers."
    )
    show_chart(chart, size_figure(table, palette(), unit), table, key="compare_size", alt=alt)


def show_differences(runs: Sequence[Run]) -> None:
    """Table of the settings and results in which the runs differ."""
    st.subheader("What differs between the runs?" if len(runs) > 1 else "What is known about this run?")
    everything = len(runs) > 1 and st.toggle("Show identical settings", key="compare_show_all")
    st.dataframe(difference_table(runs, show_all=everything), hide_index=True, key="compare_differences")


def show_origins(runs: Sequence[Run]) -> None:
    """List each run's owner, plan, seed, versions and machine, in a collapsed section."""
    with st.expander("Where these numbers come from"):
        for run in runs[:MOST_NAMED]:
            st.caption(f"**{plain(label(run))}**. {plain(origin_text(run))}")
        if len(runs) > MOST_NAMED:
            st.caption(f"{MOST_NAMED} of {len(runs)} are shown; the downloads below include all of them.")
