"""The Examples page: outcomes of individual predictions, the predictions that changed, and two runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from offcomp.planning.data.scores import Score
from offcomp.results.charts import examples
from offcomp.results.charts.examples import CELLS, LISTED, has_classes, score_of, shift_words
from offcomp.results.continuations import continues_prompts
from offcomp.results.paired import same_test
from offcomp.results.runs import result_of, short_names, with_provenance
from offcomp.results.scores import metric_of, on_task, sentence_start, task_title
from offcomp.runs.store import Run
from offcomp.ui import draft
from offcomp.ui.charts import csv_button, draw, show_chart
from offcomp.ui.escape import plain
from offcomp.ui.examples.continuations import show_continuations
from offcomp.ui.frame import palette
from offcomp.ui.switch import choose_one

RUN, TASK, OUTCOME = "examples_run", "examples_task", "examples_outcome"
SEARCH, SECOND = "examples_search", "examples_beside"
CHANGED = "changed"
TABLE_PIXELS = 420


def show_examples(runs: Sequence[Run]) -> None:
    """Draw everything below the run selector."""
    scored = [run for run in runs if result_of(run).scores]
    if not scored:
        st.info(
            "None of these runs was scored on a task, so there are no predictions to show. Choose other runs above, or run a "
            "plan that includes a task."
        )
        if st.button("Compress something", type="primary", key="examples_compress", icon=":material/compress:"):
            st.switch_page("pages/compress.py")
        return
    names = short_names(runs)
    answer = st.empty()
    run, task, second = _choose(scored, names)
    if len(scored) < len(runs):
        st.caption(f"{len(runs) - len(scored)} of {len(runs)} runs are not listed because they were not scored on any task.")
    score = score_of(run, task)
    answer_of = examples.outcome_answer if has_classes(score) else examples.shift_answer
    answer.markdown(plain(answer_of(run, task)))
    if continues_prompts(score):
        show_continuations(run, second, task, names)
    listed = examples.shift_table(run, task)
    if has_classes(score):
        left, right = st.columns([5, 6], gap="large")
        with left:
            listed = _outcomes(score, listed)
        with right:
            _shift(run, score, listed)
    else:
        _shift(run, score, listed)
    _table(run, task, score, listed)
    _show_side_by_side(run, second, task, names)


def _choose(runs: Sequence[Run], names: dict[str, str]) -> tuple[Run, str, Run | None]:
    """Let the user choose a run, one of its tasks, and a second run scored on the same examples, if there is one."""
    by_id = {run.id: run for run in runs}
    with st.container(horizontal=True, gap="medium"):
        run = by_id[_choose_run("Run", "run", RUN, by_id, names)]
        titles = {task: task_title(task, score) for task, score in result_of(run).scores.items()}
        task = choose_one("Task", titles, TASK, parameter="task")
        others = {other.id: other for other in runs if other.id != run.id and same_test(run, other, task)}
        second = _choose_run("Compare with", "beside", SECOND, others, names) if len(others) > 1 else next(iter(others), None)
    return run, task, others[second] if second else None


def _choose_run(label: str, name: str, key: str, runs: dict[str, Run], names: dict[str, str]) -> str:
    """Let the user choose one of these runs; the choice becomes part of the link."""
    draft.view(name, key, list(runs))
    return str(
        st.selectbox(plain(label), list(runs), key=key, format_func=names.__getitem__, persist_state="session", width=300)
    )


def _outcomes(score: Score, listed: pd.DataFrame) -> pd.DataFrame:
    """Show the outcomes of all answers and return the listed examples with the chosen outcome."""
    table, target = examples.outcome_table(score), st.container()
    cells = {CHANGED: LISTED} | {cell: (cell,) for cell in CELLS}
    counts = {name: table.loc[table["change"].isin(chosen), "count"].sum() for name, chosen in cells.items()}
    titles = {name: f"{name} ({count:,})" for name, count in counts.items()}
    chosen = cells[choose_one("Outcome", titles, OUTCOME, parameter="outcome", show_label=False, wrap=True)]
    alt = "Number of answers that were right or wrong before and after compression; the table below has the numbers."
    show_chart(target, examples.outcome_figure(table, chosen, palette()), table, key="examples_outcomes", alt=alt)
    if unlisted := examples.unlisted_text(table, score, chosen):
        st.caption(plain(unlisted))
    return listed[listed["change"].isin(chosen)]


def _shift(run: Run, score: Score, listed: pd.DataFrame) -> None:
    """Plot each listed example's value after compression against its value before."""
    if listed.empty:
        st.caption("There are no listed examples to plot.")
        return
    alt = f"Chart of {shift_words(score)} before and after compression, for the examples in the table below."
    draw(examples.shift_figure(listed, run, score, palette()), "examples_shift", alt)
    if metric_of(score).fidelity:
        st.caption("The dotted line is the original itself: the further a mark is from it, the more the output changed.")
        return
    if has_classes(score):
        reading = "the compressed model gives the true label a higher probability; below it, a lower one"
    elif metric_of(score).direction == "lower":
        reading = "the compressed model has a higher loss on the text; below it, a lower one"
    else:
        reading = "the compressed model gives a higher score; below it, a lower one"
    st.caption(f"Above the dotted line, {reading}.")


def _table(run: Run, task: str, score: Score, listed: pd.DataFrame) -> None:
    """Show the listed examples in a searchable table."""
    st.subheader("Which sentences are these?" if has_classes(score) else "Which examples changed most?")
    if listed.empty:
        return
    query = st.text_input(
        "Search the texts", key=SEARCH, placeholder="A word or part of a word", max_chars=100, persist_state="session"
    )
    matching = examples.found_in(listed, query)
    columns = _columns(matching, ("text", "truth", "predicted", "before", "after", "difference", "change"))
    _show_listed(matching, "examples_table", columns, _formats(score))
    st.caption(plain(f"{len(matching)} of {len(listed)} listed examples shown. Values: {shift_words(score)}."))
    file_name = f"offcomp-examples-{task.replace('/', '-')}.csv"
    csv_button("These examples, CSV", file_name, "examples_csv", partial(with_provenance, matching, [run]))


def _show_listed(table: pd.DataFrame, key: str, columns: list[str], formats: dict[str, Any]) -> None:
    """Show a table of examples, scrollable if it is long."""
    height: Any = TABLE_PIXELS if len(table) > 10 else "auto"
    st.dataframe(table, hide_index=True, key=key, height=height, column_order=columns, column_config=formats)


def _columns(table: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Return the names of the columns that are not empty."""
    return [name for name in names if name in table and (table[name].notna() & (table[name] != "")).any()]


def _formats(score: Score, first: str = "", second: str = "") -> dict[str, Any]:
    number, text, what = st.column_config.NumberColumn, st.column_config.TextColumn, sentence_start(shift_words(score))
    truth = text("True label") if has_classes(score) else number("Truth", format="%.2f", help="The score given by annotators.")
    return {
        "text": text("Text", width="large"),
        "truth": truth,
        "predicted": text("Predicted", help="The class predicted by the compressed model."),
        "before": number("Original", format="%.3f", help=f"{what}, for the original model."),
        "after": number("Compressed", format="%.3f", help=f"{what}, for the compressed model."),
        "difference": number("Change", format="%+.3f"),
        "change": text("Flip"),
        "original": number("Original", format="%.3f", help=f"{what}, for the original model."),
        "first": text(first, help=f"{what}; empty if this run does not list the example."),
        "second": text(second, help=f"{what}; empty if this run does not list the example."),
    }


def _show_side_by_side(run: Run, second: Run | None, task: str, names: dict[str, str]) -> None:
    """Show how two runs score the same examples."""
    st.subheader("Do two runs fail on the same examples?")
    if second is None:
        what = on_task(task, score_of(run, task))
        st.caption(plain(f"To compare two runs, choose a second run above that was scored on the same examples ({what})."))
        return
    pair = names[run.id], names[second.id]
    st.markdown(plain(examples.joint_answer(run, second, pair, task)))
    table = examples.joint_table(run, second, task)
    columns = _columns(table, ("text", "truth", "original", "first", "second"))
    formats = _formats(score_of(run, task), *pair)
    _show_listed(examples.joint_words(table), "examples_joint_table", columns, formats)
    st.caption(f"{len(table)} examples listed by at least one of the two runs, largest difference first.")
