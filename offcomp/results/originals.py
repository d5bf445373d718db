"""Identifies the model that a run started from. Does not need torch.

Models are identified by content: a copy counts as the same model, and an overwritten folder as a different one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from offcomp.runs.store import Run

DIGITS = 6


def original_of(run: Run) -> str:
    """Identifier of everything the original's scores depend on; for runs made by older versions, only of its weights.

    For a run without a result, this is the identifier recorded on submission.
    """
    model = run.result.model if run.result else None
    recorded = (model.reads or model.fingerprint) if model else run.inputs and run.inputs.model
    return recorded or run.plan.model


def model_titles(runs: Sequence[Run]) -> dict[str, str]:
    """The model requested by each run, by run id; all copies of a model are named after the first."""
    first: dict[str, str] = {}
    return {run.id: first.setdefault(original_of(run), run.plan.model) for run in runs}


def model_names(runs: Sequence[Run]) -> dict[str, str]:
    """The display name of each run's model, by run id. Different models always have different names."""
    originals, titles = {run.id: original_of(run) for run in runs}, model_titles(runs)
    taken = Counter({originals[run]: title for run, title in titles.items()}.values())
    return {
        run: titles[run] if taken[titles[run]] == 1 else f"{titles[run]} {original.split('-', 1)[-1][:DIGITS]}"
        for run, original in originals.items()
    }
