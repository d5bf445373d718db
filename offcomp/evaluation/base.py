"""What the task families share: their examples, and the steps from a model to a comparison.

data = read(task)                              # offcomp.evaluation.data
evaluator = Probe(loaded, data)                # tokenises, once
reference = evaluator.reference(report)        # what the original gives; plain arrays, so that they can be kept in a file
predictions = evaluator.predict(reference, report)   # the model as it is now: one pass over the test split
evaluator.compare(reference, predictions)      # JSON values
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from offcomp.methods.base import Report
from offcomp.row_counts import RowCounts
from offcomp.tasks import Task

if TYPE_CHECKING:
    from datasets import DatasetDict

Arrays = Mapping[str, NDArray[Any]]
"""Named arrays: what the original model gives, or what the compressed one does."""


@dataclass(frozen=True)
class TaskData:
    """The examples of a task.

    splits      `test`, and `train` and `validation` where the family trains; columns `text` or `sentence1` and `sentence2`, and
                `label` (a ClassLabel) or `score` (float) where the family has a target
    digest      twelve hexadecimal digits that stand for the content of all splits
    tested_on   the split of the source that `test` is ("test"; "validation" where the test split has no public answers)
    rows        rows of the source that were read and are used, and why the others are not; None where that is not known
    columns     column of the task -> the column of the source that it was taken from
    """

    task: Task
    splits: DatasetDict
    digest: str
    tested_on: str = "test"
    rows: RowCounts | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


class Evaluator(Protocol):
    """One task on one model. `loaded.model` may change between the calls; its tokenizer and architecture do not."""

    def about(self) -> dict[str, Any]:
        """What a score of it should be read with, as JSON values: `cut`, `embedding`, `probe`; see `OpenTask`."""
        ...

    def reference(self, report: Report) -> Arrays:
        """What the original model gives, with what is fitted on it (a probe). Raises TaskError."""
        ...

    def predict(self, reference: Arrays, report: Report) -> Arrays:
        """What the model as it is now gives on the test split. Raises TaskError where values are not finite."""
        ...

    def compare(self, reference: Arrays, predictions: Arrays) -> dict[str, Any]:
        """Scores and the paired comparison as JSON values, see `offcomp.evaluation.comparison`."""
        ...
