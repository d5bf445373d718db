"""While a model is offloaded, its matrices are read from its files; afterwards it is restored exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from offcomp.errors import ModelError
from offcomp.models.loading import LoadedModel, load
from offcomp.models.offloading import StoredMatrices, offloaded, read_matrix
from offcomp.models.weights import read
from tests import tiny_models


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
    source = StoredMatrices(loaded, loaded.info.modules)
    assert not source.in_memory
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
    source = StoredMatrices(again, again.info.modules)
    assert not source.in_memory
    assert all(torch.equal(source.read(spec), matrix) for spec, matrix in exact.items())


def test_a_matrix_that_is_not_in_the_files_as_it_is_in_the_model_is_kept(loaded: LoadedModel) -> None:
    """Such matrices arise where transformers renames or merges tensors as it loads them."""
    spec = loaded.info.module("key.1")
    loaded.model.get_parameter(spec.path).data += 1
    changed = read(loaded.model, spec)
    source = StoredMatrices(loaded, loaded.info.modules)
    assert set(source.in_memory) == {spec}
    assert torch.equal(source.read(spec), changed)
    source.read(spec).zero_()
    assert torch.equal(source.read(spec), changed)


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
    source = StoredMatrices(loaded, [spec])
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
