"""Reconstructions of one weight matrix by several methods, side by side at about equal bytes: tables and sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, log

import numpy as np
import pandas as pd

from offcomp.methods import style_key_in_plan
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.planning.matrix_view import Picture, View
from offcomp.results.inspect import median_table, percent, row_table
from offcomp.results.runs import title_of_style_key
from offcomp.runs.result import GroupResult
from offcomp.runs.store import Run

EQUAL = 1.05
"""Sizes within this factor are considered equal."""
LISTED = 5
"""Number of rows listed as the worst of a method."""
MEDIAN_COLUMNS = ("style_key", "title", "norm", "cosine", "norm_error")


@dataclass(frozen=True)
class Reconstruction:
    """What one method made of a matrix.

    style_key   identifies the method
    size        its size in a few words, such as "rank 64"
    ratio       bytes of the original divided by stored bytes
    run         the run that stored it; None for SVD, which needs none
    """

    style_key: str
    size: str
    ratio: float
    picture: Picture
    run: Run | None = None

    @property
    def title(self) -> str:
        """The title of the method."""
        return title_of_style_key(self.style_key)


@dataclass(frozen=True)
class Stored:
    """A finished run that stores a matrix, and the figures of the group that contains it."""

    run: Run
    group: GroupResult


def stored_by(runs: Sequence[Run], info: ModelInfo, spec: ModuleSpec, style_key: str) -> list[Stored]:
    """The finished runs of this model whose stored weights contain a module compressed with this method, newest first."""
    return [
        stored
        for run in runs
        if run.status == "done" and run.result and run.result.model and run.result.model.reads == info.reads
        for stored in _in_run(run, spec, style_key)
    ]


def _in_run(run: Run, spec: ModuleSpec, style_key: str) -> Iterator[Stored]:
    """The group of a run that contains the module, if it was compressed with this method and its tensors are still there."""
    for group in run.result.groups if run.result else ():
        found = spec.name in group.modules and style_key_in_plan(group.method, dict(group.options or {})) == style_key
        if found and run.group_file(group.name).is_file():
            yield Stored(run, group)


def nearest(stored: Sequence[Stored], ratio: float, preferred: str = "") -> Stored | None:
    """The stored matrix whose byte ratio is nearest to `ratio`, within EQUAL; that of the run `preferred` before all others."""
    return min(
        (each for each in stored if _distance(each.group.byte_ratio, ratio) <= log(EQUAL)),
        key=lambda each: (each.run.id != preferred, len(each.group.modules) > 1, _distance(each.group.byte_ratio, ratio)),
        default=None,
    )


def other_sizes(stored: Sequence[Stored], count: int = 3) -> list[float]:
    """Up to `count` byte ratios at which the matrix is stored, in increasing order."""
    ratios: list[float] = []
    for ratio in sorted(each.group.byte_ratio for each in stored):
        if not ratios or _distance(ratio, ratios[-1]) > log(EQUAL):
            ratios.append(ratio)
    return ratios[:count]


def _distance(one: float, other: float) -> float:
    return abs(log(one / other)) if one > 0 and other > 0 else inf


def reconstructions_answer(found: Sequence[Reconstruction], name: str) -> str:
    """State in one or two sentences how much of the energy of a matrix each method loses, at what sizes."""
    best, *others = sorted(found, key=lambda each: each.picture.lost)
    clauses = [f"{_subject(best)} loses {percent(best.picture.lost)} of the energy of {name}"]
    clauses += [f"{_subject(each)} {percent(each.picture.lost)}" for each in others]
    joined = clauses[0] if not others else f"{', '.join(clauses[:-1])} and {clauses[-1]}"
    low, high = min(each.ratio for each in found), max(each.ratio for each in found)
    size = _ratio(low) if high <= EQUAL * low else f"{_ratio(low)} to {_ratio(high)}"
    worse = " More than 100 % is worse than storing zeros." if any(each.picture.lost > 1 for each in found) else ""
    return f"At {size} fewer bytes, {joined}.{worse}"


def _subject(found: Reconstruction) -> str:
    """The method as the subject of a sentence: "SVD", "the autoencoder", "the codebook autoencoder"."""
    family, _, preset = found.title.partition(", ")
    if family != "Autoencoder":
        return found.title
    return f"the {preset} autoencoder" if preset else "the autoencoder"


def _ratio(ratio: float) -> str:
    return f"{ratio:.1f}x" if ratio < 10 else f"{ratio:.3g}x"


def size_words(found: Reconstruction) -> str:
    """The size of a reconstruction: "rank 64, 3.0x fewer bytes"."""
    fewer = f"{_ratio(found.ratio)} fewer bytes" if found.ratio >= 1 else f"{_ratio(1 / found.ratio)} more bytes"
    return ", ".join(filter(None, [found.size, fewer]))


def row_words(found: Reconstruction) -> str:
    """The median cosine and the median error of the norms of the rows: "Rows: median cosine 0.790, norm -21 %."."""
    cosines, ratios = (values[~np.isnan(values)] for values in (found.picture.cosines, found.picture.norm_ratios))
    if not len(cosines):
        return "Every row is zero."
    return f"Rows: median cosine {np.median(cosines):.3f}, norm {signed_percent(float(np.median(ratios)) - 1)}."


def signed_percent(fraction: float) -> str:
    """A signed percentage: "-21 %", "+0.3 %"; "±0 %" if it rounds to zero."""
    text = f"{100 * fraction:+.0f}" if abs(fraction) >= 0.095 else f"{100 * fraction:+.1f}"
    return "±0 %" if float(text) == 0 else f"{text} %"


def figure_table(found: Sequence[Reconstruction]) -> pd.DataFrame:
    """One row per method: its size, the energy that it loses, and the medians over the rows."""
    rows = [
        {
            "method": each.title,
            "size": each.size,
            "byte_ratio": each.ratio,
            "energy_lost": each.picture.lost,
            "relative_error": each.picture.lost**0.5,
            "median_cosine": _median(each.picture.cosines),
            "median_norm_error": _median(each.picture.norm_ratios) - 1,
            "run": each.run.id if each.run else "",
        }
        for each in found
    ]
    return pd.DataFrame(rows)


def _median(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else np.nan


def medians_by_method(view: View, found: Sequence[Reconstruction]) -> pd.DataFrame:
    """For each method, the medians of each tenth of the rows, from the shortest to the longest, with MEDIAN_COLUMNS."""
    parts = [median_table(row_table(view, each.picture)).assign(style_key=each.style_key, title=each.title) for each in found]
    return pd.concat(parts, ignore_index=True)[list(MEDIAN_COLUMNS)]


def worst_rows(view: View, found: Sequence[Reconstruction]) -> pd.DataFrame:
    """The rows that turn most, with their cosines, lowest first: one column of texts per method."""
    columns = {}
    for each in found:
        rows = row_table(view, each.picture).nsmallest(LISTED, "cosine")
        columns[each.title] = [f"{name}: {cosine:.2f}" for name, cosine in zip(rows["name"], rows["cosine"], strict=True)]
    return pd.DataFrame(columns)
