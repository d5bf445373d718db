"""The single-file report: its contents, escaped texts from users, valid HTML, and the tables for download."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from plotly.offline import get_plotlyjs

from offcomp.cli.text import run_text
from offcomp.errors import InputError
from offcomp.results.report import comparison_document, comparison_tables, figures_table, html_report
from offcomp.runs.store import Run
from tests.made_runs import made_group, made_run, made_score, made_value_score

ATTACK = '<script>alert("1")</script><img src=x onerror=alert(2)>'
VOID = {"meta", "img", "br", "link", "input"}


READ = {
    "rows": {"read": 300, "used": 298, "left_out": {"empty": 2}},
    "cut": {"texts": 40, "of": 298, "tokens": 126},
}
TEXT_READ = {"calibration": {"rows": {"read": 60, "used": 50, "left_out": {"not drawn": 10}}}}


class Outline(HTMLParser):
    """The elements and texts of an HTML page, with its open elements and the faults in closing elements."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes another element")

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of every element with this name."""
        return [attributes for name, attributes in self.elements if name == tag]


def outline(runs: Sequence[Run]) -> tuple[Outline, str]:
    """Return the parsed report, and its text without the chart library."""
    report = html_report(runs, created=datetime(2026, 1, 2, tzinfo=UTC))
    short = report.replace(get_plotlyjs(), "")
    assert len(report) - len(short) == len(get_plotlyjs())  # the library is included once
    parsed = Outline()
    parsed.feed(short)
    parsed.close()
    return parsed, short


@pytest.fixture(scope="module")
def page_and_text() -> tuple[Outline, str]:
    """The parsed report on two methods, and its text."""
    return outline(made_pair())


def made_pair(text: str = "good film") -> list[Run]:
    """Return runs of two methods on the same weights, scored on a task with classes and on one without."""
    similar = {"similarity": made_value_score("spearman", 0.8, 0.7)}
    svd = made_run("a" * 12, [made_group("key", 0.5)], made_score([text], ["b"]), others=similar)
    group = made_group("key", 0.3, method="autoencoder", options={"preset": "banaei2023"})
    return [svd, made_run("b" * 12, [group], made_score(["c"], []), others=similar, seed=3)]


def test_it_says_what_was_found_and_how_to_do_it_again(page_and_text: tuple[Outline, str]) -> None:
    page, text = page_and_text
    words = " ".join(data for tag, data in page.texts if tag not in ("script", "style"))
    assert "Which method keeps more of tiny?" in words
    assert "Autoencoder has the lower reconstruction error (relative error 0.3 against 0.5 for SVD)" in words
    assert "Created on 2 January 2026 with offcomp" in words
    assert "good film" in words and "spearman 0" in words
    assert "offcomp 0.1.0, torch 2.13.0" in words
    assert f"offcomp run plan-{'b' * 12}.json" in words
    links = [link["href"] or "" for link in page.of("a")]
    assert len(links) == 2 and all(link.startswith("data:application/json") for link in links)
    assert all(run.plan.to_json() in [data for tag, data in page.texts if tag == "pre"] for run in made_pair())
    assert "default-src 'none'" in text


def test_the_html_is_sound(page_and_text: tuple[Outline, str]) -> None:
    page, text = page_and_text
    assert page.faults == [] and page.open == []
    assert page.of("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert {cell["scope"] for cell in page.of("th")} == {"col", "row"}
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(names) == len(set(names))
    assert not any("src" in attributes for _, attributes in page.elements)
    figures = json.loads(next(data for tag, data in page.texts if tag == "script" and data.startswith("{")))
    assert set(figures) <= set(names) and all(set(looks) == {"light", "dark"} for looks in figures.values())
    assert text.count("Show as a table") == len(figures) == 7


def test_texts_of_people_stay_texts(page_and_text: tuple[Outline, str]) -> None:
    runs = made_pair(ATTACK)
    score = made_score([ATTACK], []) | {"title": ATTACK}
    run = made_run("<b>id", [made_group("key", 0.4, modules=[f"{ATTACK}.0"])], score, model=ATTACK)
    (group,), (planned,) = run.result.groups, run.plan.groups  # reading a run rejects such names
    result = run.result.model_copy(update={"groups": (group.model_copy(update={"name": ATTACK}),)})
    runs.append(replace(run, result=result, plan=run.plan.replace(groups=(planned.replace(name=ATTACK),))))
    page, text = outline(runs)
    harmless, _ = page_and_text
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in harmless.elements}
    assert len(page.of("script")) == len(harmless.of("script"))
    assert page.faults == [] and ATTACK not in text
    assert ATTACK in [data for tag, data in page.texts if tag in ("td", "th")]
    drawn = next(data for tag, data in page.texts if tag == "script" and data.startswith("{"))
    assert "script>" not in json.dumps(json.loads(drawn)).replace("&lt;script&gt;", "").replace("&lt;/script&gt;", "")


def test_runs_of_every_kind_have_a_report(tmp_path: Path) -> None:
    original = made_run("c" * 12, [])
    unscored = made_run("d" * 12, [made_group("x" * 100, 0.5)])
    many = [made_run(f"{i:012d}", [made_group("key", 0.1 + i / 100)]) for i in range(12)]
    for runs in ([original], [unscored], [original, unscored], many):
        page, text = outline(runs)
        assert page.faults == []
        (tmp_path / "report.html").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="at least one finished run"):
        html_report([])


def test_the_figures_stand_abreast_until_there_are_many_runs() -> None:
    few = figures_table(made_pair())
    assert list(few.columns) == ["Figure", "SVD", "Autoencoder"]
    found = dict(zip(few["Figure"], few["SVD"], strict=True))
    assert found["Relative error"] == "0.500" and found["By parameters"] == "2x smaller"
    assert found["Accuracy on sentiment"] == "80.0 % ± 7.8" and found["Agreement on sentiment"] == "98.0 %"
    many = figures_table([made_run(f"{i:012d}", [made_group("key", 0.1)]) for i in range(5)])
    assert len(many) == 5 and list(many.columns[:2]) == ["Run", "Run id"]


def test_every_row_to_take_away_names_its_run_seed_and_plan() -> None:
    runs = made_pair()
    document: dict[str, Any] = comparison_document(runs)
    assert list(document) == ["runs", "groups", "scores", "sizes", "flips", "changes"]
    assert [row["relative_error"] for row in document["runs"]] == [0.5, 0.3]
    assert document["flips"][0]["seed"] in (0, 3) and "style_key" not in document["groups"][0]
    plans = {json.loads(row["plan"])["seed"] for row in document["sizes"]}
    assert plans == {0, 3}
    assert "flips" not in comparison_tables([made_run("a", [made_group("key", 0.5)])])
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_what_was_read_stands_in_the_report_the_tables_and_the_text() -> None:
    run = made_run("a" * 12, [made_group("key", 0.5, size_name="rank", seconds=1.0) | TEXT_READ], made_score(["x"], []) | READ)
    read, calibrated = (
        "300 rows read, 298 used: 2 empty; 40 of 298 texts truncated to 126 tokens",
        "60 texts read, 50 used: 10 not drawn",
    )
    figures = dict(figures_table([run]).to_numpy().tolist())
    assert (figures["Read for sentiment"], figures["Read for calibration"]) == (read, calibrated)
    said = outline([run])[1]
    assert read in said and calibrated in said
    row = comparison_document([run])["runs"][0]
    assert [row[f"sentiment_{name}"] for name in ("rows_read", "rows_used", "texts_cut")] == [300, 298, 40]
    assert read in run_text(run) and f"calibration: {calibrated}" in run_text(run)
