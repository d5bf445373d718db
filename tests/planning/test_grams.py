"""Spectra of groups from Gram matrices that are computed once equal those of a direct SVD of the stacked matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from offcomp.errors import InputError
from offcomp.models import weights
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.weights import list_modules
from offcomp.numerics import chunks
from offcomp.numerics.grams import cross_gram, gram, gram_of_rows, in_parallel, spectrum_of_gram
from offcomp.planning import grams as grams_module
from offcomp.planning.grams import Grams
from offcomp.planning.grouping import STACKS, group_shape
from offcomp.runs.compress import stack
from tests import tiny_models

KINDS_BY_SIDE = {"columns": ("query", "key", "value", "ffn_in"), "rows": ("attention_output", "ffn_out")}


def spec(index: int, rows: int, cols: int, kind: str = "query") -> ModuleSpec:
    return ModuleSpec(f"{kind}.{index}", kind, index, "", f"{kind}.{index}.weight", rows, cols)


def random_matrix(rows: int, cols: int, seed: int) -> Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))


def direct(matrix: Tensor) -> np.ndarray:
    return torch.linalg.svdvals(matrix.double()).numpy()


def assert_equal_spectra(found: np.ndarray, expected: np.ndarray) -> None:
    """Assert equality to 1e-6 of the largest value, the precision of float32."""
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * max(expected[0], 1e-30))


# ------------------------------------------------------------------------------------------------------------ the pieces


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 99), st.booleans(), st.sampled_from([7, 64, 1 << 20]))
def test_a_gram_matrix_is_the_plain_product_in_float64(rows: int, cols: int, seed: int, transposed: bool, piece: int) -> None:
    matrix = random_matrix(cols, rows, seed).T if transposed else random_matrix(rows, cols, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK_ENTRIES", piece)  # several chunks even of a small matrix
        found = gram(matrix)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, matrix.double().T @ matrix.double(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, found.T, rtol=1e-12, atol=1e-12)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 40), st.sampled_from([7, 1 << 20]))
def test_the_gram_matrix_of_the_rows_of_a_stack_is_put_together_from_its_members(
    heights: list[int], cols: int, piece: int
) -> None:
    members = [random_matrix(height, cols, seed) for seed, height in enumerate(heights)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK_ENTRIES", piece)
        found = gram_of_rows(members, [gram(member.T) for member in members])
    stacked = torch.cat(members).double()
    torch.testing.assert_close(found, stacked @ stacked.T, rtol=1e-12, atol=1e-12)


def test_a_cross_gram_is_the_plain_product() -> None:
    one, other = random_matrix(3, 50, 0), random_matrix(5, 50, 1)
    torch.testing.assert_close(cross_gram(one, other), one.double() @ other.double().T, rtol=1e-12, atol=1e-12)


def test_a_spectrum_is_cut_where_the_gram_matrix_has_more_than_the_rank() -> None:
    matrix = random_matrix(4, 9, 0)
    assert_equal_spectra(spectrum_of_gram(gram(matrix), 4).numpy(), direct(matrix))


def test_small_values_are_exact_to_a_millionth_of_the_largest() -> None:
    """In a float32 Gram matrix, values below 3e-4 of the largest are lost to rounding."""
    left, right = (torch.linalg.qr(random_matrix(50, 20, seed).double())[0] for seed in (0, 1))
    values = torch.logspace(0, -5, 20, dtype=torch.float64)
    matrix = ((left * values) @ right.T).float()
    assert_equal_spectra(spectrum_of_gram(gram(matrix), 20).numpy(), values.numpy())
    crude = torch.linalg.eigvalsh(matrix.T @ matrix).flip(0)[:20].clamp_min(0).sqrt()
    assert (crude.double() - values).abs().max() > 1e-5


@pytest.mark.parametrize("threads", [1, 2])
def test_work_in_parallel_comes_back_in_order_and_leaves_the_threads_as_they_were(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert in_parallel(lambda number: (number**2, torch.get_num_threads()), list(range(5))) == [
            (number**2, 1) for number in range(5)
        ]
        assert in_parallel(str, []) == []
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


# ------------------------------------------------------------------------------------------------------- spectra of groups


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.data())
def test_the_spectrum_of_any_group_is_that_of_the_stacked_matrix(data: st.DataObject) -> None:
    how = data.draw(st.sampled_from(STACKS))
    shared = data.draw(st.integers(1, 24), "shared side")
    lengths = data.draw(st.lists(st.integers(1, 24), min_size=1, max_size=4), "other sides")
    matrices = {}
    for index, length in enumerate(lengths):
        side = data.draw(st.sampled_from(sorted(KINDS_BY_SIDE))) if how == "residual" else ""
        kind = data.draw(st.sampled_from(KINDS_BY_SIDE[side])) if side else "query"
        transposed = how == "columns" or side == "rows"
        member = spec(index, *((shared, length) if transposed else (length, shared)), kind=kind)
        matrices[member] = random_matrix(*member.shape, seed=index)
    found = Grams(matrices.__getitem__).spectrum(list(matrices), how)
    assert found.shape == group_shape(list(matrices), how)
    assert_equal_spectra(found.values, direct(stack(matrices, how)))


@pytest.mark.parametrize("how", STACKS)
@pytest.mark.parametrize("shape", [(7, 19), (19, 7)])
def test_a_group_of_one_has_the_spectrum_of_its_module(shape: tuple[int, int], how: str) -> None:
    member = spec(0, *shape)
    matrix = random_matrix(*shape, seed=3)
    found = Grams({member: matrix}.__getitem__).spectrum([member], how)
    assert found.shape == (shape[::-1] if how == "columns" else shape)
    assert_equal_spectra(found.values, direct(matrix))


@pytest.mark.parametrize("how", STACKS)
def test_the_order_of_the_members_changes_nothing(how: str) -> None:
    specs = [spec(index, 12, 12, kind) for index, kind in enumerate(("query", "attention_output", "value"))]
    matrices = {member: random_matrix(12, 12, seed) for seed, member in enumerate(specs)}
    orders = (specs, specs[::-1], [specs[1], specs[2], specs[0]])
    first, *others = [Grams(matrices.__getitem__).spectrum(order, how).values for order in orders]
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-5, atol=1e-6)


def test_degenerate_members_are_no_trouble() -> None:
    shapes = {"zeros": torch.zeros(6, 5), "constant": torch.ones(3, 5), "one row": random_matrix(1, 5, 0)}
    matrices = {spec(index, *matrix.shape): matrix for index, matrix in enumerate(shapes.values())}
    grams = Grams(matrices.__getitem__)
    assert_equal_spectra(grams.spectrum(list(matrices), "rows").values, direct(stack(matrices, "rows")))
    zero = next(iter(matrices))
    assert grams.spectrum([zero], "rows").values.tolist() == [0.0] * 5


def test_all_spectra_of_a_model_and_its_residual_stack() -> None:
    model = tiny_models.shared("bert_base")
    specs = [member for member in list_modules(model) if member.default]
    grams = Grams.of_model(model)
    found = {spec.name: grams.spectrum((spec,), "rows") for spec in specs}
    assert list(found) == [member.name for member in specs]
    for member in specs:
        assert found[member.name].shape == member.shape
        assert_equal_spectra(found[member.name].values, direct(weights.read(model, member)))
    everything = {member: weights.read(model, member) for member in specs}
    assert_equal_spectra(grams.spectrum(specs, "residual").values, direct(stack(everything, "residual")))


def test_each_gram_matrix_is_made_once() -> None:
    specs = [spec(index, 9, 6) for index in range(3)]
    reads: list[str] = []
    matrices = {member: random_matrix(9, 6, seed) for seed, member in enumerate(specs)}
    grams = Grams(lambda member: reads.append(member.name) or matrices[member])  # type: ignore[func-returns-value]
    grams.spectra([(specs[:2], "rows"), (specs[1:], "rows"), (specs, "rows"), (specs[::-1], "residual")])
    assert sorted(reads) == [member.name for member in specs]


def test_gram_matrices_beyond_the_memory_for_them_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    specs = [spec(index, 9, 6) for index in range(3)]
    matrices = {member: random_matrix(9, 6, seed) for seed, member in enumerate(specs)}
    monkeypatch.setattr(grams_module, "CACHE_BYTES", 2 * 6 * 6 * 8)
    grams = Grams(matrices.__getitem__)
    for members in (specs, specs[1:]):
        spectrum = grams.spectrum(members, "rows").values
        assert_equal_spectra(spectrum, direct(stack({member: matrices[member] for member in members}, "rows")))
    assert len(grams._grams) == 2


def test_members_that_do_not_fit_and_sides_too_long_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = spec(0, 4, 5), spec(1, 4, 6)
    grams = Grams({one: torch.ones(4, 5), other: torch.ones(4, 6)}.__getitem__)
    with pytest.raises(InputError, match="cannot be stacked by rows"):
        grams.spectrum([one, other], "rows")
    monkeypatch.setattr(grams_module, "LARGEST_SIDE", 3)
    with pytest.raises(InputError, match="needs a Gram matrix of size 4, but the limit is 3; split the group"):
        grams.spectrum([one], "rows")


def test_weights_are_not_changed() -> None:
    member = spec(0, 5, 8)
    matrix = random_matrix(5, 8, 0)
    before = matrix.clone()
    Grams({member: matrix}.__getitem__).spectrum([member], "rows")
    assert torch.equal(matrix, before)
