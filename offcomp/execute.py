"""What a worker does: `python -m offcomp.execute RUN_DIR` does what RUN_DIR/plan.json asks and writes RUN_DIR/run.json last."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offcomp.errors import OffcompError, RunError
from offcomp.estimate import FLOAT32_BYTES, estimate
from offcomp.files import storage_error
from offcomp.json_checks import Malformed
from offcomp.models.listing import model_info
from offcomp.numerics.accounting import Size
from offcomp.numerics.allocator import give_back_free_memory, give_back_large_blocks_at_once
from offcomp.plan import Group, Plan, members
from offcomp.prediction import model_sizes, predict
from offcomp.run_documents import read_inputs
from offcomp.run_inputs import check_inputs, inputs_of
from offcomp.size_notes import size_notes
from offcomp.worker import Worker, hold_lock, slot

if TYPE_CHECKING:
    from offcomp.calibration import Calibration, GroupHints
    from offcomp.compress import SavedGroup
    from offcomp.evaluation import OpenTask
    from offcomp.models.loading import LoadedModel

log = logging.getLogger("offcomp")

NOTICEABLE_ERROR = 1e-3


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
    inputs = read_inputs(worker.folder) or inputs_of(plan, loaded.info.reads)
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
                path = save_group(result, worker.groups_folder, make_folder=False)
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


def _sentence(folder: Path, error: OSError) -> str:
    """What an error of the operating system keeps a run from: to use a file that it reads, or to write to its own folder."""
    if error.errno is None:  # of a library
        return f"{error}. The run's log.txt has the details."
    name = error.filename
    if isinstance(name, str | bytes) and not Path(os.fsdecode(name)).resolve().is_relative_to(folder):
        return f"cannot use {os.fsdecode(name)}: {error.strerror}; see that it can be used, then run the plan again."
    return f"{storage_error(folder, error)}."


def main(arguments: list[str]) -> None:
    """Run the plan in the folder given as the only argument. What goes wrong is a sentence in run.json, or ends the log."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends the process as any other signal does, without a traceback
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.raiseExceptions = False  # a log that cannot be written is no error of the run
    give_back_large_blocks_at_once()
    folder = Path(arguments[0]).resolve()
    try:
        lock = hold_lock(folder)
        worker = Worker(folder)
    except (OSError, OffcompError) as error:
        log.error("%s", error)
        sys.exit(1)
    threading.Thread(target=worker.watch, args=(lock,), daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(10)  # the app's process comes first
    try:
        worker.reserve_space()
        with slot(worker):
            fields = work(worker)
            worker.finish("done", **fields)
    except (OffcompError, Malformed, MemoryError) as error:
        log.info("%s", error)
        sentence = str(error) or "The machine ran out of memory; choose fewer modules or a smaller batch."
        worker.finish("failed", error=sentence)
    except OSError as error:
        traceback.print_exc()
        worker.finish("failed", error=_sentence(folder, error))
    except Exception as error:  # noqa: BLE001  # the last resort of a process: record it, with the traceback in the log
        traceback.print_exc()
        worker.finish("failed", error=f"Unexpected {type(error).__name__}: {error}. The run's log.txt has the details.")


if __name__ == "__main__":
    main(sys.argv[1:])
