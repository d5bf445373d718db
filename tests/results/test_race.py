"""Races: what is said at each epoch and at the end, the pictures, the chart and the animation."""

from __future__ import annotations

import re
from base64 import b64decode
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from offcomp.errors import InputError, ModelError
from offcomp.models.listing import model_info
from offcomp.results.charts.pictures import ramp_of
from offcomp.results.charts.race import GIF_SIZE, LABEL_GAP, apart, axes_of, race_gif, race_html, race_svg
from offcomp.results.charts.theme import DARK, LIGHT, Palette
from offcomp.results.race import (
    Race,
    default_module,
    final_table,
    guess_text,
    race_plans,
    racing_modules,
    read_race,
    standing,
    troubles,
    verdict,
    winner,
    without_frames,
)
from offcomp.runs.frames import TOP, pixels, read_frames
from offcomp.runs.store import RunStore
from tests.made_runs import made_score
from tests.races import made_race
from tests.tiny_models import Tiny

EPOCHS = 6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return RunStore(tmp_path_factory.mktemp("race") / "home")


@pytest.fixture(scope="module")
def race(tiny: Tiny, store: RunStore) -> Race:
    """A decided race of a tiny model that was scored on one task, with the same predictions on both sides."""
    score = made_score(["a", "b"], ["c"])
    return read_race(store, made_race(store.home, tiny("bert"), epochs=EPOCHS, svd=score, autoencoder=score))


def errors(race: Race) -> tuple[float, float]:
    one, other = (run.result.groups[0].relative_error for run in race.runs if run.result)
    return one, other


def test_both_plans_differ_in_the_method_alone(tiny: Tiny, store: RunStore) -> None:
    info = model_info("offcomp-gpt", store.home)
    svd, autoencoder = race_plans(info, "query.1", 4.0).values()
    assert svd.tasks == autoencoder.tasks == ("causal-fidelity",)
    (first,), (second,) = svd.groups, autoencoder.groups
    assert (first.method, second.method) == ("svd", "autoencoder")
    assert first.replace(method="autoencoder") == second
    with pytest.raises(ModelError, match=r"nothing\.9"):
        race_plans(info, "nothing.9", 4.0)


def test_the_default_matrix_trains_briefly(store: RunStore) -> None:
    info = model_info("offcomp-gpt", store.home)
    assert default_module(info) in racing_modules(info)
    assert default_module(info).startswith("ffn_in")


def test_a_replay_is_what_the_run_wrote(race: Race) -> None:
    assert [frame.epoch for frame in race.shown] == list(range(1, EPOCHS + 1))
    assert race.frames == read_frames(race.autoencoder.folder)
    assert race.epochs == EPOCHS
    assert race.frames and race.frames.stored
    assert race.frames.stored.relative_error == errors(race)[1]
    assert race.svd_error == errors(race)[0]
    assert race.decided and race.ended and not troubles(race)


def test_each_epoch_is_compared_with_svd(race: Race) -> None:
    for frame in race.shown:
        said = standing(race, frame)
        assert said.startswith(f"After epoch {frame.epoch} of {EPOCHS}, ")
        assert f"{abs(frame.relative_error - errors(race)[0]):.3f} behind SVD" in said
    assert ("worse than storing zeros" in standing(race, race.shown[0])) == (race.shown[0].relative_error > 1)
    assert "about to train" in standing(race, None)
    assert (
        standing(replace(race, svd=replace(race.svd, status="running"), svd_frames=None), None)
        == "SVD is about to be computed."
    )


def test_the_verdict_names_the_winner_the_gap_and_the_noise(race: Race) -> None:
    svd, autoencoder = errors(race)
    assert svd < autoencoder
    assert winner(race) == "svd"
    assert verdict(race).startswith(f"SVD wins by {autoencoder - svd:.3f} in relative error: {svd:.3f} against ")
    assert verdict(race).endswith("; the scores are within noise of each other.")
    assert guess_text(race, "svd") == "Your guess was SVD: right."
    assert guess_text(race, "autoencoder") == "Your guess was Autoencoder: wrong."


def test_the_verdict_says_whose_score_is_better(tiny: Tiny, tmp_path: Path) -> None:
    spoiled = made_score([f"text {i}" for i in range(40)], [])
    key = made_race(tmp_path / "home", tiny("bert"), epochs=2, svd=made_score([], []), autoencoder=spoiled)
    assert verdict(read_race(RunStore(tmp_path / "home"), key)).endswith("; SVD is ahead in accuracy on sentiment.")


def test_equal_errors_have_no_winner(race: Race) -> None:
    even = replace(race, autoencoder=race.svd)
    assert winner(even) == ""
    assert verdict(even).startswith("Nobody wins: both have a relative error of")


def test_the_table_has_every_figure_with_its_interval(race: Race) -> None:
    rows = {row[0][1]: row[1:] for row in final_table(race)}
    assert [value for value, _ in rows["Relative error"][1:]] == [f"{error:.3f}" for error in errors(race)]
    stored = [run.result.groups[0].num_parameters for run in race.runs if run.result]
    assert [value for value, _ in rows["Stored parameters"][1:]] == [f"{count:,}" for count in stored]
    (accuracy,) = [row for name, row in rows.items() if name.startswith("Sentiment")]
    assert all("±" in value for value, _ in accuracy)


@pytest.mark.parametrize(("status", "words"), [("cancelled", "cancelled after epoch 6"), ("failed", "Reason: no memory.")])
def test_a_race_without_a_result_says_why_and_what_to_do(race: Race, status: str, words: str) -> None:
    result = race.autoencoder.result
    assert result
    lost = replace(race.autoencoder, status=status, result=result.model_copy(update={"error": "no memory."}))
    (sentence,) = troubles(replace(race, autoencoder=lost))
    assert words in sentence
    assert sentence.endswith("Start the race again to finish it.")


def test_an_old_run_without_frames_can_be_recorded_again(race: Race) -> None:
    old = replace(race, frames=None)
    assert without_frames(old) == [race.autoencoder]
    assert "no pictures" in troubles(old)[0]
    assert "not yet" in race_html(old, None, LIGHT)


@pytest.mark.parametrize(
    ("key", "words"),
    [("", "does not name two runs"), ("000000000000,000000000001", "there is no run"), ("../x,y", "there is no run")],
)
def test_a_wrong_link_is_one_sentence(store: RunStore, key: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_race(store, key)


def test_runs_of_different_plans_do_not_race(race: Race, tiny: Tiny, store: RunStore) -> None:
    with pytest.raises(InputError, match="does not compress one matrix with SVD"):
        read_race(store, f"{race.autoencoder.id},{race.svd.id}")
    another = made_race(store.home, tiny("bert"), epochs=2, module="key.1").split(",")[1]
    with pytest.raises(InputError, match="differ in more than the method"):
        read_race(store, f"{race.svd.id},{another}")


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_the_pictures_show_the_recorded_weights(race: Race, palette: Palette) -> None:
    ramp = ramp_of(palette.weights)
    colours = [tuple(ramp[start : start + 3]) for start in range(0, len(ramp), 3)]
    assert len(colours) == TOP + 1
    assert "#{:02x}{:02x}{:02x}".format(*colours[TOP // 2]) == palette.weights[2]
    for frame in (race.shown[0], race.shown[-1]):
        html = race_html(race, frame, palette)
        pictures = re.findall(r"data:image/png;base64,([^\"]+)", html)
        assert race.frames and race.svd_frames and race.svd_frames.stored
        for found, picture in zip(
            pictures, (race.frames.header.picture, race.svd_frames.stored.picture, frame.picture), strict=True
        ):
            shown = Image.open(BytesIO(b64decode(found))).convert("RGB")
            assert list(shown.get_flattened_data()) == [colours[level] for level in pixels(picture)]
        assert f"epoch {frame.epoch} of {EPOCHS}" in html
        assert f"relative error {frame.relative_error:.3f}" in html


def test_the_chart_shows_the_epochs_up_to_the_shown_one(race: Race) -> None:
    axes = axes_of(race)
    for frame in race.shown:
        svg = race_svg(race, frame, LIGHT)
        (points,) = re.findall(r'polyline points="([^"]+)"', svg)
        placed = [f"{axes.x(each.epoch):.1f},{axes.y(each.relative_error):.1f}" for each in race.shown[: frame.epoch]]
        assert points.split() == placed
        assert f"Autoencoder {frame.relative_error:.3f}" in svg
        assert f"SVD {errors(race)[0]:.3f}" in svg
    assert axes.y(0.0) > axes.y(0.5) > axes.y(1.0)


def test_labels_do_not_overlap() -> None:
    placed = apart([(50.0, "a", ""), (52.0, "b", ""), (51.0, "c", ""), (120.0, "d", "")])
    assert [text for _, text, _ in placed] == ["a", "c", "b", "d"]
    ys = [y for y, _, _ in placed]
    assert all(low - high >= LABEL_GAP for high, low in pairwise(ys))


def test_the_animation_has_a_frame_for_every_epoch(race: Race) -> None:
    content = race_gif(race, LIGHT)
    assert len(content) < 500_000
    animation = Image.open(BytesIO(content))
    assert animation.size == GIF_SIZE
    assert animation.n_frames == EPOCHS  # type: ignore[attr-defined]
    seen = set()
    for number in range(EPOCHS):
        animation.seek(number)
        seen.add(animation.convert("RGB").tobytes())
    assert len(seen) == EPOCHS
    with pytest.raises(ValueError, match="no frames"):
        race_gif(replace(race, frames=None), LIGHT)
