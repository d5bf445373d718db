"""The command line exits quietly with the right status if output cannot be written or is not read, or on Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import pytest

from offcomp.cli import main as cli
from offcomp.planning.plan import Group, Plan
from offcomp.results.bundled import bundled_runs
from offcomp.runs.store import RunStore
from tests import tiny_models
from tests.runs.test_store import endless_plan, wait_until

COMMAND = (sys.executable, "-m", "offcomp.cli")
SVD, AUTOENCODER = (run.id for run in bundled_runs())
VERBS: tuple[tuple[str, ...], ...] = (
    ("--help",),
    ("--version",),
    ("models",),
    ("modules", "minilm-l6", "--json"),
    ("plan", "minilm-l6", "--kinds", "query"),
    ("predict", "PLAN"),
    ("runs",),
    ("runs", "--json"),
    ("compare", SVD, AUTOENCODER),
    ("compare", SVD, "--json"),
    ("tasks",),
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OFFCOMP_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def plan(tmp_path: Path) -> str:
    """The path of a plan file."""
    file = tmp_path / "plan.json"
    file.write_text(Plan(model="minilm-l6", groups=(Group(name="query", modules=("query.0",)),), tasks=()).to_json())
    return str(file)


def unread() -> TextIO:
    """A pipe whose reading end is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def full() -> TextIO:
    return Path("/dev/full").open("w")


SINKS: dict[str, tuple[Callable[[], TextIO | None], int, str]] = {
    "full": (full, 1, "offcomp: cannot write the output to stdout: No space left on device; redirect it elsewhere\n"),
    "closed": (
        lambda: None,
        1,
        "offcomp: cannot write the output because stdout is closed; redirect it to a file or a terminal\n",
    ),
    "unread": (unread, 141, ""),
}


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_an_answer_that_cannot_be_written_ends_every_verb_quietly(
    verb: tuple[str, ...], sink: str, plan: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened, status, said = SINKS[sink]
    stream = opened()
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "stdout", stream)
        cli.main([plan if part == "PLAN" else part for part in verb])
    if stream is not None:
        stream.close()  # the buffered text has been discarded, so this raises nothing
    if not verb[0].startswith("--"):  # after --help and the like, argparse itself exits
        assert (end.value.code, capsys.readouterr().err) == (status, said)


@pytest.mark.parametrize("sink", [full, unread])
def test_messages_that_cannot_be_written_are_lost(
    sink: Callable[[], TextIO], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch, sink() as stream, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "stderr", stream)
        cli.main(["show", "nothing"])
    assert end.value.code == 2


@pytest.mark.parametrize(
    ("redirection", "status", "said"),
    [
        (">/dev/full", 1, "No space left on device"),
        (">&-", 1, "stdout is closed"),
        (">&- 2>&- <&-", 1, ""),
        ("--help >/dev/full", 0, ""),
        ("| head -c 1", 0, ""),  # the status is that of head
    ],
)
def test_a_shell_sees_no_traceback(redirection: str, status: int, said: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m offcomp.cli models {redirection}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == status
    assert said in done.stderr and done.stderr.count("\n") == bool(said)


def caught(process: subprocess.Popen[str]) -> bool:
    """Return whether the process has installed a handler for SIGINT."""
    found = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())
    return bool(found) and bool(int(found[1], 16) & 1 << (signal.SIGINT - 1))


def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("moment", ["modules are loaded", "the plan is read", "the run is started"])
def test_ctrl_c_ends_a_run_quietly_at_any_moment(moment: str, tmp_path: Path, home: Path) -> None:
    folder = tiny_models.save(tiny_models.shared("bert"), tmp_path / "tiny-bert")
    (tmp_path / "endless.json").write_text(json.dumps(endless_plan(folder).to_dict()))
    command = [*COMMAND, "run", str(tmp_path / "endless.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        until(lambda: caught(process))  # Python has started
        until(lambda: not caught(process))
        if moment != "modules are loaded":
            until(lambda: caught(process))
        if moment == "the run is started":
            process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode in ((-signal.SIGINT,) if moment == "modules are loaded" else (130,))
    assert out == "" and "Traceback" not in err and err.count("\n") <= 2
    store = RunStore(home)
    for run in store.all():
        assert wait_until(store, run.id, lambda r: r.ended).status in ("cancelled", "interrupted")
