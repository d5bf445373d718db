"""Runs on disk: one folder each, written atomically, readable by several processes at once. No torch.

    RUN/plan.json       what was asked, written first
    RUN/worker.json     process id, its start time, time of submission
    RUN/progress.json   stage, fraction, remaining seconds, while it works
    RUN/cancel          present once somebody asked to stop
    RUN/groups/         what the compressed groups store
    RUN/run.json        what happened, written last
    RUN/log.txt         output of the worker

The status is read from these files and from whether the process lives: nothing in memory has to survive. A run's name is a
digest of its plan, of the model's fingerprint and of the version of the results, so that the same plan is the same run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from offcomp.errors import InputError, PlanError, RunError, StorageError
from offcomp.files import changed, home_folder, read_json, storage_error, write_json
from offcomp.models.catalogue import ModelInfo
from offcomp.plan import Plan, validate
from offcomp.prediction import predict, resolved

RESULTS_VERSION = 2
"""Raised whenever the same plan would give other figures, so that old results are not taken for new ones."""
RUN_SCHEMA = 1
FREE_BYTES_NEEDED = 20_000_000
CLOCK_TOLERANCE_SECONDS = 2.0  # start times of one process, read by two others
PATIENT_THREADS = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
"""A polite worker's threads must not spin for each other: beside another busy process they would be a hundred times slower."""
ENDED = ("done", "failed", "cancelled", "interrupted")


@dataclass(frozen=True)
class Run:
    """A run as its files show it at one moment."""

    id: str
    folder: Path
    plan: Plan
    status: str
    submitted: float
    progress: dict[str, Any]
    result: dict[str, Any] | None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in ENDED

    def group_file(self, name: str) -> Path:
        """Where the stored tensors of a group are."""
        return self.folder / "groups" / f"{name}.safetensors"

    @property
    def has_weights(self) -> bool:
        """Whether what its groups store is here: runs that come with offcomp are figures alone, and so is a baseline."""
        return bool(self.plan.groups) and all(self.group_file(group.name).is_file() for group in self.plan.groups)

    @property
    def error(self) -> str:
        """Why it did not finish, in a sentence; empty where it did."""
        if self.result and self.result.get("error"):
            return str(self.result["error"])
        if self.status != "interrupted":
            return ""
        return f"the worker ended without a result; run it again. Its last words: {self.last_log_line}"

    @property
    def last_log_line(self) -> str:
        """What the worker wrote last."""
        try:
            return (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
        except (OSError, IndexError):
            return "none."


def run_id(plan: Plan, fingerprint: str) -> str:
    """Twelve hexadecimal digits that are the same for the same plan on the same weights and examples.

    Of the resolved plan, so that "stored" and the dtype that it means are one run.
    """
    tasks = [[task.version, _file_marks(task.data)] for task in plan.asked_tasks]
    asked = plan.to_dict() | {"model": fingerprint, "results": RESULTS_VERSION, "examples": tasks}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]


def _file_marks(data: str) -> list[tuple[str, int, int]]:
    """Name, size and time of change of each file of a task, where its data are files."""
    path = Path(data).expanduser()
    files = sorted(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]


@lru_cache(maxsize=1024)
def _ended_run(folder: Path, seen: tuple[int, int] | None) -> Run | None:
    """The run of a folder that has a result; read once, as it does not change any more. None without a readable result."""
    result = read_json(folder / "run.json") if seen else None
    if result is None:
        return None
    try:
        plan = Plan.from_dict(read_json(folder / "plan.json"))
    except PlanError:
        return None
    submitted = (read_json(folder / "worker.json") or {}).get("submitted", 0.0)
    return Run(folder.name, folder, plan, result["status"], submitted, read_json(folder / "progress.json") or {}, result)


def start_worker(folder: Path) -> int:
    """Start `python -m offcomp.execute FOLDER` as a child in a session of its own; returns its process id.

    The worker ends with its parent (it compares OFFCOMP_PARENT with its parent's id), so nothing runs on unseen.
    """
    environment = PATIENT_THREADS | os.environ | {"OFFCOMP_PARENT": str(os.getpid()), "HF_HUB_OFFLINE": "1"}
    with (folder / "log.txt").open("ab") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "offcomp.execute", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    return worker.pid


def process_record(pid: int) -> dict[str, Any]:
    """What names a process for good: its id and when it started."""
    try:
        return {"pid": pid, "started": psutil.Process(pid).create_time()}
    except psutil.Error:
        return {"pid": pid, "started": 0.0}


class RunStore:
    """All runs of a home folder."""

    def __init__(self, home: Path | None = None):
        self.home = home or home_folder()
        self.folder = self.home / "runs"

    def get(self, name: str) -> Run:
        """The run of this id. Raises InputError."""
        folder = self.folder / name
        run = self._read(folder) if name and Path(name).name == name else None
        if run is None:
            raise InputError(f"there is no run {name!r} in {self.folder}; 'offcomp runs' lists them")
        return run

    def all(self) -> list[Run]:
        """Every readable run, the newest first."""
        try:
            folders = [folder for folder in self.folder.iterdir() if folder.is_dir()]
        except OSError:
            return []
        runs = [run for run in map(self._read, folders) if run is not None]
        return sorted(runs, key=lambda run: run.submitted, reverse=True)

    def _read(self, folder: Path) -> Run | None:
        if run := _ended_run(folder, changed(folder / "run.json")):
            return run
        worker = read_json(folder / "worker.json") or {}
        try:
            plan = Plan.from_dict(read_json(folder / "plan.json"))
        except PlanError:
            return None
        progress = read_json(folder / "progress.json") or {}
        if is_alive(worker):
            status = "queued" if progress.get("stage", "queued") == "queued" else "running"
            return Run(folder.name, folder, plan, status, worker.get("submitted", 0.0), progress, None)
        # The worker may have written its result and ended between the two looks.
        late = _ended_run(folder, changed(folder / "run.json"))
        return late or Run(folder.name, folder, plan, "interrupted", worker.get("submitted", 0.0), progress, None)

    def submit(self, plan: Plan, info: ModelInfo, *, again: bool = False) -> Run:
        """Start a plan, or return its run if it is done or under way (`again` forces a new start).

        Raises PlanError where the plan is faulty or cannot be met, StorageError where its folder cannot be written.
        """
        check(plan, info)
        folder = self.folder / run_id(resolved(plan, info), info.fingerprint)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            needed = FREE_BYTES_NEEDED + sum(group.num_bytes for group in predict(plan, info).groups)
            free = shutil.disk_usage(self.folder).free
            if free < needed:
                raise StorageError(
                    f"{self.folder} has {free / 1e6:.0f} MB free but the run needs {needed / 1e6:.0f} MB; "
                    "free some space, or set OFFCOMP_HOME to a folder on another disk"
                )
            with FileLock(self.folder / f".{folder.name}.lock", timeout=30):
                run = self._read(folder)
                if run and not again and run.status in ("done", "queued", "running"):
                    return run
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                write_json(folder / "plan.json", plan.to_dict())
                ticket = {"submitted": time.time()}
                write_json(folder / "worker.json", process_record(os.getpid()) | ticket)
                write_json(folder / "worker.json", process_record(start_worker(folder)) | ticket)
        except OSError as error:
            raise storage_error(self.folder, error) from None
        return self.get(folder.name)

    def cancel(self, name: str) -> None:
        """Ask a run to stop; its worker obeys within a second. Raises StorageError."""
        run = self.get(name)
        if not run.ended:
            try:
                (run.folder / "cancel").touch()
            except OSError as error:
                raise storage_error(run.folder, error) from None

    def delete(self, name: str) -> None:
        """Remove an ended run and all its files. Raises RunError where it is still at work."""
        run = self.get(name)
        if not run.ended:
            raise RunError(f"run {name} is {run.status}; cancel it before deleting it")
        shutil.rmtree(run.folder, ignore_errors=True)


def check(plan: Plan, info: ModelInfo) -> None:
    """Raise PlanError for everything that would keep a plan from running."""
    validate(plan, info)
    faults = [f"group {group.name!r}: {group.note}." for group in predict(plan, info).groups if group.form == "infeasible"]
    if faults:
        raise PlanError(faults)


def is_alive(worker: dict[str, Any]) -> bool:
    """Whether the process that `worker.json` names still runs (and is not another one with its number)."""
    try:
        process = psutil.Process(worker["pid"])
        same = abs(process.create_time() - worker["started"]) < CLOCK_TOLERANCE_SECONDS
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (KeyError, psutil.Error):
        return False
