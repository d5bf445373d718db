"""The command line: the same verbs as the app, and the same runs.

With --json one JSON document goes to stdout and nothing else; messages go to stderr. Exit status: 0 ok, 2 bad input (one clear
sentence on stderr), 1 a run that did not finish.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from offcomp import __version__
from offcomp.calibration_text import SUFFIXES
from offcomp.cli_allocation import add_verbs
from offcomp.cli_evaluate import add_verbs as add_task_verbs
from offcomp.cli_export import add_verbs as add_export_verbs
from offcomp.cli_input import (
    calibration_text,
    check_grouping,
    describe,
    emit,
    read_plan,
    say,
    say_notes,
    select,
    selection_flags,
    task_flags,
    tasks_asked,
    write_plan,
)
from offcomp.cli_inspect import add_verbs as add_inspect_verbs
from offcomp.cli_report import add_verbs as add_report_verbs
from offcomp.errors import InputError, OffcompError, RunError
from offcomp.estimate import duration, estimate, gigabytes
from offcomp.files import home_folder
from offcomp.grouping import GROUPINGS, STACKS
from offcomp.methods import METHODS, method_of_role, own_options, role_in_plan
from offcomp.models.catalogue import MODELS
from offcomp.numerics.accounting import DTYPE_CHOICES, STORED, UNITS
from offcomp.plain_text import without_unseen
from offcomp.plan import Plan, make_groups, validate
from offcomp.prediction import original_dtypes, predict, resolved
from offcomp.results import stage_times
from offcomp.runs import OF_A_SAMPLE, Run, RunStore
from offcomp.size_notes import unlisted_note
from offcomp.tables import format_table, prediction_text, run_text
from offcomp.tasks import usual_tasks

POLL_SECONDS = 0.2


def models(arguments: argparse.Namespace) -> None:
    """List the models known by name."""
    rows = [{"name": m.name, "title": m.title, "description": m.description, "licence": m.licence} for m in MODELS]
    emit(arguments, rows, lambda: format_table(rows))


def modules(arguments: argparse.Namespace) -> None:
    """List the weight matrices of a model."""
    info = describe(arguments.model)
    rows = [
        {
            "name": m.name,
            "kind": m.kind,
            "shape": f"{m.rows} x {m.cols}",
            "parameters": m.num_parameters,
            "dtype": m.dtype,
            "path": m.path,
        }
        for m in info.modules
    ]
    dtypes = original_dtypes(info.modules) or info.dtype
    size = f"{info.num_parameters:,} parameters in {info.num_bytes:,} bytes, matrices in {dtypes}"
    head = "\n".join(filter(None, [f"{info.model}: {info.architecture}, {size}", unlisted_note(info)]))
    emit(arguments, info.to_dict(), lambda: f"{head}\n\n{format_table(rows)}")


def plan(arguments: argparse.Namespace) -> None:
    """Write a plan for some modules of a model."""
    info = describe(arguments.model)
    method = method_of_role(arguments.method)
    specs = select(info, arguments)
    check_grouping(info, specs, arguments.group)
    groups = make_groups(
        specs,
        arguments.group,
        stack=arguments.stack,
        block=arguments.block,
        method=method.name,
        options=own_options(method) | dict(option_value(text) for text in arguments.option),
        ratio=arguments.ratio,
        unit=arguments.unit,
        dtype=arguments.dtype,
    )
    usual = tuple(task for task in Plan.tasks if task in usual_tasks(info.architecture, info.reads_text))
    calibration = calibration_text(arguments.calibration)
    made = Plan(arguments.model, groups, tasks_asked(arguments) or usual, arguments.seed, calibration)
    made = Plan.from_dict(made.to_dict())
    validate(made, info)
    write_plan(arguments.out, made)
    say_notes(arguments, predict(made, info).notes)
    emit(arguments, made.to_dict(), lambda: prediction_text(made, info))


def option_value(text: str) -> tuple[str, Any]:
    """KEY=VALUE, the value read as JSON where it is JSON."""
    key, separator, value = text.partition("=")
    if not separator:
        raise InputError(f"option {text!r} must be KEY=VALUE, such as epochs=30")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def predict_plan(arguments: argparse.Namespace) -> None:
    """Say what a plan will store and roughly what it will cost, without running it."""
    asked, info = read_plan(arguments.plan)
    prediction = predict(asked, info)
    cost = estimate(asked, info, prediction, stage_times(resolved(asked, info), info.fingerprint, RunStore().all()))
    told = f"about {duration(cost.seconds)} and {gigabytes(cost.memory)} of memory to run"
    emit(
        arguments,
        prediction.to_dict() | {"unlisted": info.unlisted, "estimate": cost.to_dict()},
        lambda: f"{prediction_text(asked, info)}\n\n{told}",
    )


def spectra(arguments: argparse.Namespace) -> None:
    """Compute and keep the singular values of a plan's groups: the exact error of SVD at its size."""
    from offcomp.spectra import compute, relative_error

    asked, info = read_plan(arguments.plan)
    found = compute(asked, home_folder())
    rows = [
        {"group": g.name, "rank": g.size, "relative_error": relative_error([found[g.name]], [g.size or None])}
        for g in predict(replace(asked, groups=tuple(replace(g, method="svd", options={}) for g in asked.groups)), info).groups
    ]
    emit(arguments, rows, lambda: format_table(rows))


def run(arguments: argparse.Namespace) -> None:
    """Run a plan and wait for it. Raises RunError where it does not finish."""
    asked, info = read_plan(arguments.plan)
    store = RunStore()
    current = store.submit(asked, info, again=arguments.again)
    try:
        current = wait(store, current)
    except KeyboardInterrupt:
        store.cancel(current.id)
        raise RunError(f"run {current.id} was cancelled") from None
    say_notes(arguments, (current.result or {}).get("notes", ()))
    emit(arguments, current.result or {"id": current.id, "status": current.status}, lambda: run_text(current))
    if current.status != "done":
        raise RunError(f"run {current.id} {current.status}: {current.error}")


def wait(store: RunStore, current: Run) -> Run:
    """Follow a run to its end, saying each new stage."""
    shown = ""
    while not current.ended:
        stage = str(current.progress.get("stage", "queued"))
        if stage != shown:
            say(f"{current.id} {stage}")
            shown = stage
        time.sleep(POLL_SECONDS)
        current = store.get(current.id)
    return current


def runs(arguments: argparse.Namespace) -> None:
    """List all runs, the newest first."""
    rows = [
        {
            "run": r.id,
            "status": r.status,
            "host": r.host,
            "model": r.plan.model,
            "methods": ", ".join(sorted({role_in_plan(g.method, g.options) for g in r.plan.groups})),
            "groups": len(r.plan.groups),
            "submitted": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(r.submitted)),
            "identity": "sample" if r.of_a_sample else "",
            "error": r.error,
        }
        for r in RunStore().all()
    ]
    note = f"\n\nidentity sample: the model is {OF_A_SAMPLE}" * any(row["identity"] for row in rows)
    emit(
        arguments,
        rows,
        lambda: format_table(rows) + note if rows else "no runs yet; make a plan and run it: offcomp plan --help",
    )


def show(arguments: argparse.Namespace) -> None:
    """Show one run."""
    found = RunStore().get(arguments.run)
    document = found.result or {
        "id": found.id,
        "status": found.status,
        "host": found.host,
        "plan": found.plan.to_dict(),
        "progress": found.progress,
    }
    emit(arguments, document, lambda: run_text(found))


def cancel(arguments: argparse.Namespace) -> None:
    """Ask a run to stop."""
    RunStore().cancel(arguments.run)


def app(arguments: argparse.Namespace) -> None:
    """Start the app; ends when it is stopped."""
    script = Path(__file__).resolve().parents[1] / "app.py"
    if not script.is_file():
        raise InputError(f"the app needs a clone of the repository: {script} is not there")
    from offcomp.ui.server import serve

    serve(script, arguments.port)


def parser() -> argparse.ArgumentParser:
    """All verbs and their flags."""
    top = argparse.ArgumentParser(prog="offcomp", description="See what offline compression does to a transformer.")
    top.add_argument("--version", action="version", version=f"offcomp {__version__}")
    verbs = top.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, action: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=action.__doc__, description=action.__doc__)
        added.add_argument("--json", action="store_true", help="one JSON document on stdout")
        added.set_defaults(action=action)
        return added

    verb("models", models)
    verb("modules", modules).add_argument("model", help="catalogue name, folder or hub id")
    _plan_flags(verb("plan", plan))
    verb("predict", predict_plan).add_argument("plan", help="plan file, or - for standard input")
    verb("spectra", spectra).add_argument("plan", help="plan file, or - for standard input")
    running = verb("run", run)
    running.add_argument("plan", help="plan file, or - for standard input")
    running.add_argument("--again", action="store_true", help="run even if this plan has been run")
    verb("runs", runs)
    verb("show", show).add_argument("run", help="run id")
    verb("cancel", cancel).add_argument("run", help="run id")
    add_verbs(verb)
    add_task_verbs(verb)
    add_inspect_verbs(verb)
    add_report_verbs(verb)
    add_export_verbs(verb)
    verb("app", app).add_argument("--port", type=int, default=8501)
    return top


def _plan_flags(flags: argparse.ArgumentParser) -> None:
    selection_flags(flags)
    flags.add_argument("--group", default="kind", choices=tuple(GROUPINGS), help="what is compressed together")
    flags.add_argument("--block", type=int, default=2, help="layers a block, with --group blocks")
    flags.add_argument("--stack", default="best", choices=("best", *STACKS), help="how a group becomes one matrix")
    flags.add_argument("--method", default="svd", choices=[method.role for method in METHODS])
    flags.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="option of the method")
    flags.add_argument("--ratio", type=float, default=2.0, help="compression ratio, original / stored")
    flags.add_argument("--unit", default="parameters", choices=UNITS)
    flags.add_argument("--dtype", default=STORED, choices=DTYPE_CHOICES, help="storage dtype; stored: the checkpoint's own")
    task_flags(flags, "sentiment")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--calibration", metavar="FILE", help=f"text for methods that need it, of {', '.join(SUFFIXES)}")
    flags.add_argument("--out", help="also write the plan to this file")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exits with the status of the command line contract."""
    parsed = parser().parse_args(arguments)
    try:
        parsed.action(parsed)
    except OffcompError as error:
        say(f"offcomp: {without_unseen(str(error))}")
        sys.exit(2 if isinstance(error, InputError) else 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
