"""Write the frames of a run (`runs.frames`) while a group is compressed. Frames never change a run or make it fail."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from math import isfinite, sqrt
from pathlib import Path
from typing import Any, BinaryIO, Self

from torch import Tensor
from transformers import PreTrainedModel

from offcomp.errors import InputError
from offcomp.methods import make_method
from offcomp.models.catalogue import ModelInfo
from offcomp.models.offloading import StoredMatrices
from offcomp.numerics.chunks import squared_norm
from offcomp.numerics.progress import Report, WatchedReport
from offcomp.planning.document import Document
from offcomp.planning.plan import Group, members
from offcomp.runs.compress import CompressedGroup, read_stacked
from offcomp.runs.frames import FRAMES, FRAMES_SCHEMA, MAX_ENTRIES, MAX_FRAMES, SIDE, TOP, ZERO, Frame, FrameHeader

SPREADS = 3.0
"""The scale of the pictures ends at this many times the root mean square of the weights shown."""


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class FrameWriter:
    """A context manager that writes the frames of a group, unless the run has frames already or the group is too large.

    report      the callback to pass to the method; it reports progress and shows each epoch
    """

    def __init__(self, folder: Path, model: PreTrainedModel | StoredMatrices, info: ModelInfo, group: Group, progress: Report):
        self.report = progress
        self._stream: BinaryIO | None = None
        specs = members(group, info)
        if sum(spec.rows * spec.cols for spec in specs) > MAX_ENTRIES:
            return
        with suppress(OSError):  # the file exists because an earlier group, or another attempt at the run, has written it
            self._stream = open(folder / FRAMES, "xb", buffering=0, opener=_private)  # noqa: SIM115  # closed at exit
        if self._stream is None:
            return
        self._original = matrix = read_stacked(model, specs, group.stack).float()
        corner = matrix[:SIDE, :SIDE]
        (rows, cols), (height, width) = matrix.shape, corner.shape
        self._energy = squared_norm(matrix)
        self._limit = SPREADS * sqrt(squared_norm(corner) / corner.numel()) or 1.0
        self._every = -(-getattr(make_method(group.method, group.options), "epochs", 1) // MAX_FRAMES)
        self.report = WatchedReport(progress, self._watch)
        shape = {"rows": rows, "cols": cols, "height": height, "width": width}
        scale = {"limit": self._limit, "every": self._every, "picture": self._picture(matrix)}
        self._write(FrameHeader.from_json({"schema": FRAMES_SCHEMA, "group": group.name} | shape | scale))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._close()

    def finish(self, group: CompressedGroup) -> None:
        """Write the frame of the stored matrix."""
        if self._stream is not None:
            self._write(self._frame(0, None, group.figures.relative_error, group.compressed.reconstruct()))

    def _watch(self, epoch: int, loss: float, reconstruct: Callable[[], Tensor]) -> None:
        if self._stream is None or epoch % self._every:
            return
        try:
            decoded = reconstruct()
        except InputError:  # not finite, which the run itself reports
            return self._close()
        error = sqrt(squared_norm(self._original - decoded) / self._energy) if self._energy else 0.0
        self._write(self._frame(epoch, loss if isfinite(loss) else None, error, decoded))
        return None

    def _frame(self, epoch: int, loss: float | None, error: float, decoded: Tensor) -> Frame:
        figures: dict[str, Any] = {"epoch": epoch, "loss": loss, "relative_error": error, "picture": self._picture(decoded)}
        return Frame.from_json({name: value for name, value in figures.items() if value is not None})

    def _picture(self, matrix: Tensor) -> str:
        """The first rows and columns of a matrix (rows, cols), in base64."""
        scaled = (matrix[:SIDE, :SIDE].float() / self._limit).nan_to_num().clamp(-1, 1)
        levels = (scaled * (TOP - ZERO)).round().int() + ZERO
        return b64encode(bytes(levels.flatten().tolist())).decode()

    def _write(self, document: Document) -> None:
        """Append one line in a single call. After a failure, such as a full disk, nothing more is written."""
        if self._stream is None:
            return
        line = json.dumps(document.to_dict(), separators=(",", ":")).encode() + b"\n"
        try:
            if self._stream.write(line) != len(line):
                self._close()
        except OSError:
            self._close()

    def _close(self) -> None:
        if self._stream is not None:
            with suppress(OSError):
                self._stream.close()
            self._stream = None
