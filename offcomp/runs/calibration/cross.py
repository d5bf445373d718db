"""Joint moments, over tokens, of the inputs in the original model and in the model with substituted weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from offcomp.errors import InputError
from offcomp.models.catalogue import ModuleSpec
from offcomp.runs.calibration.batches import TokenBatch
from offcomp.runs.calibration.blocks import ModelPair
from offcomp.runs.calibration.forward import parts_of
from offcomp.runs.calibration.moments import InputMoments, MomentSums, token_weights
from offcomp.runs.calibration.watching import Watch


@dataclass(frozen=True)
class CrossMoments:
    """Moments over the tokens that reach a weight matrix W (rows, cols), in float64.

    x is the input in the original model and x' that of the same token in the model with substituted weights. Tokens
    are weighted as in the original model: equally, or by 1 / ‖W x‖².

    inputs      the second moment of x': the weighted mean of x' x'ᵀ
    cross       (cols, cols): weighted mean of x x'ᵀ
    means       weighted means of x and of x', (cols,) each
    """

    inputs: InputMoments
    cross: Tensor
    means: tuple[Tensor, Tensor]


class Use(NamedTuple):
    """One use of a module for some tokens: inputs (tokens, cols) and output (tokens, rows)."""

    spec: ModuleSpec
    inputs: Tensor
    output: Tensor


class Uses:
    """A watcher that records the uses of modules during a forward pass."""

    def __init__(self) -> None:
        self.recorded: list[Use] = []

    def __call__(self, spec: ModuleSpec, inputs: Tensor, output: Tensor) -> None:
        """Record one use of a module."""
        self.recorded.append(Use(spec, inputs.clone(), output.clone()))  # the model may modify them in place afterwards

    def take(self) -> list[Use]:
        """Return the recorded uses and clear the record."""
        taken, self.recorded = self.recorded, []
        return taken


class CrossSums:
    """Sums of joint moments, weighting tokens equally or by 1 / ‖output of the original model‖²."""

    def __init__(self, weighting: str) -> None:
        self._by_output = weighting == "output"
        self._inputs = MomentSums(weighting)
        self._cross: dict[ModuleSpec, Tensor] = {}
        self._means: dict[ModuleSpec, Tensor] = {}

    def add_uses(self, original: Sequence[Use], substituted: Sequence[Use]) -> None:
        """Add the uses of modules in a pass through both models. Raises InputError if they do not involve the same tokens."""
        if [(use.spec, use.inputs.shape) for use in original] != [(use.spec, use.inputs.shape) for use in substituted]:
            raise InputError(
                f"{original[0].spec.name if original else 'the module'} is not used for the same tokens in the original and in "
                "the compressed model, so its inputs cannot be compared; choose a different module, or turn off toward_original"
            )
        for one, other in zip(original, substituted, strict=True):
            self.add(one.spec, one.inputs, other.inputs, one.output)

    def add(self, spec: ModuleSpec, original: Tensor, substituted: Tensor, output: Tensor) -> None:
        """Add tokens: their inputs (tokens, cols) in both models, and the output (tokens, rows) in the original model."""
        self._inputs(spec, substituted, output)
        one, other = original.to(torch.float64, copy=True), substituted.double()
        if spec not in self._cross:
            width = one.shape[1]
            self._cross[spec], self._means[spec] = one.new_zeros(width, width), one.new_zeros(2, width)
        weights = token_weights(output) if self._by_output else one.new_ones(len(one))
        self._means[spec][1] += weights @ other
        self._cross[spec].addmm_(one.mul_(weights[:, None]).T, other)
        self._means[spec][0] += one.sum(0)

    def means(self, spec: ModuleSpec) -> CrossMoments:
        """The means of a module. Call this only once: it overwrites the sums. Raises InputError if no token was added."""
        inputs = self._inputs.means(spec)
        weight = inputs.weight
        original, substituted = self._means.pop(spec).div_(weight)
        return CrossMoments(inputs, self._cross.pop(spec).div_(weight), (original, substituted))


def sum_cross_moments(
    models: ModelPair, specs: Sequence[ModuleSpec], batches: Sequence[TokenBatch], weighting: str
) -> CrossSums:
    """Sum the joint moments of modules that are not embeddings, in one pass over the text through both models.

    Raises InputError if the original is not kept, or if a module is not used for the same tokens in both models.
    """
    if models.original is None:
        raise InputError("the cross moment needs the original model; keep it before weights are substituted")
    sums, exact, changed = CrossSums(weighting), Uses(), Uses()
    first = Watch(models.original.model, specs, exact, models.original)
    second = Watch(models.substituted.model, specs, changed, models.substituted)
    with first.watching(), second.watching():
        for part, is_first in parts_of(batches):
            first.step(part, is_first)
            second.step(part, is_first)
            sums.add_uses(exact.take(), changed.take())
    return sums
