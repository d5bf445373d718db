"""Quantization equals explicit rounding, searches for the best range, and adds a low-rank part and error feedback."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from offcomp.errors import InputError
from offcomp.methods import CompressedMatrix
from offcomp.methods.hints import Hints
from offcomp.methods.quantization.method import BITS, Quantization
from offcomp.numerics.accounting import Budget, stored_size
from offcomp.numerics.changed_inputs import weight_for_changed_inputs
from offcomp.numerics.grids import searched_grid, spanning_grid
from tests.synthetic_hints import GivenHints


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fit(
    method: Quantization, matrix: Tensor, bits: int, dtype: str = "float32", hints: Hints | None = None
) -> CompressedMatrix:
    limit = stored_size(method.tensor_shapes(*matrix.shape, bits), dtype).num_bytes
    compressed = method.fit(matrix, Budget(limit, "bytes", dtype), hints=hints)
    assert compressed.size == bits
    return compressed


def error(matrix: Tensor, method: Quantization, bits: int) -> float:
    return (fit(method, matrix, bits).reconstruct() - matrix).double().norm().item()


def plainly_rounded(matrix: Tensor, bits: int, block: int, symmetric: bool) -> np.ndarray:
    """Reference implementation of rounding to the nearest level, one block of a row at a time."""
    result = np.empty(matrix.shape)
    levels = 2**bits - 1
    for row, entries in enumerate(matrix.double().numpy()):
        for start in range(0, len(entries), block):
            part = entries[start : start + block]
            half = np.abs(part).max()
            low, high = (-half, half) if symmetric else (part.min(), part.max())
            step = (high - low) / levels or 1.0
            result[row, start : start + block] = low + step * np.clip(np.rint((part - low) / step), 0, levels)
    return result


@pytest.mark.parametrize(("bits", "symmetric"), list(product(BITS, [True, False])))
@pytest.mark.parametrize("block", [0, 16, 24, 33])
def test_without_a_search_it_rounds_to_nearest(bits: int, symmetric: bool, block: int) -> None:
    matrix = randn(9, 33)
    reconstruction = fit(Quantization(block, symmetric=symmetric, search=False), matrix, bits).reconstruct()
    expected = torch.from_numpy(plainly_rounded(matrix, bits, block or 33, symmetric)).float()
    step = 2 * matrix.abs().max() / (2**bits - 1)
    close = (reconstruction - expected).abs() < 1e-5
    assert close.float().mean() > 0.995  # float32 may round a tie to either side
    assert (reconstruction - expected).abs().max() <= 1.01 * step


@pytest.mark.parametrize(("bits", "symmetric"), list(product(BITS, [True, False])))
def test_all_levels_are_used_and_no_more(bits: int, symmetric: bool) -> None:
    matrix = torch.linspace(-1, 1, 4096)[None]
    for search in (False, True):
        reconstruction = fit(Quantization(0, symmetric=symmetric, search=search), matrix, bits).reconstruct()
        assert len(reconstruction.unique()) == 2**bits


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_entries_on_the_grid_are_exact(bits: int, symmetric: bool) -> None:
    codes = torch.randint(0, 2**bits, (6, 64), generator=torch.Generator().manual_seed(bits))
    codes[:, 0], codes[:, 1] = 0, 2**bits - 1
    matrix = 0.25 * (codes - (2**bits - 1) / 2) + (0.0 if symmetric else 3.0)
    torch.testing.assert_close(fit(Quantization(symmetric=symmetric), matrix, bits).reconstruct(), matrix)


@pytest.mark.parametrize(("symmetric", "block"), list(product([True, False], [0, 24])))
@pytest.mark.parametrize("bits", BITS)
def test_the_search_is_never_worse_than_the_full_range(bits: int, symmetric: bool, block: int) -> None:
    matrix = randn(20, 100) ** 3  # a few large entries
    searched, plain = (error(matrix, Quantization(block, symmetric=symmetric, search=s), bits) for s in (True, False))
    assert searched <= plain * (1 + 1e-6)
    if bits <= 3 and block == 0:
        assert searched < 0.8 * plain


@pytest.mark.parametrize(("bits", "best"), [(2, 0.1188), (3, 0.03744), (4, 0.01154)])
def test_normal_entries_come_near_the_best_uniform_grid(bits: int, best: float) -> None:
    # Mean squared errors of optimal uniform quantizers of a normal variable: Max, "Quantizing for minimum distortion", 1960.
    matrix = randn(8, 20_000)
    for symmetric in (True, False):
        assert error(matrix, Quantization(symmetric=symmetric), bits) ** 2 / matrix.numel() < 1.03 * best


def test_a_refined_share_beats_every_share_of_a_fine_scan_within_a_little() -> None:
    blocks = randn(30, 64) ** 3
    scale, lowest = searched_grid(blocks, 3, True)
    full, full_lowest = spanning_grid(blocks, 3, True)

    def errors(scale: Tensor, lowest: Tensor) -> Tensor:
        codes = ((blocks - lowest[:, None]) / scale[:, None]).round().clamp(0, 7)
        return (lowest[:, None] + scale[:, None] * codes - blocks).square().sum(1)

    scanned = torch.stack([errors(share * full, share * full_lowest) for share in torch.linspace(0.05, 1, 400)]).amin(0)
    assert (errors(scale, lowest) <= 1.1 * scanned).all()


def test_smaller_blocks_have_smaller_errors_and_more_bits_too() -> None:
    matrix = randn(16, 256) * torch.logspace(0, 1, 256)
    by_block = [error(matrix, Quantization(block), 4) for block in (16, 64, 256)]
    by_bits = [error(matrix, Quantization(), bits) for bits in reversed(BITS)]
    assert by_block == sorted(by_block)
    assert by_bits == sorted(by_bits)


@pytest.mark.parametrize(("symmetric", "block"), list(product([True, False], [0, 20, 64])))
def test_sizes_are_those_of_the_formula(symmetric: bool, block: int) -> None:
    rows, cols, bits = 10, 64, 5
    method = Quantization(block, symmetric=symmetric)
    per_row = -(-cols // (block or cols)) * (1 if symmetric else 2)
    stored = stored_size(method.tensor_shapes(rows, cols, bits), "float32")
    assert stored.num_parameters == rows * cols + rows * per_row + 3
    assert stored.num_bytes == rows * cols * bits // 8 + 4 * rows * per_row + 12


def test_a_matrix_of_many_bands_is_rounded_like_its_rows_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, method = randn(50, 40), Quantization(16)
    whole = fit(method, matrix, 3)
    monkeypatch.setattr("offcomp.numerics.chunks.CHUNK_ENTRIES", 80)
    banded = fit(method, matrix, 3)
    assert all(torch.equal(tensor, banded.tensors[name]) for name, tensor in whole.tensors.items())
    assert torch.equal(whole.reconstruct(), banded.reconstruct())


@pytest.mark.parametrize("search", [True, False])
def test_constant_and_zero_rows_are_exact(search: bool) -> None:
    matrix = torch.stack([torch.zeros(20), torch.full((20,), -2.5), torch.full((20,), 1e-3)])
    for symmetric, bits in product((True, False), (2, 8)):
        reconstruction = fit(Quantization(symmetric=symmetric, search=search), matrix, bits).reconstruct()
        torch.testing.assert_close(reconstruction, matrix)


def unpacked(packed: Tensor, bits: int, count: int) -> np.ndarray:
    """The first `count` packed integers of this many bits, read bit by bit."""
    digits = np.unpackbits(packed.numpy(), bitorder="little")[: count * bits].reshape(count, bits)
    return (digits * 2 ** np.arange(bits)).sum(1).astype(float)


def test_what_is_stored_with_a_low_rank_part_is_read_back_by_hand() -> None:
    matrix, rank = randn(20, 12), 3
    compressed = fit(Quantization(rank=rank), matrix, 5)
    stored = {name: tensor.double().numpy() for name, tensor in compressed.tensors.items() if tensor.dtype != torch.uint8}
    codes = unpacked(compressed.tensors["codes"], 5, 240).reshape(20, 12)
    factors = unpacked(compressed.tensors["factors"], 4, rank * 32) - 7.5
    left, right = factors[: rank * 20].reshape(rank, 20), factors[rank * 20 :].reshape(rank, 12)
    scales = stored["factor_scales"][:, None]
    expected = stored["zeros"][:, None] + stored["scales"][:, None] * codes
    expected += (scales[:rank] * left).T @ (scales[rank:] * right)
    np.testing.assert_allclose(compressed.reconstruct().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_the_low_rank_part_is_four_bits_a_number_and_a_scale_for_each_component() -> None:
    plain, with_rank = (stored_size(Quantization(rank=rank).tensor_shapes(40, 24, 3), "float16") for rank in (0, 5))
    assert with_rank.num_bytes - plain.num_bytes == 5 * 64 // 2 + 2 * 2 * 5
    assert with_rank.num_parameters - plain.num_parameters == 5 * 64 + 2 * 5


def test_a_rank_above_that_of_the_matrix_stores_the_largest_possible() -> None:
    matrix = randn(10, 6)
    assert Quantization(rank=100).tensor_shapes(10, 6, 2) == Quantization(rank=6).tensor_shapes(10, 6, 2)
    assert error(matrix, Quantization(rank=100), 2) < error(matrix, Quantization(), 2)


def test_a_low_rank_part_pays_where_there_is_one_and_not_on_noise() -> None:
    """A low-rank part of 11 components of 96 takes no more bytes than one additional bit per weight."""
    noise = randn(96, 96, seed=1)
    low_rank = randn(96, 6, seed=2) @ randn(6, 96, seed=3)
    sizes = [stored_size(method.tensor_shapes(96, 96, bits), "float16").num_bytes for method, bits in
             ((Quantization(rank=11), 2), (Quantization(), 3))]  # fmt: skip
    assert sizes[0] <= sizes[1]
    for matrix, helps in ((low_rank + 0.3 * noise, True), (noise, False)):
        assert (error(matrix, Quantization(rank=11), 2) < error(matrix, Quantization(), 3)) == helps


def test_alternating_improves_on_a_single_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = randn(64, 48) * torch.logspace(0, 1, 48)
    alternated = error(matrix, Quantization(rank=6), 2)
    monkeypatch.setattr("offcomp.methods.quantization.fit.ROUNDS", 1)
    assert alternated < 0.98 * error(matrix, Quantization(rank=6), 2)


def moment_of(inputs: Tensor) -> Tensor:
    return (inputs.T @ inputs).double() / len(inputs)


def correlated_inputs(tokens: int, width: int, seed: int = 0) -> Tensor:
    """Inputs (tokens, width) in which few directions hold most of the energy."""
    return randn(tokens, width, seed=seed) @ (randn(width, width, seed=seed + 1) * torch.logspace(0, -1.5, width)).T


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("block", "rank"), [(0, 0), (12, 0), (0, 4)])
def test_feedback_lowers_the_output_error_of_each_member(transposed: bool, block: int, rank: int) -> None:
    inputs = correlated_inputs(2000, 40)
    members = [randn(48, 40, seed=5), randn(48, 40, seed=6)]
    stacked = torch.cat([member.T if transposed else member for member in members])
    hints = GivenHints((len(stacked) // 2,) * 2, (transposed,) * 2, [moment_of(inputs)] * 2, order=(1, 0))
    plain = fit(Quantization(block, rank=rank), stacked, 3)
    fed = fit(Quantization(block, rank=rank, feedback=True, damping=0.05), stacked, 3, hints=hints)
    for index, member in enumerate(members):
        parts = [fitted.reconstruct().split(len(stacked) // 2)[index] for fitted in (plain, fed)]
        parts = [part.T if transposed else part for part in parts]
        before, after = ((inputs @ (member - part).T).norm().item() for part in parts)
        assert after < 0.75 * before
    assert hints.followed and hints.kept
    ((index, substituted),) = hints.substituted  # no member follows the last one
    assert index == 1
    torch.testing.assert_close(substituted, fed.reconstruct().split(len(stacked) // 2)[1], atol=1e-4, rtol=1e-4)


def test_a_low_rank_part_lowers_the_output_error_of_feedback_further() -> None:
    inputs, matrix = correlated_inputs(2000, 64), randn(64, 64, seed=4)
    without, with_rank = (
        fit(Quantization(rank=rank, feedback=True), matrix, 2, hints=GivenHints((64,), (False,), [moment_of(inputs)]))
        for rank in (0, 8)
    )
    before, after = ((inputs @ (matrix - fitted.reconstruct()).T).norm().item() for fitted in (without, with_rank))
    assert after < 0.9 * before


def test_feedback_with_white_inputs_rounds_to_nearest() -> None:
    matrix = randn(30, 16)
    hints = GivenHints((30,), (False,), [torch.eye(16, dtype=torch.float64)])
    torch.testing.assert_close(
        fit(Quantization(feedback=True), matrix, 4, hints=hints).reconstruct(), fit(Quantization(), matrix, 4).reconstruct()
    )


@pytest.mark.parametrize("transposed", [False, True])
def test_the_outputs_of_the_original_are_the_target(transposed: bool) -> None:
    matrix, moment = randn(24, 16), moment_of(correlated_inputs(500, 16))
    cross = moment @ (torch.eye(16) + 0.2 * randn(16, 16, seed=9)).double()
    stacked = matrix.T.contiguous() if transposed else matrix
    for toward, expected in ((True, weight_for_changed_inputs(matrix.double(), moment, cross).float()), (False, matrix)):
        hints = GivenHints((len(stacked),), (transposed,), [moment], cross=cross)
        found = fit(Quantization(feedback=True, toward_original=toward), stacked, 8, hints=hints).reconstruct()
        found = found.T if transposed else found
        assert (found - expected).norm() < 0.02 * expected.norm()
        assert hints.kept is toward


def test_embeddings_are_rounded_to_nearest_and_seen_by_those_after_them() -> None:
    matrix, moment = randn(60, 32), moment_of(correlated_inputs(300, 32))
    plain = fit(Quantization(), matrix, 4).reconstruct()
    hints = GivenHints((20, 40), (False, False), [None, moment])
    fed = fit(Quantization(feedback=True), matrix, 4, hints=hints).reconstruct()
    assert torch.equal(fed[:20], plain[:20])
    assert not torch.equal(fed[20:], plain[20:])
    assert [index for index, _ in hints.substituted] == [0]
    alone = GivenHints((60,), (False,), [None])
    assert torch.equal(fit(Quantization(feedback=True), matrix, 4, hints=alone).reconstruct(), plain)
    assert not alone.followed


class WithoutMoments(GivenHints):
    embeddings = (False,)  # type: ignore[assignment]  # as if the moment had not been measured


def test_feedback_needs_text_and_moments() -> None:
    with pytest.raises(InputError, match="calibration text"):
        fit(Quantization(feedback=True), randn(8, 8), 4)
    with pytest.raises(InputError, match="column moment"):
        fit(Quantization(feedback=True), randn(8, 8), 4, hints=WithoutMoments((8,), (False,), [None]))
