"""Frames of a run: what the file contains, that it changes no result, and that a reader never stumbles over a partial file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from offcomp.errors import StorageError
from offcomp.methods import make_method
from offcomp.methods.base import choose_size
from offcomp.numerics.progress import WatchedReport
from offcomp.numerics.storage import pack
from offcomp.planning.plan import Group
from offcomp.planning.sizes import group_budget
from offcomp.runs import frame_writer
from offcomp.runs.compress import compress_group
from offcomp.runs.frame_writer import FrameWriter
from offcomp.runs.frames import FRAMES, MAX_BYTES, MAX_FRAMES, MAX_LINE, SIDE, ZERO, Recording, pixels, read_frames
from tests.races import recorded
from tests.tiny_models import Tiny

VARIANTS: list[dict[str, Any]] = [{}, {"latent_bits": 4}, {"refine_epochs": 3}, {"enforce_norm": False, "decoder": "linear"}]


def group_of(*modules: str, method: str = "autoencoder", **options: Any) -> Group:
    return Group(name="some", modules=modules, method=method, options=options, ratio=2.0)


def read(folder: Path) -> Recording:
    recording = read_frames(folder)
    assert recording
    return recording


def corner(recording: Recording, picture: str) -> torch.Tensor:
    """Return the weights that a picture shows."""
    header = recording.header
    levels = torch.tensor(list(pixels(picture)), dtype=torch.float32).reshape(header.height, header.width)
    return (levels - ZERO) / ZERO * header.limit


def test_a_run_has_a_frame_for_every_epoch_and_one_for_what_it_stores(tiny: Tiny, tmp_path: Path) -> None:
    loaded, group = tiny("bert"), group_of("ffn_in.0", epochs=7)
    compressed = recorded(tmp_path, loaded, group)
    recording, figures = read(tmp_path), compressed.figures
    header = recording.header
    assert (header.rows, header.cols, header.group, header.every) == (figures.rows, figures.cols, "some", 1)
    assert (header.height, header.width) == (min(SIDE, figures.rows), min(SIDE, figures.cols))
    assert [frame.epoch for frame in recording.epochs] == [1, 2, 3, 4, 5, 6, 7]
    assert [frame.loss for frame in recording.epochs] == pytest.approx(figures.history)
    assert recording.stored
    assert recording.stored.relative_error == figures.relative_error
    assert recording.epochs[-1].relative_error == pytest.approx(figures.relative_error, rel=1e-5)
    assert recording.epochs[-1].picture == recording.stored.picture
    assert len({frame.picture for frame in recording.epochs}) == 7
    for picture, weights in (
        (header.picture, loaded.model.get_parameter(loaded.info.module("ffn_in.0").path)),
        (recording.stored.picture, compressed.compressed.reconstruct()),
    ):
        shown = weights.detach()[:SIDE, :SIDE].clamp(-header.limit, header.limit)
        torch.testing.assert_close(corner(recording, picture), shown, atol=0.6 * header.limit / ZERO, rtol=0)


def test_a_method_without_epochs_has_one_frame(tiny: Tiny, tmp_path: Path) -> None:
    compressed = recorded(tmp_path, tiny("bert"), group_of("key.0", "key.1", method="svd"))
    recording = read(tmp_path)
    assert recording.epochs == ()
    assert recording.stored and recording.stored.relative_error == compressed.figures.relative_error


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_frames_change_no_bit_of_the_result(tiny: Tiny, tmp_path: Path, options: dict[str, Any]) -> None:
    loaded, group = tiny("bert"), group_of("query.0", epochs=4, **options)
    with_frames = recorded(tmp_path, loaded, group).compressed
    without = compress_group(loaded.model, loaded.info, group).compressed
    assert len(read(tmp_path).epochs) == 4
    assert with_frames.history == without.history
    assert {*with_frames.tensors} == {*without.tensors}
    assert all(torch.equal(with_frames.tensors[name], tensor) for name, tensor in without.tensors.items())


def test_of_matrices_trained_together_the_first_is_watched_and_none_changes(tiny: Tiny) -> None:
    loaded = tiny("bert")
    group = group_of("key.0", epochs=3)
    method, budget = make_method(group.method, group.options), group_budget(group, loaded.info)
    matrices = torch.stack([loaded.model.get_parameter(loaded.info.module(f"key.{n}").path).detach() for n in (0, 1)])
    size = choose_size(method, *matrices.shape[1:], budget)
    seen: list[torch.Tensor] = []
    report = WatchedReport(lambda _done: None, lambda _epoch, _loss, reconstruct: seen.append(reconstruct().clone()))
    watched = list(method.fit_together(matrices, size, budget, report=report))
    plain = list(method.fit_together(matrices, size, budget))
    assert len(seen) == 3
    torch.testing.assert_close(seen[-1], watched[0].reconstruct())
    for one, other in zip(watched, plain, strict=True):
        assert all(torch.equal(one.tensors[name], tensor) for name, tensor in other.tensors.items())


def test_the_file_has_a_bounded_size(tiny: Tiny, tmp_path: Path) -> None:
    recorded(tmp_path, tiny("bert"), group_of("word_embeddings", "key.0", epochs=250))
    recording = read(tmp_path)
    assert recording.header.every == 3
    assert [frame.epoch for frame in recording.epochs] == list(range(3, 250, 3))
    assert len(recording.epochs) <= MAX_FRAMES
    lines = (tmp_path / FRAMES).read_bytes().splitlines(keepends=True)
    assert max(map(len, lines)) <= MAX_LINE
    assert sum(map(len, lines)) <= MAX_BYTES


def test_a_reader_sees_a_prefix_wherever_the_writer_has_got_to(tiny: Tiny, tmp_path: Path) -> None:
    recorded(tmp_path / "whole", tiny("bert"), group_of("key.0", epochs=2))
    whole, content = read(tmp_path / "whole"), (tmp_path / "whole" / FRAMES).read_bytes()
    frames = [*whole.epochs, whole.stored]
    part = tmp_path / "part"
    part.mkdir()
    assert read_frames(part) is None
    for length in range(0, len(content), 97):
        (part / FRAMES).write_bytes(content[:length])
        recording, lines = read_frames(part), content[:length].count(b"\n")
        if lines == 0:
            assert recording is None
        else:
            assert recording and recording.header == whole.header
            assert [*recording.epochs, *([recording.stored] if recording.stored else [])] == frames[: lines - 1]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{}", "missing"),
        (b"not json", "Expecting value"),
        (json.dumps({"epoch": 1, "relative_error": 0.5, "picture": "AAAA"}).encode(), "24 x 24 weights"),
        (json.dumps({"epoch": 1, "relative_error": 0.5, "picture": "?"}).encode(), "24 x 24 weights"),
        (b"x" * MAX_BYTES, "bytes"),
    ],
)
def test_a_damaged_file_is_one_sentence_with_the_remedy(tiny: Tiny, tmp_path: Path, line: bytes, words: str) -> None:
    recorded(tmp_path, tiny("bert"), group_of("key.0", method="svd"))
    with (tmp_path / FRAMES).open("ab") as stream:
        stream.write(line + b"\n")
    with pytest.raises(StorageError, match=words) as error:
        read_frames(tmp_path)
    assert str(error.value).endswith("run its plan again")


def test_frames_of_another_attempt_are_left_alone(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / FRAMES).write_bytes(b"other\n")
    recorded(tmp_path, tiny("bert"), group_of("key.0", epochs=2))
    assert (tmp_path / FRAMES).read_bytes() == b"other\n"


def test_a_huge_matrix_has_no_frames(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_writer, "MAX_ENTRIES", 500)
    recorded(tmp_path, tiny("bert"), group_of("key.0", epochs=2))
    assert not (tmp_path / FRAMES).exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_ends_the_frames_but_not_the_run(tiny: Tiny, tmp_path: Path) -> None:
    loaded, group = tiny("bert"), group_of("key.0", epochs=3)
    with FrameWriter(tmp_path, loaded.model, loaded.info, group, lambda _done: None) as frames:
        frames._stream = open("/dev/full", "wb", buffering=0)  # noqa: SIM115, PTH123
        compressed = compress_group(loaded.model, loaded.info, group, report=frames.report)
        frames.finish(compressed)
    assert compressed.figures.relative_error == compress_group(loaded.model, loaded.info, group).figures.relative_error
    assert read(tmp_path).epochs == ()


def test_values_that_are_not_finite_end_the_frames(tiny: Tiny, tmp_path: Path) -> None:
    loaded, group = tiny("bert"), group_of("key.0", epochs=3)
    with FrameWriter(tmp_path, loaded.model, loaded.info, group, lambda _done: None) as frames:
        assert isinstance(frames.report, WatchedReport)
        frames.report.watch(1, float("nan"), lambda: torch.zeros(24, 24))
        frames.report.watch(2, 1.0, lambda: pack({"matrix": torch.full((24, 24), float("inf"))}, "float32")["matrix"])
    assert [frame.loss for frame in read(tmp_path).epochs] == [None]
