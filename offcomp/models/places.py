"""Find the layers of a model by the numbers in the paths of its matrices."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

Names = tuple[str, ...]
MIN_IN_INNER_LIST = 4  # matrices in each layer of a list within a list
EXPERT_LIST = re.compile(r"(?:^|[._])experts?[._]?(?:expert_)?(\d+)(?=\.|$)")
"""The number of an expert that is a module of its own."""


class Place(NamedTuple):
    """Where a matrix is: in which layer of which stack (empty outside all layers), and its path within the layer."""

    stack: str
    layer: int | None
    rest: str


def places_of(paths: Sequence[str]) -> list[Place]:
    """The place of each path. In a list of lists, as in Swin and ALBERT, the layers are those of the inner lists."""
    split = [path.split(".") for path in paths]
    rests: dict[Names, set[str]] = defaultdict(set)
    for names in split:
        for item in _items(names):
            rests[item].add(".".join(names[len(item) :]))
    alike = Counter((item[:-1], frozenset(rest)) for item, rest in rests.items() if len(rest) >= MIN_IN_INNER_LIST)
    inner_lists = {_template(names) for (names, _), count in alike.items() if count > 1}
    layers = [_layer_item(names, inner_lists) for names in split]
    numbers: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for item in layers:
        numbers[_template(item)].add(_numbers(item))
    places = []
    for names, item in zip(split, layers, strict=True):
        inside = sorted(numbers[_template(item)])
        layer = inside.index(_numbers(item)) if len(_numbers(item)) > 1 else next(iter(_numbers(item)), None)
        places.append(Place(_template(item[:-1]), layer, ".".join(names[len(item) :])))
    return places


def _items(names: Names | list[str]) -> list[Names]:
    """All items of lists that contain a path, from the outside in: those of `a.0.b.1.c` are `a.0` and `a.0.b.1`."""
    ends = [index + 1 for index, name in enumerate(names[:-1]) if name.isdecimal() and index]
    return [tuple(names[:end]) for end in ends if not EXPERT_LIST.search(".".join(names[:end]))]


def _layer_item(names: list[str], inner_lists: set[str]) -> Names:
    """The item that is the layer of a path: of the innermost such list, or else the outermost; empty outside all lists."""
    items = _items(names)
    return next((item for item in reversed(items[1:]) if _template(item[:-1]) in inner_lists), items[0] if items else ())


def _template(names: Names) -> str:
    return ".".join("*" if name.isdecimal() else name for name in names)


def _numbers(names: Names) -> tuple[int, ...]:
    return tuple(int(name) for name in names if name.isdecimal())
