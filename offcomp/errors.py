"""All errors that offcomp raises deliberately.

Each message is one sentence that states what is wrong, the offending value, and what to do about it.

    OffcompError
    ├── InputError            unusable input from the user (command line: exit code 2)
    │   ├── ModelError        a model that is unknown, unsafe or broken
    │   ├── PlanError         a plan with one or more faults, all listed in `faults`
    │   ├── BudgetTooSmall    even a method's smallest size exceeds the budget
    │   └── TaskError         a task that is unknown, or that the model does not support
    ├── StorageError          a run folder or an export cannot be written or read, or is inconsistent
    └── RunError              a run that failed, was cancelled or was interrupted
"""

from __future__ import annotations

from collections.abc import Sequence


class OffcompError(Exception):
    """Base class of all errors raised by offcomp."""


class InputError(OffcompError):
    """The user's input cannot be used."""


class ModelError(InputError):
    """A model is unknown, unsafe to load, or broken."""


class PlanError(InputError):
    """A plan has faults.

    `faults` contains one sentence per fault, so that the user can fix all of them at once.
    """

    def __init__(self, faults: Sequence[str]):
        self.faults = tuple(faults)
        super().__init__(" ".join(self.faults))


class BudgetTooSmall(InputError):
    """The budget is too small even for the smallest size of a method."""


class TaskError(InputError):
    """A task is unknown, or the model does not support it."""


class StorageError(OffcompError):
    """A run folder or an export cannot be written or read, or is inconsistent."""


class RunError(OffcompError):
    """A run failed, was cancelled or was interrupted."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


MAX_NAMES = 5
MAX_NAME_LENGTH = 80  # characters


def shortly(names: Sequence[str], *, between: str = ", ") -> str:
    """Join names for a message, listing only the first few: "a, b, c, d, e and 40 more"."""
    rest = len(names) - MAX_NAMES
    return between.join(name[:MAX_NAME_LENGTH] for name in names[:MAX_NAMES]) + (f" and {rest} more" if rest > 0 else "")
