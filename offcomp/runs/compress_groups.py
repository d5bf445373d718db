"""Compress the groups of a run one after the other, and continue where an earlier attempt at the run was interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from transformers import PreTrainedModel

from offcomp.models.catalogue import ModelInfo
from offcomp.models.offloading import StoredMatrices
from offcomp.planning.plan import Group, members
from offcomp.runs.calibration import Calibration, GroupHints
from offcomp.runs.compress import SavedGroup, check_finite, compress_group, save_group
from offcomp.runs.frame_writer import FrameWriter
from offcomp.runs.resume import finished_groups, record_group
from offcomp.runs.together import FitsTogether
from offcomp.runs.worker_process import Worker


def compress_groups(
    worker: Worker,
    source: PreTrainedModel | StoredMatrices,
    info: ModelInfo,
    ordered: Sequence[Group],
    calibration: Calibration | None,
) -> list[SavedGroup]:
    """Compress the groups in this order, one at a time. Each is saved, and its figures are added to `worker.groups`.

    The first groups are not computed again if an earlier attempt at the run has finished them.
    """
    measures = isinstance(source, StoredMatrices)  # otherwise the outputs of all groups are measured at the end
    saved = _finished_earlier(worker, info, ordered, measures)
    together = FitsTogether(source, info, ordered, worker.plan.seed)
    for group in ordered[len(saved) :]:
        with (
            worker.stage(f"compress {group.name}") as progress,
            _hints(calibration, group, saved) as hints,
            FrameWriter(worker.folder, source, info, group, progress) as frames,
        ):
            result = compress_group(
                source,
                info,
                group,
                hints=hints,
                seed=worker.plan.seed,
                report=frames.report,
                measure_outputs=measures,
                fitted=together.take(group, frames.report),
            )
            check_finite(result)
            path = save_group(result, worker.groups_folder, make_folder=False)
            frames.finish(result)
        record_group(worker.folder, result.figures, outputs_measured=measures)
        saved.append(SavedGroup(path, result.members, result.stacking))
        worker.groups.append(result.figures)
    return saved


def _finished_earlier(worker: Worker, info: ModelInfo, ordered: Sequence[Group], measures: bool) -> list[SavedGroup]:
    """The first groups, if an earlier attempt has finished them; their figures are added to `worker.groups`."""
    saved = []
    for group, figures in zip(ordered, finished_groups(worker.folder, ordered, info, outputs_measured=measures), strict=False):
        with worker.stage(stage := f"compress {group.name}"):
            path = worker.groups_folder / f"{group.name}.safetensors"
        worker.timings[stage] = figures.seconds
        saved.append(SavedGroup(path, tuple(members(group, info)), group.stack))
        worker.groups.append(figures)
    return saved


def _hints(calibration: Calibration | None, group: Group, saved: list[SavedGroup]) -> AbstractContextManager[GroupHints | None]:
    """Return a context manager that yields the hints for a group, or None if the run is not calibrated."""
    if calibration is None:
        return nullcontext()
    specs = members(group, calibration.loaded.info)
    return GroupHints(calibration, specs, group.stack, saved)
