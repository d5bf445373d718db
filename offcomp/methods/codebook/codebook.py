"""Vector quantization: rows are cut into short pieces, and each piece is replaced by its nearest codeword.

Each row scale is stored in one byte: 0 for a row of zeros, otherwise one of 255 levels, evenly spaced on a
logarithmic axis between the smallest and largest scales. If the largest scale is 2^10 times the smallest, a step is 2.8 % and
the rounding error at most 1.4 %, which is small compared with the error of the codewords.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Generator, Tensor
from torch.nn import functional

from offcomp.numerics.bits import pack_bits, unpack_bits
from offcomp.numerics.chunks import chunk_height
from offcomp.numerics.storage import pack, unpack
from offcomp.numerics.top_k import largest_entries

SCALE_STEPS = 255
SCORES_AT_ONCE = 1 << 19
"""Number of distances computed at a time: 2 MiB in float32, which fits in the cache."""


def learn_codewords(
    pieces: Float[Tensor, "count length"], number: int, generator: Generator, iterations: int
) -> Float[Tensor, "number length"]:
    """Learn codewords with k-means (Lloyd 1982), starting from random pieces.

    Codewords to which no pieces are assigned are reset to random pieces.
    """

    def random_pieces(amount: int) -> Tensor:
        return pieces[torch.randint(len(pieces), (amount,), generator=generator).to(pieces.device)]

    distinct = torch.randperm(len(pieces), generator=generator)[:number].to(pieces.device)
    codewords = torch.cat([pieces[distinct], random_pieces(number - len(distinct))])
    for _ in range(iterations):
        chosen = nearest(pieces, codewords)
        members = torch.bincount(chosen, minlength=number)
        sums = torch.zeros_like(codewords).index_add_(0, chosen, pieces)
        unused = members == 0
        codewords = torch.where(unused[:, None], random_pieces(number), sums / members.clamp_min(1)[:, None])
    return codewords


def nearest(pieces: Float[Tensor, "count length"], codewords: Float[Tensor, "number length"]) -> Integer[Tensor, " count"]:
    """The index of the codeword nearest to each piece."""
    half = codewords.square().sum(1) / -2
    chosen = torch.empty(len(pieces), dtype=torch.int64, device=pieces.device)
    step = max(1, SCORES_AT_ONCE // len(codewords))
    scores = torch.empty(min(step, len(pieces)), len(codewords), dtype=pieces.dtype, device=pieces.device)
    for part, indices in zip(pieces.split(step), chosen.split(step), strict=True):
        torch.addmm(half, part, codewords.T, out=scores[: len(part)])  # p·c - |c|²/2, largest for the nearest codeword
        torch.argmax(scores[: len(part)], 1, out=indices)
    return chosen


def scale_range(scales: Float[Tensor, " rows"]) -> Float[Tensor, " two"]:
    """Base-2 logarithms of the smallest and largest positive scales; zeros if no scale is positive."""
    positive = scales[scales > 0]
    if len(positive) == 0:
        return torch.zeros(2, device=scales.device)
    return torch.stack([positive.amin(), positive.amax()]).double().log2().float()


def encode_scales(scales: Float[Tensor, " rows"], limits: Float[Tensor, " two"]) -> Integer[Tensor, " rows"]:
    """Encode each scale as an integer: 0 for zero, otherwise 1 to 255 on a logarithmic grid."""
    width = (limits[1] - limits[0]).double().clamp_min(1e-9)
    position = (scales.double().clamp_min(1e-300).log2() - limits[0]) / width
    steps = (position * (SCALE_STEPS - 1)).round().clamp(0, SCALE_STEPS - 1).long() + 1
    return torch.where(scales > 0, steps, 0)


def decode_scales(codes: Integer[Tensor, " rows"], limits: Float[Tensor, " two"]) -> Float[Tensor, " rows"]:
    """The inverse of `encode_scales`, up to rounding."""
    logarithm = limits[0] + (codes - 1).double() / (SCALE_STEPS - 1) * (limits[1] - limits[0]).double()
    return torch.where(codes > 0, logarithm.exp2(), 0.0).float()


def root_mean_square(matrix: Float[Tensor, "rows cols"]) -> Float[Tensor, " rows"]:
    """The root mean square of each row."""
    largest = matrix.abs().amax(1, keepdim=True).clamp_min(torch.finfo(matrix.dtype).tiny)
    return (matrix / largest).square_().mean(1).sqrt() * largest[:, 0]


def least_squares_scales(matrix: Float[Tensor, "rows cols"], directions: Float[Tensor, "rows cols"]) -> Float[Tensor, " rows"]:
    """For each row, the factor s >= 0 that minimises the distance from s · direction to the row."""
    energy = directions.square().sum(1)
    return torch.where(energy > 0, (matrix * directions).sum(1) / energy.clamp_min(1e-30), 0.0).clamp_min(0)


@dataclass(frozen=True)
class Codebook:
    """Codewords of shape (stages, number, length), rounded to the storage dtype, and the range of the row scales."""

    codewords: Tensor
    limits: Tensor
    dtype: str

    @staticmethod
    def learn(
        matrix: Float[Tensor, "rows cols"], length: int, bits: int, stages: int, *, dtype: str, iterations: int, seed: int
    ) -> Codebook:
        """Learn codewords, stage by stage, for pieces of rows, after scaling each row to a root mean square of 1.

        The training set is a random sample of 128 pieces per codeword, but at least 2^16 pieces.
        """
        generator = Generator().manual_seed(seed)
        scales = root_mean_square(matrix)
        limits = scale_range(scales)
        pieces = sampled_pieces(matrix, scales, length, max(1 << 16, 128 << bits), generator)
        learned = []
        for _ in range(stages):
            codewords = learn_codewords(pieces, 1 << bits, generator, iterations)
            codewords = as_stored(codewords.reshape(-1), dtype).reshape(codewords.shape)
            learned.append(codewords)
            pieces = pieces - codewords[nearest(pieces, codewords)]
        return Codebook(torch.stack(learned), limits, dtype)

    @property
    def length(self) -> int:
        """Number of weights per codeword."""
        return self.codewords.shape[2]

    def quantize(
        self, pieces: Float[Tensor, "count length"], corner: Float[Tensor, "length length"] | None = None
    ) -> tuple[Integer[Tensor, "count stages"], Float[Tensor, "count length"]]:
        """For each piece p, the codes whose codewords c minimise ‖(p - c) corner⁻¹‖, and the decoded pieces."""
        rest, codes = pieces, []
        for codewords in self.codewords:
            codes.append(nearest(_seen_through(corner, rest), _seen_through(corner, codewords)))
            rest = rest - codewords[codes[-1]]
        return torch.stack(codes, 1), pieces - rest

    def encode(
        self, matrix: Float[Tensor, "rows cols"]
    ) -> tuple[Integer[Tensor, "rows pieces stages"], Integer[Tensor, " rows"]]:
        """Encode rows: choose the nearest codewords after RMS scaling, then refit the scales by least squares.

        Returns codes and scale codes.
        """
        rows, cols = matrix.shape
        stages, number, length = self.codewords.shape
        narrow = torch.int16 if number <= 1 << 15 else torch.int32
        codes = torch.empty(rows, -(-cols // length), stages, dtype=narrow, device=matrix.device)
        scales = torch.empty(rows, dtype=torch.int64, device=matrix.device)
        step = chunk_height(cols)
        for start in range(0, rows, step):
            part = matrix[start : start + step]
            unit = scaled(part, self.round_scales(root_mean_square(part)))
            chosen, values = self.quantize(cut(unit, self.length))
            codes[start : start + step] = chosen.reshape(len(part), -1, len(self.codewords))
            directions = values.reshape(len(part), -1)[:, :cols]
            scales[start : start + step] = encode_scales(least_squares_scales(part, directions), self.limits)
        return codes, scales

    def decode(self, codes: Tensor, scales: Tensor, cols: int) -> Float[Tensor, "rows cols"]:
        """Decode the rows from codes (rows, pieces, stages) and scale codes (rows,)."""
        values = torch.stack([self.codewords[stage][codes[..., stage].long()] for stage in range(codes.shape[2])]).sum(0)
        return values.flatten(1)[:, :cols] * decode_scales(scales, self.limits)[:, None]

    def round_scales(self, scales: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Round scales to their stored values."""
        return decode_scales(encode_scales(scales, self.limits), self.limits)

    def tensors(self, codes: Tensor, scales: Tensor, cols: int) -> dict[str, Tensor]:
        """The tensors to store: packed codes (rows, pieces, stages), packed scale codes (rows,), codewords and layout."""
        bits = (self.codewords.shape[1] - 1).bit_length()
        numbers = torch.tensor([len(codes), cols, self.length, bits, len(self.codewords)], dtype=torch.int32)
        layout = torch.cat([numbers, self.limits.cpu().view(torch.int32)]).view(torch.uint8)
        packed = {"codes": pack_bits(codes.reshape(-1), bits), "row_scales": pack_bits(scales, 8), "layout": layout}
        return packed | pack({"codewords": self.codewords.reshape(-1)}, self.dtype)


def decode_codes(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decode a (rows, cols) matrix from the output of `Codebook.tensors`, with all floats in float32."""
    layout = tensors["layout"].view(torch.int32)
    rows, cols, length, bits, stages = layout[:5].tolist()
    codewords = tensors["codewords"].reshape(stages, 1 << bits, length)
    pieces = -(-cols // length)
    codes = unpack_bits(tensors["codes"], bits, rows * pieces * stages).reshape(-1, stages)
    values = codewords[0][codes[:, 0]]
    for stage in range(1, stages):
        values += codewords[stage][codes[:, stage]]
    scales = decode_scales(unpack_bits(tensors["row_scales"], 8, rows), layout[5:].view(torch.float32))
    return values.reshape(rows, -1)[:, :cols] * scales[:, None]


def largest_misses(
    book: Codebook, matrix: Float[Tensor, "rows cols"], codes: Tensor, scales: Tensor, *, count: int
) -> tuple[Integer[Tensor, " count"], Float[Tensor, " count"]]:
    """Positions (in increasing order) and values of the `count` largest coding errors by magnitude."""
    missed = matrix - book.decode(codes, scales, matrix.shape[1])
    positions = largest_entries(missed, count)
    return positions, missed.reshape(-1)[positions]


def scaled(matrix: Float[Tensor, "rows cols"], scales: Float[Tensor, " rows"]) -> Float[Tensor, "rows cols"]:
    """Divide each row by its scale; rows with a scale of zero become zero."""
    return matrix / torch.where(scales > 0, scales, torch.inf)[:, None]


def cut(matrix: Float[Tensor, "rows cols"], length: int) -> Float[Tensor, "count length"]:
    """Cut each row into pieces of `length` entries, padding the last piece with zeros."""
    return functional.pad(matrix, (0, -matrix.shape[1] % length)).reshape(-1, length)


def sampled_pieces(matrix: Tensor, scales: Tensor, length: int, count: int, generator: Generator) -> Tensor:
    """Sample about `count` scaled pieces (count, length) by taking all pieces of randomly chosen rows."""
    wanted = -(-count * length // matrix.shape[1])
    chosen = torch.randperm(len(matrix), generator=generator)[:wanted].sort().values.to(matrix.device)
    return cut(scaled(matrix[chosen], scales[chosen]), length)


def as_stored(vector: Float[Tensor, " n"], dtype: str) -> Float[Tensor, " n"]:
    """Round a vector to a storage dtype."""
    return unpack(pack({"vector": vector}, dtype))["vector"].to(vector.device)


def _seen_through(corner: Tensor | None, vectors: Tensor) -> Tensor:
    """Multiply row vectors by the inverse of the upper triangular matrix `corner`, if given."""
    return vectors if corner is None else torch.linalg.solve_triangular(corner, vectors, upper=True, left=False)
