"""Autoencoder that starts from the truncated SVD and makes better use of the same budget.

    Ŵ = Z D + φ(Z F + b) G + S,     minimise ‖R^½ (W - Ŵ) C^½‖_F,     φ = LeakyReLU

Z (n, r) contains free latents, one for each of the n = max(rows, cols) rows (a wide W is transposed). D, F, b and G form a
decoder with h hidden units; all rows share it. S contains k sparse latents, which are individually stored entries. The
result is never worse than the SVD at the same budget, unit and storage dtype: if the SVD or Z D alone has a smaller error after
rounding, it is stored instead. This guarantee concerns the weight error under the metrics, not task scores. Three ideas
improve on the SVD:

  interpolation   Z T⁻¹ and T D have the same product as Z and D, so r pivot rows of Z can be unit vectors and need no storage.
                  Nothing is learned here: a matrix of rank r has r (rows + cols - r) degrees of freedom, and the two factors of
                  the plain SVD store r² more numbers. Omitting these pays off at low ratios (384 x 384 at ratio 2: rank 112
                  instead of 96).
  sparse latents  the entries that the low-rank part fits worst, refitted in alternation with Z D. A linear map cannot select
                  entries in this way.
  hidden units    a unit costs r + cols + 1 numbers and an extra rank costs rows + cols - 2 r, so hidden units pay off for tall
                  matrices. They are used only with the plain metric and only if one side is at least TALL times as long as the
                  other.

If n is the length of the longer side and m that of the shorter side, the stored parameters are

    r·(n - r)  latents Zᵀ, r·m  D, r  pivots, h·(r + m + 1)  F, b, G, 2k + 1  values and positions of S (none if k = 0)

    h = ⌊a_h · (r - 1)(n + m - r) / (r + m + 1)⌋,  k = ⌊a_s · (r - 1)(n + m - r) / 2⌋,  a = share / (1 - sum of both shares)

With these values, the hidden units and the sparse part use their configured shares of the budget. Each position counts as one
parameter and takes about 7 bits (`numerics.positions`).

The idea of a shared decoder is from Banaei et al. (arXiv 2302.04045), but the latents are free and there is no encoder. The
combination of low-rank and sparse parts is from Zhou and Tao ("GoDec", ICML 2011). Unlike these papers, we start from the SVD
and count the storage of all parts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from offcomp.methods.base import Look, Method
from offcomp.methods.svd.method import SVD
from offcomp.numerics.accounting import Codes, Shape, Shapes
from offcomp.numerics.positions import position_shapes

TALL = 2


def pivot_bits(rows: int) -> int:
    """Number of bits per row index."""
    return max(1, (rows - 1).bit_length())


@dataclass(frozen=True)
class ResidualAutoencoder(Method):
    """Autoencoder that extends the SVD with hidden units and sparse latents; its weight error never exceeds that of the SVD."""

    name: ClassVar[str] = "autoencoder"
    style_key: ClassVar[str] = "residual"
    title: ClassVar[str] = "Autoencoder, residual"
    paper: ClassVar[str] = "after Banaei et al. 2023, arXiv 2302.04045; Zhou and Tao 2011"
    decoders: ClassVar[tuple[str, ...]] = ("residual_rows", "residual_columns")
    look: ClassVar[Look | None] = Look("triangle-up", "#cc79a7", "#e39ac2")
    size_name: ClassVar[str] = "latent width"
    memory: ClassVar[float] = 4.8
    fast_options: ClassVar[dict[str, Any]] = {"rounds": 3, "steps": 40}

    preset: str = field(
        default="residual",
        metadata={
            "help": "Fitting recipe. It starts from the SVD, and its weight error never exceeds that of the SVD.",
            "choices": ("residual",),
        },
    )
    metric: str = field(
        default="plain",
        metadata={
            "help": "Error to minimise: the weight error (plain), or the output error on calibration text (whitened).",
            "choices": ("plain", "whitened"),
        },
    )
    sparse_share: float = field(
        default=0.4, metadata={"help": "Share of the budget for individually stored entries.", "range": (0.0, 0.6)}
    )
    hidden_share: float = field(
        default=0.12,
        metadata={"help": "Share of the budget for hidden units, used only for tall or wide matrices.", "range": (0.0, 0.3)},
    )
    rounds: int = field(
        default=8,
        metadata={"help": "Number of alternating fits of the low-rank and sparse parts before training.", "range": (1, 100)},
    )
    steps: int = field(
        default=120,
        metadata={"help": "Number of training steps on the whole matrix, if there are hidden units.", "range": (1, 10000)},
    )

    @property
    def calibrated(self) -> bool:
        """Whether the metric is computed from calibration text."""
        return self.metric != "plain"

    def counts(self, rows: int, cols: int, size: int) -> tuple[int, int]:
        """Numbers of hidden units and sparse entries for a given latent width."""
        long, short = max(rows, cols), min(rows, cols)
        hidden_share = 0.0 if self.calibrated or long < TALL * short else self.hidden_share
        dense = (size - 1) * max(0, long + short - size) / (1 - self.sparse_share - hidden_share)
        return int(hidden_share * dense / (size + short + 1)), min(int(self.sparse_share * dense / 2), long * short)

    def tensor_shapes(self, rows: int, cols: int, size: int) -> Shapes:
        """The latents (without the pivot rows), decoder, pivots, hidden units and sparse entries."""
        long, short = max(rows, cols), min(rows, cols)
        hidden, entries = self.counts(rows, cols, size)
        shapes: dict[str, Shape | Codes] = {
            "latents": (size, long - size),
            "decoder": (size, short),
            "pivots": Codes(size, pivot_bits(long)),
        }
        if hidden:
            shapes |= {"hidden.inner": (hidden, size), "hidden.bias": (hidden,), "hidden.outer": (hidden, short)}
        if entries:
            positions = position_shapes(entries, long * short)
            shapes |= {"sparse.values": (1, entries), **{f"sparse.{name}": codes for name, codes in positions.items()}}
        return shapes

    def seconds(self, rows: int, cols: int, size: int) -> float:
        """Time for one SVD per round, and for the training steps if there are hidden units."""
        hidden, _ = self.counts(rows, cols, size)
        training = self.steps * 6e-11 * max(rows, cols) * (size + hidden + 40) * (min(rows, cols) + size) if hidden else 0.0
        return 0.02 + (self.rounds + 1) * (SVD().seconds(rows, cols, size) + 3e-8 * rows * cols) + training
