"""The command-line interface, which offers the same features as the app and works on the same runs.

With --json, exactly one JSON document is written to stdout; messages go to stderr. The exit status is 0 for success, 2 for
invalid input (explained in one sentence on stderr), 1 for any other error, such as a run that did not finish or output that
could not be written, 130 after Ctrl-C, and 141 if the reader closes the pipe before all output is written.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from offcomp import __version__
from offcomp.cli import allocate, compare, evaluate, export, inputs, inspect, methods, runs, suggest, targets
from offcomp.cli.text import format_table, prediction_text
from offcomp.devices import using_device
from offcomp.errors import InputError
from offcomp.files import app_folder, home_folder
from offcomp.methods import method_of_style_key, own_options
from offcomp.models.bundled_models import MODELS
from offcomp.models.kinds_file import named_by_structure
from offcomp.models.listing import recognised_info
from offcomp.numerics.accounting import DTYPE_CHOICES, STORED, UNITS
from offcomp.planning.cost import duration, estimate, gigabytes
from offcomp.planning.data.calibration_text import SUFFIXES
from offcomp.planning.data.tasks import usual_tasks
from offcomp.planning.grouping import GROUPINGS, STACKS
from offcomp.planning.plan import CORRECTIONS, DEFAULT_TASKS, NOTHING, Plan, make_groups, validate
from offcomp.planning.ranks import with_computed_ranks
from offcomp.planning.size_notes import structure_note, unlisted_note
from offcomp.planning.sizes import original_dtypes, predict, resolved
from offcomp.results.targets import SCORE, WEIGHTINGS
from offcomp.runs.store import RunStore


def models(arguments: argparse.Namespace) -> None:
    """List the models in the catalogue."""
    rows = [{"name": m.name, "title": m.title, "description": m.description, "licence": m.licence} for m in MODELS]
    inputs.emit(arguments, rows, lambda: format_table(rows))


def modules(arguments: argparse.Namespace) -> None:
    """List the weight matrices of a model."""
    info = inputs.correct_kinds(arguments.model, arguments.kinds) if arguments.kinds else inputs.describe(arguments.model)
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
    notes = [structure_note(info), unlisted_note(info.unlisted, info.num_parameters)]
    head = "\n".join(filter(None, [f"{info.model}: {info.architecture}, {size}", *notes]))
    recognised = recognised_info(arguments.model, home_folder())
    by_structure = [spec.name for spec in named_by_structure(info, recognised or info)]
    document = info.to_dict() | {"by_structure": by_structure}
    inputs.emit(arguments, document, lambda: f"{head}\n\n{format_table(rows)}")


def plan(arguments: argparse.Namespace) -> None:
    """Make a plan that compresses selected modules of a model."""
    info = inputs.describe(arguments.model)
    method = method_of_style_key(arguments.method)
    specs = inputs.select(info, arguments)
    inputs.check_grouping(info, specs, arguments.group)
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
        rank=arguments.rank,
        energy=arguments.energy,
        multiple=arguments.multiple,
    )
    default_tasks = tuple(task for task in DEFAULT_TASKS if task in usual_tasks(info.architecture, info.reads_text))
    calibration = inputs.calibration_text(arguments.calibration)
    new_plan = Plan(
        model=arguments.model,
        groups=groups,
        tasks=inputs.requested_tasks(arguments) or default_tasks,
        seed=arguments.seed,
        calibration=calibration,
        correct=arguments.correct,
    )
    new_plan = Plan.from_dict(new_plan.to_dict())
    validate(new_plan, info)
    reasons = ""
    if arguments.weighting and not arguments.allocate:
        raise InputError("--weighting only applies to --allocate; add --allocate, or leave out --weighting")
    if target := targets.requested_target(arguments):
        weighting = arguments.weighting or SCORE
        proposal = targets.proposal_for(new_plan, target, info, allocate=arguments.allocate, weighting=weighting)
        new_plan, reasons = proposal.plan, f"\n\n{targets.proposal_text(proposal)}"
        targets.say_proposal(arguments, proposal)
    new_plan = with_computed_ranks(new_plan, info, home_folder())
    inputs.write_plan(arguments.out, new_plan)
    inputs.say_notes(arguments, predict(new_plan, info).notes)
    inputs.emit(arguments, new_plan.to_dict(), lambda: prediction_text(new_plan, info) + reasons)


def option_value(text: str) -> tuple[str, Any]:
    """Parse KEY=VALUE; a value that is not valid JSON is kept as text."""
    key, separator, value = text.partition("=")
    if not separator:
        raise InputError(f"--option must be KEY=VALUE, such as epochs=30, not {text!r}")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def predict_plan(arguments: argparse.Namespace) -> None:
    """Predict the stored size of a plan, and estimate its scores and the time and memory needed to run it."""
    from offcomp.results.runs import stage_times

    requested, info = inputs.read_plan(arguments.plan)
    prediction = predict(requested, info)
    cost = estimate(requested, info, prediction, stage_times(resolved(requested, info), info.fingerprint, RunStore().all()))
    cost_text = f"running this plan takes about {duration(cost.seconds)} and {gigabytes(cost.memory)} of memory"
    scores = targets.known_scores_of(requested, info)
    document = prediction.to_dict() | {"unlisted": info.unlisted, "estimate": cost.to_dict()}
    document |= {"scores": {score.task: score.to_dict() for score in scores}}
    parts = [prediction_text(requested, info), targets.score_lines(scores), cost_text]
    inputs.emit(arguments, document, lambda: "\n\n".join(filter(None, parts)))


def spectra(arguments: argparse.Namespace) -> None:
    """Compute and cache the singular values of a plan's groups, and show the exact SVD error at each group's planned size."""
    from offcomp.planning.spectra import compute
    from offcomp.planning.spectrum import relative_error

    requested, info = inputs.read_plan(arguments.plan)
    values = compute(requested, home_folder())
    groups = tuple(group.replace(method="svd", options={}) for group in requested.groups)
    rows = [
        {"group": g.name, "rank": g.size, "relative_error": relative_error([values[g.name]], [g.size or None])}
        for g in predict(requested.replace(groups=groups), info).groups
    ]
    inputs.emit(arguments, rows, lambda: format_table(rows))


def sensitivity(arguments: argparse.Namespace) -> None:
    """Measure and cache how much the model's outputs change when each group of a plan is compressed alone."""
    from offcomp.runs.sensitivity import basis, compute

    requested, _ = inputs.read_plan(arguments.plan)
    if not requested.groups:
        raise InputError("the plan has no groups to measure; add at least one")
    found = compute(requested, home_folder())
    rows = [
        {"group": name, **probe.to_dict(), "sensitivity": probe.sensitivity}
        for name, each in found.items()
        for probe in each.probes
    ]
    inputs.emit(arguments, rows, lambda: f"{format_table(rows)}\n\nloss: {basis(found)}")


def app(arguments: argparse.Namespace) -> None:
    """Start the app and serve it until it is stopped."""
    script = app_folder() / "app.py"
    if not script.is_file():
        raise InputError(f"{script}, which is part of offcomp, is missing; reinstall offcomp")
    from offcomp.ui.server import serve

    serve(script, arguments.port)


def parser() -> argparse.ArgumentParser:
    """The parser, with all subcommands and their flags."""
    top = argparse.ArgumentParser(prog="offcomp", description="See what offline compression does to a transformer.")
    top.add_argument("--version", action="version", version=f"offcomp {__version__}")
    verbs = top.add_subparsers(required=True, metavar="COMMAND")

    def verb(name: str, action: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=action.__doc__, description=action.__doc__)
        added.add_argument("--json", action="store_true", help="print one JSON document to stdout")
        added.set_defaults(action=action)
        return added

    verb("models", models)
    listing = verb("modules", modules)
    listing.add_argument("model", help="catalogue name, folder or hub id")
    listing.add_argument(
        "--kinds",
        metavar="FILE",
        help='JSON file that corrects kinds, such as {"blocks.*.mix": {"kind": "query"}}; it is kept in the model\'s folder',
    )
    _plan_flags(verb("plan", plan))
    verb("predict", predict_plan).add_argument("plan", help="plan file, or - for standard input")
    verb("spectra", spectra).add_argument("plan", help="plan file, or - for standard input")
    measuring = verb("sensitivity", sensitivity)
    measuring.add_argument("plan", help="plan file, or - for standard input")
    inputs.device_flag(measuring)
    for group in (methods, runs, suggest, allocate, evaluate, inspect, compare, export):
        group.add_verbs(verb)
    verb("app", app).add_argument("--port", type=int, default=8501)
    return top


def _plan_flags(flags: argparse.ArgumentParser) -> None:
    inputs.selection_flags(flags)
    flags.add_argument("--group", default="kind", choices=tuple(GROUPINGS), help="which modules to compress together")
    flags.add_argument("--block", type=int, default=2, help="layers per block, with --group blocks")
    flags.add_argument(
        "--stack", default="best", choices=("best", *STACKS), help="how the matrices of a group are stacked into one"
    )
    flags.add_argument("--method", default="svd", help="a method listed by 'offcomp methods' (default: svd)")
    flags.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="option of the method; may be repeated"
    )
    size = flags.add_mutually_exclusive_group()
    size.add_argument("--ratio", type=float, default=2.0, help="compression ratio: original size / stored size")
    size.add_argument("--rank", type=int, help="rank of every group (latent width, number of terms) instead of a ratio")
    size.add_argument(
        "--energy", type=float, metavar="SHARE", help="SVD: share of the squared singular values to keep, such as 0.9"
    )
    targets.target_flags(size)
    flags.add_argument(
        "--allocate",
        action="store_true",
        help="divide the budget among the groups so that accuracy suffers least; with --weighting score, only for SVD",
    )
    flags.add_argument(
        "--weighting",
        choices=WEIGHTINGS,
        help="with --allocate: estimate the cost of compressing a group from the scores of earlier runs (default), or from the "
        "model's sensitivity to the group, which is measured first if it is not known",
    )
    flags.add_argument(
        "--multiple", type=int, default=1, metavar="N", help="round ranks to a multiple of N, such as 8, 16 or 32"
    )
    flags.add_argument("--unit", default="parameters", choices=UNITS)
    flags.add_argument(
        "--dtype", default=STORED, choices=DTYPE_CHOICES, help="storage dtype; 'stored' means the dtype of the checkpoint"
    )
    inputs.task_flags(flags, "sentiment")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--calibration", metavar="FILE", help=f"file with calibration text ({', '.join(SUFFIXES)})")
    flags.add_argument(
        "--correct", default=NOTHING, choices=tuple(CORRECTIONS), help="biases and normalisations to correct after compression"
    )
    flags.add_argument("--out", help="also write the plan to this file")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exits with one of the statuses documented in the module docstring."""
    if status := inputs.ended_quietly(lambda: _act(arguments)):
        sys.exit(status)


def _act(arguments: Sequence[str] | None) -> None:
    parsed = parser().parse_args(arguments)
    with using_device(parsed.device) if "device" in parsed else nullcontext():
        parsed.action(parsed)
