"""Tables and sentences that break down the parameters of a model by matrix and by kind. Does not need torch.

Each matrix in a layer belongs to one row of the map: the row of its kind or, if its kind is not recognised, the row of its path
without the layer number. All other matrices (embeddings, poolers, heads) are outside the layers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from math import isnan, nan
from pathlib import Path
from typing import Any

import pandas as pd

from offcomp.models.catalogue import BYTES_PER_VALUE, ModelInfo, ModuleSpec
from offcomp.models.families import KIND_TITLES, OTHER_KINDS, OTHER_TITLES, PARTS
from offcomp.numerics.accounting import STORED, storage_dtype
from offcomp.planning.plan import Group, Plan
from offcomp.planning.spectra import find
from offcomp.planning.spectrum import MatrixSpectrum, errors_at
from offcomp.results.scores import sentence_start

OUTSIDE = ""
"""The value of `row` for matrices outside the layers."""

TITLES = KIND_TITLES | OTHER_TITLES
NORMS = "norms, biases, vectors"
UNLISTED = "tensors that are not matrices"
GROUPS = {
    "word embeddings": ("word_embeddings",),
    "FFN": ("ffn_in", "ffn_gate", "ffn_out"),
    "attention": ("query", "key", "value", "attention_output", "qkv", "query_down", "query_up", "kv_down", "kv_up"),
    "experts": ("expert_in", "expert_gate", "expert_out"),
    "state-space layers": ("ssm_in", "ssm_out"),
}
"""The groups of kinds whose totals `parameters_answer` reports."""

RECOGNISED, LISTED, UNKNOWN = "recognised", "known, not compressed by default", "not recognised"
STATUS = dict.fromkeys(OTHER_KINDS, LISTED) | {"other": UNKNOWN}
NAMES_IN_ANSWER = 3
MAX_ROWS, MAX_OUTSIDE = 40, 8  # shown in the map
LOADING_SECONDS, OPERATIONS_A_SECOND = 8.0, 3e10
LAYER = re.compile(r"(?<=\.)\d+(?=\.)")
MAP_COLUMNS = (
    *("module", "kind", "row", "layer", "parameters", "share", "rows", "cols"),
    *("relative_error", "known_error", "in_plan", "status", "path", "orientation"),
)
SHARE_COLUMNS = ("kind", "matrices", "parameters", "share")


def map_table(info: ModelInfo, chosen: Collection[str] = (), errors: Mapping[str, float] | None = None) -> pd.DataFrame:
    """One row per weight matrix: its row and layer in the map, its size, and what is known about it.

    `relative_error` is missing if the spectrum is unknown (`known_error` is False) or if SVD cannot reach the ratio.
    """
    errors = errors or {}
    rows = [
        (
            *(spec.name, TITLES[spec.kind], row, layer, spec.num_parameters, spec.num_parameters / info.num_parameters),
            *(spec.rows, spec.cols, errors.get(spec.name, nan), spec.name in errors, spec.name in chosen),
            *(status(spec), spec.path, orientation(spec)),
        )
        for spec, (row, layer) in zip(info.modules, _rows_and_layers(info.modules), strict=True)
    ]
    return pd.DataFrame(rows, columns=list(MAP_COLUMNS)).astype({"layer": "Int64", "known_error": bool, "in_plan": bool})


def _rows_and_layers(specs: Sequence[ModuleSpec]) -> Iterator[tuple[str, int | None]]:
    """Yield (row, layer) for each matrix. An unrecognised path becomes a row if it occurs in several layers."""
    patterns = Counter(_without_layer(spec.name) for spec in specs)
    for spec in specs:
        pattern, layer = _without_layer(spec.name), LAYER.search(spec.name)
        if spec.layer is not None and spec.kind not in ("head", "other"):
            yield f"{spec.part} {TITLES[spec.kind]}".strip(), spec.layer
        elif spec.kind == "other" and layer and patterns[pattern] > 1:
            yield pattern, int(layer[0])
        else:
            yield OUTSIDE, None


def _without_layer(name: str) -> str:
    """Replace the layer number: `encoder.0.attention.q` becomes `encoder.*.attention.q`."""
    return LAYER.sub("*", name, count=1)


def rows_of(table: pd.DataFrame) -> list[str]:
    """The rows of the map from top to bottom: parts and kinds, then unrecognised paths."""
    titles = [f"{part} {title}".strip() for part in ("", *PARTS) for title in TITLES.values()]
    present = [row for row in dict.fromkeys(table["row"]) if row != OUTSIDE]
    return sorted(present, key=lambda row: titles.index(row) if row in titles else len(titles))


def same_row(table: pd.DataFrame, module: str) -> list[str]:
    """All modules in the same row of the map as `module`, or only the module itself if it is outside the layers."""
    row = table.loc[table["module"] == module, "row"].iloc[0]
    return list(table.loc[table["row"] == row, "module"]) if row != OUTSIDE else [module]


def outside_of_layers(table: pd.DataFrame) -> pd.DataFrame:
    """The matrices outside the layers: word embeddings first, then the others by decreasing size."""
    outside = table[table["row"] == OUTSIDE].sort_values("parameters", ascending=False, kind="stable")
    return outside.sort_values("kind", key=lambda kinds: kinds != KIND_TITLES["word_embeddings"], kind="stable")


def shown_rows(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Returns (matrices outside the layers, rows of the layers) for the map, limited to the largest if not all of them fit."""
    rows, outside = rows_of(table), outside_of_layers(table)
    if len(rows) > MAX_ROWS:
        sizes = table.groupby("row")["parameters"].sum()
        largest = sizes[rows].nlargest(MAX_ROWS)
        rows = [row for row in rows if row in largest]
    return outside.head(MAX_OUTSIDE if rows else MAX_ROWS), rows


def share_table(info: ModelInfo) -> pd.DataFrame:
    """One row per kind, with its share of the whole model: compressible kinds, other matrices, and everything else."""
    rows = []
    for kind, title in TITLES.items():
        sizes = [spec.num_parameters for spec in info.modules if spec.kind == kind]
        if sizes:
            rows.append((title, len(sizes), sum(sizes), sum(sizes) / info.num_parameters))
    vectors = info.num_parameters - sum(row[2] for row in rows) - info.unlisted
    for title, size in ((UNLISTED, info.unlisted), (NORMS, vectors)):
        if size > 0:
            rows.append((title, 0, size, size / info.num_parameters))
    return pd.DataFrame(rows, columns=list(SHARE_COLUMNS))


def orientation(spec: ModuleSpec) -> str:
    """Describe how W is laid out in storage, which side faces the residual stream, and which modules share the tensor."""
    parts = ["one row per token" if spec.kind == "word_embeddings" else "rows are outputs, columns inputs"]
    if spec.residual_side:
        parts.append(f"residual-stream side: {spec.residual_side}")
    if spec.fused:
        every = f", in blocks of {spec.block:,} rows that begin {spec.stride:,} rows apart" if spec.stride else ""
        last = spec.rows // spec.block * spec.stride - spec.stride + spec.block if spec.stride else spec.rows
        parts.append(f"rows {spec.start:,} to {spec.start + last - 1:,} of a fused weight{every}")
    if spec.expert is not None:
        parts.append(f"expert {spec.expert:,} of a tensor of experts")
    if spec.transposed:
        parts.append("stored transposed, as (inputs, outputs)")
    if spec.tied:
        parts.append(f"the same tensor as {', '.join(spec.tied)}")
    return "; ".join(parts)


def number(value: float) -> str:
    """Format a number of parameters to three significant digits: 11.7 M, 590 k."""
    for scale, unit in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if value >= 0.9995 * scale:
            return f"{value / scale:.3g}{unit}"
    return f"{value:.0f}"


def percent(share: float) -> str:
    """Format a share as a percentage with two significant digits and a non-breaking space."""
    return f"{100 * share:.0f}\u00a0%" if share >= 0.0995 or share == 0 else f"{100 * share:.2g}\u00a0%"


def parameters_answer(info: ModelInfo) -> str:
    """State the share of the model's parameters in each group of weights, largest first."""
    total = f"the {number(info.num_parameters)} parameters"
    if not info.modules:
        return f"None of {total} is in a weight matrix that can be compressed."
    sizes = {title: sum(spec.num_parameters for spec in info.modules if spec.kind in kinds) for title, kinds in GROUPS.items()}
    ordered = sorted(((size / info.num_parameters, title) for title, size in sizes.items() if size), reverse=True)
    if not ordered:
        largest = max(info.modules, key=lambda spec: spec.num_parameters)
        share, largest_share = (size / info.num_parameters for size in (info.matrix_parameters, largest.num_parameters))
        return (
            f"The family of this model is not known: {percent(share)} of {total} are in {_counted(len(info.modules))}, "
            f"{percent(largest_share)} in {shortened(largest.name, 60)} alone."
        )
    (share, first), *others = ordered
    verb = "account for" if first in ("word embeddings", "experts") else "accounts for"
    rest = ", ".join(f"{title} {percent(part)}" for part, title in others)
    return f"{sentence_start(first)} {verb} {percent(share)} of {total}{'; ' if rest else ''}{rest}."


def _counted(count: int) -> str:
    return "1 weight matrix" if count == 1 else f"{count} weight matrices"


def recognised_answer(info: ModelInfo) -> str:
    """State how many matrices are recognised, known but not compressed by default, or not recognised, and name a few."""
    names = {word: [spec.name for spec in info.modules if status(spec) == word] for word in (RECOGNISED, LISTED, UNKNOWN)}
    count, listed, unknown = len(names[RECOGNISED]), names[LISTED], names[UNKNOWN]
    how = "recognised by structure" if info.by_structure else "recognised"
    texts = [f"{count} of {_counted(len(info.modules))} {_is(count)} {how}, and compressed when you choose their kind"]
    if listed:
        texts.append(f"{_named(listed)} {_is(len(listed))} known, but only compressed if chosen by name")
    if unknown:
        texts.append(f"{_named(unknown)} {_is(len(unknown))} not recognised, but can be chosen by name")
    return "; ".join(texts) + "."


def status(spec: ModuleSpec) -> str:
    """Whether a matrix is recognised, and whether it is compressed by default."""
    return STATUS.get(spec.kind, RECOGNISED)


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _named(names: Sequence[str]) -> str:
    """The first few names, and the number of names left out."""
    listed = ", ".join(shortened(name, 60) for name in names[:NAMES_IN_ANSWER])
    return listed + (f" and {len(names) - NAMES_IN_ANSWER} more" if len(names) > NAMES_IN_ANSWER else "")


def shortened(name: str, longest: int) -> str:
    """Shorten a long name from the left, since the end of a path is more informative than its start."""
    return name if len(name) <= longest else f"…{name[1 - longest :]}"


def svd_errors(info: ModelInfo, home: Path, ratio: float, unit: str = "parameters", dtype: str = STORED) -> dict[str, float]:
    """Relative error of SVD on each module with a known spectrum, by module name; NaN if SVD cannot reach the ratio.

    The error is always NaN for matrices with a single row or column. Rounding to the storage dtype is ignored.
    """
    errors = {spec.name: nan for spec in info.modules if min(spec.shape) == 1}
    for own_dtype in dict.fromkeys(spec.dtype for spec in info.modules):
        specs = [spec for spec in compressible(info) if spec.dtype == own_dtype]
        known = {spec: values for spec in specs if (values := find(info, [spec], "rows", home)) is not None}
        spectra = [MatrixSpectrum(spec.rows, spec.cols, values) for spec, values in known.items()]
        stored, width = storage_dtype(dtype, [own_dtype]), BYTES_PER_VALUE[own_dtype]
        table = errors_at(spectra, [ratio], unit=unit, dtype=stored, bytes_per_value=width)
        errors |= {spec.name: float(error) for spec, error in zip(known, table.relative_errors[:, 0], strict=True)}
    return errors


def rounded_to(dtype: str, specs: Sequence[ModuleSpec]) -> str:
    """The dtypes that weights are rounded to if stored as `dtype`; empty for float32, which needs no rounding."""
    return " and ".join(sorted({storage_dtype(dtype, [spec.dtype]) for spec in specs} - {"float32"}))


def compressible(info: ModelInfo) -> tuple[ModuleSpec, ...]:
    """The matrices with more than one row and more than one column, which have a non-trivial spectrum."""
    return tuple(spec for spec in info.modules if min(spec.shape) > 1)


def spectra_plan(info: ModelInfo, known: Collection[str]) -> Plan:
    """A plan with one group per matrix whose spectrum is not known yet, for computing the missing spectra."""
    missing = [spec.name for spec in compressible(info) if spec.name not in known]
    return Plan(
        model=info.model,
        groups=tuple(Group(name=f"matrix-{index}", modules=(name,)) for index, name in enumerate(missing)),
        tasks=(),
    )


def spectra_seconds(info: ModelInfo, plan: Plan) -> float:
    """Rough estimate of the seconds needed on two cores to load the model and compute the eigenvalues of all Gram matrices."""
    shapes = [sorted(info.module(name).shape) for group in plan.groups for name in group.modules]
    operations = sum(2 * long * short**2 + 10 * short**3 for short, long in shapes)
    return LOADING_SECONDS + operations / OPERATIONS_A_SECOND


def compressible_answer(table: pd.DataFrame, ratio: float) -> str:
    """State which matrices SVD preserves best and worst at a ratio, and for how many the error is not known."""
    reachable = table[table["relative_error"].notna()].sort_values("relative_error", kind="stable")
    unknown = int((~table["known_error"]).sum())
    if reachable.empty and not unknown:
        return f"SVD cannot make any of {_counted(len(table))} {ratio:g}x smaller."
    if reachable.empty:
        return f"The error of SVD at {ratio:g}x is not known yet for any of {_counted(unknown)}."
    best, worst = reachable.iloc[0], reachable.iloc[-1]
    answer = f"At {ratio:g}x, SVD preserves {best['module']} best, with a relative error of {best['relative_error']:.3f}"
    answer += f", and {worst['module']} worst ({worst['relative_error']:.3f})." if len(reachable) > 1 else "."
    return answer + (f" {unknown} of {_counted(len(table))} {_is(unknown)} left out: no error is known yet." if unknown else "")


def error_words(cell: Mapping[Any, Any] | pd.Series, ratio: float) -> str:
    """Describe what is known about the error of SVD on a single matrix."""
    if not cell["known_error"]:
        return "the spectrum is not known yet"
    if isnan(cell["relative_error"]):
        return f"SVD cannot make this matrix {ratio:g}x smaller"
    return f"relative error {cell['relative_error']:.3f} with SVD at {ratio:g}x"


def exported(table: pd.DataFrame, info: ModelInfo, **settings: str | float) -> pd.DataFrame:
    """Add the model, its identity and the settings to each row of a table."""
    names = ("model", "fingerprint", "architecture", "dtype")
    return table.assign(**{name: getattr(info, name) for name in names} | settings)
