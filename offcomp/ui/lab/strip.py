"""The strip: one column per method, with errors, sizes, scores and changed predictions, and a pin for later comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import ROUND_FLOOR, Context
from typing import Any

import streamlit as st

from offcomp.errors import shortly
from offcomp.planning.size_notes import unlisted_note
from offcomp.results.error_curve import svd_error
from offcomp.results.estimate_check import accuracy_of_estimates
from offcomp.results.known_errors import ESTIMATED
from offcomp.results.sentences import answer as comparison
from offcomp.results.sentences import smaller
from offcomp.results.what_if import Answer, Cell, differences, pin_title, pinned_values, rows
from offcomp.ui import draft
from offcomp.ui.escape import noted_table, plain
from offcomp.ui.lab.answers import Lab
from offcomp.ui.lab.choices import listing
from offcomp.ui.lab.cost import offer_cheaper

WHOLE_MODEL = "the whole model"
"""Faults that begin with these words are about the chosen weights rather than a method."""
PIN = "lab_pin"
"""Session state key: the title, model and values of the pinned answers."""


def show_strip(lab: Lab) -> None:
    """Show the strip, why methods cannot reach the size, and buttons and links."""
    answers = lab.answers
    pin: Mapping[str, Any] = st.session_state.get(PIN, {})
    pinned = pin["values"] if pin.get("weights") == lab.choices.info.fingerprint else {}
    headings = ["At this size", "Original", *map(_heading, answers)]
    st.table(noted_table(_cells(answers, pinned), headings), hide_index=True, border="horizontal")
    for sentence in _refusals(lab):
        st.warning(plain(sentence), icon=":material/block:")
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="strip_actions"):
        st.button("Pin this answer", key="lab_pin_button", icon=":material/keep:", on_click=_pin, args=(lab,))
        offer_cheaper(lab)
        if pinned:
            st.caption(plain(f"Differences in brackets are relative to the pin: {pin['title']}."), width="content")
            st.button("Unpin", key="lab_unpin", type="tertiary", on_click=st.session_state.pop, args=(PIN, None))
        if done := [answer.done for answer in answers if answer.done]:
            query: dict[str, Any] = {draft.RUNS: ",".join(run.id for run in done)}
            st.page_link("pages/compare.py", label="Compare in detail", icon=":material/compare_arrows:", query_params=query)
            st.page_link("pages/examples.py", label="Changed predictions", icon=":material/rule:", query_params=query)


def strip_sentence(lab: Lab) -> str:
    """Summarise the strip in one sentence: the comparison of the finished runs, or else what is known without them."""
    done = [answer.done for answer in lab.answers if answer.done]
    if done and len(done) == len(lab.answers):
        return comparison(done)
    return _target_sentence(lab) if lab.choices.target else _ratio_sentence(lab)


def _ratio_sentence(lab: Lab) -> str:
    """State which method has the lowest error at the ratio, or what SVD keeps of the weights."""
    chosen, ratio = lab.choices.modules_title, lab.ratio
    dense = [group.name for prediction in lab.predictions.values() for group in prediction.groups if group.form == "dense"]
    if dense and not lab.choices.allocate:
        named = shortly(list(dict.fromkeys(dense)))
        return f"At {ratio:.3g}x, nothing is saved for {named}: dense storage already fits the budget."
    if (ranked := _by_error(lab))[1:]:
        (best, low), (worst, high) = ranked[0], ranked[-1]
        degree = "lowest" if ranked[2:] else "lower"
        return f"At {ratio:.3g}x, {best} has the {degree} error: {low}, against {high} for {worst}."
    if lab.exact is None:
        return f"{chosen} at {ratio:.3g}x: run the methods to see how well the model performs."
    if not next(answer for answer in lab.answers if answer.style_key == "svd").reachable:
        return f"{chosen} at {ratio:.3g}x: SVD cannot reach this size."
    kept = 1 - svd_error(lab.exact, lab.predictions["svd"]) ** 2
    return f"At {ratio:.3g}x, SVD keeps {100 * kept:.3g} % of the energy (squared norm) of {chosen}."


def _by_error(lab: Lab) -> list[tuple[str, str]]:
    """The methods whose error is known or estimated, with the error as text, lowest first."""
    cells = next((row.cells for row in rows(lab.answers) if row.key == "error"), ())
    found = [(cell.value, answer.title, cell.text) for cell, answer in zip(cells, lab.answers, strict=True)]
    return [(title, text) for value, title, text in sorted(each for each in found if each[0] is not None)]


def _target_sentence(lab: Lab) -> str:
    """State how much smaller the chosen weights must become to meet the target, or how much larger they can become."""
    reached = [answer for answer in lab.answers if answer.reachable]
    if not reached:
        return f"The target, {lab.choices.target}, is out of reach for these weights and methods."
    sizes: dict[str, list[str]] = {}
    for answer in reached:
        sizes.setdefault("must" if answer.ratio >= 1 else "can", []).append(f"{smaller(answer.ratio)} with {answer.title}")
    become = ", or ".join(f"{verb} become {' or '.join(texts)}" for verb, texts in sizes.items())
    return f"To meet the target ({lab.choices.target}), {lab.choices.modules_title} {become}."


def show_notes(lab: Lab) -> None:
    """Show caveats about each method's sizes, the basis of estimated scores, and a note on parameters outside the matrices."""
    for answer in lab.answers:
        if notes := [*answer.prediction.notes, *answer.notes]:
            st.caption(f"**{plain(answer.title)}.** {plain(' '.join(notes))}")
    _show_bases(lab)
    if note := unlisted_note(lab.choices.info.unlisted, lab.choices.info.num_parameters):
        st.caption(plain(note))


def _show_bases(lab: Lab) -> None:
    """State what estimated scores are based on, and how accurate such estimates are."""
    estimates = [score for answer in lab.answers for score in answer.scores.values() if score.origin == ESTIMATED]
    if estimates:
        check = accuracy_of_estimates()
        st.caption(plain(" ".join([estimates[0].basis, check.about(lab.choices.info.model) if check else ""])))


def _pin(lab: Lab) -> None:
    st.session_state[PIN] = {
        "title": pin_title(lab.answers),
        "weights": lab.choices.info.fingerprint,
        "values": pinned_values(lab.answers),
    }


def _cells(answers: Sequence[Answer], pinned: Mapping[str, Mapping[str, float]]) -> list[list[tuple[str, str]]]:
    """The strip's cells, each a value and a note."""
    keys = [answer.style_key for answer in answers]
    lines = []
    for row in rows(answers):
        changes = differences(row, keys, pinned)
        cells = [_cell(cell, change) for cell, change in zip(row.cells, changes, strict=True)]
        lines.append([("", row.name), ("", row.original), *cells])
    return lines


def _heading(answer: Answer) -> str:
    return f"{answer.title}, {answer.ratio:.2f}x" if answer.reachable else answer.title


def _cell(cell: Cell, change: str) -> tuple[str, str]:
    """Split a cell into its value, shown in bold unless it is estimated, and everything else."""
    known, estimated = ("", cell.text) if cell.estimated else (cell.text, "")
    return known, " ".join(filter(None, [estimated, f"({change})" if change else "", cell.note]))


def _refusals(lab: Lab) -> list[str]:
    """Explain why methods cannot reach the size. If several faults concern the whole model, explain only one."""
    refused = [answer for answer in lab.answers if not answer.reachable and answer.plan.groups]
    alike = [answer.title for answer in refused if answer.fault.startswith(WHOLE_MODEL)][1:]
    shown = [answer for answer in refused if answer.title not in alike]
    likewise = [f"{listing(alike)} cannot meet the target either."] if alike else []
    return [*(_refusal(answer, lab.choices.unit) for answer in shown), *likewise]


def _refusal(answer: Answer, unit: str) -> str:
    if answer.fault:
        return f"{answer.title}: {answer.fault}."
    infeasible = [group for group in answer.prediction.groups if group.form == "infeasible"]
    if unit == "parameters" and all(group.largest_ratio <= 1 for group in infeasible):
        return f"{answer.title} saves bytes, not parameters: under Budget, let the ratio count bytes."
    group = min(infeasible, key=lambda each: each.largest_ratio)
    return f"{answer.title} cannot reach this size: {group.name}: {group.note} ({rounded_down(group.largest_ratio)}x at most)."


def rounded_down(ratio: float) -> str:
    """Format a ratio with three significant digits, rounded down to keep it attainable."""
    return f"{Context(prec=3, rounding=ROUND_FLOOR).create_decimal_from_float(ratio):f}"
