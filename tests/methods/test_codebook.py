"""The codebook autoencoder: codes, scales, stages, outliers, feedback, and stored sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from offcomp.errors import BudgetTooSmall, InputError
from offcomp.methods import make_method
from offcomp.methods.base import CompressedMatrix, Method
from offcomp.methods.codebook.codebook import (
    Codebook,
    decode_scales,
    encode_scales,
    learn_codewords,
    least_squares_scales,
    nearest,
    root_mean_square,
    scale_range,
)
from offcomp.methods.codebook.gptq import damped_order_and_factor, round_with_feedback
from offcomp.numerics.accounting import Budget, stored_size
from tests.synthetic_hints import GivenHints


def gaussian(rows: int, cols: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))


def correlated_inputs(tokens: int, width: int, seed: int = 0) -> Tensor:
    """Inputs (tokens, width) in which few directions hold most of the energy."""
    mixing = gaussian(width, width, seed + 1) * torch.logspace(0, -1.5, width)
    return gaussian(tokens, width, seed) @ mixing.T


def codebook(**options: Any) -> Method:
    return make_method("autoencoder", {"preset": "codebook", **options})


def at_size(method: Method, matrix: Tensor, size: int, **how: Any) -> CompressedMatrix:
    """The fit at exactly this size."""
    limit = stored_size(method.tensor_shapes(*matrix.shape, size), "float32").num_bytes
    fitted = method.fit(matrix, Budget(limit, "bytes"), **how)
    assert fitted.size == size
    return fitted


def error(matrix: Tensor, fitted: CompressedMatrix) -> float:
    return ((matrix - fitted.reconstruct()).norm() / matrix.norm()).item()


# Codewords


@settings(max_examples=50, deadline=None, derandomize=True)
@given(count=st.integers(1, 60), number=st.integers(1, 20), length=st.integers(1, 5), seed=st.integers(0, 999))
def test_the_nearest_codeword_is_that_of_all_distances(count: int, number: int, length: int, seed: int) -> None:
    pieces, codewords = gaussian(count, length, seed), gaussian(number, length, seed + 1)
    distances = torch.cdist(pieces.double(), codewords.double())
    chosen = distances.gather(1, nearest(pieces, codewords)[:, None])[:, 0]
    assert torch.allclose(chosen, distances.amin(1), atol=1e-5)


def test_as_many_codewords_as_distinct_pieces_are_exact() -> None:
    distinct = gaussian(16, 3)
    pieces = distinct[torch.randint(16, (400,), generator=torch.Generator().manual_seed(1))]
    codewords = learn_codewords(pieces, 16, torch.Generator().manual_seed(5), 60)
    missed = (pieces - codewords[nearest(pieces, codewords)]).square().sum()
    assert missed <= 0.02 * pieces.square().sum()


def test_more_rounds_of_k_means_do_not_raise_the_error() -> None:
    pieces = gaussian(3000, 2)
    errors = []
    for rounds in (1, 3, 10, 30):
        codewords = learn_codewords(pieces, 16, torch.Generator().manual_seed(0), rounds)
        errors.append((pieces - codewords[nearest(pieces, codewords)]).square().sum().item())
    assert errors == sorted(errors, reverse=True)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    scales=st.lists(st.sampled_from([0.0]) | st.floats(1e-30, 1e6), min_size=1, max_size=30),
)
def test_scales_in_one_byte_are_off_by_half_a_step_at_most_and_zero_stays_zero(scales: list[float]) -> None:
    exact = torch.tensor(scales)
    limits = scale_range(exact)
    codes = encode_scales(exact, limits)
    decoded = decode_scales(codes, limits)
    assert int(codes.min()) >= 0 and int(codes.max()) <= 255
    assert torch.equal(decoded == 0, exact == 0)
    half = (limits[1] - limits[0]).double() / 254 / 2
    positive = exact > 0
    difference = (decoded[positive].double().log2() - exact[positive].double().log2()).abs()
    assert (difference <= half + 1e-4).all()


def test_the_root_mean_square_of_tiny_rows_does_not_vanish() -> None:
    assert root_mean_square(torch.full((2, 5), 1e-30)).tolist() == pytest.approx([1e-30, 1e-30])
    assert root_mean_square(torch.zeros(1, 4)).tolist() == [0.0]


def test_least_squares_scales_leave_an_error_across_the_direction() -> None:
    matrix, directions = gaussian(6, 20), gaussian(6, 20, 1) + gaussian(6, 20)
    scales = least_squares_scales(matrix, directions)
    rest = matrix - scales[:, None] * directions
    assert torch.allclose((rest * directions).sum(1)[scales > 0], torch.zeros(int((scales > 0).sum())), atol=1e-4)


# The method


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 40),
    cols=st.integers(1, 40),
    length=st.integers(0, 6),
    stages=st.integers(1, 2),
    outliers=st.sampled_from([0.0, 0.05]),
    rank=st.integers(0, 2),
    size=st.integers(1, 4),
    kind=st.sampled_from(["full", "zero", "zero rows", "rank one", "constant", "tiny"]),
)
def test_what_is_stored_is_what_the_formula_says_and_decodes_to_finite_numbers(
    *, rows: int, cols: int, length: int, stages: int, outliers: float, rank: int, size: int, kind: str
) -> None:
    matrix = gaussian(rows, cols)
    if kind == "zero":
        matrix.zero_()
    elif kind == "zero rows":
        matrix[: rows // 2] = 0
    elif kind == "rank one":
        matrix = matrix[:, :1] @ matrix[:1]
    elif kind == "constant":
        matrix.fill_(0.5)
    elif kind == "tiny":
        matrix *= 1e-30
    method = codebook(codeword_length=length, stages=stages, outliers=outliers, rank=rank, iterations=2)
    size = min(size, method.sizes(rows, cols).stop - 1)
    shapes = method.tensor_shapes(rows, cols, size)
    limit = stored_size(shapes, "float32").num_bytes
    try:
        fitted = method.fit(matrix, Budget(limit, "bytes"))
    except BudgetTooSmall:
        pytest.fail("the size of a budget made from it must fit")
    assert fitted.stored.num_bytes <= limit
    if fitted.size == size:
        assert fitted.stored == stored_size(shapes, "float32")
    reconstruction = fitted.reconstruct()
    assert reconstruction.shape == matrix.shape
    assert reconstruction.isfinite().all()
    if kind == "zero" and not rank:
        assert not reconstruction.any()


def test_more_bits_lower_the_error_at_every_step() -> None:
    matrix, method = gaussian(300, 48), codebook()
    errors = [error(matrix, at_size(method, matrix, size)) for size in method.sizes(300, 48)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.03


def test_a_gaussian_matrix_at_two_bits_is_as_near_as_vector_quantization_gets() -> None:
    """At 2 bits per weight, the error with codewords of 4 weights is between Shannon's bound, 2^-2, and Lloyd-Max's, 0.343."""
    matrix, method = gaussian(2000, 64), codebook(codeword_length=4, outliers=0.0)
    assert 0.25 < error(matrix, at_size(method, matrix, 8)) < 0.33


def test_a_second_stage_codes_what_the_first_left_over() -> None:
    matrix = gaussian(200, 32)
    one = at_size(codebook(codeword_length=4, stages=1), matrix, 6)
    two = at_size(codebook(codeword_length=4, stages=2), matrix, 6)
    assert error(matrix, two) < 0.75 * error(matrix, one)
    assert two.codes["codes"] == 2 * one.codes["codes"]


def test_a_low_rank_part_takes_a_low_rank_matrix_off_the_codes() -> None:
    matrix = 10 * gaussian(60, 3) @ gaussian(3, 40, 1) + 0.01 * gaussian(60, 40, 2)
    with_rank = at_size(codebook(rank=3, codeword_length=4), matrix, 4)
    assert error(matrix, with_rank) < 0.01 * error(matrix, at_size(codebook(codeword_length=4), matrix, 4))


def test_the_entries_that_codes_miss_by_most_are_stored_exactly() -> None:
    matrix = gaussian(100, 40)
    matrix[3, 7], matrix[50, 2] = 80.0, -60.0
    fitted = at_size(codebook(codeword_length=4, outliers=0.01), matrix, 5)
    missed = (matrix - fitted.reconstruct()).abs().flatten()
    stored = fitted.tensors["outliers"].abs()
    assert len(stored) == 40
    assert (missed < 1e-4).sum() >= 40
    assert missed.max() <= stored.min() + 1e-4
    assert error(matrix, fitted) < error(matrix, at_size(codebook(codeword_length=4, outliers=0.0), matrix, 5))


def test_one_codebook_serves_members_of_different_size() -> None:
    """Rows are scaled, so members of different scale have nearly the same errors in one group as alone."""
    small, large = 0.01 * gaussian(150, 32), 10 * gaussian(150, 32, 1)
    method = codebook(codeword_length=4)
    together = at_size(method, torch.cat([small, large]), 6).reconstruct()
    for member, part in ((small, together[:150]), (large, together[150:])):
        alone = error(member, at_size(method, member, 6))
        assert ((member - part).norm() / member.norm()).item() < 1.05 * alone


def test_another_seed_draws_other_codewords() -> None:
    matrix, method = gaussian(100, 32), codebook(codeword_length=4)
    first, second = (at_size(method, matrix, 5, seed=seed).tensors["codewords"] for seed in (0, 1))
    assert not torch.equal(first, second)


# Feedback


def test_feedback_without_hints_is_refused() -> None:
    with pytest.raises(InputError, match="calibration text"):
        codebook(feedback=True).fit(gaussian(64, 32), Budget(2000, "bytes"))


def rounded(weights: Tensor) -> Tensor:
    return (weights * 2).round() / 2


@pytest.mark.parametrize("step", [1, 3])
def test_feedback_equals_the_plain_recipe_that_solves_for_the_rest_each_time(step: int) -> None:
    """After each step, the weights of the remaining inputs move to the least-squares optimum, here computed directly."""
    weights, inputs = gaussian(9, 5), correlated_inputs(200, 9)
    moment = (inputs.T @ inputs).double() / 200
    order, factor = damped_order_and_factor(moment.clone(), 0.1, step)
    fast = round_with_feedback(weights, order, factor, step, lambda _inputs, block, _corner: rounded(block))
    damped = moment / moment.diagonal().mean() + 0.1 * torch.eye(9, dtype=torch.float64)
    plain, target = torch.zeros(9, 5, dtype=torch.float64), weights.double()
    current = target.clone()
    for start in range(0, 9, step):
        done, rest = order[: start + step], order[start + step :]
        now = order[start : start + step]
        plain[now] = rounded(current[now])
        if len(rest):
            lost = target[done] - plain[done]
            current[rest] = target[rest] + torch.linalg.solve(damped[rest][:, rest], damped[rest][:, done] @ lost)
    assert torch.allclose(fast.double(), plain, atol=1e-4)


def test_inputs_are_rounded_by_decreasing_moment() -> None:
    moment = torch.diag(torch.tensor([1.0, 2.0, 9.0, 0.1, 4.0, 4.0], dtype=torch.float64))
    assert damped_order_and_factor(moment.clone(), 0.1, 1)[0].tolist() == [2, 4, 5, 1, 0, 3]
    assert damped_order_and_factor(moment.clone(), 0.1, 2)[0].tolist() == [2, 3, 4, 5, 0, 1]


def test_the_factor_is_that_of_the_inverse_of_the_damped_moment() -> None:
    moment = correlated_inputs(300, 200).double()
    moment = moment.T @ moment
    damped = moment / moment.diagonal().mean() + 0.1 * torch.eye(200, dtype=torch.float64)
    order, factor = damped_order_and_factor(moment, 0.1, 2)
    torch.testing.assert_close(factor.T @ factor, torch.linalg.inv(damped[order][:, order]))
    assert torch.equal(factor, factor.triu())


@pytest.mark.parametrize("moment", [torch.zeros(6, 6), torch.ones(6, 6), torch.diag(torch.tensor([1.0, 0, 0, 0, 0, 0]))])
def test_a_singular_moment_is_no_obstacle(moment: Tensor) -> None:
    order, factor = damped_order_and_factor(moment.double(), 0.3, 2)
    result = round_with_feedback(gaussian(6, 4), order, factor, 2, lambda _inputs, block, _corner: rounded(block))
    assert result.isfinite().all()
    assert torch.equal(result, rounded(result))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("length", [3, 4])
def test_feedback_lowers_the_output_error_of_each_member(transposed: bool, length: int) -> None:
    inputs = correlated_inputs(3000, 40)
    members = [gaussian(48, 40, 5), gaussian(48, 40, 6)]
    stacked = torch.cat([member.T if transposed else member for member in members])
    moment = (inputs.T @ inputs).double() / len(inputs)
    hints = GivenHints((len(stacked) // 2,) * 2, (transposed,) * 2, [moment, moment], order=(1, 0))
    plain = at_size(codebook(codeword_length=length), stacked, 5)
    fed = at_size(codebook(codeword_length=length, feedback=True, damping=0.05), stacked, 5, hints=hints)
    for index, member in enumerate(members):
        parts = [fitted.reconstruct().split(len(stacked) // 2)[index] for fitted in (plain, fed)]
        parts = [part.T if transposed else part for part in parts]
        before, after = ((inputs @ (member - part).T).norm().item() for part in parts)
        assert after < 0.8 * before
    assert hints.followed
    assert [index for index, _ in hints.substituted] == [1]  # no member follows the last one
    for index, settled in hints.substituted:
        assert torch.allclose(settled, fed.reconstruct().split(len(stacked) // 2)[index], atol=1e-4)


def test_feedback_with_white_inputs_costs_next_to_nothing() -> None:
    matrix = gaussian(64, 32)
    hints = GivenHints((64,), (False,), [torch.eye(32, dtype=torch.float64)])
    plain, fed = codebook(codeword_length=4), codebook(codeword_length=4, feedback=True)
    assert error(matrix, at_size(fed, matrix, 6, hints=hints)) < 1.03 * error(matrix, at_size(plain, matrix, 6))


def test_a_member_without_a_moment_keeps_its_codes() -> None:
    matrix = gaussian(60, 32)
    hints = GivenHints((60,), (False,), [None])
    plain = at_size(codebook(codeword_length=4), matrix, 5)
    fed = at_size(codebook(codeword_length=4, feedback=True), matrix, 5, hints=hints)
    assert torch.equal(plain.reconstruct(), fed.reconstruct())
    assert not hints.followed and not hints.substituted


@pytest.mark.parametrize(("order", "seen"), [((0, 1), [0]), ((1, 0), [])])
def test_a_member_without_a_moment_is_seen_by_those_after_it(order: tuple[int, int], seen: list[int]) -> None:
    matrix, moment = gaussian(60, 32), torch.eye(32, dtype=torch.float64)
    hints = GivenHints((20, 40), (False, False), [None, moment], order=order)
    plain = at_size(codebook(codeword_length=4), matrix, 5).reconstruct()[:20]
    fed = at_size(codebook(codeword_length=4, feedback=True), matrix, 5, hints=hints).reconstruct()[:20]
    assert torch.equal(plain, fed)
    assert [index for index, _ in hints.substituted] == seen
    assert all(torch.allclose(settled, fed, atol=1e-6) for _, settled in hints.substituted)


def test_a_book_reads_back_what_it_wrote() -> None:
    matrix = gaussian(50, 31)
    book = Codebook.learn(matrix, 4, 5, 2, dtype="float16", iterations=2, seed=0)
    codes, scales = book.encode(matrix)
    fitted = at_size(codebook(codeword_length=4), matrix, 5)
    assert codes.shape == (50, 8, 2)
    assert torch.equal(book.decode(codes, scales, 31), book.decode(codes.long(), scales, 31))
    assert fitted.reconstruct().shape == (50, 31)
