"""Continue an interrupted run: the figures of each finished group are kept until the run is done. Does not import torch.

    RUN/groups/NAME.safetensors   the stored tensors of a group
    RUN/finished/NAME.json        a `FinishedGroup`, written once the group is finished and removed once the run is done

Each file appears under its name only when it is complete, and the figures come last, so a crash at any moment leaves groups
that are finished and others that are computed again. Attempts at a run have the same plan and inputs, so the finished groups of
an earlier attempt are those that a new attempt would compute.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from offcomp.files import write_json
from offcomp.models.catalogue import ModelInfo
from offcomp.planning.document import Document, Line
from offcomp.planning.json_checks import Malformed, read_checked
from offcomp.planning.plan import Group
from offcomp.planning.together import sets_of_groups
from offcomp.runs.frames import FRAMES
from offcomp.runs.result import GroupResult

GROUPS, FINISHED = "groups", "finished"


class FinishedGroup(Document):
    """A group that an attempt at a run has finished."""

    figures: GroupResult
    sha256: Line
    """SHA-256 of the file with the stored tensors."""
    outputs_measured: bool
    """Whether the figures include the errors of outputs on text, which are otherwise measured for all groups at the end."""


def record_group(folder: Path, figures: GroupResult, *, outputs_measured: bool) -> None:
    """Record that a group of the run in `folder`, whose tensors are stored, is finished. Raises OSError and StorageError."""
    (folder / FINISHED).mkdir(mode=0o700, exist_ok=True)
    finished = FinishedGroup(figures=figures, sha256=_digest(_tensors(folder, figures.name)), outputs_measured=outputs_measured)
    write_json(_record(folder, figures.name), finished.to_dict(), make_folder=False)


def _tensors(folder: Path, name: str) -> Path:
    return folder / GROUPS / f"{name}.safetensors"


def _record(folder: Path, name: str) -> Path:
    return folder / FINISHED / f"{name}.json"


def finished_groups(folder: Path, ordered: Sequence[Group], info: ModelInfo, *, outputs_measured: bool) -> list[GroupResult]:
    """The figures of the first groups that an earlier attempt at a run has finished, up to the first that it has not.

    A set of groups that are fitted together (`planning.together`) is finished only as a whole. Frames of a group that is not
    finished are removed.

    ordered    the groups in the order in which they are compressed
    """
    found: list[GroupResult] = []
    for group in ordered:
        figures = _finished(folder, group, outputs_measured)
        if figures is None:
            break
        found.append(figures)
    names = [group.name for group in ordered]
    sets = [[names.index(group.name) for group in together] for together in sets_of_groups(ordered, info)]
    while begun := [min(positions) for positions in sets if min(positions) < len(found) <= max(positions)]:
        del found[min(begun) :]
    _remove_frames(folder / FRAMES, names[: len(found)])
    return found


def _finished(folder: Path, group: Group, outputs_measured: bool) -> GroupResult | None:
    """The figures of a group, or None if it is not finished: a file is missing, or it does not match the others."""
    try:
        finished = read_checked(_record(folder, group.name), FinishedGroup.from_json)
        is_same = finished.sha256 == _digest(_tensors(folder, group.name)) and finished.figures.modules == group.modules
    except (OSError, Malformed):
        return None
    return finished.figures if is_same and finished.outputs_measured == outputs_measured else None


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _remove_frames(file: Path, finished: Sequence[str]) -> None:
    """Remove the frames of a group that will be compressed again."""
    with suppress(FileNotFoundError):
        with file.open("rb") as stream:
            first = stream.readline()
        try:
            name = json.loads(first)["group"]
        except (ValueError, KeyError, TypeError):
            name = None
        if name not in finished:
            file.unlink()


def take_over_groups(former: Path, new: Path) -> None:
    """Give a new attempt's folder the finished groups and the frames of a former attempt, without copying where possible.

    Raises OSError if a file cannot be linked or copied.
    """
    records = sorted((former / FINISHED).glob("*.json")) if (former / FINISHED).is_dir() else []
    files = [file for record in records for file in (_tensors(former, record.stem), record) if file.is_file()]
    if not files:
        return
    for name in (GROUPS, FINISHED):
        (new / name).mkdir(mode=0o700)
    frames = [former / FRAMES] if (former / FRAMES).is_file() else []
    for file in (*files, *frames):
        copy = new / file.relative_to(former)
        try:
            os.link(file, copy)
        except OSError:  # the file system has no hard links
            shutil.copyfile(file, copy)


def forget_groups(folder: Path) -> None:
    """Remove the records of a run's finished groups, so that no later attempt uses them."""
    shutil.rmtree(folder / FINISHED, ignore_errors=True)
