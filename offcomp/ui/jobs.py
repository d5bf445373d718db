"""Things the app asks other processes to do: list a model that is not known yet, compute spectra, compare modules, draw one."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO
from uuid import uuid4

import streamlit as st

from offcomp.errors import ModelError, RunError
from offcomp.files import REMEDIES, home_folder
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.models.hub import is_cached
from offcomp.models.listing import known_info
from offcomp.models.sources import resolve
from offcomp.plan import Plan
from offcomp.spectra import missing
from offcomp.surveys import find_survey
from offcomp.ui.frame import told
from offcomp.ui.plain import plain
from offcomp.ui.roots import check_place
from offcomp.views import read_view, view_path

LISTING_SECONDS = 600
RETRY_SECONDS = 30.0
POLL_SECONDS = 1.0
COMMAND = (sys.executable, "-P", "-m", "offcomp.cli")  # -P: a numpy.py in the folder where the app was started is not ours
WORKING = "working"
LOST = "it ended well but left nothing that can be read; is the disk full?"


def model_info(model: str) -> ModelInfo:
    """What is known of a model; one that was never seen is listed by a process of its own.

    Raises ModelError: for a folder outside of the roots, a model of the hub that the person has not asked to download, and for
    whatever else is wrong with it.
    """
    check_place(model)
    info = known_info(model, home_folder())
    if info is not None:
        return info
    remote = resolve(model).source == "hub" and not is_cached(model)
    if remote and not st.button(f"Download {plain(model)} from the hub", key="download", icon=":material/download:"):
        raise ModelError(f"{model!r} is not on this machine: download it from the hub, or choose another model")
    doing = f"Downloading {plain(model)}" if remote else f"Looking at {plain(model)}"
    with st.spinner(f"{doing}: its config is read, its weights are not loaded yet."):
        return _listed(model)


def _listed(model: str) -> ModelInfo:
    command = [*COMMAND, "modules", "--json", "--", model]
    try:
        with starting():
            done = subprocess.run(command, capture_output=True, timeout=LISTING_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ModelError(
            f"{model!r} was not listed within {LISTING_SECONDS / 60:.0f} minutes; try again, or let "
            f"`offcomp modules {model}` do it on the command line, which waits for as long as it takes"
        ) from None
    if done.returncode:
        raise ModelError(_reason(done.returncode, done.stderr))
    return ModelInfo.from_dict(json.loads(done.stdout))


@dataclass(frozen=True)
class Request:
    """What the command line is asked to do in the background, and the text it gets as its input."""

    arguments: tuple[str, ...]
    text: str = ""


@dataclass(frozen=True)
class _Job:
    """A process at work, the file of what it says, and the sessions that wait for it."""

    process: subprocess.Popen[bytes]
    stderr: IO[bytes]
    waiting: set[str] = field(default_factory=set)


class _Jobs:
    """The processes at work, and when and why requests failed lately; one for all sessions, used under its lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.working: dict[Request, _Job] = {}
        self.failed: dict[Request, tuple[float, str]] = {}


@st.cache_resource
def _jobs() -> _Jobs:
    return _Jobs()


def request_spectra(info: ModelInfo, plan: Plan) -> str:
    """See that the spectra of a plan's groups get computed in the background: WORKING, "" once done, or why it failed."""
    return _ask(Request(("spectra", "--json", "-"), plan.to_json()), lambda: not missing(plan, info, home_folder()))


def request_survey(info: ModelInfo, specs: Sequence[ModuleSpec], ratio: float) -> str:
    """See that a survey of these modules gets made in the background. Answers as `request_spectra` does."""
    return _ask(_survey(info, specs, ratio), lambda: find_survey(info, specs, ratio, home_folder()) is not None)


def request_view(info: ModelInfo, spec: ModuleSpec) -> str:
    """See that the file from which a module is drawn gets made in the background; answers as `request_spectra`."""
    request = Request(("inspect", "--json", "--", info.model, spec.name))
    return _ask(request, lambda: read_view(view_path(info, spec, home_folder()), spec.shape) is not None)


def end_survey(info: ModelInfo, specs: Sequence[ModuleSpec], ratio: float) -> None:
    """This session waits for a survey no more; it is ended where no other session does."""
    jobs, request = _jobs(), _survey(info, specs, ratio)
    with jobs.lock:
        if job := jobs.working.get(request):
            job.waiting.discard(_session())
            if not job.waiting:
                del jobs.working[request]
                job.process.terminate()


def _session() -> str:
    """A name for this session that no other has."""
    return str(st.session_state.setdefault("session", uuid4().hex))


def _survey(info: ModelInfo, specs: Sequence[ModuleSpec], ratio: float) -> Request:
    names = ",".join(spec.name for spec in specs)
    return Request(("suggest", "--json", "--survey", "--modules", names, "--ratio", f"{ratio:g}", "--", info.model))


def wait_for(ask: Callable[[], str], show: Callable[[], object]) -> None:
    """In the place of what a process makes: `show`, and a look each second until `ask` says it is there; or why it failed."""
    problem = ask()
    if problem == WORKING:
        show()
        st.fragment(_look_again, run_every=POLL_SECONDS)(ask)
    elif problem:
        st.error(plain(problem), icon=":material/error:")
        st.button("Try again", key="try_again", icon=":material/refresh:", on_click=_forget_failures)
    else:
        st.rerun()


def _look_again(ask: Callable[[], str]) -> None:
    """Draw the page anew once there is something new to show."""
    with told():
        if ask() != WORKING:
            st.rerun()


def _forget_failures() -> None:
    jobs = _jobs()
    with jobs.lock:
        jobs.failed.clear()


def _ask(request: Request, found: Callable[[], bool]) -> str:
    """Let a process of its own do what the command line does, unless what it makes is found already.

    Returns WORKING; "" once it is found; or why the process failed. One process a request, however many sessions ask; after a
    failure another is started only when RETRY_SECONDS have passed, or `_forget_failures` was called.
    """
    jobs = _jobs()
    with jobs.lock:
        job = jobs.working.get(request)
        if job is not None and job.process.poll() is None:
            job.waiting.add(_session())
            return WORKING
        jobs.working.pop(request, None)
        if found():
            return ""
        if job is not None:
            job.stderr.seek(0)
            jobs.failed[request] = (time.monotonic(), _reason(job.process.returncode, job.stderr.read()))
        when, why = jobs.failed.get(request, (-RETRY_SECONDS, ""))
        if why and time.monotonic() - when < RETRY_SECONDS:
            return why
        jobs.working[request] = job = _start(request)
        job.waiting.add(_session())
        return WORKING


def _start(request: Request) -> _Job:
    """The process; what it says goes to a file, since a pipe that nobody empties would stop it. Raises RunError."""
    command = [*COMMAND, *request.arguments]
    with starting():
        stderr = tempfile.TemporaryFile()  # noqa: SIM115  # read when the process has ended
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=stderr)
    assert process.stdin is not None  # noqa: S101  # it is a pipe
    with suppress(BrokenPipeError), process.stdin:  # it ended at once: `_ask` will see why
        process.stdin.write(request.text.encode())
    return _Job(process, stderr)


@contextmanager
def starting() -> Iterator[None]:
    """Around the start of a process: RunError where the system has none to give."""
    try:
        yield
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "try again")
        raise RunError(f"no process can be started: {error.strerror or error}; {remedy}") from None


def _reason(status: int, stderr: bytes) -> str:
    """Why a process failed: the last line that it said. An unexpected error ends in a traceback, whose last line names it."""
    said = stderr.decode(errors="replace").strip().splitlines()
    if status < 0:
        return f"the process was ended from outside (signal {-status}); is there enough memory?"
    if not status:
        return LOST
    return said[-1].removeprefix("offcomp: ") if said else f"the process ended without a word (status {status})"
