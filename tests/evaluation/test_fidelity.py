"""Fidelity: perfect scores of unchanged models, worse scores after more compression, and the storage of distributions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from numpy.typing import NDArray

from offcomp.errors import TaskError
from offcomp.evaluation import EVALUATORS, token_fidelity
from offcomp.evaluation.base import Evaluator
from offcomp.evaluation.comparison import compare_fidelity, compare_losses
from offcomp.evaluation.fidelity import divergences, similarities
from offcomp.evaluation.token_fidelity import TokenFidelity, sampled_positions
from offcomp.evaluation.token_losses import Row
from offcomp.models.loading import LoadedModel, load
from tests import tiny_models
from tests.language_models import TEXTS, data_of, opened

MODELS = {
    "embedding-fidelity": "bert_base",
    "masked-fidelity": "bert",
    "causal-fidelity": "gpt2",
    "head-fidelity": "bert_classifier",
}
"""For each family, a tiny model that can do its tasks."""
METRICS = {
    "embedding-fidelity": ("embedding cosine", "higher", 1.0),
    "masked-fidelity": ("masked KL", "lower", 0.0),
    "causal-fidelity": ("next-token KL", "lower", 0.0),
    "head-fidelity": ("class KL", "lower", 0.0),
}
"""The metric of each family, whether higher or lower is better, and the value of the original itself."""


def made(folder: Path, family: str, **options: object) -> tuple[LoadedModel, Evaluator]:
    """Return a tiny model that can do the family's tasks, and its evaluator on the texts of `tests.language_models`."""
    loaded = opened(folder, MODELS[family], framed=family != "causal-fidelity")
    return loaded, EVALUATORS[family](loaded, data_of(family, **options))


def truncated(loaded: LoadedModel, ranks: int) -> None:
    """Keep only the largest `ranks` singular values of every matrix except the embeddings."""
    for name, parameter in loaded.model.named_parameters():
        if parameter.ndim == 2 and "embed" not in name and "wte" not in name and "wpe" not in name:
            left, values, right = torch.linalg.svd(parameter, full_matrices=False)
            values[ranks:] = 0
            parameter.copy_(left @ torch.diag(values) @ right)


@pytest.mark.parametrize("family", METRICS)
def test_an_unchanged_model_is_perfect_to_the_last_bit(tmp_path: Path, family: str) -> None:
    _, evaluator = made(tmp_path, family)
    reference = evaluator.reference()
    for predictions in (reference, evaluator.predict(reference)):  # `reference` is used if only the original is scored
        score = evaluator.compare(reference, predictions)
        metric, direction, perfect = METRICS[family]
        assert (score.metric, score.direction) == (metric, direction)
        assert score.original.value == score.compressed.value == perfect
        assert score.original.standard_error == score.compressed.standard_error == 0.0
        assert score.paired.difference == 0.0 and score.paired.interval == (0.0, 0.0)
        assert score.unchanged is True and score.changes == () and score.note == ()
        document = score.to_dict()
        assert json.loads(json.dumps(document, allow_nan=False)) == document


@pytest.mark.parametrize("family", METRICS)
def test_mild_compression_is_better_than_more(tmp_path: Path, family: str) -> None:
    loaded, evaluator = made(tmp_path, family)
    reference = evaluator.reference()
    distances = []
    for ranks in (23, 16, 8, 1):
        truncated(loaded, ranks)
        score = evaluator.compare(reference, evaluator.predict(reference))
        assert score.unchanged is False
        distances.append(abs(score.paired.difference))
        assert score.paired.difference == score.compressed.value - METRICS[family][2]
        low, high = score.paired.interval or (0.0, 0.0)
        assert low < score.paired.difference < high
    assert 0.0 < distances[0] < min(distances[1:])  # the mildest compression is the best


@pytest.mark.parametrize("family", METRICS)
def test_the_texts_that_changed_most_are_listed_first(tmp_path: Path, family: str) -> None:
    loaded, evaluator = made(tmp_path, family)
    reference = evaluator.reference()
    truncated(loaded, 4)
    score = evaluator.compare(reference, evaluator.predict(reference))
    moved = [abs(change.compressed - change.original) for change in score.changes]
    assert moved == sorted(moved, reverse=True) and len(moved) >= 8
    assert {change.text for change in score.changes} <= {*TEXTS}
    assert {change.original for change in score.changes} == {METRICS[family][2]}


@pytest.mark.parametrize("family", METRICS)
def test_outputs_that_are_not_finite_are_refused(tmp_path: Path, family: str) -> None:
    loaded, evaluator = made(tmp_path, family)
    reference = evaluator.reference()
    next(parameter for path, parameter in loaded.model.named_parameters() if path.endswith("bias"))[0] = float("nan")
    with pytest.raises(TaskError, match="not finite"):
        evaluator.predict(reference)
    with pytest.raises(TaskError, match="not finite"):
        evaluator.reference()


# ----------------------------------------------------------------------------------------------------- distributions


@pytest.fixture
def causal_model(tmp_path: Path) -> LoadedModel:
    return opened(tmp_path, "gpt2")


def fidelity(loaded: LoadedModel, **options: object) -> TokenFidelity:
    return token_fidelity.causal_fidelity(loaded, data_of("causal-fidelity", **options))


def whole_distributions(evaluator: TokenFidelity) -> NDArray[np.float64]:
    """Return the distributions at all positions, computed without the code under test."""
    found = np.empty((evaluator.token_rows.count, tiny_models.VOCABULARY))
    for indices, logits, _ in evaluator.token_rows.logits(lambda _: None):
        found[indices] = logits.double().softmax(1).numpy()
    return found


def test_the_divergence_of_every_position_is_that_of_scipy(causal_model: LoadedModel) -> None:
    evaluator = fidelity(causal_model)
    reference, before = evaluator.reference(), whole_distributions(evaluator)
    truncated(causal_model, 6)
    expected = scipy.stats.entropy(before, whole_distributions(evaluator), axis=1)
    predictions = evaluator.predict(reference)
    np.testing.assert_allclose(predictions["divergence"], expected, atol=2e-6)
    assert evaluator.compare(reference, predictions).compressed.value == pytest.approx(expected.mean(), abs=2e-6)


def kept(monkeypatch: pytest.MonkeyPatch, evaluator: TokenFidelity, tokens: int) -> None:
    """Limit the memory so that only this number of tokens is stored for each position."""
    monkeypatch.setattr(token_fidelity, "LARGEST_KEPT", evaluator.token_rows.count * 4 * 2 * tokens)


def test_all_but_one_token_and_the_rest_are_the_whole_distribution(
    causal_model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = fidelity(causal_model)
    whole = evaluator.reference()
    monkeypatch.setattr(TokenFidelity, "kept", tiny_models.VOCABULARY - 1)
    nearly = evaluator.reference()
    assert "tokens" not in whole and nearly["tokens"].shape == (evaluator.token_rows.count, tiny_models.VOCABULARY - 1)
    truncated(causal_model, 6)
    exact, merged = evaluator.predict(whole)["divergence"], evaluator.predict(nearly)["divergence"]
    assert exact.max() > 1e-3
    np.testing.assert_allclose(merged, exact, atol=2e-6)


def test_merging_tokens_lowers_the_divergence_and_is_noted(causal_model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = fidelity(causal_model)
    references = {tiny_models.VOCABULARY: evaluator.reference()}
    for tokens in (20, 5, 1):
        kept(monkeypatch, evaluator, tokens)
        references[tokens] = evaluator.reference()
        stored = references[tokens]["log_probabilities"].nbytes + references[tokens]["tokens"].nbytes
        assert references[tokens]["tokens"].shape[1] == tokens
        assert stored <= token_fidelity.LARGEST_KEPT + 4 * evaluator.token_rows.count  # plus a column for the rest
        np.testing.assert_allclose(np.exp(references[tokens]["log_probabilities"]).sum(1), 1, atol=1e-5)
        unchanged = evaluator.compare(references[tokens], evaluator.predict(references[tokens]))
        assert unchanged.compressed.value == 0.0 and unchanged.unchanged
    truncated(causal_model, 6)
    scores = {tokens: evaluator.compare(reference, evaluator.predict(reference)) for tokens, reference in references.items()}
    values = [scores[tokens].compressed.value for tokens in (tiny_models.VOCABULARY, 20, 5, 1)]
    assert values == sorted(values, reverse=True) and values[-1] < values[0]
    assert scores[tiny_models.VOCABULARY].note == ()
    merged = float(np.exp(references[5]["log_probabilities"][:, -1]).mean())
    assert scores[5].note[0].startswith("The 5 most likely tokens") and f"{merged:.2%}" in scores[5].note[0]


def test_small_batches_give_the_same_as_large_ones(causal_model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    large = fidelity(causal_model).reference()
    monkeypatch.setattr("offcomp.evaluation.token_losses.MAX_LOGITS", 1)
    evaluator = fidelity(causal_model)
    np.testing.assert_allclose(evaluator.reference()["log_probabilities"], large["log_probabilities"], atol=1e-4)
    np.testing.assert_allclose(evaluator.predict(large)["divergence"], 0, atol=1e-6)


@pytest.mark.parametrize("family", ["masked-fidelity", "causal-fidelity"])
def test_a_sample_of_positions_belongs_to_all_positions(tmp_path: Path, family: str) -> None:
    loaded, whole = made(tmp_path, family)
    sample = EVALUATORS[family](loaded, data_of(family, positions=7))
    assert isinstance(whole, TokenFidelity) and isinstance(sample, TokenFidelity)
    everywhere = {(row.text, tuple(row.ids), place) for row in whole.token_rows.rows for place in row.positions}
    sampled = {(row.text, tuple(row.ids), place) for row in sample.token_rows.rows for place in row.positions}
    assert len(sampled) == 7 < len(everywhere) and sampled < everywhere
    score = sample.compare(sample.reference(), sample.reference())
    assert score.compressed.n == 7 and score.protocol["positions"] == 7
    again = EVALUATORS[family](loaded, data_of(family, positions=7))
    assert isinstance(again, TokenFidelity) and again.token_rows.rows == sample.token_rows.rows


def test_a_sample_keeps_each_target_with_its_position() -> None:
    rows = [Row(text, [*range(20)], [*range(3, 15)], [100 * text + place for place in range(3, 15)]) for text in range(9)]
    sampled = sampled_positions(rows, 30)
    assert sum(len(row.positions) for row in sampled) == 30
    for row in sampled:
        assert row.targets == [100 * row.text + place for place in row.positions] and row.positions == sorted(row.positions)
    assert sampled_positions(rows, 9 * 12) == rows


def test_no_position_is_refused(causal_model: LoadedModel) -> None:
    with pytest.raises(TaskError, match="positions must be at least 1, not 0"):
        fidelity(causal_model, positions=0)


# ---------------------------------------------------------------------------------------------------------- by hand


def test_similarities_by_hand() -> None:
    one = np.array([[3, 4], [1, 0], [1, 0], [0, 0], [0, 0], [1e-3, 2e-3]], np.float32)
    other = np.array([[3, 4], [0, 2], [-5, 0], [0, 0], [1, 1], [2e3, 4e3]], np.float32)
    found = similarities(one, other)
    assert found[0] == found[3] == 1.0
    np.testing.assert_allclose(found, [1, 0, -1, 1, 0, 1], atol=1e-12)


def test_divergences_by_hand() -> None:
    with np.errstate(divide="ignore"):
        before = np.log(np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]))
        after = np.log(np.array([[0.25, 0.75, 0.0], [0.2, 0.3, 0.5]]))
    expected = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    np.testing.assert_allclose(divergences(before, after), [expected, 0], atol=1e-15)
    assert divergences(before, after)[1] == 0.0


def test_the_interval_covers_the_mean_of_resampled_texts() -> None:
    """The tokens of a text have similar values, so an interval over tokens instead of texts would be far too narrow."""
    generator, covered, trials = np.random.default_rng(1), 0, 200
    for _ in range(trials):
        of_text = generator.gamma(2.0, 0.5, 40)  # the expected value is 1
        rows = np.repeat(np.arange(40), 8)
        values = of_text[rows] * generator.uniform(0.8, 1.2, len(rows))
        score = compare_fidelity(values, rows=rows, texts=[""] * 40, metric="next-token KL")
        assert score.units == 40 and score.compressed.n == len(rows)
        low, high = score.paired.interval or (0.0, 0.0)
        covered += low <= 1.0 <= high
    assert 0.88 <= covered / trials <= 0.99


def test_texts_without_an_output_are_left_out() -> None:
    score = compare_fidelity(np.array([0.5, 0.5, 2.0]), rows=np.array([0, 0, 3]), texts=[*"abcd"], metric="masked KL")
    assert (score.units, score.compressed.value) == (2, 1.0)
    assert [(change.text, change.compressed) for change in score.changes] == [("d", 2.0), ("a", 0.5)]


@pytest.mark.parametrize(
    ("which", "remedy"), [("original", "choose a different model or task"), ("compressed", "compress it less")]
)
def test_the_remedy_fits_the_model_that_is_not_finite(which: str, remedy: str) -> None:
    losses: Mapping[str, NDArray[np.float64]] = {"original": np.ones(3), "compressed": np.ones(3)}
    losses[which][1] = np.nan
    compare: Callable[..., object] = compare_losses
    with pytest.raises(TaskError, match=f"the {which} model's predictions are not finite.*{remedy}"):
        compare(**losses, rows=np.arange(3), texts=[*"abc"], metric="perplexity", baseline=None)


def test_a_head_that_assigns_several_labels_is_refused(tmp_path: Path) -> None:
    model = tiny_models.shared("bert_classifier")
    folder = tiny_models.save(model, tmp_path / "several", tokenizer=False)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"problem_type": "multi_label_classification"}))
    with pytest.raises(TaskError, match="several labels"):
        EVALUATORS["head-fidelity"](load(str(folder)), data_of("head-fidelity"))
