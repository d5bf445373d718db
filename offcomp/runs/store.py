"""The runs on disk: one folder per run, written atomically and readable by concurrent processes. Does not import torch.

    RUN/plan.json       the plan
    RUN/inputs.json     its inputs: model, calibration text, examples, versions
    RUN/worker.json     the process working on it: host, id and start time; time of submission
    RUN/worker.lock     locked by the worker until it exits
    RUN/progress.json   stage, fraction done and remaining seconds, while it is running
    RUN/cancel          present once cancellation has been requested
    RUN/frames.jsonl    small pictures of the first group, one per epoch (`runs.frames`)
    RUN/groups/         the stored tensors of the compressed groups
    RUN/finished/       the figures of these groups, until the run is done (`runs.resume`)
    RUN/run.json        the result, written last
    RUN/log.txt         the output of the worker

The status of a run is derived from these files and from whether its lock is held; no state is kept in memory. A run's id is a
hash of its plan and inputs (`offcomp.runs.inputs`), so running the same plan on the same inputs again yields the same id. An
unreadable folder is reported as a `BadFolder` and does not affect other runs.
"""

from __future__ import annotations

import gc
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from offcomp.errors import InputError, PlanError, RunError, StorageError
from offcomp.files import home_folder, storage_error, storage_errors, write_json
from offcomp.models.catalogue import ModelInfo
from offcomp.planning.plan import Plan, validate
from offcomp.planning.ranks import with_known_ranks
from offcomp.planning.sizes import predict, resolved
from offcomp.runs.documents import PLAN, RESULT
from offcomp.runs.folders import OF_A_SAMPLE, BadFolder, Run, read_run
from offcomp.runs.inputs import inputs_of, run_id
from offcomp.runs.leftovers import is_in_use, sweep
from offcomp.runs.start import remove_folder, start_run, store_lock

__all__ = ["OF_A_SAMPLE", "BadFolder", "Run", "RunStore", "check", "without_collection"]

FREE_BYTES_NEEDED = 20_000_000
POLL_SECONDS = 0.2


class RunStore:
    """All runs in a home folder."""

    def __init__(self, home: Path | None = None):
        self.home = home or home_folder()
        self.folder = self.home / "runs"

    def get(self, name: str) -> Run:
        """Return the run with this id. Raises InputError if the run does not exist or its folder cannot be read."""
        folder = self.folder / name
        if not name or name.startswith(".") or Path(name).name != name or not os.path.isdir(folder):  # noqa: PTH112  # any string
            raise InputError(f"there is no run {name!r} in {self.folder}; list all runs with 'offcomp runs'")
        run = read_run(folder)
        if isinstance(run, BadFolder):
            gone = f"{name} has just been removed; list the remaining runs with 'offcomp runs'"
            raise InputError(f"run {run if folder.is_dir() else gone}")
        return run

    def listing(self) -> tuple[list[Run], list[BadFolder]]:
        """All runs, newest first, and all unreadable run folders, sorted by name. Raises StorageError."""
        try:
            folders = [Path(entry.path) for entry in os.scandir(self.folder) if entry.name[0] != "." and entry.is_dir()]
        except (FileNotFoundError, NotADirectoryError):
            return [], []
        except OSError as error:
            raise storage_error(self.folder, error, "read") from None
        with without_collection():
            read = [read_run(folder) for folder in folders]
        runs = sorted((run for run in read if isinstance(run, Run)), key=lambda run: run.submitted, reverse=True)
        bad = (bad for bad in read if isinstance(bad, BadFolder) and bad.folder.is_dir())  # skip folders removed meanwhile
        return runs, sorted(bad, key=lambda bad: bad.name)

    def all(self) -> list[Run]:
        """All readable runs, newest first. Raises StorageError."""
        return self.listing()[0]

    def submit(self, plan: Plan, info: ModelInfo, *, again: bool = False) -> Run:
        """Run a plan, unless its run is done or in progress. Returns the run.

        A run that ended before it was done continues with the first group that it had not finished. Set `again` to start a run
        that has ended from the beginning.

        If the run fails to start, the previous state is restored. Raises PlanError if the plan is invalid or infeasible,
        StorageError if the run cannot be started, and RunError if another host is working on it.
        """
        validate(plan, info)
        plan = with_known_ranks(plan, info, self.home)
        check(plan, info)
        inputs = inputs_of(plan, info.reads)
        folder = self.folder / run_id(resolved(plan, info), inputs)
        with storage_errors(self.folder, "start a run in"), store_lock(self.folder):
            sweep(self.home)
            run = read_run(folder) if folder.is_dir() else None
            if isinstance(run, Run) and (not run.ended or (run.status == "done" and not again)):
                _check_host(run)
                _update_model_name(run, plan.model)
            elif isinstance(run, BadFolder) and is_in_use(folder):
                raise RunError(f"run {folder.name} is in progress but cannot be read; wait for it to end, or stop its process")
            else:
                self._check_space(plan, info)
                start_run(folder, plan, inputs.to_dict(), resumes=not again)
        return self.get(folder.name)

    def follow(self, run: Run) -> Iterator[Run]:
        """Yield a run, and then its current state every `POLL_SECONDS` until it has ended."""
        yield run
        while not run.ended:
            time.sleep(POLL_SECONDS)
            run = self.get(run.id)
            yield run

    def sweep(self) -> None:
        """Clean up after killed processes (see `runs.leftovers`) unless another process is changing runs. Raises OSError."""
        if self.home.is_dir():
            with suppress(TimeoutError), store_lock(self.folder, 0.0):
                sweep(self.home)

    def _check_space(self, plan: Plan, info: ModelInfo) -> None:
        needed = FREE_BYTES_NEEDED + sum(group.num_bytes for group in predict(plan, info).groups)
        free = shutil.disk_usage(self.folder).free
        if free < needed:  # round in opposite directions, so that the two numbers differ
            raise StorageError(
                f"{self.folder} has {math.floor(free / 1e6)} MB free but the run needs {math.ceil(needed / 1e6)} MB; "
                "free some space, or set OFFCOMP_HOME to a folder on another disk"
            )

    def cancel(self, name: str) -> None:
        """Request cancellation of a run; its worker stops within a second. Raises StorageError."""
        run = self.get(name)
        if not run.ended:
            with storage_errors(run.folder, "write to"):
                (run.folder / "cancel").touch(mode=0o600)

    def delete(self, name: str) -> None:
        """Delete a run that has ended, including all its files. Raises RunError if the run has not ended."""
        with storage_errors(self.folder, "remove a run from"), store_lock(self.folder):
            run = self.get(name)
            _check_host(run)
            if not run.ended:
                raise RunError(f"run {name} is {run.status}; cancel it before deleting it")
            remove_folder(run.folder)


@contextmanager
def without_collection() -> Iterator[None]:
    """Disable garbage collection in the block, since it would traverse the same thousands of documents again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _update_model_name(run: Run, model: str) -> None:
    """Set the model name of a finished run to the most recently used one, since the previous folder may no longer exist.

    The run's id guarantees that both names refer to the same model at the time of the call.
    """
    if run.result is None or run.result.model is None or run.plan.model == model:
        return
    named = run.result.model.model_copy(update={"name": model})
    result = run.result.model_copy(update={"plan": run.result.plan | {"model": model}, "model": named})
    write_json(run.folder / PLAN, run.plan.replace(model=model).to_dict())
    write_json(run.folder / RESULT, result.to_dict())


def _check_host(run: Run) -> None:
    """Raise RunError if another host is working on a run, since its process cannot be checked from this host."""
    if run.host:
        raise RunError(
            f"run {run.id} is in progress on {run.host}, which shares this runs folder; wait for the run to finish, "
            f"cancel it or, if it is no longer running there, remove {run.folder}"
        )


def check(plan: Plan, info: ModelInfo) -> None:
    """Raise PlanError with a list of everything that prevents a plan from running."""
    validate(plan, info)
    faults = [f"group {group.name!r}: {group.note}." for group in predict(plan, info).groups if group.form == "infeasible"]
    if faults:
        raise PlanError(faults)
