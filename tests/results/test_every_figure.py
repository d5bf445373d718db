"""Every figure shows its table: each x, y, interval, label and hover text equals the column that the case states for it.

A case draws a figure of the package from a table in which no two columns share a value, and states the column for each part. A
figure function without a case fails a test. Each case is drawn again for a method that is unknown to the charts.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from itertools import combinations
from math import log10
from typing import Any

import numpy as np
import pandas as pd
import pytest

from offcomp.planning.merge_survey import Merge, Suggestion, Survey
from offcomp.results.atlas import SENSITIVITY_COLUMNS, SWEEP_COLUMNS
from offcomp.results.charts import inspect as inspect_charts
from offcomp.results.charts import model as model_charts
from offcomp.results.charts import reconstructions as reconstruction_charts
from offcomp.results.charts.atlas import sensitivity_figure, sweep_figure
from offcomp.results.charts.dots import SYMBOLS
from offcomp.results.charts.error_curve import error_curve_figure
from offcomp.results.charts.examples import outcome_figure, score_of, shift_figure
from offcomp.results.charts.groups import pair_figure, tree_figure
from offcomp.results.charts.pareto import agreement_figure, front_figure
from offcomp.results.charts.runs import ERROR_COLUMNS, SIZE_COLUMNS, error_figure, size_figure
from offcomp.results.charts.scores import SCORE_COLUMNS, score_figure
from offcomp.results.charts.theme import DARK, LIGHT, MARKERS, UNKNOWN_MARKER, Palette, marker
from offcomp.results.error_curve import CURVE_COLUMNS
from offcomp.results.groups import PAIR_COLUMNS, merge_table, tree_table
from offcomp.results.inspect import SPECTRUM_COLUMNS
from offcomp.results.model import MAP_COLUMNS, SHARE_COLUMNS
from offcomp.results.pareto import FRONT_COLUMNS
from offcomp.runs.store import Run
from tests.drawn import Drawn, Marks, assert_drawn, figure_functions, points_of
from tests.made_runs import made_group, made_run, made_score

HELPERS = {"inspect.finished", "style.styled", "dots.dots", "dots.in_rows", "plots.plot_errors", "plots.plot_pareto"}
"""Functions that help to draw figures, and functions that only combine a table with its figure."""
UNHEARD_OF = "magic"
Case = Callable[[str, Palette], Drawn]
"""Type of functions that draw a figure of runs with this style key, in the colours of this palette."""


def table_of(columns: Any, *rows: tuple[Any, ...]) -> pd.DataFrame:
    """Return a table in which no two columns of numbers agree in any row, so that none can be mistaken for another."""
    table = pd.DataFrame(list(rows), columns=list(columns))
    numbers = table.select_dtypes("number")
    for one, other in combinations(numbers, 2):
        assert not (numbers[one] == numbers[other]).any(), (one, other)
    return table


def in_percent(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Return the table with additional columns, which contain these columns in per cent, for texts."""
    return table.assign(**{f"{name}_percent": 100 * table[name] for name in columns})


def with_mode(mode: str) -> Callable[[Any], bool]:
    return lambda trace: trace.mode == mode


def error_curve(style_key: str, palette: Palette) -> Drawn:
    curve = table_of(CURVE_COLUMNS, (1.2, 1.3, 0.12, 9000, 0.031), (2.0, 2.1, 0.34, 6000, 0.022), (4.0, 4.2, 0.61, 3000, 0.013))
    points = table_of(
        ("method", "style_key", "origin", "ratio", "relative_error", "requested_ratio", "run", "seed", "about"),
        ("Magic", style_key, "bundled", 3.05, 0.81, 3.5, "0123456789ab", 5, ""),
        ("Pruning", "pruning", "yours", 2.9, 0.52, 2.5, "ba9876543210", 7, ""),
        ("Magic", style_key, "estimated", 4.02, 0.85, 4.4, "", 8, "Estimated from two runs."),
    )
    said = "<b>{method}</b>, {origin}<br>compression ratio {ratio:.3g}x (requested {requested_ratio:g}x): relative error "
    measured, estimated = points[points["run"] != ""], points[points["run"] == ""]
    place = {"x": "ratio", "y": "relative_error"}
    line = "compression ratio {ratio:.3g}x: relative error {relative_error:.3f}<br>{stored_parameters:,} parameters, "
    return Drawn(
        error_curve_figure(curve, points, 2.0, "bytes", palette),
        {
            "curve": Marks(
                curve,
                place | {"hover": line + "{stored_megabytes:.2f} MB<extra>SVD, exact</extra>"},
                with_mode("lines+markers"),
            ),
            "chosen": Marks(curve[1:2], place | {"text": "{relative_error:.3f} at 2x"}, with_mode("markers+text")),
            "measured": Marks(
                measured,
                place | {"hover": said + "{relative_error:.3f}<br>run {run}, seed {seed}<extra></extra>", "name": "{method}"},
                lambda trace: trace.mode == "markers" and not trace.marker.symbol.endswith("-open"),
            ),
            "estimated": Marks(
                estimated,
                place | {"hover": said + "about {relative_error:.2f}<br>{about}<extra></extra>", "name": "{method}"},
                lambda trace: trace.mode == "markers" and trace.marker.symbol.endswith("-open"),
            ),
        },
        {("x", 2.0)},
    )


def dots_of(
    table: pd.DataFrame, heights: list[float], x: str, hover: str, text: str, *, end: str = "", **interval: str
) -> dict[str, Marks]:
    """Return the marks of dots in rows, and of the number next to each dot, or at the `end` of its interval."""
    placed = table.assign(height=heights)
    return {
        "dots": Marks(
            placed, {"x": x, "y": "height", "hover": hover, "name": "{name}"} | interval, lambda t: "markers" in t.mode
        ),
        "numbers": Marks(placed.drop(columns="style_key"), {"x": end or x, "y": "height", "text": text}, with_mode("text")),
    }


def errors(style_key: str, palette: Palette) -> Drawn:
    table = table_of(
        ERROR_COLUMNS,
        ("a", "SVD", "svd", "circle", "query", 0.31, 0.11, "4 modules"),
        ("a", "SVD", "svd", "circle", "key", 0.42, 0.23, "5 modules"),
        ("b", "Magic", style_key, marker(style_key, SYMBOLS), "query", 0.53, 0.35, "6 modules"),
        ("b", "Magic", style_key, marker(style_key, SYMBOLS), "key", 0.64, 0.47, "7 modules"),
    )
    hover = (
        "{row}<br>relative error {relative_error:.3f}, cosine distance {cosine_distance:.3f}<br>{about}<extra>{name}</extra>"
    )
    marks = dots_of(table, [-0.25, 0.75, 0.25, 1.25], "relative_error", hover, "{relative_error:.3f}")
    return Drawn(error_figure(table, palette, "module"), marks)


def sizes(style_key: str, palette: Palette) -> Drawn:
    table = table_of(
        SIZE_COLUMNS,
        ("a", "Magic", style_key, marker(style_key, SYMBOLS), "chosen modules", "parameters", 1000, 300, 3.1, 0.29),
        ("a", "Magic", style_key, marker(style_key, SYMBOLS), "chosen modules", "bytes", 4000, 900, 4.1, 0.21),
        ("a", "Magic", style_key, marker(style_key, SYMBOLS), "whole model", "parameters", 9000, 5000, 1.8, 0.55),
    )
    shown = in_percent(table[table["unit"] == "parameters"], "share")
    hover = "{row}<br>{before:,} to {after:,} parameters, compression ratio {ratio:.3g}x<extra>{name}</extra>"
    marks = dots_of(shown, [0, 1], "100 * share", hover, "{share_percent:.3g} %")
    return Drawn(size_figure(table, palette, "parameters"), marks, {("x", 100)})


def scores(style_key: str, palette: Palette) -> Drawn:
    about = ("sentiment", "Sentiment", "accuracy")
    original, series = ("Original", "original", "star"), ("Magic", style_key, marker(style_key, SYMBOLS))
    table = in_percent(
        table_of(
            SCORE_COLUMNS,
            ("", *original, *about, "Original", 0.83, 0.79, 0.86, 1200, 0.52, "majority", "not compressed"),
            ("a", *series, *about, "Magic", 0.71, 0.65, 0.74, 1100, 0.52, "majority", "agrees on 80 %"),
        ),
        *("value", "low", "high"),
    )
    hover = (
        "{value_percent:.1f} %, 95 % interval {low_percent:.1f} % to {high_percent:.1f} %<br>{n:,} sentences, {about}"
        "<extra>{name}</extra>"
    )
    ends = {"x_low": "100 * low", "x_high": "100 * high"}
    marks = dots_of(table, [0, 1], "100 * value", hover, "{value_percent:.1f} %", end="100 * high", **ends)
    return Drawn(score_figure(table, palette), marks, {("x", 83), ("x", 52)})


def perplexities(style_key: str, palette: Palette) -> Drawn:
    about = ("prose", "Masked words", "masked perplexity")
    original, series = ("Original", "original", "star"), ("Magic", style_key, marker(style_key, SYMBOLS))
    table = table_of(
        SCORE_COLUMNS,
        ("", *original, *about, "Original", 12.3, 11.9, 13.1, 900, 450.0, "unigram", "not compressed"),
        ("a", *series, *about, "Magic", 145.0, 131.0, 167.0, 800, 450.0, "unigram", "+133 from the original"),
    )
    hover = "{value:.3g}, 95 % interval {low:.3g} to {high:.3g}<br>{n:,} masked tokens, {about}<extra>{name}</extra>"
    marks = dots_of(table, [0, 1], "value", hover, "{value:.3g}", end="high", x_low="low", x_high="high")
    return Drawn(score_figure(table, palette), marks, {("x", 12.3), ("x", 450)})


def runs_on_a_front(style_key: str, metric: str, values: list[tuple[float, float, float]]) -> pd.DataFrame:
    """Return a table of the original and three runs; the second run is stacked and not on the front."""
    of, (original, first, second, third) = (metric, "Sentiment", "bytes"), values
    return table_of(
        FRONT_COLUMNS,
        ("", "Original", "original", "", 90.0, 1.0, *original, 1200, 0.0, "not compressed", True, True, *of),
        ("a1", "Magic", style_key, "each alone", 20.0, 4.5, *first, 1100, 0.71, "-22 points (noise)", False, True, *of),
        ("b2", "Pruning", "pruning", "stacked", 70.0, 1.3, *second, 1000, 0.46, "-13 points (noise)", False, False, *of),
        ("c3", "SVD", "svd", "each alone", 45.0, 2.1, *third, 900, 0.57, "-9 points (noise)", False, True, *of),
    )


ACCURACIES = [(0.83, 0.79, 0.86), (0.61, 0.56, 0.63), (0.695, 0.645, 0.735), (0.743, 0.723, 0.813)]
PERPLEXITIES = [(12.3, 11.9, 13.1), (145.0, 131.0, 167.0), (41.6, 39.5, 43.5), (27.2, 26.2, 28.4)]
RUN_SAID = (
    "<br>{size:.4g} MB, compression ratio {ratio:.3g}x<br>relative error {relative_error:.3f}<extra></extra>",
    "<b>{name}</b>, {grouping}, run {run}<br>",
    "<br>{words}",
)


def front(style_key: str, palette: Palette) -> Drawn:
    return front_of(
        in_percent(runs_on_a_front(style_key, "accuracy", ACCURACIES), "value"), palette, "100 * {}", "{value_percent:.1f} %"
    )


def front_of_perplexities(style_key: str, palette: Palette) -> Drawn:
    return front_of(runs_on_a_front(style_key, "masked perplexity", PERPLEXITIES), palette, "{}", "{value:.3g}")


def front_of(table: pd.DataFrame, palette: Palette, unit: str, number: str) -> Drawn:
    runs = table[table["run"] != ""].assign(words=table["about"].str.replace(" (", "<br>("))
    word, counts = ("accuracy", "sentences") if "%" in number else ("masked perplexity", "masked tokens")
    y, bare = unit.format("value"), runs.drop(columns="style_key")
    references = pd.DataFrame({"name": ["int8", "int4"], "value": [0.79, 0.58], "size": [31.0, 17.0]})
    factor = 100 if "%" in number else 1
    ends = pd.DataFrame({"x": [20 - 0.08 * 70, 90 + 0.08 * 70]})
    steps = table[table["on_front"]].sort_values("size")
    steps = pd.concat([steps, steps[-1:]])  # the line ends at the largest size, here that of its last step
    place, told = {"x": "size", "y": y}, f"{word} {number}, {{n:,}} {counts}"
    marks = {
        "runs": Marks(
            runs,
            place
            | {"y_low": unit.format("low"), "y_high": unit.format("high")}
            | {"hover": RUN_SAID[1] + told + RUN_SAID[2] + RUN_SAID[0]},
            lambda trace: trace.error_y.array is not None,
        ),
        "names": Marks(bare, place | {"text": "{name}"}, with_mode("text")),
        "ring": Marks(bare[1:2], place, lambda trace: trace.marker.symbol == "circle-open" and trace.marker.size > 20),
        "original": Marks(
            table[:1],
            place | {"hover": f"<b>Original</b>, not compressed<br>{word} {number}<br>{{size:.4g}} MB<extra></extra>"},
            lambda trace: trace.name == "Original",
        ),
        "front": Marks(steps.drop(columns="style_key"), place, lambda trace: trace.line.shape == "hv"),
    }
    for row in references.to_dict("records"):
        said = f"every linear weight rounded to {row['name']}: {row['size']:.3g} MB<br>bundled measurement<extra></extra>"
        marks[row["name"]] = Marks(
            ends.assign(y=row["value"]),
            {"x": "x", "y": f"{factor} * y" if factor > 1 else "y", "hover": said},
            lambda trace, name=row["name"]: bool(trace.name) and trace.name.startswith(name),
        )
    original = table["value"].iloc[0]
    return Drawn(front_figure(table, palette, references, "b2"), marks, {("y", factor * original)})


def agreement(style_key: str, palette: Palette) -> Drawn:
    table = in_percent(runs_on_a_front(style_key, "accuracy", ACCURACIES), "value")[1:]
    table = table.assign(words=table["about"].str.replace(" (", "<br>("))
    told = RUN_SAID[1] + "accuracy {value_percent:.1f} %, {n:,} sentences" + RUN_SAID[2] + RUN_SAID[0]
    return Drawn(
        agreement_figure(table, palette),
        {"runs": Marks(table, {"x": "relative_error", "y": "100 * value", "hover": told})},
    )


ABOUT_SCORE = (0.83, 0.52, "majority", "Sentiment", "accuracy")
CHANGE = "{difference_percent:+.1f} points from the original<br> (95 % interval {low_percent:+.1f} to {high_percent:+.1f})"


def sweep(style_key: str, palette: Palette) -> Drawn:
    rows = (
        ("Magic", style_key, "each alone", 2.0, "bytes", 2.1, 2.2, 0.31, 0.79, 0.015, -0.041, -0.062, -0.013, 1200),
        ("Magic", style_key, "each alone", 4.0, "bytes", 4.1, 4.3, 0.42, 0.73, 0.017, -0.102, -0.133, -0.084, 1100),
        ("Pruning", "pruning", "stacked by kind", 4.0, "parameters", 3.7, 4.4, 0.56, 0.66, 0.019, -0.173, -0.205, -0.121, 1000),
    )
    figures = ("score", "difference", "low", "high")
    table = in_percent(table_of(SWEEP_COLUMNS, *((*row, *ABOUT_SCORE) for row in rows)), *figures)
    hover = (
        "requested {requested_ratio:g}x in {unit}, achieved {byte_ratio:.3g}x in bytes<br>{score_percent:.1f} %, "
        + CHANGE
        + "<br>relative error {relative_error:.3f}, {n:,} sentences<br>bundled measurement<extra>{method}<br>{grouping}</extra>"
    )
    star = pd.DataFrame({"x": [1], "y": [0.83]})
    return Drawn(
        sweep_figure(table, palette),
        {
            "lines": Marks(
                table, {"x": "byte_ratio", "y": "100 * score", "hover": hover, "name": "{method}"}, with_mode("lines+markers")
            ),
            "original": Marks(
                star,
                {"x": "x", "y": "100 * y", "hover": "83.0 %, not compressed<br>bundled measurement<extra>Original</extra>"},
                with_mode("markers"),
            ),
        },
        {("y", 83), ("y", 52)},
    )


def sensitivity(_style_key: str, palette: Palette) -> Drawn:
    rows = (
        ("word_embeddings", "word_embeddings", None, "SVD", 2.0, 0.31, 0.79, 0.015, -0.041, -0.062, -0.013, 1200, True),
        ("query.0", "query", 0, "SVD", 2.5, 0.42, 0.73, 0.017, -0.102, -0.133, 0.084, 1100, False),
        ("query.1", "query", 1, "SVD", 3.5, 0.56, 0.66, 0.019, -0.173, -0.205, 0.121, 1000, False),
    )
    columns = [*SENSITIVITY_COLUMNS]
    table = table_of(columns, *((*row, *ABOUT_SCORE) for row in rows)).astype({"layer": "Int64"})
    shown = in_percent(table, "score", "difference", "low", "high").assign(x=[0, 1, 2], y=[0, 1, 1], layer="")
    shown["noise"] = ["", ", within noise", ", within noise"]
    shown["bold"], shown["unbold"] = ["<b>", "", ""], ["</b>", "", ""]
    hover = (
        "<b>{module}</b>, {method} at {requested_ratio:g}x, error {relative_error:.3f}<br>"
        + CHANGE
        + "{noise}<br>{score_percent:.1f} % on {n:,} sentences, bundled measurement<extra></extra>"
    )
    place = {"x": "x", "y": "y"}
    return Drawn(
        sensitivity_figure(table, palette),
        {
            "cells": Marks(shown, place | {"z": "difference", "hover": hover}),
            "numbers": Marks(
                shown,
                place | {"text": "{bold}{difference_percent:+.1f}{unbold}"},
            ),
        },
    )


def outcomes(_style_key: str, palette: Palette) -> Drawn:
    table = table_of(
        ("change", "before", "after", "count", "share", "listed"),
        ("stayed right", "right", "right", 780, 0.62, 0),
        ("right to wrong", "right", "wrong", 21, 0.17, 9),
        ("wrong to right", "wrong", "right", 12, 0.13, 8),
        ("stayed wrong", "wrong", "wrong", 190, 0.08, 7),
    )
    shown = in_percent(table, "share").assign(x=[0, 1, 0, 1], y=[0, 0, 1, 1])
    said = "<b>{count:,}</b><br>{change}<br>{share_percent:.1f} %"
    return Drawn(
        outcome_figure(table, ["right to wrong"], palette),
        {"answers": Marks(shown, {"x": "x", "y": "y", "text": said})},
    )


def run_of(style_key: str) -> Run:
    """Return a run whose method has this style key as its name, as in a plan of a different version."""
    return made_run("a" * 12, [made_group("query", 0.5, method=style_key)], made_score(["one", "two"], ["three"]))


def shifts(style_key: str, palette: Palette) -> Drawn:
    table = table_of(("text", "before", "after", "difference"), ("one", 0.62, 0.31, -0.33), ("two", 0.41, 0.73, 0.29))
    room = 0.06 * (0.73 - 0.31)
    diagonal = pd.DataFrame({"end": [0.31 - room, 0.73 + room]})
    hover = "{text}<br>{before:.3f} to {after:.3f} ({difference:+.3f})<extra></extra>"
    run = run_of(style_key)
    return Drawn(
        shift_figure(table, run, score_of(run, "sentiment"), palette),
        {
            "examples": Marks(
                table.assign(style_key=style_key), {"x": "before", "y": "after", "hover": hover}, with_mode("markers")
            ),
            "unchanged": Marks(diagonal, {"x": "end", "y": "end"}, with_mode("lines")),
        },
    )


def pairs(_style_key: str, palette: Palette) -> Drawn:
    table = table_of(
        PAIR_COLUMNS,
        ("query.0", "query.1", "rows", 0.012, 0.51, 0.49, 1000),
        ("query.0", "key.0", "columns", -0.031, 0.53, 0.56, 2000),
        ("query.1", "key.0", "rows", 0.024, 0.62, 0.59, 3000),
    )
    one = table.assign(x=[1, 2, 2], y=[0, 0, 1], gain=1000 * table["gain"])
    one["pair"] = ["query 0-1", "query 0 and key 0", "query 1 and key 0"]
    both = pd.concat([one, one.assign(x=one["y"], y=one["x"])])
    hover = (
        "<b>{pair}</b><br>stacked by {stack}, gain {gain:+.1f} thousandths<br>relative error {separate_error:.3f} separately, "
        "{joint_error:.3f} together<br>both with {stored_parameters:,} parameters<extra></extra>"
    )
    place = {"x": "x", "y": "y"}
    return Drawn(
        pair_figure(table, palette),
        {
            "cells": Marks(both, place | {"z": "gain", "hover": hover}),
            "numbers": Marks(both, place | {"text": "{gain:+.0f}"}),
        },
        {("x", 1.5), ("y", 1.5)},
    )


def merges(_style_key: str, palette: Palette) -> Drawn:
    names = ("query.0", "query.1", "key.0", "ffn_in.0")
    steps = (
        Merge((0, 2), 0.05, Suggestion(("query.0", "key.0"), "rows", 2.0, 1000, 0.53, 0.45, 16), 0.47),
        Merge((1, 4), -0.021, Suggestion(names[:3], "columns", 2.0, 2000, 0.52, 0.49, 16), 0.48),
    )
    survey = Survey("made", "f" * 20, 2.0, names, 0.5, (), (), {"best": steps})
    nodes, told = tree_table(survey), merge_table(survey)
    at = [(row["x"], row["y"]) for row in nodes.to_dict("records")]
    shown = told.assign(thousandths=1000 * told["gain"], x=nodes["x"][4:].to_numpy(), y=nodes["y"][4:].to_numpy())
    branches = [
        (x, at[part][1])
        for node, step in enumerate(steps, len(names))
        for part in step.parts
        for x in (at[part][0], at[node][0])
    ]
    hover = (
        "<b>Merge {merge}: {modules} modules</b>, by {stack}<br>this merge {thousandths:+.1f} thousandths<br>group: "
        "{separate_error:.3f} separately, {joint_error:.3f} together<br>all 4 modules after it: {error:.3f}<extra></extra>"
    )
    return Drawn(
        tree_figure(survey, "best", 1, palette),
        {
            "branches": Marks(pd.DataFrame(branches, columns=["x", "y"]), {"x": "x", "y": "y"}, with_mode("lines")),
            "merges": Marks(
                shown, {"x": "x", "y": "y", "hover": hover, "text": "{thousandths:+.0f}"}, with_mode("markers+text")
            ),
        },
        {("x", 0), ("x", (at[4][0] + at[5][0]) / 2)},
    )


def model_map(_style_key: str, palette: Palette) -> Drawn:
    return map_of(model_charts.PARAMETERS, palette)


def model_map_of_errors(_style_key: str, palette: Palette) -> Drawn:
    return map_of(model_charts.COMPRESSIBLE, palette)


def map_of(colour: str, palette: Palette) -> Drawn:
    """Draw a map of a matrix outside the layers, which spans both columns, and of two kinds in two layers.

    One of the matrices, query.0, is in the plan.
    """
    more = ("recognised", "path", "rows are outputs")
    table = table_of(
        MAP_COLUMNS,
        ("words", "word embeddings", "", None, 12_000, 0.53, 300, 40, 0.31, True, False, *more),
        ("query.0", "query", "query", 0, 1_600, 0.072, 41, 39, 0.42, True, True, *more),
        ("query.1", "query", "query", 1, 1_700, 0.075, 44, 38, 0.53, True, False, *more),
        ("ffn_in.0", "FFN in", "FFN in", 0, 3_200, 0.14, 81, 42, 0.64, True, False, *more),
        ("ffn_in.1", "FFN in", "FFN in", 1, 3_300, 0.15, 82, 43, 0.75, True, False, *more),
    ).astype({"layer": "Int64"})
    cells = in_percent(table, "share").assign(x=[0.5, 0.0, 1.0, 0.0, 1.0], y=[0, 1.5, 1.5, 2.5, 2.5], layer=0)
    cells["log"] = [log10(size) for size in cells["parameters"]]
    cells["text"] = ["12 k, 53\u00a0%", "1.6", "1.7", "3.2", "3.3"]
    cells["shown_share"] = ["53", "7.2", "7.5", "14", "15"]
    errors_shown = colour == model_charts.COMPRESSIBLE
    text = "{relative_error:.2f}" if errors_shown else "{text}"
    hover = (
        "<b>{module}</b><br>{rows:,} x {cols:,} = {parameters:,} parameters<br>{shown_share}\u00a0% of the model, {status}<br>"
        "relative error {relative_error:.3f} with SVD at 2x<extra></extra>"
    )
    spans = pd.concat([cells.assign(x=cells["x"].replace(0.5, 0.0)), cells[:1].assign(x=1.0)])
    corners = pd.DataFrame(
        [(-0.49, 1.04), (0.49, 1.04), (0.49, 1.96), (-0.49, 1.96), (-0.49, 1.04), (None, None)], columns=["x", "y"]
    )
    place = {"x": "x", "y": "y"}
    figure = model_charts.map_figure(table, palette, colour, "ffn_in.1", 2.0)
    return Drawn(
        figure,
        {
            "cells": Marks(
                cells,
                place | {"z": "relative_error" if errors_shown else "log", "text": text},
            ),
            "points": Marks(spans, place | {"hover": hover}, with_mode("markers")),
            "planned": Marks(corners, place, lambda trace: trace.mode == "lines" and trace.line.dash is None),
            "picked": Marks(
                corners.assign(x=corners["x"] + 1, y=corners["y"] + 1),
                place,
                lambda trace: trace.mode == "lines" and trace.line.dash is not None,
            ),
        },
    )


def shares(_style_key: str, palette: Palette) -> Drawn:
    table = table_of(SHARE_COLUMNS, ("word embeddings", 1, 12_000, 0.53), ("query", 6, 7_000, 0.31), ("norms", 0, 400, 0.16))
    shown = in_percent(table, "share").assign(matrices=["1 matrix", "6 matrices", "no matrices"], y="")
    hover = "<b>{kind}</b><br>{parameters:,} parameters, {share_percent:.0f}\u00a0%<br>{matrices}<extra></extra>"
    return Drawn(
        model_charts.share_figure(table, palette),
        {
            "kinds": Marks(
                shown,
                {
                    "x": "100 * share",
                    "y": "y",
                    "hover": hover,
                    "text": "{kind}<br>{share_percent:.0f}\u00a0%",
                    "name": "{kind}",
                },
            )
        },
    )


SPECTRUM = table_of(
    SPECTRUM_COLUMNS,
    (1, 8.2, 0.61, 0.63, 12, 0.31, 5.1, 0.37),
    (2, 4.4, 0.82, 0.43, 24, 0.62, 4.2, 0.58),
    (3, 2.6, 0.94, 0.25, 36, 0.93, 3.3, 0.79),
    (4, 1.7, 0.98, 0.14, 48, 1.24, 2.9, 0.97),
)


def spectrum(_style_key: str, palette: Palette) -> Drawn:
    kept = SPECTRUM[:2].assign(bottom=0.8 * 1.7)
    return Drawn(
        inspect_charts.spectrum_figure(SPECTRUM, 2, palette),
        {
            "ground": Marks(kept, {"x": "rank", "y": "bottom"}, lambda trace: trace.hoverinfo == "skip" and not trace.fill),
            "kept": Marks(kept, {"x": "rank", "y": "singular_value"}, lambda trace: trace.fill == "tonexty"),
            "random": Marks(
                SPECTRUM,
                {
                    "x": "rank",
                    "y": "random_value",
                    "hover": "singular value {rank}: {random_value:.3g}<extra>random matrix</extra>",
                },
                lambda trace: trace.line.dash == "dash",
            ),
            "values": Marks(
                SPECTRUM,
                {
                    "x": "rank",
                    "y": "singular_value",
                    "hover": "singular value {rank}: {singular_value:.3g}<extra>this matrix</extra>",
                },
                lambda trace: trace.line.dash == "solid",
            ),
        },
        {("x", 2)},
    )


def energy(_style_key: str, palette: Palette) -> Drawn:
    nothing = pd.DataFrame({column: [0] for column in SPECTRUM}) * 1.0
    table = in_percent(
        pd.concat([nothing, SPECTRUM], ignore_index=True).astype({"rank": int}),
        *("energy_kept", "random_energy_kept", "stored_fraction"),
    )
    marks = {}
    for column, name, dash in (
        ("energy_kept", "energy kept", "solid"),
        ("random_energy_kept", "if random", "dash"),
        ("stored_fraction", "parameters stored", "dot"),
    ):
        marks[name] = Marks(
            table[table[column] <= inspect_charts.MAX_STORED],
            {"x": "rank", "y": f"100 * {column}", "hover": f"rank {{rank}}: {{{column}_percent:.1f}} %<extra>{name}</extra>"},
            lambda trace, dash=dash: trace.line.dash == dash,
        )
    for column, symbol in (("energy_kept", MARKERS["svd"]), ("stored_fraction", "square")):
        marks[f"{column} here"] = Marks(
            SPECTRUM[1:2], {"x": "rank", "y": f"100 * {column}"}, lambda trace, symbol=symbol: trace.marker.symbol == symbol
        )
    return Drawn(inspect_charts.energy_figure(SPECTRUM, 2, palette), marks, {("x", 2)})


def map_of_cells(_style_key: str, palette: Palette, *, errors: bool = False) -> Drawn:
    values = np.array([[0.5, 0.25], [0.125, 0.75], [0.375, 0.0625]], dtype=np.float32)
    values = values if errors else values * np.array([[1], [-1], [1]], np.float32)
    cells = pd.DataFrame([(x, y, float(values[y, x])) for y in range(3) for x in range(2)], columns=["column", "row", "cell"])
    figure = reconstruction_charts.map_figure(values, limit=0.7, shape=(3, 2), title="Residual", palette=palette, errors=errors)
    what = "root mean square of the errors" if errors else "mean"
    hover = "from row {row}, column {column}<br>" + what + " {cell:.4f}<extra></extra>"
    return Drawn(figure, {"cells": Marks(cells, {"x": "column", "y": "row", "z": "cell", "hover": hover})})


def map_of_errors(style_key: str, palette: Palette) -> Drawn:
    return map_of_cells(style_key, palette, errors=True)


def rows(_style_key: str, palette: Palette) -> Drawn:
    names = ("row", "name", "norm", "cosine", "norm_error")
    table = table_of(names, *((row, f"unit {row}", 2.0 + row, 0.5 + 0.03 * row, 0.01 * row) for row in range(5, 11)))
    medians = pd.DataFrame({"norm": [8.0, 11.0], "cosine": [0.5 + 0.03 * 6, 0.5 + 0.03 * 9]})
    said = "length {norm:.3g}, cosine {cosine:.3f}<extra></extra>"
    place = {"x": "norm", "y": "cosine"}
    return Drawn(
        inspect_charts.rows_figure(table, palette),
        {
            "rows": Marks(table, place | {"hover": "{name}<br>" + said}, with_mode("markers")),
            "medians": Marks(medians, place | {"hover": "median of a tenth: " + said}, with_mode("lines+markers")),
        },
    )


def rows_by_method(style_key: str, palette: Palette, *, norms: bool = False) -> Drawn:
    """The medians of two methods, one of which has a title with markup."""
    table = table_of(
        ("style_key", "title", "norm", "cosine", "norm_error"),
        *((style_key, "<b>One</b>", 2.0 + tenth, 0.5 + 0.03 * tenth, -0.01 * tenth) for tenth in range(4)),
        *(("original", "Two", 2.0 + tenth, 0.6 + 0.03 * tenth, 0.02 * tenth) for tenth in range(4)),
    )
    draw = reconstruction_charts.norms_figure if norms else reconstruction_charts.cosines_figure
    shown, value = ("length {value:+.1f} %", "100 * norm_error") if norms else ("cosine {value:.3f}", "cosine")
    hover = "a tenth of the rows: length {norm:.3g}, " + shown + "<extra>{title}</extra>"
    marks = {
        key: Marks(
            part.assign(value=part.eval(value), title=escape(part["title"].iloc[0])),
            {"x": "norm", "y": value, "hover": hover},
            lambda trace, key=key: trace.marker.symbol == marker(key),
        )
        for key, part in table.groupby("style_key")
    }
    return Drawn(draw(table, palette), marks, {("y", 0)} if norms else set())


def norms_by_method(style_key: str, palette: Palette) -> Drawn:
    return rows_by_method(style_key, palette, norms=True)


CASES: dict[str, tuple[Case, ...]] = {
    "error_curve.error_curve_figure": (error_curve,),
    "runs.error_figure": (errors,),
    "runs.size_figure": (sizes,),
    "scores.score_figure": (scores, perplexities),
    "pareto.front_figure": (front, front_of_perplexities),
    "pareto.agreement_figure": (agreement,),
    "atlas.sweep_figure": (sweep,),
    "atlas.sensitivity_figure": (sensitivity,),
    "examples.outcome_figure": (outcomes,),
    "examples.shift_figure": (shifts,),
    "groups.pair_figure": (pairs,),
    "groups.tree_figure": (merges,),
    "model.map_figure": (model_map, model_map_of_errors),
    "model.share_figure": (shares,),
    "inspect.spectrum_figure": (spectrum,),
    "inspect.energy_figure": (energy,),
    "inspect.rows_figure": (rows,),
    "reconstructions.map_figure": (map_of_cells, map_of_errors),
    "reconstructions.cosines_figure": (rows_by_method,),
    "reconstructions.norms_figure": (norms_by_method,),
}
ALL = [pytest.param(case, id=case.__name__) for cases in CASES.values() for case in cases]
DRAWN_AS_SVG = {
    "start_svg.front_svg",
    "start_svg.marker_svg",
    "race.race_svg",
    "plan_map.plan_map_svg",
    "frontier_svg.frontier_svg",
}


def test_every_figure_function_of_the_package_has_a_case() -> None:
    assert figure_functions() - HELPERS == CASES.keys() | DRAWN_AS_SVG


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("case", ALL)
def test_every_mark_equals_its_row_of_the_table(case: Case, palette: Palette) -> None:
    assert_drawn(case("residual", palette), palette)


@pytest.mark.parametrize("case", ALL)
def test_a_method_that_charts_have_not_heard_of_is_drawn_neutrally(case: Case) -> None:
    drawn = case(UNHEARD_OF, LIGHT)
    assert_drawn(drawn, LIGHT)
    marks = [trace for trace in drawn.figure.data if points_of(trace) and "colour" in points_of(trace)[0]]
    grey = [trace for trace in marks if trace.marker.color == LIGHT.muted and list(trace.x) != [None]]
    assert all(trace.marker.symbol.startswith(UNKNOWN_MARKER) for trace in grey)
    assert bool(grey) == any("style_key" in marks.table for marks in drawn.marks.values())
