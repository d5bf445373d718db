"""Text and a model: statistics from passes of the one through the other, and when the model is in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from offcomp.calibration.batches import token_batches
from offcomp.calibration.gradients import sum_gradients
from offcomp.calibration.hints import Changes, GroupHints
from offcomp.calibration.likelihood import Likelihood
from offcomp.calibration.moments import InputMoments, output_errors, shared_inputs, sum_moments
from offcomp.calibration_text import digest
from offcomp.errors import InputError
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.loading import LoadedModel
from offcomp.models.parking import parked
from offcomp.models.positions import longest_text
from offcomp.models.weights import replace, substituted
from offcomp.numerics.spool import Spool
from offcomp.row_counts import RowCounts

HELD_OUT_SHARE = 0.2
FLOAT32_BYTES = 4

Gather = Callable[[list[ModuleSpec], Spool | None], Callable[[ModuleSpec], Any]]
"""Passes over the text for some modules -> what gives the statistic of each, for one use."""


class Calibration:
    """A loaded model and text. Statistics are kept as far as there is room, until a weight of the model is settled.

    Where the statistics of a group's members outweigh its matrix, they are taken in several passes over the text.

    Args:
        texts: a seeded fifth of them is held out, to measure errors on text that was not used to fit.
        max_tokens: each text is cut there.
        special_tokens: whether tokens that the tokenizer adds, such as [CLS], count. A few of them have activations so
            large that they would outweigh all others.
        weighting: "output" weighs each token by 1 / ‖output of the module‖², because the normalisation that follows
            makes tokens count alike; "equal" is the plain mean of the papers.
        rows: what became of the rows that the texts are from, for the record.
        room: bytes of statistics that are kept at a time, or half the matrix of a group where that is more.

    Raises InputError where the model has no tokenizer or the text no tokens.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        texts: Sequence[str],
        *,
        max_tokens: int = 128,
        special_tokens: bool = False,
        weighting: str = "output",
        seed: int = 0,
        rows: RowCounts | None = None,
        room: int = 0,
    ) -> None:
        self.room = room
        self.rows = rows
        self.loaded = loaded
        self.weighting = weighting
        self.seed = seed
        self.digest = digest(texts)
        order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
        num_held_out = round(HELD_OUT_SHARE * len(texts)) if len(texts) > 1 else 0
        fitted, held_out = [texts[i] for i in sorted(order[num_held_out:])], [texts[i] for i in sorted(order[:num_held_out])]
        self.batches = token_batches(loaded, fitted, max_tokens, special_tokens)
        self.held_out = token_batches(loaded, held_out, max_tokens, special_tokens)
        self.limit = longest_text(loaded.model, max_tokens)
        if not any(batch.counted.any() for batch in self.batches):
            raise InputError("the calibration text has no tokens; give at least one text with a word in it")
        self._kept: dict[tuple[ModuleSpec, str], Any] = {}
        self._parked: ExitStack | None = None
        self._users = 0
        self._changes: list[Changes] = []
        self._spool = Spool()
        self._originals = ExitStack()

    @property
    def cut(self) -> dict[str, int]:
        """How many texts are cut, of how many, at how many tokens; empty where none is."""
        batches = [*self.batches, *self.held_out]
        cut, texts = sum(batch.num_cut for batch in batches), sum(len(batch.counted) for batch in batches)
        return {"texts": cut, "of": texts, "tokens": self.limit} if cut else {}

    @contextmanager
    def parked(self) -> Iterator[None]:
        """The model is out of memory inside the block, but while text runs through it."""
        with ExitStack() as stack:
            stack.enter_context(parked(self.loaded))
            self._parked = stack
            try:
                yield
            finally:
                self._parked = None

    @contextmanager
    def awake(self) -> Iterator[None]:
        """The model is in memory inside the block."""
        self._users += 1
        try:
            if self._parked and self._users == 1:
                self._parked.close()
                for matrices in self._changes:
                    self._write(matrices)
            yield
        finally:
            self._users -= 1
            if self._parked and not self._users:
                self._parked.enter_context(parked(self.loaded))

    def change(self, matrices: Changes) -> None:
        """The model has these matrices in the place of its own until `restore`, each time that it is in memory."""
        self.forget()
        if self._parked:
            self._changes.append(matrices)
        if self._users or not self._parked:
            self._write(matrices)

    def settle(self, spec: ModuleSpec, matrix: Tensor) -> None:
        """`change` of one module; where the model is out of memory, so is its new matrix."""
        read = self._spool.put(matrix) if self._parked else lambda: matrix
        self.change(lambda: [{spec: read()}])

    def restore(self) -> None:
        """The model has its own matrices again, bit by bit."""
        self.forget()
        self._changes.clear()
        self._spool = Spool()
        self._originals.close()
        if self._parked and self._users:
            with parked(self.loaded):
                pass  # it is read again

    def _write(self, changes: Changes) -> None:
        for matrices in changes():
            if self._parked:
                replace(self.loaded.model, matrices)
            else:
                self._originals.enter_context(substituted(self.loaded.model, matrices))
            del matrices  # before the next ones are decoded

    @contextmanager
    def hints(self, specs: Sequence[ModuleSpec], stack: str, before: Changes = tuple) -> Iterator[GroupHints]:
        """Hints for modules stacked as a group; `before` gives the reconstructions of groups compressed earlier.

        After the block every weight that was settled is back, bit by bit.
        """
        room = max(self.room, FLOAT32_BYTES * sum(spec.num_parameters for spec in specs) // 2)
        hints = GroupHints(self, specs, stack, before=before, room=room)
        try:
            yield hints
        finally:
            hints.restore()

    def moments(self, specs: Sequence[ModuleSpec], room: int) -> InputMoments:
        """Moments of the inputs of the first module; in the same pass those of the next ones, as far as there is room."""

        def gather(owners: list[ModuleSpec], spool: Spool | None) -> Callable[[ModuleSpec], InputMoments]:
            return sum_moments(self.loaded.model, owners, self.batches, self.weighting, spool=spool).means

        return self._first([self._owner(spec) for spec in specs], "inputs", room, gather)

    def gradients(self, specs: Sequence[ModuleSpec], name: str, room: int) -> Tensor:
        """ "fisher", "sensitivity" or "row_moment" of the first module; see `moments`."""

        def gather(wanted: list[ModuleSpec], spool: Spool | None) -> Callable[[ModuleSpec], Tensor]:
            likelihood = Likelihood(self.loaded.model, self.loaded.tokenizer, self.seed)
            sparing = self._parked is not None
            sums = sum_gradients(
                self.loaded.model, wanted, self.batches, [name], likelihood, spool=spool, saves_on_disk=sparing
            )
            return lambda spec: sums[spec].means()[name]

        return self._first(specs, name, room, gather)

    def _first(self, specs: Sequence[ModuleSpec], name: str, room: int, gather: Gather) -> Any:
        """A statistic of the first module, kept from an earlier pass or gathered with those that are likely to be next.

        A second moment for which there is no room beside the model is summed up once that is out of memory again.
        """
        if (specs[0], name) not in self._kept:
            missing = [spec for spec in dict.fromkeys(specs) if (spec, name) not in self._kept]
            sizes = accumulate(_num_bytes(spec, name) for spec in missing)
            wanted = [spec for spec, size in zip(missing, sizes, strict=True) if spec == specs[0] or size <= room]
            needed = sum(_num_bytes(spec, name) for spec in wanted)
            if sum(_num_bytes(*key) for key in self._kept) + needed > room:
                self.forget()
            spool = Spool() if needed > room and self._parked and not self._users else None
            with self.awake():
                means = gather(wanted, spool)
            found = {(spec, name): means(spec) for spec in wanted}
            if needed > room:
                return found[specs[0], name]
            self._kept |= found
        return self._kept[specs[0], name]

    def owned(self, statistic: Tensor) -> Tensor:
        """A statistic that the caller may overwrite: a copy where it is kept."""
        kept = (each.second if isinstance(each, InputMoments) else each for each in self._kept.values())
        return statistic.clone() if any(statistic is each for each in kept) else statistic

    def output_errors(
        self, reconstructions: Mapping[ModuleSpec, Tensor], *, held_out: bool
    ) -> Mapping[ModuleSpec, tuple[float, float]]:
        """`moments.output_errors` on text that was not used to fit, or on that which was."""
        self.forget()  # makes room for the reconstructions, even where a later group could have used it
        batches = self.held_out if held_out else self.batches
        with self.awake():
            return output_errors(self.loaded.model, reconstructions, batches, self.weighting)

    def forget(self) -> None:
        """Drop what was computed, because the model has changed or something else needs the room."""
        self._kept.clear()

    def _owner(self, spec: ModuleSpec) -> ModuleSpec:
        """The module by which a module's moments are kept: where tokens weigh alike, the first with the same input."""
        return self._shared.get(spec, spec) if self.weighting == "equal" else spec

    @cached_property
    def _shared(self) -> dict[ModuleSpec, ModuleSpec]:
        with self.awake():
            return shared_inputs(self.loaded.model, self.loaded.info.modules, next(self.batches[0].parts(1)))


@contextmanager
def calibrate(
    loaded: LoadedModel,
    texts: Sequence[str],
    specs: Sequence[ModuleSpec],
    stack: str,
    *,
    max_tokens: int = 128,
    special_tokens: bool = False,
    weighting: str = "output",
    seed: int = 0,
) -> Iterator[GroupHints]:
    """Hints for one group; see `Calibration`. Settled weights are restored at the end of the block."""
    calibration = Calibration(
        loaded, texts, max_tokens=max_tokens, special_tokens=special_tokens, weighting=weighting, seed=seed
    )
    with calibration.hints(specs, stack) as hints:
        yield hints


def _num_bytes(spec: ModuleSpec, name: str) -> int:
    """Roughly the size of a statistic."""
    return {"inputs": 8 * spec.cols**2, "row_moment": 8 * spec.rows**2}.get(name, FLOAT32_BYTES * spec.num_parameters)
