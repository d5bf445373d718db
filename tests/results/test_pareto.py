"""Score against size: which runs share an axis, the front, references, sentences and charts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from offcomp.results.atlas import read_measurements
from offcomp.results.bundled import bundled_runs
from offcomp.results.charts.pareto import FILLS, MAX_BARS, PALE, agreement_figure, front_figure
from offcomp.results.charts.theme import LIGHT, PALETTES, Palette
from offcomp.results.pareto import (
    ERROR,
    agreement_answer,
    concordance,
    front_answer,
    front_table,
    left_out_text,
    measures_of,
    of_the_same_weights,
    reference_table,
    sharing_an_axis,
)
from offcomp.results.runs import short_names
from offcomp.runs.store import OF_A_SAMPLE, Run
from tests.made_runs import made_group, made_run, made_score, made_value_score, with_result

NO_REFERENCES = pd.DataFrame({"name": [], "value": [], "size": []})


def run(
    name: str, parameters: int, lost: int, *, error: float = 0.5, method: str = "svd", model: str = "tiny", **more: Any
) -> Run:
    """Return a run that stores `parameters` of 40 parameters (and 100 others) and gets `lost` of 80 right answers wrong."""
    group = made_group("query", error, num_parameters=parameters, num_bytes=4 * parameters, method=method, **more)
    return made_run(name * 12, [group], made_score([f"text {i}" for i in range(lost)], []), model=model)


SMALL, MIDDLE, WASTED = run("a", 10, 20), run("b", 20, 2, method="autoencoder"), run("c", 30, 10, error=0.6)
THREE = [SMALL, MIDDLE, WASTED]


def front(runs: list[Run], measure: str, unit: str) -> pd.DataFrame:
    return front_table(runs, measure, unit, short_names(runs))


def test_the_front_has_what_no_other_beats_on_both() -> None:
    table = front(THREE, "sentiment", "parameters")
    assert table["name"].tolist() == ["Original", *short_names(THREE).values()]
    assert table["size"].tolist() == pytest.approx([140e-6, 110e-6, 120e-6, 130e-6])
    assert table["value"].tolist() == pytest.approx([0.8, 0.6, 0.78, 0.7])
    assert table["on_front"].tolist() == [True, True, True, False]
    assert table["within_noise"].tolist() == [True, False, True, False]
    assert ((table["low"] < table["value"]) & (table["value"] < table["high"])).all()


def test_equals_are_on_the_front_together_and_a_better_score_beats_the_original() -> None:
    twins = [run("a", 10, 5), run("b", 10, 5)]
    assert front(twins, "sentiment", "bytes")["on_front"].tolist() == [True] * 3
    won = made_run("d" * 12, [made_group("query", 0.5)], made_score([], ["x", "y"]))
    assert front([won], "sentiment", "bytes")["on_front"].tolist() == [False, True]


def test_a_perplexity_is_better_where_it_is_lower() -> None:
    runs = [
        made_run(
            name * 12,
            [made_group("query", 0.5, num_parameters=size)],
            others={"prose": made_value_score("masked perplexity", 12, to)},
        )
        for name, size, to in (("a", 10, 50.0), ("b", 20, 60.0), ("c", 30, 20.0))
    ]
    table = front(runs, "prose", "parameters")
    assert table["on_front"].tolist() == [True, True, False, True]
    figure = front_figure(table, LIGHT, NO_REFERENCES)
    assert figure.layout.yaxis.type is None
    assert "lower left is better" in figure.layout.xaxis.title.text
    far = front_figure(table.assign(high=1000.0), LIGHT, NO_REFERENCES)
    assert far.layout.yaxis.type == "log"
    assert "log scale" in far.layout.yaxis.title.text


def test_only_what_can_be_set_side_by_side_shares_an_axis_and_the_rest_is_named() -> None:
    other = run("d", 10, 1, model="another")
    newer = made_run("e" * 12, [made_group("query", 0.5)], made_score(["a"], []) | {"version": "2"})
    unscored = made_run("f" * 12, [made_group("key", 0.5)])
    broken = made_run("g" * 12, [made_group("query", 0.5)], made_score([], []))
    score = broken.result.scores["sentiment"]
    score = score.model_copy(update={"compressed": score.compressed.model_copy(update={"value": float("nan")})})
    broken = replace(broken, result=broken.result.model_copy(update={"scores": {"sentiment": score}}))
    runs = [other, *THREE, newer, unscored, broken]
    shown, left_out = sharing_an_axis(runs, "sentiment")
    assert shown == THREE
    assert list(left_out) == ["of a different model (another)", "scored on different examples", "no score on this task"]
    said = left_out_text(left_out, {r.id: r.id[:1] for r in runs})
    assert said == "d (of a different model (another)); e (scored on different examples); f, g (no score on this task)"
    assert "a, b and 1 more (why)" in left_out_text({"why": THREE}, {r.id: r.id[:1] for r in THREE}, most=2)
    shown, left_out = sharing_an_axis(runs, ERROR.name)
    assert len(shown) == 5
    assert list(left_out) == ["of a different model (another)", "different weights, so the errors are not comparable"]
    assert sharing_an_axis([unscored], "sentiment") == ([], {"no score on this task": [unscored]})


CONTENT = "2-" + "a" * 64


@pytest.mark.parametrize(
    ("fields", "model", "why"),
    [
        ({}, {"fingerprint": "b" * 64, "reads": ""}, f"its model is {OF_A_SAMPLE}"),
        ({}, {"fingerprint": "2-" + "b" * 64, "reads": "2-" + "b" * 64}, "of a different model (tiny)"),
        ({}, {"reads": "2-" + "c" * 64}, "the same weights, but other files differ, such as the tokenizer or the pooling"),
        ({"embedding": "first token"}, {}, "scored with texts embedded differently"),
        ({"probe": 1}, {}, "scored with a different version of the probe"),
        ({"settings": {"refit": True}}, {}, "scored with different task settings"),
        ({"digest": "other"}, {}, "scored on different examples"),
        ({"original": {"value": 0.7, "n": 100}}, {}, "its original has a different score"),
    ],
)
def test_the_reason_for_leaving_a_run_out_names_what_differs(fields: dict[str, Any], model: dict[str, Any], why: str) -> None:
    base = {"fingerprint": CONTENT, "reads": "2-" + "d" * 64}
    asked = {"probe": 2, "embedding": "mean", "digest": "one"}

    def changed(run: Run, more: dict[str, Any], about: dict[str, Any]) -> Run:
        return with_result(run, scores={"sentiment": asked | more}, model=base | about)

    others = [changed(each, {}, {}) for each in THREE]
    odd = changed(run("d", 10, 1), fields, model)
    assert sharing_an_axis([odd, *others], "sentiment") == (others, {why: [odd]})


def test_runs_are_judged_by_every_task_and_by_their_error() -> None:
    both = made_run(
        "a" * 12, [made_group("key", 0.5)], made_score([], []), others={"s": made_value_score("spearman", 0.8, 0.7)}
    )
    assert list(measures_of([SMALL, both])) == ["sentiment", "s", ERROR.name]
    table = front(THREE, ERROR.name, "bytes")
    assert table["value"].tolist() == pytest.approx([0, 0.5, 0.5, 0.6])
    assert table["on_front"].tolist() == [True, True, False, False]


def test_answers() -> None:
    assert front_answer(front(THREE, "sentiment", "parameters")) == (
        "2 of 3 runs are on the front, meaning that nothing else in the chart is at least as small and at least as good, "
        "except exact ties. "
        "The smallest run within noise of the original is Autoencoder, 0.00012 M parameters (1.17x smaller): "
        "accuracy on sentiment 78.0 %, -2.0 points from the original (95 % interval -7.0 to +1.8), within noise."
    )
    assert "No run is known to be within noise of the original; the best is SVD cccccc" in front_answer(
        front([SMALL, WASTED], "sentiment", "bytes")
    )
    assert front_answer(front([MIDDLE], "sentiment", "bytes")).startswith("Autoencoder, 0.00048 MB (1.17x smaller)")
    assert "SVD aaaaaa has the smallest relative error, 0.5" in front_answer(front(THREE, ERROR.name, "bytes"))


def test_pairs_of_runs_in_which_error_and_score_agree() -> None:
    runs = [run("a", 10, 1, error=0.1), run("b", 10, 2, error=0.2), run("c", 10, 3, error=0.15)]
    table = front(runs, "sentiment", "bytes").iloc[1:]
    assert concordance(table) == (2, 3)
    assert agreement_answer(table) == (
        "In 2 of 3 pairs of runs, the one with the smaller relative error also has the better accuracy."
    )
    many = [
        run(letter, 10, lost, error=0.1 * (place + 1))
        for place, (letter, lost) in enumerate(zip("abcde", (1, 3, 2, 5, 4), strict=True))
    ]
    assert "In 8 of 10 pairs" in (said := agreement_answer(front(many, "sentiment", "bytes").iloc[1:]))
    assert said.endswith("accuracy: the two mostly agree.")
    assert agreement_answer(table.iloc[:1]) == "No two runs differ in both relative error and accuracy."
    key = made_run("d" * 12, [made_group("key", 0.5)], made_score([], []))
    assert of_the_same_weights([key, *runs]) == runs


def test_plain_rounding_is_shown_where_it_was_measured_on_the_same_model_and_examples() -> None:
    bundled, documents = bundled_runs()[0], read_measurements().values()
    table = reference_table(documents, bundled, "sentiment", "bytes")
    assert table["name"].tolist()[0] == "int8"
    assert (table["size"] < 90).all()
    assert table["value"].between(0.5, 1).all()
    assert reference_table(documents, bundled, ERROR.name, "bytes").empty  # different weights
    assert reference_table(documents, SMALL, "sentiment", "bytes").empty  # a different model


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
def test_the_chart(palette: Palette) -> None:
    table = front([*THREE, run("d", 5, 30, method="pruning", modules=["query.0", "query.1"])], "sentiment", "bytes")
    references = pd.DataFrame({"name": ["int8"], "value": [0.79], "size": [0.1]})
    figure = front_figure(table, palette, references)
    json.loads(figure.to_json())
    assert figure.layout.title.text == "Which run does best for its size?"
    assert "upper left is better" in figure.layout.xaxis.title.text
    assert figure.layout.yaxis.title.text == "Accuracy on sentiment, in %"
    marks = [trace for trace in figure.data if trace.error_y.array is not None]
    assert {(m.marker.color, m.opacity) for m in marks} == {
        (palette.series["svd"], 1),
        (palette.series["autoencoder"], 1),
        (palette.series["svd"], PALE),
        (palette.series["pruning"], 1),
    }
    assert {str(m.marker.symbol).endswith(FILLS["stacked"]) for m in marks} == {True, False}
    star = next(trace for trace in figure.data if trace.marker.symbol == "star")
    assert list(star.y) == [80]
    names = {trace.name for trace in figure.data}
    assert {"best up to this size", "Original", "int8, 0.1 MB", "each alone", "stacked"} <= names
    line = next(trace for trace in figure.data if trace.name == "best up to this size")
    assert line.line.shape == "hv"
    assert list(line.y) == pytest.approx([50, 60, 78, 80, 80])


def test_one_run_hundreds_of_runs_and_long_names_can_be_drawn() -> None:
    one = front_figure(front([SMALL], "sentiment", "bytes"), LIGHT, NO_REFERENCES)
    assert [trace.text[0].strip() for trace in one.data if trace.text] == ["SVD"]
    hundreds = [
        made_run(f"{i:012x}", [made_group("query", 0.5, num_parameters=1 + i % 37)], made_score(["a"] * (i % 29), []))
        for i in range(500)
    ]
    table = front(hundreds, "sentiment", "bytes")
    figure = front_figure(table, LIGHT, NO_REFERENCES)
    assert len(figure.data) < 15
    barred = sum(len(trace.x) for trace in figure.data if trace.error_y.array is not None)
    assert barred == table["on_front"].iloc[1:].sum() < MAX_BARS
    long = run("a", 10, 3, model="n" * 100)
    other = run("b", 30, 3, model="n" * 100, modules=["m" * 100 + ".0"])
    texts = [t.text[0] for t in front_figure(front([long, other], "sentiment", "bytes"), LIGHT, NO_REFERENCES).data if t.text]
    assert all(len(text.strip()) <= 26 for text in texts)
    json.loads(agreement_figure(table.iloc[1:], LIGHT).to_json())


def test_a_size_that_saves_nothing_is_called_larger() -> None:
    larger = run("a", 60, 0)
    assert "1.14x larger" in front_answer(front([larger], "sentiment", "parameters"))
