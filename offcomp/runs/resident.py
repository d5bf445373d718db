"""The resident: a background process that keeps a model loaded and carries out the runs that use it.

Starting Python, importing torch and loading the model take longer than many runs. The resident does all this once and
carries out each run in a fork of itself, which starts within milliseconds with exactly the loaded weights; a fork that fails,
is cancelled or is killed does not affect the weights in the next fork. See `resident_process` for the process itself.

The resident belongs to the process that starts it. A pair of sockets connects the two, so no other process can reach it;
every message is a JSON object, with file descriptors attached:

    {"run": N, "folder": F, "loads": L}   carry out the run in F, which needs the whole model if L is true; attached: its lock
                                 (already held) and its log
    {"stop": N}                  stop work on run N; attached: a pipe that the resident closes once the work has stopped
    {"ask": Q, "seconds": S}     answer a question (`live_answers`) within S seconds; attached: a pipe for the answer
    {"load": true}               load the model, so that runs and questions need not wait for it
    {"leave": true}              exit once all runs have ended

No message that was sent is lost: before a resident exits, it refuses new messages and reads those that were already sent.
OFFCOMP_RESIDENT=0 turns residents off, and OFFCOMP_IDLE_SECONDS (default: 300) sets how long an idle one waits for a run.

Does not import torch.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from offcomp.errors import InputError, RunError
from offcomp.files import closing, home_folder
from offcomp.models.catalogue import ModelInfo
from offcomp.runs.worker_environment import worker_environment

RESIDENT_VARIABLE, IDLE_VARIABLE = "OFFCOMP_RESIDENT", "OFFCOMP_IDLE_SECONDS"
IDLE_SECONDS = 300.0
MAX_IDLE_SECONDS = 86_400.0
STOP_SECONDS = 10.0
ASK_SECONDS = 60.0
LARGEST_ANSWER = 1_000_000  # bytes
ABOUT_A_MATRIX = ("picture", "entry")
"""Kinds of questions that are answered without the model, from one of its matrices."""
NVML_CHECK = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""Makes torch look for a GPU without initialising CUDA, since a fork cannot use CUDA if its parent has initialised it."""


@dataclass(frozen=True)
class Model:
    """The model of a resident: its name, as in plans, and the identity of all files that are read from it."""

    home: Path
    name: str
    reads: str


def _working_folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109  # compared, not used as a path
    except OSError:  # it has been removed
        return ""


@dataclass(frozen=True)
class _Key:
    """Everything that a resident inherits from the process that starts it."""

    model: Model
    pid: int = field(default_factory=os.getpid)
    environment: dict[str, str] = field(default_factory=worker_environment)
    working_folder: str = field(default_factory=_working_folder)


def is_available() -> bool:
    """Whether runs are carried out by residents: on Linux, unless OFFCOMP_RESIDENT is 0."""
    return sys.platform == "linux" and os.environ.get(RESIDENT_VARIABLE, "").strip() != "0"


def idle_seconds() -> float:
    """How long an idle resident waits for the next run. Raises InputError if OFFCOMP_IDLE_SECONDS is invalid."""
    value = os.environ.get(IDLE_VARIABLE, str(IDLE_SECONDS))
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_IDLE_SECONDS:
        raise InputError(
            f"{IDLE_VARIABLE} is {value[:40]!r}; set it to the number of seconds for which an idle worker keeps running "
            f"(0 to {MAX_IDLE_SECONDS:.0f}), or unset it"
        )
    return seconds


class _Resident:
    """The client's end of one resident process. Raises OSError if the process cannot be started."""

    def __init__(self, key: _Key, log: int):
        self.key = key
        self._numbers = count()
        self._sending = threading.Lock()
        command = [sys.executable, "-P", "-m", "offcomp.runs.resident_process", str(key.model.home), key.model.name]
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self.process = subprocess.Popen(
                    [*command, f"{idle_seconds():g}", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=NVML_CHECK | key.environment,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
        except BaseException:
            self._socket.close()
            raise

    def send(self, message: Mapping[str, Any], files: Sequence[int] = ()) -> None:
        """Send a message with file descriptors. Raises OSError if the resident has exited or is about to."""
        with self._sending:
            socket.send_fds(self._socket, [json.dumps(message).encode()], list(files))

    def start_run(self, folder: Path, lock: int, log: int, *, loads: bool) -> ResidentRun:
        """See `start_run` below. Raises OSError."""
        number = next(self._numbers)
        self.send({"run": number, "folder": str(folder), "loads": loads}, (lock, log))
        return ResidentRun(self, number)

    def stop(self, number: int) -> None:
        """End the work on a run, or end the resident if it does not respond."""
        ours, theirs = os.pipe()
        with closing(ours):
            try:
                with closing(theirs):
                    self.send({"stop": number}, (theirs,))
            except OSError:  # the resident has exited, and so has its run
                return
            if not select.select([ours], [], [], STOP_SECONDS)[0]:
                self.process.kill()
                self.process.wait()


@dataclass
class ResidentRun:
    """A run handed to a resident. `pid` is the resident's; the fork that takes over the run records its own in the claim."""

    _resident: _Resident
    _number: int

    @property
    def pid(self) -> int:
        """The process id of the resident."""
        return self._resident.process.pid

    def kill(self) -> None:
        """End the work on the run, and wait until it has ended."""
        self._resident.stop(self._number)

    def wait(self) -> None:
        """Return at once, since `kill` waits."""


_current: _Resident | None = None
_changing = threading.Lock()


def start_run(model: Model, folder: Path, lock: int, log: int, *, loads: bool = True) -> ResidentRun:
    """Have the run in `folder` carried out by this process's resident for the model, starting the resident if needed.

    Returns at once. The resident keeps the lock until the run has ended. Raises OSError if no resident can be started.

    lock, log    open files of the run; the caller may close them afterwards
    loads        whether the run needs the whole model
    """
    key = _Key(model)
    with _changing:
        try:
            return _resident_for(key, log).start_run(folder, lock, log, loads=loads)
        except (BrokenPipeError, ConnectionError):  # it has just exited or been killed
            _forget()
            return _resident_for(key, log).start_run(folder, lock, log, loads=loads)


def warm_up(info: ModelInfo, home: Path | None = None) -> None:
    """Start loading a model, so that its first run does not have to wait for it. Returns at once. Raises OSError."""
    if is_available():
        with _changing, closing(os.open(os.devnull, os.O_RDWR)) as nowhere:
            key = _Key(Model(home or home_folder(), info.model, info.reads))
            try:
                _resident_for(key, nowhere).send({"load": True})
            except (BrokenPipeError, ConnectionError):
                _forget()
                _resident_for(key, nowhere).send({"load": True})


def is_held(info: ModelInfo, home: Path | None = None) -> bool:
    """Whether this process has a resident that has loaded this model or is loading it."""
    with _changing:
        return (
            _current is not None
            and _current.key == _Key(Model(home or home_folder(), info.model, info.reads))
            and _current.process.poll() is None
        )


def ask(info: ModelInfo, question: Mapping[str, Any], home: Path | None = None, seconds: float = ASK_SECONDS) -> dict[str, Any]:
    """Have the resident answer a question about a model and one of its runs; see `live_answers` for questions and answers.

    Waits for the answer. Raises InputError if the question is not valid, and RunError if there is no answer within `seconds`.

    home    the home folder of the run; by default the usual one
    """
    if not is_available():
        raise RunError("live answers need a resident worker; use Linux, and unset OFFCOMP_RESIDENT")
    ours, theirs = os.pipe()
    with closing(ours):
        with closing(theirs):
            _send_question(_Key(Model(home or home_folder(), info.model, info.reads)), question, seconds, theirs)
        answer = _read(ours, seconds)
    if "error" in answer:
        raise (InputError if answer.get("input") else RunError)(answer["error"])
    return answer


def _send_question(key: _Key, question: Mapping[str, Any], seconds: float, pipe: int) -> None:
    message = {"ask": dict(question), "seconds": seconds}
    with _changing, closing(os.open(os.devnull, os.O_RDWR)) as nowhere:
        try:
            _resident_for(key, nowhere).send(message, (pipe,))
        except (BrokenPipeError, ConnectionError):
            _forget()
            _resident_for(key, nowhere).send(message, (pipe,))


def _read(pipe: int, seconds: float) -> dict[str, Any]:
    """Read a JSON object from a pipe until its other end is closed. Raises RunError if none arrives within `seconds`."""
    deadline, content = time.monotonic() + seconds, b""
    while select.select([pipe], [], [], max(deadline - time.monotonic(), 0.0))[0]:
        part = os.read(pipe, 1 << 16)
        content += part
        if not part and not content and time.monotonic() >= deadline:
            break
        if not part and not content:
            raise RunError("the worker ended without an answer, which happens if memory runs out; try again")
        if not part or len(content) > LARGEST_ANSWER:
            answer: dict[str, Any] = json.loads(content)
            return answer
    raise RunError(f"there was no answer within {seconds:.0f} s; try again with fewer or shorter texts")


def _resident_for(key: _Key, log: int) -> _Resident:
    """The resident with this key. A resident with another key is told to exit, and is replaced. Raises OSError."""
    global _current  # noqa: PLW0603  # there is one resident per process
    if _current is not None and (_current.key != key or _current.process.poll() is not None):
        _forget()
    if _current is None:
        _current = _Resident(key, log)
    return _current


def _forget() -> None:
    """Tell the current resident to exit, unless it belongs to a parent of this process."""
    global _current  # noqa: PLW0603
    if _current is not None and _current.key.pid == os.getpid():
        try:
            _current.send({"leave": True})
        except OSError:
            _current.process.poll()
    _current = None
