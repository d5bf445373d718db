"""Watch the inputs and outputs of selected modules during forward passes over a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import PreTrainedModel

from offcomp.models.catalogue import ModuleSpec
from offcomp.numerics.training import one_thread_if
from offcomp.runs.calibration.batches import TokenBatch
from offcomp.runs.calibration.blocks import BlockInputs, RunPart
from offcomp.runs.calibration.experts import ExpertUse, ExpertUses, is_expert, plain_experts
from offcomp.runs.calibration.forward import is_embedding, is_narrow, modules_of, parts_of, without_cache


class Watcher(Protocol):
    """A callback that is invoked for each use of a module in a forward pass."""

    def __call__(self, spec: ModuleSpec, inputs: Tensor, output: Tensor) -> None:
        """`inputs` has shape (tokens, cols), or (tokens,) for token ids; `output` has shape (tokens, rows or hidden size)."""


class _AllSeen(Exception):
    """Raised to end a forward pass after the last watched module."""


class Watch:
    """Runs forward passes, calling `watcher` with the counted tokens at each use of a watched module.

    The first pass counts the uses; later passes stop after the last use, which halves the time on average if a single module is
    watched. With experts, passes run to the end, since the text decides which of them are used. If `inputs` of the same model
    are given, passes start at the block that contains all watched modules.
    """

    _run_part: RunPart
    _batch: TokenBatch  # of the current pass
    _with_others: bool

    def __init__(
        self, model: PreTrainedModel, specs: Sequence[ModuleSpec], watcher: Watcher, inputs: BlockInputs | None = None
    ) -> None:
        self.model = model
        self.specs = specs
        self.watcher = watcher
        self.inputs = inputs or BlockInputs(model)
        self._seen = 0
        self._uses: int | None = None
        self._routed = [spec for spec in specs if is_expert(spec)]
        self._experts: ExpertUses | None = None

    def run(self, batches: Sequence[TokenBatch]) -> None:
        """Run forward passes over all batches, without gradients.

        Values that do not belong to a text, such as position embeddings, are the same in every part of a batch and are counted
        once. They are recognised by their shape, so each part of a batch contains at least two texts.
        """
        with self.watching():
            for part, is_first in parts_of(batches):
                self.step(part, is_first)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the modules within the `with` statement. The caller calls `step` there for each part of the text in turn."""
        with ExitStack() as stack:
            for spec in self.specs:
                for module in modules_of(self.model, spec) if spec not in self._routed else ():
                    stack.callback(module.register_forward_hook(self._hook(spec)).remove)
            stack.enter_context(without_cache(self.model))
            stack.enter_context(one_thread_if(is_narrow(self.model)))
            if self._routed:
                stack.enter_context(plain_experts(self.model))
                self._experts = stack.enter_context(ExpertUses(self.model, self._routed, self._see_experts))
            self._run_part = stack.enter_context(self.inputs.passes(self.specs))
            yield

    def step(self, part: TokenBatch, is_first: bool) -> None:
        """Run a forward pass over the next part of the text; `is_first` states whether it is the first of its batch."""
        self._batch, self._with_others, self._seen = part, is_first, 0
        if self._experts:
            self._experts.start(part)
        with suppress(_AllSeen):
            self._run_part(part)
        self._uses = None if self._routed else self._seen

    def _see_experts(self, uses: Sequence[ExpertUse], output: Tensor) -> Tensor:
        for use in uses:
            inputs, own = (use.counted(self._batch, values) for values in (use.inputs, use.own(output)))
            if len(inputs):
                self.watcher(use.spec, inputs, own)
        return output

    def _hook(self, spec: ModuleSpec) -> Any:
        def see(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            batch = self._batch
            own = output[..., spec.outputs] if spec.fused else output
            if self._with_others or len(output) in (len(batch.counted), batch.counted.numel()):
                self.watcher(spec, batch.select(arguments[0], is_embedding(module)), batch.select(own))
            self._seen += 1
            if self._seen == self._uses and not self.inputs.needs_whole_pass:
                raise _AllSeen

        return see
