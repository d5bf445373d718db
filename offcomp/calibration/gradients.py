"""Per-text gradients of the model's log-likelihood by its weights, and second moments of gradients at outputs.

The gradient of one text by W is G = Σ_t g_t x_tᵀ over its tokens, g the gradient at the output of W and x its input. Texts of a
batch do not touch each other, so one backward pass of the summed log-likelihoods gives the g of each, and G is formed text by
text: the Fisher information is the mean of the squared G, never the square of a mean. Where a module is used several times
(shared layers), its uses are added up before they are squared. Of a weight that is tied to a head, the embedding's use counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import PreTrainedModel

from offcomp.calibration.batches import TokenBatch
from offcomp.calibration.moments import counted_tokens, is_embedding, modules_of
from offcomp.errors import InputError
from offcomp.models.catalogue import ModuleSpec
from offcomp.numerics.outer_sum import OuterSum
from offcomp.numerics.spool import Spool

TOKENS_AT_ONCE = 64
"""What a backward pass needs is kept for so many tokens, or a text where that has more."""
PIECE_ENTRIES = 1 << 19
"""Entries of a text's gradient that are computed at a time."""

LogLikelihood = Callable[[TokenBatch], Tensor]
"""A batch -> the log-likelihood of each text (texts,), with its graph."""


@dataclass
class GradientSums:
    """Sums of one weight W (rows, cols) over texts or, for the moment, tokens; only those that are asked for are there.

    fisher, sensitivity     in `sums`, (rows, cols): squared and absolute gradients
    row_moment              (rows, rows) float64: g gᵀ
    """

    spec: ModuleSpec
    sums: dict[str, Tensor] = field(default_factory=dict)
    row_moment: OuterSum | None = None
    num_texts: int = 0
    num_tokens: int = 0

    def add_texts(self, uses: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Add the gradients of the texts of a batch, from pairs of inputs and gradients (texts, tokens, width)."""
        self.num_texts += len(uses[0][0])
        for text in range(len(uses[0][0])):
            for rows, gradient in _gradient([(inputs[text], at_output[text]) for inputs, at_output in uses]):
                if "fisher" in self.sums:
                    self.sums["fisher"][rows] += gradient.square()
                if "sensitivity" in self.sums:
                    self.sums["sensitivity"][rows] += gradient.abs_()

    def add_tokens(self, gradients: Tensor) -> None:
        """Add gradients at the output (tokens, rows) to the moment, if that is asked for."""
        if self.row_moment is not None:
            self.num_tokens += len(gradients)
            self.row_moment.add(gradients.double())

    def means(self) -> dict[str, Tensor]:
        """What was asked for, for one use. Raises InputError where no text reached the module."""
        if not (self.num_texts or self.num_tokens):
            raise InputError(f"no gradient reaches {self.spec.name}, so its metric is unknown; choose another module or metric")
        means = {name: total.div_(self.num_texts) for name, total in self.sums.items()}
        if self.row_moment is not None:
            means["row_moment"] = self.row_moment.result().div_(self.num_tokens)
        return means


def _gradient(uses: Sequence[tuple[Tensor, Tensor]]) -> Iterator[tuple[Any, Tensor]]:
    """(rows, those of G) of one text over all uses, some at a time; of an embedding only the rows of tokens that occur."""
    if not uses[0][0].is_floating_point():
        tokens, place = torch.cat([inputs.reshape(-1) for inputs, _ in uses]).unique(return_inverse=True)
        at_outputs = torch.cat([at_output for _, at_output in uses])
        yield tokens, at_outputs.new_zeros(len(tokens), at_outputs.shape[1]).index_add_(0, place, at_outputs)
        return
    num_rows, height = uses[0][1].shape[1], max(1, PIECE_ENTRIES // uses[0][0].shape[1])
    for start in range(0, num_rows, height):
        rows = slice(start, start + height)
        inputs, at_output = uses[0]
        gradient = at_output[:, rows].T @ inputs
        for inputs, at_output in uses[1:]:
            gradient.addmm_(at_output[:, rows].T, inputs)
        yield rows, gradient


def sum_gradients(
    model: PreTrainedModel,
    specs: Sequence[ModuleSpec],
    batches: Sequence[TokenBatch],
    names: Sequence[str],
    likelihood: LogLikelihood,
    *,
    spool: Spool | None = None,
    saves_on_disk: bool = False,
) -> dict[ModuleSpec, GradientSums]:
    """Sums of "fisher", "sensitivity" and "row_moment", as named, for each module, by passes forward and backward.

    See `OuterSum` for the spool. What a forward pass saves for the backward pass may wait on disk as well.
    """
    totals = {}
    for spec in specs:
        sums = {name: torch.zeros(spec.shape, device=model.device) for name in names if name != "row_moment"}
        moment = OuterSum(spec.rows, model.device, spool) if "row_moment" in names else None
        totals[spec] = GradientSums(spec, sums, moment)
    for batch in batches:
        for part in batch.parts(TOKENS_AT_ONCE):
            _Backward(model, part, totals).run(likelihood, saves_on_disk=saves_on_disk)
    return totals


class _Backward:
    """One forward and backward pass over a batch."""

    def __init__(self, model: PreTrainedModel, batch: TokenBatch, totals: dict[ModuleSpec, GradientSums]) -> None:
        self.model = model
        self.batch = batch
        self.totals = totals
        self._awaited = dict.fromkeys(totals, 0)
        self._uses: dict[ModuleSpec, list[tuple[Tensor, Tensor]]] = {spec: [] for spec in totals}

    def run(self, likelihood: LogLikelihood, *, saves_on_disk: bool) -> None:
        """Add the batch to the totals."""
        with ExitStack() as stack, torch.enable_grad():
            for spec in self.totals:
                for module in modules_of(self.model, spec):
                    stack.callback(module.register_forward_hook(self._forward_hook(spec)).remove)
            if saves_on_disk:
                stack.enter_context(_saved_on_disk(self.model))
            total = likelihood(self.batch).sum()
            if total.requires_grad:
                total.backward()
        for spec, uses in self._uses.items():
            self._add(spec, uses)  # uses that no gradient reached, as of a branch that the likelihood does not see

    def _forward_hook(self, spec: ModuleSpec) -> Any:
        def see(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not output.requires_grad:  # weights have no gradient, so the graph begins at the first of these outputs
                output = output.requires_grad_().clone()  # which the model may change in place, as it may not a leaf
            inputs = arguments[0].detach()
            self._awaited[spec] += 1
            output.register_hook(lambda gradient: self._collect(spec, is_embedding(module), inputs, gradient))
            return output

        return see

    def _collect(self, spec: ModuleSpec, numbers: bool, inputs: Tensor, gradient: Tensor) -> None:
        """Called in the backward pass with the gradient at an output; once all uses are there they are added up."""
        own = gradient[..., spec.start : spec.start + spec.rows] if spec.fused else gradient
        total = self.totals[spec]
        total.add_tokens(counted_tokens(own, self.batch.counted))
        if not total.sums:
            return
        self._uses[spec].append((self._by_text(spec, inputs, numbers), self._by_text(spec, own, False)))
        if len(self._uses[spec]) == self._awaited[spec]:
            self._add(spec, self._uses[spec])
            self._uses[spec] = []

    def _add(self, spec: ModuleSpec, uses: list[tuple[Tensor, Tensor]]) -> None:
        if uses:
            self.totals[spec].add_texts(uses)

    def _by_text(self, spec: ModuleSpec, values: Tensor, numbers: bool) -> Tensor:
        """Values laid out as (texts, tokens, width), or (texts, tokens) for token numbers.

        Raises InputError where they belong to no single text, as position vectors do.
        """
        texts = len(self.batch.counted)
        width = () if numbers else values.shape[-1:]
        leading = values.shape if numbers else values.shape[:-1]
        if leading and leading[0] in (texts, self.batch.counted.numel()):
            return values.reshape(texts, -1, *width)
        raise InputError(f"gradients of {spec.name} cannot be told apart by text; choose another module or a metric of inputs")


def _saved_on_disk(model: PreTrainedModel) -> saved_tensors_hooks:
    """What the forward pass saves for the backward pass waits on disk, but for the model's own tensors."""
    spool = Spool()
    own = {tensor.untyped_storage().data_ptr() for tensor in chain(model.parameters(), model.buffers())}

    def put(tensor: Tensor) -> Callable[[], Tensor]:
        return (lambda: tensor) if tensor.untyped_storage().data_ptr() in own else spool.put(tensor)

    return saved_tensors_hooks(put, lambda read: read())
