"""Show finished runs on a page: a summary, key figures for each run, charts with tables, and differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pandas as pd
import streamlit as st

from offcomp.planning.data.row_counts import calibration_reading, reading_text
from offcomp.planning.data.scores import Score
from offcomp.planning.size_notes import size_notes
from offcomp.results import scores
from offcomp.results.bundled import origin
from offcomp.results.charts.runs import LEVELS, error_figure, error_table, size_figure, size_table
from offcomp.results.charts.scores import score_figure, score_table, scores_of
from offcomp.results.originals import model_names
from offcomp.results.paired import flip_count_table
from offcomp.results.runs import difference_table, label, method_title, result_of, run_table, short_names, warnings_of
from offcomp.results.scores import sentence_start
from offcomp.results.sentences import answer, megabytes, origin_text, smaller
from offcomp.runs.store import Run
from offcomp.ui.charts import number_formats, show_chart, show_metric, show_table
from offcomp.ui.escape import plain
from offcomp.ui.frame import palette
from offcomp.ui.switch import choose_one

MAX_CARDS = 4
CARDS_ABREAST = 2
MAX_CONCERNS = 4
MAX_NAMED = 20
MAX_NOTED = 4
MAX_IN_DETAIL = 40
"""With more runs, charts and tables with a mark or column per run would be illegible and slow."""
METRIC_PIXELS = {"Accuracy": 136, "Score": 136, "Cosine distance": 136, "Agreement": 124, "Stored bytes": 124}
WIDE_METRIC_PIXELS = 158
BRIEF_METRIC_PIXELS = 200
UNIT = "compare_unit"
UNIT_NAMES = {"bytes": "MB", "parameters": "parameters"}
P_HELP = "McNemar's exact test: the probability of a split at least this uneven if both directions were equally likely."
NO_SCORE = "These runs were not scored on any task. Add a task to the plan to see how well the compressed model performs."
HELP = {
    **{metric.title: metric.help for metric in scores.METRICS.values()},
    "Score": "How well the compressed model performs on a task.",
    "Agreement": "Share of the test sentences for which the compressed and the original model give the same answer.",
    "Relative error": "Norm of the difference between the original and the stored weights, divided by the norm of the "
    "original, over all chosen weights. 0 is exact; 1 is as bad as storing zeros.",
    "Cosine distance": "1 minus the cosine similarity between a row of weights and its reconstruction, averaged over all rows.",
    "Stored parameters": "Number of values stored for the chosen modules, such as factors, latents, codes and scales.",
    "Stored bytes": "Size of all stored values in bytes; a smaller dtype also reduces it.",
}


def show_answer(runs: Sequence[Run]) -> None:
    """Answer the page's question in one sentence and warn about anything that makes the comparison unfair."""
    st.markdown(plain(answer(runs)))
    warnings = warnings_of(runs)
    for sentence in warnings[:MAX_CONCERNS]:
        st.warning(plain(sentence), icon=":material/warning:")
    if len(warnings) > MAX_CONCERNS:
        st.caption(f"More warnings, not shown: {len(warnings) - MAX_CONCERNS:,}.")
    _show_size_notes(runs)


def _show_size_notes(runs: Sequence[Run]) -> None:
    """Show caveats about the sizes, one line per run, for the first few runs that have any."""
    names = short_names(runs)
    noted = [(names[run.id], notes) for run in runs if (notes := size_notes(result_of(run).groups))]
    for name, notes in noted[:MAX_NOTED]:
        st.caption(plain(f"{name}: {' '.join(notes)}"))
    if len(noted) > MAX_NOTED:
        st.caption(f"For size notes on the other runs ({len(noted) - MAX_NOTED}), see the report or run 'offcomp show'.")


def few_enough(runs: Sequence[Run]) -> bool:
    """Return whether there are few enough runs for the detailed charts; if not, show a caption that says so."""
    if len(runs) > MAX_IN_DETAIL:
        st.caption(f"To see detailed charts and the table of differences, choose at most {MAX_IN_DETAIL} runs.")
    return len(runs) <= MAX_IN_DETAIL


def show_figures(runs: Sequence[Run]) -> None:
    """Show each run's key figures: one card per run, or a single table for many runs."""
    if len(runs) > MAX_CARDS:
        table = run_table(runs).drop(columns=["run", "model"])
        show_table(table, "compare_figures", formats=number_formats(table))
        return
    models = model_names(runs)
    for start in range(0, len(runs), CARDS_ABREAST):
        for column, run in zip(st.columns(CARDS_ABREAST), runs[start : start + CARDS_ABREAST], strict=False):
            with column:
                _card(run, model=models[run.id] if len({*models.values()}) > 1 else "")


def _card(run: Run, *, model: str) -> None:
    """Show one run's key figures. `model` is empty if all runs share a model."""
    with st.container(border=True, key=f"card_{run.id}"):
        details = label(run).removeprefix(method_title(run)).removeprefix(", ") + (f", {model}" if model else "")
        st.markdown(f"**{plain(method_title(run))}** {plain(details)}, {plain(origin(run))}", help=plain(origin_text(run)))
        with st.container(horizontal=True, gap="small"):
            metrics = map(scores.metric_of, result_of(run).scores.values())
            help_of = HELP | {metric.title: metric.help for metric in metrics}
            for name, kind, value, note in _metrics(run):
                default_width = METRIC_PIXELS.get(kind, WIDE_METRIC_PIXELS)
                width = BRIEF_METRIC_PIXELS if name != kind else default_width
                show_metric(name, value, note, help_of[kind], width)
        for task, score in result_of(run).scores.items():
            difference = f"{scores.against_original(score)}{_agreeing(run, score)}"
            st.caption(plain(f"{sentence_start(scores.on_task(task, score))}: {difference}."))
            for other in scores.others_text(score):
                st.caption(plain(f"{other}."))
            if reading := reading_text(score):
                st.caption(plain(f"{sentence_start(reading)}."))
        if reading := calibration_reading(group.calibration for group in result_of(run).groups):
            st.caption(plain(f"Calibration: {reading}."))


def _agreeing(run: Run, score: Score) -> str:
    """Describe how many answers match the original's; empty if there is only one task, since a separate metric shows this."""
    agreement = score.paired.agreement
    several = len(result_of(run).scores) > 1
    return f"; {scores.metric_of(score).number(agreement)} of answers unchanged" if several and agreement is not None else ""


def _metrics(run: Run) -> Iterator[tuple[str, str, str, str]]:
    """Yield the name, kind, value and note of each metric; if there are several scores, they are named after their tasks."""
    by_task = result_of(run).scores
    if not by_task:
        yield "Score", "Score", "not scored", "no task in plan"
    for task, score in by_task.items():
        metric, paired = scores.metric_of(score), score.paired
        note = f"{score.compressed.n:,} {metric.counts}"
        if len(by_task) > 1:
            yield scores.task_title(task, score), metric.title, scores.score_text(score), note
            continue
        yield metric.title, metric.title, scores.score_text(score), note
        if paired.agreement is not None:
            flips = (paired.right_to_wrong or 0) + (paired.wrong_to_right or 0)
            yield "Agreement", "Agreement", metric.number(paired.agreement), f"{flips} flip{'s' * (flips != 1)}"
    row = run_table([run]).iloc[0]
    figures = [
        ("Relative error", f"{row['relative_error']:.3f}", "chosen weights"),
        ("Cosine distance", f"{row['cosine_distance']:.3f}", "mean over rows"),
        ("Stored bytes", megabytes(row["stored_bytes"]), smaller(row["byte_ratio"])),
        ("Stored parameters", f"{row['stored_parameters']:,}", smaller(row["parameter_ratio"])),
    ]
    yield from ((name, name, value, note) for name, value, note in figures)


def show_errors(runs: Sequence[Run]) -> None:
    """Show a chart and a table of the relative error, by group or by module."""
    chart = st.container()
    level = choose_one("Errors by", {level: f"by {level}" for level in LEVELS}, "compare_level", show_label=False)
    table = error_table(runs, level)
    if table.empty:
        st.caption("Nothing was compressed, so there is no error to show.")
        return
    alt = f"Relative error of each {level}, with one dot per run; the table below has the numbers."
    show_chart(chart, error_figure(table, palette(), level), table, key="compare_errors", alt=alt)


def score_panels(runs: Sequence[Run]) -> list[Callable[[], object]]:
    """For each score, return a function that draws its chart and table; if there are no scores, return one that says so."""
    table = score_table(runs)
    parts = [part for _, part in table.groupby(["task", "metric"], sort=False)]
    return [partial(_score_panel, runs, part) for part in parts] or [partial(st.caption, NO_SCORE)]


def _score_panel(runs: Sequence[Run], table: pd.DataFrame) -> None:
    task, metric = str(table["task"].iloc[0]), str(table["metric"].iloc[0])
    shown = scores_of(runs, table)
    what = scores.on_task(task, shown[0])
    alt = f"Chart of {what} for the original and each run, with 95 % intervals; the table below has the numbers."
    target = st.container()
    if sentence := scores.visible_difference(shown):
        st.caption(plain(sentence))
    show_chart(target, score_figure(table, palette()), table, key=f"compare_score_{task}_{metric}", alt=alt)


def show_flip_counts(runs: Sequence[Run]) -> None:
    """Show how many predictions flipped in each direction: equal accuracies can hide many flips."""
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
    """Return the unit of size chosen above the first chart."""
    return str(st.session_state.get(UNIT, "bytes"))


def show_size(runs: Sequence[Run]) -> None:
    """Show, as a chart and a table, what share remains of the chosen modules, of all weights and of the whole model."""
    chart = st.container()
    unit = chosen_unit()
    table = size_table(runs)
    alt = f"Share of {unit} left in the chosen modules, in all weights and in the whole model; the table below has the numbers."
    show_chart(chart, size_figure(table, palette(), unit), table, key="compare_size", alt=alt)


def show_differences(runs: Sequence[Run]) -> None:
    """Show a table of the settings and results that differ between the runs."""
    st.subheader("What differs between the runs?" if len(runs) > 1 else "What is known about this run?")
    everything = len(runs) > 1 and st.toggle("Show identical settings", key="compare_show_all")
    st.dataframe(difference_table(runs, show_all=everything), hide_index=True, key="compare_differences")


def show_origins(runs: Sequence[Run]) -> None:
    """List each run's origin, plan, seed, versions and machine in a collapsed expander."""
    with st.expander("Where these numbers come from"):
        for run in runs[:MAX_NAMED]:
            st.caption(f"**{plain(label(run))}**. {plain(origin_text(run))}")
        if len(runs) > MAX_NAMED:
            st.caption(f"{MAX_NAMED} of {len(runs)} runs are shown; the downloads below include all of them.")
