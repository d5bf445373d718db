"""Describe a model's weight matrices, sizes and identity without loading its weights. Does not require torch."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any

from offcomp.errors import ModelError
from offcomp.models.families import KINDS, RESIDUAL_SIDE, UNKNOWN, Family, Match, Side, family_of, match
from offcomp.models.pieces import NO_SIZES, Piece, Sizes, StoredWeight, split
from offcomp.models.structure import recognise
from offcomp.plain_text import quoted, text_fault

MATRICES = "offcomp_matrices"
"""The model type of uploaded matrices."""
BYTES_PER_VALUE = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class ModuleSpec:
    """A weight matrix W of shape (out_features, in_features), or (vocabulary size, hidden size) for an embedding.

    Attributes:
        name: for example `query.3`, `cross.query.3` in an encoder-decoder model, or `expert_in.3.e17` for an expert; the
            module path if the kind is `head` or `other`.
        kind: one of `KINDS` or `OTHER_KINDS`.
        layer: layer index, starting at 0; None for matrices outside the layers.
        part: one of `PARTS`, such as `encoder` or `cross` (cross-attention); `""` if none of these applies.
        path: full path of the parameter in the instantiated model.
        rows: number of rows of W.
        cols: number of columns of W.
        transposed: whether the stored tensor is (in_features, out_features), as in a Conv1D.
        start: index of the first row of W within a fused weight.
        fused: whether the stored tensor also contains other matrices.
        tied: paths of the other parameters that share the stored tensor.
        dtype: dtype of the stored tensor (`float32`, `float16` or `bfloat16`); the narrowest if tied copies differ.
        block: if the rows of W are not adjacent in the fused weight, the number of adjacent rows; otherwise 0.
        stride: distance between the first rows of two such blocks; 0 if all rows are adjacent.
        expert: index of W in the first dimension of a tensor of experts; None for any other matrix.
    """

    name: str
    kind: str
    layer: int | None
    part: str
    path: str
    rows: int
    cols: int
    transposed: bool = False
    start: int = 0
    fused: bool = False
    tied: tuple[str, ...] = ()
    dtype: str = "float32"
    block: int = 0
    stride: int = 0
    expert: int | None = None

    @property
    def outputs(self) -> slice | list[int]:
        """The rows of W within a fused weight, as an index."""
        if not self.stride:
            return slice(self.start, self.start + self.rows)
        first = range(self.start, self.start + self.rows // self.block * self.stride, self.stride)
        return [row for begin in first for row in range(begin, begin + self.block)]

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self.rows, self.cols

    @property
    def num_parameters(self) -> int:
        """rows * cols."""
        return self.rows * self.cols

    @property
    def num_bytes(self) -> int:
        """Size of the matrix in the checkpoint, in bytes."""
        return self.num_parameters * BYTES_PER_VALUE[self.dtype]

    @property
    def residual_side(self) -> Side | None:
        """The dimension of W that corresponds to the residual stream; None if neither does or the kind is unknown."""
        return RESIDUAL_SIDE.get(self.kind)

    @property
    def default(self) -> bool:
        """Return whether the module is compressed by default."""
        return self.kind in KINDS


@dataclass(frozen=True)
class ModelInfo:
    """Model metadata that is available without loading the weights.

    Attributes:
        model: the catalogue name, folder or hub id specified by the user.
        source: `catalogue`, `folder` or `hub`.
        family: name of the model's family in `FAMILIES`, or None if the model type is unknown.
        model_type: the `model_type` in the config.
        architecture: name of the model class to instantiate.
        dtype: dtype of most values in the checkpoint (`float32`, `float16` or `bfloat16`); see also `ModuleSpec.dtype`.
        num_parameters: number of parameters in the model, counting tied tensors once.
        matrix_parameters: number of parameters in linear and embedding weights, counting tied tensors once.
        num_layers: number of layers according to the config (encoder layers in an encoder-decoder model); 0 if not specified.
        fingerprint: hash of the weights and the config; see `offcomp.models.identity`.
        modules: every linear and embedding weight.
        reads: hash of all files used by the model, including the tokenizer and pooling config; empty if unknown.
        num_bytes: size of all parameters in their stored dtypes, counting tied ones once. A value of 0, as in files written
            before this field existed, is recomputed from `num_parameters` and `dtype`.
        matrix_bytes: like `num_bytes`, but for linear and embedding weights only.
        unlisted: number of parameters in those tensors with two or more dimensions that are not in `modules`, such as
            convolutions. Like vectors (biases, norms), they are not compressed.
        reads_text: whether the model takes tokenised text as input, as opposed to images or audio.
    """

    model: str
    source: str
    family: str | None
    model_type: str
    architecture: str
    dtype: str
    num_parameters: int
    matrix_parameters: int
    num_layers: int
    fingerprint: str
    modules: tuple[ModuleSpec, ...]
    reads: str = ""
    num_bytes: int = 0
    matrix_bytes: int = 0
    unlisted: int = 0
    reads_text: bool = True

    def __post_init__(self) -> None:
        """Fill in missing byte counts. Raises ModelError if a name cannot be displayed."""
        names = [self.model, self.source, self.family, self.model_type, self.architecture, self.fingerprint, self.reads]
        names += [name for spec in self.modules for name in (spec.name, spec.kind, spec.part, spec.path)]
        for name in names:
            if fault := text_fault(name):
                raise ModelError(f"The model {quoted(self.model)} contains the name {quoted(name)}, which {fault}; rename it.")
        width = BYTES_PER_VALUE[self.dtype]
        object.__setattr__(self, "num_bytes", self.num_bytes or self.num_parameters * width)
        object.__setattr__(self, "matrix_bytes", self.matrix_bytes or self.matrix_parameters * width)

    @property
    def by_structure(self) -> bool:
        """Return whether the family is unknown, but the structure of the model, or a file, tells the kinds of its modules."""
        return not self.family and self.model_type != MATRICES and any(spec.default for spec in self.modules)

    @property
    def has_kinds(self) -> bool:
        """Return whether the kinds of modules are known, so that modules are not all named by their paths."""
        return bool(self.family) or self.by_structure

    @property
    def by_name(self) -> dict[str, ModuleSpec]:
        """Each module by its name and by its path, which was its name in plans made before its kind was recognised."""
        whole = [spec for spec in self.modules if not spec.fused and spec.expert is None]
        return {spec.path.removesuffix(".weight"): spec for spec in whole} | {spec.name: spec for spec in self.modules}

    def module(self, name: str) -> ModuleSpec:
        """The module with this name or path.

        Raises:
            ModelError: there is no such module; the message suggests the closest match.
        """
        by_name = self.by_name
        if name in by_name:
            return by_name[name]
        close = difflib.get_close_matches(name, by_name, n=1)
        hint = f"did you mean '{close[0]}'?" if close else "run `offcomp modules` to list its modules."
        unknown = "" if self.has_kinds else " (family unknown, so modules are named by their paths)"
        raise ModelError(f"Model '{self.model}' has no module '{name}'{unknown}; {hint}")

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON types, omitting module fields that equal their defaults or the model's dtype."""
        document = asdict(self)
        document["modules"] = [_compact(spec, self.dtype) for spec in self.modules]
        if self.reads_text:
            del document["reads_text"]
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> ModelInfo:
        """Inverse of `to_dict`.

        Raises:
            ModelError: a field is missing or unknown.
        """
        try:
            defaults = {"dtype": document["dtype"]}
            modules = tuple(
                ModuleSpec(**defaults | fields | {"tied": tuple(fields.get("tied", ()))}) for fields in document["modules"]
            )
            return cls(**{**document, "modules": modules})
        except (KeyError, TypeError) as error:
            raise ModelError(f"This model description has a missing or unknown field: {quoted(str(error))}.") from error


def _compact(spec: ModuleSpec, dtype: str) -> dict[str, Any]:
    """The fields of a spec that differ from their defaults, as JSON types. The default dtype is `dtype`."""
    defaults = {"transposed": False, "start": 0, "fused": False, "tied": [], "dtype": dtype}
    defaults |= {"block": 0, "stride": 0, "expert": None}
    values = asdict(spec) | {"tied": list(spec.tied)}
    return {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}


def module_specs(model_type: str, weights: Iterable[StoredWeight], sizes: Sizes = NO_SIZES) -> tuple[ModuleSpec, ...]:
    """Module specs for a model's stored weights, in the same order; fused weights and experts are split into their matrices.

    Paths tell the kinds if the family is known, and otherwise the structure. A weight that remains unknown is of kind `other`.
    """
    weights, family = list(weights), family_of(model_type)
    matches = [_matched(family, weight) for weight in weights] if family else _by_structure(model_type, weights, sizes)
    depth_of_group = 1 + max((matched.layer or 0 for _, matched in matches), default=0)
    specs = [
        spec
        for weight, (path, matched) in zip(weights, matches, strict=True)
        for spec in _specs_of(weight, path, matched, depth_of_group, sizes)
    ]
    counts = Counter(spec.name for spec in specs)
    return tuple(spec if counts[spec.name] == 1 else _named_by_path(spec) for spec in specs)


def _named_by_path(spec: ModuleSpec) -> ModuleSpec:
    """A module named by its path, since another one has the same kind, layer and part."""
    pieces = [spec.path.removesuffix(".weight"), *([spec.kind] if spec.fused else [])]
    return replace(spec, name=".".join([*pieces, *([] if spec.expert is None else [f"e{spec.expert}"])]))


def _matched(family: Family, weight: StoredWeight) -> tuple[str, Match]:
    """The path chosen to represent a weight, and the match for it; paths of compressible kinds are preferred."""
    matches = {path: match(family, path) for path in weight.paths}
    path = next((path for path, matched in matches.items() if matched.pattern.kind in KINDS), weight.paths[0])
    return path, matches[path]


def _by_structure(model_type: str, weights: list[StoredWeight], sizes: Sizes) -> list[tuple[str, Match]]:
    """The first path of each weight, and what its structure says about it: nothing for bare matrices without a model type."""
    found = recognise(weights, sizes.vocabulary, sizes.widths) if model_type else [UNKNOWN] * len(weights)
    return [(weight.paths[0], matched) for weight, matched in zip(weights, found, strict=True)]


def _specs_of(weight: StoredWeight, path: str, matched: Match, depth_of_group: int, sizes: Sizes) -> list[ModuleSpec]:
    """The specs of the matrices in a stored weight: one for each expert and each piece of a fused weight."""
    pattern = matched.pattern
    if len(weight.shape) > 2 and not weight.experts and not pattern.regex:
        return []  # it may be anything
    shape, transposed = _matrix_shape(weight, pattern.transposed)
    layout = "alternating" if weight.alternating else pattern.layout
    pieces = split(pattern.pieces, layout, shape, sizes) if pattern.pieces else []
    pieces = pieces or [Piece("other" if pattern.pieces else pattern.kind, 0, shape[0])]
    layer = None if matched.layer is None or pattern.kind == "other" else matched.group * depth_of_group + matched.layer
    shared = ModuleSpec(
        name="",
        kind="",
        layer=layer,
        part=matched.part,
        path=_parameter_path(weight, path),
        rows=0,
        cols=shape[1],
        transposed=transposed,
        fused=len(pieces) > 1,
        tied=tuple(_parameter_path(weight, tied) for tied in weight.paths if tied != path),
    )
    experts = range(weight.experts) if weight.experts else (None,)
    number = matched.expert
    return [
        replace(
            shared, name=_name(piece.kind, matched.part, layer, path, number if e is None else e), expert=e, **asdict(piece)
        )
        for e in experts
        for piece in pieces
    ]


def _matrix_shape(weight: StoredWeight, first_is_input: bool) -> tuple[tuple[int, int], bool]:
    """Shape (rows, cols) of each matrix in a weight, and whether it is stored transposed.

    A tensor with more dimensions is one matrix: its first dimension, and all others as one (attention heads in XLNet).
    """
    shape = weight.shape[1:] if weight.experts else weight.shape
    rows, cols = shape[0], prod(shape[1:])
    transposed = weight.transposed or (first_is_input and len(shape) > 2)
    return ((cols, rows) if transposed else (rows, cols)), transposed


def _parameter_path(weight: StoredWeight, path: str) -> str:
    return path if weight.is_bare else f"{path}.weight"


def _name(kind: str, part: str, layer: int | None, path: str, expert: int | None) -> str:
    """A name such as `query.3`, `cross.query.3` or `pooler`; the module path if the kind is `head` or `other`."""
    pieces = (path,) if kind in ("head", "other") else (part, kind, layer)
    number = "" if expert is None else f"e{expert}"
    return ".".join(str(piece) for piece in (*pieces, number) if piece not in ("", None))
