"""Tensors survive packing into a storage dtype and unpacking, to the precision of the dtype."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from offcomp.errors import InputError
from offcomp.numerics.accounting import STORAGE_DTYPES, storage_layout
from offcomp.numerics.storage import INT8_LEVELS, num_not_finite, pack, unpack


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def round_trip(value: Tensor, dtype: str) -> Tensor:
    return unpack(pack({"value": value}, dtype))["value"]


@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
def test_packed_tensors_follow_the_storage_layout_and_unpack_to_the_same_names(dtype: str) -> None:
    tensors = {"latents": randn(5, 3), "bias": randn(3), "decoder.0.weight": randn(4, 3)}
    stored = pack(tensors, dtype)
    layout = {name: (tuple(value.shape), str(value.dtype).removeprefix("torch.")) for name, value in stored.items()}
    assert layout == storage_layout({name: tuple(value.shape) for name, value in tensors.items()}, dtype)
    restored = unpack(stored)
    assert {name: value.shape for name, value in restored.items()} == {n: v.shape for n, v in tensors.items()}
    assert all(value.dtype == torch.float32 for value in restored.values())


def test_float32_round_trip_is_exact_with_negative_zero_and_extremes() -> None:
    value = torch.tensor([[-0.0, 0.0, -3.4e38, 1e-45, 3.4e38]])
    assert torch.equal(round_trip(value, "float32").view(torch.int32), value.view(torch.int32))


def test_float16_round_trip_errs_by_half_a_unit_in_the_last_place_at_most() -> None:
    value = randn(50, 20) * 100
    error = (round_trip(value, "float16") - value).abs()
    assert (error <= value.abs() * 2**-11 + 2**-25).all()
    assert error.max() > 0


def test_float16_keeps_negative_zero_and_flushes_tiny_values() -> None:
    restored = round_trip(torch.tensor([[-0.0, 1e-30, -1e-30]]), "float16")
    assert restored.tolist() == [[0.0, 0.0, 0.0]]
    assert restored.signbit().tolist() == [[True, False, True]]


def test_the_largest_float16_number_fits_and_the_next_power_of_two_does_not() -> None:
    assert round_trip(torch.tensor([65504.0]), "float16").item() == 65504
    with pytest.raises(InputError) as raised:
        pack({"left": torch.tensor([[1.0, -65536.0]])}, "float16")
    for part in ("left", "6.55e+04", "65504", "float32"):
        assert part in str(raised.value)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
def test_a_value_that_is_not_finite_is_refused_where_it_cannot_be_kept(dtype: str, value: float) -> None:
    with pytest.raises(InputError, match="weight"):
        pack({"weight": torch.tensor([[1.0, value], [2.0, 3.0]])}, dtype)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 12),
    cols=st.integers(1, 12),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([1e-30, 1e-6, 1.0, 1e4, 1e30]),
)
def test_int8_errs_by_half_a_step_of_its_row_at_most(rows: int, cols: int, seed: int, scale: float) -> None:
    value = randn(rows, cols, seed=seed) * scale
    value *= torch.linspace(0.01, 1.0, rows)[:, None]  # rows of different scale have steps of different size
    stored = pack({"value": value}, "int8")
    step = value.double().abs().amax(1, keepdim=True) / INT8_LEVELS
    error = (unpack(stored)["value"].double() - value.double()).abs()
    assert (error <= step * (0.5 + 1e-4)).all()
    assert stored["value"].abs().max() == INT8_LEVELS
    assert stored["value"].min() >= -INT8_LEVELS


def test_int8_hits_the_largest_entry_of_every_row() -> None:
    value = randn(30, 8)
    index = value.abs().argmax(1, keepdim=True)
    restored = round_trip(value, "int8")
    torch.testing.assert_close(restored.gather(1, index), value.gather(1, index), rtol=1e-6, atol=0)


def test_int8_keeps_zero_rows_at_zero_among_others() -> None:
    value = torch.tensor([[0.0, -0.0], [1.0, -0.5], [0.0, 0.0]])
    restored = round_trip(value, "int8")
    assert restored.isfinite().all()
    assert not restored[[0, 2]].any()
    torch.testing.assert_close(restored[1], value[1], rtol=0, atol=0.5 / INT8_LEVELS + 1e-7)


def test_int8_survives_values_below_the_smallest_normal_number() -> None:
    value = torch.tensor([[1e-39, -1e-40], [1e-45, 0.0]])
    restored = round_trip(value, "int8")
    assert restored.isfinite().all()
    assert (restored - value).abs().max() <= torch.finfo(torch.float32).tiny / INT8_LEVELS


def test_int8_leaves_vectors_exact() -> None:
    value = randn(9)
    assert torch.equal(round_trip(value, "int8"), value)


def test_packing_int8_twice_changes_nothing_more() -> None:
    once = pack({"value": randn(20, 6)}, "int8")
    twice = pack(unpack(once), "int8")
    assert torch.equal(once["value"], twice["value"])
    torch.testing.assert_close(once["value.scale"], twice["value.scale"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
def test_packing_takes_views_and_parameters_and_leaves_them_alone(dtype: str) -> None:
    parameter = torch.nn.Parameter(randn(6, 4))
    copy = parameter.detach().clone()
    stored = pack({"view": parameter.T}, dtype)
    assert all(value.is_contiguous() and not value.requires_grad for value in stored.values())
    assert torch.equal(parameter, copy)
    torch.testing.assert_close(unpack(stored)["view"], copy.T, rtol=0, atol=0.02)


@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
def test_bfloat16_tensors_can_be_packed(dtype: str) -> None:
    value = randn(4, 5).bfloat16()
    torch.testing.assert_close(round_trip(value, dtype), value.float(), rtol=0, atol=0.02)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (1000, 3), (3, 400_000), (2, 3, 4)])
def test_values_that_are_not_finite_are_counted_in_any_shape(shape: tuple[int, ...]) -> None:
    values = torch.ones(shape)
    assert num_not_finite(values) == 0
    values.view(-1)[-1] = float("nan")
    assert num_not_finite(values) == 1
    values.view(-1)[0] = float("inf")
    assert num_not_finite(values) == min(2, values.numel())
    if len(shape) == 2:
        assert num_not_finite(values.T) == min(2, values.numel())
