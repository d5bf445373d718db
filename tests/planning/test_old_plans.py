"""Plans written by earlier versions still open, with the same meaning.

The files in `old_plans` are plans of runs that earlier versions bundled, or were written by the code of earlier versions. Their
names begin with the date of the version. Groups after the second have been removed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from offcomp.methods import style_key_in_plan
from offcomp.planning.data.calibration_text import CalibrationText
from offcomp.planning.data.tasks import Task
from offcomp.planning.plan import Plan, validate
from offcomp.planning.sizes import predict
from tests.minilm import minilm_info

FOLDER = Path(__file__).parent / "old_plans"
FILES = {file.stem: file for file in sorted(FOLDER.glob("*.json"))}
STYLE_KEYS = {
    "2026-11-22-autoencoder": "autoencoder",
    "2026-11-22-by-hand": "svd",
    "2026-11-22-svd": "svd",
    "2026-11-24-autoencoder": "autoencoder",
    "2026-11-24-codebook": "codebook",
    "2026-11-24-pruning": "pruning",
    "2026-11-24-quantization": "quantization",
    "2026-11-24-residual": "residual",
    "2026-11-24-svd": "svd",
    "2026-11-28-tasks-and-calibration": "svd",
    "2026-11-29-rank-and-energy": "svd",
}
"""File -> the method of its groups, by its name on the command line."""


def is_part(old: Any, new: Any) -> bool:
    """Return whether `new` contains every value of `old`. Its objects may have additional fields."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(name in new and is_part(value, new[name]) for name, value in old.items())
    if isinstance(old, list):
        return isinstance(new, list) and len(old) == len(new) and all(map(is_part, old, new))
    return bool(old == new) and type(old) is type(new)


@pytest.mark.parametrize("name", FILES)
def test_an_old_plan_keeps_every_value(name: str) -> None:
    document = json.loads(FILES[name].read_text())
    plan = Plan.from_dict(document)
    assert is_part(document, plan.to_dict())
    assert Plan.from_dict(plan.to_dict()).to_json() == plan.to_json()


@pytest.mark.parametrize("name", FILES)
def test_the_groups_of_an_old_plan_keep_their_method_and_size(name: str) -> None:
    document = json.loads(FILES[name].read_text())
    plan = Plan.from_dict(document)
    assert [list(group.modules) for group in plan.groups] == [group["modules"] for group in document["groups"]]
    assert {style_key_in_plan(group.method, group.options) for group in plan.groups} == {STYLE_KEYS[name]}
    sized = plan.replace(groups=tuple(group for group in plan.groups if group.energy is None))  # energy needs a spectrum
    for group, predicted in zip(sized.groups, predict(sized, minilm_info()).groups, strict=True):
        assert predicted.form == "compressed"
        assert predicted.size == group.rank or predicted.compression_ratio >= group.ratio


@pytest.mark.parametrize("name", [name for name in FILES if "calibration" not in name])
def test_an_old_plan_is_valid(name: str) -> None:
    validate(Plan.from_json(FILES[name].read_text()), minilm_info())


def test_an_old_plan_keeps_its_tasks_and_calibration_text() -> None:
    plan = Plan.from_json(FILES["2026-11-28-tasks-and-calibration"].read_text())
    assert plan.tasks == (
        "topics",
        Task(
            name="stars",
            family="probe",
            data="reviews.csv",
            columns={"text": "body", "label": "stars"},
            version="1",
            also=("f1",),
        ),
        Task(name="cloze", family="masked-lm", data="bundled:prose", options={"fraction": 0.2, "tokens": 64}),
    )
    assert plan.calibration == CalibrationText(text="texts.txt", num_texts=64, special_tokens=True)
    assert [group.name for group in plan.calibrated_groups] == ["key"]


def test_ranks_and_shares_of_the_energy_are_kept_and_written_as_they_were() -> None:
    text = FILES["2026-11-29-rank-and-energy"].read_text()
    plan = Plan.from_json(text)
    assert [(group.rank, group.energy, group.multiple) for group in plan.groups] == [(32, None, 1), (None, 0.9, 8)]
    assert plan.to_json() + "\n" == text
