"""Subcommands that suggest groups and allocate a budget. Both can write a plan for `offcomp run`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from offcomp.cli.inputs import Verb, describe, emit, read_plan, select, selection_flags, write_plan
from offcomp.cli.targets import proposal_document, proposal_for, proposal_text
from offcomp.cli.text import format_table
from offcomp.errors import BudgetTooSmall, InputError
from offcomp.files import home_folder
from offcomp.methods import SVD, make_method
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.numerics.accounting import UNITS
from offcomp.planning import allocation
from offcomp.planning.allocation import Allocation
from offcomp.planning.error_curves import ErrorCurve, svd_curve, with_floor
from offcomp.planning.grouping import best_stack, group_shape
from offcomp.planning.merge_survey import Suggestion, Survey, save_survey
from offcomp.planning.plan import Group, Plan, members, validate
from offcomp.planning.sizes import dtype_of, original_size
from offcomp.planning.spectra import compute
from offcomp.planning.spectrum import MatrixSpectrum
from offcomp.results.targets import parse_target

LEAST_FALL = 0.001


def add_verbs(verb: Verb) -> None:
    """Add `suggest` and `allocate`."""
    _suggest_flags(verb("suggest", suggest))
    _allocate_flags(verb("allocate", allocate))


def _suggest_flags(flags: argparse.ArgumentParser) -> None:
    selection_flags(flags)
    flags.add_argument("--ratio", type=float, default=2.0, help="compression ratio for both the separate and the joint SVD")
    flags.add_argument(
        "--threshold", type=float, help=f"smallest drop in relative error that justifies a merge; default: {LEAST_FALL}"
    )
    listings = flags.add_mutually_exclusive_group()
    listings.add_argument("--pairs", type=int, metavar="N", help="list the N best pairs instead of merging")
    listings.add_argument(
        "--survey",
        action="store_true",
        help="list every pair and every merge, even those that do not reduce the error, and save them for the Groups page",
    )
    flags.add_argument("--out", help="write a plan to this file: the suggested groups, and every other module on its own")


def _allocate_flags(flags: argparse.ArgumentParser) -> None:
    flags.add_argument("plan", help="plan file, or - for standard input")
    targets = flags.add_mutually_exclusive_group(required=True)
    targets.add_argument("--total-ratio", type=float, help="overall compression ratio of all groups")
    targets.add_argument("--total-size", type=int, help="total size of all groups, in the unit set by --unit")
    targets.add_argument("--target-error", type=float, help="maximum weighted relative error")
    targets.add_argument(
        "--target", metavar="TEXT", help="as in '12 MB', 'lose 1 point of similarity' or 'lose 5 %% of perplexity'; plain SVD"
    )
    targets.add_argument("--target-loss", type=float, help="maximum accuracy loss; requires --measured")
    flags.add_argument(
        "--measured", metavar="FILE", help="JSON list of [relative error, accuracy loss] pairs from validation runs"
    )
    flags.add_argument("--unit", default="parameters", choices=UNITS)
    weightings = allocation.WEIGHTINGS
    flags.add_argument(
        "--weighting", default="relative", choices=weightings, help="how to make errors comparable across groups"
    )
    flags.add_argument("--sensitivities", metavar="FILE", help="JSON object that maps group names to weight multipliers")
    flags.add_argument(
        "--floor", type=float, default=0.0, help="minimum fraction of its original size that each group must keep, from 0 to 1"
    )
    flags.add_argument("--at", default="2,4,8,16", help="comma-separated ratios for measuring methods other than plain SVD")
    flags.add_argument("--out", help="write the plan with the allocated ratios to this file")


def suggest(arguments: argparse.Namespace) -> None:
    """Suggest which modules to compress together, by comparing joint and separate SVD at the same size."""
    from offcomp.models.loading import load
    from offcomp.planning.grams import Grams
    from offcomp.planning.merge_search import all_pairs, merged, survey

    if not arguments.ratio >= 1:
        raise InputError(f"--ratio must be 1 or more, not {arguments.ratio:g}")
    if (arguments.survey or arguments.pairs) and (arguments.out or arguments.threshold is not None):
        raise InputError("--out and --threshold cannot be combined with --pairs or --survey; remove one or the other")
    info = describe(arguments.model)
    specs = select(info, arguments)
    grams = Grams.of_model(load(arguments.model).model)
    if arguments.survey:
        surveyed = survey(grams, info, specs, arguments.ratio)
        save_survey(surveyed, home_folder())
        return emit(arguments, surveyed.to_dict(), lambda: survey_text(surveyed))
    if arguments.pairs:
        suggestions = all_pairs(grams, specs, arguments.ratio)[: arguments.pairs]
    else:
        threshold = LEAST_FALL if arguments.threshold is None else arguments.threshold
        suggestions = merged(grams, specs, arguments.ratio, threshold=threshold)
        write_plan(arguments.out, suggested_plan(info, specs, suggestions, arguments.ratio))
    rows = [suggestion.to_dict() for suggestion in suggestions]
    emit(arguments, rows, lambda: suggestions_text(rows) if rows else "no merge lowers the error by more than the threshold")


def suggestions_text(rows: Sequence[dict[str, Any]]) -> str:
    """A table of the suggestions, followed by the reason for each of them."""
    table = [{**row, "modules": " ".join(row["modules"])} for row in rows]
    columns = ("modules", "stack", "gain", "separate_error", "joint_error", "stored_parameters")
    reasons = [f"{line['modules']}: {line['reason']}" for line in table]
    return format_table([{key: line[key] for key in columns} for line in table]) + "\n\n" + "\n".join(reasons)


def survey_text(surveyed: Survey) -> str:
    """A table of the merges in order, followed by the result of stacking all modules together."""
    steps = [
        {"merge": n, "gain": each.gain, "error": each.error, "stack": each.joint.stack, "modules": " ".join(each.joint.modules)}
        for n, each in enumerate(surveyed.merges.get("best", ()), 1)
    ]
    if not steps:
        return "no two of these modules can be stacked"
    reasons = [f"all {len(each.modules)} modules: {each.reason}" for each in surveyed.together]
    return format_table(steps) + "\n\n" + "\n".join(reasons or ["the modules cannot all be stacked into one matrix"])


def suggested_plan(info: ModelInfo, specs: Sequence[ModuleSpec], suggestions: Sequence[Suggestion], ratio: float) -> Plan:
    """A plan that compresses each suggested group jointly and every other module separately, all at the same ratio."""
    grouped = {name for suggestion in suggestions for name in suggestion.modules}
    joint = [
        Group(name=f"group-{n}", modules=each.modules, stack=each.stack, ratio=ratio) for n, each in enumerate(suggestions, 1)
    ]
    alone = [
        Group(name=spec.name, modules=(spec.name,), stack=best_stack([spec]), ratio=ratio)
        for spec in specs
        if spec.name not in grouped
    ]
    plan = Plan(model=info.model, groups=tuple(joint + alone))
    validate(plan, info)
    return plan


def allocate(arguments: argparse.Namespace) -> None:
    """Divide a size budget among a plan's groups to minimise the error, or find the smallest size for a given error."""
    plan, info = read_plan(arguments.plan)
    if arguments.target is not None:
        proposal = proposal_for(plan, parse_target(arguments.target), info, allocate=True)
        write_plan(arguments.out, proposal.plan)
        return emit(arguments, proposal_document(proposal), lambda: proposal_text(proposal))
    curves = [with_floor(curve, arguments.floor) for curve in curves_of(plan, info, arguments)]
    sensitivities = read_json_file(arguments.sensitivities, dict) if arguments.sensitivities else None
    weights = allocation.weights_for(curves, arguments.weighting, sensitivities)
    original = sum(curve.original for curve in curves)
    if arguments.total_ratio is not None or arguments.total_size is not None:
        result = allocation.waterfill(curves, requested_total(arguments, original), weights)
    else:
        result = allocation.smallest_total_for_error(curves, requested_error(arguments), weights)
    allocated = allocation.allocated_plan(plan, result, info, arguments.unit)
    write_plan(arguments.out, allocated)
    document = {
        "unit": arguments.unit,
        "original": original,
        "total": result.total,
        "ratio": original / result.total,
        "relative_error": result.relative_error,
        "uniform_relative_error": uniform_error(curves, result.total, weights),
        "groups": group_rows(allocated, curves, result),
        "plan": allocated.to_dict(),
    }
    emit(arguments, document, lambda: allocation_text(document))


def requested_total(arguments: argparse.Namespace, original: int) -> int:
    """The requested total size of all groups. Raises InputError for a ratio below 1."""
    if arguments.total_size is not None:
        return int(arguments.total_size)
    if not arguments.total_ratio >= 1:
        raise InputError(f"--total-ratio must be 1 or more, not {arguments.total_ratio:g}")
    return int(original / arguments.total_ratio)


def requested_error(arguments: argparse.Namespace) -> float:
    """The target error, or the error that corresponds to the target loss. Raises InputError if too few runs were measured."""
    if arguments.target_error is not None:
        return float(arguments.target_error)
    if not arguments.measured:
        raise InputError(
            "--target-loss requires --measured FILE, a JSON list of [relative error, accuracy loss] pairs from validation runs"
        )
    points = read_json_file(arguments.measured, list)
    try:
        return allocation.error_for_loss([(float(error), float(loss)) for error, loss in points], arguments.target_loss)
    except (TypeError, ValueError):
        raise InputError(f"{arguments.measured} must contain a JSON list of [relative error, accuracy loss] pairs") from None


def read_json_file(path: str, kind: type) -> Any:
    """Read a JSON value from a file. Raises InputError if the file cannot be read or the value is not of type `kind`."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} as JSON: {error}") from None
    if not isinstance(value, kind):
        raise InputError(f"{path} must contain a JSON {kind.__name__}, not a {type(value).__name__}")
    return value


def curves_of(plan: Plan, info: ModelInfo, arguments: argparse.Namespace) -> list[ErrorCurve]:
    """One error curve per group, computed from the spectrum for plain SVD and measured at the --at ratios otherwise."""
    if not plan.groups:
        raise InputError("the plan has no groups to allocate a budget to; add at least one")
    closed = [group for group in plan.groups if make_method(group.method, group.options) == SVD()]
    spectra = compute(plan.replace(groups=tuple(closed)), home_folder()) if closed else {}
    curves = {}
    for group in closed:
        specs = members(group, info)
        spectrum = MatrixSpectrum(*group_shape(specs, group.stack), spectra[group.name])
        dtype, num_bytes = dtype_of(group, info), original_size(specs).num_bytes
        curves[group.name] = svd_curve(group.name, spectrum, unit=arguments.unit, dtype=dtype, original_bytes=num_bytes)
    others = [group for group in plan.groups if group.name not in curves]
    if others:
        curves |= measured_curves(plan, others, info, arguments)
    return [curves[group.name] for group in plan.groups]


def measured_curves(
    plan: Plan, groups: Sequence[Group], info: ModelInfo, arguments: argparse.Namespace
) -> dict[str, ErrorCurve]:
    """Measure error curves by fitting each group at each of the --at ratios."""
    from offcomp.models.loading import load
    from offcomp.runs.measured_curve import measured_curve

    try:
        ratios = [float(text) for text in arguments.at.split(",")]
    except ValueError:
        raise InputError(f"--at must be comma-separated ratios, such as 2,4,8, not {arguments.at!r}") from None
    model = load(plan.model).model
    return {group.name: measured_curve(model, info, group, ratios, unit=arguments.unit, seed=plan.seed) for group in groups}


def uniform_error(curves: Sequence[ErrorCurve], total: int, weights: Any) -> float | None:
    """The error at the same total size if all groups had equal ratios; None if a group cannot reach that ratio."""
    try:
        return allocation.uniform(curves, total, weights).relative_error
    except BudgetTooSmall:
        return None


def group_rows(plan: Plan, curves: Sequence[ErrorCurve], result: Allocation) -> list[dict[str, Any]]:
    """One row per group: name, method, ratio, stored size and relative error."""
    return [
        {
            "group": group.name,
            "method": group.method,
            "ratio": group.ratio,
            "stored": size,
            "relative_error": (error / curve.energy) ** 0.5 if curve.energy else 0.0,
        }
        for group, curve, size, error in zip(plan.groups, curves, result.sizes, result.errors, strict=True)
    ]


def allocation_text(document: dict[str, Any]) -> str:
    """A table of the groups, followed by a line with the totals."""
    uniform_text = document["uniform_relative_error"]
    against = "not possible" if uniform_text is None else f"{uniform_text:.4f}"
    return (
        format_table(document["groups"])
        + f"\n\n{document['total']:,} of {document['original']:,} {document['unit']} ({document['ratio']:.2f}x smaller), "
        + f"relative error {document['relative_error']:.4f}; with the same ratio for all groups: {against}"
    )
