"""JSON documents: the fields that they keep and write, and the messages about their faults."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from offcomp.numerics.accounting import Size
from offcomp.planning.data.row_counts import RowCounts
from offcomp.planning.data.scores import OriginalScore, Score
from offcomp.planning.json_checks import Malformed
from offcomp.planning.model_sizes import SizeChange
from tests.made_runs import made_score

COUNTS = {"read": 3, "used": 2, "left_out": {"empty": 1}}


def test_what_a_newer_version_adds_survives_and_what_is_missing_stays_missing() -> None:
    document = made_score(["a"], ["b"]) | {"of the future": {"x": [1]}}
    score = Score.from_json(document)
    assert score.to_dict() == document
    assert (score.metric, score.title, score.also) == ("accuracy", None, {})


def test_a_count_of_token_rows_as_earlier_versions_stored_it_is_dropped() -> None:
    document = made_score([], [])
    assert Score.from_json(document | {"rows": 112}).to_dict() == document
    assert Score.from_json(document | {"rows": COUNTS}).rows == RowCounts.from_json(COUNTS)


def test_a_document_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RowCounts.from_json(COUNTS).read = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"metric": "luck"}, "metric is 'luck'; it must be one of accuracy, spearman,"),
        ({"title": "two\nlines"}, "title is 'two\\nlines', which contains a line break"),
        ({"collapsed": 1}, "collapsed is 1; it must be true or false"),
        ({"compressed": {"value": 0.5, "n": 3}}, "compressed.standard_error is missing"),
        ({"paired": {"difference": 0.0, "interval": [0.0]}}, "paired.interval is [0.0]; it must be a list of length 2"),
        ({"paired": {"difference": 0.0, "interval": None}}, "paired.agreement is missing"),
        ({"flips": {"right_to_wrong": [3], "wrong_to_right": []}}, "flips.right_to_wrong[0] is 3; it must be a JSON object"),
        ({"also": {"luck": {}}}, "also contains the name 'luck'; it must be one of accuracy, spearman,"),
        ({"settings": {"two\nlines": 1}}, "settings contains the name 'two\\nlines'; a name must be one line"),
        ({"rows": COUNTS | {"used": -2}}, "rows.used is -2; it must be a whole number, 0 or greater"),
        ({"x" * 99: 1e200}, f"{'x' * 40} is 1e+200; it must be a number within range"),
    ],
)
def test_the_first_fault_is_said_with_its_place(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(Malformed) as caught:
        Score.from_json(made_score(["a"], []) | changes)
    assert str(caught.value).startswith(fault)


def test_a_score_of_the_original_alone_is_its_own_value() -> None:
    score = OriginalScore(value=0.5, standard_error=None, n=3)
    assert score.original is score and score.to_dict() == {"value": 0.5, "standard_error": None, "n": 3}


def test_a_change_of_size_in_both_units() -> None:
    change = SizeChange.between(Size(100, 400), Size(25, 50))
    assert [(change.before(unit), change.after(unit), change.ratio(unit)) for unit in ("parameters", "bytes")] == [
        (100, 25, 4.0),
        (400, 50, 8.0),
    ]
    assert SizeChange.between(Size(0, 0), Size(0, 0)).parameter_ratio == 1.0
