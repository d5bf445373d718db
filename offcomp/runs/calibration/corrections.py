"""Correct the biases and normalisations of a compressed model in closed form, so that its outputs match those of the original.

A text is run through the original and then through the compressed model. In the latter, each of the following modules is
corrected as soon as it is reached, so that every later correction takes the earlier ones into account. y = W x + b is an output
of the original, and y' the output for the same token in the compressed model; means and standard deviations are per channel.

    linear module, compressed weight    bias b + mean(y) - mean(y')
    normalisation                       gain r g and bias r b + mean(y) - r mean(y'), with r = std(y) / std(y')
    normalisation without a bias        gain r g, with r = rms(y) / rms(y')

The first is the bias correction of Nagel et al. 2019 (arXiv 1906.04721, section 4.2) and Finkelstein et al. 2019 (arXiv
1906.03193), but with the inputs that the compressed model produces. The others are those of norm tweaking (Li et al. 2023,
arXiv 2309.02784), which trains the gains and biases by gradient descent instead. Gains match the spread of y; a regression of y
on y' would shrink them, since part of y' is noise.

All tokens except padding are counted, even special tokens, since a bias acts on every token. Corrections replace values of the
same size, so they take up no space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from offcomp.models.catalogue import ModuleSpec
from offcomp.numerics.training import one_thread_if
from offcomp.runs.calibration.batches import TokenBatch
from offcomp.runs.calibration.correctable import Moments, Target, targets_in
from offcomp.runs.calibration.forward import is_narrow, without_cache
from offcomp.runs.calibration.moments import token_weights
from offcomp.runs.calibration.passes import Calibration
from offcomp.runs.calibration.substitutions import Reconstructed

MAX_TOKENS = 8192
"""Maximum number of tokens, including padding: the whole text is run at once, and its activations have to fit in memory."""


def corrected_vectors(
    calibration: Calibration, specs: Iterable[ModuleSpec], groups: Sequence[Reconstructed], what: str
) -> dict[str, Tensor]:
    """The corrected parameters, by full path, for a model whose matrices are replaced by those of its compressed groups.

    specs   the members of these groups
    what    which parameters to correct, see `planning.plan.CORRECTIONS`

    The model must have its original weights, and has them again afterwards.
    """
    try:
        with calibration.model_loaded():
            corrector = Corrector(calibration.loaded.model, specs, calibration.batches, what, calibration.weighting)
            corrector.read_original()
            calibration.follow(groups)
            return corrector.correct()
    finally:
        calibration.restore()


class _Reached(Exception):
    """Raised to end a forward pass once there is nothing left to do in it."""


class Corrector:
    """Corrects the vectors of a model whose matrices have been replaced.

    Call `read_original` while the model has its original matrices, then `correct` once they have been replaced.

    Args:
        specs: the modules whose matrices are replaced.
        batches: the text; if it exceeds MAX_TOKENS, including padding, short and long texts are left out alike.
        what: which parameters to correct, see `planning.plan.CORRECTIONS`.
        weighting: "output" weights each token by 1 / ‖output of the original‖², "equal" weights all tokens alike.
    """

    def __init__(
        self, model: PreTrainedModel, specs: Iterable[ModuleSpec], batches: Sequence[TokenBatch], what: str, weighting: str
    ) -> None:
        self.model = model
        self.batch = joined(batches)
        self.by_output = weighting == "output"
        self.targets = self._in_order(targets_in(model, specs))
        if what == "norms":
            for target in self.targets:
                target.rescaled = target.is_norm
        else:
            self.targets = [target for target in self.targets if target.bias is not None]
        if what == "shift":
            self.targets = [target for target in self.targets if target.is_norm][-1:]

    def _in_order(self, targets: Sequence[Target]) -> list[Target]:
        """The targets that are used, in the order of their first use, as determined by a pass over one text."""
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
        """The corrected values of the parameters that change, by full path, on the CPU. The model's own values are restored."""
        originals = {path: parameter.clone() for target in self.targets for path, parameter in target.vectors.items()}
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

        A target that is used less often than in the original, or for another number of tokens, is removed without a correction.
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
                target.correct(seen)
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
    """One batch with the texts of all batches, counting all tokens; some texts are left out if they exceed MAX_TOKENS."""
    width = max(batch.counted.shape[1] for batch in batches)
    num_texts = sum(len(batch.counted) for batch in batches)
    most = max(2, MAX_TOKENS // width)
    chosen = torch.linspace(0, num_texts - 1, min(most, num_texts)).round().long().to(batches[0].counted.device)

    def join(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([pad(tensor, (0, width - tensor.shape[1])) for tensor in tensors])[chosen]

    inputs = {name: join([batch.inputs[name] for batch in batches]) for name in batches[0].inputs}
    return TokenBatch(inputs, inputs["attention_mask"].bool())
