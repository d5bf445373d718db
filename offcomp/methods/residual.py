"""Autoencoder that starts at the truncated SVD and stores what is left of it better.

    Ŵ = Z D + φ(Z F + b) G + S,     minimise ‖R^½ (W - Ŵ) C^½‖_F,     φ = LeakyReLU

Z (n, r) are free latents, one for each of the n = max(rows, cols) rows of the longer side (W is turned where it is wide). D, F,
b, G are a decoder shared by all of them, with h hidden units. S are k sparse latents: entries of W kept apart. It never
stores a worse matrix than the SVD at the same budget, unit and storage dtype: the SVD is fitted too, and where it (or Z D
alone) has the smaller error after rounding, that is what is stored. This is a statement about the error of weights in the
metric above; it promises nothing of a task's score. Three things make it better:

  interpolation   Z D is unchanged by Z T⁻¹, T D, so r pivot rows of Z are turned into unit vectors and not stored. This is not
                  learning: a matrix of rank r has r (rows + cols - r) degrees of freedom, and plain SVD, as this field counts
                  it, stores r² more. It pays at low ratios (384 x 384 at ratio 2: rank 112 instead of 96).
  sparse latents  the entries that a low rank fits worst, in turns with Z D. Choosing them is what the linear map cannot do.
  hidden units    one costs r + cols + 1 numbers, a rank rows + cols - 2 r: so they pay where the matrix is tall, and are used,
                  with the plain metric, where one side is at least TALL times the other.

With n the longer and m the shorter side the stored parameters are

    r·(n - r)  latents Zᵀ, r·m  D, r  pivots, h·(r + m + 1)  F, b, G, 2k + 1  values and places of S (none where k = 0)

    h = ⌊a_h · (r - 1)(n + m - r) / (r + m + 1)⌋,  k = ⌊a_s · (r - 1)(n + m - r) / 2⌋,  a = share / (1 - both shares)

so that the shares are those of the options. Places count one parameter each and take about 7 bits (`numerics.positions`).

The start and the idea of a decoder shared by free latents: Banaei et al. (arXiv 2302.04045) without the encoder; low rank plus
sparse: Zhou and Tao, "GoDec", ICML 2011. Where we differ from both: the SVD is the start, all parts are counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import TYPE_CHECKING, Any, ClassVar

from offcomp.errors import InputError
from offcomp.methods.base import CompressedMatrix, Hints, Report, all_ranks, choose_size, ignore_progress, store_dense
from offcomp.methods.residual_form import ROWS_A_TIME, decoded_pieces, pivot_bits, residual_columns, residual_rows
from offcomp.methods.side_metrics import PRESETS, group_metrics
from offcomp.methods.svd import SVD
from offcomp.numerics.accounting import Budget, Codes, Shape, Shapes, code_counts
from offcomp.numerics.positions import position_shapes

if TYPE_CHECKING:
    from torch import Tensor

    from offcomp.numerics.residual_fit import Decoder, Target
    from offcomp.numerics.side_weights import SideWeights
    from offcomp.numerics.sparse_part import Sparse

TALL = 2


@dataclass(frozen=True)
class ResidualAutoencoder:
    """Latents, a decoder whose hidden units start at nothing, sparse latents; never a larger weight error than SVD."""

    name: ClassVar[str] = "autoencoder"
    role: ClassVar[str] = "residual"
    title: ClassVar[str] = "Autoencoder, residual"
    paper: ClassVar[str] = "after Banaei et al. 2023, arXiv 2302.04045; Zhou and Tao 2011"
    size_name: ClassVar[str] = "latent width"
    memory: ClassVar[float] = 2.05
    quick: ClassVar[dict[str, Any]] = {"rounds": 3, "steps": 40}

    preset: str = field(
        default="residual",
        metadata={"help": "Recipe. residual starts at the SVD; its weight error is never larger.", "choices": ("residual",)},
    )
    metric: str = field(
        default="plain",
        metadata={
            "help": "What is minimised: plain weight error, or the output error on calibration text (whitened).",
            "choices": ("plain", "whitened"),
        },
    )
    sparse_share: float = field(
        default=0.4, metadata={"help": "Share of the budget for single entries kept apart.", "range": (0.0, 0.6)}
    )
    hidden_share: float = field(
        default=0.12, metadata={"help": "Share of the budget for hidden units, in tall or wide matrices.", "range": (0.0, 0.3)}
    )
    rounds: int = field(
        default=8, metadata={"help": "Turns between low rank and single entries, before any training.", "range": (1, 100)}
    )
    steps: int = field(
        default=120,
        metadata={"help": "Training steps over the whole matrix where there are hidden units.", "range": (1, 10000)},
    )

    @property
    def calibrated(self) -> bool:
        """Whether the metric comes from text."""
        return self.metric != "plain"

    def sizes(self, rows: int, cols: int) -> range:
        """Latent widths 1 .. min(rows, cols)."""
        return all_ranks(rows, cols)

    def _counts(self, rows: int, cols: int, size: int) -> tuple[int, int]:
        """Hidden units and sparse entries that go with a latent width."""
        long, short = max(rows, cols), min(rows, cols)
        hidden_share = 0.0 if self.calibrated or long < TALL * short else self.hidden_share
        dense = (size - 1) * max(0, long + short - size) / (1 - self.sparse_share - hidden_share)
        return int(hidden_share * dense / (size + short + 1)), min(int(self.sparse_share * dense / 2), long * short)

    def tensor_shapes(self, rows: int, cols: int, size: int) -> Shapes:
        """Latents but for the pivots, decoder, pivots, hidden units, sparse entries."""
        long, short = max(rows, cols), min(rows, cols)
        hidden, entries = self._counts(rows, cols, size)
        shapes: dict[str, Shape | Codes] = {
            "latents": (size, long - size),
            "decoder": (size, short),
            "pivots": Codes(size, pivot_bits(long)),
        }
        if hidden:
            shapes |= {"hidden.inner": (hidden, size), "hidden.bias": (hidden,), "hidden.outer": (hidden, short)}
        if entries:
            places = position_shapes(entries, long * short)
            shapes |= {"sparse.values": (1, entries), **{f"sparse.{name}": codes for name, codes in places.items()}}
        return shapes

    def seconds(self, rows: int, cols: int, size: int) -> float:
        """Turns of an SVD, and training steps where there are hidden units."""
        hidden, _ = self._counts(rows, cols, size)
        training = self.steps * 6e-11 * max(rows, cols) * (size + hidden + 40) * (min(rows, cols) + size) if hidden else 0.0
        return 0.02 + (self.rounds + 1) * (SVD().seconds(rows, cols, size) + 3e-8 * rows * cols) + training

    def fit(
        self,
        matrix: Tensor,
        budget: Budget,
        *,
        hints: Hints | None = None,
        seed: int = 0,
        report: Report = ignore_progress,
    ) -> CompressedMatrix:
        """Fit at the largest latent width within the budget; keep Z D alone, or the SVD, where that is better.

        Raises InputError where the metric needs hints and there are none.
        """
        rows, cols = matrix.shape
        if self.calibrated and hints is None:
            raise InputError("residual with metric 'whitened' weighs by text; give calibration text, or choose metric 'plain'")
        size = choose_size(self, rows, cols, budget)
        if size == 0:
            return store_dense(matrix, budget.dtype)
        weights = self._weights(matrix, hints)
        best = self._best(matrix, size, budget, weights, seed=seed, report=report)
        report(1.0)
        return best

    def _best(
        self, matrix: Tensor, size: int, budget: Budget, weights: SideWeights, *, seed: int, report: Report
    ) -> CompressedMatrix:
        """The best of all parts, Z D alone, and the SVD. The last two are bounded by the spectrum, so rarely needed."""
        from offcomp.numerics.allocator import give_back_free_memory
        from offcomp.numerics.linalg import singular_values

        rows, cols = matrix.shape
        best = self._fitted(matrix, size, budget, weights, seed=seed, report=report)
        give_back_free_memory()
        report(0.95)
        linear, svd = replace(self, sparse_share=0.0, hidden_share=0.0), SVD(preset=self.metric)
        rank = choose_size(linear, rows, cols, budget)
        spectrum = singular_values(matrix.detach().float(), weights.rows, weights.columns)
        give_back_free_memory()
        least = _error(matrix, best, weights)
        if least < float(spectrum[rank:].square().sum()):
            return best
        others = [lambda: linear._fitted(matrix, rank, budget, weights, seed=0, report=ignore_progress)]
        if budget.admits(svd.tensor_shapes(rows, cols, 1)):
            others.append(lambda: svd.fit_in((weights.rows, weights.columns), matrix, budget))
        for fit in others:
            other = fit()
            best, least = min((best, least), (other, _error(matrix, other, weights)), key=lambda pair: pair[1])
            del other  # before the next one is fitted
        return best

    def _weights(self, matrix: Tensor, hints: Hints | None) -> SideWeights:
        """The metrics of the matrix, those of its preset of the SVD."""
        from offcomp.numerics.side_weights import SideWeights

        if hints is None or not self.calibrated:
            return SideWeights()
        weights = SideWeights.of(*group_metrics(hints, PRESETS[self.metric], 0.0, matrix.device))
        hints.release()
        return weights

    def _fitted(
        self, matrix: Tensor, size: int, budget: Budget, weights: SideWeights, *, seed: int, report: Report
    ) -> CompressedMatrix:
        """The parts at this size, stored. The longer side becomes the rows, at a scale where no square vanishes."""
        import torch

        from offcomp.numerics.residual_fit import Decoder, Target, fit_linear
        from offcomp.numerics.residual_training import train
        from offcomp.numerics.sparse_part import Sparse

        rows, cols = matrix.shape
        turned = rows < cols
        upright = matrix.detach().T if turned else matrix.detach()
        scale = _scale(upright)
        hidden, entries = self._counts(rows, cols, size)
        sides = weights.turned if turned else weights
        target = Target(upright.float(), entries, sides, scale)
        share = 0.2 if hidden else 0.9
        latents, linear, sparse = fit_linear(target, size, self.rounds, lambda done: report(share * done))
        if sides.plain:
            sparse = Sparse.empty(matrix.device)  # chosen anew in training, and once more when stored
        decoder = Decoder.new(linear, hidden, torch.Generator().manual_seed(seed))
        history: list[float] = []
        if hidden:
            latents, decoder, history = train(
                target, latents, decoder, steps=self.steps, report=lambda done: report(0.2 + 0.7 * done)
            )
        tensors = _stored(target, latents, decoder, sparse, scale=scale, dtype=budget.dtype)
        return CompressedMatrix(
            tensors,
            residual_columns if turned else residual_rows,
            size,
            tuple(scale * loss for loss in history),
            code_counts(self.tensor_shapes(rows, cols, size)),
            {"hidden_units": float(hidden), "sparse_entries": float(entries)},
        )


def _scale(matrix: Tensor) -> float:
    """The root mean square of the entries, 1 for a zero matrix."""
    from offcomp.numerics.side_weights import squared_norm

    return sqrt(squared_norm(matrix.float()) / matrix.numel()) or 1.0


def _error(matrix: Tensor, compressed: CompressedMatrix, weights: SideWeights) -> float:
    """The squared error of what is stored, in the metric; without one a piece of rows at a time."""
    from offcomp.numerics.storage import unpack

    exact = matrix.detach()
    if not weights.plain:
        return weights.squared(exact, compressed.reconstruct().to(matrix.device))
    if compressed.decode in (residual_rows, residual_columns):
        exact = exact.T if compressed.decode is residual_columns else exact
        pieces = decoded_pieces(unpack(compressed.tensors))
    else:
        pieces = zip(range(0, len(exact), ROWS_A_TIME), compressed.reconstruct().split(ROWS_A_TIME), strict=True)
    return sum(float((piece.to(exact.device).double() - exact[top : top + len(piece)]).square().sum()) for top, piece in pieces)


def _stored(
    target: Target, latents: Tensor, decoder: Decoder, sparse: Sparse, *, scale: float, dtype: str
) -> dict[str, Tensor]:
    """Everything in its storage dtype. The sparse part comes last and takes up the rounding of the others too."""
    from offcomp.numerics.allocator import give_back_free_memory
    from offcomp.numerics.bits import pack_bits
    from offcomp.numerics.pivots import interpolate, other_rows
    from offcomp.numerics.positions import encode_positions
    from offcomp.numerics.sparse_part import best_entries, largest_of
    from offcomp.numerics.storage import pack, unpack

    give_back_free_memory()
    pivots, coefficients = interpolate(latents)
    pivots, order = pivots.sort()
    coefficients = coefficients.float()[:, order.to(latents.device)]
    based = decoder.in_basis(latents[pivots.to(latents.device)].double())
    kept = other_rows(pivots, len(latents)).to(latents.device)
    give_back_free_memory()
    parts = {
        "latents": coefficients[kept].T,
        "decoder": scale * based.linear,
        "pivots": pack_bits(pivots, pivot_bits(len(latents))),
    }
    if decoder.hidden:
        parts |= {"hidden.inner": based.inner.T, "hidden.bias": based.bias, "hidden.outer": scale * based.outer}
    tensors = pack(parts, dtype)
    if target.entries:
        del coefficients, based, parts, pivots, order, kept
        give_back_free_memory()
        unpacked, device = unpack(tensors), latents.device
        if target.weights.plain:
            best = largest_of(lambda: _left_over(target, unpacked, scale), target.matrix, target.entries)
        else:
            rows = residual_rows(unpacked).to(device).div_(scale)
            best = best_entries(target.left_over(rows), sparse, target.entries, target.weights)
            del rows
        del unpacked
        give_back_free_memory()
        places = encode_positions(best.positions, target.matrix.numel())
        named = {"sparse.values": scale * best.values[None], **{f"sparse.{name}": code for name, code in places.items()}}
        tensors |= pack(named, dtype)
    return tensors


def _left_over(target: Target, tensors: Mapping[str, Tensor], scale: float) -> Iterator[Tensor]:
    """W less what the stored tensors give, as the target is scaled, a piece of rows at a time."""
    for start, piece in decoded_pieces(tensors):
        rows = target.piece(start, start + len(piece))
        yield rows.sub_(piece.to(rows.device).div_(scale))
