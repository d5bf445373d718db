"""Flags that state a target instead of a size, and the proposals that meet it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from offcomp.cli.inputs import say_notes
from offcomp.cli.text import format_table
from offcomp.errors import InputError
from offcomp.files import home_folder
from offcomp.models.catalogue import ModelInfo
from offcomp.planning.plan import Plan
from offcomp.planning.spectra import compute, missing
from offcomp.results.candidates import Family
from offcomp.results.known_errors import Measured, measured_of
from offcomp.results.known_scores import KnownScore
from offcomp.results.proposals import Proposal, propose
from offcomp.results.targets import SCORE, SENSITIVITY, Target, parse_target
from offcomp.runs import sensitivity
from offcomp.runs.store import RunStore

TEXTS = (("size", "megabytes", "12 MB"), ("lose", "loss", "1 point of similarity"))
"""Flag, the kind of its target, and an example."""
NEED_ERRORS = ("error", "loss")


def target_flags(sizes: Any) -> None:
    """Add the flags that `requested_target` reads to a group of flags that set the size."""
    sizes.add_argument("--size", metavar="TEXT", help="largest allowed size of the whole model, such as '12 MB'")
    sizes.add_argument(
        "--max-error", type=float, metavar="ERROR", help="largest allowed relative error over all chosen weights, such as 0.3"
    )
    sizes.add_argument(
        "--lose", metavar="TEXT", help="how much worse a score may get, such as '1 point of similarity' or '5 %% of perplexity'"
    )


def requested_target(arguments: argparse.Namespace) -> Target | None:
    """The target in the flags; with --allocate, a ratio, rank or share of the energy also counts as one. Raises InputError."""
    for flag, kind, example in TEXTS:
        text = getattr(arguments, flag)
        if text is not None:
            target = parse_target(text)
            if target.kind != kind:
                raise InputError(f"--{flag} must be text such as {example!r}, not {text!r}")
            return target
    if arguments.max_error is not None:
        return Target("error", arguments.max_error)
    sizes = {"rank": arguments.rank, "energy": arguments.energy, "ratio": arguments.ratio}
    kind = next(kind for kind, value in sizes.items() if value is not None)
    return Target(kind, sizes[kind]) if arguments.allocate else None


def proposal_for(plan: Plan, target: Target, info: ModelInfo, *, allocate: bool, weighting: str = SCORE) -> Proposal:
    """The proposal for a target, based on the user's runs and the bundled ones.

    Missing singular values and sensitivities are computed first.
    """
    home = home_folder()
    if (allocate or target.kind in NEED_ERRORS) and missing(plan, info, home):
        compute(plan, home)
    if allocate and weighting == SENSITIVITY and len(plan.groups) > 1:
        sensitivity.compute(plan, home)
    return propose(plan, target, info, home, measurements(info), allocate=allocate, weighting=weighting)


def measurements(info: ModelInfo) -> list[Measured]:
    """All measurements on these weights, from the user's own runs and from bundled ones."""
    return measured_of(RunStore().all(), info.fingerprint)


def known_scores_of(plan: Plan, info: ModelInfo) -> list[KnownScore]:
    """What is known about the plan's scores before it runs."""
    candidate = Family(
        plan, info, home_folder(), measurements(info), plan.groups[0].unit if plan.groups else "bytes"
    ).candidate(plan)
    scores = (candidate.score(task) for task in plan.resolved_tasks if plan.groups)
    return [score for score in scores if score is not None]


def proposal_text(proposal: Proposal) -> str:
    """The reasons for each group's size, and notes on the whole plan."""
    rows = [{"group": group.name, "ratio": group.ratio, "why": proposal.reasons[group.name]} for group in proposal.plan.groups]
    return "\n\n".join([format_table(rows), "\n".join(proposal_notes(proposal))])


def proposal_notes(proposal: Proposal) -> list[str]:
    """Sentences on the whole plan, ending with the expected score."""
    expected = proposal.expected
    return [*proposal.notes, *([f"Expected {expected}. {expected.basis}"] if expected else [])]


def proposal_document(proposal: Proposal) -> dict[str, Any]:
    """The proposal as JSON values."""
    return {
        "groups": [
            {"group": group.name, "ratio": group.ratio, "reason": proposal.reasons[group.name]}
            for group in proposal.plan.groups
        ],
        "relative_error": proposal.error,
        "expected": proposal.expected.to_dict() if proposal.expected else None,
        "notes": list(proposal.notes),
        "plan": proposal.plan.to_dict(),
    }


def say_proposal(arguments: argparse.Namespace, proposal: Proposal) -> None:
    """Print the notes on a proposal to stderr if the output is JSON."""
    say_notes(arguments, proposal_notes(proposal))


def score_lines(scores: Sequence[KnownScore]) -> str:
    """One line for each known score."""
    return "\n".join(f"{score}. {score.basis}" for score in scores)
