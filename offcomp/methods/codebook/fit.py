"""Learn codewords from pieces of rows, code each piece, and decode."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from offcomp.methods.base import CompressedMatrix, Hints
from offcomp.methods.codebook.codebook import Codebook, decode_codes, largest_misses
from offcomp.methods.codebook.feedback import with_feedback
from offcomp.methods.codebook.method import CodebookAutoencoder, num_outliers, rate_steps
from offcomp.numerics.accounting import Budget, code_counts
from offcomp.numerics.positions import decode_positions, encode_positions
from offcomp.numerics.progress import Report
from offcomp.numerics.storage import pack
from offcomp.numerics.svd import low_rank_factors


def fit(
    method: CodebookAutoencoder, matrix: Tensor, size: int, budget: Budget, *, hints: Hints | None, seed: int, report: Report
) -> CompressedMatrix:
    """Code the matrix at this rate step."""
    rows, cols = matrix.shape
    exact = matrix.float().contiguous()
    target, extra = exact, {}
    if method.rank:
        left, right = low_rank_factors(exact, method.rank)
        extra = pack({"left": left, "right": right}, budget.dtype)
        target = exact - left @ right
    length, bits = rate_steps(method, rows, cols)[size - 1]
    book = Codebook.learn(target, length, bits, method.stages, dtype=budget.dtype, iterations=method.iterations, seed=seed)
    report(0.3)
    codes, scales = book.encode(target)
    report(0.6)
    positions, values = largest_misses(book, target, codes, scales, count=num_outliers(method, rows, cols))
    if len(values):
        extra |= _stored_outliers(positions, values, rows * cols, budget.dtype)
    if method.feedback and hints is not None:
        rest = _rest_of(report, 0.6)
        coded = partial(_without_outliers, target, positions, values)
        with_feedback(book, coded, codes, scales, exact=exact, hints=hints, damping=method.damping, report=rest)
    counts = code_counts(method.tensor_shapes(rows, cols, size))
    return CompressedMatrix(book.tensors(codes, scales, cols) | extra, decoded_codes, size, codes=counts)


def decoded_codes(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder: look up codewords, multiply by the row scales, and add the low-rank part and the outliers."""
    matrix = decode_codes(tensors)
    if "left" in tensors:
        matrix.addmm_(tensors["left"], tensors["right"])
    if "outliers" in tensors:
        values = tensors["outliers"]
        positions = decode_positions(tensors["outlier_low"], tensors["outlier_high"], len(values), matrix.numel())
        matrix.view(-1)[positions] += values
    return matrix


def _rest_of(report: Report, done: float) -> Report:
    """A progress callback for the remaining work once the fraction `done` is complete."""
    return lambda fraction: report(done + (1 - done) * fraction)


def _without_outliers(matrix: Tensor, positions: Tensor, values: Tensor, rows: slice) -> Tensor:
    """A copy of some rows of the matrix, with these values subtracted at their positions (counted in the full matrix)."""
    cols = matrix.shape[1]
    part = matrix[rows].clone()
    inside = (positions >= rows.start * cols) & (positions < rows.stop * cols)
    part.view(-1)[positions[inside] - rows.start * cols] -= values[inside]
    return part


def _stored_outliers(positions: Tensor, values: Tensor, total: int, dtype: str) -> dict[str, Tensor]:
    return pack({"outliers": values}, dtype) | {
        f"outlier_{part}": packed for part, packed in encode_positions(positions, total).items()
    }
