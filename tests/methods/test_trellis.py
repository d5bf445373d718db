"""The trellis autoencoder: state machines, searches, entropy coding, rotation, feedback, and distance to the Gaussian bound."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from itertools import product
from math import log2, log10
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from offcomp.errors import BudgetTooSmall, InputError, StorageError
from offcomp.methods import make_method
from offcomp.methods.base import CompressedMatrix, Method
from offcomp.methods.trellis.correcting_search import correcting_search
from offcomp.methods.trellis.entropy import Tables, decode_integers, encode_integers
from offcomp.methods.trellis.fit import decoded_trellis
from offcomp.methods.trellis.latents import Block, Latents, count_magnitudes, decode_bytes, decoded_block
from offcomp.methods.trellis.machine import PARITY_CHECKS, grid_values, machine, quantizers_along, shortest_path
from offcomp.methods.trellis.plain import Plain
from offcomp.methods.trellis.rate import TOLERANCE, fill
from offcomp.methods.trellis.symbols import PRICE_PER_BIT, SymbolModel
from offcomp.numerics.accounting import Budget
from tests.synthetic_hints import GivenHints

GAP = {3: 0.85, 6: 0.6}
"""Number of state bits -> largest allowed distance to the Gaussian bound, in dB, at 1 to 2 bits per weight."""


def gaussian(rows: int, cols: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))


def trellis(**options: Any) -> Method:
    return make_method("autoencoder", {"preset": "trellis", **options})


def at_bits(method: Method, matrix: Tensor, bits: float, **how: Any) -> CompressedMatrix:
    """Fit with a budget of this many bits per entry, which includes everything stored."""
    return method.fit(matrix, Budget(int(matrix.numel() * bits / 8), "bytes"), **how)


def error(matrix: Tensor, fitted: CompressedMatrix) -> float:
    return ((matrix - fitted.reconstruct()).norm() / matrix.norm()).item()


def unused(fitted: CompressedMatrix) -> int:
    """Number of zero bytes at the end of the stored bytes."""
    stream = fitted.tensors["stream"]
    return len(stream) - 1 - int(stream.nonzero()[-1])


@pytest.mark.parametrize("num_states", PARITY_CHECKS)
def test_paths_through_a_machine_fulfil_the_parity_checks_of_its_code(num_states: int) -> None:
    h0, h1 = PARITY_CHECKS[num_states]
    memory = num_states.bit_length() - 1
    parities = torch.randint(2, (40, 60), generator=torch.Generator().manual_seed(num_states))
    coded = quantizers_along(parities.short(), machine(num_states)).long()
    for time in range(memory, 60):
        back = range(memory + 1)
        total = sum((h0 >> i & 1) * coded[:, time - i] + (h1 >> i & 1) * parities[:, time - i] for i in back)
        assert not (total % 2).any()


@pytest.mark.parametrize("num_states", PARITY_CHECKS)
def test_two_edges_of_a_machine_lead_into_each_state(num_states: int) -> None:
    automaton = machine(num_states)
    successors = automaton.successors.reshape(-1)[automaton.edges]
    assert torch.equal(successors, torch.arange(num_states).expand(2, -1))


def test_the_search_finds_the_cheapest_of_all_sequences() -> None:
    targets, contexts = 2 * gaussian(5, 5, seed=1), np.full((5, 5), 16, np.uint8)
    model = SymbolModel.initial(4)
    prices = model.prices(float(targets.abs().max()))
    found = shortest_path(targets, torch.from_numpy(contexts), prices)

    def costs(symbols: Tensor) -> Tensor:
        quantizers = quantizers_along(symbols, model.machine).long()
        magnitudes = symbols.abs().long()
        values = prices.values[quantizers, magnitudes] * symbols.sign()
        return (targets - values).square().sum(1) + PRICE_PER_BIT * prices.bits[16, quantizers, magnitudes].sum(1)

    best = torch.full((5,), torch.inf)
    for signs_and_sizes in product(range(-3, 4), repeat=5):
        best = torch.minimum(best, costs(torch.tensor(signs_and_sizes, dtype=torch.int16).expand(5, 5)))
    assert torch.all(targets.abs() < 2 * 3 + 1), "larger integers would have to be tried"
    assert torch.allclose(costs(found), best, rtol=1e-5)


def test_a_search_without_correlations_equals_the_plain_search() -> None:
    targets = 4 * gaussian(70, 64, seed=2)
    model = SymbolModel.initial(8)
    contexts, prices = torch.full((70, 64), 15, dtype=torch.uint8), model.prices(float(targets.abs().max()))
    plain = shortest_path(targets, contexts, prices)
    found = correcting_search(targets * 0.1, torch.eye(64), torch.full((64,), 0.1), contexts, prices)
    same = (found.symbols == plain).all(1)
    assert same.float().mean() > 0.95  # rounding may decide between equally cheap paths
    grid = grid_values(quantizers_along(plain, model.machine).long(), plain.abs().long()) * plain.sign()
    assert torch.allclose(found.decoded[same], 0.1 * grid[same].float(), atol=1e-5)


def integers(limit: int) -> Any:
    shapes = arrays.array_shapes(min_dims=2, max_dims=2, max_side=12)
    return arrays.arrays(np.int16, shapes, elements=st.integers(-limit, limit))


@settings(max_examples=60, deadline=None)
@given(
    blocks=st.lists(integers(3000) | integers(1), min_size=1, max_size=3),
    num_states=st.sampled_from(list(PARITY_CHECKS)),
    seed=st.integers(0, 1 << 16),
)
def test_any_integers_survive_their_code(blocks: list[Any], num_states: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    width = blocks[0].shape[1]
    made = []
    for number, symbols in enumerate(np.resize(block, (len(block), width)) for block in blocks):
        rows, cols = symbols.shape
        scales = random.integers(-127, 128, cols) if number else np.zeros(cols, np.int64)
        made.append(Block(symbols, random.integers(-120, 121, rows), random.integers(-120, 121, cols), 0.5 + number, scales))
    values = random.normal(size=(2, 12)).astype(np.float16)
    total = sum(block.symbols.size for block in made)
    positions = np.unique(random.integers(0, total, 3))
    latents = Latents(made, values, num_states, (positions, np.full(len(positions), 100.0, np.float32)))
    decoded = decode_bytes(np.concatenate([latents.to_bytes(), np.zeros(5, np.uint8)]))
    expected = torch.cat(
        [decoded_block(block, block.symbols, found, values) for block, found in zip(made, latents.quantizers(), strict=True)]
    )
    expected.view(-1)[torch.from_numpy(positions)] = 100.0
    assert torch.equal(decoded, expected)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-200, 200), max_size=50))
def test_lists_of_small_integers_survive_their_code(values: list[int]) -> None:
    assert decode_integers(*encode_integers(np.array(values, np.int64))).tolist() == values


def test_the_code_is_as_long_as_its_tables_say_to_a_thousandth() -> None:
    matrix = gaussian(600, 300)
    plain = Plain(matrix, 8)
    block = plain.block(plain.step_at(matrix.numel() / 4))
    nothing = (np.zeros(0, np.int64), np.zeros(0, np.float32))
    latents = Latents([block], plain.model.values, 8, nothing)
    tables = [2 * block.contexts.astype(np.int16) + latents.quantizers()[0]]
    counts = count_magnitudes([block.symbols], tables).astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nansum(counts * np.log2(counts / counts.sum(1, keepdims=True)))
    ideal = entropy + counts[:, 1:].sum()  # one bit for each sign
    side = 8 * (len(Tables.of_counts(counts).to_bytes()) + 12 * 2 * 2 + 200) + 5 * sum(matrix.shape)
    assert ideal < 8 * len(latents.to_bytes()) < 1.001 * ideal + side


@pytest.mark.parametrize("state_bits", GAP)
@pytest.mark.parametrize("bits", [1.0, 1.5, 2.0])
def test_the_error_is_close_to_the_bound_for_gaussian_weights(bits: float, state_bits: int) -> None:
    matrix = gaussian(1500, 400)
    fitted = at_bits(trellis(state_bits=state_bits), matrix, bits)
    rate = 8 * fitted.stored.num_bytes / matrix.numel()
    gap = 10 * log10(error(matrix, fitted) ** 2 * 2 ** (2 * rate))
    assert 0 < gap < GAP[state_bits]


def test_more_states_lower_the_error() -> None:
    matrix = gaussian(500, 200)
    errors = [error(matrix, at_bits(trellis(state_bits=bits), matrix, 1.5)) for bits in (2, 3, 4, 6)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("bits", [0.5, 1.0, 3.0, 6.0])
def test_next_to_nothing_of_the_budget_is_padding(bits: float) -> None:
    fitted = at_bits(trellis(), gaussian(700, 200), bits)
    assert unused(fitted) <= max(4 * TOLERANCE * fitted.stored.num_bytes, 30)


def test_tall_matrices_with_correlated_columns_are_rotated_and_others_are_not() -> None:
    mixing = gaussian(48, 48, seed=1) * torch.logspace(0, -1.5, 48)
    correlated, white = gaussian(4000, 48) @ mixing.T, gaussian(4000, 48)
    auto, on, off = trellis(), trellis(rotation="on"), trellis(rotation="off")
    assert error(correlated, at_bits(auto, correlated, 1.0)) < 0.8 * error(correlated, at_bits(off, correlated, 1.0))
    assert torch.equal(at_bits(auto, correlated, 1.0).tensors["stream"], at_bits(on, correlated, 1.0).tensors["stream"])
    assert torch.equal(at_bits(auto, white, 1.0).tensors["stream"], at_bits(off, white, 1.0).tensors["stream"])


def test_outliers_are_exact() -> None:
    matrix = gaussian(300, 200)
    matrix[7, 11], matrix[250, 3] = 500.0, -80.0
    restored = at_bits(trellis(), matrix, 1.5).reconstruct()
    assert restored[7, 11] == 500.0
    assert restored[250, 3] == -80.0
    assert ((matrix - restored)[:7].norm() / matrix[:7].norm()).item() < 0.5


def test_zeros_and_single_values_are_coded() -> None:
    matrix = torch.zeros(400, 60)
    assert torch.equal(at_bits(trellis(), matrix, 1.0).reconstruct(), matrix)
    matrix[3, 5] = 2.0
    assert torch.allclose(at_bits(trellis(), matrix, 1.0).reconstruct(), matrix, atol=1e-3)


def test_values_that_are_not_finite_are_refused() -> None:
    matrix = gaussian(100, 50)
    matrix[3, 4] = torch.nan
    with pytest.raises(InputError, match="not finite"):
        at_bits(trellis(), matrix, 2.0)


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 400), value=st.integers(0, 255), cut=st.integers(0, 3000))
def test_damaged_bytes_decode_to_something_or_are_refused(place: int, value: int, cut: int) -> None:
    stream = damageable().tensors["stream"].clone()
    stream[place] = value
    with suppress(StorageError):
        assert decoded_trellis({"stream": stream[: len(stream) - cut]}).dtype == torch.float32


@cache
def damageable() -> CompressedMatrix:
    matrix = gaussian(120, 100)
    matrix[5, 6] = 90.0
    return at_bits(trellis(), matrix, 2.0)


def test_a_budget_below_the_smallest_rate_is_refused() -> None:
    with pytest.raises(BudgetTooSmall, match="lower the ratio by a factor of"):
        at_bits(trellis(), gaussian(100, 50), 0.1)


@pytest.mark.parametrize("limit", [900.0, 1000.0, 30.0])
def test_the_step_is_found_at_which_a_code_fills_the_limit(limit: float) -> None:
    lengths: list[float] = []

    def attempt(step: float) -> tuple[float, float]:
        lengths.append(100 * max(0.0, 12 - 0.9 * log2(step)) + 20)
        return lengths[-1], step

    found = fill(attempt, 1.0, limit, 800, attempts=8)
    assert found
    assert found[0] == found[1]
    length = 100 * max(0.0, 12 - 0.9 * log2(found[0])) + 20
    assert length <= limit
    assert length >= (1 - TOLERANCE) * limit or limit < 100


def correlated_inputs(tokens: int, width: int, seed: int = 0) -> Tensor:
    """Inputs (tokens, width) in which few directions hold most of the energy."""
    return gaussian(tokens, width, seed) @ (gaussian(width, width, seed + 1) * torch.logspace(0, -1.5, width)).T


def second_moment(inputs: Tensor, others: Tensor | None = None) -> Tensor:
    return inputs.double().T @ (inputs if others is None else others).double() / len(inputs)


@pytest.mark.parametrize("column_steps", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_feedback_lowers_the_output_error_of_each_member(transposed: bool, column_steps: bool) -> None:
    inputs = correlated_inputs(3000, 80)
    members = [gaussian(96, 80, 5), gaussian(96, 80, 6)]
    stacked = torch.cat([member.T if transposed else member for member in members])
    moment, height = second_moment(inputs), len(stacked) // 2
    hints = GivenHints((height,) * 2, (transposed,) * 2, [moment, moment], order=(1, 0))
    fed = at_bits(trellis(feedback=True, column_steps=column_steps), stacked, 2.0, hints=hints)
    for plain_part, part, member in zip(
        at_bits(trellis(), stacked, 2.0).reconstruct().split(height), fed.reconstruct().split(height), members, strict=True
    ):
        before, after = ((inputs @ (member - (each.T if transposed else each)).T).norm().item() for each in (plain_part, part))
        assert after < 0.8 * before
    assert hints.followed
    assert [index for index, _ in hints.substituted] == [1]  # no member follows the last one
    assert torch.allclose(hints.substituted[0][1], fed.reconstruct().split(height)[1], atol=1e-5)
    assert unused(fed) <= max(0.004 * fed.stored.num_bytes, 40)


def test_feedback_with_white_inputs_costs_little() -> None:
    matrix = gaussian(200, 100)
    hints = GivenHints((200,), (False,), [torch.eye(100, dtype=torch.float64)])
    fed = at_bits(trellis(feedback=True), matrix, 2.0, hints=hints)
    assert error(matrix, fed) < 1.03 * error(matrix, at_bits(trellis(), matrix, 2.0))


def test_the_outputs_of_the_original_are_the_target() -> None:
    inputs, matrix = correlated_inputs(3000, 80), gaussian(96, 80, 5)
    changed = inputs @ (0.8 * torch.eye(80) + 0.02 * gaussian(80, 80, 7))
    outputs, errors = inputs @ matrix.T, {}
    for toward_original in (False, True):
        hints = GivenHints((96,), (False,), [second_moment(changed)], cross=second_moment(inputs, changed))
        fed = at_bits(trellis(feedback=True, toward_original=toward_original), matrix, 3.0, hints=hints)
        assert hints.kept is toward_original
        errors[toward_original] = (outputs - changed @ fed.reconstruct().T).norm().item()
    assert errors[True] < 0.5 * errors[False]


def test_embeddings_among_other_members_are_coded_without_feedback_and_seen_by_those_after_them() -> None:
    matrix, moment = gaussian(120, 60), torch.eye(60, dtype=torch.float64)
    hints = GivenHints((50, 70), (False, False), [None, moment])
    fed = at_bits(trellis(feedback=True), matrix, 2.0, hints=hints)
    assert [index for index, _ in hints.substituted] == [0]
    assert torch.allclose(hints.substituted[0][1], fed.reconstruct()[:50], atol=1e-6)
    assert error(matrix, fed) < 0.4


def test_a_group_of_embeddings_alone_is_coded_as_without_text() -> None:
    matrix = gaussian(120, 60)
    fed = at_bits(trellis(feedback=True), matrix, 2.0, hints=GivenHints((120,), (False,), [None]))
    assert torch.equal(fed.tensors["stream"], at_bits(trellis(), matrix, 2.0).tensors["stream"])
