"""Second moments of the inputs to weight matrices, gathered by hooks in forward passes.

The full second moment of inputs of width d is a (d, d) matrix in float64. It takes up 8 d² bytes, more than the weights of a
wide layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from offcomp.errors import InputError
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.weights import stored_view
from offcomp.runs.calibration.batches import TokenBatch

TOKENS_AT_ONCE = 256  # maximum per forward pass, so that activations stay small compared with the model
SHORTEST = 0.1
"""Lower bound on output norms, as a fraction of the median norm; see `token_weights`."""


@dataclass(frozen=True)
class InputMoments:
    """Means, in float64, over the tokens that reach a weight matrix W (rows, cols).

    second      (cols, cols): weighted mean of x xᵀ; for an embedding, (rows,): the relative frequency of each token
    magnitude   (cols,): mean of |x|; None for an embedding
    """

    num_tokens: int
    second: Tensor
    magnitude: Tensor | None = None


class Watcher(Protocol):
    """A callback that is invoked for each use of a module in a forward pass."""

    def __call__(self, spec: ModuleSpec, inputs: Tensor, output: Tensor) -> None:
        """`inputs` has shape (tokens, cols), or (tokens,) for token ids; `output` has shape (tokens, rows or hidden size)."""


def modules_of(model: PreTrainedModel, spec: ModuleSpec) -> list[nn.Module]:
    """The modules that use a weight: a single module or several tied embeddings, excluding a head tied to an embedding."""
    tied = [model.get_submodule(path.rpartition(".")[0]) for path in (spec.path, *spec.tied)]
    alike = [module for module in tied if is_embedding(module) == is_embedding(tied[0])]
    return list(dict.fromkeys(alike))


class _AllSeen(Exception):
    """Raised to end a forward pass after the last watched module."""


@dataclass
class Watch:
    """Runs forward passes, calling `watcher` with the counted tokens at each use of a watched module.

    The first pass counts the uses; later passes stop after the last use, which halves the time on average if a single module is
    watched.
    """

    model: PreTrainedModel
    specs: Sequence[ModuleSpec]
    watcher: Watcher
    uses: int | None = None

    def run(self, batches: Sequence[TokenBatch]) -> None:
        """Run forward passes over all batches, without gradients.

        Values that do not belong to a text, such as position embeddings, are the same in every part of a batch and are counted
        once. They are recognised by their shape, so no part may consist of a single text.
        """
        for batch in batches:
            for number, part in enumerate(batch.parts(TOKENS_AT_ONCE, at_least=2)):
                self._pass(part, with_others=number == 0)

    def _pass(self, batch: TokenBatch, *, with_others: bool) -> None:
        seen = 0

        def hook(spec: ModuleSpec) -> Any:
            def see(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
                nonlocal seen
                own = output[..., spec.start : spec.start + spec.rows] if spec.fused else output
                if with_others or len(output) in (len(batch.counted), batch.counted.numel()):
                    inputs = counted_tokens(arguments[0], batch.counted, is_embedding(module))
                    self.watcher(spec, inputs, counted_tokens(own, batch.counted))
                seen += 1
                if seen == self.uses:
                    raise _AllSeen

            return see

        with ExitStack() as stack, suppress(_AllSeen):
            for spec in self.specs:
                for module in modules_of(self.model, spec):
                    stack.callback(module.register_forward_hook(hook(spec)).remove)
            run(self.model, self.specs, batch)
        self.uses = seen


def is_embedding(module: nn.Module) -> bool:
    """Whether a module takes token ids as input, rather than vectors."""
    return isinstance(module, nn.Embedding)


def counted_tokens(values: Tensor, counted: Tensor, numbers: bool = False) -> Tensor:
    """Select the vectors (tokens, width), or token ids (tokens,), of the counted tokens.

    If the values are not arranged by text and token (pooled vectors, position embeddings), all of them are selected.
    """
    by_token = values.shape if numbers else values.shape[:-1]
    flat = values.reshape(-1) if numbers else values.reshape(-1, values.shape[-1])
    return flat[counted.reshape(-1)] if tuple(by_token) in {tuple(counted.shape), (counted.numel(),)} else flat


def run(model: PreTrainedModel, specs: Sequence[ModuleSpec], batch: TokenBatch) -> None:
    """Run a forward pass through these modules, skipping the head if it contains none of them."""
    base = model.base_model
    inside = {id(module) for module in base.modules()}
    whole = any(id(module) not in inside for spec in specs for module in modules_of(model, spec))
    with torch.no_grad():
        (model if whole else base)(**batch.inputs)


class MomentSums:
    """A watcher that sums moments, weighting tokens equally or by 1 / ‖output‖²."""

    def __init__(self, weighting: str) -> None:
        self._by_output = weighting == "output"
        self._second: dict[ModuleSpec, Tensor] = {}
        self._magnitude: dict[ModuleSpec, Tensor] = {}
        self._occurrences: dict[ModuleSpec, Tensor] = {}
        self._weight: dict[ModuleSpec, float] = {}
        self._tokens: dict[ModuleSpec, int] = {}

    def __call__(self, spec: ModuleSpec, inputs: Tensor, output: Tensor) -> None:
        """Add the tokens from one use of a module."""
        if not inputs.is_floating_point():
            counts = torch.bincount(inputs, minlength=spec.rows).double()
            self._occurrences[spec] = self._occurrences[spec].add_(counts) if spec in self._occurrences else counts
            self._count(spec, len(inputs), len(inputs))
            return
        vectors = inputs.to(torch.float64, copy=True)
        if spec not in self._second:
            width = vectors.shape[1]
            self._second[spec] = vectors.new_zeros(width, width)
            self._magnitude[spec] = vectors.new_zeros(width)
        self._magnitude[spec] += vectors.abs().sum(0)
        weights = token_weights(output) if self._by_output else vectors.new_ones(len(vectors))
        vectors *= weights.sqrt()[:, None]
        self._second[spec].addmm_(vectors.T, vectors)
        self._count(spec, float(weights.sum()), len(vectors))

    def _count(self, spec: ModuleSpec, weight: float, tokens: int) -> None:
        self._weight[spec] = self._weight.get(spec, 0.0) + weight
        self._tokens[spec] = self._tokens.get(spec, 0) + tokens

    def means(self, spec: ModuleSpec) -> InputMoments:
        """The means of a module. Call this only once: it overwrites the sums. Raises InputError if no token was added."""
        tokens, weight = self._tokens.get(spec, 0), self._weight.get(spec) or 1.0
        if tokens == 0:
            raise InputError(f"no token of the calibration text reaches {spec.name}; choose a different module or longer texts")
        if spec in self._occurrences:
            return InputMoments(tokens, self._occurrences[spec] / weight)
        return InputMoments(tokens, self._second.pop(spec).div_(weight), self._magnitude[spec].div_(tokens))


def sum_moments(
    model: PreTrainedModel, specs: Sequence[ModuleSpec], batches: Sequence[TokenBatch], weighting: str
) -> MomentSums:
    """Sum the input moments of each module over all batches, in one pass over the text."""
    sums = MomentSums(weighting)
    Watch(model, specs, sums).run(batches)
    return sums


def shared_inputs(model: PreTrainedModel, specs: Sequence[ModuleSpec], batch: TokenBatch) -> dict[ModuleSpec, ModuleSpec]:
    """Map each module to the first module with the same input tensor (for example, that of query, key and value)."""
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
        run(model, specs, batch)
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
        original, reconstruction = stored_view(model, spec), reconstructions[spec]
        if inputs.is_floating_point():
            exact, error = inputs @ original.T, inputs @ (original - reconstruction).T
        else:
            exact, error = original[inputs], original[inputs] - reconstruction[inputs]
        weights = token_weights(output) if weighting == "output" else torch.ones(len(exact), device=exact.device)
        for index, vectors in enumerate((error, exact)):
            sums[spec][index] += float((_squared_lengths(vectors) * weights).sum())

    Watch(model, list(reconstructions), watcher).run(batches)
    return {spec: (error, exact) for spec, (error, exact) in sums.items()}


def token_weights(output: Tensor) -> Tensor:
    """1 / ‖y‖² for each token's output y (tokens, rows), in float64; 0 where y is 0.

    Norms are clamped to at least SHORTEST times the median; otherwise, a token with near-zero output would dominate.
    """
    lengths = _squared_lengths(output)
    return torch.where(lengths > 0, lengths.clamp_min(SHORTEST**2 * lengths.median()).reciprocal(), 0.0)


def _squared_lengths(vectors: Tensor) -> Tensor:
    """Squared norm of each row, in float64."""
    return torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64).square()
