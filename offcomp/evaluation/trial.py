"""One short example through the model before a task begins: a model that cannot run it is told at once, in one sentence."""

from __future__ import annotations

import torch

from offcomp.errors import TaskError
from offcomp.evaluation.base import TaskData
from offcomp.evaluation.batches import batches
from offcomp.methods.base import ignore_progress
from offcomp.models.checkpoint import LIBRARY_FAULTS
from offcomp.models.loading import LoadedModel, last_hidden_state
from offcomp.tasks import fitting_families

LONGEST_TRIAL = 200  # characters


def check_runs(loaded: LoadedModel, data: TaskData) -> None:
    """The model takes the first example, and gives what the family reads. Raises TaskError."""
    split, task = data.splits["test"], data.task
    columns = [column for column in ("text", "sentence1", "sentence2") if column in split.column_names]
    read = columns if task.about.needs else columns[:1]  # embeddings are of one text each
    ready = batches(loaded, *([split[0][column][:LONGEST_TRIAL]] for column in read))
    if not ready.inputs[0]["input_ids"].numel():
        return  # a text without a token says nothing of the model
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
    """A hidden state for each token. Raises ValueError."""
    if hidden.ndim != 3 or hidden.shape[:2] != tokens.shape:
        raise ValueError(f"its hidden states have the shape {tuple(hidden.shape)}, not one of {tuple(tokens.shape)} tokens")
