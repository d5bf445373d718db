"""Every family: its matrices have kinds, are the ones the model uses, and survive compression and a round trip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import offcomp
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.live import loaded_from
from offcomp.models.loading import describe
from offcomp.models.weights import list_modules, read, substituted, write
from offcomp.planning.plan import Plan, make_groups, validate
from offcomp.planning.selection import select_modules
from offcomp.runs.dense_export import DenseModel
from tests import tiny_models
from tests.family_models import FAMILY_MODELS, family_model, output_of

ATTENTION = "query key value attention_output"
PLAIN = f"{ATTENTION} ffn_in ffn_out"
GATED = f"{PLAIN} ffn_gate"
EXPERTS = "expert_in expert_gate expert_out"
LATENT = "query_down query_up kv_down kv_up attention_output"
GATED_FAMILIES = (
    *("modernbert", "eurobert", "nomic_bert", "llama", "mistral", "ministral", "ministral3", "qwen2", "qwen3", "gemma"),
    *("gemma2", "gemma3", "phi3", "smollm3", "stablelm", "cohere", "cohere2", "olmo", "olmo2", "granite", "glm", "glm4"),
    *("mt5", "umt5", "t5gemma"),
)
KINDS_OF = {
    **dict.fromkeys(GATED_FAMILIES, GATED),
    **dict.fromkeys(("mixtral", "olmoe", "granitemoe", "gpt_oss", "dbrx"), f"{ATTENTION} {EXPERTS}"),
    **dict.fromkeys(("llama4", "qwen2_moe", "qwen3_moe"), f"{GATED} {EXPERTS}"),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3"), f"{LATENT} ffn_in ffn_gate ffn_out {EXPERTS}"),
    **dict.fromkeys(("mamba", "mamba2"), "ssm_in ssm_out"),
}
NOT_MATRICES = ("conv", "patch_embedd", "bias", "seg_embed", "mask_emb", "cls_token", "position_embeddings", "probe")
"""Words in the paths of parameters with several dimensions that are not matrices."""


@pytest.fixture(params=FAMILY_MODELS)
def model(request: pytest.FixtureRequest) -> Iterator[PreTrainedModel]:
    """A shared model. The test fails if it leaves the model changed."""
    shared = family_model(request.param)
    before = {key: value.clone() for key, value in shared.state_dict().items()}
    yield shared
    assert all(torch.equal(value, before[key]) for key, value in shared.state_dict().items())


def name_of(model: PreTrainedModel) -> str:
    return next(name for name in FAMILY_MODELS if family_model(name) is model)


def changed(before: Tensor, after: Tensor) -> bool:
    return not torch.allclose(before, after, rtol=0, atol=1e-5)


def test_kinds_and_share_listed(model: PreTrainedModel) -> None:
    specs = list_modules(model)
    assert len({spec.name for spec in specs}) == len(specs)
    kinds = {spec.kind for spec in specs if spec.default and spec.kind != "word_embeddings"}
    assert kinds == set(KINDS_OF.get(name_of(model), PLAIN).split())
    listed = Counter[str]()
    for spec in specs:
        listed.update(dict.fromkeys((spec.path, *spec.tied), spec.num_parameters))
    for path, parameter in model.named_parameters(remove_duplicate=False):
        is_matrix = parameter.ndim > 1 and not any(word in path.replace("relative_attention_bias", "") for word in NOT_MATRICES)
        if is_matrix or path in listed:
            assert listed[path] == parameter.numel(), path


def test_layers_are_complete(model: PreTrainedModel) -> None:
    """Every layer has each kind of its part equally often, apart from layers with experts in place of a dense FFN."""
    specs = [spec for spec in list_modules(model) if spec.layer is not None and not spec.kind.startswith(("ffn", "expert"))]
    counts = Counter((spec.part, spec.kind) for spec in specs if spec.default)
    for part in {spec.part for spec in specs}:
        assert len({count for (other, _), count in counts.items() if other == part}) <= 1, counts


def test_zeroing_any_matrix_changes_the_output(model: PreTrainedModel) -> None:
    before = output_of(model)
    for spec in list_modules(model):
        with substituted(model, {spec: torch.zeros(spec.shape)}):
            assert changed(before, output_of(model)), spec.name
    assert torch.equal(before, output_of(model))


def test_read_then_write_changes_nothing(model: PreTrainedModel) -> None:
    for spec in list_modules(model):
        matrix = read(model, spec)
        assert tuple(matrix.shape) == spec.shape
        write(model, spec, matrix)


def test_all_matrices_at_once(model: PreTrainedModel) -> None:
    """No two matrices overlap, and each reads back as written."""
    generator = torch.Generator().manual_seed(1)
    matrices = {spec: torch.randn(spec.shape, generator=generator) for spec in list_modules(model)}
    with substituted(model, matrices):
        assert all(torch.equal(read(model, spec), matrix) for spec, matrix in matrices.items())


def without_biases(model: PreTrainedModel) -> dict[str, Tensor]:
    """All biases, set to zero, as `substituted` takes them."""
    return {path: torch.zeros_like(p) for path, p in model.named_parameters() if p.ndim == 1 and "bias" in path}


def of_kind(specs: tuple[ModuleSpec, ...], *kinds: str) -> list[ModuleSpec]:
    return [spec for spec in specs if spec.kind in kinds and spec.part in ("", "encoder", "decoder", "cross")]


@pytest.mark.parametrize(
    "name", ["gpt2", "gpt_neox", "bloom", "falcon", "falcon_new", "falcon_old", "phi3", "modernbert", "dbrx"]
)
def test_fused_rows_are_those_of_query_key_and_value(name: str) -> None:
    """Without queries, the keys do not matter; without values, neither queries nor keys do. Otherwise all of them do."""
    model = family_model(name)
    specs = tuple(spec for spec in list_modules(model) if spec.fused)
    biases = without_biases(model)
    for spec in of_kind(specs, "query", "value"):
        silenced = {spec: torch.zeros(spec.shape)}
        kinds = ("key",) if spec.kind == "query" else ("query", "key")
        others = [other for other in specs if other.layer == spec.layer and other.kind in kinds]
        with substituted(model, silenced, biases):
            before = output_of(model)
        with substituted(model, silenced | {s: torch.ones(s.shape) for s in others}, biases):
            torch.testing.assert_close(output_of(model), before)
        with substituted(model, {s: torch.ones(s.shape) for s in others}, biases):
            assert changed(before, output_of(model))


@pytest.mark.parametrize("name", ["modernbert", "phi3", "glm4", "mixtral", "qwen2_moe", "llama4", "deepseek_v3", "dbrx"])
def test_fused_gates_come_first(name: str) -> None:
    """Negating both sides of the product with the gate changes nothing; negating the gate instead does."""
    model = family_model(name)
    specs, before = list_modules(model), output_of(family_model(name))
    for part in ("ffn", "expert"):
        turned = {kind: {s: -read(model, s) for s in specs if s.kind == f"{part}_{kind}"} for kind in ("in", "gate", "out")}
        if not turned["out"]:
            continue
        with substituted(model, turned["in"] | turned["out"]):
            torch.testing.assert_close(output_of(model), before, rtol=1e-4, atol=1e-4)
        with substituted(model, turned["gate"] | turned["out"]):
            assert changed(before, output_of(model))


def test_experts_of_gpt_oss_are_its_columns() -> None:
    model = family_model("gpt_oss")
    specs = {spec.name: spec for spec in list_modules(model)}
    stored = model.model.layers[1].mlp.experts
    assert torch.equal(read(model, specs["expert_gate.1.e3"]), stored.gate_up_proj[3, :, 0::2].T)
    assert torch.equal(read(model, specs["expert_in.1.e3"]), stored.gate_up_proj[3, :, 1::2].T)
    assert torch.equal(read(model, specs["expert_out.1.e3"]), stored.down_proj[3].T)


def test_deberta_divides_its_rows_by_heads() -> None:
    model = family_model("deberta")
    specs = {spec.name: spec for spec in list_modules(model)}
    weight = model.deberta.encoder.layer[1].attention.self.in_proj.weight
    heads = weight.unflatten(0, (4, 3, 6))
    for index, kind in enumerate(("query", "key", "value")):
        assert torch.equal(read(model, specs[f"{kind}.1"]), heads[:, index].flatten(0, 1))


def test_a_plan_without_any_choice(model: PreTrainedModel) -> None:
    """The default kinds include experts, but no router, head, pooler or embedding; every group fits into half its size."""
    info = loaded_from(model).info
    groups = make_groups(select_modules(info), "kind", ratio=2.0)
    kinds = {info.module(name).kind for group in groups for name in group.modules}
    assert kinds == set(KINDS_OF.get(name_of(model), PLAIN).split())
    validate(Plan(model=info.model, groups=groups, tasks=()), info)


def test_experts_of_dbrx_are_rows_of_its_tensors() -> None:
    model = family_model("dbrx")
    specs = {spec.name: spec for spec in list_modules(model)}
    stored = model.transformer.blocks[1].ffn.experts.mlp
    for kind, tensor in (("expert_gate", stored.w1), ("expert_in", stored.v1), ("expert_out", stored.w2.T)):
        matrix = tensor[:, 60:80] if kind == "expert_out" else tensor[60:80]
        assert torch.equal(read(model, specs[f"{kind}.1.e3"]), matrix)


def test_experts_are_chosen_by_layer() -> None:
    info = loaded_from(family_model("mixtral")).info
    names = [spec.name for spec in select_modules(info, "expert_in.1")]
    assert names == [f"expert_in.1.e{expert}" for expert in range(5)]


def test_calibration_beside_experts(tmp_path: Path) -> None:
    """Other weights of a model with experts can be fitted to a text."""
    loaded = offcomp.load(str(tiny_models.save(family_model("mixtral"), tmp_path)))
    texts = [" ".join(f"w{(7 * text + word) % 55 + 2}" for word in range(12)) for text in range(40)]
    choices = {"method": "codebook", "options": {"feedback": True}, "ratio": 1.5, "unit": "bytes", "progress": False}
    assert 0 < offcomp.compress(loaded, "key", together="kind", calibration=texts, **choices).relative_error < 1


@pytest.mark.parametrize("method", ["svd", "codebook"])
def test_compression_in_memory(model: PreTrainedModel, method: str) -> None:
    ratio, unit = (1.2, "parameters") if method == "svd" else (1.5, "bytes")
    compressed = offcomp.compress(model, layers=[0, 1], method=method, ratio=ratio, unit=unit, together="kind", progress=False)
    kinds = {spec.kind for group in compressed for spec in group.reconstructions}
    assert kinds == set(KINDS_OF.get(name_of(model), PLAIN).split())
    assert 0 < compressed.relative_error < 1


def test_dense_export_and_reload(model: PreTrainedModel, tmp_path: Path) -> None:
    """The exported folder, as transformers loads it, is the model with the new weights."""
    folder, copy = tmp_path / "model", tmp_path / "copy"
    model.save_pretrained(folder)
    info = describe(str(folder))
    assert info.modules == list_modules(model)
    halved = {spec: read(model, spec) / 2 for spec in info.modules if spec.default}
    DenseModel(str(folder), copy).write(halved)
    reloaded = type(model).from_pretrained(copy).eval()
    with substituted(model, halved):
        torch.testing.assert_close(output_of(reloaded), output_of(model))
