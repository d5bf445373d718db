"""Things the app asks other processes to do: list a model that is not known yet, compute spectra, run plans."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence

import streamlit as st

from offcomp.errors import ModelError
from offcomp.files import home_folder
from offcomp.models.catalogue import ModelInfo
from offcomp.models.listing import known_info
from offcomp.plan import Plan

LISTING_SECONDS = 600
RETRY_SECONDS = 30.0


def model_info(model: str) -> ModelInfo:
    """What is known of a model; one that was never seen is listed by a process of its own. Raises ModelError."""
    info = known_info(model, home_folder())
    if info is not None:
        return info
    with st.spinner(f"Looking at {model}: its config is read, its weights are not loaded yet."):
        done = subprocess.run(
            [sys.executable, "-m", "offcomp.cli", "modules", model, "--json"],
            capture_output=True,
            text=True,
            timeout=LISTING_SECONDS,
            check=False,
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise ModelError(last.removeprefix("offcomp: "))
    return ModelInfo.from_dict(json.loads(done.stdout))


@st.cache_resource
def _jobs() -> dict[tuple[str, ...], subprocess.Popen[bytes]]:
    return {}


@st.cache_resource
def _failures() -> dict[tuple[str, ...], tuple[float, str]]:
    """When each request last failed, and why."""
    return {}


def request_spectra(plan: Plan) -> str:
    """See that the spectra of a plan's groups get computed in the background: "working", "" once done, or why it failed."""
    return _request("spectra", "--json", "-", text=plan.to_json())


def request_survey(model: str, modules: Sequence[str], ratio: float) -> str:
    """See that a survey of these modules gets made in the background. Answers as `request_spectra` does."""
    return _request(*_survey(model, modules, ratio))


def end_survey(model: str, modules: Sequence[str], ratio: float) -> None:
    """End a survey that nobody waits for any more."""
    if process := _jobs().pop((*_survey(model, modules, ratio), ""), None):
        process.terminate()


def _survey(model: str, modules: Sequence[str], ratio: float) -> tuple[str, ...]:
    return ("suggest", "--json", "--survey", "--modules", ",".join(modules), "--ratio", f"{ratio:g}", "--", model)


def request_view(model: str, module: str) -> str:
    """See that the file from which a module is drawn gets made in the background; answers as `request_spectra`."""
    return _request("inspect", "--json", "--", model, module)


def _request(*arguments: str, text: str = "") -> str:
    """Let a process of its own do what the command line does, with `text` as its input.

    Returns "working"; "" once it is done; or, where it failed, why. One process a request; asking again while it works changes
    nothing, asking after its end starts another, but after a failure not before RETRY_SECONDS have passed.
    """
    jobs, failures, key = _jobs(), _failures(), (*arguments, text)
    if key in failures and time.monotonic() - failures[key][0] < RETRY_SECONDS:
        return failures[key][1]
    if key not in jobs:
        command = [sys.executable, "-m", "offcomp.cli", *arguments]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert process.stdin is not None  # noqa: S101  # it is a pipe
        process.stdin.write(text.encode())
        process.stdin.close()
        jobs[key] = process
    process = jobs[key]
    if process.poll() is None:
        return "working"
    reason = process.stderr.read().decode() if process.stderr and process.returncode else ""
    jobs.pop(key)
    reason = reason.strip().removeprefix("offcomp: ")
    if reason:
        failures[key] = (time.monotonic(), reason)
    return reason
