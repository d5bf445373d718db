"""The main charts of the Compare page, as plotly figures."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import plotly.graph_objects as go

from offcomp.errors import InputError
from offcomp.numerics.accounting import UNITS
from offcomp.results.atlas import read_measurements
from offcomp.results.charts.pareto import front_figure
from offcomp.results.charts.runs import LEVELS, error_figure, error_table
from offcomp.results.charts.theme import PALETTES, Palette
from offcomp.results.pareto import front_table, left_out_text, measures_of, reference_table, sharing_an_axis
from offcomp.results.runs import short_names
from offcomp.runs.store import Run


def plot_errors(runs: Run | Sequence[Run], *, by: str = "group", theme: str = "light") -> go.Figure:
    """The relative error of each group, or of each module, with one marker per run.

    Args:
        by: "group" or "module".
        theme: "light" or "dark".

    Raises:
        InputError: a run is not done, or an argument is not one of its choices.
    """
    _check("by", by, LEVELS)
    return error_figure(error_table(_done(runs), by), _palette(theme), by)


def plot_pareto(runs: Run | Sequence[Run], *, task: str | None = None, unit: str = "bytes", theme: str = "light") -> go.Figure:
    """Score, or relative error if no task was scored, against the size of the whole model, with the Pareto front.

    Args:
        task: the task to show; by default the first one that was scored.
        unit: size axis, "bytes" or "parameters".
        theme: "light" or "dark".

    Raises:
        InputError: a run is not done, no run was scored on the task, or an argument is not one of its choices.
    """
    _check("unit", unit, UNITS)
    done = _done(runs)
    measures = measures_of(done)
    _check("task", measure := next(iter(measures)) if task is None else task, tuple(measures))
    shown, left_out = sharing_an_axis(done, measure)
    if not shown:
        raise InputError("none of the runs has a value to plot; pass runs that compress weights")
    if left_out:
        warnings.warn(f"not on this axis: {left_out_text(left_out, short_names(done))}", stacklevel=2)
    table = front_table(shown, measure, unit, short_names(shown))
    references = reference_table(read_measurements().values(), shown[0], measure, unit)
    return front_figure(table, _palette(theme), references)


def _done(runs: Run | Sequence[Run]) -> list[Run]:
    chosen = [runs] if isinstance(runs, Run) else list(runs)
    if not chosen:
        raise InputError("there are no runs to show; pass at least one finished run")
    for run in chosen:
        if run.status != "done":
            raise InputError(f"run {run.id} is {run.status}; pass finished runs only")
    return chosen


def _palette(theme: str) -> Palette:
    _check("theme", theme, tuple(PALETTES))
    return PALETTES[theme]


def _check(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InputError(f"{name} is {value!r}; choose one of {', '.join(choices)}")
