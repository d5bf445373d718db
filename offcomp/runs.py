"""Runs on disk: one folder each, written atomically, readable by several processes at once. No torch.

    RUN/plan.json       what was asked, written first
    RUN/inputs.json     what it reads: model, calibration text, examples, versions
    RUN/worker.json     who works on it: host, process id, its start; time of submission
    RUN/progress.json   stage, fraction, remaining seconds, while it works
    RUN/cancel          present once somebody asked to stop
    RUN/groups/         what the compressed groups store
    RUN/run.json        what happened, written last
    RUN/log.txt         output of the worker

The status is read from these files and from whether the process lives: nothing in memory has to survive. A run's name is a
digest of its plan and its inputs (`offcomp.run_inputs`), so that the same plan on the same inputs is the same run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from offcomp.claims import claim, foreign_host, is_alive
from offcomp.errors import InputError, PlanError, RunError, StorageError
from offcomp.files import changed, home_folder, read_json, storage_error, write_json
from offcomp.models.catalogue import ModelInfo
from offcomp.models.identity import is_content
from offcomp.plan import Plan, validate
from offcomp.prediction import predict, resolved
from offcomp.run_inputs import inputs_of, run_id

RUN_SCHEMA = 1
FREE_BYTES_NEEDED = 20_000_000
PATIENT_THREADS = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
"""A polite worker's threads must not spin for each other: beside another busy process they would be a hundred times slower."""
OF_A_SAMPLE = "known by a sample of the weights, not by all of them, as versions before this one did"
"""What is said of a model's identity where `Run.of_a_sample`."""
ENDED = ("done", "failed", "cancelled", "interrupted")


@dataclass(frozen=True)
class Run:
    """A run as its files show it at one moment. `host` is where it is at work, if that is not this host."""

    id: str
    folder: Path
    plan: Plan
    status: str
    submitted: float
    progress: dict[str, Any]
    result: dict[str, Any] | None
    host: str = ""

    @property
    def of_a_sample(self) -> bool:
        """Whether it knows its model by a sample of the weights, as former versions did, not by all bytes."""
        model = (self.result or {}).get("model") or {}
        return "fingerprint" in model and not is_content(str(model["fingerprint"]))

    @property
    def at_work_on(self) -> str:
        """Its status in words: with the host where that is another one, which says what it does in its own time."""
        return f"{self.status} on {self.host}" if self.host else self.status

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
    """Start `python -P -m offcomp.execute FOLDER` as a child in a session of its own; returns its process id.

    The worker ends with its parent (it compares OFFCOMP_PARENT with its parent's id), so nothing runs on unseen.
    """
    environment = PATIENT_THREADS | os.environ | {"OFFCOMP_PARENT": str(os.getpid()), "HF_HUB_OFFLINE": "1"}
    with (folder / "log.txt").open("ab") as log:
        worker = subprocess.Popen(
            [sys.executable, "-P", "-m", "offcomp.execute", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    return worker.pid


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
        host = foreign_host(worker)
        if host or is_alive(worker):
            status = "queued" if progress.get("stage", "queued") == "queued" else "running"
            return Run(folder.name, folder, plan, status, worker.get("submitted", 0.0), progress, None, host)
        # The worker may have written its result and ended between the two looks.
        late = _ended_run(folder, changed(folder / "run.json"))
        return late or Run(folder.name, folder, plan, "interrupted", worker.get("submitted", 0.0), progress, None)

    def submit(self, plan: Plan, info: ModelInfo, *, again: bool = False) -> Run:
        """Start a plan, or return its run if it is done or under way (`again` forces a new start).

        Raises PlanError where the plan is faulty or cannot be met, StorageError where its folder cannot be written, RunError
        where another host works on it.
        """
        check(plan, info)
        inputs = inputs_of(plan, info.reads)
        folder = self.folder / run_id(resolved(plan, info), inputs)
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
                _leave_to_its_host(run)
                if run and not again and run.status in ("done", "queued", "running"):
                    _name_model(run, plan.model)
                    return self.get(folder.name)
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                write_json(folder / "plan.json", plan.to_dict())
                write_json(folder / "inputs.json", inputs)
                ticket = {"submitted": time.time()}
                write_json(folder / "worker.json", claim(os.getpid()) | ticket)
                write_json(folder / "worker.json", claim(start_worker(folder)) | ticket)
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
        _leave_to_its_host(run)
        if not run.ended:
            raise RunError(f"run {name} is {run.status}; cancel it before deleting it")
        shutil.rmtree(run.folder, ignore_errors=True)


def _name_model(run: Run, model: str) -> None:
    """Let a finished run go by the name under which its model was asked for last: the folder of the former may be gone.

    Both are the same model at that moment, as the run's id tells.
    """
    if run.result is None or run.plan.model == model:
        return
    result = run.result | {"plan": run.result["plan"] | {"model": model}, "model": run.result["model"] | {"name": model}}
    write_json(run.folder / "plan.json", replace(run.plan, model=model).to_dict())
    write_json(run.folder / "run.json", result)


def _leave_to_its_host(run: Run | None) -> None:
    """Raise RunError for a run that another host works on: from here nobody can tell whether that process lives."""
    if run and run.host:
        raise RunError(
            f"run {run.id} is at work on {run.host}, which shares this folder of runs; wait for it or cancel it, or, if "
            f"nothing works on it there any more, remove {run.folder}"
        )


def check(plan: Plan, info: ModelInfo) -> None:
    """Raise PlanError for everything that would keep a plan from running."""
    validate(plan, info)
    faults = [f"group {group.name!r}: {group.note}." for group in predict(plan, info).groups if group.form == "infeasible"]
    if faults:
        raise PlanError(faults)
