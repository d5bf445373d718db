"""Choose which modules are compressed together, and how they are stacked into one matrix. Does not import torch.

The members of a group, transposed where necessary, are stacked vertically and must therefore have the same number of columns.

    stack="rows"        the members are not transposed: they share their input space
    stack="columns"     the members are transposed: they share their output space
    stack="residual"    members whose rows face the residual stream are transposed; works across kinds and layers
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from offcomp.errors import InputError
from offcomp.models.catalogue import ModuleSpec

NamedGroups = list[tuple[str, list[ModuleSpec]]]
EXPERT_KINDS = ("expert_in", "expert_gate", "expert_out")
STACKS = ("rows", "columns", "residual")
STACK_HELP = {
    "best": "Modules share the side that faces the residual stream: query, key, value and FFN-in modules are stacked by rows, "
    "attention-output and FFN-out modules by columns, and mixed groups by residual.",
    "rows": "Modules are stacked vertically and share their input space.",
    "columns": "Modules are transposed, then stacked vertically, and share their output space.",
    "residual": "Modules are transposed where needed to share their residual-stream side. "
    "Works for any kind that reads from or writes to that stream.",
}


def is_transposed(spec: ModuleSpec, stack: str) -> bool:
    """Whether a module is transposed when stacked. Raises InputError if "residual" is undefined for the module's kind."""
    if stack != "residual":
        return stack == "columns"
    if spec.residual_side is None:
        raise InputError(f"{spec.name} ({spec.kind}) has no known residual-stream side; stack its group by rows or columns")
    return spec.residual_side == "rows"


def group_shape(specs: Sequence[ModuleSpec], stack: str) -> tuple[int, int]:
    """Shape (rows, cols) of the stacked matrix. Raises InputError if two members have different numbers of columns."""
    shapes = [spec.shape[::-1] if is_transposed(spec, stack) else spec.shape for spec in specs]
    for spec, shape in zip(specs, shapes, strict=True):
        if shape[1] != shapes[0][1]:
            raise InputError(
                f"{specs[0].name} {specs[0].shape} and {spec.name} {spec.shape} cannot be stacked by {stack}: "
                f"{shapes[0][1]} columns versus {shape[1]}; choose a different stacking or put them in separate groups"
            )
    return sum(shape[0] for shape in shapes), shapes[0][1]


def best_stack(specs: Sequence[ModuleSpec]) -> str:
    """The stacking in which modules of these kinds share the side that faces the residual stream."""
    sides = {spec.residual_side for spec in specs}
    if sides == {"columns"}:
        return "rows"
    if sides == {"rows"}:
        return "columns"
    if None not in sides:
        return "residual"
    return "rows" if len({spec.cols for spec in specs}) == 1 else "columns"


def _by_key(specs: Iterable[ModuleSpec], key: Callable[[ModuleSpec], tuple[str, ...]]) -> NamedGroups:
    """Group specs by key, in order of first appearance; the parts of each key are joined to form the group's name."""
    groups: dict[tuple[str, ...], list[ModuleSpec]] = {}
    for spec in specs:
        groups.setdefault(key(spec), []).append(spec)
    return [("-".join(filter(None, name)), members) for name, members in groups.items()]


def _shape_tag(spec: ModuleSpec) -> str:
    """A tag that keeps embeddings and unknown weights of different shapes in separate groups; empty for all other weights."""
    return "" if spec.layer is not None and spec.default else f"{spec.rows}x{spec.cols}"


def one_per_kind(specs: Sequence[ModuleSpec]) -> NamedGroups:
    """One group per kind, across all layers: the "concatenated" setting of arXiv 2302.04045.

    Experts are grouped by layer, since each layer has many. Modules of a kind that share no side are grouped by its length.
    """
    lengths: dict[tuple[str, str], set[int]] = defaultdict(set)
    for spec in specs:
        lengths[spec.part, spec.kind].add(_shared_length(spec))

    def key(spec: ModuleSpec) -> tuple[str, ...]:
        if not spec.default:
            return spec.part, spec.kind, _shape_tag(spec)
        layer = f"{spec.layer}" if spec.kind in EXPERT_KINDS else ""
        length = f"{_shared_length(spec)}" if len(lengths[spec.part, spec.kind]) > 1 else ""
        return spec.part, spec.kind, layer, length

    return _by_key(specs, key)


def _shared_length(spec: ModuleSpec) -> int:
    """Length of the side that a module shares with others of its kind in the best stacking."""
    return spec.rows if spec.residual_side == "rows" else spec.cols


def attention_inputs_per_layer(specs: Sequence[ModuleSpec]) -> NamedGroups:
    """One group per layer that contains its query, key and value; every other module forms its own group."""
    trio = {"query", "key", "value"}
    return _by_key(specs, lambda spec: (spec.part, f"qkv.{spec.layer}") if spec.kind in trio else (spec.name,))


def blocks_of_layers(specs: Sequence[ModuleSpec], layers: int = 2) -> NamedGroups:
    """One group per kind for each block of `layers` consecutive layers. Raises InputError if `layers` is below 1."""
    if layers < 1:
        raise InputError(f"a block of {layers} layers is not possible; choose a block size of 1 or more")

    def key(spec: ModuleSpec) -> tuple[str, ...]:
        if spec.layer is None:
            return (spec.name,)
        first = spec.layer // layers * layers
        return (spec.part, spec.kind, "layers", str(first), str(first + layers - 1), _shape_tag(spec))

    return _by_key(specs, key)


GROUPINGS: dict[str, tuple[str, Callable[[Sequence[ModuleSpec]], NamedGroups]]] = {
    "module": ("Each module alone", lambda specs: [(spec.name, [spec]) for spec in specs]),  # the paper's "separated"
    "kind": ("One group per kind, across all layers", one_per_kind),
    "qkv": ("Query, key and value of each layer together", attention_inputs_per_layer),
    "blocks": ("Blocks of layers", blocks_of_layers),
    "all": ("All in one group", lambda specs: [("all", list(specs))] if specs else []),  # all must share a residual stream
}


def name_groups(parts: Sequence[Sequence[ModuleSpec]]) -> list[str]:
    """A name for each group: the module's name for a single module, otherwise the kinds and a number, as in query+key-2."""
    names = []
    for number, specs in enumerate(parts, 1):
        kinds = "+".join(dict.fromkeys(spec.kind for spec in specs))
        names.append(safe_name(specs[0].name if len(specs) == 1 else f"{kinds[:90]}-{number}"))
    return names


def safe_name(name: str) -> str:
    """Replace characters that are not allowed in a group's name."""
    return re.sub(r"[^A-Za-z0-9._+-]", "-", name)
