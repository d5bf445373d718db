"""The bundled files of the Start page, the words and cards made from them, and damaged files."""

from __future__ import annotations

import json
import re
from html import unescape
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offcomp.errors import InputError
from offcomp.models.listing import known_info
from offcomp.planning.plan import validate
from offcomp.planning.sizes import predict
from offcomp.results.charts.start_cards import own_html, start_html
from offcomp.results.charts.start_svg import front_svg, ticks
from offcomp.results.charts.theme import DARK, LIGHT, Palette
from offcomp.results.scores import METRICS
from offcomp.results.start import FILES, FOLDER, RATIOS, ZERO, Answer, Demo, read_demo
from offcomp.results.start_words import is_kept, method_name, said, what_happened

KINDS = list(FILES)
METHODS = ["svd", "autoencoder", "trellis"]
LARGEST_ASSETS = 6_000_000


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_has_every_size_or_says_why_not(kind: str) -> None:
    demo = read_demo(kind)
    assert [lane.style_key for lane in demo.lanes] == METHODS
    for lane in demo.lanes:
        for ratio in RATIOS[1:]:
            step = lane.at(ratio)
            assert step is not None or lane.fault_at(ratio) != "not measured"
            if step is not None:
                assert demo.cells(step.picture).shape == (demo.rows, demo.cols)
                assert step.score.original.value == demo.original.score.value
                assert demo.original.num_bytes / step.num_bytes >= ratio
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= LARGEST_ASSETS


@pytest.mark.parametrize("kind", KINDS)
def test_the_plans_are_valid_and_have_the_stored_sizes(kind: str, tmp_path: Path) -> None:
    demo = read_demo(kind)
    info = known_info(demo.model, tmp_path)
    assert info is not None
    for lane in demo.lanes:
        for step in lane.steps:
            plan = lane.plan_at(step.ratio)
            validate(plan, info)
            assert sum(group.num_bytes for group in predict(plan, info).groups) == step.num_bytes
            assert {name for group in plan.groups for name in group.modules} == {m.name for m in info.modules if m.default}


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_centred_on_zero(kind: str) -> None:
    demo = read_demo(kind)
    cells = demo.cells(demo.original.picture).astype(int) - ZERO
    assert abs(cells.mean()) < 0.1 * ZERO
    assert 0.2 * ZERO < np.sqrt((cells**2).mean()) < 0.5 * ZERO


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ratio", RATIOS)
def test_the_sentence_agrees_with_the_answers(kind: str, ratio: float) -> None:
    demo = read_demo(kind)
    for index, original in enumerate(demo.original.answers):
        sentence = what_happened(kind, demo, ratio, index)
        steps = {key: step for key, step in demo.steps(ratio).items() if step is not None}
        if ratio == 1:
            assert sentence.startswith("This is the original model.")
            continue
        first, second = sentence.split(". ", 1)
        kept = [key for key, step in steps.items() if is_kept(demo.texts, original, step.answers[index], index)]
        if len(kept) == len(steps):
            assert f"all {len(kept)} methods still" in first
        elif not kept:
            assert "no method still" in first
        else:
            before, after = first.split(" still ")
            assert all((method_name(key).lower() in before.lower()) == (key in kept) for key in steps)
            assert all((method_name(key).lower() in after.lower()) == (key not in kept) for key in steps)
        for key, step in steps.items():
            metric = METRICS[step.score.metric]
            name = method_name(key).lower() if key != "svd" else "SVD"
            assert re.search(rf"{re.escape(metric.number(step.score.compressed.value))} with (the )?{name}", second)


def test_what_is_said_and_kept() -> None:
    texts = ("one", "two", "three")
    near = Answer.from_json({"similarities": [1.0, 0.2, 0.3]})
    assert said(texts, near, 0) == "three"
    assert said(texts, near, 2) == "one"
    happy, sad = (Answer.from_json({"probabilities": {"sad": share, "happy": 1 - share}}) for share in (0.1, 0.6))
    assert (said(texts, happy, 0), said(texts, sad, 0)) == ("happy", "sad")
    assert not is_kept(texts, happy, sad, 0)
    eyes, ears = (
        Answer.from_json({"continuation": " a b", "next": [[token, 0.5], ["c", 0.1]]}) for token in ("eyes", "##ears")
    )
    assert (said(texts, eyes, 0), said(texts, ears, 0)) == ("eyes", "-ears")
    assert is_kept(texts, eyes, eyes, 0)
    assert not is_kept(texts, eyes, ears, 0)


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_cards_show_every_model_with_its_answer_and_score(kind: str, palette: Palette) -> None:
    demo = read_demo(kind)
    html = unescape(start_html(demo, 5.0, 1, palette))
    assert html.count('src="data:image/png;base64,') == 1 + sum(step is not None for step in demo.steps(5.0).values())
    for key, step in demo.steps(5.0).items():
        assert method_name(key) in html
        assert kind == "similarity" or palette.colour(key) in html  # without bars, colours are only in images
        if step is not None:
            assert METRICS[step.score.metric].number(step.score.compressed.value) in html
            assert said(demo.texts, step.answers[1], 1)[:40] in html


@pytest.mark.parametrize("kind", KINDS)
def test_the_chart_has_a_mark_for_every_size_and_says_where_one_is(kind: str) -> None:
    demo = read_demo(kind)
    for ratio in RATIOS:
        svg = front_svg(demo, ratio, LIGHT)
        assert "you are here" in svg
        assert svg.count("scale(1.0)") == sum(step is not None for step in demo.steps(ratio).values()) * (ratio > 1)
        assert svg.count("<g transform") == sum(len(lane.steps) for lane in demo.lanes)
        places = [float(y) for line in re.findall(r'points="([^"]+)"', svg) for y in re.findall(r",([\d.]+)", line)]
        assert len(places) == sum(1 + len(lane.steps) for lane in demo.lanes)
        better = METRICS[demo.lanes[0].steps[0].score.metric].ranked
        values = [demo.original.score.value, *(step.score.compressed.value for step in demo.lanes[0].steps)]
        order = np.argsort(places[: len(values)], kind="stable")
        blurred = 0.01 * (max(values) - min(values))  # places are rounded
        assert all(better(values[first]) >= better(values[second]) - blurred for first, second in pairwise(order))


def test_ticks_are_round() -> None:
    assert ticks(0.098, 0.827, log_scale=False) == [0.2, 0.4, 0.6, 0.8]
    assert ticks(0.544, 0.792, log_scale=False) == [0.55, 0.6, 0.65, 0.7, 0.75]
    assert ticks(229.5, 2640.0, log_scale=True) == [500.0, 1000.0, 2000.0]


def test_a_size_that_a_method_cannot_reach_says_why() -> None:
    document = json.loads((FOLDER / FILES["next"]).read_text())
    document["lanes"][1]["steps"] = document["lanes"][1]["steps"][:2]
    document["lanes"][1]["faults"] = {"30": "the smallest is <b>8x</b>"}
    html = start_html(Demo.from_json(document), 30.0, 0, LIGHT)
    assert "not possible at 30x" in html
    assert "the smallest is &lt;b&gt;8x&lt;/b&gt;" in html


def test_texts_of_models_are_escaped() -> None:
    hostile = "<img src=x onerror=alert(1)>"
    answers = {key: Answer.from_json({"continuation": hostile, "next": [[hostile, 0.5]]}) for key in ("original", *METHODS)}
    html = own_html((hostile,), answers, LIGHT)
    assert "<img src=x" not in html
    assert "&lt;img" in html
    assert "warming up &amp; more" in own_html((hostile,), {**answers, "svd": "warming up & more"}, LIGHT)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "it is missing"),
        ("{ not json", ""),
        ("[]", ""),
        ("{}", "model"),
    ],
)
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, text: str | None, reason: str) -> None:
    if text is not None:
        (tmp_path / FILES["next"]).write_text(text)
    with pytest.raises(InputError, match=rf"offcomp-gpt.json cannot be used \(.*{reason}.*\); reinstall offcomp"):
        read_demo("next", tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"rows": 7}, {"num_chosen": 3}, {"num_chosen": 9}, {"lanes": []}, {"texts": ["one"]}, {"limit": "wide"}],
    ids=str,
)
def test_a_file_whose_parts_do_not_fit_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    document = json.loads((FOLDER / FILES["next"]).read_text()) | change
    (tmp_path / FILES["next"]).write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"offcomp-gpt\.json cannot be used"):
        read_demo("next", tmp_path)
