"""Passes over a text that start at the block (transformer layer) with the watched modules, using inputs captured earlier.

A method that compresses the members of a group one after another needs the inputs that each member receives once the earlier
members are replaced. Whatever precedes a block is the same for all members inside that block, so it is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from offcomp.models.catalogue import ModuleSpec
from offcomp.models.places import EXPERT_LIST
from offcomp.runs.calibration.batches import TokenBatch
from offcomp.runs.calibration.forward import entry_point, run
from offcomp.runs.calibration.links import Call, Link, Links, copied, values_in

RunPart = Callable[[TokenBatch], None]
"""A function that runs a forward pass over the next part of the text."""
PLAIN = (bool, int, float, str, type(None))


def block_of(model: PreTrainedModel, specs: Sequence[ModuleSpec]) -> str | None:
    """Path of the block in which all these modules are used: the innermost such item of an `nn.ModuleList`, or None.

    An expert is no block, since a pass may not use it.
    """
    paths = [path.split(".") for spec in specs for path in (spec.path, *spec.tied)]
    for length in range(len(paths[0]) - 2, 1, -1):  # without the names of the module itself and of its parameter
        block = paths[0][:length]
        is_list = isinstance(model.get_submodule(".".join(block[:-1])), nn.ModuleList)
        is_item = is_list and not EXPERT_LIST.search(".".join(block))
        if is_item and all(path[:length] == block for path in paths):
            return ".".join(block)
    return None


class BlockInputs:
    """The inputs of one block for every part of a text. A full pass captures them, and later passes start from them.

    Only the inputs of the latest block are kept. They are valid as long as no weight outside the block changes; a caller that
    changes one must call `drop`. The inputs of later blocks of the same list are computed from them (`Links`). Nothing is kept,
    and every pass is a full one, if

    - the inputs take up more than `limit` bytes,
    - the block is not used exactly once per pass, as with shared layers, or
    - its arguments include anything but tensors and plain values, such as a cache of keys and values that grows with each use.
    """

    def __init__(self, model: PreTrainedModel, limit: int = 0) -> None:
        self.model = model
        self.limit = limit
        self.path: str | None = None  # of the block whose inputs are kept
        self._calls: list[Call] = []
        self._links = Links(model)

    def drop(self) -> None:
        """Discard the captured inputs."""
        self.path, self._calls = None, []

    def drop_unless_inside(self, spec: ModuleSpec) -> None:
        """Discard the captured inputs if they may depend on this module, because it is outside the block."""
        if self.path is None or not all(path.startswith(f"{self.path}.") for path in (spec.path, *spec.tied)):
            self.drop()

    @contextmanager
    def passes(self, specs: Sequence[ModuleSpec]) -> Iterator[RunPart]:
        """Yields a function that runs the next part of the text at each call, at least as far as these modules.

        The pass starts at their block if the inputs of the block are known; otherwise, the pass captures them if possible.
        """
        block = block_of(self.model, specs) if self.limit else None
        if block is not None and self._reach(block):
            yield self._from_block(self.model.get_submodule(block))
            return
        entry = entry_point(self.model, specs)
        if block is None:
            yield lambda part: run(entry, part)
            return
        self.drop()
        capture = _Capture(self.limit)
        handle = self.model.get_submodule(block).register_forward_pre_hook(capture, with_kwargs=True)

        def run_part(part: TokenBatch) -> None:
            capture.start_part()
            self._links.start_part()
            run(entry, part)

        try:
            with self._links.watching(block):
                yield run_part
        finally:
            handle.remove()
        capture.start_part()  # checks the last part
        if capture.is_valid:
            self.path, self._calls = block, capture.calls

    @property
    def needs_whole_pass(self) -> bool:
        """Whether a pass over the current part must run through to the last block."""
        return self._links.is_new

    def _reach(self, block: str) -> bool:
        """Whether the inputs of a block are known; computes them from those of an earlier block if possible."""
        if self.path is None:
            return False
        path, links = self.path, self._links.path(self.path, block)
        for link in links or ():
            self._advance(path, link)
            path = link.target
        return links is not None

    def _advance(self, path: str, link: Link) -> None:
        """Run the block at `path` on its saved inputs, and replace them with the inputs of the next block."""
        block, calls = self.model.get_submodule(path), self._calls
        self.drop()
        for number, (arguments, named) in enumerate(calls):
            with torch.no_grad():
                outputs = list(values_in(block(*arguments, **named)))
            calls[number] = link.call((arguments, named), outputs)
        self.path, self._calls = link.target, calls

    def _from_block(self, block: nn.Module) -> RunPart:
        calls = iter(self._calls)

        def run_part(_: TokenBatch) -> None:
            arguments, named = copied(next(calls))  # the block may modify its inputs in place
            with torch.no_grad():
                block(*arguments, **named)

        return run_part


class ModelPair:
    """The model of a calibration, whose weights are substituted, and a copy of the original if it is kept.

    The captured block inputs of the two models together take up at most `limit` bytes.
    """

    def __init__(self, model: PreTrainedModel, limit: int) -> None:
        self.substituted = BlockInputs(model, limit)
        self.original: BlockInputs | None = None
        self._limit = limit

    def keep_original(self) -> None:
        """Copy the model, whose weights must be the original ones."""
        self.original = BlockInputs(deepcopy(self.substituted.model).eval().requires_grad_(False))
        self.reset()

    def drop_original(self) -> None:
        """Discard the copy, and all captured inputs."""
        self.original = None
        self.reset()

    def reset(self, limit: int | None = None) -> None:
        """Discard all captured inputs, and change the limit if one is given."""
        self._limit = self._limit if limit is None else limit
        models = [self.substituted, *([self.original] if self.original else [])]
        for inputs in models:
            inputs.drop()
            inputs.limit = self._limit // len(models)


class _Capture:
    """A forward pre-hook that copies the arguments of a block, once per part of the text."""

    def __init__(self, limit: int) -> None:
        self.calls: list[Call] = []
        self.is_valid = True
        self._num_parts = 0
        self._bytes_left = limit

    def start_part(self) -> None:
        """Check that each part so far has called the block exactly once."""
        self.is_valid = self.is_valid and len(self.calls) == self._num_parts
        self._num_parts += 1

    def __call__(self, block: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Copy the arguments of a call, or discard those of all calls if any of them cannot be kept."""
        values = list(values_in((arguments, named)))
        self._bytes_left -= sum(value.nbytes for value in values if isinstance(value, Tensor))
        is_plain = all(isinstance(value, (Tensor, *PLAIN)) for value in values)
        self.is_valid = self.is_valid and is_plain and self._bytes_left >= 0
        if self.is_valid:
            self.calls.append(copied((arguments, named)))
        else:
            self.calls = []
