"""The pictures and the chart of a race, as light HTML and as an animated GIF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO

from PIL import Image, ImageDraw, ImageFont

from offcomp.results.charts.pictures import mixed, picture_image, picture_uri, ramp_of, rgb, svg_uri
from offcomp.results.charts.svg import FONT, shape, text
from offcomp.results.charts.theme import Palette
from offcomp.results.race import WORST, Race
from offcomp.runs.frames import SIDE, Frame, FrameHeader, Recording

WIDTH, HEIGHT = 440, 220
LEFT, RIGHT, ABOVE, BELOW = 40, 146, 26, 40
ZEROS = "storing zeros"
LABEL_GAP = 16.0
STYLE = """
.race {{display: grid; grid-template-columns: repeat(3, minmax(0, 170px)) minmax(0, 1fr); gap: .4rem 1rem; align-items: start}}
.race figure {{margin: 0}}
.race figure img {{width: 100%; aspect-ratio: 1; image-rendering: pixelated; display: block; border: 1px solid {grid}}}
.race figcaption {{font-size: .85rem; line-height: 1.35; margin-top: .3rem; color: {text}}}
.race figcaption small {{display: block; color: {muted}; font-size: .8rem}}
.race .empty {{aspect-ratio: 1; border: 1px dashed {muted}; display: grid; place-items: center}}
.race .empty {{color: {muted}; font-size: .8rem}}
.race .chart {{width: 100%; height: auto}}
@media (max-width: 1100px) {{
.race {{grid-template-columns: repeat(3, minmax(0, 1fr))}}
.race .chart {{grid-column: 1 / -1}}
}}
"""
SCALE, MARGIN, CAPTION = 4, 16, 48
GIF_SIZE = (736, 520)
GIF_FRAMES, FRAME_MILLISECONDS, LAST_MILLISECONDS = 50, 160, 3000
SHADES = 8


@dataclass(frozen=True)
class Axes:
    """Where an epoch and a relative error lie on a chart of `width` x `height` pixels. Fixed once the first epoch is known."""

    epochs: int
    top: float
    width: int = WIDTH
    height: int = HEIGHT

    def x(self, epoch: float) -> float:
        """The distance of an epoch from the left edge."""
        return LEFT + (self.width - LEFT - RIGHT) * (epoch - 1) / max(self.epochs - 1, 1)

    def y(self, error: float) -> float:
        """The distance of a relative error from the upper edge; errors above `top` lie on the edge of the chart."""
        foot = self.height - BELOW
        return foot - (foot - ABOVE) * min(error, self.top) / self.top

    @property
    def ticks(self) -> list[float]:
        """The labelled errors."""
        return [tick / 4 for tick in range(int(4 * self.top) + 1)] if self.top <= 1.5 else [0.0, 0.5, 1.0, self.top]

    @property
    def labelled_epochs(self) -> list[int]:
        """The labelled epochs."""
        return sorted({1, *range(self.epochs, 0, -max(1, round(self.epochs / 5)))} - {2})


def axes_of(race: Race, **size: int) -> Axes:
    """The axes of a race, which hold the first epoch, usually the worst, and the line of storing zeros."""
    first = [frame.relative_error for frame in race.shown[:1]]
    top = max(1.25, *(0.25 * -(-4 * error // 1) for error in [*first, race.svd_error or 0.0]))
    return Axes(race.epochs, min(top, 3.0), **size)


def race_html(race: Race, frame: Frame | None, palette: Palette) -> str:
    """The original, SVD and the autoencoder after an epoch, side by side, and the errors so far; no `frame` before epoch 1."""
    either = race.frames or race.svd_frames
    stored = race.svd_frames.stored if race.svd_frames else None
    size = _size(either.header) if either else ""
    loss = "" if frame is None or frame.loss is None else f", loss {frame.loss:.4f}"
    learned = f"epoch {frame.epoch} of {race.epochs}{loss}" if frame else "waiting for its first epoch"
    figures = [
        _figure("Original", size, either.header.picture if either else None, either, palette.weights),
        _figure("SVD", _error(stored), stored.picture if stored else None, race.svd_frames, palette.weights),
        _figure("Autoencoder", f"{_error(frame)}{learned}", frame.picture if frame else None, race.frames, palette.weights),
    ]
    image = f'<img class="chart" alt="{escape(_chart_alt(race, frame))}" src="{svg_uri(race_svg(race, frame, palette))}">'
    return f'<div class="race">{"".join(figures)}{image}</div>'


def waiting_html() -> str:
    """The places of the three pictures before a race."""
    notes = {"Original": "the first weights of the matrix", "SVD": "at once", "Autoencoder": "one picture per epoch"}
    figures = [_figure(title, note, None, None, ()) for title, note in notes.items()]
    return f'<div class="race">{"".join(figures)}</div>'


def _chart_alt(race: Race, frame: Frame | None) -> str:
    errors = {"SVD": race.svd_error, "Autoencoder": frame.relative_error if frame else None}
    known = "; ".join(f"{name} {error:.3f}" for name, error in errors.items() if error is not None)
    return f"Relative error by epoch, lower is better. {known}"


def _size(header: FrameHeader) -> str:
    return f"first {header.height} x {header.width} of {header.rows:,} x {header.cols:,} weights"


def _error(frame: Frame | None) -> str:
    return f"relative error {frame.relative_error:.3f}<br>" if frame else ""


def _figure(title: str, note: str, picture: str | None, recording: Recording | None, weights: tuple[str, ...]) -> str:
    if picture is None or recording is None:
        shown = '<div class="empty">not yet</div>'
    else:
        uri = picture_uri(picture, recording.header.width, recording.header.height, weights)
        shown = f'<img alt="{title}: weights of {escape(recording.header.group)}" src="{uri}">'
    return f"<figure>{shown}<figcaption><b>{title}</b><small>{note}</small></figcaption></figure>"


def race_svg(race: Race, frame: Frame | None, palette: Palette) -> str:
    """The relative error after each epoch up to `frame`, and that of SVD as a line."""
    axes, svd = axes_of(race), race.svd_error
    right, foot = WIDTH - RIGHT, HEIGHT - BELOW
    parts = []
    for tick in axes.ticks:
        parts.append(f'<path d="M{LEFT} {axes.y(tick):.1f}H{right}" stroke="{palette.grid}"/>')
        parts.append(text(LEFT - 6, axes.y(tick) + 4, f"{tick:g}", palette.muted, anchor="end", size=13))
    parts += [
        text(axes.x(epoch), foot + 16, str(epoch), palette.muted, anchor="middle", size=13) for epoch in axes.labelled_epochs
    ]
    parts.append(text((LEFT + right) / 2, foot + 34, "epoch of the autoencoder", palette.text, anchor="middle", size=13))
    across = f'stroke="{palette.muted}" stroke-dasharray="5 4"'
    parts.append(f'<path d="M{LEFT} {axes.y(WORST):.1f}H{right}" {across}/>')
    labels = [(axes.y(WORST), ZEROS, palette.muted)]
    if svd is not None:
        colour = palette.colour("svd")
        parts.append(f'<path d="M{LEFT} {axes.y(svd):.1f}H{right}" stroke="{colour}" stroke-width="2.5"/>')
        parts.append(shape("svd", right, axes.y(svd), palette))
        labels.append((axes.y(svd), f"SVD {svd:.3f}", colour))
    if frame is not None:
        colour = palette.colour("autoencoder")
        seen = [(axes.x(each.epoch), axes.y(each.relative_error)) for each in race.shown if each.epoch <= frame.epoch]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in seen)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        parts += [shape("autoencoder", x, y, palette) for x, y in seen[-1:]]
        labels.append((seen[-1][1], f"Autoencoder {frame.relative_error:.3f}", colour))
    parts += [text(right + 12, y + 4, words, colour, size=13) for y, words, colour in apart(labels)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="{FONT}">'
        f"{text(4, 12, 'relative error (lower is better)', palette.text, size=13)}{''.join(parts)}</svg>"
    )


def apart(labels: Sequence[tuple[float, str, str]]) -> list[tuple[float, str, str]]:
    """Move the labels (y, text, colour) down where needed, so that they do not overlap."""
    placed: list[tuple[float, str, str]] = []
    for y, words, colour in sorted(labels):
        low = placed[-1][0] + LABEL_GAP if placed else y
        placed.append((max(y, low), words, colour))
    return placed


def race_gif(race: Race, palette: Palette) -> bytes:
    """The race as an animated GIF of a few hundred kB. Raises ValueError if there are no frames yet."""
    if not race.shown or race.frames is None:
        raise ValueError("the race has no frames yet")
    colours = _gif_palette(palette)
    step = -(-len(race.shown) // GIF_FRAMES)
    chosen = [*race.shown[::step], *([race.shown[-1]] if (len(race.shown) - 1) % step else [])]
    drawn = [_gif_frame(race, frame, palette).quantize(palette=colours, dither=Image.Dither.NONE) for frame in chosen]
    durations = [FRAME_MILLISECONDS] * (len(drawn) - 1) + [LAST_MILLISECONDS]
    content = BytesIO()
    drawn[0].save(content, "GIF", save_all=True, append_images=drawn[1:], duration=durations, loop=0)
    return content.getvalue()


def _gif_palette(palette: Palette) -> Image.Image:
    """The colours of an animation: every fourth colour of the pictures, and shades of the colours of text and lines."""
    ramp = ramp_of(palette.weights)
    colours = [list(ramp[start : start + 3]) for start in range(0, len(ramp), 12)]
    surface = rgb(palette.surface)
    for ink in (palette.text, palette.muted, palette.grid, palette.colour("svd"), palette.colour("autoencoder")):
        colours += [mixed(surface, rgb(ink), shade / SHADES) for shade in range(SHADES + 1)]
    image = Image.new("P", (1, 1))
    image.putpalette([part for colour in colours for part in colour])
    return image


def _gif_frame(race: Race, frame: Frame, palette: Palette) -> Image.Image:
    image = Image.new("RGB", GIF_SIZE, palette.surface)
    canvas, font = ImageDraw.Draw(image), ImageFont.load_default(15)
    stored = race.svd_frames.stored if race.svd_frames else None
    (group,) = race.svd.plan.groups
    shown = [
        ("Original", f"{group.modules[0]} at {group.ratio:g}x", race.frames.header.picture if race.frames else "", race.frames),
        (
            "SVD",
            f"relative error {stored.relative_error:.3f}" if stored else "",
            stored.picture if stored else "",
            race.svd_frames,
        ),
        (f"Autoencoder, epoch {frame.epoch}", f"relative error {frame.relative_error:.3f}", frame.picture, race.frames),
    ]
    for number, (title, note, picture, recording) in enumerate(shown):
        left = MARGIN + number * (GIF_SIZE[0] - 2 * MARGIN + MARGIN) // len(shown)
        if recording and picture:
            header = recording.header
            tile = picture_image(picture, header.width, header.height, palette.weights).convert("RGB")
            image.paste(tile.resize((SCALE * header.width, SCALE * header.height), Image.Resampling.NEAREST), (left, MARGIN))
        canvas.text((left, MARGIN + SCALE * SIDE + 4), title, palette.text, font)
        canvas.text((left, MARGIN + SCALE * SIDE + 24), note, palette.muted, font)
    _gif_chart(canvas, race, frame, palette)
    return image


def _gif_chart(canvas: ImageDraw.ImageDraw, race: Race, frame: Frame, palette: Palette) -> None:
    """Draw the chart of `race_svg` below the pictures."""
    start, font = MARGIN + SCALE * SIDE + CAPTION, ImageFont.load_default(13)
    axes = axes_of(race, width=GIF_SIZE[0], height=GIF_SIZE[1] - start)
    right, svd = axes.width - RIGHT, race.svd_error
    for tick in axes.ticks:
        y = start + axes.y(tick)
        canvas.line((LEFT, y, right, y), palette.grid)
        canvas.text((LEFT - 6, y), f"{tick:g}", palette.muted, font, anchor="rm")
    for epoch in axes.labelled_epochs:
        canvas.text((axes.x(epoch), GIF_SIZE[1] - BELOW + 12), str(epoch), palette.muted, font, anchor="mm")
    canvas.text(((LEFT + right) / 2, GIF_SIZE[1] - 10), "epoch of the autoencoder", palette.text, font, anchor="mm")
    canvas.text((4, start + 6), "relative error (lower is better)", palette.text, font, anchor="lm")
    zeros = start + axes.y(WORST)
    canvas.line((LEFT, zeros, right, zeros), palette.muted)
    labels = [(zeros, ZEROS, palette.muted)]
    if svd is not None:
        y, colour = start + axes.y(svd), palette.colour("svd")
        canvas.line((LEFT, y, right, y), colour, 3)
        canvas.ellipse((right - 6, y - 6, right + 6, y + 6), colour)
        labels.append((y, f"SVD {svd:.3f}", colour))
    colour = palette.colour("autoencoder")
    seen = [(axes.x(each.epoch), start + axes.y(each.relative_error)) for each in race.shown if each.epoch <= frame.epoch]
    canvas.line([point for x, y in seen for point in (x, y)], colour, 3)
    (x, y), size = seen[-1], 8
    canvas.polygon([(x - size, y), (x, y - size), (x + size, y), (x, y + size)], colour)
    labels.append((y, f"Autoencoder {frame.relative_error:.3f}", colour))
    for y, words, colour in apart(labels):
        canvas.text((right + 12, y), words, colour, font, anchor="lm")
