"""Every error that offcomp raises on purpose.

A message is one sentence that names what was wrong, the value, and what to do about it.

    OffcompError
    ├── InputError            what the user gave cannot be used (command line: exit code 2)
    │   ├── ModelError        a model that is unknown, unsafe or broken
    │   ├── PlanError         a plan with one or more faults, all of them listed in `faults`
    │   ├── BudgetTooSmall    even the smallest form of a method does not fit the budget
    │   └── TaskError         a task that is unknown, or does not fit the model
    ├── StorageError          a folder of runs or an export cannot be written or read, or is not what it says
    └── RunError              a run that failed, was cancelled or was interrupted
"""

from __future__ import annotations

from collections.abc import Sequence


class OffcompError(Exception):
    """Root of all errors raised by offcomp."""


class InputError(OffcompError):
    """What the user gave cannot be used."""


class ModelError(InputError):
    """A model is unknown, unsafe to load, or broken."""


class PlanError(InputError):
    """A plan has faults.

    `faults` holds one sentence each, so that all of them can be mended in one go.
    """

    def __init__(self, faults: Sequence[str]):
        self.faults = tuple(faults)
        super().__init__(" ".join(self.faults))


class BudgetTooSmall(InputError):
    """Even the smallest form of a method does not fit the budget."""


class TaskError(InputError):
    """A task is unknown or does not fit the model."""


class StorageError(OffcompError):
    """A folder of runs or an export cannot be written or read, or does not hold what it says."""


class RunError(OffcompError):
    """A run failed, was cancelled or was interrupted."""


MOST_NAMES = 5
LONGEST_NAME = 80  # characters


def shortly(names: Sequence[str], *, between: str = ", ") -> str:
    """Names in a message, a handful of them: "a, b, c, d, e and 40 more"."""
    rest = len(names) - MOST_NAMES
    return between.join(name[:LONGEST_NAME] for name in names[:MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")
