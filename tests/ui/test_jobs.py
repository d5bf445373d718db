"""Background processes of the app: one per request, the message when one fails, and the folders that they may read."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from offcomp.errors import ModelError
from offcomp.models.listing import known_info
from offcomp.ui import jobs
from offcomp.ui.jobs import LOST, WORKING, Request
from offcomp.ui.model_roots import check_folder, model_roots
from tests.pages import home, opened, texts

__all__ = ["home"]  # a fixture
pytestmark = pytest.mark.usefixtures("home")
SECONDS = 60
KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
MIXED = {"modules": "query.0,key.3", "together": "all"}


@pytest.fixture
def doing(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that makes every request run the given Python code instead of the command line."""
    return lambda code: monkeypatch.setattr(jobs, "COMMAND", (sys.executable, "-c", code))


def ask(found: Callable[[], bool] = lambda: False) -> str:
    return jobs._ensure(Request(("verb",), "text"), found)


def ended(found: Callable[[], bool] = lambda: False) -> str:
    """Return the answer after the process has ended."""
    deadline = time.monotonic() + SECONDS
    while (answer := ask(found)) == WORKING and time.monotonic() < deadline:
        time.sleep(0.05)
    return answer


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (KILLED, "the process was killed (signal 9); make sure that there is enough memory"),
        ("import sys; sys.exit(3)", "the process ended without an error message (status 3)"),
        ("import sys; print('a warning\\noffcomp: the weight is NaN', file=sys.stderr); sys.exit(2)", "the weight is NaN"),
        ("{}['ratio']", "KeyError: 'ratio'"),
        ("import sys; sys.stderr.buffer.write(b'caf\\xe9'); sys.exit(2)", "caf\ufffd"),
        ("import sys; sys.stderr.write('x' * 300_000 + '\\nall said'); sys.exit(2)", "all said"),
        ("", LOST),
    ],
)
def test_a_failure_is_one_line_and_is_not_tried_again_at_once(code: str, why: str, doing: Callable[[str], None]) -> None:
    doing(code)
    assert ended() == why
    assert ask() == why
    assert not jobs._jobs().working
    jobs._forget_failures()
    assert ask() == WORKING


def test_sessions_that_ask_for_the_same_share_one_process(tmp_path: Path, doing: Callable[[str], None]) -> None:
    starts, made = tmp_path / "starts", tmp_path / "made"
    doing(f"import time; open({str(starts)!r}, 'a').write('x'); time.sleep(1); open({str(made)!r}, 'w')")
    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.append(ended(made.exists))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [""] * 6
    assert starts.read_text() == "x"


def test_a_survey_ends_when_its_last_session_leaves(monkeypatch: pytest.MonkeyPatch, doing: Callable[[str], None]) -> None:
    doing("import time; time.sleep(100)")
    info = known_info("minilm-l6", jobs.home_folder())
    assert info is not None
    survey = (info, info.modules[1:3], 7.0)
    for session in ("first", "second"):
        monkeypatch.setattr(jobs, "_session", lambda session=session: session)
        assert jobs.request_survey(*survey) == WORKING
    (job,) = jobs._jobs().working.values()
    jobs.end_survey(*survey)
    jobs.end_survey(*survey)
    assert job.process.poll() is None
    monkeypatch.setattr(jobs, "_session", lambda: "first")
    jobs.end_survey(*survey)
    assert job.process.wait(SECONDS)
    assert not jobs._jobs().working


@pytest.mark.parametrize(("page", "link"), [("compress", MIXED), ("groups", {"kinds": "key", "at": "1.25"}), ("inspect", {})])
def test_a_killed_process_is_said_on_the_page(page: str, link: dict[str, str], doing: Callable[[str], None]) -> None:
    doing(KILLED)
    app = opened(page, **link)
    deadline = time.monotonic() + SECONDS
    while not app.error and time.monotonic() < deadline:
        app.run()
    assert [error.value for error in app.error] == ["the process was killed (signal 9); make sure that there is enough memory"]
    doing("import time; time.sleep(5)")
    app.button(key="try_again").click().run()
    assert not app.error and not app.exception


@pytest.fixture
def no_listing(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The commands that list a model. Each of them times out immediately."""
    commands: list[object] = []

    def run(command: object, **_: object) -> None:
        commands.append(command)
        raise subprocess.TimeoutExpired("offcomp", jobs.LISTING_SECONDS)

    monkeypatch.setattr(jobs.subprocess, "run", run)
    return commands


def test_a_link_downloads_nothing_unasked(no_listing: list[object]) -> None:
    app = opened("compress", model="owner/name")
    assert "'owner/name' is not on this machine" in texts(app)
    assert not no_listing
    app.button(key="download").click().run()
    assert not app.exception
    assert len(no_listing) == 1
    assert "'owner/name' were not listed within 10 minutes" in texts(app)


def folder_in(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    return root


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The user's home folder, the folder where the app is started, the data folder, and a folder outside all of these."""
    places = {name: folder_in(tmp_path / "places" / name) for name in ("user", "start", "data", "elsewhere")}
    monkeypatch.setenv("HOME", str(places["user"]))
    monkeypatch.setenv("OFFCOMP_HOME", str(places["data"]))
    monkeypatch.delenv("OFFCOMP_MODEL_ROOTS")
    monkeypatch.chdir(places["start"])
    return places


def test_folders_below_the_roots_are_allowed(places: dict[str, Path]) -> None:
    for name in ("user", "start", "data"):
        check_folder(str(folder_in(places[name] / "model")))
    for model in ("~/model", "model", "minilm-l6", "owner/name", "owner/name" * 2000):
        check_folder(model)


def test_folders_outside_of_the_roots_are_refused(places: dict[str, Path]) -> None:
    outside, user = places["elsewhere"], places["user"]
    (user / "link").symlink_to(outside)
    for model in (outside, outside / "missing", user / "link", user / ".." / "elsewhere", "../elsewhere", "/"):
        with pytest.raises(ModelError, match=r"is not inside .*user or .*start or .*data, .*OFFCOMP_MODEL_ROOTS"):
            check_folder(str(model))


def test_other_roots_take_the_place_of_home_and_start(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFCOMP_MODEL_ROOTS", f":{places['elsewhere']}:~nobody-of-this-name/x")
    check_folder(str(places["elsewhere"] / "model"))
    check_folder(str(places["data"] / "uploads"))
    check_folder("owner/name")
    for model in (places["user"], places["start"], folder_in(places["start"] / "owner")):
        with pytest.raises(ModelError, match=r"set OFFCOMP_MODEL_ROOTS"):
            check_folder(str(model))


def test_the_root_of_the_file_system_is_none_unless_named(places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert model_roots() == (places["user"], places["data"])
    monkeypatch.setenv("OFFCOMP_MODEL_ROOTS", "/")
    check_folder(str(places["elsewhere"]))


def test_a_page_refuses_a_folder_outside_of_the_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFCOMP_MODEL_ROOTS", str(folder_in(tmp_path / "models")))
    app: AppTest = opened("model", model=str(folder_in(tmp_path / "private")))
    assert "is not inside" in app.error[0].value
    assert "Bring your own model or matrices" in [each.label for each in app.expander]
