"""Tests of the Race page without a browser: its start, its controls, its end, and links to what cannot be shown."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from streamlit.testing.v1 import AppTest

from offcomp.files import open_lock, take_lock, write_json
from offcomp.models.loading import load
from offcomp.results.race import Race, read_race, standing, verdict
from offcomp.runs.frames import FRAMES
from offcomp.runs.start import LOCK
from offcomp.runs.store import RunStore
from offcomp.ui.race import playback
from tests import tiny_models
from tests.made_runs import made_score
from tests.pages import home, opened, texts
from tests.races import MODULE, RATIO, made_race

__all__ = ["home"]  # a fixture
EPOCHS = 30


@pytest.fixture
def race(home: Path, tmp_path: Path) -> Race:
    """A finished race in the home."""
    score, loaded = made_score(["a", "b"], ["c"]), load(str(tiny_models.save(tiny_models.shared("bert"), tmp_path / "bert")))
    return read_race(RunStore(home), made_race(home, loaded, epochs=EPOCHS, svd=score, autoencoder=score))


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ticks so long that nothing moves by itself."""
    monkeypatch.setattr(playback, "TICK_SECONDS", 1000.0)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ticks so short that each rerun shows the next frame."""
    monkeypatch.setattr(playback, "DUE", 0.0)


def epoch_of(app: AppTest) -> int:
    (slider,) = app.slider
    return int(slider.value)


def press(app: AppTest, key: str) -> AppTest:
    app.button(key=f"race_{key}").click().run()
    assert not app.exception and not app.error
    return app


def test_a_link_to_a_finished_race_shows_its_end(race: Race) -> None:
    app = opened("race", race=race.key)
    assert epoch_of(app) == EPOCHS
    assert verdict(race) in texts(app).replace("\\", "")
    assert (app.selectbox(key="race_module").value, app.selectbox(key="race_ratio").value) == (MODULE, RATIO)
    assert app.selectbox(key="model").value == race.svd.plan.model
    (table,) = app.table
    assert [*table.value.columns] == ["At the end", "Original", "SVD", "Autoencoder"]
    assert app.button(key="race_play").label == "Play"
    assert app.get("download_button")[0].proto.label == "Share as GIF"
    (link,) = [link for link in app.get("page_link") if link.proto.label == "Compare in detail"]
    assert all(run.id in link.proto.query_string for run in race.runs)


@pytest.mark.usefixtures("fast")
def test_a_replay_shows_every_epoch_as_it_was_recorded(race: Race) -> None:
    app = press(opened("race", race=race.key), "play")
    seen = []
    for _ in range(EPOCHS):
        said = texts(app)
        seen += [frame.epoch for frame in race.shown if standing(race, frame).split(":")[0] in said]
        assert app.button(key="race_play").label == ("Pause" if epoch_of(app) < EPOCHS else "Play")
        app.run()
    assert epoch_of(app) == EPOCHS
    assert app.button(key="race_play").label == "Play"


@pytest.mark.usefixtures("slow")
def test_the_buttons_and_the_slider_move_and_pause(race: Race) -> None:
    app = press(opened("race", race=race.key), "play")
    assert (epoch_of(app), app.button(key="race_play").label) == (1, "Pause")
    press(app, "S")
    assert (epoch_of(app), app.button(key="race_play").label) == (2, "Play")
    press(press(app, "B"), "B")
    assert epoch_of(app) == 1
    app.slider[0].set_value(17).run()
    assert (epoch_of(app), app.button(key="race_play").label) == (17, "Play")
    press(app, "S")
    assert epoch_of(app) == 18
    assert [app.button(key=f"race_{key}").proto.shortcut for key in ("play", "B", "S")] == ["p", "b", "s"]


@pytest.mark.usefixtures("slow")
def test_starting_a_race_that_was_run_before_replays_it_at_once(race: Race) -> None:
    app = opened("race", model=race.svd.plan.model, race_matrix=MODULE, race_ratio=f"{RATIO:g}")
    assert not app.table and not app.slider
    app.button_group(key="race_guess").set_value("autoencoder").run()
    app.button(key="run").click().run()
    assert not app.exception and not app.error
    assert app.query_params["race"] in (race.key, [race.key])
    assert "has been run before" in texts(app)
    assert epoch_of(app) == 1
    assert standing(race, race.shown[0]) in texts(app).replace("\\", "")
    app.slider[0].set_value(EPOCHS).run()
    assert "Your guess was Autoencoder: wrong." in texts(app)
    assert [button.proto.type for button in app.button].count("primary") == 1


def test_a_race_in_progress_is_shown_as_far_as_it_is_and_can_be_cancelled(race: Race) -> None:
    folder = race.autoencoder.folder
    (folder / "run.json").unlink()
    write_json(folder / "plan.json", race.autoencoder.plan.to_dict())
    take_lock(open_lock(folder / LOCK))
    write_json(folder / "progress.json", {"stage": "compress key.0", "fraction": 0.4, "remaining_seconds": 12.3})
    lines = (folder / FRAMES).read_bytes().splitlines(keepends=True)
    (folder / FRAMES).write_bytes(b"".join(lines[:4]) + lines[4][:50])
    app = opened("race", race=race.key)
    assert "After epoch 1 of 30" in texts(app)
    app.slider[0].set_value(20).run()
    assert epoch_of(app) == 3
    assert "After epoch 3 of 30" in texts(app)
    assert not app.table
    press(app, "cancel")
    assert (folder / "cancel").exists()


def test_a_race_that_is_already_under_way_says_so(race: Race, monkeypatch: pytest.MonkeyPatch) -> None:
    (race.autoencoder.folder / "run.json").unlink()
    write_json(race.autoencoder.folder / "plan.json", race.autoencoder.plan.to_dict())
    take_lock(open_lock(race.autoencoder.folder / LOCK))
    app = opened("race", model=race.svd.plan.model, race_matrix=MODULE, race_ratio=f"{RATIO:g}")
    app.button(key="run").click().run()
    assert "already under way" in texts(app)


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_race_without_a_result_says_why(race: Race, status: str) -> None:
    file = race.autoencoder.folder / "run.json"
    document = json.loads(file.read_text()) | {"status": status, "error": "The disk is *full*."}
    file.write_text(json.dumps(document))
    app = opened("race", race=race.key)
    (warning,) = app.warning
    ended = "failed" if status == "failed" else "was cancelled"
    assert f"Autoencoder {ended} after epoch 30 of 30." in warning.value
    assert "Start the race again" in warning.value
    assert ("disk is \\*full\\*" in warning.value) == (status == "failed")
    assert not app.table
    assert not app.button(key="run").disabled


def test_runs_without_frames_are_recorded_again(race: Race, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: list[str] = []

    def submit(_store: RunStore, plan: object, _info: object, *, again: bool = False) -> SimpleNamespace:
        submitted.append(f"{plan.groups[0].method} {again}")  # type: ignore[attr-defined]
        return SimpleNamespace(id="")

    monkeypatch.setattr(RunStore, "submit", submit)
    (race.autoencoder.folder / FRAMES).unlink()
    app = opened("race", race=race.key)
    assert "has no pictures" in app.warning[0].value
    press(app, "again")
    assert submitted == ["autoencoder True"]


@pytest.mark.parametrize(
    ("key", "words"), [("gone,gone", "there is no run"), ("x", "does not name two runs"), ("", "does not")]
)
@pytest.mark.usefixtures("home")
def test_a_link_to_what_is_gone_is_one_sentence_and_the_page_still_works(key: str, words: str) -> None:
    app = opened("race", race=key)
    assert words in app.warning[0].value
    assert not app.error
    assert app.button(key="run").label == "Start the race"


def test_damaged_frames_are_one_sentence(race: Race) -> None:
    (race.autoencoder.folder / FRAMES).write_bytes(b"{}\n")
    app = opened("race", race=race.key)
    assert "cannot be read" in app.warning[0].value
    assert not app.error
