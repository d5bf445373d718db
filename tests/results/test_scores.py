"""Scores of every metric in words, tables and charts, including runs of earlier versions, which recorded only accuracies."""

from __future__ import annotations

import json
from typing import Any

import pytest

from offcomp.cli.text import score_line
from offcomp.planning.data.scores import OriginalScore, Score
from offcomp.planning.data.tasks import ALSO, FAMILIES, OWN_FAMILIES
from offcomp.results.charts.scores import LOG_FROM, score_figure, score_table, scores_of
from offcomp.results.charts.theme import LIGHT
from offcomp.results.paired import change_table, flip_count_table, flip_table, paired_difference, same_test
from offcomp.results.report import html_report
from offcomp.results.runs import difference_table, run_table
from offcomp.results.scores import (
    METRICS,
    baseline_of,
    brief_difference,
    concerns,
    difference_text,
    notes,
    others_text,
    score_text,
    visible_difference,
    within_sentence,
)
from offcomp.results.sentences import answer
from tests.made_runs import made_group, made_run, made_score, made_value_score

of = Score.from_json
RANKS = made_value_score("spearman", 0.82, 0.79)
MASKED = made_value_score("masked perplexity", 12.0, 15.0, spread=0.5)
NEXT = made_value_score("perplexity", 20.0, 1234.5, spread=1.0)
OLD = made_score(["a", "b"], ["x"])
OTHERS = {"similarity": RANKS, "masked-prose": MASKED, "causal-prose": NEXT}
FIRST = made_run("a" * 12, [made_group("query", 0.5)], OLD, others=OTHERS)
SECOND = made_run(
    "b" * 12,
    [made_group("query", 0.25, method="autoencoder")],
    made_score(["a"], []),
    others={
        "similarity": made_value_score("spearman", 0.82, 0.81),
        "masked-prose": made_value_score("masked perplexity", 12.0, 13.0),
    },
)


def test_every_metric_of_a_family_is_known() -> None:
    metrics = {FAMILIES[name].metric for name in OWN_FAMILIES}
    assert metrics | {name for also in ALSO.values() for name in also} == set(METRICS)
    assert all(family.metric in METRICS for family in FAMILIES.values())


def test_any_metric_of_another_library_is_known_by_its_name() -> None:
    assert METRICS["lm-eval exact_match,strict-match"].title == "exact_match,strict-match"
    lower = METRICS["lm-eval word_perplexity (lower is better)"]
    assert (lower.title, lower.direction, lower.number(-12.25), lower.change(0.5)) == (
        "word_perplexity",
        "lower",
        "-12.25",
        "+0.500",
    )
    for name in ("mteb", "lm-eval a b", "glue acc", "lm-eval \n", "lm-eval " + 81 * "a"):
        assert name not in METRICS and METRICS.get(name) is None
        with pytest.raises(KeyError):
            METRICS[name]


def test_scores_in_words() -> None:
    assert [score_text(of(score)) for score in (OLD, RANKS, MASKED)] == ["79.0 % ± 8.0", "0.790 ± 0.039", "15.0 ± 0.98"]
    assert [METRICS["perplexity"].number(value) for value in (7.3, 54.26, 1234.5)] == ["7.30", "54.3", "1,234"]
    assert [brief_difference(of(score)) for score in (OLD, RANKS, MASKED)] == ["-1.0 points, within noise", "-0.030", "+3.00"]
    assert difference_text(METRICS["spearman"], -0.01, -0.03, 0.01) == "-0.010 (95 % interval -0.030 to +0.010), within noise"
    assert [within_sentence(title) for title in ("Masked words in prose", "STS-B", "CoLA")] == [
        "masked words in prose",
        "STS-B",
        "CoLA",
    ]
    assert score_line(of(RANKS)).startswith("Spearman correlation 0.820 ± 0.039 -> 0.790 ± 0.039, -0.030 from the original")
    assert score_line(of(OLD)).endswith("agreement 0.970, 2 right to wrong, 1 wrong to right, n = 100")


def test_baselines_have_names_and_old_runs_the_majority() -> None:
    assert baseline_of(of(OLD)) == ("always the same answer", 0.5)
    assert baseline_of(of(OLD | {"baseline": {"name": "majority class", "value": 0.6}})) == ("always the same answer", 0.6)
    assert baseline_of(of(MASKED)) == ("word frequencies alone", 1200.0)
    assert baseline_of(of(RANKS)) is None


def test_what_the_examples_can_show_is_told_where_it_is_known() -> None:
    assert visible_difference([of(OLD)]) == ""
    assert "200 examples, a true difference of 0.020 would be detected" in visible_difference([of(RANKS)])
    wider = made_value_score("spearman", 0.82, 0.5, spread=0.05)
    said = visible_difference([of(RANKS), of(wider)])
    assert "200 examples, a true difference of 0.050 would be detected" in said  # the larger of the differences of both runs
    fewer = RANKS | {"compressed": RANKS["compressed"] | {"n": 50}}
    assert "50 to 200 examples" in visible_difference([of(RANKS), of(fewer)])
    unknown = RANKS | {"paired": RANKS["paired"] | {"smallest_difference": None}}
    assert visible_difference([of(RANKS), of(unknown)]) == visible_difference([]) == ""


def test_too_few_examples_for_an_interval_are_said_to_be_too_few() -> None:
    few = {"value": 0.8, "standard_error": None, "n": 2}
    paired = {"difference": -0.1, "interval": None, "smallest_difference": None}
    score = RANKS | {"original": few, "compressed": few, "paired": paired}
    assert score_text(of(score)) == "0.800"
    assert visible_difference([of(score)]) == ""
    assert brief_difference(of(score)) == "-0.100"  # without an interval, noise is not mentioned
    run = made_run("9" * 12, [made_group("query", 0.5)], others={"similarity": score})
    assert "-0.100 from the original, with too few examples for an interval" in answer([run])
    table = score_table([run])
    assert table["low"].tolist() == table["high"].tolist() == [0.8, 0.8]
    json.loads(score_figure(table, LIGHT).to_json())
    assert "similarity_difference_low" not in run_table([run])


def test_what_makes_a_score_doubtful_is_told() -> None:
    assert concerns("sentiment", of(OLD), compressed=True) == []
    assert "same answer to every sentiment sentence" in concerns("sentiment", of(OLD | {"collapsed": True}), compressed=True)[0]
    assert "all outputs are alike" in concerns("similarity", of(RANKS | {"collapsed": True}), compressed=True)[0]
    (unchanged,) = concerns("topics", of(OLD | {"unchanged": True}), compressed=True)
    assert "does not use the compressed weights" in unchanged
    assert concerns("topics", of(OLD | {"unchanged": True}), compressed=False) == []


def test_run_table_has_the_score_and_metric_of_every_task() -> None:
    row = run_table([FIRST]).iloc[0]
    assert [row[f"{task}_metric"] for task in ("sentiment", "similarity", "masked-prose")] == [
        "accuracy",
        "spearman",
        "masked perplexity",
    ]
    assert (row["similarity_score"], row["similarity_smallest_difference"]) == (0.79, 0.02)
    assert (row["sentiment_baseline"], row["masked-prose_baseline"], row["masked-prose_divergence"]) == (0.5, 1200.0, 0.1)
    assert "similarity_agreement" not in row.index
    json.loads(run_table([FIRST, SECOND]).to_json(orient="records"))


def test_scores_of_one_chart_share_metric_and_examples() -> None:
    table = score_table([FIRST, SECOND])
    similarity = table[table["task"] == "similarity"]
    assert similarity["row"].tolist() == ["Original", "SVD", "Autoencoder"]
    assert similarity["value"].tolist() == [0.82, 0.79, 0.81]
    assert table.groupby("task")["metric"].nunique().tolist() == [1] * 4
    assert "-0.030" in similarity["about"].tolist()[1]
    newer = made_run("c" * 12, [made_group("query", 0.5)], made_score(["a"], [], n=200) | {"version": "2"})
    assert score_table([FIRST, newer])["row"].tolist()[0] == "Original of SVD aaaaaa"
    assert "Original of SVD cccccc" in score_table([FIRST, newer])["row"].tolist()


@pytest.mark.parametrize(
    ("task", "axis", "better", "baseline"),
    [
        ("sentiment", "Accuracy (% of test sentences)", "right is better", "always the same answer: 50.0 %"),
        ("similarity", "Spearman correlation", "right is better", None),
        ("masked-prose", "Perplexity of masked tokens", "lower is better, log scale", "word frequencies alone: 1,200"),
        ("causal-prose", "Perplexity of next tokens", "lower is better, log scale", "word frequencies alone: 2,000"),
    ],
)
def test_a_chart_names_its_axis_its_direction_and_its_baseline(task: str, axis: str, better: str, baseline: str | None) -> None:
    table = score_table([FIRST])
    figure = score_figure(table[table["task"] == task], LIGHT)
    assert figure.layout.xaxis.title.text.startswith(f"{axis}<br>{better}")
    assert figure.layout.title.text.endswith("?")
    assert [note.text for note in figure.layout.annotations] == ([baseline] if baseline else [])
    low, high = figure.layout.xaxis.range
    for note in figure.layout.annotations:
        assert low < note.x < high


COSINE = made_value_score(
    "embedding cosine", 1.0, 0.8, title="Embeddings of prose (fidelity)", direction="higher", baseline=None
)
KL = made_value_score("next-token KL", 0.0, 0.25, title="Next words in prose (fidelity)", baseline=None)


@pytest.mark.parametrize(
    ("score", "axis", "better", "sentence"),
    [
        (
            COSINE,
            "Cosine similarity to the original embeddings",
            "right is better",
            "cosine similarity on embeddings of prose (fidelity) is 0.800, -0.200 from the original",
        ),
        (
            KL,
            "KL divergence from the original (nats per token)",
            "lower is better",
            "KL divergence on next words in prose (fidelity) is 0.250 (lower is better), +0.250 from the original",
        ),
    ],
)
def test_a_fidelity_has_a_chart_and_a_sentence(score: dict[str, Any], axis: str, better: str, sentence: str) -> None:
    run = made_run("d" * 12, [made_group("query", 0.5)], others={"fidelity": score})
    figure = score_figure(score_table([run]), LIGHT)
    assert figure.layout.xaxis.title.text.startswith(f"{axis}<br>{better}") and figure.layout.xaxis.type != "log"
    assert figure.layout.title.text.endswith(f"is the model on {within_sentence(score['title'])}?")
    assert sentence in answer([run]) and "within noise" not in answer([run])
    assert " ± " not in score_text(of(score), "original") and " ± " in score_text(of(score))


def test_a_task_scored_by_two_metrics_has_a_chart_for_each() -> None:
    other = made_run("h" * 12, [made_group("query", 0.5)], others={"similarity": made_score(["a"], []) | {"digest": "1"}})
    table = score_table([FIRST, other])
    for metric, score in (("spearman", of(RANKS)), ("accuracy", other.result.scores["similarity"])):
        part = table[(table["task"] == "similarity") & (table["metric"] == metric)]
        assert scores_of([FIRST, other], part) == [score]
    assert "Accuracy on similarity of the original" in html_report([FIRST, other])


def test_perplexities_near_each_other_are_on_a_plain_axis() -> None:
    near = made_run("d" * 12, [made_group("query", 0.5)], others={"masked-prose": MASKED | {"baseline": None}})
    assert LOG_FROM > 15 / 12
    assert "log" not in score_figure(score_table([near]), LIGHT).layout.xaxis.title.text


def test_answers_name_the_metric_and_the_better_direction() -> None:
    alone = answer([FIRST])
    assert "accuracy on sentiment is 79.0 %, -1.0 points from the original" in alone
    assert "Spearman correlation on similarity is 0.790, -0.030 from the original (95 % interval -0.034 to -0.026)" in alone
    assert "perplexity on next words in prose is 1,234 (lower is better), +1,214 from" in alone
    both = answer([FIRST, SECOND])
    assert "in accuracy on sentiment, SVD differs from Autoencoder by +0.0" in both or "Autoencoder differs from SVD" in both
    assert "in Spearman correlation on similarity, Autoencoder has 0.810 ± 0.039 and SVD has 0.790 ± 0.039" in both
    assert "in masked perplexity on masked words in prose, Autoencoder has 13.0" in both  # lower is better
    assert "0.790 ± 0.039; the intervals overlap" in both
    assert "next words" not in both  # one of the runs was not scored on this task


def test_runs_are_compared_only_where_single_examples_are_known() -> None:
    assert paired_difference(FIRST, SECOND, "sentiment") is not None
    assert paired_difference(FIRST, SECOND, "similarity") is None
    cut = made_run("e" * 12, [made_group("query", 0.5)], OLD | {"flips": {"right_to_wrong": [], "wrong_to_right": []}})
    assert paired_difference(FIRST, cut, "sentiment") is None
    assert same_test(FIRST, SECOND, "similarity")
    other_data = made_run("f" * 12, [made_group("query", 0.5)], others={"similarity": RANKS | {"digest": "1" * 12}})
    assert not same_test(FIRST, other_data, "similarity")


def test_flips_are_of_classes_and_changes_of_the_rest() -> None:
    assert set(flip_table([FIRST])["task"]) == {"sentiment"} == set(flip_count_table([FIRST])["task"])
    changes = change_table([FIRST])
    assert set(changes["task"]) == set(OTHERS)
    assert changes["difference"].abs().is_monotonic_decreasing
    assert changes[changes["task"] == "similarity"]["truth"].tolist() == [1.0, 0.0]
    assert change_table([made_run("g" * 12, [made_group("query", 0.5)], OLD)]).empty


def test_what_differs_names_every_task() -> None:
    shown = difference_table([FIRST, SECOND]).set_index("Property")
    assert shown.loc["tasks"].tolist() == [
        "sentiment, similarity, masked-prose, causal-prose",
        "sentiment, similarity, masked-prose",
    ]
    assert shown.loc["similarity score"].tolist() == ["0.79", "0.81"]


ACCURACY = {
    "task": "mine",
    "title": "Moods",
    "metric": "accuracy",
    "direction": "higher",
    "original": {"value": 0.21, "standard_error": 0.03, "n": 200},
    "compressed": {"value": 0.2, "standard_error": 0.03, "n": 200},
    "baseline": {"name": "majority class", "value": 0.5},
    "paired": {"difference": -0.01, "interval": [-0.03, 0.01]},
}


def test_an_original_worse_than_a_constant_answer_is_remarked() -> None:
    (note,) = notes("mine", of(ACCURACY))
    assert note == "Moods: the original scores 21.0 %, below the 50.0 % achieved by always giving the same answer."
    alone = {key: ACCURACY[key] for key in ("metric", "title", "baseline")} | ACCURACY["original"]
    assert notes("mine", OriginalScore.from_json(alone)) == [note]
    assert notes("mine", of(ACCURACY | {"original": {"value": 0.6, "standard_error": 0.03, "n": 200}})) == []
    assert notes("mine", of(ACCURACY | {"note": ["the order looks wrong."]})) == ["Moods: the order looks wrong."]


def test_the_metrics_beside_a_tasks_own_are_written_with_theirs() -> None:
    figures = {
        name: {"value": value, "standard_error": 0.02, "n": 200} for name, value in (("original", 0.8), ("compressed", 0.7))
    }
    other = figures | {"baseline": None, "paired": {"difference": -0.1, "interval": [-0.15, -0.05]}}
    (said,) = others_text(of(ACCURACY | {"also": {"matthews": other}}))
    assert said == (
        "Matthews correlation 0.800 ± 0.039 -> 0.700 ± 0.039, -0.100 from the original (95 % interval -0.150 to -0.050)"
    )
    assert said in score_line(of(ACCURACY | {"also": {"matthews": other}}))
