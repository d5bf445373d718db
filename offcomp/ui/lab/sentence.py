"""A sentence typed by the user, as processed by the original and the compressed models of the draft's finished runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from offcomp.errors import OffcompError
from offcomp.planning.data.tasks import fitting_families
from offcomp.runs.resident import ask, is_available
from offcomp.ui.escape import noted_table, plain
from offcomp.ui.frame import reporting_errors
from offcomp.ui.lab.answers import Lab

TEXT = "lab_text"
LONGEST = 500
PROMPTS = {
    "causal-lm": "The beginning of a text",
    "masked-lm": "A sentence; its last word, or [MASK], is guessed",
    "head": "A sentence to classify",
}
PROMPT = "A sentence"
NAMED = 3


def show_sentence(lab: Lab) -> None:
    """Once a run of the draft has finished, let the user type a sentence and show each model's output for it."""
    runs = {answer.title: answer.done.id for answer in lab.answers if answer.done and answer.done.has_weights}
    if not runs or not lab.choices.info.reads_text or not is_available():
        return
    section = st.expander("Try a sentence", key="lab_sentence", icon=":material/keyboard:", on_change="rerun")
    if section.open:
        with section:
            st.fragment(_ask)(lab, runs)


@reporting_errors()
def _ask(lab: Lab, runs: Mapping[str, str]) -> None:
    text = st.text_input(plain(_prompt(lab)), key=TEXT, max_chars=LONGEST, persist_state="session")
    if not text.strip():
        return
    columns = {"Original": ""}
    try:
        with st.spinner("Reading the sentence."):
            for title, run in runs.items():
                answer = ask(lab.choices.info, {"kind": "texts", "run": run, "texts": [text]})
                columns |= _words(answer, title)
    except OffcompError as error:
        st.error(plain(f"{error}."), icon=":material/error:")
        return
    st.table(noted_table([[("", text) for text in columns.values()]], list(columns)), hide_index=True, border="horizontal")


def _prompt(lab: Lab) -> str:
    fitting = fitting_families(lab.choices.info.architecture, lab.choices.info.reads_text)
    return next((prompt for family, prompt in PROMPTS.items() if family in fitting), PROMPT)


def _words(answer: Mapping[str, Any], title: str) -> dict[str, str]:
    """The outputs of the original and the compressed model for the text, in words."""
    (found,) = answer["texts"]
    if answer["kind"] == "embeddings":
        return {"Original": "cosine 1", title: f"cosine {found['cosine']:.3f} between the embeddings"}
    return {"Original": _said(found["original"]), title: _said(found["compressed"])}


def _said(found: Mapping[str, Any]) -> str:
    if "continuation" in found:
        return f"… {found['continuation']}"
    if "masks" in found:
        return "; ".join(", ".join(f"{token} {share:.0%}" for token, share in mask[:NAMED]) for mask in found["masks"])
    likeliest = sorted(found["probabilities"].items(), key=lambda pair: -pair[1])
    return ", ".join(f"{name} {share:.0%}" for name, share in likeliest[:NAMED])
