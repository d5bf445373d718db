"""What text says of the members of a group, computed when a method asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from offcomp.calibration.batches import TokenBatch, token_batches
from offcomp.calibration.gradients import gather_gradients
from offcomp.calibration.likelihood import Likelihood
from offcomp.calibration.moments import InputMoments, gather_moments, is_embedding, modules_of, output_errors, shared_inputs
from offcomp.calibration_text import digest
from offcomp.errors import InputError
from offcomp.grouping import is_turned
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.loading import LoadedModel
from offcomp.models.weights import read, substituted

HELD_OUT_SHARE = 0.2
Before = Callable[[], Mapping[ModuleSpec, Tensor]]


class Calibration:
    """A loaded model and text. Statistics are computed once and kept, until a weight of the model is settled.

    Args:
        texts: a seeded fifth of them is held out, to measure errors on text that was not used to fit.
        max_tokens: each text is cut there.
        special_tokens: whether tokens that the tokenizer adds, such as [CLS], count. A few of them have activations so
            large that they would outweigh all others.
        weighting: "output" weighs each token by 1 / ‖output of the module‖², because the normalisation that follows
            makes tokens count alike; "equal" is the plain mean of the papers.

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
    ) -> None:
        self.loaded = loaded
        self.weighting = weighting
        self.seed = seed
        self.digest = digest(texts)
        order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
        num_held_out = round(HELD_OUT_SHARE * len(texts)) if len(texts) > 1 else 0
        fitted, held_out = [texts[i] for i in sorted(order[num_held_out:])], [texts[i] for i in sorted(order[:num_held_out])]
        self.batches = token_batches(loaded, fitted, max_tokens, special_tokens)
        self.held_out = token_batches(loaded, held_out, max_tokens, special_tokens)
        if not any(batch.counted.any() for batch in self.batches):
            raise InputError("the calibration text has no tokens; give at least one text with a word in it")
        self._moments: dict[ModuleSpec, InputMoments] = {}
        self._gradients: dict[tuple[ModuleSpec, str], Tensor] = {}

    @contextmanager
    def hints(self, specs: Sequence[ModuleSpec], stack: str, before: Before = dict) -> Iterator[GroupHints]:
        """Hints for modules stacked as a group; `before` gives the reconstructions of groups compressed earlier.

        After the block every weight that was settled is back, bit by bit.
        """
        with ExitStack() as settled:
            hints = GroupHints(self, specs, stack, settled, before)
            try:
                yield hints
            finally:
                hints.restore()

    def moments(self, specs: Sequence[ModuleSpec]) -> list[InputMoments]:
        """Moments of the inputs of several modules, in one pass for all that are not known yet."""
        owners = [self._owner(spec) for spec in specs]
        missing = [owner for owner in dict.fromkeys(owners) if owner not in self._moments]
        if missing:
            self._moments |= gather_moments(self.loaded.model, missing, self.batches, self.weighting)
        return [self._moments[owner] for owner in owners]

    def gradients(self, specs: Sequence[ModuleSpec], name: str) -> list[Tensor]:
        """ "fisher", "sensitivity" or "row_moment" of several modules, in one pass for all that are not known yet."""
        missing = [spec for spec in specs if (spec, name) not in self._gradients]
        if missing:
            model, tokenizer = self.loaded.model, self.loaded.tokenizer
            likelihood = Likelihood(model, tokenizer, self.seed)
            for spec, found in gather_gradients(model, missing, self.batches, [name], likelihood).items():
                self._gradients[spec, name] = found[name]
        return [self._gradients[spec, name] for spec in specs]

    def forget(self) -> None:
        """Drop what was computed, because the model has changed."""
        self._moments.clear()
        self._gradients.clear()

    def _owner(self, spec: ModuleSpec) -> ModuleSpec:
        """The module by which a module's moments are kept: where tokens weigh alike, the first with the same input."""
        return self._shared.get(spec, spec) if self.weighting == "equal" else spec

    @cached_property
    def _shared(self) -> dict[ModuleSpec, ModuleSpec]:
        return shared_inputs(self.loaded.model, self.loaded.info.modules, self.first_batch)

    @property
    def first_batch(self) -> TokenBatch:
        """Some text, for a look at the model."""
        return self.batches[0]


class GroupHints:
    """The `Hints` of a group of modules of a loaded model."""

    def __init__(
        self,
        calibration: Calibration,
        specs: Sequence[ModuleSpec],
        stack: str,
        settled: ExitStack,
        before: Before,
    ) -> None:
        self._before = before
        self.specs = tuple(specs)
        self.turned = tuple(is_turned(spec, stack) for spec in specs)
        self.heights = tuple(spec.cols if turn else spec.rows for spec, turn in zip(specs, self.turned, strict=True))
        place = {spec.name: number for number, spec in enumerate(calibration.loaded.info.modules)}
        self.order = tuple(sorted(range(len(specs)), key=lambda index: place[specs[index].name]))
        self.has_settled = False
        self.calibration = calibration
        self._settled = settled

    def statistics(self, index: int) -> MemberStatistics:
        """Statistics of a member on inputs that settled members already shape, each computed when it is first read."""
        return MemberStatistics(self, self.specs[index])

    def follow(self) -> None:
        """From now on statistics are of the model with the groups that were compressed before this one."""
        if matrices := self._before():
            self._settled.enter_context(substituted(self.calibration.loaded.model, matrices))
            self.has_settled = True
            self.calibration.forget()

    def settle(self, index: int, reconstruction: Tensor) -> None:
        """Write a member's reconstruction, as it stands in the stacked matrix, into the model until the block ends."""
        spec = self.specs[index]
        matrix = reconstruction.T if self.turned[index] else reconstruction
        self._settled.enter_context(substituted(self.calibration.loaded.model, {spec: matrix}))
        self.has_settled = True
        self.calibration.forget()

    def restore(self) -> None:
        """Take back what was settled."""
        self._settled.close()
        if self.has_settled:
            self.has_settled = False
            self.calibration.forget()

    def output_error(self, reconstructions: Mapping[ModuleSpec, Tensor], *, held_out: bool) -> float | None:
        """‖(W-Ŵ)Xᵀ‖ / ‖WXᵀ‖ over all members, X the inputs in the original model, tokens weighed as for the moments.

        On text that was not used to fit, or on that which was. None where there is no such text, or the outputs are zero.
        Takes back what was settled.
        """
        self.restore()
        calibration = self.calibration
        batches = calibration.held_out if held_out else calibration.batches
        model = calibration.loaded.model
        originals = {spec: read(model, spec) for spec in self.specs}
        sums = output_errors(model, originals, reconstructions, batches, calibration.weighting).values()
        exact = sum(energy for _, energy in sums)
        return sqrt(sum(error for error, _ in sums) / exact) if exact else None

    def summary(self) -> dict[str, Any]:
        """How much text there is for the widest input of a member, for the record."""
        calibration = self.calibration
        num_tokens = sum(int(batch.counted.sum()) for batch in calibration.batches)
        width = max(
            spec.rows if is_embedding(modules_of(calibration.loaded.model, spec)[0]) else spec.cols for spec in self.specs
        )
        return {
            "num_texts": sum(len(batch.counted) for batch in calibration.batches),
            "num_held_out": sum(len(batch.counted) for batch in calibration.held_out),
            "num_tokens": num_tokens,
            "tokens_per_dimension": num_tokens / width,
            "weighting": calibration.weighting,
            "digest": calibration.digest,
        }

    def moments(self, spec: ModuleSpec) -> InputMoments:
        """Moments of the inputs of one member."""
        return self.calibration.moments(self._together(spec))[0]

    def gradients(self, spec: ModuleSpec, name: str) -> Tensor:
        """ "fisher", "sensitivity" or "row_moment" of one member."""
        return self.calibration.gradients(self._together(spec), name)[0]

    def _together(self, spec: ModuleSpec) -> list[ModuleSpec]:
        """A member and those found in the same pass: all, as long as none is settled, since they will be asked for next."""
        return [spec] if self.has_settled else [spec, *(other for other in self.specs if other != spec)]


class MemberStatistics:
    """The `Statistics` of one member."""

    def __init__(self, hints: GroupHints, spec: ModuleSpec) -> None:
        self._hints = hints
        self._spec = spec

    @cached_property
    def _moments(self) -> InputMoments:
        return self._hints.moments(self._spec)

    @property
    def num_tokens(self) -> int:
        """Tokens of the text that reached the module."""
        return self._moments.num_tokens

    @property
    def column_moment(self) -> Tensor | None:
        """(cols, cols) float64; None for an embedding."""
        return None if self._is_embedding else self._moments.second

    @property
    def row_moment(self) -> Tensor | None:
        """(rows, rows) float64, of gradients; for an embedding (rows,), the share of each token."""
        return self._moments.second if self._is_embedding else self._hints.gradients(self._spec, "row_moment")

    @property
    def fisher(self) -> Tensor | None:
        """(rows, cols), mean squared gradient of a text's log-likelihood."""
        return self._hints.gradients(self._spec, "fisher")

    @property
    def sensitivity(self) -> Tensor | None:
        """(rows, cols), mean absolute gradient of a text's log-likelihood."""
        return self._hints.gradients(self._spec, "sensitivity")

    @property
    def column_magnitude(self) -> Tensor | None:
        """(cols,) float64; None for an embedding."""
        return self._moments.magnitude

    @property
    def _is_embedding(self) -> bool:
        return self._moments.magnitude is None


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
