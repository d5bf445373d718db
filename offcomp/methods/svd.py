"""Truncated singular value decomposition in a metric of the rows and one of the columns.

    minimise ‖R^½ (W - A B) C^½‖_F over A (rows, rank), B (rank, cols)

Stored: A and B, rank · (rows + cols) parameters; with preset "direction" also the row norms, rank · (rows + cols) + rows. Below
the break-even rank this is fewer than the matrix has; above it the matrix stays dense. The squared error in the metrics is
the tail of a spectrum, Σ_{j > rank} σ_j² (Eckart and Young 1936). W is (outputs, inputs), as PyTorch keeps it; R and C are

    preset            R                  C                 source
    plain             1                  1                 Eckart and Young, Psychometrika 1936
    fwsvd_rows        diag Σ_j F_ij      1                 Hsu et al., "Language model compression with weighted
    fwsvd_columns     1                  diag Σ_i F_ij     low-rank factorization", ICLR 2022 (arXiv 2207.00112)
    l1_sensitivity    diag Σ_j S_ij      1                 Banaei et al. (arXiv 2302.04045), official code
    asvd              1                  diag mean |x_j|   Yuan et al., "ASVD" (arXiv 2312.05821), α = ½
    whitened          1                  mean x xᵀ         Chen et al., "DRONE", NeurIPS 2021; Wang et al., "SVD-LLM", ICLR 2025
    two_sided         mean g gᵀ          mean x xᵀ         the K-FAC quadratic (Martens and Grosse, ICML 2015)

with x the inputs and g the gradients at the outputs, F the mean over texts of the squared gradient of the log-likelihood (per
text; never the square of a batch's mean), S that of the absolute gradient. FWSVD's paper writes y = x W, so its "rows" are
inputs: that is `fwsvd_columns`; the official code of Banaei et al. weighs the rows of PyTorch's W: `fwsvd_rows`. With absolute
gradients it multiplies a row by Σ_j S_ij, which is the square of our R.

Preset "direction" (Bałazy et al., "Direction is what you need", RepL4NLP 2021) truncates the matrix of unit rows u_i and gives
every row its length back, ŵ_i = ‖w_i‖ · f_i / ‖f_i‖ with f = A B. Since f_i is the projection of u_i on the span of B, this
maximises Σ_i cos²(w_i, ŵ_i) exactly. Zero rows stay zero.

Exact, where the paper (arXiv 2302.04045) uses a randomised SVD with the number of iterations chosen on test perplexity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from offcomp.errors import InputError
from offcomp.methods.base import CompressedMatrix, Hints, Report, all_ranks, choose_size, ignore_progress, store_dense
from offcomp.methods.side_metrics import PRESETS, SOURCES, group_metrics
from offcomp.numerics.accounting import Budget, Shapes

if TYPE_CHECKING:
    from torch import Tensor

    from offcomp.numerics.metrics import Metric

PRESET_HELP = (
    "What is minimised: plain weight error; direction of rows; Fisher weights on outputs (fwsvd_rows, official code) or inputs "
    "(fwsvd_columns, FWSVD paper); absolute gradients; mean inputs (asvd); output error (whitened); both sides (two_sided)."
)
PIECE_ENTRIES = 1 << 18  # widened to float64 at a time
SIDE_CHOICES = ("preset", *SOURCES)


@dataclass(frozen=True)
class SVD:
    """Best low-rank approximation of the stacked matrix, in the metrics of a preset."""

    name: ClassVar[str] = "svd"
    role: ClassVar[str] = "svd"
    title: ClassVar[str] = "SVD"
    paper: ClassVar[str] = "Eckart and Young 1936"
    size_name: ClassVar[str] = "rank"
    memory: ClassVar[float] = 1.75
    quick: ClassVar[dict[str, Any]] = {}

    preset: str = field(default="plain", metadata={"help": PRESET_HELP, "choices": tuple(PRESETS)})
    row_metric: str = field(
        default="preset",
        metadata={
            "help": "Metric of the rows of each weight, its outputs: the preset's, none, or from gradients at the outputs.",
            "choices": SIDE_CHOICES,
        },
    )
    column_metric: str = field(
        default="preset",
        metadata={
            "help": "Metric of the columns of each weight, its inputs: the preset's, none, or from second moments of inputs.",
            "choices": SIDE_CHOICES,
        },
    )
    shrinkage: float = field(
        default=0.0,
        metadata={
            "help": "Draws each metric towards the plain one. 0 is the papers'; .1 holds up better on little text.",
            "range": (0.0, 1.0),
        },
    )

    @property
    def sources(self) -> tuple[str, str]:
        """Where the metrics of rows and columns come from, the presets' or those that override them."""
        chosen = (self.row_metric, self.column_metric)
        rows, columns = (own if own != "preset" else given for own, given in zip(chosen, PRESETS[self.preset], strict=True))
        return rows, columns

    @property
    def calibrated(self) -> bool:
        """Whether a metric comes from text."""
        return self.sources != ("none", "none")

    def sizes(self, rows: int, cols: int) -> range:
        """Ranks 1 .. min(rows, cols)."""
        return all_ranks(rows, cols)

    def tensor_shapes(self, rows: int, cols: int, size: int) -> Shapes:
        """The two factors of rank `size`, and the row norms where they are stored."""
        factors = {"left": (rows, size), "right": (size, cols)}
        return factors | {"row_norms": (rows,)} if self.preset == "direction" else factors

    def seconds(self, rows: int, cols: int, size: int) -> float:
        """Gram matrix and its eigenvectors."""
        side = min(rows, cols)
        return 0.01 + 5e-11 * rows * cols * side + 1e-9 * side**3

    def fit(
        self,
        matrix: Tensor,
        budget: Budget,
        *,
        hints: Hints | None = None,
        seed: int = 0,
        report: Report = ignore_progress,
    ) -> CompressedMatrix:
        """Truncate at the largest rank within the budget. The seed is not used: the result is unique.

        Raises InputError where the metrics need hints and there are none.
        """
        rows, cols = matrix.shape
        self._check(rows, hints)
        if choose_size(self, rows, cols, budget) == 0:
            return store_dense(matrix, budget.dtype)
        metrics = self._metrics(matrix, hints)
        report(0.3)
        compressed = self.fit_in(metrics, matrix, budget)
        report(1.0)
        return compressed

    def fit_in(self, metrics: tuple[Metric | None, Metric | None], matrix: Tensor, budget: Budget) -> CompressedMatrix:
        """Truncate in these metrics of rows and columns, at a budget that the matrix itself does not fit.

        Raises BudgetTooSmall.
        """
        from offcomp.numerics.linalg import low_rank_factors
        from offcomp.numerics.storage import pack

        rows, cols = matrix.shape
        rank = choose_size(self, rows, cols, budget)
        target = matrix.detach().float()
        norms = _row_norms(target)
        if self.preset == "direction":
            target = _unit_rows(target, norms)
        left, right = low_rank_factors(target, rank, *metrics)
        stored = {"left": left, "right": right}
        if self.preset == "direction":
            stored["row_norms"] = norms
        del target
        decode = low_rank_directions if self.preset == "direction" else low_rank
        return CompressedMatrix(pack(stored, budget.dtype), decode, rank, notes=_notes(metrics, self.shrinkage))

    def _check(self, rows: int, hints: Hints | None) -> None:
        """Whether the hints that the metrics need are there, and are those of this matrix."""
        if not self.calibrated:
            return
        if hints is None:
            raise InputError(f"svd with preset {self.preset!r} weighs by text; give calibration text, or choose preset 'plain'")
        if sum(hints.heights) != rows:
            raise InputError(f"the hints are for {sum(hints.heights)} rows but the matrix has {rows}; stack the same modules")

    def _metrics(self, matrix: Tensor, hints: Hints | None) -> tuple[Metric | None, Metric | None]:
        """The metrics of the stacked matrix."""
        if hints is None or not self.calibrated:
            return None, None
        return group_metrics(hints, self.sources, self.shrinkage, matrix.device)


def _notes(metrics: tuple[Metric | None, Metric | None], shrinkage: float) -> dict[str, float]:
    """Condition numbers of the metrics that are not the identity, and how much they were shrunk."""
    named = {"row_condition": metrics[0], "column_condition": metrics[1]}
    conditions = {name: metric.condition for name, metric in named.items() if metric is not None}
    return conditions | {"shrinkage": shrinkage} if conditions else {}


def _row_norms(matrix: Tensor) -> Tensor:
    """Lengths of rows, through float64 a piece at a time: squares of tiny entries vanish in float32."""
    import torch

    pieces = matrix.split(max(1, PIECE_ENTRIES // matrix.shape[1]))
    return torch.cat([piece.double().norm(dim=1) for piece in pieces]).float()


def _unit_rows(matrix: Tensor, norms: Tensor) -> Tensor:
    """Rows of length one; zero rows stay zero."""
    return matrix / norms.where(norms > 0, float("inf"))[:, None]


def low_rank(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder: (rows, rank) times (rank, cols)."""
    return tensors["left"] @ tensors["right"]


def low_rank_directions(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder: the rows of (rows, rank) times (rank, cols), each with its stored length."""
    import torch

    product = low_rank(tensors)
    lengths = product.norm(dim=1)
    scale = torch.where(lengths > 0, tensors["row_norms"] / lengths, 0.0)
    return product.mul_(scale[:, None])
