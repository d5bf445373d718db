"""Second moments of the inputs to weight matrices, gathered in forward passes.

The full second moment of inputs of width d is a (d, d) matrix in float64. It takes up 8 d² bytes, more than the weights of a
wide layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from offcomp.errors import InputError
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.weights import stored_view
from offcomp.numerics.grams import add_upper_gram, mirrored
from offcomp.runs.calibration.batches import TokenBatch
from offcomp.runs.calibration.blocks import BlockInputs
from offcomp.runs.calibration.experts import has_too_few
from offcomp.runs.calibration.forward import entry_point, has_module, modules_of, run, without_cache
from offcomp.runs.calibration.watching import Watch

SHORTEST = 0.1
"""Lower bound on output norms, as a fraction of the median norm; see `token_weights`."""


@dataclass(frozen=True)
class InputMoments:
    """The second moment, in float64, of the inputs x over all tokens that reach a weight matrix W (rows, cols).

    second      (cols, cols): weighted mean of x xᵀ; for an embedding, (rows,): the relative frequency of each token
    weight      sum of the weights of all tokens
    """

    num_tokens: int
    second: Tensor
    weight: float


class MomentSums:
    """A watcher that sums second moments, weighting tokens equally or by 1 / ‖output‖².

    `tokens` is the number of tokens that reached each module.
    """

    def __init__(self, weighting: str) -> None:
        self._by_output = weighting == "output"
        self._second: dict[ModuleSpec, Tensor] = {}
        self._weight: dict[ModuleSpec, float] = {}
        self.tokens: dict[ModuleSpec, int] = {}
        self._device = torch.device("cpu")

    def __call__(self, spec: ModuleSpec, inputs: Tensor, output: Tensor) -> None:
        """Add the tokens from one use of a module."""
        self.tokens[spec], self._device = self.tokens.get(spec, 0) + len(inputs), inputs.device
        if not inputs.is_floating_point():
            counts = torch.bincount(inputs, minlength=spec.rows).double()
            self._second[spec] = self._second[spec].add_(counts) if spec in self._second else counts
            self._weight[spec] = float(self.tokens[spec])
            return
        vectors = inputs.to(torch.float64, copy=True)
        if spec not in self._second:
            width = vectors.shape[1]
            self._second[spec] = vectors.new_zeros(width, width)
        weights = token_weights(output) if self._by_output else vectors.new_ones(len(vectors))
        add_upper_gram(self._second[spec], vectors.mul_(weights.sqrt()[:, None]))
        self._weight[spec] = self._weight.get(spec, 0.0) + float(weights.sum())

    def means(self, spec: ModuleSpec) -> InputMoments:
        """The means of a module. Call this only once: it overwrites the sums. Raises InputError if no token was added.

        For an expert that too few tokens reach, the second moment is the identity.
        """
        if has_too_few(spec, self.tokens):
            self._second.pop(spec, None)
            identity = torch.eye(spec.cols, dtype=torch.float64, device=self._device)
            return InputMoments(self.tokens.get(spec, 0), identity, 1.0)
        tokens = _reached(spec, self.tokens)
        total, weight = self._second.pop(spec), self._weight[spec] or 1.0
        return InputMoments(tokens, (mirrored(total) if total.ndim == 2 else total).div_(weight), weight)


class MagnitudeSums:
    """A watcher that sums the absolute values of inputs, weighting all tokens equally; `tokens` as in `MomentSums`."""

    def __init__(self) -> None:
        self._sums: dict[ModuleSpec, Tensor] = {}
        self.tokens: dict[ModuleSpec, int] = {}
        self._device = torch.device("cpu")

    def __call__(self, spec: ModuleSpec, inputs: Tensor, output: Tensor) -> None:
        """Add the tokens from one use of a module that takes vectors."""
        self.tokens[spec], self._device = self.tokens.get(spec, 0) + len(inputs), inputs.device
        self._sums[spec] = self._sums.get(spec, 0) + inputs.abs().sum(0, dtype=torch.float64)

    def means(self, spec: ModuleSpec) -> Tensor:
        """The mean of |x| (cols,), in float64. Raises InputError if no token was added.

        For an expert that too few tokens reach, all are 1.
        """
        if has_too_few(spec, self.tokens):
            return torch.ones(spec.cols, dtype=torch.float64, device=self._device)
        tokens = _reached(spec, self.tokens)
        return self._sums[spec] / tokens


def _reached(spec: ModuleSpec, tokens: Mapping[ModuleSpec, int]) -> int:
    """The number of tokens that reached a module. Raises InputError if there are none."""
    if not tokens.get(spec):
        raise InputError(f"no token of the calibration text reaches {spec.name}; choose a different module or longer texts")
    return tokens[spec]


def sum_moments(
    model: PreTrainedModel,
    specs: Sequence[ModuleSpec],
    batches: Sequence[TokenBatch],
    weighting: str,
    inputs: BlockInputs | None = None,
) -> MomentSums:
    """Sum the second moments of the inputs of each module over all batches, in one pass over the text; see `Watch`."""
    sums = MomentSums(weighting)
    Watch(model, specs, sums, inputs).run(batches)
    return sums


def sum_magnitudes(
    model: PreTrainedModel, specs: Sequence[ModuleSpec], batches: Sequence[TokenBatch], inputs: BlockInputs | None = None
) -> MagnitudeSums:
    """Sum the absolute inputs of modules that are not embeddings, in one pass over the text; see `Watch`."""
    sums = MagnitudeSums()
    Watch(model, specs, sums, inputs).run(batches)
    return sums


def shared_inputs(model: PreTrainedModel, specs: Sequence[ModuleSpec], batch: TokenBatch) -> dict[ModuleSpec, ModuleSpec]:
    """Map each module to the first module with the same input tensor (for example, that of query, key and value)."""
    specs = list(filter(has_module, specs))
    seen: dict[int, tuple[ModuleSpec, Tensor]] = {}  # keeps the tensors alive, so ids stay unique
    first: dict[ModuleSpec, ModuleSpec] = {}

    def hook(spec: ModuleSpec) -> Any:
        def see(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            owner, _ = seen.setdefault(id(arguments[0]), (spec, arguments[0]))
            first.setdefault(spec, owner)

        return see

    with ExitStack() as stack:
        for spec in specs:
            for module in modules_of(model, spec):
                stack.callback(module.register_forward_pre_hook(hook(spec)).remove)
        stack.enter_context(without_cache(model))
        run(entry_point(model, specs), batch)
    return first


def output_errors(
    model: PreTrainedModel,
    reconstructions: Mapping[ModuleSpec, Tensor],
    batches: Sequence[TokenBatch],
    weighting: str,
) -> dict[ModuleSpec, tuple[float, float]]:
    """Sums of ‖(W-Ŵ)x‖² and ‖Wx‖² over tokens for each module, weighted as in the moments. The model is not modified."""
    sums = {spec: [0.0, 0.0] for spec in reconstructions}

    def watcher(spec: ModuleSpec, inputs: Tensor, output: Tensor) -> None:
        original = stored_view(model, spec)
        reconstruction = reconstructions[spec].to(original.device)
        if inputs.is_floating_point():
            exact, error = inputs @ original.T, inputs @ (original - reconstruction).T
        else:
            exact, error = original[inputs], original[inputs] - reconstruction[inputs]
        weights = token_weights(output) if weighting == "output" else torch.ones(len(exact), device=exact.device)
        for index, vectors in enumerate((error, exact)):
            sums[spec][index] += float((_squared_lengths(vectors) * weights).sum())

    Watch(model, list(reconstructions), watcher).run(batches)
    return {spec: (error, exact) for spec, (error, exact) in sums.items()}


def errors_from_moments(original: Tensor, reconstruction: Tensor, moments: InputMoments) -> tuple[float, float]:
    """Sums of ‖(W-Ŵ)x‖² and ‖Wx‖² over the tokens of the moments, as in `output_errors` but without another pass."""

    def energy(matrix: Tensor) -> float:
        rows = matrix.double()
        return moments.weight * ((rows @ moments.second) * rows).sum().clamp_min(0).item()

    return energy(original - reconstruction.to(original.device)), energy(original)


def token_weights(output: Tensor) -> Tensor:
    """1 / ‖y‖² for each token's output y (tokens, rows), in float64; 0 where y is 0.

    Norms are clamped to at least SHORTEST times the median; otherwise, a token with near-zero output would dominate.
    """
    lengths = _squared_lengths(output)
    return torch.where(lengths > 0, lengths.clamp_min(SHORTEST**2 * lengths.median()).reciprocal(), 0.0)


def _squared_lengths(vectors: Tensor) -> Tensor:
    """Squared norm of each row, in float64."""
    return torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64).square()
