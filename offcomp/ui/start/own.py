"""A sentence of the visitor's own on the Start page, read by the original and by each method's model at the chosen size."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import streamlit as st

from offcomp.errors import InputError
from offcomp.models.catalogue import ModelInfo
from offcomp.results.charts.start_cards import own_html
from offcomp.results.start import Answer, Demo
from offcomp.runs.resident import ask, is_available, is_held, warm_up
from offcomp.runs.store import Run, RunStore
from offcomp.ui.escape import plain
from offcomp.ui.frame import palette, reporting_errors
from offcomp.ui.jobs import model_info
from offcomp.ui.lab.run import progress_of

TEXT = "start_own"
LONGEST = 500
POLL_SECONDS = 0.3
WARMING_UP = "warming up, about 6 s"


def own_sentence(demo: Demo, ratio: float) -> None:
    """Offer to read a sentence. The models are fitted when it is first needed, as runs without a task."""
    if not is_available():
        return
    section = st.expander("Try a sentence of your own", key="start_own_section", icon=":material/keyboard:", on_change="rerun")
    if section.open:
        with section, reporting_errors():
            _read(demo, ratio)


def _read(demo: Demo, ratio: float) -> None:
    text = str(st.text_input("Sentence", key=TEXT, max_chars=LONGEST, persist_state="session")).strip()
    info = model_info(demo.model)
    if not text:
        with suppress(OSError):
            warm_up(info)
        return
    runs = _runs(demo, ratio, info)
    waiting = any(not run.ended for run in runs.values())
    st.fragment(_show, run_every=POLL_SECONDS if waiting else None)(demo, info, text, runs)


def _runs(demo: Demo, ratio: float, info: ModelInfo) -> dict[str, Run]:
    """Style key -> the run that fits the model of a method; started unless it is done or in progress."""
    store = RunStore()
    return {lane.style_key: store.submit(lane.plan_at(ratio).replace(tasks=()), info) for lane in demo.lanes if lane.at(ratio)}


@reporting_errors()
def _show(demo: Demo, info: ModelInfo, text: str, runs: Mapping[str, Run]) -> None:
    """Show every answer that can be given already, and what the others wait for."""
    warm = is_held(info)
    texts = (text, *demo.texts[: len(demo.texts) - 1])
    current = {key: RunStore().get(run.id) for key, run in runs.items()}
    answers: dict[str, Answer | str] = {"original": WARMING_UP}
    for key, run in current.items():
        if run.status == "done":
            answers |= _answers(info, texts, run.id, key)
        elif run.ended:
            answers[key] = run.error or run.status
        else:
            answers[key] = progress_of(run)[1] if warm else WARMING_UP
    if not runs:
        answers |= _answers(info, texts, None, "")
    st.html(own_html(texts, answers, palette()))
    if any(not run.ended for run in runs.values()) and all(run.ended for run in current.values()):
        st.rerun(scope="app")
    st.caption(plain(f"{text!r}, read now by {info.model} on this machine. The fitted models are listed under Runs."))


@st.cache_data(max_entries=256, show_spinner=False, hash_funcs={ModelInfo: lambda info: info.reads})
def _answers(info: ModelInfo, texts: tuple[str, ...], run: str | None, style_key: str) -> dict[str, Answer]:
    """The answers of the original and, if `run` is given, of the compressed model to the first text."""
    found = ask(info, {"kind": "texts", "run": run, "texts": list(texts)})
    answers = {"original": _answer(found, "original")}
    return answers | ({style_key: _answer(found, "compressed")} if run else {})


def _answer(found: Mapping[str, Any], which: str) -> Answer:
    if "similarities" in found:
        return Answer.from_json({"similarities": found["similarities"][which][0]})
    said = found["texts"][0].get(which)
    if said is None or "masks" in said:
        raise InputError("this model cannot read a sentence of your own; choose another task")
    return Answer.from_json(said)
