"""Targets as text: formatting a target reverses parsing it, and a text that is not a target results in a one-sentence error."""

from __future__ import annotations

import pytest

from offcomp.errors import InputError
from offcomp.models.sources import bundled_info
from offcomp.planning.plan import Plan
from offcomp.results.targets import Target, format_target, parse_target, task_of


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("3x", Target("ratio", 3.0)),
        ("rank 64", Target("rank", 64)),
        ("energy 0.9", Target("energy", 0.9)),
        ("12 MB", Target("megabytes", 12.0)),
        ("error 0.3", Target("error", 0.3)),
        ("lose 1 point of similarity", Target("loss", 0.01, "similarity")),
        ("lose 2.5 points of accuracy", Target("loss", 0.025, "accuracy")),
        ("lose 5 % of perplexity", Target("loss", 0.05, "perplexity", relative=True)),
        ("lose 1 point", Target("loss", 0.01)),
    ],
)
def test_text_becomes_a_target_and_the_same_text_again(text: str, target: Target) -> None:
    assert parse_target(text) == target
    assert format_target(target) == str(target) == text


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("  Ratio 2.50 ", "2.5x"),
        ("12mb", "12 MB"),
        ("error .3", "error 0.3"),
        ("5% of perplexity", "lose 5 % of perplexity"),
        ("lose at most 1 point of Masked perplexity", "lose 1 point of Masked perplexity"),
    ],
)
def test_other_spellings_are_read(text: str, written: str) -> None:
    assert str(parse_target(text)) == written


@pytest.mark.parametrize("text", ["", "small", "-3x", "3", "12 GB", "rank", "lose", "lose 1 of accuracy", "nan MB"])
def test_other_text_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InputError, match="is not a target; examples are 3x, rank 64"):
        parse_target(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.5x", "ratio of 0.5 is not possible; it must be 1 or more"),
        ("rank 1.5", "must be a whole number"),
        ("energy 1.2", "must be above 0 and at most 1"),
        ("error 0", "must be above 0"),
        ("0 MB", "must be above 0"),
        ("lose 0 points", "must be above 0"),
    ],
)
def test_impossible_values_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_target(text)


def test_a_loss_refers_to_a_task_by_name_metric_or_position() -> None:
    info = bundled_info("offcomp-gpt")
    assert info
    plan = Plan(model="offcomp-gpt", tasks=("topics", "sentiment"))
    assert task_of(parse_target("lose 1 point"), plan, info).name == "topics"
    assert task_of(parse_target("lose 1 point of sentiment"), plan, info).name == "sentiment"
    assert task_of(parse_target("lose 1 point of accuracy"), plan, info).name == "topics"
    assert task_of(parse_target("lose 5 % of perplexity"), plan, info).name == "causal-prose"
    assert task_of(parse_target("lose 1 point of Spearman correlation"), plan, info).name == "similarity"
    with pytest.raises(InputError, match="no task or metric 'bleu'; its tasks are topics, sentiment, similarity, causal-prose"):
        task_of(parse_target("lose 1 point of bleu"), plan, info)
