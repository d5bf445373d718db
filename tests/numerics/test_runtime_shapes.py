"""Under pytest, the shapes in the signatures of `offcomp.numerics` are checked at every call."""

from __future__ import annotations

import jaxtyping
import pytest
import torch

from offcomp.numerics import accounting
from offcomp.numerics import svd as linalg


def test_a_matrix_where_a_vector_belongs_is_refused() -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match="matrix"):
        linalg.singular_values(torch.ones(3))  # type: ignore[arg-type]


def test_integers_where_floats_belong_are_refused() -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match="matrix"):
        linalg.low_rank_factors(torch.ones(3, 2, dtype=torch.int64), 1)


def test_a_fractional_budget_is_refused() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        accounting.Budget(1.5)  # type: ignore[arg-type]
