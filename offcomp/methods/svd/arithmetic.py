"""How an entry of a truncated SVD is computed: Σ_k σ_k u_ik v_jk."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from offcomp.methods.steps import Step, number, terms_of_sum


def low_rank_steps(tensors: Mapping[str, Tensor], row: int, col: int) -> list[Step]:
    """The terms of the sum, from factors whose columns are scaled to unit length; the products of their lengths are the σ_k."""
    left, right = tensors["left"].double(), tensors["right"].double()
    lengths = left.norm(dim=0), right.norm(dim=1)
    values = left[row] * right[:, col]
    unit_left, unit_right = (
        (part / length.clamp_min(torch.finfo(length.dtype).tiny)).tolist()
        for part, length in zip((left[row], right[:, col]), lengths, strict=True)
    )
    scales = (lengths[0] * lengths[1]).tolist()
    terms = [
        Step(f"term {k}: σ × u × v", f"{number(sigma)} × {number(u)} × {number(v)}", value)
        for k, (sigma, u, v, value) in enumerate(zip(scales, unit_left, unit_right, values.tolist(), strict=True), 1)
    ]
    return [*terms_of_sum(terms, largest=False), Step("sum of all terms", "", float(values.sum()))]


def direction_steps(tensors: Mapping[str, Tensor], row: int, col: int) -> list[Step]:
    """The terms of the sum, and the factor that restores the norm of the row."""
    steps = low_rank_steps(tensors, row, col)
    length = float((tensors["left"][row] @ tensors["right"]).double().norm())
    norm = float(tensors["row_norms"][row])
    factor, total = norm / length if length > 0 else 0.0, steps[-1].value or 0.0
    return [
        *steps,
        Step("stored row norm / norm of the sum", f"{number(norm)} / {number(length)}", factor),
        Step("entry: sum × factor", f"{number(total)} × {number(factor)}", total * factor),
    ]
