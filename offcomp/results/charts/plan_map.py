"""A small map of the chosen weights as SVG: one row per kind, one column per layer, chosen cells filled."""

from __future__ import annotations

from collections.abc import Collection
from html import escape

from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.models.families import KIND_TITLES
from offcomp.results.charts.theme import Palette

CELL, GAP = 10, 2
MAX_COLUMNS = 48
TITLE = "Map of the chosen weights: {} of {} matrices, one row per kind, one column per layer."


def plan_map_svg(info: ModelInfo, chosen: Collection[str], palette: Palette) -> str:
    """The map as SVG. Kinds without layers occupy one cell. Layers beyond the first MAX_COLUMNS are left out."""
    rows: dict[tuple[str, str], list[ModuleSpec]] = {}
    for spec in info.modules:
        if spec.default:
            rows.setdefault((spec.part, spec.kind), []).append(spec)
    step = CELL + GAP
    cells = [
        _cell(
            spec,
            (column if spec.layer is None else spec.layer) * step,
            row * step,
            palette.colour("svd") if spec.name in chosen else palette.grid,
        )
        for row, specs in enumerate(rows.values())
        for column, spec in enumerate(specs)
        if (spec.layer or 0) < MAX_COLUMNS
    ]
    columns = min(MAX_COLUMNS, max([(spec.layer or 0) + 1 for specs in rows.values() for spec in specs], default=1))
    width, height = columns * step, max(1, len(rows)) * step
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-{GAP} -{GAP} {width + GAP} {height + GAP}">{"".join(cells)}</svg>'
    )


def plan_map_alt(info: ModelInfo, chosen: Collection[str]) -> str:
    """The map in words."""
    return TITLE.format(sum(spec.name in chosen for spec in info.modules), len(info.modules))


def _cell(spec: ModuleSpec, x: int, y: int, colour: str) -> str:
    title = f"{KIND_TITLES.get(spec.kind, spec.kind)}{'' if spec.layer is None else f', layer {spec.layer}'}"
    place = f'x="{x}" y="{y}" width="{CELL}" height="{CELL}" rx="2"'
    return f'<rect {place} fill="{colour}"><title>{escape(title)}</title></rect>'
