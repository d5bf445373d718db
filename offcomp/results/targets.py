"""Targets as users state them: a ratio, a rank, megabytes, an error, or how much of a score may be lost.

A target is short text in links, in the app and on the command line:

    3x                             compression ratio of the chosen weights, in the unit of their groups
    rank 64                        rank (latent width, number of terms) of every group
    energy 0.9                     share of the squared singular values that every group keeps (SVD)
    12 MB                          stored size of the whole model, including what is not compressed
    error 0.3                      relative error over all chosen weights together
    lose 1 point of similarity     how far a score may fall: 1 point is 0.01 of an accuracy or a correlation
    lose 5 % of perplexity         the same, as a share of the original's score

Does not import torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from offcomp.errors import InputError
from offcomp.models.catalogue import ModelInfo
from offcomp.planning.data.metrics import METRICS
from offcomp.planning.data.tasks import Task, find_task, usual_tasks
from offcomp.planning.plan import Plan

KINDS = ("ratio", "rank", "energy", "megabytes", "error", "loss")
EXAMPLES = "3x, rank 64, energy 0.9, 12 MB, error 0.3, lose 1 point of similarity, or lose 5 % of perplexity"
NUMBER = r"(?P<value>\d+(?:\.\d+)?|\.\d+)"
PATTERNS = {
    "ratio": rf"(?:ratio\s+)?{NUMBER}\s*[x×]|ratio\s+(?P<bare>\d+(?:\.\d+)?)",
    "rank": rf"rank\s+{NUMBER}",
    "energy": rf"energy\s+{NUMBER}",
    "megabytes": rf"{NUMBER}\s*MB",
    "error": rf"error\s+{NUMBER}",
    "loss": rf"(?:lose\s+(?:at\s+most\s+)?)?{NUMBER}\s*(?P<unit>points?|%|percent)(?:\s+of\s+(?P<task>\S(?:.*\S)?))?",
}
LIMITS = {
    "ratio": (1.0, float("inf"), "1 or more"),
    "rank": (1.0, float("inf"), "a whole number, 1 or more"),
    "energy": (0.0, 1.0, "above 0 and at most 1"),
    "megabytes": (0.0, float("inf"), "above 0"),
    "error": (0.0, 1.0, "above 0 and at most 1"),
    "loss": (0.0, float("inf"), "above 0"),
}
"""Kind -> smallest value, largest value, and this range in words. A smallest value of 0 is excluded."""
PER_POINT = 100
SCORE, SENSITIVITY = WEIGHTINGS = ("score", "sensitivity")
"""What decides how a budget is divided among groups: scores of earlier runs, or measured sensitivities."""


@dataclass(frozen=True)
class Target:
    """What a plan should achieve.

    kind        one of `KINDS`
    value       ratio, rank, share of the energy, megabytes (10^6 bytes), relative error, or drop in a score
    task        loss: name of a task, or of a metric such as "perplexity"; empty for the first task of the plan
    relative    loss: whether `value` is a share of the original's score rather than a difference (1 point is 0.01)
    """

    kind: str
    value: float
    task: str = ""
    relative: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"unknown kind of target {self.kind!r}; choose one of {', '.join(KINDS)}")
        least, most, words = LIMITS[self.kind]
        whole = self.kind != "rank" or float(self.value).is_integer()
        if not (least <= self.value <= most and self.value > 0 and self.value != float("inf") and whole):
            kind = "size in MB" if self.kind == "megabytes" else self.kind
            raise InputError(f"a target {kind} of {self.value:g} is not possible; it must be {words}")

    def __str__(self) -> str:
        return format_target(self)


def parse_target(text: str) -> Target:
    """Read a target, such as "12 MB" or "lose 1 point of similarity". Raises InputError."""
    for kind, pattern in PATTERNS.items():
        found = re.fullmatch(pattern, text.strip(), flags=re.IGNORECASE)
        if found:
            parts = found.groupdict()
            value = float(parts["value"] or parts["bare"])
            if kind != "loss":
                return Target(kind, value)
            return Target(kind, value / PER_POINT, parts["task"] or "", relative=not parts["unit"].lower().startswith("point"))
    raise InputError(f"{text!r} is not a target; examples are {EXAMPLES}")


def format_target(target: Target) -> str:
    """A target as text that `parse_target` reads."""
    value = f"{target.value:.6g}"
    if target.kind == "loss":
        amount = f"{PER_POINT * target.value:.6g}"
        unit = "%" if target.relative else "point" if amount == "1" else "points"
        return f"lose {amount} {unit}" + (f" of {target.task}" if target.task else "")
    return {"ratio": f"{value}x", "megabytes": f"{value} MB"}.get(target.kind, f"{target.kind} {value}")


def task_of(target: Target, plan: Plan, info: ModelInfo) -> Task:
    """The task whose score a loss refers to: a task of the plan, or else a bundled task that the model supports.

    Raises InputError if there is none with this name or metric.
    """
    bundled = [find_task(name) for name in usual_tasks(info.architecture, info.reads_text)]
    tasks = [*plan.resolved_tasks, *bundled]
    for task in tasks:
        if not target.task or target.task.lower() in _names(task):
            return task
    known = ", ".join(dict.fromkeys(task.name for task in tasks)) or "none"
    raise InputError(f"{info.model} has no task or metric {target.task!r}; its tasks are {known}")


def _names(task: Task) -> Sequence[str]:
    """The names by which a target may refer to a task."""
    metric = METRICS[task.kind.metric]
    short = ["perplexity"] if metric.name.endswith("perplexity") else []
    return [name.lower() for name in (task.name, task.title, metric.name, metric.word, *short)]
