"""Wherever users may specify a path, an unusable one is refused with one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from offcomp.cli.inputs import calibration_text
from offcomp.errors import InputError
from offcomp.files import new_folder, path_of
from offcomp.planning.data.calibration_text import CalibrationText
from offcomp.planning.data.task_fields import data_fault, own_task

NO_PATHS = ("~nosuchuser/x.csv", f"{'x' * 300}.csv", "a\0b.csv")


def fill(text: str) -> None:
    with new_folder(Path(text)):
        pass


TAKERS: tuple[Callable[[str], object], ...] = (
    path_of,
    calibration_text,
    fill,
    lambda text: own_task(text, "probe", {}),
    lambda text: CalibrationText().replace(text=text).read(0),
)


@pytest.mark.parametrize("take", TAKERS)
@pytest.mark.parametrize("text", NO_PATHS)
def test_what_can_be_no_path_is_one_sentence(take: Callable[[str], object], text: str) -> None:
    with pytest.raises(InputError, match=r"is not a usable path \(.+\); specify the path of a file or folder") as raised:
        take(text)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


@pytest.mark.parametrize("fault_of", [lambda text: CalibrationText().replace(text=text).fault(), data_fault])
@pytest.mark.parametrize("text", NO_PATHS)
def test_a_plan_with_what_can_be_no_path_has_a_fault(fault_of: Callable[[str], str | None], text: str) -> None:
    assert "is not a usable path" in (fault_of(text) or "")


def test_a_path_to_come_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "new" / "below", tmp_path / "file" / "below", tmp_path):
        assert path_of(str(path)) == path
    assert path_of("~") == Path.home()
