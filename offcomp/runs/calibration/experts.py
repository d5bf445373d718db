"""Observe the tokens that reach each expert of a mixture of experts.

An expert may be part of a tensor that stacks all experts of a layer, so it has no module to hook. Instead, `ExpertUses` looks
at every matrix product of a forward pass and finds those with an expert's matrix by the address of its values. Which tokens
reach the expert follows from the indices with which the layer picked them from all tokens just before.

transformers can also compute all experts of a layer in one fused operation; within `ExpertUses`, it uses plain loops instead.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from offcomp.errors import InputError
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.weights import stacked_experts
from offcomp.planning.grouping import EXPERT_KINDS
from offcomp.runs.calibration.batches import TokenBatch
from offcomp.runs.result import GroupResult

MIN_TOKENS = 16
"""An expert that fewer tokens reach is compressed as if there were no text. See `benchmarks/experts.py --by-tokens`."""
MAX_NAMED = 3  # in a note
PRODUCTS = (linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm, torch.bmm, Tensor.bmm)


def is_expert(spec: ModuleSpec) -> bool:
    """Whether only some tokens reach a module, because it belongs to one of several experts."""
    return spec.expert is not None or spec.kind in EXPERT_KINDS


def has_too_few(spec: ModuleSpec, tokens: Mapping[ModuleSpec, int]) -> bool:
    """Whether a module is an expert that fewer than MIN_TOKENS tokens reach."""
    return is_expert(spec) and tokens.get(spec, 0) < MIN_TOKENS


def scarce(specs: Sequence[ModuleSpec], tokens: Mapping[ModuleSpec, int]) -> set[ModuleSpec]:
    """The experts among these modules that fewer than MIN_TOKENS tokens reach."""
    return {spec for spec in specs if has_too_few(spec, tokens)}


def scarce_notes(groups: Iterable[GroupResult]) -> list[str]:
    """A sentence on the experts of all groups that too few tokens reached, if there are any."""
    names = [name for group in groups if group.calibration for name in group.calibration.scarce_experts]
    if not names:
        return []
    first = ", ".join([*names[:MAX_NAMED], *(["..."] if len(names) > MAX_NAMED else [])])
    count = "1 matrix of an expert was" if len(names) == 1 else f"{len(names)} matrices of experts were"
    reason = f"because fewer than {MIN_TOKENS} tokens reach an expert; a longer calibration text would help"
    return [f"{count} compressed as if there were no text ({first}), {reason}"]


@dataclass(frozen=True)
class ExpertUse:
    """A product of the inputs (tokens, cols) of an expert with its matrix.

    positions   of the tokens in the batch flattened to texts · tokens
    number      of the expert in an output (experts, tokens, rows) of all experts; None if the output is of this expert alone
    rows        those of the inputs, and of the output, that belong to these tokens
    """

    spec: ModuleSpec
    inputs: Tensor
    positions: Tensor
    rows: Tensor | slice
    number: int | None = None

    def own(self, output: Tensor) -> Tensor:
        """The part (tokens, rows) of the output of the product, or of the gradient there, that belongs to this use."""
        alone = output if self.number is None else output[self.number]
        return alone[self.rows][:, self.spec.outputs if self.spec.fused else slice(None)]

    def counted(self, batch: TokenBatch, values: Tensor) -> Tensor:
        """Those of the values (tokens, width) that belong to counted tokens of the batch."""
        return values[batch.counted.reshape(-1)[self.positions]]


See = Callable[[Sequence[ExpertUse], Tensor], Tensor]
"""Called with the uses in one product and its output; returns the output with which the pass goes on."""


class ExpertUses(TorchFunctionMode):
    """Calls `see` at every product with the matrix of one of these experts, within the `with` statement.

    Call `start` before each pass.
    """

    def __init__(self, model: PreTrainedModel, specs: Sequence[ModuleSpec], see: See) -> None:
        super().__init__()
        self.model, self.see = model, see
        self._alone: dict[int, list[ModuleSpec]] = defaultdict(list)  # by the address of the expert's own matrix
        self._stacked: dict[int, list[ModuleSpec]] = defaultdict(list)  # by that of the tensor of all experts
        for spec in specs:
            parameter = model.get_parameter(spec.path)
            own = parameter if spec.expert is None else stacked_experts(parameter, spec)[spec.expert]
            self._alone[own.data_ptr()].append(spec)
            if spec.expert is not None:
                self._stacked[parameter.data_ptr()].append(spec)
        self._num_tokens, self._picked = 0, torch.empty(0)

    def start(self, batch: TokenBatch) -> None:
        """Begin a pass over a batch."""
        self._num_tokens, self._picked = batch.counted.numel(), torch.empty(0)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function, then look at its arguments."""
        result = func(*args, **(kwargs or {}))
        if func is Tensor.__getitem__:
            self._note_picked(*args)
        elif func in PRODUCTS and len(args) > 1:
            uses = list(self._uses(args[0], args[1]))
            return self.see(uses, result) if uses else result
        return result

    def _note_picked(self, source: Tensor, index: Any) -> None:
        """Remember the indices if these are the rows of all tokens."""
        indices = [each for each in index if each is not None] if isinstance(index, tuple) else [index]
        is_list = len(indices) == 1 and isinstance(indices[0], Tensor) and indices[0].ndim == 1
        if is_list and source.ndim == 2 and len(source) == self._num_tokens and indices[0].dtype == torch.long:
            self._picked = indices[0]

    def _uses(self, inputs: Tensor, matrix: Tensor) -> Iterator[ExpertUse]:
        if matrix.ndim == 3 and inputs.ndim == 3:
            for spec in self._stacked.get(matrix.data_ptr(), ()):
                own = inputs[spec.expert]
                reached = own.any(1).nonzero()[:, 0]  # the layer sets the inputs of all other tokens to 0, as in Llama 4
                yield ExpertUse(spec, own[reached].detach(), reached, reached, spec.expert)
        elif matrix.ndim == 2:
            for spec in self._alone.get(matrix.data_ptr(), ()):
                own = inputs.detach().reshape(-1, inputs.shape[-1])
                yield ExpertUse(spec, own, self._positions(spec, own), slice(None))

    def _positions(self, spec: ModuleSpec, inputs: Tensor) -> Tensor:
        """The positions of the tokens with these inputs, which may be some of the rows that were picked last."""
        first, picked = inputs.storage_offset() // inputs.shape[1], len(self._picked)
        total = inputs.untyped_storage().nbytes() // (inputs.element_size() * inputs.shape[1])
        if total == picked or len(inputs) == picked:
            return self._picked[first : first + len(inputs)] if total == picked else self._picked
        if len(inputs) == self._num_tokens:
            return torch.arange(len(inputs), device=inputs.device)
        raise InputError(
            f"the tokens that reach {spec.name} cannot be observed in this model; "
            "leave it out, or choose a method that needs no text"
        )


@contextmanager
def plain_experts(model: PreTrainedModel) -> Iterator[None]:
    """Within the `with` statement, experts are computed one after the other, in plain loops."""
    usual = model.get_experts_implementation()
    model.set_experts_implementation("eager")
    try:
        yield
    finally:
        model.set_experts_implementation(usual)
