"""Describe a model without loading its weights: its weight matrices, sizes and identity. Needs no torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from offcomp.errors import ModelError
from offcomp.models.families import KINDS, RESIDUAL_SIDE, Family, Match, Side, family_of, match
from offcomp.plain_text import quoted, text_fault

BYTES_PER_VALUE = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class ModuleSpec:
    """One weight matrix W (rows, cols) = (out_features, in_features); an embedding is (tokens, hidden).

    Attributes:
        name: such as `query.3`, or `cross.query.3` in an encoder-decoder model; for heads and others, the module path.
        kind: one of `KINDS` or `OTHER_KINDS`.
        layer: index from 0; None for matrices outside layers.
        part: `""`, `encoder`, `decoder` or `cross`.
        path: full parameter path in the instantiated model.
        rows: rows of W.
        cols: columns of W.
        transposed: the stored tensor is (in, out), as in a Conv1D.
        start: first row of W inside a fused weight.
        fused: the stored tensor contains other matrices too.
        tied: other parameter paths that share the stored tensor.
        dtype: of the stored tensor: `float32`, `float16` or `bfloat16`; the narrowest if tied copies have different dtypes.
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
        """The side of W that faces the residual stream; None if no side does or it is unknown."""
        return RESIDUAL_SIDE.get(self.kind)

    @property
    def default(self) -> bool:
        """Return whether the module is compressed by default."""
        return self.kind in KINDS


@dataclass(frozen=True)
class ModelInfo:
    """Description of a model, available without its weights in memory.

    Attributes:
        model: as specified by the user: a catalogue name, a folder or a hub id.
        source: `catalogue`, `folder` or `hub`.
        family: name in `FAMILIES`, or None if the model type is unknown.
        model_type: as in the config.
        architecture: class that is instantiated.
        dtype: of most values in the checkpoint: `float32`, `float16` or `bfloat16`; see `ModuleSpec.dtype`.
        num_parameters: of the whole model, tied tensors counted once.
        matrix_parameters: of all linear and embedding weights, tied tensors counted once.
        num_layers: as stated in the config, for the encoder if there is also a decoder; 0 if the config does not say.
        fingerprint: of the weights and the config; see `offcomp.models.identity`.
        modules: every linear and embedding weight.
        reads: hash of everything read from the model, including tokenizer and pooling; empty if unknown.
        num_bytes: of all parameters in their stored dtypes, tied ones counted once. 0, as in files written before this
            field existed, stands for `num_parameters` values of `dtype`.
        matrix_bytes: the same for all linear and embedding weights.
        unlisted: parameters in tensors with two or more dimensions that are not linear or embedding weights, such as
            convolutions and stacked experts. Like vectors (biases, norms), they are left unchanged.
        reads_text: whether its input is tokenised text, rather than images or audio.
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
        """Fill in missing byte counts. Raises ModelError for names that cannot be displayed."""
        names = [self.model, self.source, self.family, self.model_type, self.architecture, self.fingerprint, self.reads]
        names += [name for spec in self.modules for name in (spec.name, spec.kind, spec.part, spec.path)]
        for name in names:
            if fault := text_fault(name):
                raise ModelError(f"The model {quoted(self.model)} contains the name {quoted(name)}, which {fault}; change it.")
        width = BYTES_PER_VALUE[self.dtype]
        object.__setattr__(self, "num_bytes", self.num_bytes or self.num_parameters * width)
        object.__setattr__(self, "matrix_bytes", self.matrix_bytes or self.matrix_parameters * width)

    def module(self, name: str) -> ModuleSpec:
        """The module with that name.

        Raises:
            ModelError: there is none; the message suggests the closest match.
        """
        by_name = {spec.name: spec for spec in self.modules}
        if name in by_name:
            return by_name[name]
        close = difflib.get_close_matches(name, by_name, n=1)
        hint = f"did you mean '{close[0]}'?" if close else "list its modules with `offcomp modules`."
        unknown = "" if self.family else " (family unknown, so modules are named by their paths)"
        raise ModelError(f"Model '{self.model}' has no module '{name}'{unknown}; {hint}")

    def to_dict(self) -> dict[str, Any]:
        """JSON types only; module fields equal to their default, or to the model's dtype, are omitted."""
        document = asdict(self)
        document["modules"] = [_compact(spec, self.dtype) for spec in self.modules]
        if self.reads_text:
            del document["reads_text"]
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> ModelInfo:
        """The inverse of `to_dict`.

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
    """The fields of a spec that differ from their defaults, as JSON types. `dtype` is the model's."""
    defaults = {"transposed": False, "start": 0, "fused": False, "tied": [], "dtype": dtype}
    values = asdict(spec) | {"tied": list(spec.tied)}
    return {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}


@dataclass(frozen=True)
class StoredWeight:
    """A weight tensor as stored in the model. `paths` lists every module path that shares it, in model order."""

    paths: tuple[str, ...]
    shape: tuple[int, int]
    transposed: bool = False


def module_specs(model_type: str, weights: Iterable[StoredWeight]) -> tuple[ModuleSpec, ...]:
    """Specs with names, kinds and orientations for a model's stored weights, in the order given; fused weights are split.

    Weights that the family of `model_type` does not recognise, and all weights of an unknown family, get the kind `other`.
    """
    family = family_of(model_type)
    matches = [_matched(family, weight) for weight in weights]
    depth_of_group = 1 + max((matched.layer or 0 for _, _, matched in matches), default=0)
    return tuple(spec for weight, path, matched in matches for spec in _specs_of(weight, path, matched, depth_of_group))


def _matched(family: Family | None, weight: StoredWeight) -> tuple[StoredWeight, str, Match]:
    """The weight, its representative path, and what that path means; paths of compressible kinds take precedence."""
    matches = {path: match(family, path) for path in weight.paths}
    path = next((path for path, matched in matches.items() if matched.pattern.kind in KINDS), weight.paths[0])
    return weight, path, matches[path]


def _specs_of(weight: StoredWeight, path: str, matched: Match, depth_of_group: int) -> list[ModuleSpec]:
    """One spec for a plain weight, one per piece for a fused weight."""
    rows, cols = reversed(weight.shape) if weight.transposed else weight.shape
    kinds = matched.pattern.pieces or (matched.pattern.kind,)
    layer = None if matched.layer is None else matched.group * depth_of_group + matched.layer
    height = rows // len(kinds)
    return [
        ModuleSpec(
            name=_name(kind, matched.part, layer, path),
            kind=kind,
            layer=layer,
            part=matched.part,
            path=f"{path}.weight",
            rows=height,
            cols=cols,
            transposed=weight.transposed,
            start=index * height,
            fused=len(kinds) > 1,
            tied=tuple(f"{tied}.weight" for tied in weight.paths if tied != path),
        )
        for index, kind in enumerate(kinds)
    ]


def _name(kind: str, part: str, layer: int | None, path: str) -> str:
    """`query.3`, `cross.query.3`, `word_embeddings`, `pooler`, or the module path for heads and others."""
    if kind in ("head", "other"):
        return path
    return ".".join(str(piece) for piece in (part, kind, layer) if piece not in ("", None))
