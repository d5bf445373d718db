"""Quality against bytes for every method, drawn as SVG for the README and for pages that should not wait for a chart library.

Every line has its label beside it. Rows that lose more than the axis shows are at its foot, with an arrow and their value.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import ceil, floor, hypot, log
from textwrap import wrap
from typing import NamedTuple

import pandas as pd

from offcomp.results.charts.svg import FONT, shape, text
from offcomp.results.charts.theme import Palette
from offcomp.results.frontier import LIMIT, noise

DEEPEST, HIGHEST = -10.0, 2.0
"""The range of the vertical axis in points; it grows upwards, but not downwards, if an interval exceeds it."""
RATIOS = (1, 2, 4, 8, 16, 30)
MARK, ARROW, TITLE_PIXELS = 9.0, 22.0, 23
DASHES = {LIMIT: "9 5", "quantization": "2 4"}
"""Style key -> dashes of its line; other lines are solid."""
WIDTH_OF_LETTER = 0.54
"""Mean width of a letter as a share of the font size."""
NEAR = ((13, 5, "start"), (0, -16, "middle"), (0, 26, "middle"), (-13, 5, "end"), (12, -11, "start"), (12, 21, "start"))
"""Where the label of a mark may be, best first: offsets in pixels, and the anchor of the text."""
NOTE = (
    "Shannon's limit: the same model with the smallest squared error that its weights can have in these bytes if they are "
    "Gaussian. Codes that use text, or the ways in which the weights are not Gaussian, can do better."
)


class Frame(NamedTuple):
    """The size of a chart and its margins, in pixels."""

    width: int
    height: int
    left: int
    right: int
    size: float


WIDE, NARROW = Frame(900, 500, 44, 150, 14), Frame(380, 540, 34, 78, 11.5)
"""For a README or a page, and for a phone."""


class Box(NamedTuple):
    """A rectangle that something occupies, in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """The shared area, in square pixels."""
        across = min(self.right, other.right) - max(self.left, other.left)
        down = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, across) * max(0.0, down)


class Axes:
    """Turns ratios and points into pixels."""

    def __init__(self, table: pd.DataFrame, frame: Frame, lines_above: int, lines_below: int) -> None:
        self.frame = frame
        self.top = 52.0 + TITLE_PIXELS * lines_above
        self.foot = frame.height - 44 - lines_below * frame.size * 1.3
        self.highest = max(HIGHEST, float(ceil(table["high"].max())) if table["high"].notna().any() else HIGHEST)
        self.deepest = max(DEEPEST, min(-2.0, float(floor(table["low"].fillna(table["difference"]).min()))))
        self.largest = max(RATIOS[-1], float(table["ratio"].max()))

    def x(self, ratio: float) -> float:
        """Logarithmic."""
        left, right = self.frame.left + 12, self.frame.width - self.frame.right
        return left + (right - left) * log(max(ratio, 1.0)) / log(self.largest)

    def y(self, points: float) -> float:
        """Linear."""
        share = (self.highest - points) / (self.highest - self.deepest)
        return self.top + (self.foot - self.top) * share


class Mark(NamedTuple):
    """A measured row in pixels; `clipped` if it lies below the axis."""

    x: float
    y: float
    row: pd.Series
    clipped: bool


def frontier_svg(table: pd.DataFrame, palette: Palette, *, title: str, what: str, frame: Frame = WIDE) -> str:
    """Draw a table of `frontier.frontier_table`. `what` says what is scored, "mean of 7 tasks"; `title` is wrapped."""
    letters, bold = (int(frame.width / size / WIDTH_OF_LETTER) for size in (frame.size - 1, frame.size + 6))
    notes = wrap(NOTE, letters) if (table["style_key"] == LIMIT).any() else []
    titles = wrap(title, bold)
    axes = Axes(table, frame, len(titles), len(notes))
    marks = _marks(table, axes)
    parts = [
        *(text(0, 20 + TITLE_PIXELS * n, line, palette.text, size=frame.size + 4, bold=True) for n, line in enumerate(titles)),
        text(0, axes.top - 20, f"points gained or lost: {what} (up is better)", palette.text, size=frame.size),
        *_grid(table, axes, palette),
    ]
    for group in marks.values():
        parts += _line(group, axes, palette)
    parts += [part for group in marks.values() for mark in group for part in _mark(mark, axes, palette)]
    parts += [shape("original", axes.x(1), axes.y(0), palette), *_labels(marks, axes, palette)]
    parts.append(text(axes.x(1) - MARK, axes.y(0) - 16, "original", palette.text, size=frame.size))
    below = frame.height - frame.size * 1.3 * (len(notes) - 0.5)
    parts += [text(0, below + n * frame.size * 1.3, line, palette.muted, size=frame.size - 1) for n, line in enumerate(notes)]
    plot = f'<rect y="{axes.top:g}" width="{frame.width}" height="{axes.foot - axes.top:.1f}"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {frame.width} {frame.height}" width="{frame.width}" '
        f'height="{frame.height}" font-family="{FONT}"><clipPath id="plot">{plot}</clipPath>{"".join(parts)}</svg>'
    )


def _grid(table: pd.DataFrame, axes: Axes, palette: Palette) -> Iterator[str]:
    """The band of noise, grid lines, ticks and the horizontal axis's title."""
    frame, size = axes.frame, axes.frame.size
    left, right = frame.left, frame.width - frame.right + 8
    band = noise(table)
    if band > 0:
        top, bottom = axes.y(min(band, axes.highest)), axes.y(-band)
        yield f'<rect x="{left}" y="{top:.1f}" width="{right - left}" height="{bottom - top:.1f}" fill="{palette.grid}"/>'
        yield text(right + 5, axes.y(0) - 2, "within noise", palette.muted, size=size - 1)
        yield text(right + 5, axes.y(0) + size - 2, f"(±{band:.1f})", palette.muted, size=size - 1)
    step = 2 if axes.highest - axes.deepest <= 16 else 5
    for points in range(ceil(axes.deepest / step) * step, int(axes.highest) + 1, step):
        y, colour = axes.y(points), palette.grid if points else palette.muted
        yield f'<path d="M{left} {y:.1f}H{right}" stroke="{colour}"/>'
        yield text(left - 8, y + 4, f"{points:+d}" if points else "0", palette.muted, anchor="end", size=size)
    for ratio in RATIOS:
        x = axes.x(ratio)
        yield f'<path d="M{x:.1f} {axes.top:g}V{axes.foot:.1f}" stroke="{palette.grid}"/>'
        yield text(x, axes.foot + size + 3, f"{ratio}x", palette.muted, anchor="middle", size=size)
    words = "times fewer bytes, log scale (right is better)"
    yield text((left + right) / 2, axes.foot + 2.4 * size + 4, words, palette.text, anchor="middle", size=size)


def _marks(table: pd.DataFrame, axes: Axes) -> dict[str, list[Mark]]:
    """The marks of each line. Those below the axis are stacked where they would cover each other; the limit has no marks."""
    marks: dict[str, list[Mark]] = {}
    clipped: list[Mark] = []
    for _, row in table.iterrows():
        x, below = axes.x(row["ratio"]), row["difference"] < axes.deepest and row["style_key"] != LIMIT
        level = sum(abs(x - other.x) < 2 * MARK for other in clipped)
        y = axes.foot - ARROW - 24 * level if below else axes.y(row["difference"])
        mark = Mark(x, y, row, below)
        clipped += [mark] * below
        marks.setdefault(row["line"], []).append(mark)
    return marks


def _true_places(group: list[Mark], axes: Axes) -> list[tuple[float, float]]:
    """Where the marks of a line would be if the axis went on, so that the line leaves the plot in the right direction."""
    return [(mark.x, axes.y(mark.row["difference"])) for mark in group]


def _line(group: list[Mark], axes: Axes, palette: Palette) -> Iterator[str]:
    key = group[0].row["style_key"]
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in _true_places(group, axes))
    if len(group) > 1:
        dashes = f' stroke-dasharray="{DASHES[key]}"' if key in DASHES else ""
        yield (
            f'<polyline points="{places}" fill="none" stroke="{palette.colour(key)}" stroke-width="2.2"{dashes} '
            'clip-path="url(#plot)"/>'
        )


def _mark(mark: Mark, axes: Axes, palette: Palette) -> Iterator[str]:
    """The marker with its interval, or with an arrow if it lies below the axis. The limit is a line without marks."""
    row, key = mark.row, mark.row["style_key"]
    if key == LIMIT:
        return
    colour = palette.colour(key)
    if mark.clipped:
        yield f'<path d="M{mark.x:.1f} {mark.y + 8:.1f}v11m-4 -5l4 5l4 -5" fill="none" stroke="{colour}" stroke-width="2"/>'
    elif row["low"] == row["low"]:
        top, bottom = axes.y(min(row["high"], axes.highest)), axes.y(max(row["low"], axes.deepest))
        yield f'<path d="M{mark.x:.1f} {top:.1f}V{bottom:.1f}" stroke="{colour}" stroke-width="1.6"/>'
    yield shape(key, mark.x, mark.y, palette, hollow=bool(row["hollow"]))


def _labels(marks: dict[str, list[Mark]], axes: Axes, palette: Palette) -> Iterator[str]:
    """The name of each line beside one of its marks, where it covers the least; marks below the axis also show their value."""
    taken = list(_occupied(marks, axes))
    for line, group in marks.items():
        key, last = group[0].row["style_key"], group[-1]
        asked = [(f"{mark.row['difference']:.1f}", [mark]) for mark in group[:-1] if mark.clipped]
        asked.append((f"{line} {last.row['difference']:.1f}", [last]) if last.clipped else (line, group[::-1]))
        for words, beside in asked:
            x, y, anchor, box = _place(len(words) * axes.frame.size * WIDTH_OF_LETTER, beside, taken, axes)
            taken.append(box)
            colour = palette.muted if key in (LIMIT, "quantization") else palette.colour(key)
            yield text(x, y, words, colour, anchor=anchor, size=axes.frame.size, halo=palette.surface)


def _place(width: float, beside: list[Mark], taken: list[Box], axes: Axes) -> tuple[float, float, str, Box]:
    """The place, anchor and box of a label of this width that covers the least; near the first mark if there is room."""
    size, frame = axes.frame.size, axes.frame

    def tried() -> Iterator[tuple[float, tuple[float, float, str, Box]]]:
        for place, mark in enumerate(beside):
            for preference, (right, down, anchor) in enumerate(NEAR):
                x, y = mark.x + right, mark.y + down
                left = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
                box = Box(left, y - size * 0.85, left + width, y + size * 0.25)
                outside = max(0.0, frame.left - box.left, box.right - frame.width) + max(0.0, box.bottom - axes.foot)
                cost = sum(box.overlap(other) for other in taken) + 100 * outside + 8 * preference + 12 * place
                yield cost, (x, y, anchor, box)

    return min(tried(), key=lambda each: each[0])[1]


def _occupied(marks: dict[str, list[Mark]], axes: Axes) -> Iterator[Box]:
    """Boxes around everything that labels should not cover."""
    frame = axes.frame
    yield Box(frame.width - frame.right, axes.y(0) - frame.size, frame.width, axes.y(0) + frame.size)
    yield Box(axes.x(1) - MARK, axes.y(0) - 16 - frame.size, axes.x(1) + 5 * frame.size, axes.y(0) + MARK)
    for group in marks.values():
        for mark in group:
            yield Box(mark.x - MARK, mark.y - MARK, mark.x + MARK, mark.y + (ARROW if mark.clipped else MARK))
            if not mark.clipped and mark.row["low"] == mark.row["low"]:
                yield Box(mark.x - 1, axes.y(mark.row["high"]), mark.x + 1, axes.y(mark.row["low"]))
        places = _true_places(group, axes)
        for (x, y), (to_x, to_y) in pairwise(places):
            steps = max(1, int(hypot(to_x - x, to_y - y) / 6))
            for step in range(steps):
                at_x, at_y = x + (to_x - x) * step / steps, y + (to_y - y) * step / steps
                yield Box(at_x - 3, at_y - 3, at_x + 3, at_y + 3)
