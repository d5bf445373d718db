"""A model whose layers are held in the dtype of its files computes what a float32 model does, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import FunnelConfig, FunnelModel, PreTrainedModel, SqueezeBertConfig, SqueezeBertModel

from offcomp.models.held_layers import HALVES, in_float32, is_held
from offcomp.models.loading import load
from offcomp.models.offloading import offloaded
from offcomp.models.weights import read, write
from offcomp.runs.compress import in_own_dtype
from tests import tiny_models
from tests.checkpoints import DTYPES, store_as
from tests.family_models import FAMILY_MODELS, family_model, output_of

MOST = 0.5
"""At least this share of the parameters of every tiny model is in its layers."""


def half_share(model: PreTrainedModel) -> float:
    """The share of the parameters that are in half precision at the moment."""
    sizes = [(parameter.numel(), parameter.dtype in HALVES) for parameter in model.parameters()]
    return sum(size for size, is_half in sizes if is_half) / sum(size for size, _ in sizes)


@pytest.mark.parametrize("name", FAMILY_MODELS)
def test_outputs_are_those_of_float32(name: str, tmp_path: Path) -> None:
    copy.deepcopy(family_model(name)).to(torch.bfloat16).save_pretrained(tmp_path)
    exact, held = load(str(tmp_path)).model, load(str(tmp_path), held=True).model
    share = half_share(held)
    assert share > MOST
    assert type(held) is type(exact)
    assert torch.equal(output_of(held), output_of(exact))
    assert half_share(held) == share, "a layer stays in float32"
    buffers = dict(exact.named_buffers())
    assert all(torch.equal(buffer, buffers[path]) for path, buffer in held.named_buffers())
    in_float32(held)
    assert not is_held(held) and half_share(held) == 0
    assert torch.equal(output_of(held), output_of(exact))


@pytest.mark.parametrize("dtypes", DTYPES)
def test_each_weight_has_the_dtype_of_its_file_or_float32(dtypes: str, tmp_path: Path) -> None:
    folder = store_as(tiny_models.save(tiny_models.shared("bert"), tmp_path / "bert"), DTYPES[dtypes])
    exact, held = load(str(folder)), load(str(folder), held=True)
    stored = {spec.path: getattr(torch, spec.dtype) for spec in held.info.modules}
    for path, parameter in held.model.named_parameters():
        assert torch.equal(parameter.float(), exact.model.get_parameter(path)), path
        if "layer.0" in path and path in stored:
            assert parameter.dtype == stored[path], path
    for one, other in zip(tiny_models.outputs(exact.model), tiny_models.outputs(held.model), strict=True):
        assert torch.equal(one, other)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[PreTrainedModel, PreTrainedModel, Callable[[str], None]]:
    """A float32 model, a held one, and a function that writes the same reconstruction of a matrix into both."""
    folder = store_as(tiny_models.save(tiny_models.shared("llama"), tmp_path / "llama"), DTYPES["bfloat16"])
    exact, held = load(str(folder)), load(str(folder), held=True)

    def reconstruct(name: str) -> None:
        spec = exact.info.module(name)
        matrix = in_own_dtype({spec: 1.01 * read(exact.model, spec)})[spec]
        write(exact.model, spec, matrix)
        write(held.model, spec, matrix)

    return exact.model, held.model, reconstruct


def test_a_written_matrix_keeps_its_bits(pair: tuple[PreTrainedModel, PreTrainedModel, Callable[[str], None]]) -> None:
    exact, held, reconstruct = pair
    before = tiny_models.outputs(held)
    for name in ("key.0", "ffn_out.1", "word_embeddings"):
        reconstruct(name)
    after = tiny_models.outputs(held)
    assert not torch.equal(before[0], after[0])
    assert all(torch.equal(one, other) for one, other in zip(after, tiny_models.outputs(exact), strict=True))


def test_layers_are_held_again_after_an_error(pair: tuple[PreTrainedModel, PreTrainedModel, Callable[[str], None]]) -> None:
    exact, held, _ = pair
    share = half_share(held)

    def fail(*_: object) -> None:
        raise KeyError("in the middle of a layer")

    inner = next(module for path, module in held.named_modules() if "layers.1" in path and isinstance(module, nn.Linear))
    hook = inner.register_forward_hook(fail)
    with pytest.raises(KeyError):
        tiny_models.outputs(held)
    hook.remove()
    assert half_share(held) == share
    assert torch.equal(tiny_models.outputs(held)[0], tiny_models.outputs(exact)[0])


def test_an_offloaded_model_is_held_again(tmp_path: Path) -> None:
    folder = store_as(tiny_models.save(tiny_models.shared("llama"), tmp_path / "llama"), DTYPES["bfloat16"])
    loaded = load(str(folder), held=True)
    share, outputs = half_share(loaded.model), tiny_models.outputs(loaded.model)
    with offloaded(loaded):
        assert all(parameter.numel() == 0 for parameter in loaded.model.parameters())
    assert half_share(loaded.model) == share
    assert torch.equal(tiny_models.outputs(loaded.model)[0], outputs[0])


@pytest.mark.parametrize("name", ["funnel", "squeezebert"])
def test_layers_that_are_not_called_as_modules_are_held(name: str, tmp_path: Path) -> None:
    """Funnel has lists of lists of layers, and SqueezeBERT calls their method `forward`."""
    if name == "funnel":
        network: PreTrainedModel = FunnelModel(
            FunnelConfig(vocab_size=60, block_sizes=[1, 1], d_model=16, n_head=2, d_head=8, d_inner=32)
        )
    else:
        sizes = {"hidden_size": 16, "embedding_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        network = SqueezeBertModel(SqueezeBertConfig(vocab_size=60, intermediate_size=32, **sizes))
    network.to(torch.bfloat16).save_pretrained(tmp_path / name)
    exact, held = load(str(tmp_path / name)).model, load(str(tmp_path / name), held=True).model
    ids = torch.arange(5, 13)[None]
    assert half_share(held) > 0
    assert torch.equal(held(input_ids=ids)[0], exact(input_ids=ids)[0])
