"""Continuations of the same prompts by several models, in a table that turns into cards on narrow screens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from html import escape

import pandas as pd
import streamlit as st

from offcomp.planning.data.scores import Continuation
from offcomp.results import continuations
from offcomp.results.charts.theme import Palette
from offcomp.results.runs import style_key_of, with_provenance
from offcomp.runs.store import Run
from offcomp.ui.charts import csv_button
from offcomp.ui.escape import plain
from offcomp.ui.frame import palette, style

NOTHING = "<i>(the end)</i>"
STYLE = """
.continuations {{border-collapse: collapse; width: 100%; table-layout: fixed; font-size: .9rem; line-height: 1.45}}
.continuations caption {{position: absolute; clip-path: inset(50%); height: 1px; overflow: hidden; white-space: nowrap}}
.continuations :is(th, td) {{border: 0; border-bottom: 1px solid {grid}; padding: .5rem .9rem .5rem 0; text-align: left}}
.continuations :is(th, td) {{vertical-align: top; overflow-wrap: anywhere; font-weight: 400}}
.continuations thead th {{font-weight: 600; border-bottom: 3px solid {grid}}}
.continuations tbody th {{color: {muted}}}
.continuations mark {{background: none; color: inherit; font-weight: 700}}
.continuations small {{display: block; color: {muted}; font-size: .8rem; margin-top: .15rem}}
@media (max-width: 640px) {{
.continuations thead {{position: absolute; clip-path: inset(50%)}}
.continuations :is(table, tbody, tr, th, td) {{display: block; border-bottom: 0; padding: .15rem 0}}
.continuations tr {{border-bottom: 1px solid {grid}; padding: .6rem 0}}
.continuations td::before {{content: attr(data-who) ": "; color: {muted}}}
}}
"""


def show_continuations(run: Run, second: Run | None, task: str, names: Mapping[str, str]) -> None:
    """Show how the original and one or two runs continue each prompt, and how far the continuations agree."""
    st.subheader("How do the models continue the same prompts?")
    if not continuations.of_task(run, task):
        st.caption(plain(continuations.NOT_RECORDED.format(names[run.id])))
        return
    runs = [run] if second is None or not continuations.side_by_side([run, second], task) else [run, second]
    st.markdown(plain(continuations.continuation_answer(runs, names, task)))
    if second is not None and len(runs) == 1:
        st.caption(plain(continuations.NOT_RECORDED.format(names[second.id])))
    style(STYLE.format(grid=palette().grid, muted=palette().muted))
    st.html(continuations_html(runs, names, task, palette()))
    st.caption(
        "Greedy decoding: each model always picks its most likely token, so small models soon repeat themselves. "
        "Text is bold from the first word that differs from the original."
    )
    file_name = f"offcomp-continuations-{task.replace('/', '-')}.csv"
    csv_button("These continuations, CSV", file_name, "examples_continuations_csv", partial(_exported, runs, task))


def _exported(runs: Sequence[Run], task: str) -> pd.DataFrame:
    table = continuations.continuation_table(runs)
    return with_provenance(table[table["task"] == task], runs)


def continuations_html(runs: Sequence[Run], names: Mapping[str, str], task: str, colours: Palette) -> str:
    """Return the table as HTML. Texts and names are escaped because they may come from an untrusted file."""
    run_names = [names[run.id] for run in runs]
    style_keys = ["original", *map(style_key_of, runs)]
    headings = [
        f'<th scope="col" style="border-bottom-color: {colours.colour(style_key)}">{escape(name)}</th>'
        for style_key, name in zip(style_keys, ["Original", *run_names], strict=True)
    ]
    rows = []
    for entries in continuations.side_by_side(runs, task):
        cells = "".join(_cell(name, entry) for name, entry in zip(run_names, entries, strict=True))
        original = escape(entries[0].original.strip()) or NOTHING
        prompt = escape(entries[0].opening.strip())
        rows.append(f'<tr><th scope="row">{prompt} …</th><td data-who="Original">{original}</td>{cells}</tr>')
    return (
        '<table class="continuations"><caption>Prompts and continuations by model</caption><thead><tr><th scope="col">Prompt'
        f"</th>{''.join(headings)}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _cell(name: str, entry: Continuation) -> str:
    """Return the HTML cell of one run's text, in which the part that differs from the original is marked."""
    text = entry.compressed
    index = continuations.first_difference(entry.original, text)
    same, different = escape(text[:index]), escape(text[index:])
    if not different.strip() and entry.original[index:].strip():
        different = f" {NOTHING}"
    written = f"{same}<mark>{different}</mark>" if different.strip() else same
    return (
        f'<td data-who="{escape(name)}">{written.strip() or NOTHING}<small>{continuations.agreement_text(entry)}</small></td>'
    )
