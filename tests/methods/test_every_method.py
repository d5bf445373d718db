"""Every method fulfils the contract, handles degenerate matrices, and can be created from its name and options."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from offcomp.errors import BudgetTooSmall, InputError
from offcomp.methods import METHODS, default_options, make_method, method_class, method_of_style_key, own_options, presets_of
from offcomp.methods.base import Method, choose_size, dense_shapes
from offcomp.methods.decoders import DECODERS
from offcomp.numerics.accounting import STORAGE_DTYPES, UNITS, Budget, storage_layout, stored_size
from tests.method_contract import MethodContract, covering, layout_of, share_of_dense, variants
from tests.synthetic_hints import with_hints

STYLE_KEYS = [method.style_key for method in METHODS]
LARGEST_HALF = torch.finfo(torch.float16).max


@pytest.fixture
def method(request: pytest.FixtureRequest) -> Method:
    """The method of a case, with hints if it needs them."""
    name, options = request.param
    return with_hints(make_method(name, options))


CLOSED_FORMS = [
    parameter.values[0]
    for parameter in variants()
    if parameter.values[0][0] in ("kronecker", "tucker", "pruning", "quantization")
    and not make_method(*parameter.values[0]).calibrated
]


class TestEveryMethod(MethodContract):
    """The whole contract, for every method."""


@pytest.mark.parametrize("style_key", STYLE_KEYS)
def test_the_contract_meets_every_method_in_every_dtype_and_unit(style_key: str) -> None:
    met = [case.values[1:] for case in covering(2) if case.id.partition("-")[0] == style_key]
    for index, values in enumerate((STORAGE_DTYPES, UNITS)):
        assert {pair[index] for pair in met} == {*values}


# Degenerate matrices


@st.composite
def degenerate_matrices(draw: st.DrawFn) -> Tensor:
    """Draw a zero, rank-one, constant, thin, wide, tiny or large matrix."""
    shape = st.sampled_from([(1, 9), (9, 1), (1, 1), (2, 2), (3, 70), (70, 3), (24, 16), (16, 24), (19, 11), (40, 40)])
    rows, cols = draw(shape)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    entries = torch.randn(rows, cols, generator=generator)
    kind = draw(st.sampled_from(["full", "zero", "zero rows", "zero columns", "rank one", "constant", "single entry"]))
    if kind == "zero":
        entries.zero_()
    elif kind == "zero rows":
        entries[: draw(st.integers(1, rows))] = 0
    elif kind == "zero columns":
        entries[:, : draw(st.integers(1, cols))] = 0
    elif kind == "rank one":
        entries = entries[:, :1] @ entries[:1]
    elif kind == "constant":
        entries.fill_(1.0)
    elif kind == "single entry":
        entries.zero_()[draw(st.integers(0, rows - 1)), draw(st.integers(0, cols - 1))] = -1.0
    return entries * draw(st.sampled_from([1.0, 1e-30, 1e4]))


def fit_or_none(method: Method, matrix: Tensor, budget: Budget) -> Any:
    """The compressed matrix, or None if `fit` finds the budget too small, which is then verified."""
    try:
        return method.fit(matrix, budget)
    except BudgetTooSmall:
        assert not budget.admits(method.tensor_shapes(*matrix.shape, method.sizes(*matrix.shape).start))
        assert not budget.admits(dense_shapes(*matrix.shape))
        return None


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    matrix=degenerate_matrices(),
    share=st.floats(0.2, 1.1),
    unit=st.sampled_from(UNITS),
    dtype=st.sampled_from(STORAGE_DTYPES),
)
def test_svd_of_a_degenerate_matrix_is_finite_and_its_error_is_the_tail_of_the_spectrum(
    matrix: Tensor, share: float, unit: str, dtype: str
) -> None:
    budget = share_of_dense(share, unit, dtype, *matrix.shape)
    compressed = fit_or_none(make_method("svd", {}), matrix, budget)
    if compressed is None:
        return
    assert compressed.stored.in_unit(unit) <= budget.limit
    reconstruction = compressed.reconstruct().double()
    assert reconstruction.isfinite().all()
    spectrum = torch.linalg.svdvals(matrix.double())
    tail = spectrum[compressed.size :].norm() if compressed.size else torch.zeros(())
    # Factors are rounded by 2^-11 in float16, by 2^-8 in bfloat16, by half of 1/127 in int8; 1e-30 underflows in float16.
    slack = {"float32": 1e-6, "float16": 2e-3, "bfloat16": 1.6e-2, "int8": 0.05}[dtype]
    slack = slack if spectrum[0] > 1e-20 or dtype == "float32" else 1.0
    error = (matrix.double() - reconstruction).norm()
    assert abs(error - tail) <= slack * (1 + 1e-9) * spectrum.norm()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    matrix=degenerate_matrices(),
    share=st.floats(0.4, 1.1),
    unit=st.sampled_from(UNITS),
    networks=st.sampled_from([("linear", "linear"), ("nonlinear", "nonlinear"), ("nonlinear", "linear")]),
    enforce_norm=st.booleans(),
)
def test_an_autoencoder_of_a_degenerate_matrix_is_finite_and_within_budget(
    matrix: Tensor, share: float, unit: str, networks: tuple[str, str], enforce_norm: bool
) -> None:
    encoder, decoder = networks
    options = {"epochs": 1, "encoder": encoder, "decoder": decoder, "enforce_norm": enforce_norm}
    budget = share_of_dense(share, unit, "float32", *matrix.shape)
    compressed = fit_or_none(make_method("autoencoder", options), matrix, budget)
    if compressed is None:
        return
    assert compressed.stored.in_unit(unit) <= budget.limit
    reconstruction = compressed.reconstruct()
    assert reconstruction.isfinite().all()
    assert all(loss >= 0 for loss in compressed.history)  # this also excludes NaN
    if compressed.size and enforce_norm:
        assert not reconstruction[(matrix == 0).all(1)].any()


@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
@pytest.mark.parametrize("rows, cols", [(19, 11), (11, 19), (36, 15), (44, 17), (52, 33), (59, 35)])
def test_svd_of_a_constant_matrix_is_nearly_exact_in_every_storage_dtype(rows: int, cols: int, dtype: str) -> None:
    matrix = torch.ones(rows, cols)
    compressed = make_method("svd", {}).fit(matrix, share_of_dense(0.99, "parameters", dtype, rows, cols))
    assert compressed.decoder == "low_rank"
    torch.testing.assert_close(compressed.reconstruct(), matrix, rtol=0, atol=0.02)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    matrix=degenerate_matrices(),
    share=st.floats(0.2, 1.1),
    unit=st.sampled_from(UNITS),
    dtype=st.sampled_from(STORAGE_DTYPES),
    variant=st.sampled_from(CLOSED_FORMS),
)
def test_a_closed_form_of_a_degenerate_matrix_is_finite_within_budget_and_no_worse_than_zeros(
    matrix: Tensor, share: float, unit: str, dtype: str, variant: tuple[str, dict[str, Any]]
) -> None:
    assume(dtype != "float16" or matrix.abs().max() < LARGEST_HALF)
    budget = share_of_dense(share, unit, dtype, *matrix.shape)
    method = make_method(*variant)
    compressed = fit_or_none(method, matrix, budget)
    if compressed is None:
        return
    assert compressed.stored.in_unit(unit) <= budget.limit
    if compressed.size:
        shapes = method.tensor_shapes(*matrix.shape, compressed.size)
        assert layout_of(compressed) == storage_layout(shapes, dtype)
    reconstruction = compressed.reconstruct().double()
    assert reconstruction.isfinite().all()
    error, norm = (matrix.double() - reconstruction).norm(), matrix.double().norm()
    # Rounding factors that nearly cancel can make the error exceed the norm: by 6 % in one of several thousand examples.
    assert error <= norm * {"float32": 1 + 1e-5, "float16": 1.01, "bfloat16": 1.05, "int8": 1.1}[dtype]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 400),
    cols=st.integers(1, 400),
    share=st.floats(0.0, 1.5),
    unit=st.sampled_from(UNITS),
    dtype=st.sampled_from(STORAGE_DTYPES),
    variant=st.sampled_from([parameter.values[0] for parameter in variants()]),
)
def test_the_chosen_size_is_the_largest_that_fits(
    *, rows: int, cols: int, share: float, unit: str, dtype: str, variant: tuple[str, dict[str, Any]]
) -> None:
    method = make_method(*variant)
    budget = share_of_dense(share, unit, dtype, rows, cols)
    try:
        size = choose_size(method, rows, cols, budget)
    except BudgetTooSmall:
        size = None
    tried = sizes_to_try(method.sizes(rows, cols), size or 0)
    fitting = [s for s in tried if budget.admits(method.tensor_shapes(rows, cols, s))]
    if budget.admits(dense_shapes(rows, cols)):
        assert size == 0
    else:
        assert size == (fitting[-1] if fitting else None)
        assert fitting == tried[: len(fitting)]


def sizes_to_try(sizes: range, chosen: int) -> list[int]:
    """All sizes of a short range; of a long one both ends, the neighbours of the chosen size, and an even sample."""
    if len(sizes) <= 1000:
        return list(sizes)
    near = range(chosen - 5, chosen + 6)
    return sorted({*sizes[:5], *sizes[-5:], *sizes[:: len(sizes) // 200], *(s for s in near if s in sizes)})


def test_a_dense_int8_matrix_counts_its_scales() -> None:
    compressed = make_method("svd", {}).fit(torch.ones(6, 4), Budget(30, "parameters", "int8"))
    assert compressed.decoder == "dense"
    assert compressed.stored == stored_size(dense_shapes(6, 4), "int8")
    assert (compressed.stored.num_parameters, compressed.stored.num_bytes) == (6 * 4 + 6, 6 * 4 + 4 * 6)


# Names and options


def test_style_keys_of_methods_and_names_of_forms_are_unique() -> None:
    assert len(set(STYLE_KEYS)) == len(STYLE_KEYS)
    assert len({form.__name__ for form in DECODERS}) == len(DECODERS)


@pytest.mark.parametrize("style_key", STYLE_KEYS)
def test_a_style_key_and_the_name_and_preset_of_a_method_lead_to_the_same_class(style_key: str) -> None:
    method = method_of_style_key(style_key)
    assert method.style_key == style_key
    presets = presets_of(method) or (None,)
    assert all(method_class(method.name, preset) is method for preset in presets)
    assert type(make_method(method.name, own_options(method))) is method


def test_members_of_a_family_share_no_preset() -> None:
    for name in {method.name for method in METHODS}:
        presets = [preset for method in METHODS if method.name == name for preset in presets_of(method)]
        assert len(set(presets)) == len(presets)
        assert len(presets) >= sum(method.name == name for method in METHODS) or not presets


def test_an_unknown_style_key_is_named_with_the_known_ones() -> None:
    with pytest.raises(InputError) as raised:
        method_of_style_key("banaei")
    assert "'banaei'" in str(raised.value)
    assert all(style_key in str(raised.value) for style_key in STYLE_KEYS)


def test_importing_the_methods_loads_no_torch() -> None:
    code = "import sys, offcomp.methods; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("method", METHODS, ids=STYLE_KEYS)
def test_a_method_says_what_it_is_and_where_it_comes_from(method: type[Method]) -> None:
    for text in (method.title, method.paper, method.size_name, method.__doc__):
        assert text and text.strip()


@pytest.mark.parametrize("method", METHODS, ids=STYLE_KEYS)
def test_default_options_are_the_defaults_of_the_dataclass(method: Any) -> None:
    defaults = default_options(method.name, own_options(method).get("preset"))
    assert defaults == {option.name: getattr(method(), option.name) for option in fields(method)}
    assert make_method(method.name, defaults) == method() == make_method(method.name, own_options(method))


@pytest.mark.parametrize("method", METHODS, ids=STYLE_KEYS)
def test_every_option_has_a_help_sentence_and_a_default_that_it_allows(method: Any) -> None:
    for option in fields(method):
        assert option.metadata["help"].endswith("."), option.name
        assert len(option.metadata["help"].split()) >= 3, option.name
        if "choices" in option.metadata:
            assert option.default in option.metadata["choices"]
        if "range" in option.metadata:
            low, high = option.metadata["range"]
            assert low <= option.default <= high
        if isinstance(option.default, (int, float)) and not isinstance(option.default, bool):
            assert "range" in option.metadata, f"{option.name} is a number without a range"


@pytest.mark.parametrize("method", METHODS, ids=STYLE_KEYS)
def test_a_method_is_frozen(method: type[Method]) -> None:
    with pytest.raises(FrozenInstanceError):
        method().epochs = 3  # type: ignore[attr-defined]


def test_options_reach_the_method() -> None:
    options = {"epochs": 7, "encoder": "linear", "learning_rate": 0.5, "enforce_norm": False}
    method = make_method("autoencoder", options)
    assert {key: getattr(method, key) for key in options} == options


def test_a_whole_number_will_do_for_a_float_option() -> None:
    assert make_method("autoencoder", {"learning_rate": 1}) == make_method("autoencoder", {"learning_rate": 1.0})


@pytest.mark.parametrize("make", [lambda name: make_method(name, {}), method_class, default_options])
def test_an_unknown_method_is_named_with_the_known_ones(make: Any) -> None:
    with pytest.raises(InputError) as raised:
        make("svdd")
    assert "'svdd'" in str(raised.value)
    for method in METHODS:
        assert method.name in str(raised.value)


@pytest.mark.parametrize(
    "name, option, value, parts",
    [
        ("svd", "rank", 3, ["'svd'", "'rank'", "its options are preset, row_metric"]),
        ("autoencoder", "epoch", 3, ["'autoencoder'", "'epoch'", "epochs", "batch_size"]),
        ("autoencoder", "epochs", True, ["'epochs'", "True", "int"]),
        ("autoencoder", "epochs", 3.0, ["'epochs'", "3.0", "int"]),
        ("autoencoder", "epochs", "3", ["'epochs'", "'3'", "int"]),
        ("autoencoder", "epochs", None, ["'epochs'", "None", "int"]),
        ("autoencoder", "learning_rate", "fast", ["'learning_rate'", "'fast'", "float"]),
        ("autoencoder", "learning_rate", False, ["'learning_rate'", "False", "float"]),
        ("autoencoder", "enforce_norm", 1, ["'enforce_norm'", "1", "bool"]),
        ("autoencoder", "encoder", 1, ["'encoder'", "1", "str"]),
        ("autoencoder", "epochs", 0, ["'epochs'", " 0;", "between 1 and 1000"]),
        ("autoencoder", "epochs", 1001, ["'epochs'", "1001", "between 1 and 1000"]),
        ("autoencoder", "batch_size", -1, ["'batch_size'", "-1", "between 1 and 65536"]),
        ("autoencoder", "learning_rate", 0.0, ["'learning_rate'", "0.0", "1e-06"]),
        ("autoencoder", "learning_rate", float("nan"), ["'learning_rate'", "nan", "1e-06"]),
        ("autoencoder", "cosine_weight", float("inf"), ["'cosine_weight'", "inf", "1000.0"]),
        ("autoencoder", "encoder", "convolutional", ["'encoder'", "'convolutional'", "linear, nonlinear"]),
        ("autoencoder", "preset", "Banaei2023", ["'preset'", "'Banaei2023'", "banaei2023"]),
    ],
)
def test_a_wrong_option_is_refused_with_its_value_and_what_is_allowed(
    name: str, option: str, value: Any, parts: list[str]
) -> None:
    with pytest.raises(InputError) as raised:
        make_method(name, {option: value})
    for part in parts:
        assert part in str(raised.value)


@pytest.mark.parametrize("method", METHODS, ids=STYLE_KEYS)
def test_both_ends_of_every_range_and_every_choice_are_allowed(method: Any) -> None:
    for option in fields(method):
        for value in (*option.metadata.get("choices", ()), *option.metadata.get("range", ())):
            made = make_method(method.name, own_options(method) | {option.name: value})
            assert getattr(made, option.name) == value
