"""RUN/frames.jsonl: how the reconstruction of a group, usually the first, improves as a method trains. Does not import torch.

    line 1          a `FrameHeader`: the original, as a small picture
    other lines     a `Frame` each: one after every epoch, and a last one, of epoch 0, for the matrix that is stored

A picture shows the first `SIDE` rows and columns of the group's stacked matrix, one byte per weight: 127 is zero, 254 is the
weight `limit` or more, 0 is the weight `-limit` or less. A line has at most `MAX_LINE` bytes and a file at most
`MAX_FRAMES` + 2 lines: longer training writes a frame every few epochs. Groups of more than `MAX_ENTRIES` weights are passed
over.

The worker appends whole lines, so a reader sees a prefix of the file; a last line without its end is not read.
"""

from __future__ import annotations

import json
from base64 import b64decode
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import Field

from offcomp.errors import StorageError
from offcomp.files import changed
from offcomp.planning.document import Amount, Count, Document, Figure, Line, MustBe, Positive
from offcomp.planning.json_checks import Malformed

FRAMES = "frames.jsonl"
FRAMES_SCHEMA = 1
SIDE = 48
"""Largest number of rows and of columns in a picture."""
MAX_FRAMES = 100
MAX_ENTRIES = 16_000_000
MAX_LINE = 4_000
MAX_BYTES = (MAX_FRAMES + 2) * MAX_LINE
ZERO, TOP = 127, 254
"""The byte of a weight of zero, and that of the largest weight."""
Picture = Annotated[str, Field(max_length=4 * SIDE * SIDE // 3), MustBe("a small picture in base64")]
Side = Annotated[Positive, Field(le=SIDE), MustBe(f"a whole number, 1 to {SIDE}")]


class FrameHeader(Document):
    """What the frames of a run show."""

    document_schema: Count = Field(FRAMES_SCHEMA, alias="schema")
    group: Line
    """Name of the group."""
    rows: Positive
    cols: Positive
    height: Side
    width: Side
    limit: Amount
    """The weight at the positive end of the scale."""
    every: Positive = 1
    """Number of epochs from one frame to the next."""
    picture: Picture
    """The original."""


class Frame(Document):
    """The state of the reconstruction after an epoch, as it would be stored then."""

    epoch: Count
    """Counted from 1; 0 for the matrix that the run has stored."""
    loss: Figure | None = None
    """Mean training loss of the epoch."""
    relative_error: Amount
    """‖W-Ŵ‖_F / ‖W‖_F over the whole group; after an epoch, before rounding to the dtypes of the checkpoint."""
    picture: Picture


@dataclass(frozen=True)
class Recording:
    """The frames of a run, in the order in which they were written.

    epochs      one frame per epoch, or per several epochs of a long training; empty for a method without epochs
    stored      the matrix that is stored; None until it is
    """

    header: FrameHeader
    epochs: tuple[Frame, ...]
    stored: Frame | None


def read_frames(folder: Path) -> Recording | None:
    """Read the frames in the folder of a run, which may still be in progress; None if there are none yet.

    Raises StorageError if the file is damaged.
    """
    file = folder / FRAMES
    stamp = changed(file)
    try:
        return _read(file, stamp) if stamp else None
    except FileNotFoundError:
        return None
    except (Malformed, OSError, ValueError) as fault:
        raise StorageError(f"the frames of run {folder.name} cannot be read ({fault}); run its plan again") from None


@lru_cache(maxsize=64)
def _read(file: Path, _stamp: tuple[int, int]) -> Recording | None:
    """Parse a file. Cached for each size and time of modification."""
    with file.open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise Malformed(f" has more than {MAX_BYTES:,} bytes", FRAMES)
    lines = content.split(b"\n")[:-1]
    if not lines:
        return None
    header = _header(FrameHeader.from_json(json.loads(lines[0])))
    frames = [_checked(Frame.from_json(json.loads(line)), header) for line in lines[1:]]
    stored = next((frame for frame in frames if not frame.epoch), None)
    return Recording(header, tuple(frame for frame in frames if frame.epoch), stored)


def _header(header: FrameHeader) -> FrameHeader:
    if header.document_schema > FRAMES_SCHEMA:
        raise Malformed(f" is {header.document_schema}, which a newer version of offcomp wrote", "schema")
    _check_picture(header.picture, header)
    return header


def _checked(frame: Frame, header: FrameHeader) -> Frame:
    _check_picture(frame.picture, header)
    return frame


def _check_picture(picture: str, header: FrameHeader) -> None:
    try:
        count = len(b64decode(picture, validate=True))
    except ValueError:
        count = 0
    if count != header.height * header.width:
        raise Malformed(f" does not have {header.height} x {header.width} weights", "picture")


def pixels(picture: str) -> bytes:
    """The weights of a picture, row by row, one byte each."""
    return b64decode(picture)
