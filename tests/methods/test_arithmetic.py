"""The steps that compute one entry lead to exactly the entry of the reconstruction, for every method that lists them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from offcomp.methods import make_method
from offcomp.methods.steps import Step, numbers, terms_of_sum
from offcomp.numerics.accounting import Budget
from offcomp.numerics.storage import unpack
from offcomp.runs.live_matrices import STEPS

FAST = {"epochs": 2, "batch_size": 16}
METHODS: dict[str, tuple[str, dict[str, Any], float]] = {
    "svd": ("svd", {}, 2.0),
    "direction": ("svd", {"preset": "direction"}, 2.0),
    "autoencoder": ("autoencoder", FAST, 3.0),
    "linear": ("autoencoder", FAST | {"decoder": "linear"}, 3.0),
    "latent codes": ("autoencoder", FAST | {"latent_bits": 4}, 3.0),
    "without norms": ("autoencoder", FAST | {"enforce_norm": False}, 3.0),
    "codebook": ("autoencoder", {"preset": "codebook", "iterations": 2, "outliers": 0.02}, 8.0),
    "two stages": ("autoencoder", {"preset": "codebook", "iterations": 2, "stages": 2, "rank": 2}, 4.0),
    "trellis": ("autoencoder", {"preset": "trellis", "rotation": "off"}, 6.0),
    "rotated": ("autoencoder", {"preset": "trellis", "rotation": "on"}, 3.0),
}


def made(rows: int, cols: int) -> torch.Tensor:
    """A matrix with rows of different norms, one row of zeros and one very large entry."""
    generator = torch.Generator().manual_seed(rows)
    matrix = torch.randn(rows, cols, generator=generator) * torch.rand(rows, 1, generator=generator)
    matrix[3] = 0
    matrix[5, 7] = 40 * matrix[5].norm()
    return matrix


@pytest.mark.parametrize("name", METHODS)
def test_the_last_step_is_the_entry(name: str) -> None:
    method, options, ratio = METHODS[name]
    matrix = made(200, 24)
    budget = Budget(int(4 * matrix.numel() / ratio), "bytes", "float32")
    compressed = make_method(method, options).fit(matrix, budget)
    reconstruction, tensors = compressed.reconstruct(), unpack(compressed.tensors)
    largest = float(reconstruction.abs().max())
    for row, col in ((0, 0), (3, 4), (5, 7), (117, 23), (199, 11)):
        steps = STEPS[compressed.decoder](tensors, row, col)
        assert steps[-1].value == pytest.approx(float(reconstruction[row, col]), abs=2e-5 * largest)
        assert all(step.label for step in steps)


def test_the_terms_of_svd_add_up_and_are_sigma_u_v() -> None:
    matrix = made(30, 20)
    compressed = make_method("svd", {}).fit(matrix, Budget(10_000, "bytes", "float32"), size=7)
    *terms, total = STEPS["low_rank"](unpack(compressed.tensors), 4, 9)
    assert sum(term.value or 0.0 for term in terms) == pytest.approx(total.value)
    assert terms[-1].label == "terms 5 to 7"
    values = torch.linalg.svdvals(matrix)
    for k, term in enumerate(terms[:-1]):
        sigma, u, v = (float(part) for part in term.numbers.split(" × "))
        assert sigma == pytest.approx(float(values[k]), rel=1e-3)
        assert sigma * u * v == pytest.approx(term.value, rel=2e-3)


def test_an_outlier_of_a_trellis_is_said_to_be_stored_exactly() -> None:
    matrix = made(300, 128)
    matrix[5, 7] = 15 * matrix[5].square().mean().sqrt() + 10
    compressed = make_method("autoencoder", {"preset": "trellis", "rotation": "off"}).fit(
        matrix, Budget(4 * matrix.numel() // 5, "bytes", "float32")
    )
    last = STEPS["decoded_trellis"](unpack(compressed.tensors), 5, 7)[-1]
    assert "stored exactly" in last.label and last.value == pytest.approx(float(matrix[5, 7]))


def test_the_terms_of_a_sum_are_shortened_without_changing_it() -> None:
    terms = [Step(f"term {k}", "", value) for k, value in enumerate([0.1, -5.0, 0.2, 3.0, 1.0, 2.0])]
    first, largest = terms_of_sum(terms, largest=False), terms_of_sum(terms, largest=True)
    assert [step.label for step in largest] == ["term 1", "term 3", "term 4", "term 5", "all other terms"]
    assert [step.label for step in first] == ["term 0", "term 1", "term 2", "term 3", "terms 5 to 6"]
    for steps in (first, largest):
        assert sum(step.value or 0.0 for step in steps) == pytest.approx(1.3)
    assert terms_of_sum(terms[:2], largest=True) == terms[:2]
    assert numbers([1.0, 2.5]) == "[1, 2.5]" and numbers([1.0] * 9).endswith("... (9 numbers)]")
