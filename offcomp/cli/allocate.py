"""The subcommand that allocates a budget across the groups of a plan."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offcomp.cli.inputs import Verb, emit, read_plan, write_plan
from offcomp.cli.targets import proposal_document, proposal_for, proposal_text
from offcomp.cli.text import format_table
from offcomp.errors import BudgetTooSmall, InputError
from offcomp.files import home_folder
from offcomp.methods import SVD, make_method
from offcomp.models.catalogue import ModelInfo
from offcomp.numerics.accounting import UNITS
from offcomp.planning import allocation
from offcomp.planning.allocation import Allocation
from offcomp.planning.error_curves import ErrorCurve, svd_curve, with_floor
from offcomp.planning.grouping import group_shape
from offcomp.planning.plan import Group, Plan, members
from offcomp.planning.sizes import dtype_of, original_size
from offcomp.planning.spectra import compute
from offcomp.planning.spectrum import MatrixSpectrum
from offcomp.results.targets import SCORE, SENSITIVITY, parse_target
from offcomp.runs import sensitivity
from offcomp.runs.sensitivity import Sensitivities


def add_verbs(verb: Verb) -> None:
    """Add `allocate`."""
    _allocate_flags(verb("allocate", allocate))


def _allocate_flags(flags: argparse.ArgumentParser) -> None:
    flags.add_argument("plan", help="plan file, or - for standard input")
    targets = flags.add_mutually_exclusive_group(required=True)
    targets.add_argument("--total-ratio", type=float, help="overall compression ratio of all groups")
    targets.add_argument("--total-size", type=int, help="total size of all groups, in the unit set by --unit")
    targets.add_argument("--target-error", type=float, help="maximum weighted relative error")
    targets.add_argument(
        "--target",
        metavar="TEXT",
        help="a target, as in '12 MB', 'lose 1 point of similarity' or 'lose 5 %% of perplexity'; for methods other than "
        "plain SVD, add --weighting sensitivity",
    )
    targets.add_argument("--target-loss", type=float, help="maximum accuracy loss; requires --measured")
    flags.add_argument(
        "--measured", metavar="FILE", help="JSON list of [relative error, accuracy loss] pairs from validation runs"
    )
    flags.add_argument("--unit", default="parameters", choices=UNITS)
    flags.add_argument(
        "--weighting",
        default="relative",
        choices=(*allocation.WEIGHTINGS, SENSITIVITY),
        help="how to make errors comparable across groups; sensitivity: by the measured effect of each group on the model's "
        "outputs",
    )
    flags.add_argument("--sensitivities", metavar="FILE", help="JSON object that maps group names to weight multipliers")
    flags.add_argument(
        "--floor", type=float, default=0.0, help="minimum fraction of its original size that each group must keep, from 0 to 1"
    )
    flags.add_argument("--at", default="2,4,8,16", help="comma-separated ratios for measuring methods other than plain SVD")
    flags.add_argument("--out", help="write the plan with the allocated ratios to this file")


def allocate(arguments: argparse.Namespace) -> None:
    """Divide a size budget among a plan's groups to minimise the error, or find the smallest size for a given error."""
    plan, info = read_plan(arguments.plan)
    by_sensitivity = arguments.weighting == SENSITIVITY
    if by_sensitivity and arguments.sensitivities:
        raise InputError("--weighting sensitivity measures the sensitivities itself; leave out --sensitivities")
    if arguments.target is not None:
        weighting = SENSITIVITY if by_sensitivity else SCORE
        proposal = proposal_for(plan, parse_target(arguments.target), info, allocate=True, weighting=weighting)
        write_plan(arguments.out, proposal.plan)
        return emit(arguments, proposal_document(proposal), lambda: proposal_text(proposal))
    if by_sensitivity and arguments.total_ratio is None and arguments.total_size is None:
        raise InputError("--weighting sensitivity requires a size; use --total-ratio, --total-size or --target")
    check_groups(plan)
    measured = sensitivity.compute(plan, home_folder()) if by_sensitivity else {}
    curves = [with_floor(curve, arguments.floor) for curve in curves_of(plan, info, arguments, measured)]
    divided = divide(curves, arguments, measured)
    allocated = allocation.allocated_plan(plan, divided.result, info, arguments.unit)
    write_plan(arguments.out, allocated)
    original = sum(curve.original for curve in curves)
    document = {
        "unit": arguments.unit,
        "original": original,
        "total": divided.result.total,
        "ratio": original / divided.result.total,
        "relative_error": divided.result.relative_error,
        "uniform_relative_error": divided.uniform.relative_error if divided.uniform else None,
        **divided.losses,
        "groups": group_rows(allocated, curves, divided.result),
        "plan": allocated.to_dict(),
    }
    emit(arguments, document, lambda: allocation_text(document))


@dataclass(frozen=True)
class Divided:
    """A divided budget, the same budget divided uniformly if possible, and the predicted losses if sensitivities are known."""

    result: Allocation
    uniform: Allocation | None
    losses: dict[str, Any] = field(default_factory=dict)


def divide(curves: Sequence[ErrorCurve], arguments: argparse.Namespace, measured: Sensitivities) -> Divided:
    """Divide the requested budget to minimise the predicted loss if sensitivities were measured, else the weighted error."""
    total = requested_total(arguments, sum(curve.original for curve in curves))
    if measured and total is not None:
        losses = sensitivity.loss_curves(measured, curves, arguments.unit)
        found, alike = filled(losses, total, allocation.weights_for(losses, "frobenius"))
        weights = allocation.weights_for(curves)
        figures = {"predicted_loss": found.objective, "uniform_predicted_loss": alike.objective if alike else None}
        same = allocation.of_sizes(curves, alike.sizes, weights) if alike else None
        result = allocation.of_sizes(curves, found.sizes, weights)
        return Divided(result, same, figures | {"loss": sensitivity.basis(measured)})
    factors = read_json_file(arguments.sensitivities, dict) if arguments.sensitivities else None
    weights = allocation.weights_for(curves, arguments.weighting, factors)
    if total is None:
        total = allocation.smallest_total_for_error(curves, requested_error(arguments), weights).total
    return Divided(*filled(curves, total, weights))


def filled(curves: Sequence[ErrorCurve], total: int, weights: Any) -> tuple[Allocation, Allocation | None]:
    """Allocations of a total: water-filled, and with equal ratios; the latter is None if a group cannot reach that ratio."""
    result = allocation.waterfill(curves, total, weights)
    with suppress(BudgetTooSmall):
        return result, allocation.uniform(curves, result.total, weights)
    return result, None


def requested_total(arguments: argparse.Namespace, original: int) -> int | None:
    """The requested total size of all groups; None if an error is requested. Raises InputError for a ratio below 1."""
    if arguments.total_size is not None:
        return int(arguments.total_size)
    if arguments.total_ratio is None:
        return None
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


def check_groups(plan: Plan) -> None:
    """Raise InputError if a plan has no groups."""
    if not plan.groups:
        raise InputError("the plan has no groups to allocate a budget to; add at least one")


def curves_of(plan: Plan, info: ModelInfo, arguments: argparse.Namespace, measured: Sensitivities) -> list[ErrorCurve]:
    """One error curve per group, computed from the spectrum for plain SVD.

    The curve of any other method comes from its measured sensitivity or, without one, is measured at the --at ratios.
    """
    closed = [group for group in plan.groups if make_method(group.method, group.options) == SVD()]
    spectra = compute(plan.replace(groups=tuple(closed)), home_folder()) if closed else {}
    curves = {}
    for group in closed:
        specs = members(group, info)
        spectrum = MatrixSpectrum(*group_shape(specs, group.stack), spectra[group.name])
        dtype, num_bytes = dtype_of(group, info), original_size(specs).num_bytes
        curves[group.name] = svd_curve(group.name, spectrum, unit=arguments.unit, dtype=dtype, original_bytes=num_bytes)
    others = [group for group in plan.groups if group.name not in curves]
    if others and measured:
        curves |= {group.name: measured[group.name].curve(group, info, arguments.unit) for group in others}
    elif others:
        curves |= measured_curves(plan, others, info, arguments)
    return [curves[group.name] for group in plan.groups]


def measured_curves(
    plan: Plan, groups: Sequence[Group], info: ModelInfo, arguments: argparse.Namespace
) -> dict[str, ErrorCurve]:
    """Measure error curves by compressing each group at each of the --at ratios."""
    from offcomp.models.offloading import StoredMatrices
    from offcomp.runs.measured_curve import measured_curve

    try:
        ratios = [float(text) for text in arguments.at.split(",")]
    except ValueError:
        raise InputError(f"--at must be comma-separated ratios, such as 2,4,8, not {arguments.at!r}") from None
    source = StoredMatrices(plan.model)
    return {group.name: measured_curve(source, info, group, ratios, unit=arguments.unit, seed=plan.seed) for group in groups}


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

    def against(name: str) -> str:
        value, alike = document[name], document[f"uniform_{name}"]
        return f"{value:.4f}; with the same ratio for all groups: {'not possible' if alike is None else f'{alike:.4f}'}"

    text = (
        format_table(document["groups"])
        + f"\n\n{document['total']:,} of {document['original']:,} {document['unit']} ({document['ratio']:.2f}x smaller), "
        + f"relative error {against('relative_error')}"
    )
    if "loss" in document:
        text += f"\npredicted loss {against('predicted_loss')} ({document['loss']})"
    return text
