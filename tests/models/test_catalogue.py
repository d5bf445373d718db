"""The names, kinds and shapes of the modules of every family, compared with explicit tables."""

from __future__ import annotations

import subprocess
import sys

import pytest

from offcomp.models.catalogue import ModuleSpec
from offcomp.models.families import FAMILIES, KINDS, OTHER_KINDS, family_of, match
from offcomp.models.weights import list_modules
from tests import tiny_models

V, H, F, P = tiny_models.VOCABULARY, tiny_models.HIDDEN, tiny_models.FFN, tiny_models.POSITIONS
E, KV, T5_INNER = 14, 12, 20

Table = dict[str, tuple[str, int, int]]


def layers(depth: int = 2, part: str = "", **shapes: tuple[int, int]) -> Table:
    """The entries of `depth` layers, named `query.0`, `query.1`, and so on for each kind."""
    return {f"{part}{kind}.{layer}": (kind, *shape) for kind, shape in shapes.items() for layer in range(depth)}


def others(kind: str, **shapes: tuple[int, int]) -> Table:
    """The entries of modules of this kind, such as heads, by their paths; each `__` in a keyword becomes a dot."""
    return {path.replace("__", "."): (kind, *shape) for path, shape in shapes.items()}


SQUARE = {"query": (H, H), "key": (H, H), "value": (H, H), "attention_output": (H, H)}
PLAIN = {**SQUARE, "ffn_in": (F, H), "ffn_out": (H, F)}
T5_ATTENTION = dict.fromkeys(("query", "key", "value"), (T5_INNER, H)) | {"attention_output": (H, T5_INNER)}
WORDS: Table = {"word_embeddings": ("word_embeddings", V, H)}
NARROW_WORDS: Table = {"word_embeddings": ("word_embeddings", V, E)}
POOLER: Table = {"pooler": ("pooler", H, H)}


def bert_embeddings(prefix: str, types: int = 3, width: int = H) -> Table:
    return others(
        "other",
        **{
            f"{prefix}embeddings__position_embeddings": (P, width),
            f"{prefix}embeddings__token_type_embeddings": (types, width),
        },
    )


LLAMA = {**SQUARE, "key": (KV, H), "value": (KV, H), "ffn_in": (F, H), "ffn_gate": (F, H), "ffn_out": (H, F)}
T5_FFN = {"ffn_in": (F, H), "ffn_out": (H, F)}
T5_BIASES = others(
    "other",
    encoder__block__0__layer__0__SelfAttention__relative_attention_bias=(8, 4),
    decoder__block__0__layer__0__SelfAttention__relative_attention_bias=(8, 4),
)
T5_ATTENTIONS = {
    **WORDS,
    **layers(2, "encoder.", **T5_ATTENTION),
    **layers(3, "decoder.", **T5_ATTENTION),
    **layers(3, "cross.", **T5_ATTENTION),
    **T5_BIASES,
}

EXPECTED: dict[str, Table] = {
    "bert": {
        **WORDS,
        **layers(**PLAIN),
        **POOLER,
        **bert_embeddings("bert__"),
        **others("head", cls__predictions__transform__dense=(H, H), cls__seq_relationship=(2, H)),
    },
    "bert_classifier": {
        **WORDS,
        **layers(**PLAIN),
        **POOLER,
        **bert_embeddings("bert__"),
        **others("head", classifier=(5, H)),
    },
    "bert_base": {**WORDS, **layers(**PLAIN), **POOLER, **bert_embeddings("")},
    "roberta": {
        **WORDS,
        **layers(**PLAIN),
        **bert_embeddings("roberta__", types=1),
        **others("head", lm_head__dense=(H, H)),
    },
    "xlm_roberta_classifier": {
        **WORDS,
        **layers(**PLAIN),
        **bert_embeddings("roberta__", types=1),
        **others("head", classifier__dense=(H, H), classifier__out_proj=(5, H)),
    },
    "distilbert": {
        **WORDS,
        **layers(**PLAIN),
        **others("other", distilbert__embeddings__position_embeddings=(P, H)),
        **others("head", pre_classifier=(H, H), classifier=(5, H)),
    },
    "albert": {
        **NARROW_WORDS,
        **layers(4, **PLAIN),
        **POOLER,
        **bert_embeddings("albert__", width=E),
        **others("other", albert__encoder__embedding_hidden_mapping_in=(H, E)),
        **others("head", predictions__dense=(E, H), sop_classifier__classifier=(2, H)),
    },
    "electra": {
        **NARROW_WORDS,
        **layers(**PLAIN),
        **bert_embeddings("electra__", width=E),
        **others("other", electra__embeddings_project=(H, E)),
        **others("head", generator_predictions__dense=(E, H)),
    },
    "deberta_v2": {
        **WORDS,
        **layers(**PLAIN),
        **POOLER,
        **bert_embeddings("deberta__"),
        **others(
            "other",
            deberta__encoder__layer__0__attention__self__pos_key_proj=(H, H),
            deberta__encoder__layer__0__attention__self__pos_query_proj=(H, H),
            deberta__encoder__layer__1__attention__self__pos_key_proj=(H, H),
            deberta__encoder__layer__1__attention__self__pos_query_proj=(H, H),
            deberta__encoder__rel_embeddings=(8, H),
        ),
        **others("head", classifier=(5, H)),
    },
    "gpt2": {**WORDS, **layers(**PLAIN), **others("other", transformer__wpe=(P, H))},
    "opt": {
        **NARROW_WORDS,
        **layers(**PLAIN),
        **others(
            "other",
            model__decoder__embed_positions=(P + 2, H),
            model__decoder__project_out=(E, H),
            model__decoder__project_in=(H, E),
        ),
    },
    "llama": {**WORDS, **layers(**LLAMA), **others("head", lm_head=(V, H))},
    "mistral": {**WORDS, **layers(**LLAMA), **others("head", lm_head=(V, H))},
    "qwen2": {**WORDS, **layers(**LLAMA)},
    "t5": {**T5_ATTENTIONS, **layers(2, "encoder.", **T5_FFN), **layers(3, "decoder.", **T5_FFN)},
    "t5_gated": {
        **T5_ATTENTIONS,
        **layers(2, "encoder.", **T5_FFN, ffn_gate=(F, H)),
        **layers(3, "decoder.", **T5_FFN, ffn_gate=(F, H)),
        **others("head", lm_head=(V, H)),
    },
    "mpnet": {
        **WORDS,
        **layers(**PLAIN),
        **others("other", mpnet__embeddings__position_embeddings=(P, H), mpnet__encoder__relative_attention_bias=(32, 4)),
        **others("head", lm_head__dense=(H, H)),
    },
}

TIED = {
    "bert": ("cls.predictions.decoder.weight",),
    "roberta": ("lm_head.decoder.weight",),
    "albert": ("predictions.decoder.weight",),
    "electra": ("generator_lm_head.weight",),
    "gpt2": ("lm_head.weight",),
    "opt": ("lm_head.weight",),
    "qwen2": ("lm_head.weight",),
    "t5": ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"),
    "t5_gated": ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
    "mpnet": ("lm_head.decoder.weight",),
}


def test_every_tiny_model_has_a_table() -> None:
    assert set(EXPECTED) == set(tiny_models.TINY)


@pytest.mark.parametrize("name", EXPECTED)
def test_names_kinds_and_shapes(name: str) -> None:
    listed = list_modules(tiny_models.shared(name))
    assert len({spec.name for spec in listed}) == len(listed)
    assert {spec.name: (spec.kind, *spec.shape) for spec in listed} == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_layers_and_parts_follow_the_name(name: str) -> None:
    for spec in list_modules(tiny_models.shared(name)):
        assert spec.kind in (*KINDS, *OTHER_KINDS)
        assert spec.default == (spec.kind in KINDS)
        if spec.layer is not None:
            prefix = f"{spec.part}." if spec.part else ""
            assert spec.name == f"{prefix}{spec.kind}.{spec.layer}"
        assert spec.path.endswith(".weight")


@pytest.mark.parametrize("name", EXPECTED)
def test_tied_weights_are_listed_once(name: str) -> None:
    model = tiny_models.shared(name)
    tied = {spec.name: spec.tied for spec in list_modules(model) if spec.tied}
    assert tuple(path for paths in tied.values() for path in paths) == TIED.get(name, ())
    paths = [spec.path for spec in list_modules(model)]
    assert not set(paths) & set(TIED.get(name, ()))
    matrices = {id(parameter): parameter for parameter in map(model.get_parameter, paths)}
    assert sum(spec.num_parameters for spec in list_modules(model)) == sum(p.numel() for p in matrices.values())


def test_gpt2_is_split_into_three() -> None:
    specs = {spec.name: spec for spec in list_modules(tiny_models.shared("gpt2"))}
    pieces = [specs[f"{kind}.1"] for kind in ("query", "key", "value")]
    assert {piece.path for piece in pieces} == {"transformer.h.1.attn.c_attn.weight"}
    assert [piece.start for piece in pieces] == [0, H, 2 * H]
    assert all(piece.fused and piece.transposed for piece in pieces)
    assert specs["ffn_in.1"].transposed and not specs["ffn_in.1"].fused
    assert not specs["word_embeddings"].transposed


def test_residual_sides_have_the_hidden_width() -> None:
    for name in ("bert", "gpt2", "llama", "t5_gated"):
        for spec in list_modules(tiny_models.shared(name)):
            if spec.default:
                assert spec.residual_side is not None
                assert spec.shape[spec.residual_side == "columns"] == H
    assert ModuleSpec("pooler", "pooler", None, "", "pooler.dense.weight", 2, 3).residual_side is None


def test_model_types_belong_to_one_family() -> None:
    types = [model_type for family in FAMILIES for model_type in family.model_types]
    assert len(types) == len(set(types))
    assert family_of("no-such-type") is None


@pytest.mark.parametrize(
    ("model_type", "path", "kind"),
    [
        ("bert", "encoder.layer.11.attention.self.query", "query"),
        ("bert", "bert.encoder.layer.11.attention.output.dense", "attention_output"),
        ("bert", "bert.encoder.layer.11.output.dense", "ffn_out"),
        ("bert", "bert.encoder.layer.11.crossattention.self.query", "other"),
        ("bert", "qa_outputs", "head"),
        ("deberta-v2", "deberta.encoder.layer.0.attention.self.pos_query_proj", "other"),
        ("gpt2", "h.3.mlp.c_fc", "ffn_in"),
        ("gpt2", "score", "head"),
        ("opt", "decoder.layers.3.fc2", "ffn_out"),
        ("llama", "layers.3.mlp.gate_proj", "ffn_gate"),
        ("t5", "transformer.decoder.block.3.layer.2.DenseReluDense.wi", "ffn_in"),
        ("t5", "classification_head.out_proj", "head"),
        ("electra", "discriminator_predictions.dense_prediction", "head"),
    ],
)
def test_patterns_fit_base_and_task_classes(model_type: str, path: str, kind: str) -> None:
    family = family_of(model_type)
    assert family
    assert match(family, path).pattern.kind == kind


def test_no_torch_is_needed() -> None:
    code = (
        "import sys, offcomp.models.catalogue, offcomp.models.sources as s; s.bundled_info('minilm-l6');"
        "assert not {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
