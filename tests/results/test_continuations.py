"""Continuations of runs as tables, sentences and HTML, in the report, and on the page Examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from offcomp.files import read_json
from offcomp.planning.data.scores import Continuation, Score
from offcomp.results import bundled
from offcomp.results.charts.theme import PALETTES, Palette
from offcomp.results.continuations import (
    agreement_text,
    continuation_answer,
    continuation_table,
    continues_prompts,
    first_difference,
    side_by_side,
)
from offcomp.results.report import comparison_document, comparison_tables, html_report
from offcomp.runs.store import Run
from offcomp.ui.examples.continuations import continuations_html
from tests.made_runs import made_group, made_run, made_score, made_value_score, put_in_home
from tests.pages import home, opened, texts

__all__ = ["home"]  # a fixture
ATTACK = '<script>alert("1")</script> **bold** $x$'
TASK = "causal-prose"


def entry(opening: str, original: str, compressed: str, same: int, total: int = 4) -> dict[str, Any]:
    """Return one opening and its continuations in the format of run.json."""
    return {"opening": opening, "original": original, "compressed": compressed, "same_tokens": same, "tokens": total}


FIRST = [entry("A door", " in the old wall", " in the old wall", 4), entry("Once", " a man sat down", " a man stood up", 2)]
SECOND = [entry("Once", " a man sat down", " the king and king", 0), entry("A door", " in the old wall", " in a wall.", 1)]


def scored(entries: list[dict[str, Any]] | None, **fields: Any) -> dict[str, Any]:
    """Return a score on next words with these continuations; None stands for an earlier version, which recorded none."""
    kept = {} if entries is None else {"continuations": entries}
    return made_value_score("perplexity", 12.0, 15.0, spread=0.5, title="Next words in prose", **kept, **fields)


def of(name: str, entries: list[dict[str, Any]] | None, method: str = "svd") -> Run:
    return made_run(name * 12, [made_group("query", 0.5, method=method)], others={TASK: scored(entries)})


NAMES = {"a" * 12: "A", "b" * 12: "B"}


def test_a_row_an_opening() -> None:
    table = continuation_table([of("a", FIRST), of("b", SECOND, "quantization"), of("c", None)])
    assert table["opening"].tolist() == ["A door", "Once", "Once", "A door"]
    assert table["same_tokens"].tolist() == [4, 2, 0, 1]
    assert set(table["run"]) == {"a" * 12, "b" * 12} and set(table["tokens"]) == {4}
    assert continuation_table([]).empty
    assert [continues_prompts(Score.from_json(score)) for score in (scored(None), made_score([], []))] == [True, False]


def test_two_runs_stand_beside_each_other_by_opening() -> None:
    pairs = side_by_side([of("a", FIRST), of("b", SECOND)], TASK)
    assert [(one.opening, one.compressed, other.compressed) for one, other in pairs] == [
        ("A door", " in the old wall", " in a wall."),
        ("Once", " a man stood up", " the king and king"),
    ]
    assert side_by_side([of("a", FIRST), of("c", None)], TASK) == []


def test_answers() -> None:
    assert continuation_answer([of("a", FIRST)], NAMES, TASK) == (
        "On average, SVD matches the original for the first 3.0 of 4 tokens; 1 of 2 continuations is identical."
    )
    assert continuation_answer([of("b", SECOND)], NAMES, TASK).endswith(
        "0.5 of 4 tokens; none of 2 continuations is identical."
    )
    assert "2 of 2 continuations are identical" in continuation_answer(
        [of("a", [FIRST[0], {**FIRST[0], "opening": "B"}])], NAMES, TASK
    )
    assert continuation_answer([of("a", FIRST), of("b", SECOND)], NAMES, TASK) == (
        "On average, A matches the original for the first 3.0 of 4 tokens, B for 0.5; 1 and 0 of 2 continuations are identical."
    )
    said = [agreement_text(Continuation.from_json(one)) for one in (*FIRST, SECOND[0])]
    assert said == ["all 4 tokens the same", "first 2 of 4 tokens the same", "differs from the first token onwards"]


@pytest.mark.parametrize(
    ("original", "compressed", "same", "other"),
    [
        (" a man sat", " a man sat", " a man sat", ""),
        (" a man sat", " a man stood", " a man ", "stood"),
        (" a man", " a mango", " a ", "mango"),  # only whole words are marked
        (" the sea, and", " the sea. the", " the sea", ". the"),
        (" a man", " a man sat", " a man", " sat"),
        (" a man sat", " a man", " a man", ""),
        ("er the", "s the", "", "s the"),
        ("", " x", "", " x"),
        (" x", "", "", ""),
    ],
)
def test_the_first_word_that_differs(original: str, compressed: str, same: str, other: str) -> None:
    place = first_difference(original, compressed)
    assert (compressed[:place], compressed[place:]) == (same, other)


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
def test_what_differs_is_marked_and_texts_stay_texts(palette: Palette) -> None:
    nasty = [entry(ATTACK, ATTACK, f"{ATTACK} more", 3), entry("Once", " a man", "", 0), entry("Then", "", "", 4)]
    made = continuations_html([of("a", [*FIRST, *nasty])], {"a" * 12: "<b>A"}, TASK, palette)
    assert "<script" not in made and "<b>" not in made
    assert "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; **bold** $x$ …</th>" in made
    assert "a man <mark>stood up</mark><small>first 2 of 4 tokens the same</small>" in made
    assert made.count("<mark>") == 3 and made.count("<mark> <i>(the end)</i></mark>") == 1
    assert made.count("<tr>") == 6 and f"border-bottom-color: {palette.series['svd']}" in made


def test_the_report_and_the_tables_to_take_along_have_them() -> None:
    runs = [of("a", [*FIRST, entry(ATTACK, ATTACK, ATTACK, 4)]), of("b", SECOND, "quantization")]
    document = comparison_document(runs)
    assert [row["same_tokens"] for row in document["continuations"]] == [4, 2, 4, 0, 1]
    assert all(row["plan"] and row["run"] for row in document["continuations"])
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    report = html_report(runs)
    assert "How do the models continue the same prompts?" in report and "a man stood up" in report
    assert ATTACK not in report
    old = [of("c", None)]
    assert "continuations" not in comparison_tables(old)
    assert "same prompts" not in html_report(old)


def put(home: Path, digit: str, entries: list[dict[str, Any]] | None, file: int = 0) -> str:
    """Add a run that was scored on sentiment and on next words to this home, and return its id."""
    document = read_json(bundled.FOLDER / bundled.FILES[file])
    document["plan"]["tasks"] += [TASK]
    document["scores"] |= {TASK: scored(entries)}
    return put_in_home(home, document, digit * 12, submitted=float(digit))


def table_of(app: AppTest) -> str:
    """Return the HTML of the table of continuations on the page; an empty string if there is none."""
    return next((element.proto.body for element in app.get("html") if "<table" in element.proto.body), "")


def test_the_page_shows_one_run_and_two(home: Path) -> None:
    first, second = put(home, "1", FIRST), put(home, "2", SECOND, 1)
    app = opened("examples", runs=first, task=TASK)
    assert "On average, SVD matches the original for the first 3.0 of 4 tokens; 1 of 2" in texts(app)
    assert "a man <mark>stood up</mark>" in table_of(app) and "the king" not in table_of(app)
    assert "Compare with" not in [box.label for box in app.selectbox]
    app = opened("examples", runs=f"{first},{second}", task=TASK)
    assert ", Autoencoder for 0.5; 1 and 0 of 2 continuations are identical." in texts(app)
    assert "a man <mark>stood up</mark>" in table_of(app) and "<mark>the king and king</mark>" in table_of(app)
    app.segmented_control(key="examples_task").set_value("sentiment").run()
    assert not app.exception
    assert table_of(app) == "" and "openings" not in texts(app)


def test_a_run_of_an_earlier_version_says_so_in_a_sentence(home: Path) -> None:
    old, new = put(home, "1", None), put(home, "2", SECOND, 1)
    app = opened("examples", runs=old, task=TASK)
    assert "SVD was measured before offcomp recorded continuations" in texts(app)
    assert table_of(app) == ""
    app = opened("examples", runs=f"{new},{old}", task=TASK)
    assert "Autoencoder matches the original for the first 0.5 of 4" in texts(app)
    assert "SVD was measured before offcomp recorded continuations" in texts(app)
    assert table_of(app).count("<tr>") == 3


def test_what_is_looked_at_is_part_of_the_link(home: Path) -> None:
    first, second, third = put(home, "1", FIRST), put(home, "2", SECOND, 1), put(home, "3", None)
    app = opened("examples", runs=f"{first},{second},{third}")
    assert set(app.query_params) == {"runs"}
    app.selectbox(key="examples_run").set_value(second).run()
    app.segmented_control(key="examples_task").set_value(TASK).run()
    app.selectbox(key="examples_beside").set_value(third).run()
    assert not app.exception
    link = {name: app.query_params[name] for name in ("runs", "run", "task", "beside")}
    assert link == {"runs": f"{first},{second},{third}", "run": second, "task": TASK, "beside": third}
    other = opened("examples", **link)
    assert [box.value for box in other.selectbox] == [second, third]
    assert texts(other) == texts(app) and not other.warning
    app.selectbox(key="examples_run").set_value(third).run()
    assert app.selectbox(key="examples_beside").value == first  # a run is not compared with itself
    assert not app.warning
    wrong = opened("examples", runs=first, task="nonsense", run="f" * 12)
    assert [warning.value.split(". This part")[0] for warning in wrong.warning] == [
        f"The link asks for run='{'f' * 12}'",
        "The link asks for task='nonsense'",
    ]
