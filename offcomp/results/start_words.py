"""What the models of the Start page say about a text, and what happened at a size, in words."""

from __future__ import annotations

from collections.abc import Sequence

from offcomp.methods import method_of_style_key
from offcomp.results.scores import metric_of
from offcomp.results.start import Answer, Demo, Step

KEPT, LOST = "\u2713 same as the original", "\u2717 differs from the original"
NAMES = {"trellis": "Trellis code"}
VERBS = {
    "similarity": ("finds", "find", "the same nearest sentence as the original"),
    "sentiment": ("judges", "judge", "the review like the original"),
    "next": ("guesses", "guess", "the same next word as the original"),
}
"""What a model does -> how the sentence says it: one method, several methods, and the rest."""


def method_name(style_key: str) -> str:
    """The short name of a method: "SVD", "Autoencoder", "Trellis code"."""
    return NAMES.get(style_key) or method_of_style_key(style_key).title


def _in_sentence(style_key: str) -> str:
    name = method_name(style_key)
    return name if name.isupper() else f"the {name.lower()}"


def said(texts: Sequence[str], answer: Answer, index: int) -> str:
    """What a model says about the text at `index`: the nearest of the other texts, the class, or the next word."""
    if answer.similarities:
        return texts[answer.nearest(index)]
    if answer.probabilities:
        return answer.label[0]
    return token_text(answer.next[0][0]) if answer.next else ""


def token_text(token: str) -> str:
    """A token as text; a hyphen stands for the beginning of the word that it continues."""
    return f"-{token[2:]}" if token.startswith("##") else token.strip()


def is_kept(texts: Sequence[str], original: Answer, answer: Answer, index: int) -> bool:
    """Whether a model says the same about a text as the original."""
    return said(texts, original, index) == said(texts, answer, index)


def what_happened(kind: str, demo: Demo, ratio: float, index: int) -> str:
    """One sentence about the chosen text, and one about the score, at a ratio."""
    steps = {key: step for key, step in demo.steps(ratio).items() if step is not None}
    if not steps:
        return "This is the original model. Move the slider to store it in fewer bytes, and see what breaks."
    names = {
        _in_sentence(key): is_kept(demo.texts, demo.original.answers[index], s.answers[index], index)
        for key, s in steps.items()
    }
    kept, lost = ([name for name, same in names.items() if same == wanted] for wanted in (True, False))
    one, many, rest = VERBS[kind]
    start = f"At {ratio:g}x fewer bytes, "
    if not lost:
        first = f"{start}all {len(kept)} methods still {many} {rest}"
    elif not kept:
        first = f"{start}no method still {one} {rest}"
    else:
        first = f"{start}{_listing(kept)} still {one if len(kept) == 1 else many} {rest}; {_listing(lost)} "
        first += "does not" if len(lost) == 1 else "do not"
    return f"{first}. {scores_sentence(steps)}"


def scores_sentence(steps: dict[str, Step]) -> str:
    """The score of the original and of every method, best first."""
    score = next(iter(steps.values())).score
    metric = metric_of(score)
    ordered = sorted(steps.items(), key=lambda pair: -metric.ranked(pair[1].score.compressed.value))
    values = [f"{metric.number(step.score.compressed.value)} with {_in_sentence(key)}" for key, step in ordered]
    title = f"{metric.word[:1].upper()}{metric.word[1:]}"
    return f"{title} is {metric.number(score.original.value)} for the original, {_listing(values)}."


def _listing(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
