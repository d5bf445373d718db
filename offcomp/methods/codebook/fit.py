"""Learn a codebook, encode a matrix with it, and decode the stored tensors."""

from __future__ import annotations

from collections.abc import Mapping

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
    """Encode the matrix with the codeword length and number of bits of rate step `size`."""
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
        packed = encode_positions(positions, rows * cols)
        extra |= pack({"outliers": values}, budget.dtype) | {f"outlier_{name}": code for name, code in packed.items()}
    if method.feedback and hints is not None:
        coded = target.clone()
        coded.view(-1)[positions] -= values
        with_feedback(
            book,
            coded,
            codes,
            scales,
            exact=exact,
            hints=hints,
            damping=method.damping,
            report=lambda done: report(0.6 + 0.4 * done),
        )
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
