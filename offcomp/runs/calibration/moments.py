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
from offcomp.numerics.grams import add_upper_gram, mirrored
from offcomp.runs.calibration.batches import TokenBatch

TOKENS_AT_ONCE = 256  # maximum per forward pass, so that activations stay small compared with the model
SHORTEST = 0.1
"""Lower bound on output norms, as a fraction of the median norm; see `token_weights`."""


@dataclass(frozen=True)
class InputMoments:
    """The second moment, in float64, over the tokens that reach a weight matrix W (rows, cols).

    second      (cols, cols): weighted mean of x xᵀ; for an embedding, (rows,): the relative frequency of each token
    weight      sum of the weights of all tokens
    """

    num_tokens: int
    second: Tensor
    weight: float


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


class Watch:
    """Runs forward passes, calling `watcher` with the counted tokens at each use of a watched module.

    The first pass counts the uses; later passes stop after the last use, which halves the time on average if a single module is
    watched.
    """

    _batch: TokenBatch  # of the current pass
    _with_others: bool

    def __init__(self, model: PreTrainedModel, specs: Sequence[ModuleSpec], watcher: Watcher) -> None:
        self.model = model
        self.specs = specs
        self.watcher = watcher
        self._seen = 0
        self._uses: int | None = None

    def run(self, batches: Sequence[TokenBatch]) -> None:
        """Run forward passes over all batches, without gradients.

        Values that do not belong to a text, such as position embeddings, are the same in every part of a batch and are counted
        once. They are recognised by their shape, so no part may consist of a single text.
        """
        entry = entry_point(self.model, self.specs)
        with ExitStack() as stack:
            for spec in self.specs:
                for module in modules_of(self.model, spec):
                    stack.callback(module.register_forward_hook(self._hook(spec)).remove)
            for batch in batches:
                for number, part in enumerate(batch.parts(TOKENS_AT_ONCE, at_least=2)):
                    self._batch, self._with_others, self._seen = part, number == 0, 0
                    with suppress(_AllSeen):
                        run(entry, part)
                    self._uses = self._seen

    def _hook(self, spec: ModuleSpec) -> Any:
        def see(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            batch = self._batch
            own = output[..., spec.start : spec.start + spec.rows] if spec.fused else output
            if self._with_others or len(output) in (len(batch.counted), batch.counted.numel()):
                self.watcher(spec, batch.select(arguments[0], is_embedding(module)), batch.select(own))
            self._seen += 1
            if self._seen == self._uses:
                raise _AllSeen

        return see


def is_embedding(module: nn.Module) -> bool:
    """Whether a module takes token ids as input, rather than vectors."""
    return isinstance(module, nn.Embedding)


def entry_point(model: PreTrainedModel, specs: Sequence[ModuleSpec]) -> nn.Module:
    """The part of the model to run to reach these modules: without the head, unless it contains one of them."""
    base = model.base_model
    inside = {id(module) for module in base.modules()}
    return model if any(id(module) not in inside for spec in specs for module in modules_of(model, spec)) else base


def run(entry: nn.Module, batch: TokenBatch) -> None:
    """Run a forward pass through a model or a part of it."""
    with torch.no_grad():
        entry(**batch.inputs)


class MomentSums:
    """A watcher that sums second moments, weighting tokens equally or by 1 / ‖output‖²."""

    def __init__(self, weighting: str) -> None:
        self._by_output = weighting == "output"
        self._second: dict[ModuleSpec, Tensor] = {}
        self._weight: dict[ModuleSpec, float] = {}
        self._tokens: dict[ModuleSpec, int] = {}

    def __call__(self, spec: ModuleSpec, inputs: Tensor, output: Tensor) -> None:
        """Add the tokens from one use of a module."""
        self._tokens[spec] = self._tokens.get(spec, 0) + len(inputs)
        if not inputs.is_floating_point():
            counts = torch.bincount(inputs, minlength=spec.rows).double()
            self._second[spec] = self._second[spec].add_(counts) if spec in self._second else counts
            self._weight[spec] = float(self._tokens[spec])
            return
        vectors = inputs.to(torch.float64, copy=True)
        if spec not in self._second:
            width = vectors.shape[1]
            self._second[spec] = vectors.new_zeros(width, width)
        weights = token_weights(output) if self._by_output else vectors.new_ones(len(vectors))
        add_upper_gram(self._second[spec], vectors.mul_(weights.sqrt()[:, None]))
        self._weight[spec] = self._weight.get(spec, 0.0) + float(weights.sum())

    def means(self, spec: ModuleSpec) -> InputMoments:
        """The means of a module. Call this only once: it overwrites the sums. Raises InputError if no token was added."""
        tokens = _reached(spec, self._tokens)
        total, weight = self._second.pop(spec), self._weight[spec] or 1.0
        return InputMoments(tokens, (mirrored(total) if total.ndim == 2 else total).div_(weight), weight)


class MagnitudeSums:
    """A watcher that sums the absolute values of inputs, weighting all tokens equally."""

    def __init__(self) -> None:
        self._sums: dict[ModuleSpec, Tensor] = {}
        self._tokens: dict[ModuleSpec, int] = {}

    def __call__(self, spec: ModuleSpec, inputs: Tensor, output: Tensor) -> None:
        """Add the tokens from one use of a module that takes vectors."""
        self._tokens[spec] = self._tokens.get(spec, 0) + len(inputs)
        self._sums[spec] = self._sums.get(spec, 0) + inputs.abs().sum(0, dtype=torch.float64)

    def means(self, spec: ModuleSpec) -> Tensor:
        """The mean of |x| (cols,), in float64. Raises InputError if no token was added."""
        tokens = _reached(spec, self._tokens)
        return self._sums[spec] / tokens


def _reached(spec: ModuleSpec, tokens: Mapping[ModuleSpec, int]) -> int:
    """The number of tokens that reached a module. Raises InputError if there are none."""
    if not tokens.get(spec):
        raise InputError(f"no token of the calibration text reaches {spec.name}; choose a different module or longer texts")
    return tokens[spec]


def sum_moments(
    model: PreTrainedModel, specs: Sequence[ModuleSpec], batches: Sequence[TokenBatch], weighting: str
) -> MomentSums:
    """Sum the second moments of the inputs of each module over all batches, in one pass over the text."""
    sums = MomentSums(weighting)
    Watch(model, specs, sums).run(batches)
    return sums


def sum_magnitudes(model: PreTrainedModel, specs: Sequence[ModuleSpec], batches: Sequence[TokenBatch]) -> MagnitudeSums:
    """Sum the absolute inputs of each module, none of them an embedding, over all batches, in one pass over the text."""
    sums = MagnitudeSums()
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


def errors_from_moments(original: Tensor, reconstruction: Tensor, moments: InputMoments) -> tuple[float, float]:
    """Sums of ‖(W-Ŵ)x‖² and ‖Wx‖² over the tokens of the moments (cols, cols), like `output_errors` without a pass."""

    def energy(matrix: Tensor) -> float:
        rows = matrix.double()
        return moments.weight * ((rows @ moments.second) * rows).sum().clamp_min(0).item()

    return energy(original - reconstruction), energy(original)


def token_weights(output: Tensor) -> Tensor:
    """1 / ‖y‖² for each token's output y (tokens, rows), in float64; 0 where y is 0.

    Norms are clamped to at least SHORTEST times the median; otherwise, a token with near-zero output would dominate.
    """
    lengths = _squared_lengths(output)
    return torch.where(lengths > 0, lengths.clamp_min(SHORTEST**2 * lengths.median()).reciprocal(), 0.0)


def _squared_lengths(vectors: Tensor) -> Tensor:
    """Squared norm of each row, in float64."""
    return torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64).square()
