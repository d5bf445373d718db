"""Subcommands that list the tasks and score a model on them, either by itself or against the model it was derived from."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from offcomp.cli.inputs import Verb, describe, device_flag, emit, requested_tasks, say, task_flags
from offcomp.cli.text import format_table, score_line
from offcomp.devices import computing_device
from offcomp.errors import InputError, ModelError, PlanError, TaskError
from offcomp.files import home_folder
from offcomp.models.catalogue import ModelInfo
from offcomp.planning.data.row_counts import reading_text
from offcomp.planning.data.scores import OriginalScore, Score
from offcomp.planning.data.task_check import task_fault
from offcomp.planning.data.task_fields import task_faults
from offcomp.planning.data.tasks import TASKS, Task, find_task, fitting_families, usual_tasks
from offcomp.results.scores import METRICS, baseline_of, concerns, metric_of, notes, others_of

if TYPE_CHECKING:
    from offcomp.evaluation import OpenTask
    from offcomp.models.loading import LoadedModel

DATA_NOTE = (
    "data: bundled data comes with offcomp; hub data is downloaded once and cached. "
    "head: required suffix of the model's class name. Any task of lm-evaluation-harness (lm-eval:NAME) or MTEB (mteb:NAME) "
    "can be named as well."
)


def add_verbs(verb: Verb) -> None:
    """Add `tasks` and `evaluate`."""
    verb("tasks", tasks)
    parser = verb("evaluate", evaluate)
    parser.add_argument("model", help="catalogue name, folder or hub id")
    task_flags(parser, "every bundled task that the model supports")
    parser.add_argument("--original", metavar="MODEL", help="compare with this model on the same examples")
    parser.add_argument("--seed", type=seed_number, default=0, help="seed for splitting data that has no predefined splits")
    device_flag(parser)


def seed_number(text: str) -> int:
    """Parse a seed; the valid range is the same as in a plan."""
    if text.isdecimal() and int(text) < 2**31:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2147483647")


def tasks(arguments: argparse.Namespace) -> None:
    """List the built-in tasks."""
    rows = [
        {
            "name": task.name,
            "title": task.title,
            "family": task.family,
            "metric": task.kind.metric,
            "better": METRICS[task.kind.metric].direction,
            "data": task.data,
            "source": task.source,
            "licence": task.licence,
            "head": " or ".join(task.kind.needs),
        }
        for task in TASKS
    ]
    emit(arguments, rows, lambda: format_table(rows) + "\n\n" + DATA_NOTE)


def evaluate(arguments: argparse.Namespace) -> None:
    """Score a model on tasks, either by itself or against the model it was derived from."""
    from offcomp.models.loading import load

    info = describe(arguments.model)
    original_info = describe(arguments.original) if arguments.original else info
    chosen = checked_tasks(arguments, info, original_info)
    if not chosen:
        raise InputError(without_task(info))
    device = computing_device()
    original = load(original_info.model, held=True).to(device)
    model = load(info.model, held=True).to(device) if arguments.original else None
    if model is not None:
        check_vocabulary(original, model)
    alone: dict[str, OriginalScore] = {}
    compared: dict[str, Score] = {}
    for task in chosen:
        try:
            opened = opened_task(task, original, seed=arguments.seed)
            if model is None:
                alone[task.name] = opened.original()
            else:
                compared[task.name] = opened.compare(model=model)
        except (TaskError, ModelError) as error:
            if requested_tasks(arguments) or (isinstance(error, ModelError) and not task.kind.embeds):
                raise
            say(f"left out: {error}")  # a default task that the model turns out not to support
    if not (alone or compared):
        raise InputError(without_task(info))
    scores = {name: score.to_dict() for name, score in (alone | compared).items()}
    document = {"model": info.model, "original": arguments.original, "scores": scores}
    emit(arguments, document, lambda: compared_text(compared) if model else scores_text(alone))


def without_task(info: ModelInfo) -> str:
    """The error message for a model that supports none of the bundled tasks."""
    families = fitting_families(info.architecture, info.reads_text)
    if not families:
        return f"{info.model} ({info.architecture}) does not read text, so it supports no family of tasks"
    fitting = ", ".join(families)
    return (
        f"{info.model} supports no bundled task; use another with --task, or use your own with --data and --family ({fitting})"
    )


def checked_tasks(arguments: argparse.Namespace, *infos: ModelInfo) -> list[Task]:
    """The requested tasks, or the defaults that all models support. Raises PlanError if a model does not support a task."""
    requested = requested_tasks(arguments)
    if not requested:
        supported = [usual_tasks(info.architecture, info.reads_text) for info in infos]
        defaults = [find_task(name) for name in supported[0] if all(name in names for names in supported)]
        return [task for task in defaults if arguments.original or not task.kind.fidelity]
    faults = dict.fromkeys(fault for info in infos for fault in task_faults(requested, info.architecture, info.reads_text))
    if faults:
        raise PlanError(list(faults))
    chosen = [find_task(task) if isinstance(task, str) else task for task in requested]
    if not arguments.original and (alone := next((task for task in chosen if task.kind.fidelity), None)):
        raise InputError(f"task {alone.name!r} compares a model with its original; add --original MODEL")
    original = infos[-1]  # its head outputs are matched to the labels
    faults = dict.fromkeys(filter(None, [task_fault(task, original) for task in chosen]))
    if faults:
        raise PlanError(list(faults))
    return chosen


def check_vocabulary(original: LoadedModel, model: LoadedModel) -> None:
    """Raise InputError unless both models have vocabularies of the same size."""
    sizes = [getattr(loaded.model.config, "vocab_size", None) for loaded in (original, model)]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"{model.info.model} has a vocabulary of {sizes[1]} tokens and {original.info.model} has one of {sizes[0]}, so "
            "they cannot read the same text; set --original to the model it was derived from"
        )


def opened_task(task: Task, original: LoadedModel, *, seed: int) -> OpenTask:
    """Read a task's examples for the original model, and say what is being done. Raises TaskError."""
    from offcomp.evaluation import open_task

    say(f"reading {task.name}")
    opened = open_task(task, original, seed=seed, cache=home_folder() / "evaluations")  # a cache shared with runs
    if opened.guessed:
        say("guessed columns: " + ", ".join(f"{ours} from {named}" for ours, named in opened.guessed.items()))
    say(f"scoring {task.name}")
    return opened


def scores_text(scores: dict[str, OriginalScore]) -> str:
    """A table with the score, standard error and baseline per task and metric, followed by row counts and notes."""
    rows = []
    for task, entry in [(task, each) for task, own in scores.items() for each in (own, *others_of(own).values())]:
        metric, baseline = metric_of(entry), baseline_of(entry)
        error = entry.standard_error
        rows.append(
            {
                "task": task,
                "metric": metric.name,
                "better": metric.direction,
                "score": f"{entry.value:.4g}",
                "standard error": "" if error is None else f"{error:.2g}",
                "n": entry.n,
                "baseline": f"{baseline[1]:.4g} ({baseline[0]})" if baseline else "",
            }
        )
    readings = [f"{task}: {reading}" for task, entry in scores.items() if (reading := reading_text(entry))]
    note_lines = [note for task, entry in scores.items() for note in notes(task, entry)]
    return "\n".join([format_table(rows), *([""] if readings else []), *readings, *note_lines])


def compared_text(scores: dict[str, Score]) -> str:
    """One line per task, with both scores and their paired difference, followed by warnings and notes."""
    lines = [f"{task}: {score_line(entry)}" for task, entry in scores.items()]
    warnings = [clause for task, entry in scores.items() for clause in concerns(task, entry, compressed=True)]
    note_lines = [note for task, entry in scores.items() for note in notes(task, entry)]
    return "\n".join([*lines, *(f"the model {clause}" for clause in warnings), *note_lines])
