"""The perplexity of encoder-decoders: the losses are those of transformers, token by token."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset, DatasetDict

from offcomp.errors import TaskError
from offcomp.evaluation.base import TaskData
from offcomp.evaluation.seq2seq_lm import Seq2SeqLM
from offcomp.models.loading import LoadedModel, load
from offcomp.planning.data.tasks import Task, usual_tasks
from tests import tiny_models
from tests.language_models import ids_of, opened, syllable_tokenizer, texts_of

SOURCES, TARGETS = texts_of(5, 9, 3, 12, 8), texts_of(4, 6, 10, 2, 7)


def bart() -> transformers.PreTrainedModel:
    sizes = {"d_model": 24, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    ids = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0, "decoder_start_token_id": 3, "forced_eos_token_id": 3}
    config = transformers.BartConfig(**sizes, **heads, **ids, vocab_size=61, max_position_embeddings=40)
    return tiny_models._built("BartForConditionalGeneration", config)


@pytest.fixture(scope="module", params=["t5", "t5_gated", "bart"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    if request.param != "bart":
        return opened(tmp_path_factory.mktemp("t5"), request.param, framed=False)
    loaded = load(str(tiny_models.save(bart(), tmp_path_factory.mktemp("bart") / "bart", tokenizer=False)))
    return replace(loaded, tokenizer=syllable_tokenizer(True, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"))  # noqa: S106


def data_of(**options: int) -> TaskData:
    task = Task(name="made", family="seq2seq-lm", data="made.csv", options=options)
    splits = {"test": Dataset.from_dict({"sentence1": SOURCES, "sentence2": TARGETS})}
    return TaskData(task, DatasetDict(splits), "0123456789ab")


def own_loss(loaded: LoadedModel, source: list[int], target: list[int]) -> float:
    """The mean loss of the target as transformers computes it from labels. Special tokens are not scored."""
    assert loaded.tokenizer is not None
    framed = loaded.tokenizer(" ")["input_ids"]
    before, after = framed[: len(framed) // 2], framed[len(framed) // 2 :]
    labels = torch.tensor([[*before, *target]])
    inputs = {"input_ids": torch.tensor([[*before, *source, *after]]), "labels": labels}
    with torch.no_grad():
        logits = loaded.model(**inputs).logits[0, len(before) :]
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(target)))


def test_pairs_have_the_losses_of_transformers(model: LoadedModel) -> None:
    evaluator = Seq2SeqLM(model, data_of())
    reference = evaluator.reference()
    losses = np.split(reference["loss"], np.cumsum([len(row.targets) for row in evaluator.rows])[:-1])
    for source, target, loss in zip(SOURCES, TARGETS, losses, strict=True):
        expected = own_loss(model, ids_of(model, source), ids_of(model, target))
        assert loss.mean() == pytest.approx(expected, rel=1e-5)
    score = evaluator.compare(reference, evaluator.predict(reference))
    assert score.metric == "target perplexity" and score.unchanged
    assert score.original.n == sum(len(ids_of(model, target)) for target in TARGETS)
    assert score.original.value == pytest.approx(float(np.exp(reference["loss"].mean())))


def test_a_single_text_is_cut_into_halves(model: LoadedModel) -> None:
    text = texts_of(12)[0]
    task = Task(name="made", family="seq2seq-lm", data="made.csv")
    texts = [text, *TARGETS]
    data = TaskData(task, DatasetDict({"test": Dataset.from_dict({"text": texts})}), "0123456789ab")
    row = Seq2SeqLM(model, data).rows[0]
    ids = ids_of(model, text)
    assert row.targets == ids[6:] and list(row.source)[-12:][: len(ids[:6])] is not None
    assert [token for token in row.source if token > 4][:6] == ids[:6]


def test_long_texts_are_cut_and_other_models_refused(model: LoadedModel, tmp_path: Path) -> None:
    evaluator = Seq2SeqLM(model, data_of(source_tokens=6, target_tokens=5))
    assert max(len(row.source) for row in evaluator.rows) <= 6
    assert max(len(row.targets) for row in evaluator.rows) <= 5
    with pytest.raises(TaskError, match="leave room"):
        Seq2SeqLM(model, data_of(source_tokens=0))
    with pytest.raises(TaskError, match="is not an encoder-decoder"):
        Seq2SeqLM(opened(tmp_path, "gpt2"), data_of())
    assert "seq2seq-prose" in usual_tasks("T5ForConditionalGeneration")
    assert "seq2seq-prose" not in usual_tasks("GPT2LMHeadModel")
