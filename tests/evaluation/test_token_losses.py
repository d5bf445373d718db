"""What masked and left-to-right perplexity have in common: token scores, the baseline, the comparison, and rejected inputs."""

from __future__ import annotations

import json
from dataclasses import replace
from math import exp, log
from pathlib import Path

import numpy as np
import pytest
import torch

from offcomp.errors import ModelError, TaskError
from offcomp.evaluation import token_losses
from offcomp.evaluation.base import Arrays
from offcomp.evaluation.causal_lm import CausalLM
from offcomp.evaluation.masked_lm import MaskedLM
from offcomp.evaluation.trial import check_fits
from offcomp.models.loading import LoadedModel
from offcomp.planning.data.tasks import find_task
from tests import tiny_models
from tests.language_models import (
    CAUSAL,
    MASKED,
    SPECIALS,
    TEXTS,
    bert,
    by_row,
    causal,
    data_of,
    ids_of,
    masked,
    opened,
    syllable_tokenizer,
    zeroed,
)

__all__ = ["bert"]  # a fixture


@pytest.mark.parametrize("name", [*MASKED, *CAUSAL])
def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(tmp_path: Path, name: str) -> None:
    loaded = opened(tmp_path, name)
    zeroed(loaded)
    evaluator = masked(loaded) if name in MASKED else causal(loaded, context=12, stride=6)
    losses = evaluator.reference()["loss"]
    assert exp(losses.mean()) == pytest.approx(tiny_models.VOCABULARY, rel=1e-5)


@pytest.mark.parametrize("name", [*MASKED, *CAUSAL])
def test_padding_does_not_matter(tmp_path: Path, name: str) -> None:
    loaded = opened(tmp_path, name)
    evaluator: MaskedLM | CausalLM = masked(loaded, fraction=1.0) if name in MASKED else causal(loaded)
    together = evaluator.reference()["loss"]
    alone = [
        (masked(loaded, [text], fraction=1.0) if name in MASKED else causal(loaded, [text])).reference()["loss"]
        for text in TEXTS
    ]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-4)


@pytest.mark.parametrize("name", [*MASKED, *CAUSAL])
def test_the_head_gives_the_same_for_the_asked_places_alone(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = opened(tmp_path, name)
    make = masked if name in MASKED else causal
    widths: list[int] = []
    head = next(
        module
        for module in reversed(list(loaded.model.modules()))
        if isinstance(module, torch.nn.Linear) and module.out_features == tiny_models.VOCABULARY
    )
    evaluator = make(loaded)
    hook = head.register_forward_hook(lambda _module, inputs, _output: widths.append(inputs[0].shape[0] * inputs[0].shape[1]))
    fast = evaluator.reference()
    hook.remove()
    if name != "opt":  # OPT calls its decoder directly, not its base model
        written = fast["continuations"].size if name in CAUSAL else 0
        assert sum(widths) == len(fast["loss"]) + written
    monkeypatch.setattr(token_losses, "_can_gather", lambda *_: False)
    plain = make(loaded).reference()
    np.testing.assert_allclose(fast["loss"], plain["loss"], atol=1e-4)
    assert np.array_equal(fast["correct"], plain["correct"])


def test_small_batches_give_the_same_as_large_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = opened(tmp_path, "llama")
    large = causal(loaded).reference()["loss"]
    monkeypatch.setattr(token_losses, "MAX_LOGITS", 1)
    evaluator = causal(loaded)
    seen: list[float] = []
    np.testing.assert_allclose(evaluator.reference(seen.append)["loss"], large, atol=1e-4)
    assert len(seen) == len(evaluator.rows) and seen == sorted(seen) and seen[-1] == 1.0


def test_a_token_counts_as_told_where_it_is_the_likeliest(tmp_path: Path) -> None:
    loaded = opened(tmp_path, "electra")
    zeroed(loaded)
    always = ids_of(loaded, TEXTS[1])[0]
    loaded.model.get_parameter("generator_lm_head.bias")[always] = 3.0
    evaluator = masked(loaded)
    answers = evaluator.reference()
    right = np.array([target == always for row in evaluator.rows for target in row.targets])
    assert right.any() and not right.all()
    assert np.array_equal(answers["correct"], right)
    sure = log(exp(3) + tiny_models.VOCABULARY - 1)
    np.testing.assert_allclose(answers["loss"], np.where(right, sure - 3, sure), rtol=1e-5)


# -------------------------------------------------------------------------------------------------------------- baseline


def test_the_unigram_baseline_by_hand() -> None:
    targets, counted = np.array([0, 2]), np.array([0, 0, 1, 0])
    assert token_losses.unigram_perplexity(targets, counted, 3) == pytest.approx(exp(-(log(4 / 7) + log(1 / 7)) / 2))


def test_the_baseline_is_counted_on_the_validation_texts_where_there_are_some(bert: LoadedModel) -> None:
    test, other = ["ba ba ba ba"], ["do do do do do do do do"]
    assert masked(bert, test).unigram == pytest.approx((4 + 61) / 5)
    assert MaskedLM(bert, data_of("masked-lm", test, validation=test)).unigram == pytest.approx((4 + 61) / 5)
    assert MaskedLM(bert, data_of("masked-lm", test, validation=other)).unigram == pytest.approx(8 + 61)


# ------------------------------------------------------------------------------------------------------------ comparison


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_an_unchanged_model_differs_by_nothing(tmp_path: Path, name: str) -> None:
    loaded = opened(tmp_path, name)
    evaluator = masked(loaded) if name == "bert" else causal(loaded)
    reference = evaluator.reference()
    result = evaluator.compare(reference, evaluator.predict(reference))
    assert result.unchanged is True
    assert result.paired.difference == 0.0 and result.paired.interval == (0.0, 0.0)
    assert result.original == result.compressed
    assert result.original.value == pytest.approx(exp(reference["loss"].mean()))
    assert result.metric == ("masked perplexity" if name == "bert" else "perplexity")
    assert result.direction == "lower"
    assert result.baseline.to_dict() == {"name": "unigram", "value": evaluator.unigram}
    assert result.protocol == evaluator.settings
    document = result.to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document


@pytest.mark.parametrize("name", ["roberta", "llama"])
def test_a_ruined_model_ends_at_the_size_of_its_vocabulary(tmp_path: Path, name: str) -> None:
    loaded = opened(tmp_path, name)
    evaluator = masked(loaded) if name == "roberta" else causal(loaded)
    reference = evaluator.reference()
    zeroed(loaded)
    result = evaluator.compare(reference, evaluator.predict(reference))
    assert result.unchanged is False
    assert result.compressed.value == pytest.approx(tiny_models.VOCABULARY, rel=1e-4)
    assert result.original.value == pytest.approx(exp(reference["loss"].mean()))
    assert result.token_accuracy["original"] == pytest.approx(reference["correct"].mean())
    assert result.changes


def worse(reference: Arrays) -> Arrays:
    """Return answers whose losses exceed those of the reference by an amount that grows from token to token."""
    return {**reference, "loss": reference["loss"] + np.arange(len(reference["loss"]))}


def test_texts_are_the_independent_pieces_where_there_are_enough(bert: LoadedModel) -> None:
    evaluator = masked(bert)
    reference = evaluator.reference()
    result = evaluator.compare(reference, worse(reference))
    assert result.units == len(TEXTS)
    last = result.changes[0]
    assert last.text == TEXTS[-1]
    assert last.original == pytest.approx(by_row(evaluator, reference["loss"])[-1].mean())


def test_rows_are_the_independent_pieces_of_few_texts(bert: LoadedModel) -> None:
    evaluator = masked(bert, TEXTS[:2])
    reference = evaluator.reference()
    result = evaluator.compare(reference, worse(reference))
    assert result.units == len(evaluator.rows) > 2
    assert "[MASK]" in result.changes[0].text


def test_texts_without_tokens_do_not_shift_the_others(bert: LoadedModel) -> None:
    evaluator, spaced = masked(bert), masked(bert, [part for text in TEXTS for part in ("", text)])
    reference = evaluator.reference()
    result = evaluator.compare(reference, worse(reference))
    other = spaced.compare(spaced.reference(), worse(reference))
    assert [change.text for change in other.changes] == [change.text for change in result.changes]
    assert other.units == result.units == len(TEXTS)


# -------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["roberta", "gpt2"])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, name: str, value: float) -> None:
    loaded = opened(tmp_path, name)
    evaluator = masked(loaded) if name == "roberta" else causal(loaded)
    reference = evaluator.reference()
    next(parameter for path, parameter in loaded.model.named_parameters() if path.endswith("bias"))[0] = value
    with pytest.raises(TaskError, match=f"{name}.* not finite"):
        evaluator.predict(reference)
    with pytest.raises(TaskError, match="not finite"):
        (masked(loaded) if name == "roberta" else causal(loaded)).reference()


def test_a_model_of_another_kind_is_refused(tmp_path: Path, bert: LoadedModel) -> None:
    with pytest.raises(TaskError, match="ForCausalLM"):
        check_fits(bert, find_task("causal-prose"))
    with pytest.raises(TaskError, match="ForMaskedLM"):
        check_fits(opened(tmp_path, "llama"), find_task("masked-prose"))


def test_a_token_that_the_model_does_not_know_is_refused(bert: LoadedModel) -> None:
    tokenizer = syllable_tokenizer(True, **SPECIALS)
    tokenizer.add_tokens([f"extra{number}" for number in range(5)])
    with pytest.raises(ModelError, match=r"token id \d+.* 61 embeddings"):
        masked(replace(bert, tokenizer=tokenizer), ["ba extra4 be"])


@pytest.mark.parametrize("texts", [["", " "], ["xyz"]])
def test_texts_without_a_token_to_tell_are_refused(bert: LoadedModel, texts: list[str]) -> None:
    with pytest.raises(TaskError, match="no tokens to predict"):
        masked(bert, texts)
