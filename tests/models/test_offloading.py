"""Matrices are read from a model's files without loading the model, and an offloaded model is restored exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from offcomp.errors import ModelError
from offcomp.models import offloading
from offcomp.models.loading import LoadedModel, load
from offcomp.models.offloading import StoredMatrices, offloaded, read_matrix
from offcomp.models.safetensors_files import StoredTensor
from offcomp.models.weights import read
from tests import tiny_models
from tests.family_models import family_model


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedModel:
    """A saved BERT with a head, loaded from its folder."""
    return load(str(tiny_models.save(tiny_models.shared("bert"), tmp_path / "bert")))


@pytest.mark.parametrize("name", tiny_models.TINY)
def test_every_matrix_can_be_read_and_every_weight_comes_back(name: str, tmp_path: Path) -> None:
    loaded = load(str(tiny_models.save(tiny_models.shared(name), tmp_path / name)))
    exact = {spec: read(loaded.model, spec) for spec in loaded.info.modules}
    before, outputs = loaded.model.state_dict(), tiny_models.outputs(loaded.model)
    before = {path: values.clone() for path, values in before.items()}
    source = StoredMatrices(loaded.info.model)
    with offloaded(loaded):
        assert all(parameter.numel() == 0 for parameter in loaded.model.parameters())
        for spec, matrix in exact.items():
            found = read_matrix(source, spec)
            assert torch.equal(found, matrix) and found.is_contiguous() and found.dtype == torch.float32
    after = loaded.model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[path], values) for path, values in before.items())
    assert all(torch.equal(new, old) for new, old in zip(tiny_models.outputs(loaded.model), outputs, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_give_float32_matrices(loaded: LoadedModel, dtype: torch.dtype) -> None:
    file = Path(loaded.info.model) / "model.safetensors"
    save_file({key: values.to(dtype) for key, values in load_file(file).items()}, file, metadata={"format": "pt"})
    again = load(loaded.info.model)
    exact = {spec: read(again.model, spec) for spec in again.info.modules}
    source = StoredMatrices(again.info.model)
    assert all(torch.equal(source.read(spec), matrix) for spec, matrix in exact.items())


def test_a_parameter_of_several_tensors_is_built_as_transformers_builds_it(tmp_path: Path) -> None:
    """The files of Mixtral store each expert on its own; transformers stacks the experts of a layer as it loads them."""
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}
    config = transformers.MixtralConfig(**sizes, num_key_value_heads=2, num_local_experts=3, max_position_embeddings=32)
    folder = tiny_models.save(tiny_models._built("MixtralForCausalLM", config), tmp_path / "mixtral")
    loaded, source = load(str(folder)), StoredMatrices(str(folder))
    built = {path: source._parameter(path, sources) for path, sources in source._sources.items()}
    assert any(len(sources) > 1 for sources in source._sources.values()), "no parameter is stored in parts"
    for path, parameter in loaded.model.named_parameters():
        values = built[path]
        assert values is not None
        assert torch.equal(values, parameter), path


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v2", "deepseek_v3"])
def test_of_experts_stored_one_by_one_only_the_one_is_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family_model(name).save_pretrained(tmp_path)
    loaded, source = load(str(tmp_path)), StoredMatrices(str(tmp_path))
    experts = [spec for spec in loaded.info.modules if spec.expert is not None]
    assert experts
    real, read_values = offloading._values, [0]

    def counted(stored: StoredTensor) -> torch.Tensor:
        read_values[0] += stored.num_parameters
        return real(stored)

    monkeypatch.setattr(offloading, "_values", counted)
    for spec in experts:
        read_values[0] = 0
        assert torch.equal(source.read(spec), read(loaded.model, spec)), spec.name
        assert read_values[0] <= 2 * spec.num_parameters  # a gate is stored apart, but fused when it is loaded


def test_only_a_damaged_matrix_that_is_read_is_refused(loaded: LoadedModel) -> None:
    file = Path(loaded.info.model) / "model.safetensors"
    weights = load_file(file)
    spec, other = loaded.info.module("key.1"), loaded.info.module("key.0")
    weights[spec.path][0, 0] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    source = StoredMatrices(loaded.info.model)
    assert torch.equal(source.read(other), read(loaded.model, other))
    with pytest.raises(ModelError, match=r"key.weight' has 1 values that are NaN or infinite"):
        source.read(spec)
    del weights[spec.path]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"do not match the model class BertForPreTraining: missing keys .*key.weight"):
        StoredMatrices(loaded.info.model).read(spec)
    weights[spec.path] = torch.zeros(2, 2)
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"do not match the model class BertForPreTraining: mismatched keys .*key.weight"):
        StoredMatrices(loaded.info.model).read(spec)


def test_every_weight_comes_back_after_an_exception(loaded: LoadedModel) -> None:
    exact = loaded.model.get_parameter("bert.embeddings.word_embeddings.weight").clone()
    with pytest.raises(KeyboardInterrupt), offloaded(loaded):
        raise KeyboardInterrupt
    assert torch.equal(loaded.model.get_parameter("bert.embeddings.word_embeddings.weight"), exact)
    decoder = loaded.model.get_parameter("cls.predictions.decoder.weight")
    assert decoder.data_ptr() == loaded.model.get_parameter("bert.embeddings.word_embeddings.weight").data_ptr()


def test_what_went_wrong_first_is_told_where_the_files_have_gone_too(loaded: LoadedModel) -> None:
    folder = Path(loaded.info.model)
    with pytest.raises(MemoryError, match="the reason"), offloaded(loaded):
        folder.rename(folder.with_name("elsewhere"))
        raise MemoryError("the reason")


def test_files_that_change_meanwhile_are_noticed(loaded: LoadedModel) -> None:
    spec = loaded.info.module("key.0")
    source = StoredMatrices(loaded.info.model)
    file = Path(loaded.info.model) / "model.safetensors"
    weights = load_file(file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1  # one bit; the size of the file stays the same
    file.unlink()  # the loaded model may still map this file
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"changed while it was in use; run the plan again"):
        source.read(spec)
    save_file(weights, file, metadata={"format": "pt"})
    with (
        pytest.raises(ModelError, match="changed while it was being compressed; run the plan again"),
        offloaded(load(loaded.info.model)),
    ):
        save_file({key: 2 * values for key, values in weights.items()}, file, metadata={"format": "pt"})
