"""The result of a run, `run.json`: figures of each group, sizes of the model, scores, versions and timings.

Fields that earlier versions did not record have a default.

Does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from math import sqrt
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from offcomp.numerics.accounting import Size
from offcomp.planning.data.row_counts import RowCounts, Truncation
from offcomp.planning.data.scores import Score
from offcomp.planning.document import (
    Amount,
    Count,
    Document,
    Fact,
    Figure,
    Items,
    JsonObject,
    Line,
    MustBe,
    Name,
    Named,
    Positive,
)
from offcomp.planning.json_checks import Malformed
from offcomp.planning.json_fields import is_name
from offcomp.planning.model_sizes import ModelSizes

RUN_SCHEMA = 1
STATUSES = ("done", "failed", "cancelled")


def _group_name(name: Any) -> Any:
    if not is_name(name):
        raise Malformed(f" is {str(name)[:40]!r}, which is not a valid group name")
    return name


def _known_status(status: str) -> str:
    if status not in STATUSES:
        raise ValueError(status)
    return status


def _known_schema(schema: Any) -> Any:
    if schema != RUN_SCHEMA:
        raise Malformed(f" is {str(schema)[:40]}, but this version reads only schema {RUN_SCHEMA}")
    return schema


def _with_total(timings: dict[str, float]) -> dict[str, float]:
    if "total" not in timings:
        raise Malformed(" is missing", ".total")
    return timings


class Errors(Document):
    """How far reconstructed matrices are from the originals."""

    relative_error: Amount
    """Norm of the difference, divided by the norm of the original."""
    rmse: Amount
    """Root mean squared difference per entry."""
    mae: Amount
    """Mean absolute difference per entry."""
    cosine_distance: Figure
    """1 minus the cosine similarity between a row and its reconstruction, averaged over the rows."""


class LedgerEntry(Document):
    """One stored tensor."""

    name: Line
    shape: Items[Count]
    dtype: Line
    bytes: Count


class CalibrationResult(Document):
    """The text that a method was calibrated on, and numbers that describe the fit."""

    num_texts: Count | None = None
    num_held_out: Count | None = None
    num_tokens: Count | None = None
    tokens_per_dimension: Amount | None = None
    weighting: Line | None = None
    digest: Line | None = None
    rows: RowCounts | None = None
    cut: Truncation | None = None
    output_error_fitted: Amount | None = None
    """Like `GroupResult.output_error`, but on the text used for fitting."""
    scarce_experts: Items[Line] = ()
    """Experts that fewer than 16 tokens of the text reached, so that they were compressed as if there were no text."""


class GroupResult(Document):
    """The figures of one compressed group. Ratios are the original size divided by the stored size."""

    name: Annotated[str, BeforeValidator(_group_name)]
    modules: Items[Line]
    stack: Line | None = None
    """How the matrices are stacked."""
    method: Line
    options: JsonObject | None = None
    unit: Line | None = None
    """Unit of the budget: "parameters" or "bytes"."""
    dtype: Line | None = None
    """Dtype of the stored weights."""
    original_dtypes: Line | None = None
    """Dtypes of the modules in the checkpoint."""
    rows: Positive
    cols: Positive
    form: Line
    """The decoder that turns the stored tensors into one matrix (rows, cols)."""
    size_name: Line
    size: Count
    """Rank or latent width; 0 if the matrix is stored dense."""
    budget: Count | None = None
    requested_ratio: Amount | None = None
    compression_ratio: Amount
    """Ratio in the group's unit."""
    parameter_ratio: Amount
    byte_ratio: Amount
    num_parameters: Positive
    num_bytes: Positive
    bytes_in_own_dtype: Positive | None = None
    """What `num_bytes` would be in the checkpoint's own dtype."""
    original_parameters: Positive
    original_bytes: Positive
    relative_error: Amount
    rmse: Amount
    mae: Amount
    cosine_distance: Figure
    num_rows: Positive
    """Total number of rows of all modules, before stacking."""
    squared_norm: Amount
    """Squared Frobenius norm of the original matrix."""
    module_errors: Named[Name, Errors]
    output_error: Amount | None = None
    """‖(W-Ŵ)Xᵀ‖ / ‖WXᵀ‖ on held-out text."""
    calibration: CalibrationResult | None = None
    history: Items[Figure] = ()
    """Training losses, per epoch or every few steps."""
    ledger: Items[LedgerEntry]
    seconds: Amount

    @model_validator(mode="before")
    @classmethod
    def _of_an_early_version(cls, group: Any) -> Any:
        """Derive the fields that the first versions did not record from those that they did."""
        if isinstance(group, dict) and "squared_norm" not in group:
            with suppress(KeyError, TypeError, ArithmeticError):
                scale = group["rmse"] / group["relative_error"] if group["rmse"] else 0.0
                norm = scale**2 * group["rows"] * group["cols"]
                return group | {"num_rows": group.get("num_rows", group["rows"]), "squared_norm": norm}
        return group

    @property
    def original(self) -> Size:
        """The size of the modules in the checkpoint."""
        return Size(self.original_parameters, self.original_bytes)

    @property
    def stored(self) -> Size:
        """The size of the stored tensors."""
        return Size(self.num_parameters, self.num_bytes)


class ModelResult(Document):
    """The model that was compressed, and its sizes before and after."""

    name: Line
    family: Line | None = None
    fingerprint: Line
    """Identifies the weights."""
    reads: Line | None = None
    """Identifies everything that is read from the model's files."""
    dtype: Line | None = None
    unlisted: Count = 0
    """Number of parameters in tensors that are not matrices."""
    sizes: ModelSizes


class Environment(Document):
    """The versions of the packages that produced a result, and the machine."""

    offcomp: Line
    python: Fact = None
    torch: Line
    transformers: Fact = None
    tokenizers: Fact = None
    safetensors: Fact = None
    numpy: Fact = None
    scipy: Fact = None
    scikit_learn: Fact = Field(None, alias="scikit-learn")
    datasets: Fact = None
    device: Fact = None
    threads: Fact = None
    machine: Fact = None
    plugins: dict[Name, Line] | None = None
    """Package that provides a method -> its version."""

    def get(self, name: str) -> Any:
        """The version of a package, or a fact about the machine; an empty string if it was not recorded."""
        value = getattr(self, name.replace("-", "_"), None)
        return "" if value is None else value


class Inputs(Document):
    """Everything, apart from the plan, that affects the results of a run; see `offcomp.runs.inputs`."""

    identity: Fact = None
    """Version of the scheme that identifies models."""
    results: Fact = None
    """`RESULTS_VERSION` in the version of offcomp that made the run."""
    model: str | None = None
    """Identifies all files that are read from the model."""
    calibration: str | None = None
    """SHA-256 of the calibration text; empty if it is not needed."""
    tasks: JsonObject | None = None
    """Task -> its version, and the SHA-256 of each file."""
    environment: JsonObject | None = None
    """Package -> version."""
    plugins: dict[Name, Line] | None = None
    """Package that provides a method of the plan -> its version."""


class RunResult(Document):
    """The content of `run.json`."""

    document_schema: Annotated[int, BeforeValidator(_known_schema)] = Field(RUN_SCHEMA, alias="schema")
    id: Line = ""
    status: Annotated[str, AfterValidator(_known_status), MustBe(f"one of {', '.join(STATUSES)}")]
    error: str = ""
    """Why the run did not finish, as a sentence."""
    plan: JsonObject
    groups: Items[GroupResult]
    model: ModelResult | None
    """None if the run did not finish."""
    scores: Named[Name, Score]
    environment: Environment
    timings: Annotated[Named[str, Amount], AfterValidator(_with_total)]
    """Stage -> seconds, including the "total"."""
    started: Line
    """In ISO 8601 format."""
    attempt: Positive | None = None
    """How many times the run had been started when it produced this result."""
    inputs: Inputs | None = None
    notes: Items[str] = ()
    """Caveats about the sizes, one sentence each."""
    corrections: Items[LedgerEntry] = ()
    """Corrected biases and gains, by parameter path. They replace parameters of the same size, so the model does not grow."""

    @model_validator(mode="after")
    def _has_model(self) -> Self:
        if self.status == "done" and self.model is None:
            raise Malformed(" is null, but the run is done", ".model")
        return self


def overall_error(groups: Sequence[GroupResult]) -> float:
    """Relative error over all weights in `groups`: sqrt(sum of squared residuals / sum of squared weights)."""
    residual = sum(group.rmse**2 * group.rows * group.cols for group in groups)
    energy = sum(group.squared_norm for group in groups)
    return sqrt(residual / energy) if energy else 0.0


def overall_cosine(groups: Sequence[GroupResult]) -> float:
    """Mean cosine distance over all rows in `groups`."""
    rows = sum(group.num_rows for group in groups)
    return sum(group.cosine_distance * group.num_rows for group in groups) / rows if rows else 0.0
