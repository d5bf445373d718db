"""The chart of the Start page: score against size, drawn as SVG so that it follows a slider without delay."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, floor, log, log10

from offcomp.results.charts.svg import FONT, shape, text
from offcomp.results.charts.theme import Palette
from offcomp.results.scores import METRICS
from offcomp.results.start import RATIOS, Demo

WIDTH, HEIGHT = 380, 330
TOP, BOTTOM, LEFT, RIGHT = 46, 48, 54, 14
TITLE = "How much of the score is kept?"
FRONT_ALT = f"{TITLE} Score of each method at every size, with the original and the chosen size; the cards have the numbers."


def marker_svg(style_key: str, palette: Palette) -> str:
    """The marker of a method as a small image."""
    drawn = shape(style_key, 10, 10, palette)
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20" viewBox="0 0 20 20">{drawn}</svg>'


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

    parts = [text(0, 18, TITLE, palette.text, size=16)]
    for value in ticks(min(values), max(values), log_scale=is_better_low):
        parts.append(f'<path d="M{LEFT} {down(value):.1f}H{WIDTH - RIGHT}" stroke="{palette.grid}"/>')
        label = f"{100 * value:.0f} %" if metric.percent else f"{value:,g}"
        parts.append(text(LEFT - 6, down(value) + 4, label, palette.muted, anchor="end", size=12))
    for size in RATIOS:
        parts.append(text(across(size), foot + 16, f"{size:g}x", palette.muted, anchor="middle", size=12))
    here = across(ratio)
    parts.append(f'<path d="M{here:.1f} {TOP - 8}V{foot}" stroke="{palette.text}" stroke-dasharray="4 3"/>')
    anchor = "end" if ratio > RATIOS[len(RATIOS) // 2] else "start"
    parts.append(text(here + (-5 if anchor == "end" else 5), TOP, "you are here", palette.text, anchor=anchor, size=12))
    for lane in demo.lanes:
        colour = palette.colour(lane.style_key)
        points = [(1.0, demo.original.score.value)] + [(step.ratio, step.score.compressed.value) for step in lane.steps]
        line = " ".join(f"{across(size):.1f},{down(value):.1f}" for size, value in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2" opacity=".75"/>')
    for lane in demo.lanes:
        for step in lane.steps:
            x, y = across(step.ratio), down(step.score.compressed.value)
            size = 1.0 if step.ratio == ratio else 0.55
            parts.append(f'<g transform="translate({x:.1f} {y:.1f}) scale({size})">{shape(lane.style_key, 0, 0, palette)}</g>')
    parts.append(shape("original", across(1), down(demo.original.score.value), palette))
    better = "up is better" if not is_better_low else "up is better (log scale)"
    foot_text = f"{metric.word}, {better}; right: fewer bytes"
    parts.append(text((LEFT + WIDTH) / 2, HEIGHT - 8, foot_text, palette.muted, anchor="middle", size=12))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="{FONT}">{"".join(parts)}</svg>'
    )


def ticks(low: float, high: float, *, log_scale: bool) -> list[float]:
    """The round numbers between two values: 1, 2 and 5 times powers of ten on a log scale, or equal steps."""
    if log_scale:
        powers = range(floor(log10(low)), ceil(log10(high)) + 1)
        return [each for power in powers for each in (10.0**power, 2 * 10.0**power, 5 * 10.0**power) if low <= each <= high]
    rough = (high - low) / 5 or 1.0
    power = 10.0 ** floor(log10(rough))
    step = next(each * power for each in (1, 2, 5, 10) if each * power >= rough)
    return [round(number * step, 10) for number in range(ceil(low / step), floor(high / step) + 1)]
