"""A sentence of the visitor's own on the Start page, read by the original and by each method's model at the chosen size.

The resident worker answers: for the bundled runs at once, and for other sizes once an ordinary run has fitted the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import lru_cache
from typing import Any

import streamlit as st

from offcomp.errors import InputError, OffcompError
from offcomp.models.catalogue import ModelInfo
from offcomp.results.charts.start_cards import own_html
from offcomp.results.start import FOLDER, Answer, Demo
from offcomp.runs.resident import ask, is_available, warm_up
from offcomp.runs.store import Run, RunStore
from offcomp.ui.escape import plain
from offcomp.ui.frame import palette, reporting_errors
from offcomp.ui.jobs import model_info
from offcomp.ui.lab.run import progress_of

TEXT = "start_own"
LONGEST = 500
POLL_SECONDS, PATIENCE = 0.3, 2.0
"""How often the cards are refreshed until they are complete, and how long a refresh waits for answers."""
WARMING_UP, READING = "warming up, about 6 s", "reading"
ASKING = ThreadPoolExecutor(8, "asking")

Asked = dict[str, "Future[dict[str, Any]]"]
"""Style key, or "original" -> the answer that is being given."""


def own_sentence(demo: Demo, ratio: float) -> None:
    """Offer to read a sentence. A model that is not bundled is fitted when it is first needed, as a run without a task."""
    if not is_available():
        return
    section = st.expander("Try a sentence of your own", key="start_own_section", icon=":material/keyboard:", on_change="rerun")
    if section.open:
        with section, reporting_errors():
            _read(demo, ratio)


def _read(demo: Demo, ratio: float) -> None:
    text = str(st.text_input("Sentence", key=TEXT, max_chars=LONGEST, persist_state="session")).strip()
    info = model_info(demo.model)
    with suppress(OSError):
        warm_up(info)
    if not text:
        return
    texts = (text, *demo.texts[: len(demo.texts) - 1]) if demo.original.answers[0].similarities else (text,)
    runs = _runs(demo, ratio, info)
    waiting = st.html(own_html(texts, dict.fromkeys(("original", *runs), READING), palette()))
    polls = not _is_complete(runs.values(), _ask(info, texts, runs))
    waiting.empty()
    st.fragment(_show, run_every=POLL_SECONDS if polls else None)(info, texts, runs, polls=polls)


def _runs(demo: Demo, ratio: float, info: ModelInfo) -> dict[str, Run]:
    """Style key -> the run with the model of a method: a bundled one, or one that is started unless it is done already."""
    runs = {}
    for lane in demo.lanes:
        step = lane.at(ratio)
        if step and step.stored:
            runs[lane.style_key] = RunStore(FOLDER).get(step.stored)
        elif step:
            runs[lane.style_key] = RunStore().submit(lane.plan_at(ratio).replace(tasks=()), info)
    return runs


def _ask(info: ModelInfo, texts: tuple[str, ...], runs: Mapping[str, Run]) -> Asked:
    """Ask the original and every model that is ready, all at once, and wait a moment for their answers."""
    ready = {key: run for key, run in runs.items() if run.status == "done"}
    asked = {"original": _asked(info, texts)} | {
        key: _asked(info, texts, run.id, str(run.folder.parent.parent)) for key, run in ready.items()
    }
    wait(asked.values(), PATIENCE)
    return asked


@lru_cache(maxsize=256)
def _asked(info: ModelInfo, texts: tuple[str, ...], run: str | None = None, home: str | None = None) -> Future[dict[str, Any]]:
    """The answer of one model, asked for once."""
    question = {"kind": "texts", "run": run, "home": home, "texts": list(texts), "compare": False, "threads": 1}
    return ASKING.submit(ask, info, question)


def _is_complete(runs: Iterable[Run], asked: Asked) -> bool:
    return all(run.ended for run in runs) and all(each.done() for each in asked.values())


@reporting_errors()
def _show(info: ModelInfo, texts: tuple[str, ...], runs: Mapping[str, Run], *, polls: bool) -> None:
    """Show every answer that can be given already, and what the others wait for."""
    current = {key: run if run.ended else RunStore().get(run.id) for key, run in runs.items()}
    asked = _ask(info, texts, current)
    answers = {key: _answer(each, "original" if key == "original" else "compressed") for key, each in asked.items()}
    warm = not isinstance(answers["original"], str)
    for key, run in current.items():
        if run.ended and run.status != "done":
            answers[key] = run.error or run.status
        elif not warm:
            answers[key] = WARMING_UP
        else:
            answers.setdefault(key, progress_of(run)[1])
    st.html(own_html(texts, {key: answers[key] for key in ("original", *runs)}, palette()))
    if polls and _is_complete(current.values(), asked):
        st.rerun(scope="app")
    fitted = any(RunStore().folder == run.folder.parent for run in runs.values())
    listed = " The fitted models are listed under Runs." if fitted else ""
    st.caption(plain(f"{texts[0]!r}, read just now by {info.model} on this machine.{listed}"))


def _answer(asked: Future[dict[str, Any]], which: str) -> Answer | str:
    """The answer to the first text, or why there is none yet. A failed question is asked anew the next time."""
    if not asked.done():
        return WARMING_UP if which == "original" else READING
    try:
        found = asked.result()
    except OffcompError as error:
        _asked.cache_clear()
        return str(error)
    if "similarities" in found:
        return Answer.from_json({"similarities": found["similarities"][which][0]})
    said = found["texts"][0].get(which)
    if said is None or "masks" in said:
        raise InputError("this model cannot read a sentence of your own; choose another task")
    return Answer.from_json(said)
