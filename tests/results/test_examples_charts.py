"""Individual predictions: outcomes, changes and two runs side by side, in tables, sentences, charts and the page Examples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from offcomp.files import read_json
from offcomp.results import bundled
from offcomp.results.charts.examples import (
    CELLS,
    LISTED,
    LOST,
    STAYED_RIGHT,
    STAYED_WRONG,
    WON,
    found_in,
    joint_answer,
    joint_table,
    joint_words,
    outcome_answer,
    outcome_figure,
    outcome_table,
    score_of,
    shift_answer,
    shift_figure,
    shift_table,
    shift_words,
    unlisted_text,
    written_p,
)
from offcomp.results.charts.theme import PALETTES, Palette
from tests.made_runs import made_group, made_run, made_score, made_value_score, put_in_home
from tests.pages import home, opened, step, texts

__all__ = ["home"]  # a fixture

RANKS = made_value_score("spearman", 0.82, 0.79)
MASKED = made_value_score("masked perplexity", 12.0, 15.0, spread=0.5)
FIRST = made_run(
    "a" * 12, [made_group("query", 0.5)], made_score(["One", "two"], ["three"]), others={"pairs": RANKS, "prose": MASKED}
)
SECOND = made_run(
    "b" * 12,
    [made_group("query", 0.5, method="autoencoder")],
    made_score(["two"], ["three", "four"]),
    others={"pairs": made_value_score("spearman", 0.82, 0.8)},
)


def test_every_answer_has_an_outcome() -> None:
    table = outcome_table(score_of(FIRST, "sentiment")).set_index("change")
    assert table.index.tolist() == list(CELLS)
    assert table["count"].to_dict() == {STAYED_RIGHT: 78, LOST: 2, WON: 1, STAYED_WRONG: 19}
    assert table["share"].sum() == pytest.approx(1)
    assert table["listed"].tolist() == [0, 2, 1, 0]
    assert table.loc[LOST, ["before", "after"]].tolist() == ["right", "wrong"]


def test_what_is_counted_and_not_listed_is_said() -> None:
    score = score_of(FIRST, "sentiment")
    table = outcome_table(score)
    assert unlisted_text(table, score, LISTED) == ""
    assert "78 of 78 selected answers are counted but not listed." in unlisted_text(table, score, (STAYED_RIGHT,))
    several = score.model_copy(update={"paired": score.paired.model_copy(update={"agreement": 0.9})})
    assert "7 of the answers that stayed wrong are now wrong in another way" in unlisted_text(table, several, (STAYED_WRONG,))


def test_answers() -> None:
    assert outcome_answer(FIRST, "sentiment") == (
        "SVD changed 3 of 100 answers: 2 from right to wrong, 1 from wrong to right; -1.0 points from the original "
        "(95 % interval -6.1 to +3.7), within noise (McNemar p = 1)."
    )
    worse = made_run("c" * 12, [made_group("query", 0.5)], made_score([str(i) for i in range(5)], []))
    assert "(95 % interval -11.2 to -1.1) (McNemar p = .062)" in outcome_answer(
        worse, "sentiment"
    )  # the interval decides, not p
    same = made_run("d" * 12, [made_group("query", 0.5)], made_score([], []))
    assert outcome_answer(same, "sentiment") == "SVD changed none of 100 answers from right to wrong or vice versa."
    assert [written_p(p) for p in (0.42, 0.0001, 1.0)] == ["= .42", "< .001", "= 1"]
    assert "in Spearman" not in shift_answer(FIRST, "pairs")
    assert "Spearman correlation on pairs from 0.820 ± 0.039 to 0.790 ± 0.039: -0.030" in shift_answer(FIRST, "pairs")
    assert "among the 2 examples that changed most, the loss rose in 2 and fell in 0" in shift_answer(FIRST, "prose")
    none = made_run("e" * 12, [made_group("query", 0.5)], others={"pairs": {**RANKS, "changes": []}})
    assert "no individual example changed" in shift_answer(none, "pairs")


def test_listed_examples_are_of_one_task_and_can_be_searched() -> None:
    flips = shift_table(FIRST, "sentiment")
    assert set(flips["text"]) == {"One", "two", "three"}
    assert found_in(flips, " ONE ")["text"].tolist() == ["One"]
    assert found_in(flips, "t(")["text"].tolist() == []  # plain text, not a pattern
    assert len(found_in(flips, "")) == 3
    changes = shift_table(FIRST, "pairs")
    assert changes["truth"].tolist() == [1, 0]
    assert shift_table(made_run("f" * 12, [made_group("query", 0.5)], made_score([], [])), "sentiment").empty
    words = [shift_words(score_of(FIRST, task)) for task in ("sentiment", "pairs", "prose")]
    assert words == ["probability of the true label", "score given by the model", "loss in nats per token"]


@pytest.mark.parametrize(
    ("metric", "perfect", "values"), [("embedding cosine", 1.0, (0.5, 0.75)), ("masked KL", 0.0, (0.5, 0.25))]
)
def test_the_examples_of_a_fidelity_are_ordered_by_how_far_they_are_from_the_original(
    metric: str, perfect: float, values: tuple[float, float]
) -> None:
    far, near = ({"text": str(value), "original": perfect, "compressed": value} for value in values)
    score = made_value_score(metric, perfect, 0.6, changes=[near, far])
    run = made_run("b" * 12, [made_group("query", 0.5)], others={"own": score})
    figure = shift_figure(shift_table(run, "own"), run, score_of(run, "own"), PALETTES["light"])
    (points,) = figure.data
    assert (list(points.x), list(points.y)) == ([1, 2], list(values))
    assert [line.y0 for line in figure.layout.shapes] == [perfect]
    assert f"of {values[0]:.3f} to {values[1]:.3f}." in shift_answer(run, "own")


def test_two_runs_side_by_side() -> None:
    table = joint_table(FIRST, SECOND, "sentiment").set_index("text")
    assert set(table.index) == {"One", "two", "three", "four"}
    assert table.loc["One", ["first_flip", "second_flip"]].tolist() == [LOST, "same as the original"]
    assert table.loc["four", "original"] == pytest.approx(0.4)
    assert table["difference"].abs().is_monotonic_decreasing
    shown = joint_words(table)
    assert shown.loc["One", ["first", "second"]].tolist() == [f"{LOST}, 0.500", "same as the original"]
    answer = joint_answer(FIRST, SECOND, ("A", "B"), "sentiment")
    assert answer.startswith(
        "On 2 of 100 examples, one run is right and the other wrong: A is right on 0, B on 2. The difference in"
    )
    unchanged = made_run("f" * 12, [made_group("query", 0.5)], made_score([], []))
    assert set(joint_words(joint_table(FIRST, unchanged, "sentiment"))["second"]) == {"same as the original"}
    pairs = joint_words(joint_table(FIRST, SECOND, "pairs"))
    assert pairs["first"].tolist() == ["1.790", "0.790"]
    assert "2 are listed by both runs and 0 by only one" in joint_answer(FIRST, SECOND, ("A", "B"), "pairs")
    cut = made_run("g" * 12, [made_group("query", 0.5)], others={"pairs": {**RANKS, "changes": RANKS["changes"][:1]}})
    assert "not listed" in joint_words(joint_table(FIRST, cut, "pairs"))["second"].tolist()


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
def test_charts(palette: Palette) -> None:
    figure = outcome_figure(outcome_table(score_of(FIRST, "sentiment")), LISTED, palette)
    json.loads(figure.to_json())
    assert figure.layout.title.text.endswith("?")
    assert [shape.line.width for shape in figure.layout.shapes] == [1, 3, 3, 1]
    assert [shape.fillcolor for shape in figure.layout.shapes][1:3] == [palette.diverging[0], palette.diverging[2]]
    assert "78" in figure.data[0].text[0]
    for task in ("sentiment", "pairs", "prose"):
        moved = shift_figure(shift_table(FIRST, task), FIRST, score_of(FIRST, task), palette)
        json.loads(moved.to_json())
        assert moved.data[1].marker.color == palette.series["svd"]
        assert list(moved.data[0].x) == list(moved.data[0].y)
        assert moved.layout.xaxis.range == moved.layout.yaxis.range


def test_the_page_shows_the_bundled_runs_and_shares_its_choice_with_compare(home: Path) -> None:
    app = opened("examples")
    assert "SVD changed 22 of 360 answers: 11 from right to wrong, 11 from wrong to right" in texts(app)
    assert "within noise (McNemar p = 1)" in texts(app)
    assert len(app.get("plotly_chart")) == 2
    assert "22 of 22 listed examples shown" in texts(app)
    app.segmented_control(key="examples_outcome").set_value(LOST).run()
    assert "11 of 11 listed examples shown" in texts(app)
    app.text_input(key="examples_search").set_value("chewing").run()
    assert "1 of 11 listed examples shown" in texts(app)
    app.segmented_control(key="examples_outcome").set_value(STAYED_RIGHT).run()
    assert "291 of 291 selected answers are counted but not listed" in texts(app)
    assert not app.exception
    kept = app.multiselect(key="compare_runs").value[:1]
    app.multiselect(key="compare_runs").set_value(kept).run()
    assert "choose a second run above" in texts(app)
    step(app, "compare")
    assert app.multiselect(key="compare_runs").value == kept


def test_the_page_with_tasks_of_every_kind_and_with_none(home: Path) -> None:
    documents = [read_json(bundled.FOLDER / file) for file in bundled.FILES]
    for document, digit in zip(documents, "12", strict=True):
        document["plan"]["tasks"] += ["similarity", "masked-prose"]
        document["scores"] |= {"similarity": RANKS, "masked-prose": MASKED}
        put_in_home(home, document, digit * 12, submitted=1.0)
    unscored = documents[0] | {"scores": {}}
    put_in_home(home, unscored, "3" * 12, submitted=0.0)
    app = opened("examples", runs=f"{'1' * 12},{'2' * 12},{'3' * 12}")
    assert "1 of 3 runs are not listed" in texts(app)
    for task in ("similarity", "masked-prose"):
        app.segmented_control(key="examples_task").set_value(task).run()
        assert not app.exception
        assert "changed most" in texts(app)
        assert len(app.dataframe) == 2
    app = opened("examples", runs="3" * 12)
    assert "None of these runs was scored" in app.info[0].value
    assert app.button(key="examples_compress").label == "Compress something"
