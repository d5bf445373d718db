"""The figures on the Start page are those of ordinary runs of the same plans: five of them here, all of them with --long."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import offcomp
from benchmarks.start import BUNDLED, TEXTS, answers_of, picture
from offcomp.models.loading import load
from offcomp.models.weights import read
from offcomp.results.start import FILES, FOLDER, Answer, Demo, Lane, Step, read_demo
from offcomp.results.start_words import said
from offcomp.runs.live_answers import answer
from offcomp.runs.result import overall_error
from offcomp.runs.store import RunStore

MAX_BYTES = 6_000_000
"""Of all files of the Start page."""
TRAINED = {"autoencoder"}
"""Training adds up rounding errors, so its results differ slightly between machines."""


SOME = {
    ("similarity", "svd", 8.0),
    ("sentiment", "autoencoder", 20.0),
    ("sentiment", "trellis", 12.0),
    ("next", "svd", 5.0),
    ("next", "trellis", 8.0),
}
"""Steps that are tested without --long."""
STEPS = [
    pytest.param(kind, lane.style_key, step.ratio, marks=[] if (kind, lane.style_key, step.ratio) in SOME else pytest.mark.long)
    for kind in FILES
    for lane in read_demo(kind).lanes
    for step in lane.steps
]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "style_key", "ratio"), STEPS)
def test_a_step_equals_an_ordinary_run_of_its_plan(kind: str, style_key: str, ratio: float, tmp_path: Path) -> None:
    demo = read_demo(kind)
    lane = next(lane for lane in demo.lanes if lane.style_key == style_key)
    step = lane.at(ratio)
    assert step is not None
    run = offcomp.run(lane.plan_at(ratio), home=tmp_path, progress=False)
    assert run.result is not None
    assert run.id == step.run
    assert sum(group.num_bytes for group in run.result.groups) == step.num_bytes
    close = 0.03 if style_key in TRAINED else 1e-3
    assert overall_error(run.result.groups) == pytest.approx(step.relative_error, rel=close)
    score = run.result.scores[demo.task]
    assert score.original.value == pytest.approx(step.score.original.value, rel=1e-3)
    assert score.compressed.value == pytest.approx(step.score.compressed.value, rel=0.1 if style_key in TRAINED else 0.01)
    loaded = load(demo.model)
    found = answers_of(answer({"kind": "texts", "run": run.id, "texts": list(TEXTS[kind])}, loaded, tmp_path), "compressed")
    spec = next(spec for spec in loaded.info.modules if spec.name == demo.module)
    cells = [demo.cells(each).astype(float) for each in (picture(read(loaded.model, spec), demo.limit), step.picture)]
    assert np.abs(cells[0] - cells[1]).mean() < (10 if style_key in TRAINED else 1)
    if style_key not in TRAINED:
        assert [said(demo.texts, Answer.from_json(each), index) for index, each in enumerate(found)] == [
            said(demo.texts, each, index) for index, each in enumerate(step.answers)
        ]


def bundled() -> list[tuple[Demo, Lane, Step]]:
    """Every step whose weights are bundled."""
    demos = [read_demo(kind) for kind in FILES]
    return [(demo, lane, step) for demo in demos for lane in demo.lanes for step in lane.steps if step.stored]


def test_the_bundled_weights_are_those_of_the_steps() -> None:
    steps = bundled()
    assert {folder.name for folder in (FOLDER / "runs").iterdir()} == {step.stored for _, _, step in steps}
    assert len(steps) == sum(len(ratios) for lanes in BUNDLED.values() for ratios in lanes.values())
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) <= MAX_BYTES
    store = RunStore(FOLDER)
    for demo, lane, step in steps:
        run = store.get(str(step.stored))
        assert run.result is not None
        assert run.has_weights
        assert run.plan == lane.plan_at(step.ratio).replace(tasks=())
        assert sum(group.num_bytes for group in run.result.groups) == step.num_bytes
        assert overall_error(run.result.groups) == pytest.approx(step.relative_error, rel=1e-6)
        question = {"kind": "texts", "run": run.id, "home": str(FOLDER), "texts": list(demo.texts)}
        found = answers_of(answer(question, load(demo.model), FOLDER.parent), "compressed")
        assert [said(demo.texts, Answer.from_json(each), index) for index, each in enumerate(found)] == [
            said(demo.texts, each, index) for index, each in enumerate(step.answers)
        ]
