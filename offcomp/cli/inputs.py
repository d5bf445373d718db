"""Helpers shared by the subcommands: read models and plans, select modules, and print output."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from offcomp.devices import AUTO, DEVICE_VARIABLE, DEVICES
from offcomp.errors import InputError, OffcompError, StorageError
from offcomp.files import REMEDIES, home_folder, path_of
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.models.families import KINDS
from offcomp.models.listing import folder_of, keep_kinds, model_info
from offcomp.plain_text import without_unseen
from offcomp.planning.data.calibration_text import BUNDLED, CalibrationText
from offcomp.planning.data.task_fields import SUFFIXES as TABLES
from offcomp.planning.data.task_fields import own_task
from offcomp.planning.data.tasks import FAMILIES, HARNESSES, OWN_FAMILIES, Task, find_task, harness_task
from offcomp.planning.plan import Plan, validate
from offcomp.planning.ranks import with_computed_ranks
from offcomp.planning.selection import select_modules

Verb = Callable[[str, Callable[[argparse.Namespace], None]], argparse.ArgumentParser]
"""A function that adds a subcommand, given its name and the function that runs it."""
STDERR = 2
STOPPED, UNREAD = 130, 141
"""Exit statuses after Ctrl-C and after the reader closes the pipe, as shells report them for SIGINT and SIGPIPE."""
UNKNOWN_FAMILY = "its family is unknown (model type '{}'), so select modules with --modules, as listed by"


def say(text: str) -> None:
    """Print a message to stderr; it is silently dropped if stderr is not writable."""
    with suppress(OSError, AttributeError):  # AttributeError: stderr was closed at startup
        sys.stderr.write(_for_terminal(text) + "\n")
        sys.stderr.flush()


def _for_terminal(text: str) -> str:
    """The text without control characters, which names in untrusted files could use to take over the terminal."""
    return "\n".join(map(without_unseen, text.split("\n")))


def say_notes(arguments: argparse.Namespace, notes: Iterable[str]) -> None:
    """Print notes to stderr if the output is JSON; text output already includes them."""
    for note in notes if arguments.json else ():
        say(note)


def emit(arguments: argparse.Namespace, document: Any, text: Callable[[], str]) -> None:
    """Print the output to stdout, as JSON if requested, otherwise as text. Raises StorageError if it cannot be written.

    Raises BrokenPipeError if the reader has closed the pipe.
    """
    answer = json.dumps(document, indent=1) if arguments.json else _for_terminal(text())
    if sys.stdout is None:
        raise StorageError("cannot write the output because stdout is closed; redirect it to a file or a terminal")
    try:
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StorageError(f"cannot write the output to stdout: {error.strerror}; redirect it elsewhere") from None


def ended_quietly(act: Callable[[], None]) -> int:
    """Run a command and return its exit status. Errors are printed to stderr as one line, without a traceback."""
    try:
        _keep_numbers()
        act()
    except OffcompError as error:
        say(f"offcomp: {without_unseen(str(error))}")
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C interrupts the cleanup at once
        return STOPPED
    except BrokenPipeError:
        return UNREAD
    except OSError as error:
        what = f" {error.filename}" if error.filename else ""
        remedy = f"; {REMEDIES[error.errno]}" if error.errno in REMEDIES else ""
        say(f"offcomp: cannot continue:{what} {error.strerror or error}{remedy}")
        return 1
    finally:
        _empty(sys.stdout)
        _empty(sys.stderr)
    return 0


def _keep_numbers() -> None:
    """Open the null device in place of any closed standard stream, so that no other file can be given its descriptor."""
    while (file := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        pass
    os.close(file)


def _empty(stream: TextIO | None) -> None:
    """Flush a stream; if that fails, discard its buffer to keep the interpreter from flushing it again at exit."""
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def select(info: ModelInfo, arguments: argparse.Namespace) -> tuple[ModuleSpec, ...]:
    """The modules selected by --modules or --kinds, --layers and --exclude. Raises InputError if no module matches."""
    kinds, present = (arguments.kinds or "").split(","), {spec.kind for spec in info.modules}
    for kind in kinds if arguments.kinds and not arguments.modules else ():
        if kind not in present:
            raise InputError(f"{info.model} has no module of kind {kind!r}; its kinds are {', '.join(sorted(present))}")
    patterns = arguments.modules or arguments.kinds or None
    return select_modules(info, patterns, exclude=arguments.exclude or (), layers=arguments.layers or None)


def check_grouping(info: ModelInfo, specs: Sequence[ModuleSpec], grouping: str) -> None:
    """Raise InputError if a grouping depends on kinds and layers that are unknown.

    Without this check, the grouping would silently put each module in a group of its own.
    """
    if grouping in ("qkv", "blocks") and all(spec.kind == "other" for spec in specs) and info.family is None:
        raise InputError(
            f"--group {grouping} needs kinds and layers, which cannot be determined for {info.model}: "
            f"{UNKNOWN_FAMILY.format(info.model_type)} 'offcomp modules {info.model}', and choose --group module, kind or all"
        )


def describe(model: str) -> ModelInfo:
    """Describe a model and its modules, using the disk cache if possible."""
    return model_info(model, home_folder())


def correct_kinds(model: str, file: str) -> ModelInfo:
    """Keep a file of corrected kinds in a model's folder, and describe the model.

    Raises InputError if the file cannot be read, and as `keep_kinds` does.
    """
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the kinds in {file}: {error.strerror}") from None
    if folder_of(model) is None:
        describe(model)  # downloads it
    keep_kinds(model, content, home_folder())
    return describe(model)


def read_plan(path: str) -> tuple[Plan, ModelInfo]:
    """Read and validate a plan file; return the plan and a description of its model."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"cannot read the plan {path}: {reason}") from None
    plan = Plan.from_json(text)
    info = describe(plan.model)
    validate(plan, info)
    return with_computed_ranks(plan, info, home_folder()), info


def write_plan(path: str | None, plan: Plan) -> None:
    """Write a plan to a file unless the path is None. Raises InputError if that fails."""
    if path is not None:
        write_file(path, plan.to_json() + "\n", "plan")


def write_file(path: str, text: str, what: str) -> None:
    """Write text to a file specified by the user. Raises InputError if that fails."""
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write the {what} {path}: {error.strerror}") from None
    say(f"wrote {path}")


def calibration_text(path: str | None) -> CalibrationText:
    """The calibration text in a file, or the bundled text by default. Raises InputError if the path is invalid.

    The path is made absolute because the plan may be run from a different folder.
    """
    if path is None or path == BUNDLED:
        return CalibrationText()
    return CalibrationText(text=str(path_of(path).absolute()))


def task_flags(flags: argparse.ArgumentParser, default: str) -> None:
    """Add the flags that `requested_tasks` reads."""
    flags.add_argument(
        "--task",
        action="append",
        metavar="NAME",
        help="task name, as listed by 'offcomp tasks', or a task of lm-evaluation-harness (lm-eval:NAME) or MTEB (mteb:NAME); "
        f"default: {default}",
    )
    flags.add_argument(
        "--include-path", metavar="FOLDER", help="with lm-eval:NAME or mteb:NAME: folder with your own task files or data"
    )
    flags.add_argument("--num-fewshot", type=int, metavar="N", help="with lm-eval:NAME: number of examples in each prompt")
    flags.add_argument("--limit", type=int, metavar="N", help="with lm-eval:NAME: use only the first N examples")
    flags.add_argument(
        "--data", metavar="PATH", help=f"your own task: a file ({', '.join(TABLES)}), or a folder with one file per split"
    )
    flags.add_argument("--family", choices=OWN_FAMILIES, help="with --data: the task family")
    flags.add_argument(
        "--column", action="append", default=[], metavar="OURS=YOURS", help="with --data: column mapping, such as text=body"
    )
    flags.add_argument(
        "--labels", metavar="A,B", help="with --data and a classifier: class names in the order of the model's outputs"
    )


def device_flag(flags: argparse.ArgumentParser) -> None:
    """Add the flag --device, which `main` passes on to `using_device`."""
    flags.add_argument(
        "--device", choices=DEVICES, help=f"where to compute; default: the variable {DEVICE_VARIABLE} or, without it, {AUTO}"
    )


def requested_tasks(arguments: argparse.Namespace) -> tuple[str | Task, ...]:
    """The tasks named by --task and the task defined by --data. Raises InputError for incompatible flags."""
    named = _with_options(arguments)
    if not arguments.data:
        for flag, value in (("--family", arguments.family), ("--column", arguments.column), ("--labels", arguments.labels)):
            if value:
                raise InputError(f"{flag} applies only to your own task; add --data PATH")
        return named
    if not arguments.family:
        raise InputError(f"--data {arguments.data} requires --family; choose one of {', '.join(OWN_FAMILIES)}")
    pairs = [text.partition("=") for text in arguments.column]
    for ours, separator, yours in pairs:
        if not (ours and separator and yours):
            raise InputError(f"--column must be OURS=YOURS, such as text=body, not {ours + separator + yours!r}")
    options = {"labels": [name.strip() for name in arguments.labels.split(",")]} if arguments.labels else {}
    columns = {ours: yours for ours, _, yours in pairs}
    return (*named, own_task(arguments.data, arguments.family, columns, options=options))


def _with_options(arguments: argparse.Namespace) -> tuple[str | Task, ...]:
    """The tasks named by --task, with the flags for tasks of other libraries. Raises InputError for a flag without its task."""
    named = tuple(arguments.task or ())
    folder = str(path_of(arguments.include_path).absolute()) if arguments.include_path else None
    given = {"include_path": folder, "num_fewshot": arguments.num_fewshot, "limit": arguments.limit}
    options = {name: value for name, value in given.items() if value is not None}
    for name in options:
        if not any(task.startswith(HARNESSES) and name in find_task(task).settings for task in named):
            kinds = " or ".join(family.name for family in FAMILIES.values() if name in family.options)
            raise InputError(f"--{name.replace('_', '-')} applies only to tasks of {kinds}; add --task {kinds.split()[0]}:NAME")

    def described(task: str) -> str | Task:
        fitting = {name: options[name] for name in options if name in find_task(task).settings}
        return harness_task(task, **fitting) if fitting else task

    return tuple(described(task) if task.startswith(HARNESSES) else task for task in named)


def selection_flags(flags: argparse.ArgumentParser) -> None:
    """Add the flags that `select` reads."""
    flags.add_argument("model", help="catalogue name, folder or hub id")
    flags.add_argument(
        "--kinds", help=f"comma-separated module kinds, from {', '.join(KINDS)}; default: all except word_embeddings"
    )
    flags.add_argument("--layers", help="layer numbers and ranges, starting at 0, such as 0-2,5; default: all")
    flags.add_argument(
        "--modules", help="instead of --kinds: comma-separated module names, or patterns of names or paths, such as '*.mlp.*'"
    )
    flags.add_argument("--exclude", help="comma-separated module names or patterns to leave out")
