"""The subcommand that suggests which modules to compress together. It can write a plan for `offcomp run`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from offcomp.cli.inputs import Verb, describe, emit, select, selection_flags, write_plan
from offcomp.cli.text import format_table
from offcomp.errors import InputError
from offcomp.files import home_folder
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.planning.grouping import best_stack
from offcomp.planning.merge_survey import Suggestion, Survey, save_survey
from offcomp.planning.plan import Group, Plan, validate

LEAST_FALL = 0.001


def add_verbs(verb: Verb) -> None:
    """Add `suggest`."""
    _suggest_flags(verb("suggest", suggest))


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


def suggest(arguments: argparse.Namespace) -> None:
    """Suggest which modules to compress together, by comparing joint and separate SVD at the same size."""
    from offcomp.models.offloading import StoredMatrices
    from offcomp.planning.grams import Grams
    from offcomp.planning.merge_search import all_pairs, merged, survey

    if not arguments.ratio >= 1:
        raise InputError(f"--ratio must be 1 or more, not {arguments.ratio:g}")
    if (arguments.survey or arguments.pairs) and (arguments.out or arguments.threshold is not None):
        raise InputError("--out and --threshold cannot be combined with --pairs or --survey; remove one or the other")
    info = describe(arguments.model)
    specs = select(info, arguments)
    grams = Grams(StoredMatrices(arguments.model).view)
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
