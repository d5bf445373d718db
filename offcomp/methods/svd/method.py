"""Truncated singular value decomposition under a row metric and a column metric.

    minimise ‖R^½ (W - A B) C^½‖_F over A (rows, rank), B (rank, cols)

Storing A and B takes rank · (rows + cols) parameters; the preset "direction" also stores the row norms, for a total of rank ·
(rows + cols) + rows parameters. Below the break-even rank, this is fewer parameters than the matrix has; above it, the
matrix is stored dense. The squared error under the metrics is the tail of the spectrum, Σ_{j > rank} σ_j² (Eckart and Young
1936). W has shape (outputs, inputs), as in PyTorch. R and C are

    preset            R                  C                 source
    plain             1                  1                 Eckart and Young, Psychometrika 1936
    fwsvd_rows        diag Σ_j F_ij      1                 Hsu et al., "Language model compression with weighted
    fwsvd_columns     1                  diag Σ_i F_ij     low-rank factorization", ICLR 2022 (arXiv 2207.00112)
    l1_sensitivity    diag Σ_j S_ij      1                 Banaei et al. (arXiv 2302.04045), official code
    asvd              1                  diag mean |x_j|   Yuan et al., "ASVD" (arXiv 2312.05821), α = ½
    whitened          1                  mean x xᵀ         Chen et al., "DRONE", NeurIPS 2021; Wang et al., "SVD-LLM", ICLR 2025
    two_sided         mean g gᵀ          mean x xᵀ         the K-FAC quadratic (Martens and Grosse, ICML 2015)

Here, x denotes the inputs and g the gradients at the outputs. F is the mean over texts of the squared gradient of the
log-likelihood, squared per text rather than per batch. S is the mean over texts of the absolute gradient.
The FWSVD paper writes y = x W, so its "rows" are inputs, which corresponds to `fwsvd_columns`. The official code of Banaei et
al. weights the rows of PyTorch's W (`fwsvd_rows`). For absolute gradients, that code multiplies each row by Σ_j S_ij,
which is equivalent to squaring our R.

The preset "direction" (Bałazy et al., "Direction is what you need", RepL4NLP 2021) truncates the SVD of the matrix of unit rows
u_i and then restores the norm of every row, ŵ_i = ‖w_i‖ · f_i / ‖f_i‖ with f = A B. Since f_i is the projection of u_i onto the
row space of B, this maximises Σ_i cos²(w_i, ŵ_i) exactly. Zero rows stay zero.

With `follow`, all statistics are measured with the earlier matrices of the model already compressed: x becomes x', the input
that their reconstructions produce. Groups are then compressed in the order of the model. The members of a group share one
factorisation, so they follow the groups before them but not one another. With `toward_original`, W is also replaced by the
matrix whose outputs for x' are closest to those of W for x, with the penalty λ ‖W* - W‖²:

    W* = (W C + λ W) (H + λ I)⁻¹          C = mean x x'ᵀ, H = mean x' x'ᵀ, λ = 0.3 · mean diagonal of H

For λ = 0, mean ‖W x - A B x'‖² is ‖(W* - A B) H^½‖² plus a constant, so the truncated SVD of W* under H minimises it. AA-SVD
(Sinha and Fleuret, arXiv 2604.02119) has the same objective, and SAES-SVD (Hu et al., arXiv 2602.03051) a weighted one.
Token weights are computed from the outputs of the original model. If the model is too large to stay in memory, W is not
replaced.

Without `toward_original`, nothing ties the compressed model to the original: a compressed matrix is fitted to the outputs of W
for inputs that drift away from the original ones. `follow` then helps language models less, and harms sentence embeddings
(`benchmarks.follow`).

Our SVD is exact, whereas the paper (arXiv 2302.04045) uses a randomised SVD whose number of iterations is chosen by test
perplexity.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from offcomp.methods.base import Look, Method
from offcomp.numerics.accounting import Shapes

SOURCES = ("none", "diagonal", "full")
PRESETS = {
    "plain": ("none", "none"),
    "direction": ("none", "none"),
    "fwsvd_rows": ("fisher", "none"),
    "fwsvd_columns": ("none", "fisher"),
    "l1_sensitivity": ("sensitivity", "none"),
    "asvd": ("none", "magnitude"),
    "whitened": ("none", "full"),
    "two_sided": ("full", "full"),
}
"""Preset -> (source of the row metric, source of the column metric) of each weight matrix."""
PRESET_HELP = (
    "Error to minimise: weight error (plain); angle of each row (direction); weight error weighted by Fisher information of "
    "outputs (fwsvd_rows, official code) or of inputs (fwsvd_columns, FWSVD paper), by absolute gradients (l1_sensitivity) "
    "or by mean absolute inputs (asvd); output error (whitened); output error weighted by gradients (two_sided)."
)
SIDE_CHOICES = ("preset", *SOURCES)


@dataclass(frozen=True)
class SVD(Method):
    """Best low-rank approximation of the stacked matrix, under the metrics of a preset."""

    name: ClassVar[str] = "svd"
    style_key: ClassVar[str] = "svd"
    title: ClassVar[str] = "SVD"
    paper: ClassVar[str] = "Eckart and Young 1936"
    decoders: ClassVar[tuple[str, ...]] = ("low_rank", "low_rank_directions")
    look: ClassVar[Look | None] = Look("circle", "#0072b2", "#56b4e9")
    memory: ClassVar[float] = 1.75

    preset: str = field(default="plain", metadata={"help": PRESET_HELP, "choices": tuple(PRESETS)})
    row_metric: str = field(
        default="preset",
        metadata={
            "help": "Metric for the rows (outputs) of each weight: as in the preset, none, or second moments of the gradients.",
            "choices": SIDE_CHOICES,
        },
    )
    column_metric: str = field(
        default="preset",
        metadata={
            "help": "Metric for the columns (inputs) of each weight: as in the preset, none, or second moments of the inputs.",
            "choices": SIDE_CHOICES,
        },
    )
    shrinkage: float = field(
        default=0.0,
        metadata={
            "help": "Shrinkage toward the identity metric. The papers use 0; 0.1 is more robust with little calibration text.",
            "range": (0.0, 1.0),
        },
    )
    follow: bool = field(
        default=False,
        metadata={
            "help": "Compute the metrics on inputs from a model whose earlier matrices are already compressed.",
            "omit_default": True,
        },
    )
    toward_original: bool = field(
        default=True,
        metadata={
            "help": "With follow, match a weight's outputs in the original model, not those for inputs with earlier errors.",
            "omit_default": True,
        },
    )

    @property
    def sources(self) -> tuple[str, str]:
        """The sources of the row and column metrics, as set by the preset unless overridden."""
        chosen = (self.row_metric, self.column_metric)
        rows, columns = (own if own != "preset" else given for own, given in zip(chosen, PRESETS[self.preset], strict=True))
        return rows, columns

    @property
    def calibrated(self) -> bool:
        """Whether either metric is computed from calibration text."""
        return self.sources != ("none", "none")

    @property
    def follows(self) -> bool:
        """Whether the metrics are computed with all earlier matrices compressed."""
        return self.follow and self.calibrated

    def tensor_shapes(self, rows: int, cols: int, size: int) -> Shapes:
        """The two factors of rank `size`, and the row norms for the preset "direction"."""
        factors = {"left": (rows, size), "right": (size, cols)}
        return factors | {"row_norms": (rows,)} if self.preset == "direction" else factors
