"""How the blocks (transformer layers) of a model are chained: which arguments each receives, and from where.

If each block of a list is given what the one before returned, and otherwise the same arguments, then the inputs of one block
are enough to compute those of the next, without a pass through the whole model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from typing import Any, NamedTuple, cast

from torch import Tensor, nn
from transformers import PreTrainedModel

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""The positional and keyword arguments of a call."""


class Link(NamedTuple):
    """How a block is called after the one before it: with the same arguments, some replaced by what that block returned.

    target      path of the block
    returned    number of an argument -> number of the returned value that replaces it
    """

    target: str
    returned: dict[int, int]

    def call(self, call: Call, outputs: Sequence[Any]) -> Call:
        """The call of this block, given the call of the block before it and what that block returned."""
        numbers = count()
        return mapped(call, lambda value: outputs[self.returned[n]] if (n := next(numbers)) in self.returned else value)

    @staticmethod
    def between(call: Call, outputs: Sequence[Any], target: str, following: Call) -> Link | None:
        """The link between the calls of two blocks; None if the second call has arguments from anywhere else."""
        if mapped(call, type) != mapped(following, type):
            return None
        numbers = {id(value): number for number, value in enumerate(outputs) if isinstance(value, Tensor)}
        returned = {}
        for number, (value, wanted) in enumerate(zip(values_in(call), values_in(following), strict=True)):
            if isinstance(wanted, Tensor) and wanted is not value:
                if id(wanted) not in numbers:
                    return None
                returned[number] = numbers[id(wanted)]
            elif not isinstance(wanted, Tensor) and wanted != value:
                return None
        return Link(target, returned)


class Links:
    """The links between successive blocks of a list, found by watching passes through all of the blocks.

    If an argument has another type, such as None instead of a mask for a text without padding, it may also come from elsewhere.
    One pass is therefore watched for each combination of types, and a link is used only if all combinations have the same one.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.is_new = False  # whether the current part has a combination of types that has not been seen yet
        self._model = model
        self._links: dict[str, Link | None] = {}
        self._seen: set[tuple[str, str]] = set()
        self._latest: tuple[str, Call, list[Any]] | None = None

    def path(self, start: str, end: str) -> list[Link] | None:
        """The links that lead from one block to another; None if no links connect them."""
        found: list[Link] = []
        while start != end:
            link = self._links.get(start)
            if link is None or link in found:
                return None
            found.append(link)
            start = link.target
        return found

    def start_part(self) -> None:
        """Begin the pass over the next part of the text."""
        self.is_new, self._latest = False, None

    @contextmanager
    def watching(self, block: str) -> Iterator[None]:
        """Within the `with` statement, watch all blocks in the list that contains this one."""
        name = block.rpartition(".")[0]
        with ExitStack() as stack:
            for number, each in enumerate(cast(nn.ModuleList, self._model.get_submodule(name))):
                path = f"{name}.{number}"
                before, after = partial(self._before, path, path == block), partial(self._after, path)
                stack.callback(each.register_forward_pre_hook(before, with_kwargs=True).remove)
                stack.callback(each.register_forward_hook(after, with_kwargs=True).remove)
            try:
                yield
            finally:
                self.start_part()

    def _before(self, path: str, is_first: bool, _: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        call = (arguments, named)
        if is_first:
            types = (path, str(mapped(call, type)))
            self.is_new = types not in self._seen
            self._seen.add(types)
        if self._latest:
            source, previous, outputs = self._latest
            link = Link.between(previous, outputs, path, call)
            self._links[source] = link if self._links.setdefault(source, link) == link else None

    def _after(self, path: str, _: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        self._latest = path, (arguments, named), list(values_in(output))


def values_in(nested: Any) -> Iterator[Any]:
    """The values in nested tuples, lists and dictionaries."""
    if type(nested) in (tuple, list):
        for each in nested:
            yield from values_in(each)
    elif type(nested) is dict:
        yield from values_in(list(nested.values()))
    else:
        yield nested


def copied(nested: Any) -> Any:
    """Nested tuples, lists and dictionaries with a copy of every tensor."""
    return mapped(nested, lambda value: value.clone() if isinstance(value, Tensor) else value)


def mapped(nested: Any, function: Callable[[Any], Any]) -> Any:
    """Nested tuples, lists and dictionaries with a function applied to every value, in the order of `values_in`."""
    if type(nested) in (tuple, list):
        return type(nested)(mapped(each, function) for each in nested)
    if type(nested) is dict:
        return {name: mapped(value, function) for name, value in nested.items()}
    return function(nested)
