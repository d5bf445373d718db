"""Which model a run started from. No torch.

A model goes by its content: a copy of it is the same one, and what overwrote its folder since is another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from offcomp.runs import Run

DIGITS = 6


def original_of(run: Run) -> str:
    """The identity of everything that the scores of a run's original depend on; of the weights alone in runs of old.

    A run without a result has the identity that it was submitted with.
    """
    model = (run.result or {}).get("model") or {}
    return str(model.get("reads") or model.get("fingerprint") or run.inputs.get("model") or run.plan.model)


def model_titles(runs: Sequence[Run]) -> dict[str, str]:
    """What was asked for as the model of each run, by id of the run; copies of one model go by the name of the first one."""
    first: dict[str, str] = {}
    return {run.id: first.setdefault(original_of(run), run.plan.model) for run in runs}


def model_names(runs: Sequence[Run]) -> dict[str, str]:
    """What the model of each run is called, by id of the run: the same name for the same model, and for no other one."""
    originals, titles = {run.id: original_of(run) for run in runs}, model_titles(runs)
    named = {originals[run]: title for run, title in titles.items()}
    taken = Counter(named.values())
    names = {mark: name if taken[name] == 1 else f"{name} {mark.split('-', 1)[-1][:DIGITS]}" for mark, name in named.items()}
    return {run: names[mark] for run, mark in originals.items()}
