"""Run one short example before a task begins, so that a model that cannot do the task fails immediately and clearly."""

from __future__ import annotations

import torch

from offcomp.errors import TaskError
from offcomp.evaluation.base import TaskData
from offcomp.evaluation.batches import batches
from offcomp.models.checkpoint import LIBRARY_FAULTS
from offcomp.models.loading import LoadedModel, last_hidden_state
from offcomp.numerics.progress import ignore_progress
from offcomp.planning.data.tasks import fitting_families

LONGEST_TRIAL = 200  # characters


def check_runs(loaded: LoadedModel, data: TaskData) -> None:
    """Check that the model accepts the first example and returns the outputs the family needs. Raises TaskError."""
    split, task = data.splits["test"], data.task
    columns = [column for column in ("text", "sentence1", "sentence2") if column in split.column_names]
    read = columns if task.about.needs else columns[:1]  # each embedding is of a single text
    ready = batches(loaded, *([split[0][column][:LONGEST_TRIAL]] for column in read))
    if not ready.inputs[0]["input_ids"].numel():
        return  # an empty text tests nothing
    try:
        for _, inputs in ready.on(loaded, ignore_progress):
            if task.about.needs:
                loaded.model(**inputs)
            else:
                _check_hidden(last_hidden_state(loaded.model, **inputs), inputs["input_ids"])
    except LIBRARY_FAULTS as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        others = [name for name in fitting_families(loaded.info.architecture) if name != task.family]
        raise TaskError(
            f"task {task.name!r} does not run on {loaded.info.model}, a {loaded.info.architecture}: {said}; choose another "
            f"family of tasks ({', '.join(others)}), or leave the tasks out"
        ) from error


def _check_hidden(hidden: torch.Tensor, tokens: torch.Tensor) -> None:
    """Check that there is a hidden state for each token. Raises ValueError."""
    if hidden.ndim != 3 or hidden.shape[:2] != tokens.shape:
        raise ValueError(f"its hidden states have shape {tuple(hidden.shape)}, which does not fit {tuple(tokens.shape)} tokens")
