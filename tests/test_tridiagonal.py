"""Eigenvalues and leading eigenvectors from one triangle, against torch.linalg.eigh of the whole square."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from offcomp.errors import InputError
from offcomp.numerics import linalg
from offcomp.numerics.linalg import low_rank_factors, singular_values
from offcomp.numerics.tridiagonal import Triangle, Tridiagonal

SIDES = (2, 3, 64, 65, 131)  # blocks are 64 wide, so that some have a narrow last one


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gram_root(spectrum: Tensor, seed: int = 0) -> Tensor:
    """A matrix M for which MᵀM has these eigenvalues."""
    basis = torch.linalg.qr(randn(len(spectrum), len(spectrum), seed=seed)).Q
    return spectrum.sqrt()[:, None] * basis


def tridiagonal(root: Tensor, keep: torch.dtype = torch.float64) -> Tridiagonal:
    """Of MᵀM, whose pieces have uneven heights."""
    return Tridiagonal.of(Triangle.of_gram(root.split(7), root.shape[1]), keep)


def roots(side: int) -> dict[str, Tensor]:
    """Matrices M (_, side) of every kind that is awkward for an eigensolver."""
    blocks = torch.block_diag(*(randn(5, len(part), seed=9) for part in torch.arange(side).split(11)))
    clustered = torch.ones(side, dtype=torch.float64)
    clustered[: side // 2] += 1e-13 * torch.arange(side // 2)
    clustered[side // 2 :] = 1e-9
    return {
        "zero": torch.zeros(3, side, dtype=torch.float64),
        "identity": torch.eye(side, dtype=torch.float64),
        "diagonal": torch.diag(torch.arange(side, 0, -1, dtype=torch.float64)),
        "rank one": torch.ones(1, side, dtype=torch.float64),
        "one row": randn(1, side, seed=4),
        "blocks": blocks,
        "random": randn(side + 5, side),
        "deficient": randn(max(1, side // 3), side, seed=2),
        "clustered": gram_root(clustered),
        "steep": gram_root(torch.logspace(0, -20, side, dtype=torch.float64)),
        "huge": 1e60 * randn(side, side, seed=3),
        "tiny": 1e-60 * randn(side, side, seed=3),
    }


def assert_leading(root: Tensor, found: Tensor, tolerance: float) -> None:
    """Rows that are orthonormal, and for which the Rayleigh quotients and the images are those of eigenvectors."""
    gram = root.T @ root
    expected = torch.linalg.eigvalsh(gram).flip(0)[: len(found)]
    largest = max(expected[0].item(), torch.finfo(torch.float64).tiny)
    assert (found @ found.T - torch.eye(len(found), dtype=torch.float64)).abs().max() <= tolerance
    assert ((found @ gram * found).sum(1) - expected).abs().max() <= tolerance * largest
    assert (found @ gram - expected[:, None] * found).abs().max() <= tolerance * largest


@pytest.mark.parametrize("side", SIDES)
def test_eigenvalues_are_those_of_the_whole_square(side: int) -> None:
    for name, root in roots(side).items():
        expected = torch.linalg.eigvalsh(root.T @ root)
        found = tridiagonal(root).eigenvalues()
        assert (found.diff() >= 0).all(), name
        assert (found - expected).abs().max() <= 1e-12 * expected[-1].abs(), name


@pytest.mark.parametrize("side", SIDES)
def test_leading_eigenvectors_are_orthonormal_and_eigenvectors(side: int) -> None:
    for root in roots(side).values():
        for count in {1, side // 2, side}:
            assert_leading(root, tridiagonal(root).leading_eigenvectors(count), 1e-11)


@pytest.mark.parametrize("side", [65, 131])
def test_reflections_kept_in_single_precision_cost_single_precision(side: int) -> None:
    for root in roots(side).values():
        assert_leading(root, tridiagonal(root, torch.float32).leading_eigenvectors(side // 2), 2e-5)


def test_many_blocks_give_leading_eigenvectors_too() -> None:
    root = randn(60, 301)
    assert_leading(root, tridiagonal(root).leading_eigenvectors(70), 1e-11)


def test_well_separated_eigenvectors_are_those_of_eigh_up_to_sign() -> None:
    root = gram_root(torch.linspace(10, 1, 130, dtype=torch.float64))
    expected = torch.linalg.eigh(root.T @ root).eigenvectors.flip(1).T[:40]
    found = tridiagonal(root).leading_eigenvectors(40)
    torch.testing.assert_close((found * expected).sum(1).abs(), torch.ones(40, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_entries_that_are_not_finite_are_an_input_error(wrong: float) -> None:
    for place in ((0, 0), (3, 70), (20, 129)):
        root = randn(140, 130)
        root[place] = wrong
        with pytest.raises(InputError, match="finite"):
            tridiagonal(root).leading_eigenvectors(5)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    rows=st.integers(2, 90),
    cols=st.integers(2, 90),
    seed=st.integers(0, 100),
    scale=st.sampled_from([1e-30, 1.0, 1e4]),
    share=st.floats(0, 1),
)
def test_the_route_over_the_triangle_is_as_good_as_that_over_the_square(
    rows: int, cols: int, seed: int, scale: float, share: float
) -> None:
    matrix = (scale * randn(rows, cols, seed=seed)).float()
    rank = max(1, round(share * min(rows, cols)))
    errors, values = [], []
    for triangle in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(linalg, "as_triangle", lambda _shape, _device, chosen=triangle: chosen)
            left, right = low_rank_factors(matrix, rank)
            values.append(singular_values(matrix))
        errors.append((matrix.double() - left.double() @ right.double()).norm().item())
    assert errors[1] == pytest.approx(errors[0], rel=1e-6, abs=1e-6 * matrix.double().norm().item())
    torch.testing.assert_close(values[1], values[0], rtol=0, atol=1e-7 * values[0][0].item())
