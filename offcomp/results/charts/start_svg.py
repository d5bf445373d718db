"""The chart of the Start page: score against size, drawn as SVG so that it follows a slider without delay."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from math import log

from offcomp.results.charts.theme import UNKNOWN_MARKER, Palette, marker
from offcomp.results.scores import METRICS
from offcomp.results.start import RATIOS, Demo

FONT = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, Arial, sans-serif"
WIDTH, HEIGHT = 380, 330
TOP, BOTTOM, LEFT, RIGHT = 46, 48, 54, 14
NUM_TICKS = 5
TITLE = "How much of the score is kept?"
FRONT_ALT = f"{TITLE} Score of each method at every size, with the original and the chosen size; the cards have the numbers."
SHAPES = {
    "star": '<path d="M{x:.1f} {y:.1f}m0 -9l2.4 6h6.4l-5.2 3.9 2 6.3-5.6-3.8-5.6 3.8 2-6.3-5.2-3.9h6.4z" fill="{colour}"/>',
    "circle": '<circle cx="{x:.1f}" cy="{y:.1f}" r="6.5" fill="{colour}"/>',
    "diamond": '<path d="M{x:.1f} {y:.1f}m-8 0l8 -8l8 8l-8 8z" fill="{colour}"/>',
    "triangle-up": '<path d="M{x:.1f} {y:.1f}m-7 6l7 -13l7 13z" fill="{colour}"/>',
    "square": '<path d="M{x:.1f} {y:.1f}m-6 -6h12v12h-12z" fill="{colour}"/>',
    "cross": '<path d="M{x:.1f} {y:.1f}m-7 0h14m-7 -7v14" stroke="{colour}" stroke-width="4"/>',
    "star-triangle-up": '<path d="M{x:.1f} {y:.1f}m0 -9q1.5 8 8 13q-8 -2 -16 0q6.5 -5 8 -13z" fill="{colour}"/>',
    UNKNOWN_MARKER: '<path d="M{x:.1f} {y:.1f}m0 -8l7 12h-14zm0 16l-7 -12h14z" fill="{colour}"/>',
}
"""Marker symbol -> SVG of a mark at (x, y)."""


def marker_svg(style_key: str, palette: Palette) -> str:
    """The marker of a method as a small image."""
    shape = _shape(style_key, 10, 10, palette)
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20" viewBox="0 0 20 20">{shape}</svg>'


def front_svg(demo: Demo, ratio: float, palette: Palette) -> str:
    """Draw the score of every method at every size, with the original as a star; the chosen size is marked."""
    metric = METRICS[demo.lanes[0].steps[0].score.metric]
    is_better_low = metric.direction == "lower"
    scale: Callable[[float], float] = (lambda value: -log(value)) if is_better_low else (lambda value: value)
    values = [demo.original.score.value, *(step.score.compressed.value for lane in demo.lanes for step in lane.steps)]
    worst, best = min(map(scale, values)), max(map(scale, values))
    span = (best - worst) or 1.0
    foot = HEIGHT - BOTTOM

    def across(size: float) -> float:
        return LEFT + 14 + (WIDTH - LEFT - RIGHT - 28) * log(size) / log(RATIOS[-1])

    def down(value: float) -> float:
        return foot - 10 - (foot - TOP - 20) * (scale(value) - worst) / span

    parts = [_said(0, 18, TITLE, palette.text, size=16)]
    for number in range(NUM_TICKS):
        level = worst + span * number / (NUM_TICKS - 1)
        y = foot - 10 - (foot - TOP - 20) * number / (NUM_TICKS - 1)
        value = 2.718281828459045 ** (-level) if is_better_low else level
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{palette.grid}"/>')
        parts.append(_said(LEFT - 6, y + 4, metric.number(value), palette.muted, anchor="end", size=12))
    for size in RATIOS:
        parts.append(_said(across(size), foot + 16, f"{size:g}x", palette.muted, anchor="middle", size=12))
    here = across(ratio)
    parts.append(f'<path d="M{here:.1f} {TOP - 8}V{foot}" stroke="{palette.text}" stroke-dasharray="4 3"/>')
    anchor = "end" if ratio > RATIOS[len(RATIOS) // 2] else "start"
    parts.append(_said(here + (-5 if anchor == "end" else 5), TOP, "you are here", palette.text, anchor=anchor, size=12))
    for lane in demo.lanes:
        colour = palette.colour(lane.style_key)
        points = [(1.0, demo.original.score.value)] + [(step.ratio, step.score.compressed.value) for step in lane.steps]
        line = " ".join(f"{across(size):.1f},{down(value):.1f}" for size, value in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2" opacity=".75"/>')
    for lane in demo.lanes:
        for step in lane.steps:
            x, y = across(step.ratio), down(step.score.compressed.value)
            size = 1.0 if step.ratio == ratio else 0.55
            parts.append(f'<g transform="translate({x:.1f} {y:.1f}) scale({size})">{_shape(lane.style_key, 0, 0, palette)}</g>')
    parts.append(_shape("original", across(1), down(demo.original.score.value), palette))
    better = "up is better" if not is_better_low else "up is better (log scale)"
    foot_text = f"{metric.word}, {better}; right: fewer bytes"
    parts.append(_said((LEFT + WIDTH) / 2, HEIGHT - 8, foot_text, palette.muted, anchor="middle", size=12))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="{FONT}">{"".join(parts)}</svg>'
    )


def _shape(style_key: str, x: float, y: float, palette: Palette) -> str:
    """The marker of a method, which is the same in every chart."""
    return SHAPES.get(marker(style_key), SHAPES[UNKNOWN_MARKER]).format(x=x, y=y, colour=palette.colour(style_key))


def _said(x: float, y: float, text: str, colour: str, *, anchor: str = "start", size: int = 14) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'
