"""If some groups are faster to compress together (`planning.together`), fit all of them when the first is due."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from time import perf_counter

import torch
from transformers import PreTrainedModel

from offcomp.methods import make_method
from offcomp.methods.base import CompressedMatrix, choose_size
from offcomp.models.catalogue import ModelInfo
from offcomp.models.offloading import StoredMatrices
from offcomp.numerics.progress import Report, ignore_progress
from offcomp.planning.plan import Group, members
from offcomp.planning.sizes import group_budget
from offcomp.planning.together import sets_of_groups
from offcomp.runs.compress import Fitted, read_stacked


class FitsTogether:
    """The fits of those groups of a plan that are fitted together in one call. Take them in the order of `groups`."""

    def __init__(self, model: PreTrainedModel | StoredMatrices, info: ModelInfo, groups: Iterable[Group], seed: int) -> None:
        self._model, self._info, self._seed = model, info, seed
        self._due = {groups[0].name: groups for groups in sets_of_groups(groups, info) if len(groups) > 1}
        self._waiting: dict[str, tuple[Iterator[CompressedMatrix], float]] = {}

    def take(self, group: Group, report: Report = ignore_progress) -> Fitted | None:
        """The fit of a group, or None if it is to be fitted alone. Taking the first group of a set fits the whole set.

        The duration is divided equally among the groups of the set. Raises InputError if this group cannot be stored.
        """
        if group.name in self._due:
            self._fit(self._due.pop(group.name), report)
        if group.name not in self._waiting:
            return None
        fits, seconds = self._waiting.pop(group.name)
        return Fitted(next(fits), seconds)

    def _fit(self, groups: list[Group], report: Report) -> None:
        started = perf_counter()
        first = groups[0]
        method, budget = make_method(first.method, first.options), group_budget(first, self._info)
        matrices = torch.stack([read_stacked(self._model, members(group, self._info), group.stack) for group in groups])
        matrices = matrices.to(self._model.device)
        _, rows, cols = matrices.shape
        size = choose_size(method, rows, cols, budget)
        fits = method.fit_together(matrices, size, budget, seed=self._seed, report=report)
        seconds = (perf_counter() - started) / len(groups)
        self._waiting |= {group.name: (fits, seconds) for group in groups}
