"""The public functions compress models given by name, loaded models, live models, and bare matrices."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, PreTrainedModel

import offcomp
from offcomp.library.matrices import Compressor
from offcomp.methods import METHODS
from offcomp.methods.base import CompressedMatrix
from tests.calibration_texts import TEXTS

SMALL_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 60, "n_positions": 16, "bos_token_id": 0, "eos_token_id": 0}
COMPRESSORS = Compressor.__subclasses__()
QUICK = {
    "Autoencoder": {"epochs": 2},
    "ResidualAutoencoder": {"rounds": 1, "steps": 10},
    "CodebookAutoencoder": {"iterations": 2},
}


@pytest.fixture
def gpt() -> PreTrainedModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(**SMALL_GPT)).eval()


def weight(model: PreTrainedModel, path: str) -> Tensor:
    return model.get_parameter(path).detach().clone()


FC = "transformer.h.0.mlp.c_fc.weight"


def test_importing_offcomp_loads_nothing_heavy_and_has_every_name() -> None:
    code = "import offcomp, sys; print(sorted({'torch', 'pandas', 'pydantic', 'transformers'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    assert all(getattr(offcomp, name) is not None for name in offcomp.__all__)
    assert set(offcomp.__all__) <= set(dir(offcomp))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = offcomp.nothing


def test_a_live_model_is_compressed_as_a_copy(gpt: PreTrainedModel) -> None:
    before = {name: parameter.clone() for name, parameter in gpt.named_parameters()}
    result = offcomp.compress(gpt, "*.mlp.*", ratio=2, progress=False)
    assert [group.name for group in result] == ["ffn_in.0", "ffn_out.0", "ffn_in.1", "ffn_out.1"]
    assert all(torch.equal(parameter, before[name]) for name, parameter in gpt.named_parameters())
    changed = {name for name, parameter in result.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {f"transformer.h.{layer}.mlp.{name}.weight" for layer in range(2) for name in ("c_fc", "c_proj")}
    reconstructed = result["ffn_in.0"].reconstruct()["ffn_in.0"]
    assert torch.equal(weight(result.model, FC), reconstructed.T)
    original = before[FC].detach().T
    error = float((original - reconstructed).norm() / original.norm())
    assert result["ffn_in.0"].figures.relative_error == pytest.approx(error, rel=1e-5)


def test_a_live_model_is_compressed_in_place(gpt: PreTrainedModel) -> None:
    before = weight(gpt, FC)
    copy = offcomp.compress(gpt, "ffn_in.0", ratio=4, progress=False).model
    result = offcomp.compress(gpt, "ffn_in.0", ratio=4, inplace=True, progress=False)
    assert result.model is gpt
    assert torch.equal(weight(gpt, FC), weight(copy, FC)) and not torch.equal(weight(gpt, FC), before)


def test_a_half_precision_model_keeps_its_dtype(gpt: PreTrainedModel) -> None:
    result = offcomp.compress(gpt.to(torch.bfloat16), "query", rank=4, progress=False)
    assert {group.figures.dtype for group in result} == {"bfloat16"}
    assert {parameter.dtype for parameter in result.model.parameters()} == {torch.bfloat16}


def test_tied_weights_stay_tied(gpt: PreTrainedModel) -> None:
    model = offcomp.compress(gpt, "word_embeddings", ratio=3, progress=False).model
    assert torch.equal(model.lm_head.weight, model.transformer.wte.weight)
    assert not torch.equal(model.lm_head.weight, gpt.lm_head.weight)


def test_modules_are_compressed_together(gpt: PreTrainedModel) -> None:
    result = offcomp.compress(gpt, "query,key", together="kind", ratio=2, progress=False)
    assert [(group.name, len(group.members)) for group in result] == [("query", 2), ("key", 2)]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("*.nothing.*",), {}, "matches no module of GPT2LMHeadModel"),
        ((), {"ratio": 0.5}, "must be 1 or more"),
        ((), {"together": "pairs"}, "unknown grouping 'pairs'"),
        ((), {"method": "magic"}, "unknown method 'magic'"),
        ((), {"options": {"preset": "magic"}}, "'magic'"),
        ((), {"rank": 0}, "it must be a whole number, 1 or greater"),
    ],
)
def test_bad_arguments_are_one_sentence(
    gpt: PreTrainedModel, arguments: tuple[str, ...], options: dict[str, object], message: str
) -> None:
    with pytest.raises(offcomp.InputError, match=message):
        offcomp.compress(gpt, *arguments, progress=False, **options)  # type: ignore[arg-type]


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(offcomp.InputError, match="the model is a int"):
        offcomp.compress(3)  # type: ignore[arg-type]
    meta = BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)).to("meta")
    with pytest.raises(offcomp.ModelError, match="on the meta device"):
        offcomp.compress(meta)
    with pytest.raises(offcomp.ModelError, match="is in float64"):
        offcomp.compress(GPT2LMHeadModel(GPT2Config(**SMALL_GPT)).double())


def test_calibrated_methods_take_texts(tmp_path: Path) -> None:
    loaded = offcomp.load("minilm-l6")
    options = {"preset": "whitened"}
    plain, whitened = (
        offcomp.compress(loaded, "ffn_in.0", ratio=8, options=chosen, calibration=TEXTS, progress=False)
        for chosen in ({}, options)
    )
    assert whitened.relative_error > plain.relative_error
    assert whitened[0].figures.calibration is not None


def test_the_table_and_the_repr_are_short(gpt: PreTrainedModel) -> None:
    result = offcomp.compress(gpt, ratio=2, progress=False)
    assert list(result.table()["name"]) == [group.name for group in result]
    assert len(repr(result).splitlines()) == 8 and "... and 6 more" in repr(result)
    assert repr(result[0]) == str(result["query.0"]) and "query.0: svd, rank 8, 32 x 32, 2x fewer" in repr(result[0])
    with pytest.raises(KeyError, match="there is no group 'nothing'"):
        _ = result["nothing"]


def test_there_is_a_compressor_for_every_method() -> None:
    assert {compressor.method_class for compressor in COMPRESSORS} == set(METHODS)
    assert all(getattr(offcomp, compressor.__name__) is compressor for compressor in COMPRESSORS)


@pytest.mark.parametrize("as_array", [True, False], ids=["array", "tensor"])
def test_the_svd_of_a_bare_matrix_is_the_best_of_its_rank(as_array: bool) -> None:
    tensor = torch.randn(60, 40, dtype=torch.float64)
    result = offcomp.SVD(rank=30).fit(tensor.numpy() if as_array else tensor)
    tail = torch.linalg.svdvals(tensor)[30:].square().sum().sqrt() / tensor.norm()
    assert result.size == 30 and result.relative_error(tensor) == pytest.approx(float(tail), rel=1e-4)
    assert "size 30, 3,000 parameters, 12,000 bytes" in repr(result)


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=lambda compressor: compressor.__name__)
def test_every_method_fits_a_bare_matrix(compressor: type[Compressor]) -> None:
    matrix = np.random.default_rng(0).normal(size=(64, 48)).astype(np.float16)
    options = QUICK.get(compressor.__name__, {})
    result: CompressedMatrix = compressor(ratio=3, unit="bytes", **options).fit(matrix)  # type: ignore[arg-type]
    assert result.reconstruct().shape == (64, 48)
    assert 0 < result.stored.num_bytes <= matrix.nbytes / 3
    assert 0 < result.relative_error(torch.from_numpy(matrix)) < 1.5  # an untrained autoencoder still preserves row norms


def test_shares_of_energy_and_multiples_choose_the_rank() -> None:
    values = torch.tensor([8.0, 4, 2, 1, 0.5, 0.25, 0.1, 0.1])
    matrix = torch.linalg.qr(torch.randn(32, 8))[0] * values
    assert offcomp.SVD(energy=0.9).fit(matrix).size == 2
    assert offcomp.SVD(energy=0.9, multiple=4).fit(matrix).size == 4
    assert offcomp.SVD(energy=1.0).fit(matrix).size == 8
    assert offcomp.SVD(ratio=1.5, multiple=2).fit(matrix).size == 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: offcomp.SVD(rank=2, ratio=2), "not several of them"),
        (lambda: offcomp.SVD(energy=1.5), r"energy is 1\.5"),
        (lambda: offcomp.Kronecker(energy=0.5), "applies to SVD only"),
        (lambda: offcomp.SVD(ratio=0.5), r"ratio is 0\.5; it must be 1 or more"),
        (lambda: offcomp.SVD(unit="bits"), "unit is 'bits'; choose one of parameters, bytes"),
        (lambda: offcomp.Pruning(multiple=8), "applies to methods with a rank only"),
        (lambda: offcomp.SVD(presets="plain"), "has no option 'presets'"),
        (lambda: offcomp.Pruning(rank=4).fit(torch.ones(4, 4)), "Pruning has no rank"),
        (lambda: offcomp.SVD(rank=9).fit(torch.ones(4, 4)), "rank 9 of a .4, 4. matrix does not exist"),
        (lambda: offcomp.SVD().fit(torch.ones(4)), r"has the shape \(4,\); it must have two dimensions"),
        (lambda: offcomp.SVD().fit([[1.0, float("nan")]]), "1 values that are NaN or infinite"),
        (lambda: offcomp.SVD(preset="whitened").fit(torch.ones(4, 4)), "needs calibration text"),
        (lambda: offcomp.SVD(ratio=99).fit(torch.randn(4, 4)), "but the budget is 0"),
    ],
)
def test_what_a_bare_matrix_cannot_have_is_one_sentence(make: object, message: str) -> None:
    with pytest.raises(offcomp.OffcompError, match=message):
        make()  # type: ignore[operator]
