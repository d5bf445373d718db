"""Per-text gradients of the log-likelihood with respect to weights, and second moments of the gradients at module outputs.

For each text, the gradient with respect to W is G = Σ_t g_t x_tᵀ, summed over the tokens t, where g is the gradient at the
output of W and x is its input. The texts in a batch are independent, so one backward pass through the summed log-likelihoods
yields g for every token, from which G is computed for each text. The Fisher information is the mean of the squared G rather
than the squared mean. If a module is used several times (shared layers), the gradients of all uses are summed before squaring.
For an embedding tied to a head, only its use as an embedding is included. For an expert, t runs over the tokens that reach it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from offcomp.errors import InputError
from offcomp.models.catalogue import ModuleSpec
from offcomp.runs.calibration.batches import TokenBatch
from offcomp.runs.calibration.experts import ExpertUse, ExpertUses, has_too_few, is_expert, plain_experts
from offcomp.runs.calibration.forward import is_embedding, modules_of

TOKENS_AT_ONCE = 64
"""Maximum number of tokens per backward pass, to limit activation memory; a longer text is processed on its own."""

NEGLIGIBLE = 1e-30
"""The mean squared or absolute gradient of an expert that no token reaches."""

LogLikelihood = Callable[[TokenBatch], Tensor]
"""Batch -> the log-likelihood of each text (texts,), with its autograd graph."""


@dataclass
class GradientSums:
    """Sums of the requested statistics of a weight W (rows, cols), over texts or, for the row moment, over tokens.

    fisher, sensitivity     in `sums`, (rows, cols): squared and absolute gradients
    row_moment              (rows, rows) float64: g gᵀ
    """

    spec: ModuleSpec
    sums: dict[str, Tensor] = field(default_factory=dict)
    row_moment: Tensor | None = None
    num_texts: int = 0
    num_tokens: int = 0

    def add_texts(self, uses: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Add the gradient of each text, computed from the inputs and output gradients (texts, tokens, width) of all uses."""
        self.num_texts += len(uses[0][0])
        for text in range(len(uses[0][0])):
            rows, gradient = _gradient([(inputs[text], at_output[text]) for inputs, at_output in uses])
            if "fisher" in self.sums:
                self.sums["fisher"][rows] += gradient.square()
            if "sensitivity" in self.sums:
                self.sums["sensitivity"][rows] += gradient.abs()

    def add_tokens(self, gradients: Tensor) -> None:
        """Add output gradients (tokens, rows) to the row moment, if requested."""
        self.num_tokens += len(gradients)
        if self.row_moment is not None:
            vectors = gradients.double()
            self.row_moment.addmm_(vectors.T, vectors)

    def means(self) -> dict[str, Tensor]:
        """The means of the requested statistics. Call this only once: it overwrites the sums.

        For an expert that too few tokens reach, all entries are their mean, or NEGLIGIBLE if that is 0, and the row moment is
        the identity. Raises InputError if no gradient was added.
        """
        if has_too_few(self.spec, {self.spec: self.num_tokens}):
            level = {name: float(total.mean()) / max(1, self.num_texts) for name, total in self.sums.items()}
            flat = {name: torch.full_like(total, level[name] or NEGLIGIBLE) for name, total in self.sums.items()}
            return flat if self.row_moment is None else {"row_moment": torch.eye(self.spec.rows).to(self.row_moment)}
        if not (self.num_texts or self.num_tokens):
            raise InputError(
                f"no gradient reaches {self.spec.name}, so its metric cannot be computed; use a different module or metric"
            )
        means = {name: total.div_(self.num_texts) for name, total in self.sums.items()}
        if self.row_moment is not None:
            means["row_moment"] = self.row_moment.div_(self.num_tokens)
        return means


def _gradient(uses: Sequence[tuple[Tensor, Tensor]]) -> tuple[Any, Tensor]:
    """Row indices and the corresponding rows of G for one text; for an embedding, only the rows of the text's tokens."""
    if uses[0][0].is_floating_point():
        return slice(None), sum((at_output.T @ inputs for inputs, at_output in uses), torch.zeros(()))
    tokens, row = torch.cat([inputs.reshape(-1) for inputs, _ in uses]).unique(return_inverse=True)
    at_outputs = torch.cat([at_output for _, at_output in uses])
    return tokens, at_outputs.new_zeros(len(tokens), at_outputs.shape[1]).index_add_(0, row, at_outputs)


def sum_gradients(
    model: PreTrainedModel,
    specs: Sequence[ModuleSpec],
    batches: Sequence[TokenBatch],
    names: Sequence[str],
    likelihood: LogLikelihood,
) -> dict[ModuleSpec, GradientSums]:
    """Sum the named statistics ("fisher", "sensitivity", "row_moment") of each module over forward and backward passes."""
    totals = {}
    for spec in specs:
        sums = {name: torch.zeros(spec.shape, device=model.device) for name in names if name != "row_moment"}
        square = (spec.rows, spec.rows)
        moment = torch.zeros(square, dtype=torch.float64, device=model.device) if "row_moment" in names else None
        totals[spec] = GradientSums(spec, sums, moment)
    for batch in batches:
        for part in batch.parts(TOKENS_AT_ONCE):
            _Backward(model, part, totals).run(likelihood)
    return totals


def _with_gradient(output: Tensor) -> Tensor:
    """An output of which the gradient is recorded."""
    if output.requires_grad:
        return output
    # weights have requires_grad=False, so the graph starts here; the model may modify it in place, which a leaf forbids
    return output.requires_grad_().clone()


class _Backward:
    """One forward and backward pass over a batch."""

    def __init__(self, model: PreTrainedModel, batch: TokenBatch, totals: dict[ModuleSpec, GradientSums]) -> None:
        self.model = model
        self.batch = batch
        self.totals = totals
        self._awaited = dict.fromkeys(totals, 0)
        self._uses: dict[ModuleSpec, list[tuple[Tensor, Tensor]]] = {spec: [] for spec in totals}

    def run(self, likelihood: LogLikelihood) -> None:
        """Run both passes and add the batch to the totals."""
        routed = [spec for spec in self.totals if is_expert(spec)]
        with ExitStack() as stack, torch.enable_grad():
            for spec in self.totals:
                for module in modules_of(self.model, spec) if spec not in routed else ():
                    stack.callback(module.register_forward_hook(self._forward_hook(spec)).remove)
            if routed:
                stack.enter_context(plain_experts(self.model))
                stack.enter_context(ExpertUses(self.model, routed, self._see_experts)).start(self.batch)
            total = likelihood(self.batch).sum()
            if total.requires_grad:
                total.backward()
        for spec, uses in self._uses.items():
            self._add(spec, uses)  # the uses left over if some received no gradient, for example in an unused branch

    def _see_experts(self, uses: Sequence[ExpertUse], output: Tensor) -> Tensor:
        output = _with_gradient(output)
        for use in uses:
            self._awaited[use.spec] += 1
            output.register_hook(partial(self._collect_expert, use))
        return output

    def _collect_expert(self, use: ExpertUse, gradient: Tensor) -> None:
        """Backward hook: like `_collect`, for one use of an expert; the gradients of tokens that do not reach it are 0."""
        own, texts = use.own(gradient), self.batch.counted.shape
        self.totals[use.spec].add_tokens(use.counted(self.batch, own))

        def by_text(values: Tensor) -> Tensor:
            every = values.new_zeros(self.batch.counted.numel(), values.shape[1])
            return every.index_copy_(0, use.positions, values).unflatten(0, texts)

        self._add_use(use.spec, by_text(use.inputs), by_text(own))

    def _forward_hook(self, spec: ModuleSpec) -> Any:
        def see(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            output = _with_gradient(output)
            inputs = arguments[0].detach()
            self._awaited[spec] += 1
            output.register_hook(lambda gradient: self._collect(spec, is_embedding(module), inputs, gradient))
            return output

        return see

    def _collect(self, spec: ModuleSpec, numbers: bool, inputs: Tensor, gradient: Tensor) -> None:
        """Backward hook: collect the gradient at the output of one call; once all calls of the module have one, add them up."""
        own = gradient[..., spec.outputs] if spec.fused else gradient
        self.totals[spec].add_tokens(self.batch.select(own))
        if self.totals[spec].sums:
            self._add_use(spec, self._by_text(spec, inputs, numbers), self._by_text(spec, own, False))

    def _add_use(self, spec: ModuleSpec, inputs: Tensor, at_output: Tensor) -> None:
        """Keep the inputs and output gradients (texts, tokens, width) of one use; add them up once all uses have theirs."""
        if not self.totals[spec].sums:
            return
        self._uses[spec].append((inputs, at_output))
        if len(self._uses[spec]) == self._awaited[spec]:
            self._add(spec, self._uses[spec])
            self._uses[spec] = []

    def _add(self, spec: ModuleSpec, uses: list[tuple[Tensor, Tensor]]) -> None:
        if uses:
            self.totals[spec].add_texts(uses)

    def _by_text(self, spec: ModuleSpec, values: Tensor, numbers: bool) -> Tensor:
        """Reshape values to (texts, tokens, width), or (texts, tokens) for token ids.

        Raises InputError if the values do not belong to individual texts, as is the case for position embeddings.
        """
        texts = len(self.batch.counted)
        width = () if numbers else values.shape[-1:]
        leading = values.shape if numbers else values.shape[:-1]
        if leading and leading[0] in (texts, self.batch.counted.numel()):
            return values.reshape(texts, -1, *width)
        raise InputError(
            f"the gradients of {spec.name} cannot be separated into individual texts; "
            "choose a different module or an input metric"
        )
