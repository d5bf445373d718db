"""Which model a run started from. Does not need torch.

Models are identified by content: a copy is the same model, and a folder that was overwritten contains a different one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from offcomp.runs.store import Run

DIGITS = 6


def original_of(run: Run) -> str:
    """Identifies everything that the scores of a run's original depend on; for old runs, only the weights.

    A run without a result has the identity recorded when it was submitted.
    """
    model = (run.result or {}).get("model") or {}
    return str(model.get("reads") or model.get("fingerprint") or run.inputs.get("model") or run.plan.model)


def model_titles(runs: Sequence[Run]) -> dict[str, str]:
    """The requested model of each run, by run id; all copies of one model have the name of the first."""
    first: dict[str, str] = {}
    return {run.id: first.setdefault(original_of(run), run.plan.model) for run in runs}


def model_names(runs: Sequence[Run]) -> dict[str, str]:
    """The display name of each run's model, by run id: one name per model, shared by no other model."""
    originals, titles = {run.id: original_of(run) for run in runs}, model_titles(runs)
    taken = Counter({originals[run]: title for run, title in titles.items()}.values())
    return {
        run: titles[run] if taken[titles[run]] == 1 else f"{titles[run]} {original.split('-', 1)[-1][:DIGITS]}"
        for run, original in originals.items()
    }
