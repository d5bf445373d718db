"""Work that the app runs in separate processes: listing, comparing, drawing and measuring modules, and computing spectra."""

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
from offcomp.models.hub import cached_folder
from offcomp.models.listing import known_info
from offcomp.models.sources import resolve
from offcomp.planning.matrix_view import read_view, view_path
from offcomp.planning.merge_survey import find_survey
from offcomp.planning.plan import Plan
from offcomp.planning.spectra import missing
from offcomp.runs import sensitivity
from offcomp.ui.escape import plain
from offcomp.ui.frame import reporting_errors
from offcomp.ui.model_roots import check_folder

LISTING_SECONDS = 600
RETRY_SECONDS = 30.0
POLL_SECONDS = 1.0
COMMAND = (sys.executable, "-P", "-m", "offcomp.cli")  # -P: import nothing from the working directory
WORKING = "working"
LOST = "the process succeeded but left no readable result; make sure that the disk is not full"


def model_info(model: str) -> ModelInfo:
    """Return information about a model; a separate process lists the modules of a new model.

    Raises ModelError for a folder outside the roots, for a hub model whose download the user has not confirmed, and for any
    other problem with the model.
    """
    check_folder(model)
    info = known_info(model, home_folder())
    if info is not None:
        return info
    remote = resolve(model).source == "hub" and cached_folder(model) is None
    if remote and not st.button(f"Download {plain(model)} from the hub", key="download", icon=":material/download:"):
        raise ModelError(f"{model!r} is not on this machine: download it from the hub, or choose another model")
    activity = f"Downloading {plain(model)}" if remote else f"Opening {plain(model)}"
    with st.spinner(f"{activity} and reading the config. No weights are loaded yet."):
        return _listed(model)


def _listed(model: str) -> ModelInfo:
    command = [*COMMAND, "modules", "--json", "--", model]
    try:
        with starting():
            done = subprocess.run(command, capture_output=True, timeout=LISTING_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ModelError(
            f"the modules of {model!r} were not listed within {LISTING_SECONDS / 60:.0f} minutes; try again, or run "
            f"`offcomp modules {model}` on the command line, which has no time limit"
        ) from None
    if done.returncode:
        raise ModelError(_reason(done.returncode, done.stderr))
    document = json.loads(done.stdout)
    return ModelInfo.from_dict({name: value for name, value in document.items() if name != "by_structure"})


@dataclass(frozen=True)
class Request:
    """A command to run in the background: its arguments, and the text passed on standard input."""

    arguments: tuple[str, ...]
    text: str = ""


@dataclass(frozen=True)
class _Job:
    """A running process, the file with its stderr, and the sessions waiting for it."""

    process: subprocess.Popen[bytes]
    stderr: IO[bytes]
    waiting: set[str] = field(default_factory=set)


class _Jobs:
    """The running processes and recent failures with their reasons. Shared by all sessions; hold the lock while using them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.working: dict[Request, _Job] = {}
        self.failed: dict[Request, tuple[float, str]] = {}


@st.cache_resource
def _jobs() -> _Jobs:
    return _Jobs()


def request_spectra(info: ModelInfo, plan: Plan) -> str:
    """Compute the spectra of a plan's groups in the background. Returns WORKING, "" if done, or the reason for a failure."""
    return _ensure(Request(("spectra", "--json", "-"), plan.to_json()), lambda: not missing(plan, info, home_folder()))


def request_sensitivity(info: ModelInfo, plan: Plan) -> str:
    """Measure the sensitivities of a plan's groups in the background. Returns the same statuses as `request_spectra`."""
    request = Request(("sensitivity", "--json", "-"), plan.to_json())
    return _ensure(request, lambda: not sensitivity.missing(plan, info, home_folder()))


def request_survey(info: ModelInfo, specs: Sequence[ModuleSpec], ratio: float) -> str:
    """Survey these modules in the background. Returns the same statuses as `request_spectra`."""
    return _ensure(_survey(info, specs, ratio), lambda: find_survey(info, specs, ratio, home_folder()) is not None)


def request_view(info: ModelInfo, spec: ModuleSpec) -> str:
    """In the background, create the file needed to draw a module. Returns the same statuses as `request_spectra`."""
    request = Request(("inspect", "--json", "--", info.model, spec.name))
    return _ensure(request, lambda: read_view(view_path(info, spec, home_folder()), spec.shape) is not None)


def end_survey(info: ModelInfo, specs: Sequence[ModuleSpec], ratio: float) -> None:
    """Stop waiting for a survey in this session; if no other session waits for it, terminate it."""
    jobs, request = _jobs(), _survey(info, specs, ratio)
    with jobs.lock:
        if job := jobs.working.get(request):
            job.waiting.discard(_session())
            if not job.waiting:
                del jobs.working[request]
                job.process.terminate()


def _session() -> str:
    """Return a unique name for this session."""
    return str(st.session_state.setdefault("session", uuid4().hex))


def _survey(info: ModelInfo, specs: Sequence[ModuleSpec], ratio: float) -> Request:
    names = ",".join(spec.name for spec in specs)
    return Request(("suggest", "--json", "--survey", "--modules", names, "--ratio", f"{ratio:g}", "--", info.model))


def wait_for(request: Callable[[], str], show: Callable[[], object]) -> None:
    """While a process is running, call `show` and poll `request`; then rerun the page or show why the process failed."""
    problem = request()
    if problem == WORKING:
        show()
        st.fragment(_look_again, run_every=POLL_SECONDS)(request)
    elif problem:
        st.error(plain(problem), icon=":material/error:")
        st.button("Try again", key="try_again", icon=":material/refresh:", on_click=_forget_failures)
    else:
        st.rerun()


@reporting_errors()
def _look_again(request: Callable[[], str]) -> None:
    """Rerun the page as soon as there is something new to show."""
    if request() != WORKING:
        st.rerun()


def _forget_failures() -> None:
    jobs = _jobs()
    with jobs.lock:
        jobs.failed.clear()


def _ensure(request: Request, is_done: Callable[[], bool]) -> str:
    """Run an offcomp command in a separate process, unless its result already exists.

    Returns WORKING, "" if the result exists, or the reason for a failure. All sessions share one process per request. A
    failed request is retried only after RETRY_SECONDS or a call to `_forget_failures`.
    """
    jobs = _jobs()
    with jobs.lock:
        job = jobs.working.get(request)
        if job is not None and job.process.poll() is None:
            job.waiting.add(_session())
            return WORKING
        jobs.working.pop(request, None)
        if is_done():
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
    """Start the process, with stderr in a file because an unread pipe could block the process. Raises RunError."""
    command = [*COMMAND, *request.arguments]
    with starting():
        stderr = tempfile.TemporaryFile()  # noqa: SIM115  # read after the process has ended
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=stderr)
    assert process.stdin is not None  # noqa: S101  # because stdin is a pipe
    with suppress(BrokenPipeError), process.stdin:  # the process ended immediately; `_ensure` will report why
        process.stdin.write(request.text.encode())
    return _Job(process, stderr)


@contextmanager
def starting() -> Iterator[None]:
    """Raise RunError, with a remedy, if starting a process in this block fails."""
    try:
        yield
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "try again")
        raise RunError(f"cannot start a process: {error.strerror or error}; {remedy}") from None


def _reason(status: int, stderr: bytes) -> str:
    """Return why a process failed: the last line of its stderr; in a traceback, that line names the error."""
    lines = stderr.decode(errors="replace").strip().splitlines()
    if status < 0:
        return f"the process was killed (signal {-status}); make sure that there is enough memory"
    if not status:
        return LOST
    return lines[-1].removeprefix("offcomp: ") if lines else f"the process ended without an error message (status {status})"
