"""Estimate the cost of a run before it starts: seconds per stage and peak memory. No torch.

    memory = process and libraries + max(model + buffers, group + workspace)

The model and the groups are in float32. The model is loaded only if the plan has tasks or needs text. The buffers contain
either weights that are being decoded and written back, or calibration statistics. The workspace is the memory that a method
needs to compress a group (`Method.memory`); meanwhile, the model is not in memory. The maximum is taken over all groups, and
groups compressed together count as one.

Times assume two CPU cores and no GPU. `python -m benchmarks.estimates` compares the estimates with real runs. For stages
that were completed in an earlier run, the measured times replace the estimates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from offcomp.methods import make_method
from offcomp.models.catalogue import ModelInfo
from offcomp.planning.plan import Plan
from offcomp.planning.sizes import Prediction
from offcomp.planning.together import sets_of_groups

CORRECT = "correct biases and normalisations"
"""The name of the stage of a run in which biases and normalisations are corrected."""
SMALL_SHARE = 0.25
"""Models that take up at most this fraction of the free memory stay loaded; calibration statistics may use as much again."""
LOAD_SECONDS = 6.0
EMBED_SECONDS_PER_PARAMETER = 2e-7
CALIBRATE_SECONDS_PER_PARAMETER = 5e-7  # of the whole model, for a forward pass over about 250 short texts
PROCESS_BYTES = 600_000_000
WRITTEN_BACK, WITH_TEXT = 2, 3  # copies of the largest group in memory in addition to the model
FLOAT32_BYTES = 4
COUNTED_SECONDS = 90
"""Durations of at least this many seconds are shown in minutes."""


def needs_model(plan: Plan) -> bool:
    """Whether a run of a plan loads the model. If not, the matrices are read from the model's files, one group at a time."""
    return bool(plan.tasks) or plan.needs_text


@dataclass(frozen=True)
class Estimate:
    """Estimated cost of a run.

    stages      stage name (as in `progress.json`) -> seconds, in execution order
    memory      peak memory of the process in bytes
    """

    stages: Mapping[str, float]
    memory: int

    @property
    def seconds(self) -> float:
        """Total duration of the run in seconds."""
        return sum(self.stages.values())

    def to_dict(self) -> dict[str, object]:
        """As JSON values."""
        return {"seconds": self.seconds, "stages": dict(self.stages), "memory_bytes": self.memory}


def estimate(plan: Plan, info: ModelInfo, prediction: Prediction, known: Mapping[str, float] | None = None) -> Estimate:
    """Estimate the time and memory needed by a valid plan. `known` maps stage names to seconds measured in an earlier run."""
    embed = 1.0 + EMBED_SECONDS_PER_PARAMETER * info.num_parameters
    names = [task.name for task in plan.resolved_tasks]
    stages = {"load the model": LOAD_SECONDS} | {f"score the original on {name}": 2 * embed for name in names}
    text_pass = CALIBRATE_SECONDS_PER_PARAMETER * info.num_parameters
    reading = 3 * text_pass if plan.calibrated_groups else 0.0
    stages |= {f"compress {name}": seconds + reading for name, seconds in _fit_seconds(plan, info, prediction).items()}
    stages |= {CORRECT: 3 * text_pass} if plan.corrects else {}
    stages |= {f"evaluate {name}": embed for name in names}
    stages |= {name: seconds for name, seconds in (known or {}).items() if name in stages}
    return Estimate(stages, PROCESS_BYTES + _peak_bytes(plan, info, prediction))


def _fit_seconds(plan: Plan, info: ModelInfo, prediction: Prediction) -> dict[str, float]:
    """The seconds to compress each group. If groups are compressed together, the time of all is assigned to the first."""
    seconds = {group.name: group.seconds for group in prediction.groups}
    predicted = {group.name: group for group in prediction.groups}
    for groups in sets_of_groups(plan.groups, info):
        if len(groups) > 1:
            first, method = predicted[groups[0].name], make_method(groups[0].method, groups[0].options)
            seconds |= {group.name: 0.0 for group in groups}
            seconds[first.name] = method.seconds_together(first.rows, first.cols, first.size, len(groups))
    return seconds


def _peak_bytes(plan: Plan, info: ModelInfo, prediction: Prediction) -> int:
    """Peak memory used by matrices, in bytes."""
    sizes = {group.name: FLOAT32_BYTES * group.rows * group.cols for group in prediction.groups}
    fits = [
        sum(sizes[group.name] for group in groups) * (1 + make_method(groups[0].method, groups[0].options).memory)
        for groups in sets_of_groups(plan.groups, info)
    ]
    copies = WITH_TEXT if plan.needs_text else WRITTEN_BACK
    model = _model_bytes(plan, info) if needs_model(plan) else 0
    return round(max([model + copies * max(sizes.values(), default=0), *fits]))


def _model_bytes(plan: Plan, info: ModelInfo) -> int:
    """Memory of a loaded model in bytes: in float32 with text, otherwise layers as they are stored and all else in float32."""
    in_layers = [spec for spec in info.modules if spec.layer is not None]
    saved = sum(FLOAT32_BYTES * spec.num_parameters - spec.num_bytes for spec in in_layers)
    return FLOAT32_BYTES * info.num_parameters - (0 if plan.needs_text else saved)


def free_memory() -> int | None:
    """Memory in bytes that is available to a new process on this machine, or None if unknown."""
    try:
        return int(psutil.virtual_memory().available)
    except (OSError, RuntimeError, psutil.Error):
        return None


def roughly(seconds: float) -> int:
    """Round seconds to a whole number if below ten, otherwise to a multiple of five."""
    return max(1, round(seconds)) if seconds < 10 else 5 * round(seconds / 5)


def duration(seconds: float) -> str:
    """A rounded duration as text: "8 s", "35 s", "4 min", "2.5 h"."""
    if seconds < COUNTED_SECONDS:
        return f"{roughly(seconds)} s"
    return f"{round(seconds / 60)} min" if seconds < 60 * COUNTED_SECONDS else f"{seconds / 3600:.1f} h"


def gigabytes(count: int) -> str:
    """A rounded byte count as text: "0.9 GB", "24 GB"."""
    return f"{count / 1e9:.1f} GB" if count < 1e10 else f"{count / 1e9:.0f} GB"
