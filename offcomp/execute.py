"""The worker: `python -m offcomp.execute RUN_DIR` does what RUN_DIR/plan.json asks and writes RUN_DIR/run.json last.

A watching thread obeys a cancel file and the death of the parent even while torch is busy, so a stop takes well under a second.
Runs that wait for a slot start in the order of their submission; OFFCOMP_SLOTS (default 1) says how many may work at once.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from offcomp.environment import environment
from offcomp.errors import OffcompError, RunError, StorageError
from offcomp.estimate import FLOAT32_BYTES, estimate
from offcomp.files import read_json, write_json
from offcomp.models.listing import model_info
from offcomp.numerics.accounting import Size
from offcomp.numerics.allocator import give_back_free_memory, give_back_large_blocks_at_once
from offcomp.plan import Group, Plan, members
from offcomp.prediction import model_sizes, predict
from offcomp.run_inputs import check_inputs, inputs_of
from offcomp.runs import RUN_SCHEMA, RunStore
from offcomp.size_notes import size_notes

if TYPE_CHECKING:
    from offcomp.calibration import Calibration, GroupHints
    from offcomp.compress import SavedGroup
    from offcomp.evaluation import OpenTask
    from offcomp.models.loading import LoadedModel

log = logging.getLogger("offcomp")

WATCH_SECONDS = 0.2
NOTICEABLE_ERROR = 1e-3
PROGRESS_SECONDS = 0.25


class Worker:
    """One run from its plan to its result. `finish` may be called from any thread; the first call wins."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.plan = Plan.from_dict(read_json(folder / "plan.json"))
        self.started = time.time()
        self.groups: list[dict[str, Any]] = []
        self.timings: dict[str, float] = {}
        self._costs: Mapping[str, float] = {}
        self._done_cost = 0.0
        self._last_write = 0.0
        self._working_since = self.started
        self._lock = threading.Lock()

    def finish(self, status: str, **fields: Any) -> None:
        """Write run.json and end the process; what was finished so far is kept."""
        with self._lock:
            document = {
                "schema": RUN_SCHEMA,
                "id": self.folder.name,
                "status": status,
                "error": "",
                "plan": self.plan.to_dict(),
                "groups": self.groups,
                "model": None,
                "scores": {},
                "environment": environment(),
                "timings": self.timings | {"total": time.time() - self.started},
                "started": datetime.fromtimestamp(self.started, UTC).isoformat(timespec="seconds"),
            }
            try:
                write_json(self.folder / "run.json", document | fields)
            except StorageError as error:
                log.error("%s", error)  # all that is left to do: the run will read as interrupted
                status = "interrupted"
            logging.shutdown()
            os._exit(0 if status == "done" else 1)

    def expect(self, costs: Mapping[str, float]) -> None:
        """Set the stages to come with their rough seconds; progress is weighed by them."""
        self._costs = costs
        self._working_since = time.time()

    def report(self, stage: str, fraction: float) -> None:
        """Write progress.json, at most four times a second."""
        now = time.time()
        if fraction < 1 and now - self._last_write < PROGRESS_SECONDS:
            return
        self._last_write = now
        total = sum(self._costs.values()) or 1.0
        done = min(self._done_cost + self._costs.get(stage, 0.0) * fraction, total)
        elapsed = now - self._working_since
        pace = elapsed / done if done > 1 else 1.0  # real seconds per expected second
        progress = {"stage": stage, "fraction": done / total, "remaining_seconds": (total - done) * pace}
        write_json(self.folder / "progress.json", progress | {"elapsed_seconds": elapsed})

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[float], None]]:
        """A stage of the run: yields its report, and records its time."""
        self._last_write = 0.0
        self.report(name, 0.0)
        began = time.perf_counter()
        yield lambda fraction: self.report(name, fraction)
        self.timings[name] = time.perf_counter() - began
        self._done_cost += self._costs.get(name, 0.0)

    def watch(self) -> None:
        """Stop at once when asked to, or when the parent has gone (then the run counts as interrupted)."""
        parent = int(os.environ.get("OFFCOMP_PARENT", "0"))
        while True:
            if (self.folder / "cancel").exists():
                self.finish("cancelled", error="Cancelled.")
            if parent and os.getppid() != parent:
                os._exit(1)
            time.sleep(WATCH_SECONDS)


@contextmanager
def slot(worker: Worker) -> Iterator[None]:
    """Wait for a free slot, first come, first served; the slot is free again when the process ends."""
    store = RunStore(worker.folder.parent.parent)
    slots = [FileLock(store.home / f".slot-{index}.lock") for index in range(int(os.environ.get("OFFCOMP_SLOTS", "1")))]
    worker.report("queued", 1.0)
    while True:
        for free in slots:
            try:
                free.acquire(timeout=0)
            except Timeout:
                continue
            try:
                if not _somebody_is_before(store, worker.folder.name):
                    yield
                    return
            finally:
                free.release()
        time.sleep(WATCH_SECONDS)


def _somebody_is_before(store: RunStore, name: str) -> bool:
    waiting = [run for run in store.all() if run.status == "queued" and not run.host]
    mine = next((run.submitted for run in waiting if run.id == name), 0.0)
    return any(run.submitted < mine for run in waiting)


def work(worker: Worker) -> dict[str, Any]:
    """Load, compress, evaluate. Returns the fields of run.json beside the groups."""
    plan = worker.plan
    info = model_info(plan.model, worker.folder.parent.parent)
    worker.expect(estimate(plan, info, predict(plan, info)).stages)
    with worker.stage("load the model"):
        from offcomp.compress import SavedGroup, check_finite, compress_group, save_group
        from offcomp.evaluation import open_task
        from offcomp.models.loading import load
        from offcomp.models.parking import StoredMatrices, parked

        loaded = load(plan.model)
    inputs = read_json(worker.folder / "inputs.json") or inputs_of(plan, loaded.info.reads)
    check_inputs(plan, loaded.info, inputs)
    tasks = []
    cache = worker.folder.parent.parent / "evaluations"
    for task in plan.asked_tasks:
        with worker.stage(f"score the original on {task.name}") as report:
            opened = open_task(task, loaded, seed=plan.seed, cache=cache)
            opened.prepare(report)
            tasks.append(opened)
    compressed: list[SavedGroup] = []
    source = StoredMatrices(loaded, [spec for group in plan.groups for spec in members(group, loaded.info)])
    calibration = _calibration(plan, loaded)
    with calibration.parked() if calibration else parked(loaded):
        for group in plan.groups:
            with worker.stage(f"compress {group.name}") as report, _hints(calibration, group, compressed) as hints:
                result = compress_group(source, loaded.info, group, hints=hints, seed=plan.seed, report=report)
                check_finite(result)
                path = save_group(result, worker.folder / "groups")
            compressed.append(SavedGroup(path, result.members, result.stacking))
            worker.groups.append(result.figures)
            del result  # is on disk
            give_back_free_memory()
    scores = _evaluate(worker, loaded, tasks, compressed)
    try:
        check_inputs(plan, loaded.info, inputs)
    except RunError:
        worker.groups.clear()  # figures of neither the old files nor the new ones
        raise
    stored = [
        (Size(g["original_parameters"], g["original_bytes"]), Size(g["num_parameters"], g["num_bytes"])) for g in worker.groups
    ]
    info = loaded.info
    about = {name: getattr(info, name) for name in ("family", "fingerprint", "reads", "dtype", "unlisted")}
    model = {"name": info.model, **about, "sizes": model_sizes(stored, info)}
    return {"model": model, "scores": scores, "inputs": inputs, "notes": size_notes(worker.groups)}


def _calibration(plan: Plan, loaded: LoadedModel) -> Calibration | None:
    """The calibration of a run, where a group needs one."""
    if not plan.calibrated:
        return None
    from offcomp.calibration import Calibration

    asked = plan.calibration
    found = asked.read(plan.seed)
    largest = max(sum(spec.num_parameters for spec in members(group, loaded.info)) for group in plan.groups)
    return Calibration(
        loaded,
        found.texts,
        max_tokens=asked.max_tokens,
        special_tokens=asked.special_tokens,
        weighting=asked.weighting,
        seed=plan.seed,
        rows=found.rows,
        room=FLOAT32_BYTES * largest // 2,
    )


@contextmanager
def _hints(calibration: Calibration | None, group: Group, compressed: list[SavedGroup]) -> Iterator[GroupHints | None]:
    """The hints of a group, if the run is calibrated."""
    if calibration is None:
        yield None
        return
    specs = members(group, calibration.loaded.info)
    with calibration.hints(specs, group.stack, lambda: (each.reconstructions for each in compressed)) as hints:
        yield hints


def _evaluate(
    worker: Worker,
    loaded: LoadedModel,
    tasks: list[OpenTask],
    compressed: list[SavedGroup],
) -> dict[str, Any]:
    """Scores by task of the model with every group's reconstruction in it. The originals are gone afterwards."""
    from offcomp.models.weights import replace

    scores = {}
    for group in compressed:
        replace(loaded.model, group.reconstructions)
        give_back_free_memory()
    for opened in tasks:
        with worker.stage(f"evaluate {opened.task.name}") as report:
            scores[opened.task.name] = opened.compare(report)
    _check_changed(worker.groups, scores)
    return scores


def _check_changed(groups: list[dict[str, Any]], scores: dict[str, Any]) -> None:
    """A model whose weights changed but whose every answer is the same to the last bit was not really compressed."""
    error = max((group["relative_error"] for group in groups), default=0.0)
    if error > NOTICEABLE_ERROR and scores and all(score["unchanged"] for score in scores.values()):
        raise RunError(
            f"the compressed weights differ from the original by up to {error:.2%}, but every answer is the same to the last "
            "bit, so the model does not use them; choose modules that it reads in these tasks"
        )


def main(arguments: list[str]) -> None:
    """Run the plan in the folder given as the only argument."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    give_back_large_blocks_at_once()
    worker = Worker(Path(arguments[0]).resolve())
    threading.Thread(target=worker.watch, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(10)  # the app's process comes first
    try:
        with slot(worker):
            fields = work(worker)
            worker.finish("done", **fields)
    except (OffcompError, MemoryError) as error:
        log.info("%s", error)
        sentence = str(error) or "The machine ran out of memory; choose fewer modules or a smaller batch."
        worker.finish("failed", error=sentence)
    except Exception as error:  # noqa: BLE001  # the last resort of a process: record it, with the traceback in the log
        traceback.print_exc()
        worker.finish("failed", error=f"Unexpected {type(error).__name__}: {error}. The run's log.txt has the details.")


if __name__ == "__main__":
    main(sys.argv[1:])
