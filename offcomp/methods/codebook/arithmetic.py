"""How a codebook-coded entry is computed: an entry of each codeword that the row's codes select, times the scale of the row."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from offcomp.methods.codebook.codebook import decode_scales
from offcomp.methods.steps import Step, number, numbers
from offcomp.numerics.bits import unpack_bits
from offcomp.numerics.positions import decode_positions


def code_steps(tensors: Mapping[str, Tensor], row: int, col: int) -> list[Step]:
    """The codes of the piece that contains the column, their codewords, the scale, and any low-rank part and outlier."""
    layout = tensors["layout"].view(torch.int32)
    rows, cols, length, bits, stages = layout[:5].tolist()
    codewords = tensors["codewords"].reshape(stages, 1 << bits, length)
    pieces = -(-cols // length)
    codes = unpack_bits(tensors["codes"], bits, rows * pieces * stages).reshape(rows, pieces, stages)
    piece, place = divmod(col, length)
    columns = f"columns {piece * length:,} to {min((piece + 1) * length, cols) - 1:,}"
    steps, total = [], 0.0
    for stage, code in enumerate(codes[row, piece].tolist()):
        codeword = codewords[stage][code]
        total += float(codeword[place])
        which = f"code of {columns}" + (f", stage {stage + 1}" if stages > 1 else "")
        steps.append(Step(which, f"{code} of {1 << bits}"))
        steps.append(Step(f"entry {place + 1} of codeword {code}", numbers(codeword.tolist()), float(codeword[place])))
    scales = decode_scales(unpack_bits(tensors["row_scales"], 8, rows), layout[5:].view(torch.float32))
    scale = float(scales[row])
    entry = total * scale
    steps.append(Step(f"scale of row {row:,}", "", scale))
    label = "sum of the entries × scale" if stages > 1 else "entry × scale"
    steps.append(Step(label, f"{number(total)} × {number(scale)}", entry))
    extra = []
    if "left" in tensors:
        low_rank = float(tensors["left"][row].double() @ tensors["right"][:, col].double())
        extra.append(Step("low-rank part", f"{len(tensors['right'])} terms", low_rank))
    if "outliers" in tensors:
        extra += _outlier(tensors, row * cols + col, rows * cols)
    if extra:
        extra.append(Step("entry: sum", "", entry + sum(step.value or 0.0 for step in extra)))
    return steps + extra


def _outlier(tensors: Mapping[str, Tensor], place: int, total: int) -> list[Step]:
    """The stored error of this entry, if it is among the largest."""
    values = tensors["outliers"]
    positions = decode_positions(tensors["outlier_low"], tensors["outlier_high"], len(values), total)
    return [Step("stored error of this entry", "", float(values[index])) for index in (positions == place).nonzero()[:, 0]]
