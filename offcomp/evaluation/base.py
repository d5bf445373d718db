"""The interface shared by all task families: the examples of a task, and the steps that lead from a model to a comparison.

data = read(task)                              # offcomp.evaluation.data
evaluator = Probe(loaded, data)                # tokenises, once
reference = evaluator.reference(report)        # outputs of the original, as plain arrays that can be cached in a file
predictions = evaluator.predict(reference, report)   # outputs of the current model: one pass over the test split
evaluator.compare(reference, predictions)      # a Score
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from offcomp.numerics.progress import Report, ignore_progress
from offcomp.planning.data.row_counts import RowCounts
from offcomp.planning.data.scores import Score
from offcomp.planning.data.tasks import Task

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

Arrays = Mapping[str, NDArray[Any]]
"""Named arrays: the outputs of the original model or of the compressed one."""


@dataclass(frozen=True)
class TaskData:
    """The examples of a task.

    splits      `test`; also `train` and `validation` if the family trains a probe, otherwise `validation` if the source has
                one. Columns are `text`, or both `sentence1` and `sentence2`; plus `label` (a ClassLabel) or `score` (float)
                if the family has a target
    digest      twelve hexadecimal digits that identify the content of all splits
    tested_on   the source split used for testing ("test", or "validation" if the test split has no public answers)
    rows        how many source rows were read, how many were used, and why the others were not; None if unknown
    columns     task column -> source column
    source      for a task of another library: its object for the task, with the data
    release     the version that the library gives the task
    """

    task: Task
    splits: DatasetDict
    digest: str
    tested_on: str = "test"
    rows: RowCounts | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    source: Any = None
    release: str = ""

    def answers(self, split: str = "test") -> NDArray[Any]:
        """The true class index or score of each example in a split."""
        return np.array(self.splits[split][self.task.kind.target])

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of their indices."""
        return list(self.splits["test"].features["label"].names)

    @property
    def texts(self) -> list[str]:
        """Each test example as one string; the sentences of a pair are separated by a vertical bar."""
        return [" | ".join(texts) for texts in zip(*text_columns(self.splits["test"]), strict=True)]


def text_columns(split: Dataset) -> list[list[str]]:
    """The text column of a split, or both sentence columns if the examples are pairs."""
    names = ("text",) if "text" in split.column_names else ("sentence1", "sentence2")
    return [list(split[name]) for name in names]


class Evaluator(Protocol):
    """A task applied to a model, whose weights may change between calls but whose tokenizer and architecture may not."""

    def details(self) -> dict[str, Any]:
        """The fields of a score that say how the model reads the texts: `cut`, `embedding` and `probe`, where they apply."""
        return {}

    def reference(self, report: Report = ignore_progress) -> Arrays:
        """Outputs of the original model, and any probe fitted to them. Raises TaskError if any value is not finite."""
        ...

    def predict(self, reference: Arrays, report: Report = ignore_progress) -> Arrays:
        """Outputs of the current model on the test split; by default, computed by `reference`."""
        return self.reference(report)

    def compare(self, reference: Arrays, predictions: Arrays) -> Score:
        """Scores and the paired comparison; see `offcomp.evaluation.comparison`."""
        ...
