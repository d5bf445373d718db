"""The chart on the Start page, drawn as SVG to spare first-time visitors the wait for a chart library to load."""

from __future__ import annotations

import pandas as pd

from offcomp.results.charts.svg import FONT, shape, text
from offcomp.results.charts.theme import Palette

WIDTH, ROW, TOP, BOTTOM = 480, 27, 66, 48
LEFT, RIGHT = 70, 14
TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def error_svg(table: pd.DataFrame, palette: Palette, *, title: str) -> str:
    """Draw the relative error of each row, with one marker per run; `table` comes from `charts.runs.error_table`."""
    rows = {row: index for index, row in enumerate(dict.fromkeys(table["row"]))}
    height = TOP + ROW * len(rows) + BOTTOM
    top = max(1.0, float(table["relative_error"].max()))

    def across(error: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * error / top

    foot = height - BOTTOM
    parts = [text(0, 20, title, palette.text, size=17), *_legend(table, palette)]
    for tick in TICKS:
        x = across(tick)
        parts.append(f'<path d="M{x:.1f} {TOP}V{foot}" stroke="{palette.grid}"/>')
        parts.append(text(x, foot + 18, f"{tick:g}", palette.muted, anchor="middle"))
    parts.append(text(across(0.5 * top), foot + 40, "relative error (left is better)", palette.text, anchor="middle"))
    for row, index in rows.items():
        parts.append(text(LEFT - 8, TOP + ROW * (index + 0.5) + 4, str(row), palette.muted, anchor="end"))
    for row, style_key, error in table[["row", "style_key", "relative_error"]].itertuples(index=False, name=None):
        parts.append(shape(style_key, across(error), TOP + ROW * (rows[row] + 0.5), palette))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="{FONT}">{"".join(parts)}</svg>'
    )


def _legend(table: pd.DataFrame, palette: Palette) -> list[str]:
    """Marker and name of each run, on one line under the title."""
    parts, x = [], LEFT + 10.0
    for (name, style_key), _ in table.groupby(["name", "style_key"], sort=False):
        parts += [shape(str(style_key), x, 46, palette), text(x + 14, 51, str(name), palette.text)]
        x += 40 + 8 * len(str(name))
    return parts
