"""What a run will cost, roughly, before it starts: seconds stage by stage, and memory. No torch.

    memory = the process with its libraries + the larger of
             the model in float32, with what is decoded and written back, or with statistics while text runs through it
             the largest group in float32 with `Method.memory` beside it: the model is not in memory while a group is fitted

Seconds are those of two cores without a GPU; `python -m benchmarks.estimates` sets both against real runs. Where a run has been
through the same stage before, its time is better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from offcomp.methods import make_method
from offcomp.models.catalogue import ModelInfo
from offcomp.plan import Plan
from offcomp.prediction import Prediction

LOAD_SECONDS = 6.0
EMBED_SECONDS_PER_PARAMETER = 2e-7
CALIBRATE_SECONDS_PER_PARAMETER = 5e-7  # of the whole model: passes over some 250 short texts, with their sums
PROCESS_BYTES = 600_000_000
WRITTEN_BACK, WITH_TEXT = 2, 3  # largest groups in memory beside the model
FLOAT32_BYTES = 4
COUNTED_SECONDS = 90
"""Longer times are told in minutes."""


@dataclass(frozen=True)
class Estimate:
    """What a run will cost.

    stages      seconds of each stage, by its name in `progress.json`, in the order in which they come
    memory      the most bytes that its process will hold
    """

    stages: Mapping[str, float]
    memory: int

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return sum(self.stages.values())

    def to_dict(self) -> dict[str, object]:
        """JSON values."""
        return {"seconds": self.seconds, "stages": dict(self.stages), "memory_bytes": self.memory}


def estimate(plan: Plan, info: ModelInfo, prediction: Prediction, known: Mapping[str, float] | None = None) -> Estimate:
    """Time and memory of a valid plan with its prediction. `known`: seconds that stages took in an earlier run, by name."""
    embed = 1.0 + EMBED_SECONDS_PER_PARAMETER * info.num_parameters
    names = [task.name for task in plan.asked_tasks]
    stages = {"load the model": LOAD_SECONDS} | {f"score the original on {name}": 2 * embed for name in names}
    reading = 3 * CALIBRATE_SECONDS_PER_PARAMETER * info.num_parameters if plan.calibrated else 0.0
    stages |= {f"compress {group.name}": group.seconds + reading for group in prediction.groups}
    stages |= {f"evaluate {name}": embed for name in names}
    stages |= {name: seconds for name, seconds in (known or {}).items() if name in stages}
    return Estimate(stages, PROCESS_BYTES + _held(plan, info, prediction))


def _held(plan: Plan, info: ModelInfo, prediction: Prediction) -> int:
    """The most bytes of matrices that are in memory at a time."""
    groups = [FLOAT32_BYTES * group.rows * group.cols for group in prediction.groups]
    beside = [make_method(group.method, group.options).memory for group in plan.groups]
    fits = [size * (1 + share) for size, share in zip(groups, beside, strict=True)]
    model = FLOAT32_BYTES * info.num_parameters + (WITH_TEXT if plan.calibrated else WRITTEN_BACK) * max(groups, default=0)
    return round(max([model, *fits]))


def free_memory() -> int | None:
    """Bytes that a new process could have on this machine, None where that is not known."""
    try:
        return int(psutil.virtual_memory().available)
    except (OSError, RuntimeError, psutil.Error):
        return None


def roughly(seconds: float) -> int:
    """Whole seconds below ten, and fives of them above."""
    return max(1, round(seconds)) if seconds < 10 else 5 * round(seconds / 5)


def duration(seconds: float) -> str:
    """A rough time in words: "8 s", "35 s", "4 min", "2.5 h"."""
    if seconds < COUNTED_SECONDS:
        return f"{roughly(seconds)} s"
    return f"{round(seconds / 60)} min" if seconds < 60 * COUNTED_SECONDS else f"{seconds / 3600:.1f} h"


def gigabytes(count: int) -> str:
    """Rough bytes: "0.9 GB", "24 GB"."""
    return f"{count / 1e9:.1f} GB" if count < 1e10 else f"{count / 1e9:.0f} GB"
