"""Correct the biases and normalisations of a compressed model in closed form, so that its outputs match those of the original.

A text is run through the original, and then through the compressed model. There, each of the following modules is corrected as
soon as it has been reached, so that every later correction takes the earlier ones into account. y = W x + b is an output of
the original, and y' the output for the same token in the compressed model; mean and standard deviation are per channel.

    linear module, compressed weight    bias b + mean(y) - mean(y')
    normalisation                       gain r g and bias r b + mean(y) - r mean(y'), with r = std(y) / std(y')
    normalisation without a bias        gain r g, with r = rms(y) / rms(y')

The first is the bias correction of Nagel et al. 2019 (arXiv 1906.04721, section 4.2) and Finkelstein et al. 2019 (arXiv
1906.03193), but with the inputs that the compressed model produces. The others are those of norm tweaking (Li et al. 2023,
arXiv 2309.02784), which trains the gains and biases by gradient descent instead. Gains match the spread of y; a regression of y
on y' would shrink them, since part of y' is noise.

All tokens but padding count, special tokens as well, since a bias acts on every token. Corrections replace values of the same
size, so they take up no space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import pad
from transformers import PreTrainedModel

from offcomp.models.catalogue import ModuleSpec
from offcomp.models.weights import MATRIX_MODULES
from offcomp.numerics.training import one_thread_if
from offcomp.runs.calibration.batches import TokenBatch
from offcomp.runs.calibration.forward import is_embedding, is_narrow, modules_of, without_cache
from offcomp.runs.calibration.moments import token_weights
from offcomp.runs.calibration.passes import Calibration, Changes

MOST_TOKENS = 8192
"""Largest size of the text, with padding: all of it is run at once, and its activations have to fit in memory."""
DEAD_GAIN = 1e-4
"""Channels whose gain is at most this are left alone: their outputs are nearly constant, so a ratio of them means nothing."""
PRIOR_TOKENS = 32
"""Corrections shrink as if this many more tokens needed none, so that a short text does no harm."""
WIDEST_RATIO = 2.0
"""Gains change at most by this factor."""


@dataclass
class Moments:
    """Weighted sums over tokens of the outputs of a module, in float64: weights, weights², y and y², per channel."""

    weight: float = 0.0
    squared_weight: float = 0.0
    first: Tensor | float = 0.0
    second: Tensor | float = 0.0

    def add(self, outputs: Tensor, weights: Tensor) -> None:
        """Add outputs (tokens, channels) with weights (tokens,)."""
        outputs = outputs.double()
        self.weight += float(weights.sum())
        self.squared_weight += float(weights.square().sum())
        self.first = self.first + weights @ outputs
        self.second = self.second + weights @ outputs.square()

    @property
    def mean(self) -> Tensor:
        """Mean (channels,)."""
        return torch.as_tensor(self.first) / self.weight

    @property
    def mean_square(self) -> Tensor:
        """Mean square (channels,)."""
        return torch.as_tensor(self.second) / self.weight

    @property
    def num_tokens(self) -> float:
        """Number of equally weighted tokens whose mean is as exact: (Σ w)² / Σ w²."""
        return self.weight**2 / self.squared_weight if self.squared_weight else 0.0


@dataclass
class Target:
    """A module to be corrected.

    path          of the module in the model
    rows          (channels,) bool: the channels to be corrected; of a fused weight, those of the compressed parts
    rescaled      whether the gain is corrected as well
    num_uses      how often the module is used in a forward pass
    weights       for each use, the weights of its tokens, which are those of the outputs of the original
    original      the outputs of the original
    """

    path: str
    module: nn.Module
    rows: Tensor
    rescaled: bool
    num_uses: int = 0
    weights: list[Tensor] = field(default_factory=list)
    original: Moments = field(default_factory=Moments)


def corrected_vectors(
    calibration: Calibration, specs: Iterable[ModuleSpec], replacements: Changes, what: str
) -> dict[str, Tensor]:
    """The corrected parameters of a model, by full path, if the matrices of these modules are replaced.

    what    which parameters to correct, see `planning.plan.CORRECTIONS`

    The model must have its original weights, and has them again afterwards.
    """
    try:
        with calibration.model_loaded():
            corrector = Corrector(calibration.loaded.model, specs, calibration.batches, what, calibration.weighting)
            corrector.read_original()
            calibration.change(replacements)
            return corrector.correct()
    finally:
        calibration.restore()


class _Reached(Exception):
    """Raised to end a forward pass once there is nothing left to do in it."""


class Corrector:
    """Corrects the vectors of a model whose matrices have been replaced.

    Call `read_original` with the original matrices in the model, then `correct` with the replaced ones.

    Args:
        specs: the modules whose matrices are replaced.
        batches: the text; if it is longer than MOST_TOKENS with padding, texts of all lengths are left out evenly.
        what: which parameters to correct, see `planning.plan.CORRECTIONS`.
        weighting: "output" weights each token by 1 / ‖output of the original‖², "equal" weights all alike.
    """

    def __init__(
        self, model: PreTrainedModel, specs: Iterable[ModuleSpec], batches: Sequence[TokenBatch], what: str, weighting: str
    ) -> None:
        self.model = model
        self.batch = joined(batches)
        self.by_output = weighting == "output"
        self.targets = self._in_order(_targets(model, specs))
        if what == "shift":
            norms = [target for target in self.targets if not isinstance(target.module, MATRIX_MODULES)]
            self.targets = [target for target in norms if _bias(target.module) is not None][-1:]
        for target in self.targets:
            target.rescaled = what == "norms" and not isinstance(target.module, MATRIX_MODULES)
        if what == "biases":
            self.targets = [target for target in self.targets if _bias(target.module) is not None]

    def _in_order(self, targets: Sequence[Target]) -> list[Target]:
        """The targets that are used, in the order of their first use, which a pass over one text shows."""
        used: dict[str, Target] = {}

        def hook(target: Target) -> Any:
            def see(*_: object) -> None:
                target.num_uses += 1
                used.setdefault(target.path, target)

            return see

        self._run(targets, hook, next(self.batch.parts(1)))
        return list(used.values())

    def read_original(self) -> None:
        """Read the outputs of the original model."""
        remaining = sum(target.num_uses for target in self.targets)

        def hook(target: Target) -> Any:
            def see(_module: nn.Module, _arguments: object, _named: object, output: Tensor) -> None:
                nonlocal remaining
                outputs = self._selected(output)
                weights = token_weights(outputs) if self.by_output else torch.ones(len(outputs), dtype=torch.float64)
                target.weights.append(weights.to(outputs.device))
                target.original.add(outputs, target.weights[-1])
                remaining -= 1
                if not remaining:
                    raise _Reached

            return see

        if self.targets:
            self._run(self.targets, hook, self.batch)
        self.targets = [target for target in self.targets if len(target.weights) == target.num_uses]

    def correct(self) -> dict[str, Tensor]:
        """The parameters that need a correction, by their full path, on the CPU. The model's own vectors are restored."""
        originals = {path: parameter.clone() for target in self.targets for path, parameter in _vectors(target).items()}
        try:
            pending = list(self.targets)
            while pending:
                self._walk(pending)
            corrected = {path: self.model.get_parameter(path).detach() for path in originals}
            changed = [path for path, original in originals.items() if not torch.equal(corrected[path], original)]
            return {path: corrected[path].cpu().clone() for path in changed}
        finally:
            for path, original in originals.items():
                self.model.get_parameter(path).data.copy_(original)

    def _walk(self, pending: list[Target]) -> None:
        """Correct targets in order, removing them from the list; ends after one that was used before it could be corrected.

        A target that is used more or less often than in the original, or for other tokens, is removed without a correction.
        """
        seen, uses, first = Moments(), 0, pending[0]

        def hook(target: Target) -> Any:
            def see(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> Tensor | None:
                nonlocal seen, uses
                if not pending or target is not pending[0]:
                    return None
                outputs = self._selected(output)
                if len(outputs) != len(target.weights[uses]):
                    raise _Reached
                seen.add(outputs, target.weights[uses])
                uses += 1
                if uses < target.num_uses:
                    return None
                _correct(target, seen)
                del pending[0]
                if uses > 1 or not pending:
                    raise _Reached
                seen, uses = Moments(), 0
                return module.forward(*arguments, **named)  # without this hook

            return see

        self._run(list(pending), hook, self.batch)
        if pending and pending[0] is first:
            del pending[0]

    def _run(self, targets: Sequence[Target], hook: Callable[[Target], Any], batch: TokenBatch) -> None:
        with ExitStack() as stack:
            for target in targets:
                stack.callback(target.module.register_forward_hook(hook(target), with_kwargs=True).remove)
            stack.enter_context(without_cache(self.model))
            stack.enter_context(one_thread_if(is_narrow(self.model)))
            stack.enter_context(suppress(_Reached))
            with torch.no_grad():
                self.model(**batch.inputs)

    def _selected(self, output: Tensor) -> Tensor:
        """The outputs (tokens, channels) of the counted tokens, or all if they are not arranged by text and token."""
        by_token = output.flatten(0, 1) if output.ndim > 2 else output
        is_by_token = len(by_token) == self.batch.counted.numel()
        rows = by_token.index_select(0, self.batch.positions) if is_by_token else by_token
        return rows.reshape(-1, output.shape[-1])


def joined(batches: Sequence[TokenBatch]) -> TokenBatch:
    """One batch with the texts of all batches, counting all tokens; some texts are left out if they exceed MOST_TOKENS."""
    width = max(batch.counted.shape[1] for batch in batches)
    num_texts = sum(len(batch.counted) for batch in batches)
    most = max(2, MOST_TOKENS // width)
    chosen = torch.linspace(0, num_texts - 1, min(most, num_texts)).round().long().to(batches[0].counted.device)

    def join(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([pad(tensor, (0, width - tensor.shape[1])) for tensor in tensors])[chosen]

    inputs = {name: join([batch.inputs[name] for batch in batches]) for name in batches[0].inputs}
    return TokenBatch(inputs, inputs["attention_mask"].bool())


def is_norm(module: nn.Module) -> bool:
    """Whether the outputs of a module are proportional to its `weight` per channel, apart from its `bias`."""
    weight = module._parameters.get("weight")
    if weight is None or weight.ndim != 1 or isinstance(module, MATRIX_MODULES) or any(True for _ in module.children()):
        return False
    inputs = torch.linspace(-1, 1, weight.numel(), dtype=weight.dtype, device=weight.device).expand(2, 3, -1)
    with torch.no_grad(), suppress(TypeError, ValueError, RuntimeError):
        outputs = functional_call(module, {"weight": torch.zeros_like(weight)}, (inputs,))
        bias = _bias(module)
        expected = torch.zeros_like(inputs) if bias is None else bias.expand_as(inputs)
        return isinstance(outputs, Tensor) and torch.equal(outputs, expected)
    return False


def _targets(model: PreTrainedModel, specs: Iterable[ModuleSpec]) -> list[Target]:
    """Normalisations, and the modules that have a bias and use one of these weights, embeddings apart."""
    paths = {id(module): path for path, module in model.named_modules()}
    found: dict[str, Target] = {}
    for spec in specs:
        for module in modules_of(model, spec):
            bias = _bias(module)
            if bias is not None and not is_embedding(module):
                path = paths[id(module)]
                target = found.setdefault(path, Target(path, module, torch.zeros_like(bias, dtype=torch.bool), False))
                target.rows[spec.start : spec.start + spec.rows] = True
    for path, module in model.named_modules():
        if is_norm(module):
            alive = module.get_parameter("weight").abs() > DEAD_GAIN
            found[path] = Target(path, module, alive, True)
    return list(found.values())


def _bias(module: nn.Module) -> nn.Parameter | None:
    return module._parameters.get("bias")


def _vectors(target: Target) -> dict[str, Tensor]:
    """The parameters to be corrected, by their full path."""
    vectors = {"bias": _bias(target.module)} | ({"weight": target.module.get_parameter("weight")} if target.rescaled else {})
    return {f"{target.path}.{name}": vector.detach() for name, vector in vectors.items() if vector is not None}


def _correct(target: Target, seen: Moments) -> None:
    """Change the vectors of a target whose outputs have these moments so that they match those of the original."""
    original, bias = target.original, _bias(target.module)
    trust = seen.num_tokens / (seen.num_tokens + PRIOR_TOKENS)
    ratio = torch.ones_like(seen.mean)
    if target.rescaled:
        centre, centre_seen = (0.0, 0.0) if bias is None else (original.mean, seen.mean)
        spread = (original.mean_square - centre**2).clamp_min(0)
        spread_seen = (seen.mean_square - centre_seen**2).clamp_min(0)
        ratio = torch.where((spread > 0) & (spread_seen > 0), spread / spread_seen, 1.0).sqrt() ** trust
        ratio = torch.where(target.rows, ratio.clamp(1 / WIDEST_RATIO, WIDEST_RATIO), 1.0)
        target.module.get_parameter("weight").data.mul_(ratio)
    if bias is not None:
        shift = torch.where(target.rows, trust * (original.mean - seen.mean), 0.0)
        if target.rescaled:
            shift = shift + (1 - ratio) * (seen.mean - bias.double())
        bias.data.add_(shift)
