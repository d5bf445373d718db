"""Things the app asks other processes to do: list a model that is not known yet, compute spectra, run plans."""

from __future__ import annotations

import json
import subprocess
import sys

import streamlit as st

from offcomp.errors import ModelError
from offcomp.files import home_folder
from offcomp.models.catalogue import ModelInfo
from offcomp.models.listing import known_info
from offcomp.plan import Plan

LISTING_SECONDS = 600


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
def _spectra_jobs() -> dict[str, subprocess.Popen[bytes]]:
    return {}


def request_spectra(plan: Plan) -> str:
    """See that the spectra of a plan's groups get computed in the background.

    Returns "working" or, where the last try failed, why. One process a plan; asking again while it works changes nothing.
    """
    text = plan.to_json()
    jobs = _spectra_jobs()
    if text not in jobs:
        command = [sys.executable, "-m", "offcomp.cli", "spectra", "-", "--json"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert process.stdin is not None  # noqa: S101  # it is a pipe
        process.stdin.write(text.encode())
        process.stdin.close()
        jobs[text] = process
    process = jobs[text]
    if process.poll() is None:
        return "working"
    reason = process.stderr.read().decode() if process.stderr and process.returncode else ""
    jobs.pop(text)
    return reason.strip().removeprefix("offcomp: ")
