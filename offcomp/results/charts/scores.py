"""Charts of task scores: score_table(runs) returns a DataFrame, and score_figure(table, palette) plots one of its tasks.

Each chart shows a single task: different metrics or sets of examples never share an axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, log10, nan
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from offcomp.planning.data.metrics import METRICS, Metric
from offcomp.planning.data.scores import Score
from offcomp.results.charts.dots import dots, in_rows, series_of
from offcomp.results.charts.style import literal
from offcomp.results.charts.theme import MARKERS, Palette
from offcomp.results.originals import model_names
from offcomp.results.paired import comparison_key
from offcomp.results.runs import result_of
from offcomp.results.scores import baseline_of, brief_difference, interval_of, metric_of, task_title, within_sentence
from offcomp.runs.store import Run

LOG_FROM = 8
"""Perplexity axes become logarithmic if the highest value exceeds the lowest by more than this factor."""
SCORE_COLUMNS = (
    *("run", "name", "style_key", "symbol", "task", "title", "metric", "row", "value", "low", "high", "n"),
    *("baseline", "baseline_name", "about"),
)


def score_table(runs: Sequence[Run]) -> pd.DataFrame:
    """For each task, one row per run and per original model: the score with its 95 % interval, and the task's baseline.

    Runs scored on different examples of the same task have separate originals.
    """
    rows: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    models = model_names(runs)
    many_models = len({*models.values()}) > 1
    tasks = dict.fromkeys(task for run in runs for task in result_of(run).scores)
    several = {task for task in tasks if len({comparison_key(run, task) for run in runs} - {None}) > 1}
    for run, series in zip(runs, series_of(runs).values(), strict=True):
        for task, score in result_of(run).scores.items():
            name = f"Original of {series[0]}" if task in several else "Original"
            star = (f"Original, {models[run.id]}" if many_models else name, "original", MARKERS["original"])
            original = ("", *star, *_figures(task, score, star[0], "original"), "not compressed")
            rows.setdefault((task, comparison_key(run, task)), original)
            rows[task, run.id] = (run.id, *series, *_figures(task, score, series[0], "compressed"), _comparison(score))
    return pd.DataFrame(list(rows.values()), columns=list(SCORE_COLUMNS))


def _figures(task: str, score: Score, row: str, which: str) -> tuple[Any, ...]:
    """The values of the columns from `task` to `baseline_name`."""
    name, baseline = baseline_of(score) or ("", nan)
    kind = task, task_title(task, score), metric_of(score).name
    return *kind, row, score.of(which).value, *interval_of(score, which), score.of(which).n, baseline, name


def scores_of(runs: Sequence[Run], table: pd.DataFrame) -> list[Score]:
    """The scores of the compressed models in `table`, which contains a single task and metric."""
    task, metric = table["task"].iloc[0], table["metric"].iloc[0]
    scores = (result_of(run).scores.get(task) for run in runs)
    return [score for score in scores if score and metric_of(score).name == metric]


def _comparison(score: Score) -> str:
    if score.paired.agreement is not None:
        return f"agrees with the original on {score.paired.agreement:.1%}"
    return f"{brief_difference(score)} from the original"


def score_figure(table: pd.DataFrame, palette: Palette) -> go.Figure:
    """Plot the scores of one task with 95 % intervals, the original as a star and the baseline as a dashed line."""
    table = literal(table)
    metric = METRICS[table["metric"].iloc[0]]
    factor = 100 if metric.percent else 1
    shown = table.assign(**{name: factor * table[name] for name in ("value", "low", "high", "baseline")})
    shown["text"] = table["value"].map(metric.number)
    shown["ends"] = table["low"].map(metric.number) + " to " + table["high"].map(metric.number)
    hover = f"%{{customdata[0]}}, 95 % interval %{{customdata[1]}}<br>%{{customdata[2]:,}} {metric.counts}, %{{customdata[3]}}"

    def number(value: float) -> str:
        return metric.number(value / factor)

    details = shown[["text", "ends", "n", "about"]]
    figure = dots(shown, palette, "value", number=number, details=details, hover=hover, intervals=True)
    log = _score_axis(figure, shown, metric)
    for original in shown.loc[shown["style_key"] == "original", "value"]:
        figure.add_vline(x=original, line={"color": palette.series["original"], "width": 1, "dash": "dot"})
    for words, value in dict.fromkeys(zip(shown["baseline_name"], shown["baseline"], strict=True)):
        if isfinite(value):
            figure.add_vline(x=value, line={"color": palette.series["reference"], "width": 2, "dash": "dash"})
            _name_line(figure, palette, log10(value) if log else value, f"{words}: {number(value)}")
    title = metric.question.format(within_sentence(shown["title"].iloc[0]))
    return in_rows(figure, shown, palette, title=title, legend=False, below=0.4)


def _score_axis(figure: go.Figure, shown: pd.DataFrame, metric: Metric) -> bool:
    """Fit the axis to intervals, baseline and labels. Use a log scale, and return True, if values are far apart."""
    factor = 100 if metric.percent else 1
    baselines = shown["baseline"].dropna()
    lowest, highest = (f([*shown["low"], *shown["high"], *baselines]) for f in (min, max))
    log = metric.direction == "lower" and lowest > 0 and highest > LOG_FROM * lowest
    notes = ["log scale"] if log else []
    if log:
        width = log10(highest / lowest)
        figure.update_xaxes(type="log", range=[log10(lowest) - 0.05 * width, log10(highest) + 0.25 * width])
        ticks = [step * 10**power for power in range(7) for step in (1, 2, 5) if lowest <= step * 10**power <= highest]
        figure.update_xaxes(tickvals=ticks, ticktext=[f"{tick:,}" for tick in ticks])
    else:
        width = highest - lowest or factor * 0.1
        left = max(factor * metric.least if isfinite(metric.least) else lowest, lowest - 0.05 * width)
        figure.update_xaxes(range=[left, highest + 0.25 * width], nticks=7)  # space for the labels
    figure.update_xaxes(title="<br>".join([metric.axis, ", ".join([metric.better, *notes, "95 % intervals"])]))
    return log


def _name_line(figure: go.Figure, palette: Palette, x: float, text: str) -> None:
    """Add a label at the bottom of a vertical line, on the side with more space."""
    low, high = figure.layout.xaxis.range
    right = x < (low + high) / 2
    figure.add_annotation(
        x=x,
        y=0,
        yref="paper",
        text=text,
        showarrow=False,
        yanchor="bottom",
        xanchor="left" if right else "right",
        xshift=4 if right else -4,
        font={"color": palette.muted},
    )
