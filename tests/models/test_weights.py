"""Every listed weight is the one the model uses, in the correct orientation, and is restored bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from offcomp.errors import ModelError
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.weights import check_finite, list_modules, read, substituted, write
from tests import tiny_models


@pytest.fixture(params=tiny_models.TINY)
def model(request: pytest.FixtureRequest) -> Iterator[PreTrainedModel]:
    """A shared model. The test fails if it leaves the model changed."""
    shared = tiny_models.shared(request.param)
    before = state(shared)
    yield shared
    assert same(before, state(shared))


@pytest.fixture
def gpt2() -> Iterator[PreTrainedModel]:
    shared = tiny_models.shared("gpt2")
    before = state(shared)
    yield shared
    assert same(before, state(shared))


def state(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def spec_named(model: PreTrainedModel, name: str) -> ModuleSpec:
    return next(spec for spec in list_modules(model) if spec.name == name)


def test_zeroing_any_weight_changes_the_output(model: PreTrainedModel) -> None:
    inputs = tiny_models.batch(model)
    before = tiny_models.outputs(model, inputs)
    for spec in list_modules(model):
        with substituted(model, {spec: torch.zeros(spec.shape)}):
            after = tiny_models.outputs(model, inputs)
        assert max(float((new - old).abs().max()) for old, new in zip(before, after, strict=True)) > 0.01, spec.name
    assert all(torch.equal(old, new) for old, new in zip(before, tiny_models.outputs(model, inputs), strict=True))


def test_read_then_write_changes_nothing(model: PreTrainedModel) -> None:
    before = state(model)
    for spec in list_modules(model):
        matrix = read(model, spec)
        assert matrix.dtype == torch.float32 and matrix.is_contiguous() and tuple(matrix.shape) == spec.shape
        write(model, spec, matrix)
    assert same(before, state(model))


def test_read_is_a_copy(model: PreTrainedModel) -> None:
    for spec in list_modules(model):
        read(model, spec).zero_()


def test_matrices_map_inputs_to_outputs(model: PreTrainedModel) -> None:
    """Every Linear and Conv1D computes x Wᵀ + b with its canonical W, each fused matrix in its own block of outputs."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    specs = [spec for spec in list_modules(model) if isinstance(module_of(model, spec), nn.Linear | Conv1D)]
    handles = [module_of(model, spec).register_forward_hook(recorder(seen, spec.name)) for spec in specs]
    tiny_models.outputs(model)
    for handle in handles:
        handle.remove()
    assert set(seen) == {spec.name for spec in specs}
    for spec in specs:
        inputs, outputs = seen[spec.name]
        expected = inputs @ read(model, spec).T
        bias = module_of(model, spec).bias
        if bias is not None:
            expected = expected + bias[spec.start : spec.start + spec.rows]
        torch.testing.assert_close(outputs[..., spec.start : spec.start + spec.rows], expected, rtol=1e-4, atol=1e-4)


def module_of(model: nn.Module, spec: ModuleSpec) -> nn.Module:
    return model.get_submodule(spec.path.removesuffix(".weight"))


def recorder(seen: dict[str, tuple[Tensor, Tensor]], name: str):
    def record(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[name] = inputs[0].clone(), output.clone()

    return record


def test_fused_order_is_query_key_value(gpt2: PreTrainedModel) -> None:
    """The blocks are the query, key and value, in that order; with zero values, all outputs of the attention are equal."""
    attention = gpt2.transformer.h[0].attn
    hidden = torch.randn(1, 5, tiny_models.HIDDEN, generator=torch.Generator().manual_seed(0))
    stored = gpt2.transformer.h[0].attn.c_attn.weight
    blocks = stored.split(tiny_models.HIDDEN, dim=1)
    for kind, block in zip(("query", "key", "value"), blocks, strict=True):
        assert torch.equal(read(gpt2, spec_named(gpt2, f"{kind}.0")), block.T)
    with substituted(gpt2, {spec_named(gpt2, "value.0"): torch.zeros(24, 24)}), torch.no_grad():
        output = attention(hidden)[0]
    torch.testing.assert_close(output, output[:, :1].expand_as(output))


def test_substitution_of_all_at_once(model: PreTrainedModel) -> None:
    generator = torch.Generator().manual_seed(1)
    matrices = {spec: torch.randn(spec.shape, generator=generator) for spec in list_modules(model)}
    with substituted(model, matrices):
        for spec, matrix in matrices.items():
            assert torch.equal(read(model, spec), matrix)


def test_substitution_is_undone_after_an_exception(model: PreTrainedModel) -> None:
    specs = list_modules(model)
    with pytest.raises(RuntimeError, match="inside"), substituted(model, {s: torch.zeros(s.shape) for s in specs}):
        raise RuntimeError("inside")


def test_tied_paths_follow(model: PreTrainedModel) -> None:
    for spec in list_modules(model):
        with substituted(model, {spec: torch.full(spec.shape, 0.25)}):
            for path in spec.tied:
                assert torch.all(model.get_parameter(path) == 0.25)


def test_a_broken_tie_is_noticed() -> None:
    model = tiny_models.bert()
    spec = spec_named(model, "word_embeddings")
    model.cls.predictions.decoder.weight = nn.Parameter(read(model, spec), requires_grad=False)
    before = state(model)
    with pytest.raises(ModelError, match="no longer shares"), substituted(model, {spec: torch.zeros(spec.shape)}):
        pass
    assert same(before, state(model))


def test_half_precision_comes_back_bit_for_bit() -> None:
    model = tiny_models.gpt2().to(torch.bfloat16)
    before = state(model)
    spec = spec_named(model, "key.1")
    with substituted(model, {spec: torch.full(spec.shape, 1 / 3)}):
        assert torch.all(read(model, spec) == torch.tensor(1 / 3).to(torch.bfloat16).float())
    assert same(before, state(model))


def test_values_beyond_the_dtype_are_refused() -> None:
    model = tiny_models.bert().to(torch.float16)
    spec = spec_named(model, "key.1")
    with pytest.raises(ModelError, match=r"576 values that are not finite in torch\.float16"):
        write(model, spec, torch.full(spec.shape, 1e9))


def test_faulty_matrices_are_refused_and_undone(gpt2: PreTrainedModel) -> None:
    query, ffn = spec_named(gpt2, "query.0"), spec_named(gpt2, "ffn_in.0")
    with pytest.raises(ModelError, match=r"ffn_in\.0 has the shape \(40, 24\), but the new matrix has the shape \(24, 40\)"):
        write(gpt2, ffn, torch.zeros(24, 40))
    damaged = torch.zeros(ffn.shape)
    damaged[0, 0] = torch.nan
    zeros = {query: torch.zeros(query.shape)}
    with (
        pytest.raises(ModelError, match="has 1 values that are not finite"),
        substituted(gpt2, {**zeros, ffn: damaged}),
    ):
        pass


def test_overlapping_modules_are_refused(gpt2: PreTrainedModel) -> None:
    query = spec_named(gpt2, "query.0")
    twin = ModuleSpec(**{**query.__dict__, "name": "twin"})
    matrices = {query: torch.zeros(query.shape), twin: torch.ones(query.shape)}
    with pytest.raises(ModelError, match="overwritten by another module"), substituted(gpt2, matrices):
        pass


def test_modules_of_another_model_are_refused(gpt2: PreTrainedModel) -> None:
    with pytest.raises(ModelError, match=r"no weight 'bert\.pooler"):
        read(gpt2, spec_named(tiny_models.shared("bert"), "pooler"))
    spec = spec_named(gpt2, "ffn_in.0")
    with pytest.raises(ModelError, match=r"which does not match ffn_in\.0 of shape \(8, 24\)"):
        read(gpt2, ModuleSpec(**{**spec.__dict__, "rows": 8}))


def test_check_finite_names_the_weight() -> None:
    model = tiny_models.bert()
    check_finite(model)
    with torch.no_grad():
        model.bert.pooler.dense.weight[0, :3] = torch.inf
    with pytest.raises(ModelError, match=r"'bert\.pooler\.dense\.weight' has 3 values"):
        check_finite(model)
