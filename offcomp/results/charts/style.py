"""Common style of all figures, and escaping of untrusted text for plotly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from offcomp.plain_text import without_unseen
from offcomp.results.charts.theme import Palette

FONT_SIZE = 14
TITLE_PIXELS = 46


def literal(table: pd.DataFrame) -> pd.DataFrame:
    """Escape the strings in a table for plotly, which would otherwise interpret tags, entities and %{templates}.

    Every function that plots a table must call this first, since the strings in the table may be untrusted.
    """
    texts = table.select_dtypes(exclude=["number", "bool", "datetime"]).columns
    return table.assign(**{name: table[name].map(literal_text) for name in texts})


def literal_text(value: Any) -> Any:
    """Escape a string for plotly, for example a table cell. Values other than strings are returned unchanged."""
    if not isinstance(value, str):
        return value
    return escape(without_unseen(value), quote=False).replace("%{", "%&#123;")


def styled(
    figure: go.Figure, palette: Palette, *, title: str, height: int, title_top: int | None = None, **layout: Any
) -> go.Figure:
    """The figure in the common style; see `styled_layout`."""
    own = {name: value for name, value in figure.layout.to_plotly_json().items() if name != "template"}
    return go.Figure(figure.data, styled_layout(own, palette, title=title, height=height, title_top=title_top, **layout))


def styled_layout(
    own: Mapping[str, Any], palette: Palette, *, title: str, height: int, title_top: int | None = None, **layout: Any
) -> dict[str, Any]:
    """The common style: a question as title, a subtle grid, no legend and no chart junk. `layout` takes precedence over it, and
    `own` is used where neither says anything.

    The layout is built as a dictionary because plotly's update methods take four times as long, which makes sliders lag. It
    replaces plotly's default template, whose 7 kB would be sent with every figure.

    title_top   pixels from the top edge to the title; plotly centres it in the top margin by default
    """
    heading = {"text": title, "font": {"size": 17, "color": palette.text}, "x": 0, "xanchor": "left"}
    if title_top is not None:
        heading |= {"yref": "container", "y": 1 - title_top / height, "yanchor": "top"}
    common = {
        "template": {},
        "title": heading,
        "font": {"size": FONT_SIZE, "color": palette.text},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "height": height,
        "margin": {"l": 10, "r": 10, "t": TITLE_PIXELS, "b": 10},
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0},
        "showlegend": False,
        "hovermode": "closest",
        "hoverlabel": {"font": {"size": FONT_SIZE}, "align": "left"},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": palette.muted, "activecolor": palette.text},
        "autotypenumbers": "strict",
    }
    axis = {
        "gridcolor": palette.grid,
        "zerolinecolor": palette.grid,
        "zerolinewidth": 2,
        "automargin": True,
        "tickfont": {"color": palette.muted},
        "ticks": "",
        "title": {"standoff": 15},
    }
    axes = {"xaxis", "yaxis", *(name for name in own if name[1:].startswith("axis"))}
    return _merged(own, _merged(common | dict.fromkeys(axes, axis), layout))


def axis_title(text: str, size: int = FONT_SIZE, **options: Any) -> dict[str, Any]:
    """An axis title in a smaller font than plotly's default."""
    return {"text": text, "font": {"size": size}, **options}


def colour_scale(colours: Sequence[str]) -> list[list[object]]:
    """A plotly colour scale with equally spaced colours."""
    return [[step / (len(colours) - 1), colour] for step, colour in enumerate(colours)]


def outlined(symbol: str, size: int, colour: str) -> dict[str, Any]:
    """A marker with an outline in its own colour, which makes open variants as visible as filled ones."""
    return {"symbol": symbol, "size": size, "color": colour, "line": {"width": 2, "color": colour}}


def gain_map(cells: pd.DataFrame, limit: float, palette: Palette, *, gap: int, **options: Any) -> go.Heatmap:
    """Heat map of cells at `x` and `y`, coloured by `gain` from -limit (worse) to limit (better), with hover text."""
    return go.Heatmap(
        x=cells["x"],
        y=cells["y"],
        z=cells["gain"],
        zmin=-limit,
        zmax=limit,
        colorscale=colour_scale(palette.diverging),
        xgap=gap,
        ygap=gap,
        customdata=cells["hover"],
        hovertemplate="%{customdata}<extra></extra>",
        **options,
    )


def text_trace(
    x: Iterable[Any], y: Iterable[Any], texts: Sequence[str], palette: Palette, size: int = FONT_SIZE, **options: Any
) -> go.Scatter:
    """Text at given points, without markers or hover text."""
    font = {"size": size, "color": palette.text}
    return go.Scatter(x=x, y=y, text=texts, mode="text", textfont=font, hoverinfo="skip", showlegend=False, **options)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two nested dictionaries; `above` takes precedence."""
    both = {
        name: _merged(below[name], above[name])
        for name in below.keys() & above.keys()
        if isinstance(below[name], dict) and isinstance(above[name], dict)
    }
    return {**below, **above, **both}
