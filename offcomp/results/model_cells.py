"""The cells of the map of a model: where each weight matrix is drawn, and which matrices share a cell."""

from __future__ import annotations

import pandas as pd

from offcomp.results.model import shown_rows

GAP = 0.5
"""Rows between the matrices outside the layers and those inside."""


def placed_table(table: pd.DataFrame) -> pd.DataFrame:
    """The cells of the map: `x` is the layer, or missing if a cell spans all layers; `y` counts rows from the top.

    The experts of a layer share a cell, which has their total size and mean error; `members` are the modules of a cell.
    """
    outside, rows = shown_rows(table)
    first = len(outside) + (GAP if len(outside) else 0.0)
    heights = {row: first + index for index, row in enumerate(rows)}
    inside = table[table["row"].isin(rows)]
    cells = pd.concat([outside, inside])
    placed = cells.assign(x=cells["layer"], y=[*map(float, range(len(outside))), *inside["row"].map(heights)])
    placed = placed.assign(members=placed["module"].map(lambda module: (module,)))
    if not placed.duplicated(["x", "y"]).any():
        return placed
    together = {"parameters": "sum", "share": "sum", "relative_error": "mean", "known_error": "all", "in_plan": "any"}
    merged = {name: together.get(name, "first") for name in placed.columns if name not in ("x", "y")} | {"members": "sum"}
    return placed.groupby(["x", "y"], sort=False, dropna=False, as_index=False).agg(merged)
