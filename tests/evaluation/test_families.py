"""Every family of tasks on every kind of model, even for images and sound, returns a score or a one-sentence error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

from offcomp.errors import PlanError, TaskError
from offcomp.evaluation import open_task
from offcomp.models.loading import LoadedModel, describe, load
from offcomp.planning.data.tasks import FAMILIES, ONE, OWN_FAMILIES, Task, find_task, fitting_families, unfit, usual_tasks
from offcomp.planning.plan import Plan, validate
from tests import tiny_models
from tests.cli.test_main import Command
from tests.language_models import SPECIALS, syllable_tokenizer, texts_of
from tests.tiny_models import Tiny

HEADED = ("bert_classifier", "xlm_roberta_classifier", "distilbert", "deberta_v2")
MASKED = ("bert", "roberta", "albert", "electra", "mpnet")
CAUSAL = ("gpt2", "opt", "llama", "mistral", "qwen2")
EMBEDDED = {"probe", "regression", "similarity", "embedding-fidelity"}
CAN_DO = {
    **{name: EMBEDDED | {"head", "head-fidelity"} for name in HEADED},
    **{name: EMBEDDED | {"masked-lm", "masked-fidelity"} for name in MASKED},
    **{name: EMBEDDED | {"causal-lm", "causal-fidelity"} for name in CAUSAL},
    "bert_base": EMBEDDED,
    **dict.fromkeys(("t5", "t5_gated"), EMBEDDED | {"seq2seq-lm"}),
}


def whisper() -> transformers.PreTrainedModel:
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
    config = transformers.WhisperConfig(**sizes, **heads, **tokens, vocab_size=61, d_model=24, num_mel_bins=8)
    return tiny_models._built("WhisperForConditionalGeneration", config)


def vit() -> transformers.PreTrainedModel:
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 4}
    return tiny_models._built("ViTForImageClassification", transformers.ViTConfig(**sizes, image_size=32, patch_size=16))


def wav2vec2() -> transformers.PreTrainedModel:
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 61}
    convolutions = {"conv_dim": (8, 8), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_conv_pos_embedding_groups": 4}
    return tiny_models._built("Wav2Vec2Model", transformers.Wav2Vec2Config(**sizes, **convolutions, num_conv_pos_embeddings=8))


WITHOUT_TEXT: dict[str, Callable[[], transformers.PreTrainedModel]] = {"whisper": whisper, "vit": vit, "wav2vec2": wav2vec2}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A CSV file with pairs of texts, classes and scores."""
    generator = np.random.default_rng(2)
    lengths = [int(length) for length in generator.integers(4, 12, 160)]
    texts = texts_of(*lengths)
    columns = {"one": texts[:80], "two": texts[80:], "class": [f"c{i % 5}" for i in range(80)], "near": generator.random(80)}
    path = tmp_path_factory.mktemp("data") / "mine.csv"
    pd.DataFrame(columns).to_csv(path, index=False)
    return str(path)


def columns_for(family: str) -> dict[str, str]:
    inputs = {"text": "one"} if ONE in FAMILIES[family].inputs else {"sentence1": "one", "sentence2": "two"}
    target = {"label": "class", "score": "near", "": ""}[FAMILIES[family].target]
    return inputs | ({FAMILIES[family].target: target} if target else {})


def readable(loaded: LoadedModel, masked: bool) -> LoadedModel:
    """Return the model with a syllable tokenizer, whose padding token is that of the model's config."""
    tokenizer = syllable_tokenizer(masked, **(SPECIALS if masked else {"unk_token": "[UNK]"}))
    if loaded.model.config.pad_token_id:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(loaded.model.config.pad_token_id)
    return replace(loaded, tokenizer=tokenizer)


@pytest.mark.parametrize("name", tiny_models.TINY)
def test_a_model_of_text_does_its_families_and_says_so_of_the_others(tiny: Tiny, table: str, name: str) -> None:
    loaded = readable(tiny(name), masked=name in MASKED)
    done = set()
    for family in OWN_FAMILIES:
        task = Task(name="mine", family=family, data=table, columns=columns_for(family))
        try:
            score = open_task(task, loaded).original()
        except TaskError as error:
            assert "\n" not in str(error) and len(str(error)) < 400
            if family != "head-regression":
                assert all(other in str(error) for other in CAN_DO[name]), error
            continue
        assert np.isfinite(score.value) and score.n >= 20
        done.add(family)
    assert done == CAN_DO[name]
    assert done <= set(fitting_families(loaded.info.architecture, loaded.info.reads_text))


@pytest.mark.parametrize("name", WITHOUT_TEXT)
def test_a_model_of_images_or_sound_is_told_in_one_sentence(offcomp: Command, tmp_path: Path, table: str, name: str) -> None:
    folder = str(tiny_models.save(WITHOUT_TEXT[name](), tmp_path / name))
    info = describe(folder)
    assert not info.reads_text and info == type(info).from_dict(info.to_dict())
    assert usual_tasks(info.architecture, info.reads_text) == ()
    offcomp("tasks")  # discards the output of saving the model
    for flags in ((), ("--task", "sentiment"), ("--data", table, "--family", "probe", "--column", "text=one")):
        status, out, err = offcomp("evaluate", folder, *flags)
        assert (status, out) == (2, "")
        assert len(err.strip().splitlines()) == 1
        assert info.architecture in err and "supports no family of tasks" in err
    with pytest.raises(PlanError, match="no family of tasks"):
        validate(Plan(model=folder, groups=(), tasks=("sentiment",)), info)
    with pytest.raises(TaskError, match="no family of tasks"):  # metadata from an earlier version lack `reads_text`
        open_task(find_task("sentiment"), replace(load(folder), info=replace(info, reads_text=True)))


def test_a_model_that_reads_text_but_fails_at_it_is_one_sentence(
    tiny: Tiny, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = readable(tiny("bert_base"), masked=True)

    def forward(*inputs: Any, **named: Any) -> None:
        raise ValueError("You have to specify bbox\nand more")

    monkeypatch.setattr(loaded.model.embeddings, "forward", forward)
    task = Task(name="mine", family="similarity", data=table, columns=columns_for("similarity"))
    with pytest.raises(TaskError, match=r"BertModel\): You have to specify bbox; choose a different task family") as error:
        open_task(task, loaded)
    assert "\n" not in str(error.value)


def test_an_encoder_decoder_with_a_head_scores_or_says_why_not(tmp_path: Path, table: str) -> None:
    """Its head reads the end token of each text, which the second tokenizer does not add."""
    sizes = {"d_model": 24, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    ids = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 1, "decoder_start_token_id": 3, "forced_eos_token_id": 3}
    config = transformers.BartConfig(**sizes, **heads, **ids, vocab_size=61, max_position_embeddings=40, num_labels=5)
    folder = tiny_models.save(tiny_models._built("BartForSequenceClassification", config), tmp_path / "bart", tokenizer=False)
    loaded = load(str(folder))
    task = Task(name="mine", family="head", data=table, columns=columns_for("head"))
    framed = open_task(task, readable(loaded, masked=True)).original()
    assert framed.n == 80
    with pytest.raises(TaskError, match=r"BartForSequenceClassification\): .*choose a different task family"):
        open_task(task, readable(loaded, masked=False)).original()


def test_the_families_of_a_class_are_those_it_is_fit_for() -> None:
    assert set(fitting_families("BertModel")) == EMBEDDED
    assert set(fitting_families("BertForMaskedLM")) == EMBEDDED | {"masked-lm", "masked-fidelity"}
    assert fitting_families("Matrices") == fitting_families("ViTModel", reads_text=False) == ()
    named = ", ".join(family for family in FAMILIES if family in EMBEDDED)
    assert f"the families {named}." in str(unfit(find_task("causal-prose"), "BertModel"))


def test_the_trial_leaves_the_global_generator_alone(tiny: Tiny, table: str) -> None:
    before = torch.random.get_rng_state()
    open_task(
        Task(name="mine", family="similarity", data=table, columns=columns_for("similarity")),
        readable(tiny("bert_base"), masked=True),
    )
    assert torch.equal(before, torch.random.get_rng_state())
