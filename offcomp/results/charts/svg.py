"""Parts of charts that are drawn as SVG, without a chart library: text, and the marker of each method."""

from __future__ import annotations

from html import escape

from offcomp.plain_text import without_unseen
from offcomp.results.charts.theme import UNKNOWN_MARKER, Palette, marker

FONT = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, Arial, sans-serif"
STAR = "m0 -10l2.4 6.8l7.1 .1l-5.7 4.4l2.1 6.9l-5.9 -4.2l-5.9 4.2l2.1 -6.9l-5.7 -4.4l7.1 -.1z"
SHAPES = {
    "circle": '<circle cx="{x:.1f}" cy="{y:.1f}" r="6.5" {paint}/>',
    "diamond": '<path d="M{x:.1f} {y:.1f}m-8 0l8 -8l8 8l-8 8z" {paint}/>',
    "triangle-up": '<path d="M{x:.1f} {y:.1f}m-7 6l7 -13l7 13z" {paint}/>',
    "star-triangle-up": '<path d="M{x:.1f} {y:.1f}m0 -9q1.6 6.8 8.6 14q-8.6 -2.6 -17.2 0q7 -7.2 8.6 -14z" {paint}/>',
    "square": '<path d="M{x:.1f} {y:.1f}m-6 -6h12v12h-12z" {paint}/>',
    "star": f'<path d="M{{x:.1f}} {{y:.1f}}{STAR}" {{paint}}/>',
    "cross": '<path d="M{x:.1f} {y:.1f}m-7 0h14m-7 -7v14" stroke="{colour}" stroke-width="4"/>',
    "line-ew": '<path d="M{x:.1f} {y:.1f}m-5 -5l10 10m0 -10l-10 10" stroke="{colour}" stroke-width="3"/>',
    UNKNOWN_MARKER: '<path d="M{x:.1f} {y:.1f}m0 -8l7 12h-14zm0 16l-7 -12h14z" {paint}/>',
}


def shape(style_key: str, x: float, y: float, palette: Palette, *, hollow: bool = False) -> str:
    """The marker of a method, which is the same in every chart."""
    colour = palette.colour(style_key)
    paint = f'fill="{palette.surface}" stroke="{colour}" stroke-width="2.5"' if hollow else f'fill="{colour}"'
    return SHAPES.get(marker(style_key), SHAPES[UNKNOWN_MARKER]).format(x=x, y=y, colour=colour, paint=paint)


def text(
    x: float,
    y: float,
    words: str,
    colour: str,
    *,
    anchor: str = "start",
    size: float = 14,
    bold: bool = False,
    halo: str = "",
) -> str:
    """One line of text, escaped. The point (x, y) is on its baseline; a halo of a colour keeps it legible on lines."""
    more = ' font-weight="600"' if bold else ""
    more += f' stroke="{halo}" stroke-width="3" paint-order="stroke"' if halo else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-size="{size:g}" text-anchor="{anchor}"{more}>'
        f"{escape(without_unseen(words))}</text>"
    )
