"""Columns of texts, classes and scores are recognised by their contents, or the user is asked to choose them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from offcomp.errors import TaskError
from offcomp.evaluation.data import read
from offcomp.planning.data.task_columns import chosen_columns, class_counts, content_of
from offcomp.planning.data.tasks import Task

ROWS = 120
NOUNS = ("soup", "chair", "train", "letter", "garden", "window", "coat", "song", "river", "lamp")
VERBS = ("was", "seemed", "looked", "felt", "became", "stayed")
ADJECTIVES = ("cold", "lovely", "broken", "bright", "slow", "dull", "grand", "odd", "soft", "late")


def sentences(seed: int, words: int = 9) -> list[str]:
    """Random texts of this many words, nearly all of them different."""
    draw = random.Random(seed)
    return [
        " ".join(draw.choice((NOUNS, VERBS, ADJECTIVES)[place % 3]) for place in range(words)).capitalize() + "."
        for _ in range(ROWS)
    ]


def few(*values: Any, seed: int = 0) -> list[str]:
    """Classes drawn at random."""
    draw = random.Random(seed)
    return [str(draw.choice(values)) for _ in range(ROWS)]


def numbers(seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [f"{draw.uniform(0, 5):.2f}" for _ in range(ROWS)]


IDS = [str(1000 + row) for row in range(ROWS)]
CODES = [f"{random.Random(row).getrandbits(48):012x}" for row in range(ROWS)]
DATES = [f"2021-{1 + row % 12:02d}-{1 + row % 28:02d}" for row in range(ROWS)]
SHUFFLED = random.Random(3).sample(IDS, ROWS)
URLS = [f"https://example.org/item/{row}" for row in range(ROWS)]
BODY, OTHER, TITLE = sentences(1, 24), sentences(2, 22), sentences(3, 3)
STARS = few(1, 2, 3, 4, 5)
TOPICS = few("sport", "money", "home and garden")
CHINESE = ["".join(random.Random(row).choices("我们今天在花园里看见一只很大的鸟飞过河流山川", k=14)) for row in range(ROWS)]


def chosen(family: str, table: dict[str, list[str]], **columns: str) -> dict[str, str]:
    contents = {name: content_of(values) for name, values in table.items()}
    return chosen_columns(Task(name="mine", family=family, data="mine.csv", columns=columns), contents, "mine.csv")


def asked(family: str, table: dict[str, list[str]], **columns: str) -> str:
    with pytest.raises(TaskError) as error:
        chosen(family, table, **columns)
    assert "\n" not in str(error.value)
    return str(error.value)


FOUND: dict[str, tuple[str, dict[str, list[str]], dict[str, str]]] = {
    "id, body, stars": ("probe", {"id": IDS, "body": BODY, "stars": STARS}, {"text": "body", "label": "stars"}),
    "names that say nothing": ("head", {"a": IDS, "b": BODY, "c": TOPICS}, {"text": "b", "label": "c"}),
    "the label first": ("probe", {"x": few(0, 1), "y": BODY}, {"text": "y", "label": "x"}),
    "codes, dates, addresses": (
        "probe",
        {"key": CODES, "day": DATES, "link": URLS, "said": BODY, "mood": few("good", "bad")},
        {"text": "said", "label": "mood"},
    ),
    "a title beside a text": ("probe", {"title": TITLE, "passage": BODY, "k": TOPICS}, {"text": "passage", "label": "k"}),
    "a usual name": ("probe", {"reply": OTHER, "review": BODY, "k": STARS}, {"text": "review", "label": "k"}),
    "two sets of classes, one with a usual name": (
        "head",
        {"body": BODY, "verified": few("yes", "no"), "stars": STARS},
        {"text": "body", "label": "stars"},
    ),
    "a split": ("probe", {"split": few("train", "test"), "t": BODY, "c": TOPICS}, {"text": "t", "label": "c"}),
    "labels as 1.0": ("probe", {"t": BODY, "c": few("1.0", "0.0")}, {"text": "t", "label": "c"}),
    "an obvious name wins over what is in it": (
        "probe",
        {"text": IDS, "body": BODY, "label": STARS},
        {"text": "text", "label": "label"},
    ),
    "a language without spaces": ("probe", {"n": IDS, "t": CHINESE, "c": few("a", "b")}, {"text": "t", "label": "c"}),
    "texts of one word": (
        "head",
        {"id": IDS, "name": [f"{a}{b}s" for a in NOUNS for b in "abcdefghijkl"], "c": TOPICS},
        {"text": "name", "label": "c"},
    ),
    "a pair by premise and hypothesis": (
        "head",
        {"pairID": IDS, "premise": BODY, "hypothesis": OTHER, "gold": TOPICS},
        {"sentence1": "premise", "sentence2": "hypothesis", "label": "gold"},
    ),
    "a pair by its numbers": (
        "probe",
        {"id": IDS, "question1": BODY, "question2": OTHER, "is_duplicate": few(0, 1)},
        {"sentence1": "question1", "sentence2": "question2", "label": "is_duplicate"},
    ),
    "two texts and a number": (
        "similarity",
        {"id": SHUFFLED, "left": BODY, "right": OTHER, "near": numbers()},
        {"sentence1": "left", "sentence2": "right", "score": "near"},
    ),
    "a number that varies, beside an id": ("regression", {"id": IDS, "t": BODY, "v": numbers()}, {"text": "t", "score": "v"}),
    "scores with commas": (
        "regression",
        {"t": BODY, "v": [value.replace(".", ",") for value in numbers()]},
        {"text": "t", "score": "v"},
    ),
    "whole scores": ("head-regression", {"t": BODY, "v": few(0, 1, 2, 3, 4, 5)}, {"text": "t", "score": "v"}),
    "a text for a language model": ("masked-lm", {"id": IDS, "t": BODY, "stars": STARS}, {"text": "t"}),
    "gaps": (
        "probe",
        {"t": [None if row % 7 == 0 else text for row, text in enumerate(BODY)], "c": TOPICS},
        {"text": "t", "label": "c"},
    ),
}


@pytest.mark.parametrize("what", FOUND)
def test_columns_are_found_by_what_they_hold(what: str) -> None:
    family, table, expected = FOUND[what]
    assert chosen(family, table) == expected


@pytest.mark.parametrize("what", FOUND)
def test_the_order_of_the_columns_decides_nothing_but_first_and_second(what: str) -> None:
    family, table, expected = FOUND[what]
    transposed = chosen(family, dict(reversed(table.items())))
    assert set(transposed.values()) == set(expected.values())
    assert {transposed.get(name) for name in ("text", "label", "score")} == {
        expected.get(name) for name in ("text", "label", "score")
    }


@pytest.mark.parametrize(
    ("family", "table", "named"),
    [
        ("probe", {"left": BODY, "right": OTHER, "k": STARS}, ("text", "left, right")),
        ("head", {"t": BODY, "verified": few("yes", "no"), "country": few("fr", "de", "it")}, ("label", "verified, country")),
        ("regression", {"t": BODY, "price": numbers(1), "weight": numbers(2)}, ("score", "price, weight")),
        ("similarity", {"one": BODY, "two": OTHER, "three": sentences(9), "near": numbers()}, ("sentence1", "one, two, three")),
    ],
)
def test_columns_that_would_do_as_well_are_named_and_none_is_taken(
    family: str, table: dict[str, list[str]], named: tuple[str, str]
) -> None:
    message = asked(family, table)
    assert f"could read {named[0]} from several columns of mine.csv ({named[1]})" in message
    assert f"--column {named[0]}=" in message


@pytest.mark.parametrize(
    ("family", "table"),
    [
        ("probe", {"id": IDS, "body": BODY}),
        ("probe", {"id": IDS, "stars": STARS}),
        ("regression", {"text": BODY, "id": IDS}),
        ("regression", {"text": BODY, "id": SHUFFLED}),
        ("similarity", {"only": BODY, "near": numbers()}),
        ("masked-lm", {"code": CODES, "stars": STARS}),
    ],
)
def test_a_column_that_is_not_there_is_not_made_up(family: str, table: dict[str, list[str]]) -> None:
    assert "needs the columns" in asked(family, table)


def test_what_the_task_says_comes_first_and_the_rest_is_found() -> None:
    table = {"left": BODY, "right": OTHER, "verified": few("yes", "no"), "k": STARS}
    assert chosen("probe", table, text="left", label="k") == {"text": "left", "label": "k"}
    assert chosen("similarity", {"left": BODY, "right": OTHER, "near": numbers()}, sentence1="right")["sentence2"] == "left"


def test_a_message_names_a_handful_of_columns_however_many_there_are() -> None:
    message = asked("probe", {f"column{number}": numbers(number) for number in range(300)})
    assert "and 295 more" in message and len(message) < 400


def test_classes_are_counted_by_what_they_mean() -> None:
    assert class_counts(["2", "10", "2.0", None, " 2 ", ""]) == {"2": 3, "10": 1}
    assert list(class_counts(["b", "a", "C"])) == ["C", "a", "b"]


def test_a_file_without_any_name_of_ours_is_read_by_content(tmp_path: Path) -> None:
    """An earlier version read such a table as text=id, label=body."""
    table = pd.DataFrame({"id": IDS, "body": BODY, "stars": few("good", "bad")})
    table.to_csv(tmp_path / "mine.csv", index=False)
    found = read(Task(name="mine", family="probe", data=str(tmp_path / "mine.csv")))
    assert found.columns == {"text": "body", "label": "stars"}
    assert set(found.splits["test"]["text"]) <= set(BODY)
    assert found.splits["test"].features["label"].names == ["bad", "good"]


def test_the_splits_of_a_folder_take_the_same_columns(tmp_path: Path) -> None:
    """The largest split determines the columns, because a column of ten rows can be ambiguous."""
    table = pd.DataFrame({"id": IDS, "body": BODY, "stars": STARS})
    for split, part in {"train": table[:90], "validation": table[90:105], "test": table[105:]}.items():
        part.to_csv(tmp_path / f"{split}.csv", index=False)
    assert read(Task(name="mine", family="probe", data=str(tmp_path))).columns == {"text": "body", "label": "stars"}


@pytest.mark.parametrize("delimiter", [":", "^", "~"])
def test_a_delimiter_that_is_not_known_is_told(tmp_path: Path, delimiter: str) -> None:
    rows = zip(sentences(0), few("good", "bad"), strict=True)
    file = tmp_path / "mine.csv"
    file.write_text("\n".join([f"text{delimiter}label", *(f"{text}{delimiter}{label}" for text, label in rows)]))
    with pytest.raises(TaskError, match=r"has only one column, .* separate its cells with a comma, a semicolon, a tab or \|"):
        read(Task(name="mine", family="probe", data=str(file)))


def test_classes_come_at_least_twice_each_on_average() -> None:
    assert not content_of(["good", "bad", "ugly"]).is_label
    assert content_of(["good", "bad", "ugly"] * 2).is_label
