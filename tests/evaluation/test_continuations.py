"""Continuations of causal models: equal to transformers' greedy search, within the context, cached, and compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers.decoders import WordPiece

from benchmarks.measurements import figures_of
from offcomp.evaluation import OpenTask, open_task
from offcomp.evaluation.causal_lm import CausalLM
from offcomp.evaluation.continuations import NEW_TOKENS, OPENING_TOKENS, OPENINGS
from offcomp.models.loading import LoadedModel
from offcomp.planning.data.scores import Continuation
from offcomp.planning.data.tasks import Task
from tests import language_models
from tests.language_models import CAUSAL, LONGEST, START, TEXTS, causal, ids_of, syllable_tokenizer, texts_of, zeroed


def opened(folder: Path, name: str, framed: bool = False) -> LoadedModel:
    """Load a tiny model whose tokenizer joins the pieces of a word when it decodes them."""
    loaded = language_models.opened(folder, name, framed)
    assert loaded.tokenizer is not None
    loaded.tokenizer.backend_tokenizer.decoder = WordPiece()
    return loaded


def damaged(loaded: LoadedModel) -> None:
    """Add noise to every parameter, with the same standard deviation as the parameter itself."""
    generator = torch.Generator().manual_seed(1)
    for parameter in loaded.model.parameters():
        parameter.add_(parameter.std() * torch.randn(parameter.shape, generator=generator))


def compared(evaluator: CausalLM) -> list[Continuation]:
    """Return the comparison of the model's continuations with themselves."""
    reference = evaluator.reference()
    return list(evaluator.compare(reference, evaluator.predict(reference)).continuations)


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("framed", [False, True])
def test_they_are_those_of_transformers_greedy_search_with_each_opening_alone(tmp_path: Path, name: str, framed: bool) -> None:
    loaded = opened(tmp_path, name, framed)
    evaluator = causal(loaded)
    written = evaluator.reference()["continuations"]
    prompts = evaluator.continuations.prompts
    assert len(prompts) == len(written) == OPENINGS
    assert len({len(prompt) for prompt in prompts}) > 1  # so some are read in different batches
    loaded.model.generation_config.eos_token_id = None
    options = {"do_sample": False, "max_new_tokens": evaluator.continuations.new_tokens, "pad_token_id": 0}
    for prompt, tokens in zip(prompts, written, strict=True):
        read = torch.tensor([prompt])
        alone = loaded.model.generate(read, attention_mask=torch.ones_like(read), **options)
        assert alone[0, len(prompt) :].tolist() == tokens.tolist()


@pytest.mark.parametrize("name", CAUSAL)
def test_an_unchanged_model_writes_the_same_and_a_damaged_one_does_not(tmp_path: Path, name: str) -> None:
    loaded = opened(tmp_path, name)
    evaluator = causal(loaded)
    reference = evaluator.reference()
    same = compared(evaluator)
    assert all(entry.original == entry.compressed and entry.same_tokens == entry.tokens for entry in same)
    damaged(loaded)
    result = evaluator.compare(reference, evaluator.predict(reference))
    other = result.continuations
    assert [entry.original for entry in other] == [entry.original for entry in same]
    assert [entry.opening for entry in other] == [entry.opening for entry in same]
    assert sum(entry.same_tokens < entry.tokens and entry.original != entry.compressed for entry in other) > 4
    document = result.to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_the_leading_tokens_that_agree_are_counted(tmp_path: Path) -> None:
    evaluator = causal(opened(tmp_path, "gpt2"))
    original = evaluator.reference()["continuations"]
    changed = original.copy()
    changed[0, 3] += 1
    changed[1, 0] += 1
    changed[2, -1] += 1
    same = [entry.same_tokens for entry in evaluator.continuations.compare(original, changed)]
    assert same == [3, 0, original.shape[1] - 1, *[original.shape[1]] * 5]


@pytest.mark.parametrize("framed", [False, True])
def test_no_prompt_is_longer_than_the_context_and_no_word_is_cut(tmp_path: Path, framed: bool) -> None:
    loaded = opened(tmp_path, "gpt2", framed)
    assert loaded.tokenizer is not None
    evaluator = causal(loaded, context=2, stride=1)  # the context limits the windows, not the openings
    found, before = evaluator.continuations, [START] if framed else []
    assert 1 < found.new_tokens < NEW_TOKENS
    for prompt in found.prompts:
        assert prompt[: len(before)] == before
        assert len(before) < len(prompt) <= len(before) + OPENING_TOKENS
        assert len(prompt) + found.new_tokens <= LONGEST
        text = loaded.tokenizer.decode(prompt[len(before) :])
        whole = [word for text in TEXTS for word in text.split()]
        assert set(text.split()) <= set(whole)
    longest = max(len(prompt) for prompt in found.prompts)
    assert longest + found.new_tokens == LONGEST


def test_a_model_that_reads_more_has_openings_and_continuations_of_full_length(tmp_path: Path) -> None:
    loaded = opened(tmp_path, "llama")
    loaded.model.config.max_position_embeddings = 64  # possible because its positions are not learned
    entries = compared(causal(loaded))
    assert {entry.tokens for entry in entries} == {NEW_TOKENS}
    lengths = [len(prompt) for prompt in causal(loaded).continuations.prompts]
    assert min(lengths) > OPENING_TOKENS - 3 and max(lengths) == OPENING_TOKENS


def test_a_model_with_hardly_any_context_goes_on_from_nothing(tmp_path: Path) -> None:
    loaded = opened(tmp_path, "llama")
    loaded.model.config.max_position_embeddings = 4
    assert compared(causal(loaded, context=2, stride=1)) == []


def test_openings_are_spread_over_the_texts_that_are_long_enough_each_once(tmp_path: Path) -> None:
    loaded = opened(tmp_path, "gpt2")
    assert len(compared(causal(loaded, ["", "ba", *texts_of(30, 30, 30), *texts_of(30, 30, 30)]))) == 3
    several = texts_of(*[20] * 21)
    found = [entry.opening for entry in compared(causal(loaded, several))]
    starts = [next(index for index, text in enumerate(several) if text.startswith(opening)) for opening in found]
    assert len(starts) == OPENINGS and starts[0] == 0 and starts[-1] == 20
    assert set(np.diff(starts)) <= {2, 3, 4}
    assert [entry.opening for entry in compared(causal(loaded, ["ba do", "", "be"]))] == [
        "ba do",
        "be",
    ]  # none is long enough


def test_what_is_added_to_the_opening_begins_where_the_opening_ends(tmp_path: Path) -> None:
    loaded = opened(tmp_path, "llama")
    assert loaded.tokenizer is not None
    evaluator = causal(loaded)
    written = evaluator.reference()["continuations"]
    entries = evaluator.continuations.compare(written, written)
    for prompt, tokens, entry in zip(evaluator.continuations.prompts, written.tolist(), entries, strict=True):
        assert entry.opening + entry.original == loaded.tokenizer.decode([*prompt, *tokens], skip_special_tokens=True)
    assert {entry.original[:1] == " " for entry in entries} == {True, False}  # a new word, or the rest of the last one


def test_after_an_end_token_nothing_is_written(tmp_path: Path) -> None:
    loaded = opened(tmp_path, "gpt2")
    assert loaded.tokenizer is not None
    free = causal(loaded).reference()["continuations"]
    ending = free[0, 2]
    loaded.tokenizer.add_special_tokens({"eos_token": loaded.tokenizer.convert_ids_to_tokens(int(ending))})
    evaluator = causal(loaded)
    written = evaluator.reference()["continuations"]
    first = int((free[0] == ending).argmax())
    assert written[0, :first].tolist() == free[0, :first].tolist()
    assert set(written[0, first:].tolist()) == {ending}
    entry = evaluator.continuations.compare(written, written)[0]
    assert entry.same_tokens == entry.tokens == free.shape[1]
    assert len(ids_of(loaded, entry.original)) <= first


@pytest.mark.parametrize("specials", [{"unk_token": "[UNK]"}, {"eos_token": "[SEP]", "unk_token": "[UNK]"}])
def test_a_tokenizer_without_a_pad_token_changes_nothing(tmp_path: Path, specials: dict[str, str]) -> None:
    loaded = opened(tmp_path, "gpt2")
    tokenizer = syllable_tokenizer(False, **specials)
    tokenizer.pad_token = None
    without = replace(loaded, tokenizer=tokenizer)
    assert causal(without).continuations.prompts == causal(loaded).continuations.prompts
    assert (causal(without).reference()["continuations"][:, 0] == causal(loaded).reference()["continuations"][:, 0]).all()


def test_a_model_that_knows_nothing_writes_one_token_all_along(tmp_path: Path) -> None:
    loaded = opened(tmp_path, "opt")
    zeroed(loaded)
    assert len(np.unique(causal(loaded).reference()["continuations"])) == 1


def test_the_originals_continuations_are_kept_so_that_others_cost_one_pass_each(tmp_path: Path) -> None:
    loaded = opened(tmp_path, "llama")
    file = tmp_path / "own.csv"
    pd.DataFrame({"text": TEXTS}).to_csv(file, index=False)
    task, cache, passes = Task(name="own", family="causal-lm", data=str(file)), tmp_path / "cache", [0]
    loaded.model.register_forward_hook(lambda *_: passes.append(passes.pop() + 1))

    def again() -> OpenTask:
        found = open_task(task, loaded, cache=cache)
        passes[0] = 0  # opening a task also runs the model
        found.prepare()
        return found

    fresh = again()
    once = passes[0]
    assert once > NEW_TOKENS / 2
    kept = again()
    assert passes[0] == 0
    original = [entry.original for entry in kept.compare().continuations]
    assert passes[0] == once
    damaged(loaded)
    for opened_task in (fresh, kept):
        result = opened_task.compare()
        assert [entry.original for entry in result.continuations] == original
        assert [entry.compressed for entry in result.continuations] != original


def test_bundled_figures_keep_no_text_of_them(tmp_path: Path) -> None:
    loaded = opened(tmp_path, "gpt2")
    evaluator = causal(loaded)
    reference = evaluator.reference()
    damaged(loaded)
    result = evaluator.compare(reference, evaluator.predict(reference))
    kept = json.dumps(figures_of(result))
    assert result.continuations[0].opening in json.dumps(result.to_dict())
    assert not any(entry.opening in kept for entry in result.continuations)
