"""Run one short example before a task begins, so that a model that cannot perform the task fails early with a clear message."""

from __future__ import annotations

from offcomp.errors import TaskError
from offcomp.evaluation.base import TaskData, text_columns
from offcomp.evaluation.batches import batches
from offcomp.models.checkpoint import LIBRARY_FAULTS
from offcomp.models.loading import LoadedModel, last_hidden_state, reads_text
from offcomp.numerics.progress import ignore_progress
from offcomp.planning.data.task_families import ENCODER_DECODER
from offcomp.planning.data.tasks import Task, fitting_families, unfit
from offcomp.planning.data.text_tables import reason

MAX_TRIAL_LENGTH = 200  # characters


def check_fits(loaded: LoadedModel, task: Task) -> None:
    """Check that the model's class supports the task. Raises TaskError."""
    fault = unfit(task, loaded.info.architecture, reads_text(type(loaded.model)))
    if fault:
        raise TaskError(fault.removesuffix("."))


def check_runs(loaded: LoadedModel, data: TaskData) -> None:
    """Check that the model accepts the first example and returns outputs that suit the task family. Raises TaskError."""
    task = data.task
    columns = text_columns(data.splits["test"].select([0]))
    read = columns if task.kind.needs else columns[:1]  # each text is embedded separately
    ready = batches(loaded, *([text[:MAX_TRIAL_LENGTH]] for (text,) in read))
    if not ready.inputs[0]["input_ids"].numel():
        return  # an empty text would test nothing
    try:
        for _, inputs in ready.on(loaded, ignore_progress):
            if task.kind.needs and task.kind.needs != ENCODER_DECODER:
                loaded.model(**inputs)
            else:
                hidden, tokens = last_hidden_state(loaded.model, **inputs), inputs["input_ids"]
                if hidden.ndim != 3 or hidden.shape[:2] != tokens.shape:
                    shape = tuple(hidden.shape)
                    raise ValueError(f"its hidden states have shape {shape}, but the tokens have shape {tuple(tokens.shape)}")
    except LIBRARY_FAULTS as error:
        others = [name for name in fitting_families(loaded.info.architecture) if name != task.family]
        raise TaskError(
            f"task {task.name!r} does not run on {loaded.info.model} ({loaded.info.architecture}): {reason(error)}; choose "
            f"a different task family ({', '.join(others)}), or remove the tasks"
        ) from error
