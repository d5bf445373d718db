"""Sizes, budgets and layouts are exact integers."""

from __future__ import annotations

import subprocess
import sys
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offcomp.numerics.accounting import (
    BYTES_PER_ELEMENT,
    STORAGE_DTYPES,
    UNITS,
    Budget,
    Codes,
    Shapes,
    Size,
    budget_for_ratio,
    largest_size_within,
    storage_layout,
    stored_size,
)
from offcomp.numerics.bits import pack_bits

SHAPES: Shapes = {"latents": (10, 3), "bias": (7,), "weight": (7, 3)}


def test_float_layouts_keep_every_tensor_in_the_storage_dtype() -> None:
    for dtype in ("float32", "float16"):
        assert storage_layout(SHAPES, dtype) == {name: (shape, dtype) for name, shape in SHAPES.items()}


def test_int8_layout_gives_matrices_codes_and_a_scale_a_row_and_keeps_vectors_in_float32() -> None:
    assert storage_layout(SHAPES, "int8") == {
        "latents": ((10, 3), "int8"),
        "latents.scale": ((10,), "float32"),
        "bias": ((7,), "float32"),
        "weight": ((7, 3), "int8"),
        "weight.scale": ((7,), "float32"),
    }


@pytest.mark.parametrize(
    "dtype, expected",
    [
        ("float32", Size(30 + 7 + 21, 4 * 58)),
        ("float16", Size(58, 2 * 58)),
        ("int8", Size(58 + 10 + 7, 51 + 4 * (7 + 10 + 7))),
    ],
)
def test_stored_sizes_worked_out_by_hand(dtype: str, expected: Size) -> None:
    assert stored_size(SHAPES, dtype) == expected


def test_nothing_stored_is_size_zero() -> None:
    assert stored_size({}, "int8") == Size(0, 0)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=4), st.lists(st.integers(0, 9), min_size=1, max_size=2).map(tuple)),
    st.sampled_from(STORAGE_DTYPES),
)
def test_a_stored_size_is_the_sum_over_its_layout(shapes: Shapes, dtype: str) -> None:
    layout = storage_layout(shapes, dtype)
    size = stored_size(shapes, dtype)
    assert size.num_parameters == sum(prod(shape) for shape, _ in layout.values())
    assert size.num_bytes == sum(prod(shape) * BYTES_PER_ELEMENT[stored] for shape, stored in layout.values())
    matrices = [shape for shape in shapes.values() if len(shape) == 2]
    scales = sum(rows for rows, _ in matrices) if dtype == "int8" else 0
    assert size.num_parameters == sum(prod(shape) for shape in shapes.values()) + scales
    assert len(layout) == len(shapes) + (len(matrices) if dtype == "int8" else 0)


def test_sizes_add_up_and_are_read_in_either_unit() -> None:
    total = Size(3, 12) + Size(4, 5)
    assert total == Size(7, 17)
    assert [total.in_unit(unit) for unit in UNITS] == [7, 17]


@pytest.mark.parametrize("unit, limit, admitted", [("parameters", 58, True), ("parameters", 57, False)])
def test_a_budget_admits_up_to_its_limit(unit: str, limit: int, admitted: bool) -> None:
    assert Budget(limit, unit, "float32").admits(SHAPES) is admitted


def test_a_budget_in_bytes_depends_on_the_storage_dtype() -> None:
    assert not Budget(2 * 58, "bytes", "float32").admits(SHAPES)
    assert Budget(2 * 58, "bytes", "float16").admits(SHAPES)
    assert not Budget(2 * 58 - 1, "bytes", "float16").admits(SHAPES)


@pytest.mark.parametrize(
    "original, ratio, limit",
    [
        (1100, 1.1, 1000),
        (690, 2.3, 300),
        (21, 2.1, 10),
        (589824, 10.0, 58982),
        (589824, 1.0, 589824),
        (10, 3.0, 3),
        (10, 11.0, 0),
        (3, 1e-1, 30),
    ],
)
def test_the_budget_of_a_ratio_is_the_floor_of_the_decimal_division(original: int, ratio: float, limit: int) -> None:
    assert budget_for_ratio(Size(original, 4 * original), ratio, "parameters", "int8") == Budget(limit, "parameters", "int8")


def test_the_budget_of_a_ratio_is_in_the_unit_asked_for() -> None:
    assert budget_for_ratio(Size(100, 400), 2.5, "bytes", "float16") == Budget(160, "bytes", "float16")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(0, 10**10), st.integers(100, 100_000))
def test_a_ratio_with_two_decimals_divides_like_whole_numbers(original: int, hundredths: int) -> None:
    ratio = hundredths / 100  # the float nearest to the decimal, as the app's input field returns it
    budget = budget_for_ratio(Size(original, 0), ratio, "parameters", "float32")
    assert budget.limit == original * 100 // hundredths


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 40),
    cols=st.integers(1, 40),
    limit=st.integers(0, 4000),
    largest=st.integers(0, 45),
    unit=st.sampled_from(UNITS),
    dtype=st.sampled_from(STORAGE_DTYPES),
)
def test_the_largest_size_within_a_budget_equals_trying_all(
    *, rows: int, cols: int, limit: int, largest: int, unit: str, dtype: str
) -> None:
    def shapes_of(size: int) -> Shapes:
        return {"left": (rows, size), "hidden": (size, size), "right": (size, cols), "bias": (cols,)}

    budget = Budget(limit, unit, dtype)
    tried = [size for size in range(1, largest + 1) if budget.admits(shapes_of(size))]
    assert largest_size_within(budget, shapes_of, range(1, largest + 1)) == max(tried, default=None)


def test_the_largest_size_is_found_without_asking_for_size_zero_or_beyond_the_largest() -> None:
    asked: list[int] = []

    def shapes_of(size: int) -> Shapes:
        asked.append(size)
        return {"matrix": (size, 1)}

    assert largest_size_within(Budget(10**9), shapes_of, range(1, 1001)) == 1000
    assert largest_size_within(Budget(0), shapes_of, range(1, 1001)) is None
    assert min(asked) == 1
    assert max(asked) == 1000
    assert len(asked) <= 20


def test_importing_the_accounting_loads_no_torch() -> None:
    code = "import sys, offcomp.numerics.accounting; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("bits", [1, 3, 8])
@pytest.mark.parametrize("count", [1, 7, 8, 16, 24, 25])
def test_codes_take_the_bytes_that_packing_takes_and_count_one_parameter_each(count: int, bits: int) -> None:
    packed = pack_bits(torch.zeros(count, dtype=torch.int64), bits)
    assert Codes(count, bits).shape == tuple(packed.shape)
    for dtype in STORAGE_DTYPES:
        assert stored_size({"codes": Codes(count, bits)}, dtype) == Size(count, packed.numel())
