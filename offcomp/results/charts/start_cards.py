"""The cards of the Start page, as HTML: for each model, a picture of its weights, what it says about a text, and its score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from offcomp.plain_text import without_unseen
from offcomp.results.charts.pictures import picture_uri, svg_uri
from offcomp.results.charts.start_svg import FRONT_ALT, front_svg, marker_svg
from offcomp.results.charts.theme import Palette
from offcomp.results.scores import Metric, brief_difference, metric_of
from offcomp.results.sentences import megabytes
from offcomp.results.start import Answer, Demo, Step
from offcomp.results.start_words import KEPT, LOST, is_kept, method_name, said, token_text

NEXT_SHOWN = 3
LONGEST = 60
"""Maximum number of characters of a continuation."""
CSS = """
.start {display: grid; grid-template-columns: minmax(0, 11fr) minmax(0, 6fr); gap: 1.4rem; align-items: start}
.start .cards {display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); column-gap: .9rem}
.start article {display: grid; grid-template-rows: subgrid; grid-row: span 7; row-gap: .25rem; min-width: 0; font-size: .85rem;
  line-height: 1.3; overflow-wrap: anywhere; padding-bottom: .8rem}
.start h3 {font-size: 1rem; margin: 0; padding: 0; display: flex; align-items: center; gap: .4rem; font-weight: 600}
.start h3 img {width: 18px; height: 18px}
.start p {margin: 0; font-size: .85rem}
.start .size, .start .note {color: var(--muted); font-size: .8rem}
.start .said, .start .score, .start .kept {font-weight: 600}
.start img.weights {width: 100%; aspect-ratio: 3 / 2; image-rendering: pixelated; display: block}
.start .empty {aspect-ratio: 3 / 2; border: 1px dashed var(--grid); display: grid; place-items: center; padding: .5rem;
  color: var(--muted); font-size: .8rem; text-align: center}
.start .bar {display: grid; grid-template-columns: minmax(0, 4.6em) 1fr 2.8em; gap: .35rem; align-items: center;
  font-size: .8rem}
.start .bar i {height: .6rem; background: var(--grid); display: block}
.start .bar b {height: 100%; display: block}
.start .front {width: 100%; height: auto}
.start.own {grid-template-columns: minmax(0, 1fr)}
@media (max-width: 900px) {
  .start {grid-template-columns: minmax(0, 1fr)}
  .start .cards {grid-template-columns: repeat(2, minmax(0, 1fr))}
}
"""
"""Each card spans the same seven rows: name, size, picture, answer, bars, notes and score."""


def start_html(demo: Demo, ratio: float, index: int, palette: Palette) -> str:
    """All cards at a ratio for the text at `index`, and the chart of score against size."""
    original, texts = demo.original, demo.texts
    score = f"{_score_name(demo)} {_metric(demo).number(original.score.value)}"
    answer = answer_html(texts, original.answers[index], index, palette, "original")
    cards = [
        _card(
            "original",
            palette,
            name="Original",
            size=megabytes(original.num_bytes),
            body=_image(demo, original.picture, "Original", palette) + answer,
            score=score,
        )
    ]
    for lane in demo.lanes:
        name, step = method_name(lane.style_key), lane.at(ratio)
        if step is not None:
            cards.append(_step_card(demo, lane.style_key, step, index, palette))
        elif ratio > 1:
            empty = f'<div class="empty">{_text(lane.fault_at(ratio))}</div>'
            cards.append(_card(lane.style_key, palette, name=name, size=f"not possible at {ratio:g}x", body=empty))
    front = _svg(front_svg(demo, ratio, palette), FRONT_ALT, "front")
    return f'<div class="start" style="{_variables(palette)}"><div class="cards">{"".join(cards)}</div>{front}</div>'


def own_html(texts: Sequence[str], answers: Mapping[str, Answer | str], palette: Palette) -> str:
    """What each model says about the first of `texts`; a string in place of an answer says why there is none yet."""
    original = answers["original"]
    cards = []
    for key, answer in answers.items():
        name = "Original" if key == "original" else method_name(key)
        if isinstance(answer, str):
            body = f'<p class="note waiting">{_text(answer)}</p>'
        else:
            body = answer_html(texts, answer, 0, palette, key, original=None if isinstance(original, str) else original)
        cards.append(_card(key, palette, name=name, body=body))
    return f'<div class="start own" style="{_variables(palette)}"><div class="cards">{"".join(cards)}</div></div>'


def answer_html(
    texts: Sequence[str], answer: Answer, index: int, palette: Palette, style_key: str, *, original: Answer | None = None
) -> str:
    """What a model says about the text at `index`, with a bar for each alternative, and whether `original` says the same."""
    colour, words = palette.colour(style_key), said(texts, answer, index)
    if answer.probabilities:
        bars = list(answer.probabilities.items())
    else:
        bars = [(token_text(token), share) for token, share in answer.next[:NEXT_SHOWN]]
    lines = "".join(_bar(name, share, colour) for name, share in bars)
    said_so = ""
    if original is not None and style_key != "original":
        said_so += f'<p class="kept">{_text(KEPT if is_kept(texts, original, answer, index) else LOST)}</p>'
    if answer.continuation is not None:
        said_so += f'<p class="note">… {_text(answer.continuation.strip()[:LONGEST])}</p>'
    return f'<p class="said">{_text(words)}</p><div>{lines}</div><div>{said_so}</div>'


def _step_card(demo: Demo, style_key: str, step: Step, index: int, palette: Palette) -> str:
    size = f"{megabytes(step.num_bytes)}, {demo.original.num_bytes / step.num_bytes:.3g}x"
    if step.num_whole:
        size += f"; {'all' if step.num_whole == step.num_groups else step.num_whole} groups stored whole, as int8"
    score = f"{_score_name(demo)} {_metric(demo).number(step.score.compressed.value)} ({brief_difference(step.score)})"
    body = _image(demo, step.picture, method_name(style_key), palette)
    body += answer_html(demo.texts, step.answers[index], index, palette, style_key, original=demo.original.answers[index])
    return _card(style_key, palette, name=method_name(style_key), size=size, body=body, score=score)


def _card(style_key: str, palette: Palette, *, name: str, size: str = "", body: str = "", score: str = "") -> str:
    head = f"<h3>{_svg(marker_svg(style_key, palette), '', 'mark')}{_text(name)}</h3>"
    return f'<article>{head}<p class="size">{_text(size)}</p>{body}<p class="score">{_text(score)}</p></article>'


def _svg(svg: str, alt: str, css_class: str) -> str:
    return f'<img class="{css_class}" src="{svg_uri(svg)}" alt="{_text(alt)}">'


def _variables(palette: Palette) -> str:
    return f"--muted: {palette.muted}; --grid: {palette.grid}"


def _bar(name: str, share: float, colour: str) -> str:
    width = f"{100 * min(max(share, 0.0), 1.0):.1f}%"
    bar = f'<i><b style="width: {width}; background: {colour}"></b></i>'
    return f'<div class="bar"><span>{_text(name)}</span>{bar}<span>{100 * share:.0f} %</span></div>'


def _image(demo: Demo, picture: str, whose: str, palette: Palette) -> str:
    alt = f"{whose}: the first {demo.rows} x {demo.cols} weights of {demo.module}"
    return f'<img class="weights" src="{picture_uri(picture, demo.cols, demo.rows, palette.weights)}" alt="{_text(alt)}">'


def _metric(demo: Demo) -> Metric:
    return metric_of(demo.lanes[0].steps[0].score)


def _score_name(demo: Demo) -> str:
    return demo.lanes[0].steps[0].score.metric.capitalize()


def _text(text: str) -> str:
    return escape(without_unseen(text))
