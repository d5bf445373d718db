"""The worker process: `python -m offcomp.runs.worker RUN_DIR` executes RUN_DIR/plan.json and writes RUN_DIR/run.json."""

from __future__ import annotations

import _thread
import errno
import logging
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from offcomp.devices import computing_device, device_name
from offcomp.errors import ModelError, OffcompError, RunError, first_line
from offcomp.files import storage_error
from offcomp.models.catalogue import ModelInfo
from offcomp.models.listing import check_unchanged, model_info
from offcomp.planning.cost import CORRECT, FLOAT32_BYTES, SMALL_SHARE, estimate, free_memory, needs_model
from offcomp.planning.data.scores import Score
from offcomp.planning.json_checks import Malformed
from offcomp.planning.model_sizes import model_sizes
from offcomp.planning.plan import Plan
from offcomp.planning.size_notes import size_notes
from offcomp.planning.sizes import predict
from offcomp.runs.documents import CORRECTIONS_FILE, read_inputs
from offcomp.runs.inputs import check_inputs, inputs_of
from offcomp.runs.result import GroupResult, LedgerEntry, ModelResult
from offcomp.runs.resume import forget_groups
from offcomp.runs.slots import slot
from offcomp.runs.worker_lock import hold_lock
from offcomp.runs.worker_process import Outcome, Worker

if TYPE_CHECKING:
    import torch

    from offcomp.evaluation import OpenTask
    from offcomp.models.loading import LoadedModel
    from offcomp.runs.calibration import Calibration
    from offcomp.runs.compress import SavedGroup
    from offcomp.runs.corrections import Corrections

T = TypeVar("T")
log = logging.getLogger("offcomp")

LOAD = "load the model"
NOTICEABLE_ERROR = 1e-3
MAX_DETAIL_LENGTH = 200
NICE = 10
"""Niceness of workers, so that the app takes priority over them."""


def estimated_stages(plan: Plan, info: ModelInfo) -> dict[str, float]:
    """The estimated seconds of each stage of a run, by name."""
    return dict(estimate(plan, info, predict(plan, info)).stages)


def work(worker: Worker, preloaded: LoadedModel | None = None) -> Outcome:
    """Compress the model and, if the plan has tasks, evaluate it. A plan that needs only the weights never loads the model.

    `preloaded` is the model, if loaded already; its weights are overwritten.
    """
    plan, home = worker.plan, worker.folder.parent.parent
    if not worker.has_begun:
        stages = estimated_stages(plan, model_info(plan.model, home))
        worker.begin({name: seconds for name, seconds in stages.items() if preloaded is None or name != LOAD})
    with worker.stage(LOAD):
        from offcomp.models.offloading import StoredMatrices
        from offcomp.runs.calibration import calibration_of
        from offcomp.runs.calibration.experts import scarce_notes
        from offcomp.runs.compress import add_output_errors
        from offcomp.runs.compress_groups import compress_groups

        device = computing_device()
        worker.device = device_name(device)
        loaded = _loaded(plan, preloaded, device) if needs_model(plan) else None
        stored = None if loaded else StoredMatrices(plan.model, device)
        info = loaded.info if loaded else model_info(plan.model, home)
    inputs = read_inputs(worker.folder) or inputs_of(plan, info.reads)
    check_inputs(plan, info, inputs)
    tasks = _open_tasks(worker, loaded, home / "evaluations") if loaded else []
    stays_loaded = loaded is not None and is_small(info)
    source = loaded.model if loaded and stays_loaded else stored or StoredMatrices(plan.model, device)
    calibration = calibration_of(plan, loaded, stays_loaded=stays_loaded) if loaded else None
    order = plan.compression_order(info)
    ordered = [plan.groups[number] for number in order]
    with nullcontext() if stays_loaded else _offloaded(loaded, calibration):
        with calibration.keeping_earlier_groups() if calibration else nullcontext():
            compressed = compress_groups(worker, source, info, ordered, calibration)
        compressed, worker.groups = _in_plan_order(order, compressed), _in_plan_order(order, worker.groups)
        if calibration and stays_loaded:
            with worker.stage("measure outputs on text"):
                worker.groups = add_output_errors(calibration, compressed, worker.groups)
        corrections, ledger = _correct(worker, calibration, compressed) if calibration and plan.corrects else ({}, ())
    scores = _evaluate(worker, loaded, tasks, compressed, corrections) if loaded else {}
    try:
        check_inputs(plan, info, inputs)
    except RunError:
        worker.groups.clear()  # these results match neither the old files nor the new files
        forget_groups(worker.folder)
        raise
    sizes = model_sizes(((group.original, group.stored) for group in worker.groups), info)
    model = ModelResult(
        name=info.model,
        family=info.family,
        fingerprint=info.fingerprint,
        reads=info.reads,
        dtype=info.dtype,
        unlisted=info.unlisted,
        sizes=sizes,
    )
    return Outcome(model, scores, inputs, [*size_notes(worker.groups), *scarce_notes(worker.groups)], ledger)


def _open_tasks(worker: Worker, loaded: LoadedModel, cache: Path) -> list[OpenTask]:
    """Open the plan's tasks, with the scores of the original."""
    from offcomp.evaluation import open_task

    tasks = []
    for task in worker.plan.resolved_tasks:
        with worker.stage(f"score the original on {task.name}") as report:
            opened = open_task(task, loaded, seed=worker.plan.seed, cache=cache)
            opened.prepare(report)
            tasks.append(opened)
    return tasks


def _offloaded(loaded: LoadedModel | None, calibration: Calibration | None) -> AbstractContextManager[None]:
    """A context manager within which a model, if there is one, is not in memory except for passes over text."""
    from offcomp.models.offloading import offloaded

    if calibration:
        return calibration.offloaded()
    return offloaded(loaded) if loaded else nullcontext()


def _loaded(plan: Plan, preloaded: LoadedModel | None, device: torch.device) -> LoadedModel:
    """The plan's model on this device; loaded again if its files have changed since it was preloaded. Raises ModelError.

    Its layers are held in the dtype of the files, unless the plan needs text, whose statistics use the weights of layers.
    """
    from offcomp.models.held_layers import in_float32
    from offcomp.models.loading import load

    if preloaded is not None:
        try:
            check_unchanged(preloaded.info)
        except ModelError:
            preloaded = None
    loaded = preloaded or load(plan.model, held=not plan.needs_text)
    if plan.needs_text:
        in_float32(loaded.model)
    return loaded.to(device)


def _in_plan_order(order: Sequence[int], items: Sequence[T]) -> list[T]:
    return [item for _, item in sorted(zip(order, items, strict=True), key=itemgetter(0))]


def is_small(info: ModelInfo) -> bool:
    """Whether a model is small enough, relative to the free memory, to stay loaded."""
    return FLOAT32_BYTES * info.num_parameters <= SMALL_SHARE * (free_memory() or 0)


def _correct(
    worker: Worker, calibration: Calibration, compressed: Sequence[SavedGroup]
) -> tuple[Corrections, tuple[LedgerEntry, ...]]:
    """Compute and save the plan's corrections. Returns them and their ledger."""
    from offcomp.runs.corrections import corrections_of, save_corrections

    with worker.stage(CORRECT):
        corrections = corrections_of(worker.plan.correct, calibration, compressed)
        return corrections, save_corrections(corrections, worker.groups_folder.parent / CORRECTIONS_FILE)


def _evaluate(
    worker: Worker, loaded: LoadedModel, tasks: list[OpenTask], compressed: list[SavedGroup], corrections: Corrections
) -> dict[str, Score]:
    """Scores of the compressed model, by task. The loaded weights are overwritten with the reconstructions."""
    from offcomp.models.weights import replace

    scores = {}
    for group in compressed:
        replace(loaded.model, group.reconstructions)
    replace(loaded.model, {}, corrections)
    for opened in tasks:
        with worker.stage(f"evaluate {opened.task.name}") as report:
            scores[opened.task.name] = opened.compare(report)
    _check_changed(worker.groups, scores)
    return scores


def _check_changed(groups: Sequence[GroupResult], scores: Mapping[str, Score]) -> None:
    """Raise RunError if the weights changed but all outputs are bit-identical, which shows that the weights are not used."""
    error = max((group.relative_error for group in groups), default=0.0)
    if error > NOTICEABLE_ERROR and scores and all(score.unchanged for score in scores.values()):
        raise RunError(
            f"the compressed weights differ from the originals by up to {error:.2%}, but all outputs are bit-identical, "
            "so the model does not use these weights; choose modules that these tasks use"
        )


def _sentence(folder: Path, error: OSError) -> str:
    """Describe an operating-system error that occurred while reading an input file or writing to the run's folder."""
    if error.errno is None:  # raised by a library
        return f"{error}. See the run's log.txt for details."
    name = error.filename
    if isinstance(name, str | bytes) and not Path(os.fsdecode(name)).resolve().is_relative_to(folder):
        return f"cannot access {os.fsdecode(name)}: {error.strerror}; make sure it is accessible, then run the plan again."
    return f"{storage_error(folder, error)}."


NO_THREAD = "can't start new thread"  # no memory for its stack
SIGNS_OF_SHORTAGE = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "bad_alloc",
    "out of memory",
    NO_THREAD,
)
"""Phrases, in lower case, by which libraries report a failed allocation in errors other than MemoryError."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that caused it, says that memory could not be allocated."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    said = any(sign in str(error).lower() for sign in SIGNS_OF_SHORTAGE)
    return said or (cause is not None and is_out_of_memory(cause))


def _shortage(worker: Worker, error: BaseException) -> str:
    """Say that the machine ran out of memory, when, and what to do about it."""
    during = f" during the stage {worker.current_stage!r}" if worker.current_stage else ""
    detail = first_line(error)[:MAX_DETAIL_LENGTH]
    return (
        f"The machine ran out of memory{during} ({detail}); choose fewer modules or a smaller batch, or close other programs."
    )


def carry_out(worker: Worker, preloaded: LoadedModel | None = None, held_slot: int | None = None) -> None:
    """Carry out a run, report failures in its result, and exit the process.

    worker       the run, whose folder has its final name and whose lock this process holds
    preloaded    the model, if it is loaded already
    held_slot    the lock of a slot that this process has taken for the run
    """
    if hasattr(os, "nice"):
        os.nice(NICE)
    try:
        _thread.start_new_thread(worker.watch, ())  # unlike Thread.start, this does not hang if memory is short
        worker.reserve_space()
        with nullcontext() if held_slot is not None else slot(worker):
            worker.finish("done", outcome=work(worker, preloaded))
    except Exception as error:  # noqa: BLE001  # last resort: record it, with the traceback in the log
        worker.finish("failed", error=_explained(worker, error))


def _explained(worker: Worker, error: Exception) -> str:
    """Describe why a run failed, in a sentence, and log the error."""
    if is_out_of_memory(error):
        log.info("%s", error)
        return _shortage(worker, error)
    if isinstance(error, OffcompError | Malformed):
        log.info("%s", error)
        return str(error)
    traceback.print_exception(error)
    if isinstance(error, OSError):
        return _sentence(worker.folder, error)
    return f"Unexpected {type(error).__name__}: {error}. See the run's log.txt for details."


def set_up_log() -> None:
    """Log to standard error."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.raiseExceptions = False  # continue the run even if its log cannot be written


def main(arguments: list[str]) -> None:
    """Run the plan in the folder passed as the only argument. Failures are reported in run.json or the last line of the log."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # end the process without a traceback, as other signals do
    set_up_log()
    folder = Path(arguments[0]).resolve()
    try:
        worker = Worker(folder, hold_lock(folder))
    except (OSError, OffcompError) as error:
        log.error("%s", error)
        sys.exit(1)
    carry_out(worker)


if __name__ == "__main__":
    main(sys.argv[1:])
