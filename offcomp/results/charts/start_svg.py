"""The chart on the Start page, drawn as SVG to spare first-time visitors the wait for a chart library to load."""

from __future__ import annotations

from html import escape

import pandas as pd

from offcomp.results.charts.theme import UNKNOWN_MARKER, Palette, marker

WIDTH, ROW, TOP, BOTTOM = 480, 27, 66, 48
LEFT, RIGHT = 70, 14
FONT = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, Arial, sans-serif"
TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
SHAPES = {
    "circle": '<circle cx="{x:.1f}" cy="{y:.1f}" r="6.5" fill="{colour}"/>',
    "diamond": '<path d="M{x:.1f} {y:.1f}m-8 0l8 -8l8 8l-8 8z" fill="{colour}"/>',
    "triangle-up": '<path d="M{x:.1f} {y:.1f}m-7 6l7 -13l7 13z" fill="{colour}"/>',
    "square": '<path d="M{x:.1f} {y:.1f}m-6 -6h12v12h-12z" fill="{colour}"/>',
    "cross": '<path d="M{x:.1f} {y:.1f}m-7 0h14m-7 -7v14" stroke="{colour}" stroke-width="4"/>',
    UNKNOWN_MARKER: '<path d="M{x:.1f} {y:.1f}m0 -8l7 12h-14zm0 16l-7 -12h14z" fill="{colour}"/>',
}


def error_svg(table: pd.DataFrame, palette: Palette, *, title: str) -> str:
    """Draw the relative error of each row, with one marker per run; `table` comes from `charts.runs.error_table`."""
    rows = {row: index for index, row in enumerate(dict.fromkeys(table["row"]))}
    height = TOP + ROW * len(rows) + BOTTOM
    top = max(1.0, float(table["relative_error"].max()))

    def across(error: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * error / top

    foot = height - BOTTOM
    parts = [_text(0, 20, title, palette.text, size=17), *_legend(table, palette)]
    for tick in TICKS:
        x = across(tick)
        parts.append(f'<path d="M{x:.1f} {TOP}V{foot}" stroke="{palette.grid}"/>')
        parts.append(_text(x, foot + 18, f"{tick:g}", palette.muted, anchor="middle"))
    parts.append(_text(across(0.5 * top), foot + 40, "relative error (left is better)", palette.text, anchor="middle"))
    for row, index in rows.items():
        parts.append(_text(LEFT - 8, TOP + ROW * (index + 0.5) + 4, str(row), palette.muted, anchor="end"))
    for row, style_key, error in table[["row", "style_key", "relative_error"]].itertuples(index=False, name=None):
        parts.append(_shape(style_key, across(error), TOP + ROW * (rows[row] + 0.5), palette))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="{FONT}">{"".join(parts)}</svg>'
    )


def _shape(style_key: str, x: float, y: float, palette: Palette) -> str:
    """The marker of a method, which is the same in every chart."""
    return SHAPES.get(marker(style_key), SHAPES[UNKNOWN_MARKER]).format(x=x, y=y, colour=palette.colour(style_key))


def _legend(table: pd.DataFrame, palette: Palette) -> list[str]:
    """Marker and name of each run, on one line under the title."""
    parts, x = [], LEFT + 10.0
    for (name, style_key), _ in table.groupby(["name", "style_key"], sort=False):
        parts += [_shape(str(style_key), x, 46, palette), _text(x + 14, 51, str(name), palette.text)]
        x += 40 + 8 * len(str(name))
    return parts


def _text(x: float, y: float, text: str, colour: str, *, anchor: str = "start", size: int = 14) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'
