"""Every predicted size equals that of the tensors that are actually stored."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from offcomp.errors import BudgetTooSmall
from offcomp.methods import make_method
from offcomp.models.catalogue import ModelInfo
from offcomp.numerics.accounting import BYTES_PER_ELEMENT, STORAGE_DTYPES, UNITS, stored_size
from offcomp.planning.plan import Group, Plan, members
from offcomp.planning.sizes import GroupPrediction, predict, predict_group
from offcomp.runs.compress import CompressedGroup, compress_group, save_group
from tests.minilm import minilm_info
from tests.tiny_models import Tiny

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "svd": ("svd", {}),
    "nonlinear": ("autoencoder", {"epochs": 1, "batch_size": 64}),
    "linear": ("autoencoder", {"epochs": 1, "batch_size": 64, "encoder": "linear", "decoder": "linear"}),
    "no norms": ("autoencoder", {"epochs": 1, "batch_size": 64, "decoder": "linear", "enforce_norm": False}),
}
MODULES = {
    "rows": ("query.0", "key.0", "value.1", "ffn_in.1"),
    "columns": ("attention_output.0", "attention_output.1", "ffn_out.0"),
    "residual": ("word_embeddings", "key.1", "attention_output.1", "ffn_in.0", "ffn_out.1"),
}
RATIOS = (1.0, 1.7, 3.7, 30.0)
NAMES_OF_FORMS = {"low_rank": "compressed", "decoded_latents": "compressed", "dense": "dense"}
DENOMINATORS = ("chosen", "matrices", "whole")


def of_limit(prediction: GroupPrediction, unit: str) -> int:
    return prediction.num_parameters if unit == "parameters" else prediction.num_bytes


def assert_same_sizes(predicted: GroupPrediction, group: CompressedGroup, unit: str) -> None:
    figures = group.figures
    assert predicted.form == NAMES_OF_FORMS[figures.form]
    for key in (
        "name",
        "method",
        "rows",
        "cols",
        "size",
        "size_name",
        "budget",
        "num_parameters",
        "num_bytes",
        "original_parameters",
        "original_bytes",
        "requested_ratio",
        "compression_ratio",
        "unit",
        "dtype",
        "original_dtypes",
        "bytes_in_own_dtype",
    ):
        assert getattr(predicted, key) == getattr(figures, key), key
    tensors = group.compressed.tensors.values()
    assert predicted.num_parameters == sum(tensor.numel() for tensor in tensors)
    assert predicted.num_bytes == sum(tensor.nbytes for tensor in tensors)
    assert of_limit(predicted, unit) <= predicted.budget
    assert figures.compression_ratio >= figures.requested_ratio


def assert_payload_is_the_ledger(group: CompressedGroup, folder: Path) -> None:
    path = save_group(group, folder)
    content = path.read_bytes()
    assert len(content) - 8 - int.from_bytes(content[:8], "little") == group.figures.num_bytes
    ledger = {entry.name: entry for entry in group.figures.ledger}
    assert sum(entry.bytes for entry in ledger.values()) == group.figures.num_bytes
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == set(ledger)
        for name, entry in ledger.items():
            stored = file.get_tensor(name)
            assert tuple(stored.shape) == entry.shape
            assert str(stored.dtype) == f"torch.{entry.dtype}"
            assert entry.bytes == prod(entry.shape) * BYTES_PER_ELEMENT[entry.dtype]


# ----------------------------------------------------------------------------------------------- prediction and reality


@pytest.mark.parametrize(
    ("name", "stack"), [*(("bert", stack) for stack in MODULES), ("gpt2", "residual"), ("llama", "columns")]
)
@pytest.mark.parametrize("method", METHODS)
def test_the_prediction_is_what_is_stored(tiny: Tiny, tmp_path: Path, name: str, method: str, stack: str) -> None:
    loaded = tiny(name)
    kind, options = METHODS[method]
    forms = set()
    for dtype, unit, ratio in product(STORAGE_DTYPES, UNITS, RATIOS):
        group = Group(
            name=f"{dtype}-{unit}-{ratio}",
            modules=MODULES[stack],
            stack=stack,
            method=kind,
            options=options,
            ratio=ratio,
            unit=unit,
            dtype=dtype,
        )
        predicted = predict_group(group, loaded.info)
        forms.add(predicted.form)
        if predicted.form == "infeasible":
            with pytest.raises(BudgetTooSmall) as raised:
                compress_group(loaded.model, loaded.info, group)
            assert predicted.note == str(raised.value)
        else:
            compressed = compress_group(loaded.model, loaded.info, group)
            assert_same_sizes(predicted, compressed, unit)
            assert_payload_is_the_ledger(compressed, tmp_path)
    assert forms == {"compressed", "dense", "infeasible"}


def stored_in(info: ModelInfo, dtype: str) -> ModelInfo:
    """The description of the model with all of its tensors in one dtype."""
    modules = tuple(replace(spec, dtype=dtype) for spec in info.modules)
    return replace(info, dtype=dtype, modules=modules, num_bytes=0, matrix_bytes=0)


@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
@pytest.mark.parametrize("checkpoint", ["float16", "bfloat16"])
def test_a_half_precision_checkpoint_counts_two_bytes_a_parameter(
    tiny: Tiny, tmp_path: Path, checkpoint: str, dtype: str
) -> None:
    loaded = tiny("bert")
    info = stored_in(loaded.info, checkpoint)
    for ratio in (1.0, 2.0):
        group = Group(name="half", modules=MODULES["rows"], ratio=ratio, unit="bytes", dtype=dtype)
        predicted = predict_group(group, info)
        assert predicted.original_bytes == 2 * predicted.original_parameters
        assert predicted.budget == int(predicted.original_bytes / ratio)
        compressed = compress_group(loaded.model, info, group)
        assert_same_sizes(predicted, compressed, "bytes")
        assert_payload_is_the_ledger(compressed, tmp_path)
    whole = predict(Plan(model=info.model, groups=(group,)), info).model.whole
    assert whole.bytes_before == 2 * whole.parameters_before


def test_ratio_one_in_bytes_of_a_half_precision_checkpoint_cannot_stay_dense_in_float32(
    tiny: Tiny,
) -> None:
    info = stored_in(tiny("bert").info, "float16")
    forms = [
        predict_group(Group(name="half", modules=MODULES["rows"], ratio=1.0, unit="bytes", dtype=dtype), info).form
        for dtype in ("float32", "float16")
    ]
    assert forms == ["compressed", "dense"]


# ------------------------------------------------------------------------------------------------- limits of one group


@pytest.mark.parametrize(("dtype", "unit"), list(product(STORAGE_DTYPES, UNITS)))
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("modules", [("key.0",), ("ffn_out.0", "ffn_out.3"), ("word_embeddings",)])
def test_the_break_even_size_is_the_last_that_saves_something(
    modules: tuple[str, ...], method: str, dtype: str, unit: str
) -> None:
    info = minilm_info()
    kind, options = METHODS[method]
    predicted = predict_group(
        Group(name="some", modules=modules, stack="rows", method=kind, options=options, ratio=2.0, unit=unit, dtype=dtype), info
    )
    rows, cols, size = predicted.rows, predicted.cols, predicted.break_even_size

    def stored(width: int) -> int:
        return stored_size(make_method(kind, options).tensor_shapes(rows, cols, width), dtype).in_unit(unit)

    original = rows * cols * (4 if unit == "bytes" else 1)
    assert 1 <= size <= min(rows, cols)
    assert stored(size) < original
    assert size == min(rows, cols) or stored(size + 1) >= original


def test_the_break_even_rank_of_svd_is_that_of_the_formula() -> None:
    predicted = predict_group(Group(name="key", modules=tuple(f"key.{i}" for i in range(6))), minilm_info())
    assert predicted.break_even_size == (2304 * 384 - 1) // (2304 + 384)
    square = predict_group(Group(name="key", modules=("key.0",)), minilm_info())
    assert square.break_even_size == 191  # rank 192 stores exactly as much as the matrix


@pytest.mark.parametrize(("dtype", "unit"), list(product(STORAGE_DTYPES, UNITS)))
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("modules", [("key.0",), ("ffn_in.0", "ffn_in.1"), ("word_embeddings",)])
def test_just_below_the_largest_ratio_is_feasible_and_just_above_is_not(
    modules: tuple[str, ...], method: str, dtype: str, unit: str
) -> None:
    kind, options = METHODS[method]
    group = Group(name="some", modules=modules, stack="rows", method=kind, options=options, ratio=2.0, unit=unit, dtype=dtype)
    largest = predict_group(group, minilm_info()).largest_ratio
    below = predict_group(group.replace(ratio=largest * (1 - 1e-9)), minilm_info())
    assert (below.form, below.size, below.note) == ("compressed", 1, "")
    above = predict_group(group.replace(ratio=largest * (1 + 1e-9)), minilm_info())
    assert (above.form, above.size) == ("infeasible", 0)
    assert str(above.budget) in above.note and above.size_name in above.note
    assert not predict(Plan(model="minilm-l6", groups=(group.replace(ratio=largest * 1.1),)), minilm_info()).feasible


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("module", ["embeddings.token_type_embeddings", "embeddings.position_embeddings"])
def test_the_largest_ratio_of_a_small_matrix_counts_that_it_may_stay_dense(module: str, method: str) -> None:
    kind, options = METHODS[method]
    for dtype, unit in product(STORAGE_DTYPES, UNITS):
        group = Group(
            name="small", modules=(module,), stack="rows", method=kind, options=options, ratio=1.0, unit=unit, dtype=dtype
        )
        largest = predict_group(group, minilm_info()).largest_ratio
        below, above = (
            predict_group(group.replace(ratio=max(1.0, largest * factor)), minilm_info()).form
            for factor in (1 - 1e-9, 1 + 1e-9)
        )
        assert above == "infeasible", (dtype, unit, largest)  # no larger ratio can be requested
        assert below != "infeasible" or largest < 1, (dtype, unit, largest)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("unit", UNITS)
def test_ratio_one_stays_dense_and_says_so(method: str, unit: str) -> None:
    kind, options = METHODS[method]
    predicted = predict_group(
        Group(name="key", modules=("key.0", "key.1"), stack="rows", method=kind, options=options, ratio=1.0, unit=unit),
        minilm_info(),
    )
    assert (predicted.form, predicted.size) == ("dense", 0)
    assert predicted.num_parameters == predicted.original_parameters == 2 * 384 * 384
    assert predicted.compression_ratio == 1.0
    assert "not compressed" in predicted.note


@pytest.mark.parametrize(
    ("modules", "ratio", "rank"),
    [(("key.0",), 10.0, 19), (tuple(f"key.{i}" for i in range(6)), 3.0, 109), (("word_embeddings",), 4.0, 94)],
)
def test_ranks_by_hand(modules: tuple[str, ...], ratio: float, rank: int) -> None:
    predicted = predict_group(Group(name="some", modules=modules, ratio=ratio), minilm_info())
    assert predicted.size == rank == int(predicted.rows * 384 / ratio) // (predicted.rows + 384)
    assert predicted.num_parameters == rank * (predicted.rows + 384)
    assert predicted.compression_ratio == pytest.approx(predicted.rows * 384 / predicted.num_parameters, rel=1e-12)


def test_more_epochs_take_longer_and_a_dense_group_no_training() -> None:
    short, long = (
        predict_group(
            Group(name="key", modules=("key.0",), method="autoencoder", options={"epochs": epochs}), minilm_info()
        ).seconds
        for epochs in (10, 40)
    )
    assert long == pytest.approx(4 * short)


# ------------------------------------------------------------------------------------------------- three denominators


def test_the_three_denominators_save_the_same_number_of_parameters_and_bytes() -> None:
    info = minilm_info()
    keys = Group(name="key", modules=tuple(f"key.{i}" for i in range(6)), ratio=3.0)
    outputs = Group(
        name="out",
        modules=("ffn_out.0", "ffn_out.1"),
        stack="columns",
        method="autoencoder",
        options={},
        ratio=10.0,
        unit="bytes",
        dtype="float16",
    )
    prediction = predict(Plan(model=info.model, groups=(keys, outputs)), info)
    chosen, matrices, whole = map(prediction.model.of, DENOMINATORS)
    assert chosen.parameters_before == 6 * 384 * 384 + 2 * 384 * 1536
    assert chosen.parameters_after == sum(group.num_parameters for group in prediction.groups)
    assert chosen.bytes_after == sum(group.num_bytes for group in prediction.groups)
    assert matrices.parameters_before == info.matrix_parameters
    assert whole.parameters_before == info.num_parameters
    for unit in UNITS:
        saved = {name: sizes.before(unit) - sizes.after(unit) for name, sizes in dict(prediction.model).items()}
        assert len(set(saved.values())) == 1 and saved["whole"] > 0
    for sizes in (chosen, matrices, whole):
        assert sizes.bytes_before == 4 * sizes.parameters_before
        assert sizes.parameter_ratio == sizes.parameters_before / sizes.parameters_after
        assert sizes.byte_ratio == sizes.bytes_before / sizes.bytes_after
    assert chosen.parameter_ratio > matrices.parameter_ratio > whole.parameter_ratio > 1


@pytest.mark.parametrize("name", ["bert", "gpt2", "qwen2", "t5"])
def test_tied_weights_count_once(tiny: Tiny, name: str) -> None:
    loaded = tiny(name)
    unique = {parameter.data_ptr(): parameter.numel() for parameter in loaded.model.parameters()}
    assert loaded.info.num_parameters == sum(unique.values())
    assert loaded.info.matrix_parameters == sum(spec.num_parameters for spec in loaded.info.modules)
    assert loaded.info.num_parameters < sum(p.numel() for _, p in loaded.model.named_parameters(remove_duplicate=False))
    every = tuple(Group(name=f"g{i}", modules=(spec.name,), ratio=1.0) for i, spec in enumerate(loaded.info.modules))
    sizes = predict(Plan(model="tiny", groups=every), loaded.info).model
    assert sizes.chosen == sizes.matrices
    assert sizes.whole.parameters_before == sizes.whole.parameters_after


def test_the_baseline_changes_nothing() -> None:
    prediction = predict(Plan(model="minilm-l6"), minilm_info())
    assert prediction.groups == () and prediction.feasible and prediction.seconds == 0
    for sizes in map(prediction.model.of, DENOMINATORS):
        assert sizes.parameters_before == sizes.parameters_after
        assert sizes.bytes_before == sizes.bytes_after
        assert (sizes.parameter_ratio, sizes.byte_ratio) == (1.0, 1.0)


def test_one_group_that_cannot_be_makes_the_plan_infeasible() -> None:
    groups = (Group(name="fine", modules=("key.0",), ratio=2.0), Group(name="not", modules=("key.1",), ratio=1000.0))
    prediction = predict(Plan(model="minilm-l6", groups=groups), minilm_info())
    assert [group.form for group in prediction.groups] == ["compressed", "infeasible"]
    assert not prediction.feasible
    assert prediction.to_dict()["feasible"] is False


def test_the_members_decide_the_shape_and_not_the_model(tiny: Tiny) -> None:
    info = tiny("llama").info
    group = Group(name="mixed", modules=MODULES["rows"])
    specs = members(group, info)
    predicted = predict_group(group, info)
    assert (predicted.rows, predicted.cols) == (sum(spec.rows for spec in specs), 24) == (24 + 12 + 12 + 40, 24)


def test_predicting_charting_and_printing_need_no_torch() -> None:
    code = (
        "import sys, offcomp.planning.plan, offcomp.planning.sizes, offcomp.planning.spectra, offcomp.files;"
        "import offcomp.results.charts.error_curve, offcomp.cli.text;"
        "from offcomp.models.sources import bundled_info as info;"
        "from offcomp.planning.plan import *; from offcomp.planning.sizes import predict;"
        "plan = Plan(model='minilm-l6', groups=make_groups(info('minilm-l6').modules, 'kind'));"
        "validate(plan, info('minilm-l6')); predict(plan, info('minilm-l6'));"
        "print(sorted({'torch', 'transformers', 'sklearn'} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"
