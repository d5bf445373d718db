"""Colours and marker shapes for the light and dark themes, shared by charts and pages: a method looks the same everywhere.

The colours (the Okabe-Ito palette) are safe for colour-blind readers, and each colour is paired with a different shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle

from offcomp.methods import all_methods
from offcomp.methods.base import Look


@dataclass(frozen=True)
class Palette:
    """The colours of one theme.

    series       by style key: methods, "original", "reference"
    diverging    worse, no change, better: text is legible on all of them
    weights      weights from the most negative to the most positive, zero in the middle
    errors       errors from zero, which looks almost like the page, to the largest
    """

    text: str
    muted: str
    grid: str
    surface: str
    diverging: tuple[str, str, str]
    weights: tuple[str, ...]
    errors: tuple[str, ...]
    series: dict[str, str]

    def colour(self, style_key: str) -> str:
        """The colour of a style key, or a neutral grey if the style key is unknown."""
        return self.series.get(style_key, self.muted)


DEFAULT_MARKERS = ("pentagon", "star-square", "hexagon", "star-diamond", "octagon")
DEFAULT_COLOURS = ("#6a5a8c", "#b3a6d6")
"""Colours (light and dark theme) of methods that do not define their own look; DEFAULT_MARKERS are their markers."""


def _looks() -> dict[str, Look]:
    markers = cycle(DEFAULT_MARKERS)
    of_methods = {method.style_key: method.look or Look(next(markers), *DEFAULT_COLOURS) for method in all_methods()}
    return {"original": Look("star", "#1f2430", "#e8eaf0"), **of_methods, "reference": Look("line-ew", "#7a7f8c", "#9aa0ae")}


LOOKS = _looks()
"""Plotly marker symbol, light-theme colour and dark-theme colour of each style key.

Style keys with the same colour and shape are distinguished by fill.
"""
MARKERS = {style_key: symbol for style_key, (symbol, _, _) in LOOKS.items()}

LIGHT = Palette(
    text="#1f2430",
    muted="#5a6070",
    grid="#dfe3ea",
    surface="#ffffff",
    diverging=("#e58a5c", "#f1f3f7", "#6cb0dd"),
    weights=("#1f5d9e", "#86b9de", "#f7f8fa", "#f2a987", "#b03a20"),
    errors=("#f7f8fa", "#d3cbe6", "#a290c8", "#6d4fa0", "#3c1b6b"),
    series={style_key: light for style_key, (_, light, _) in LOOKS.items()},
)
DARK = Palette(
    text="#e8eaf0",
    muted="#a4abba",
    grid="#333a48",
    surface="#12151c",
    diverging=("#a8481a", "#242a35", "#20659c"),
    weights=("#9fd2f7", "#2f73ad", "#171b24", "#ab4a2e", "#f9b79f"),
    errors=("#171b24", "#3b3160", "#6c57a4", "#a590d8", "#e3d8ff"),
    series={style_key: dark for style_key, (_, _, dark) in LOOKS.items()},
)
PALETTES = {"light": LIGHT, "dark": DARK}
UNKNOWN_MARKER = "hexagram"


def marker(style_key: str, shapes: Mapping[str, str] = MARKERS) -> str:
    """The marker symbol of a style key, or UNKNOWN_MARKER if the style key is unknown."""
    return shapes.get(style_key, UNKNOWN_MARKER)
