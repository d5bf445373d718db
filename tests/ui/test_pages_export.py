"""Compare shows the command that exports a run if the run's weights are stored in the home."""

from __future__ import annotations

import pytest

from offcomp.runs.store import RunStore
from tests.pages import home, opened, texts
from tests.ui.test_pages_results import own

__all__ = ["home", "own"]  # fixtures
pytestmark = pytest.mark.usefixtures("home")


def give_weights(name: str) -> None:
    """Create empty files in place of a run's compressed weights; the page only checks that they exist."""
    run = RunStore().get(name)
    for group in run.plan.groups:
        run.group_file(group.name).parent.mkdir(exist_ok=True)
        run.group_file(group.name).write_bytes(b"")


def commands() -> list[str]:
    """Return every command line that Compare shows."""
    return [code.value for code in opened("compare").code]


def test_no_export_is_offered_for_bundled_runs() -> None:
    (shown,) = commands()
    assert shown.startswith("offcomp compare ")


def test_each_run_with_weights_has_its_command(own: tuple[str, str]) -> None:
    assert len(commands()) == 1
    give_weights(own[0])
    assert commands()[1:] == [f"offcomp export {own[0]} offcomp-{own[0]}"]
    give_weights(own[1])
    app = opened("compare")
    assert app.code[1].value.splitlines() == [f"offcomp export {name} offcomp-{name}" for name in reversed(own)]
    assert "`offcomp verify` checks the folder" in texts(app)
