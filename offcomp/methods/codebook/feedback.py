"""Choose codes using calibration text, one member at a time.

The inputs of each member are computed by the model with all previously encoded members in place.
"""

from __future__ import annotations

from itertools import accumulate

from torch import Tensor
from torch.nn import functional

from offcomp.errors import InputError
from offcomp.methods.base import Hints
from offcomp.methods.codebook.codebook import (
    Codebook,
    decode_scales,
    encode_scales,
    least_squares_scales,
    root_mean_square,
    scaled,
)
from offcomp.methods.codebook.gptq import damped_order_and_factor, round_with_feedback
from offcomp.numerics.progress import Report


def with_feedback(
    book: Codebook,
    coded: Tensor,
    codes: Tensor,
    scales: Tensor,
    *,
    exact: Tensor,
    hints: Hints,
    damping: float,
    report: Report,
) -> None:
    """Replace the codes (rows, pieces, stages) and scale codes (rows,) of a stacked matrix (rows, cols), in place.

    `coded` is the matrix `exact` minus the parts that are stored separately from the codes. These parts are added back before a
    member is substituted into the model. Embeddings keep their codes, since their inputs have no second moment.
    """
    order = list(hints.order)
    while order and hints.embeddings[order[-1]]:
        order.pop()  # trailing embeddings affect no later member
    if not order:
        return
    hints.use_compressed_predecessors()
    ends = list(accumulate(hints.heights))
    for number, index in enumerate(order, 1):
        rows = slice(ends[index] - hints.heights[index], ends[index])
        matrix = coded[rows]
        if hints.embeddings[index]:
            part = book.decode(codes[rows], scales[rows], matrix.shape[1])
        else:
            length = 1 if hints.transposed[index] else book.length
            code = _code_transposed if hints.transposed[index] else _code_upright
            ordered = damped_order_and_factor(_moment(hints, index, length), damping, length)
            part = code(book, matrix, codes[rows], scales[rows], ordered=ordered)
        if number < len(order):
            hints.substitute(index, part.add_(exact[rows]).sub_(matrix))
        report(number / len(order))


def _moment(hints: Hints, index: int, length: int) -> Tensor:
    """The second moment of a member's inputs in float64, padded with zeros to a multiple of the step length."""
    moment = hints.statistics(index).column_moment
    if moment is None:
        raise InputError(
            "the hints have no column moment statistics, which feedback needs; provide calibration text or disable feedback"
        )
    missing = -len(moment) % length
    return (functional.pad(moment, (0, missing, 0, missing)) if missing else moment).double()


def _code_upright(book: Codebook, matrix: Tensor, codes: Tensor, scales: Tensor, *, ordered: tuple[Tensor, Tensor]) -> Tensor:
    """Encode a member (outputs, inputs). Pieces run along the inputs, so each step encodes one piece of every row."""
    cols, length = matrix.shape[1], book.length
    missing = -cols % length
    order, factor = ordered[0].to(matrix.device), ordered[1]
    row_scales = book.round_scales(root_mean_square(matrix))
    scales.copy_(encode_scales(row_scales, book.limits))

    def rounding(inputs: Tensor, weights: Tensor, corner: Tensor) -> Tensor:
        chosen, values = book.quantize(scaled(weights.T, row_scales), corner)
        codes[:, int(inputs[0]) // length] = chosen.to(codes.dtype)
        return (values * row_scales[:, None]).T

    padded = functional.pad(matrix, (0, missing)) if missing else matrix
    return round_with_feedback(padded.T, order, factor, length, rounding).T[:, :cols]


def _code_transposed(
    book: Codebook, matrix: Tensor, codes: Tensor, scales: Tensor, *, ordered: tuple[Tensor, Tensor]
) -> Tensor:
    """Encode a transposed member (inputs, outputs). Pieces run along the outputs, so each step encodes one whole row."""
    cols, length = matrix.shape[1], book.length
    order, factor = ordered[0].to(matrix.device), ordered[1]

    def rounding(inputs: Tensor, weights: Tensor, corner: Tensor) -> Tensor:
        del corner  # with one input per step, it is a scalar, which scales all distances equally
        row_scale = book.round_scales(root_mean_square(weights))
        padded = functional.pad(scaled(weights, row_scale), (0, -cols % length))
        chosen, values = book.quantize(padded.reshape(-1, length))
        directions = values.reshape(1, -1)[:, :cols]
        best = encode_scales(least_squares_scales(weights, directions), book.limits)
        codes[inputs], scales[inputs] = chosen[None].to(codes.dtype), best
        return directions * decode_scales(best, book.limits)[:, None]

    return round_with_feedback(matrix, order, factor, 1, rounding)
