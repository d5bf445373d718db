"""A store with one plan to submit, and workers that only sleep."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from offcomp.files import read_json
from offcomp.models.listing import model_info
from offcomp.planning.plan import Group, Plan
from offcomp.runs import start as run_start
from offcomp.runs.store import Run, RunStore
from tests import tiny_models
from tests.runs.test_store import wait_until

SLEEP = (
    "import sys, time; from pathlib import Path; from offcomp.runs import worker_lock; "
    "worker_lock.hold_lock(Path(sys.argv[1])); time.sleep(600)"
)
"""The code of a worker that holds its lock and does nothing else."""
FORMER_WORDS = "what the former run said"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save(tiny_models.bert(), tmp_path_factory.mktemp("models") / "tiny-bert")


class Trial(RunStore):
    """A store with one plan to submit."""

    def __init__(self, home: Path, folder: Path):
        super().__init__(home)
        self.plan = Plan(model=str(folder), groups=(Group(name="key", modules=("key.0", "key.1"), ratio=2.0),), tasks=())
        self.info = model_info(str(folder), home)

    def start(self, *, again: bool = False) -> Run:
        """Submit the plan."""
        return self.submit(self.plan, self.info, again=again)

    def interrupted(self) -> Run:
        """Submit the plan, kill its worker, and return the interrupted run."""
        run = self.start()
        os.kill(pid_of(run.folder), signal.SIGKILL)
        ended = wait_until(self, run.id, lambda r: r.ended)
        (run.folder / "log.txt").write_text(FORMER_WORDS)
        return ended

    @property
    def entries(self) -> set[str]:
        """The names of everything in the folder of runs except the lock of the store."""
        return {entry.name for entry in self.folder.glob("*")} - {".lock"}


@pytest.fixture
def store(tmp_path: Path, folder: Path) -> Iterator[Trial]:
    """An empty store. Workers that are still running after the test are killed."""
    made = Trial(tmp_path / "home", folder)
    yield made
    for child in workers(made):
        child.kill()


def workers(store: RunStore) -> list[psutil.Process]:
    """Return the workers of a store that are running."""
    children = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in children if str(store.folder) in " ".join(child.cmdline())]


@pytest.fixture
def sleeping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that only hold their lock and sleep, so they start almost instantly. Each run has its own process."""
    monkeypatch.setenv("OFFCOMP_RESIDENT", "0")
    real = subprocess.Popen

    def popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        return real([sys.executable, "-c", SLEEP, command[-1]] if "pass_fds" in options else command, **options)

    monkeypatch.setattr(run_start.subprocess, "Popen", popen)


def pid_of(run_folder: Path) -> int:
    return int(read_json(run_folder / "worker.json")["pid"])
