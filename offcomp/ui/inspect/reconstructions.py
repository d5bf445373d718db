"""The original beside its reconstructions on Inspect: maps on common scales, rows, and tables."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from offcomp.models.catalogue import ModuleSpec
from offcomp.planning.matrix_view import Array, View
from offcomp.results import inspect as results
from offcomp.results.charts import reconstructions as charts
from offcomp.results.charts.inspect import rows_figure
from offcomp.results.reconstructions import Reconstruction, medians_by_method, row_words, size_words, worst_rows
from offcomp.results.runs import label
from offcomp.results.sentences import megabytes
from offcomp.ui.charts import draw, show_table
from offcomp.ui.escape import plain
from offcomp.ui.frame import palette, style
from offcomp.ui.inspect.methods import Shown, offer_fit
from offcomp.ui.lab.answers import Lab

STYLE = """
[class*="st-key-inspect_head_"] {gap: .1rem}
[class*="st-key-inspect_fit_"] button * {white-space: normal}
@media (min-width: 641px) {[class*="st-key-inspect_head_"] {min-height: 5rem}}
"""


def show_maps(lab: Lab, spec: ModuleSpec, view: View, shown: Sequence[Shown], order: str) -> None:
    """Draw the original, and for each method its reconstruction and residual, or offer to compute them."""
    if len(shown) == 1 and shown[0].found:
        _show_one(spec, view, shown[0].found, order)
    else:
        _show_several(lab, spec, view, shown)
    between = (
        " At some ranks, the cells of SVD's residual are interpolated." if any(s.style_key == "svd" for s in shown) else ""
    )
    st.caption(
        plain(
            f"{charts.cell_words(spec.shape)} Original and reconstructions: means on one scale; red is positive, blue is "
            "negative; 99.5 % of the original's cells are within the scale. Residuals: root mean squares on one scale, which "
            f"ends where the strongest cells of the original would be lost entirely.{between}"
        )
    )


def _show_one(spec: ModuleSpec, view: View, found: Reconstruction, order: str) -> None:
    """Draw the original, one reconstruction and its residual in a row."""
    st.markdown(plain(results.blocks_answer(results.block_table(view, found.picture), order)))
    places = st.columns(3, gap="small")
    name = f"{found.title}, {found.size}"
    _map(places[0], spec, view, view.original, key="original", title="Original", explained=True)
    _map(places[1], spec, view, found.picture.reconstruction, key="reconstruction", title=name)
    _map(places[2], spec, view, found.picture.residual, key="residual", title="Residual", errors=True, explained=True)


def _map(
    place: DeltaGenerator,
    spec: ModuleSpec,
    view: View,
    values: Array,
    *,
    key: str,
    title: str,
    about: str = "",
    errors: bool = False,
    explained: bool = False,
) -> None:
    """Draw a map of weights or errors in a column. All maps of a kind have the same scale, which the original determines."""
    limit = charts.colour_limit(view.spread if errors else view.original)
    figure = charts.map_figure(
        values, limit=limit, shape=spec.shape, title=title, palette=palette(), errors=errors, explained=explained
    )
    with place:
        draw(figure, f"inspect_{key}", f"Heat map of {spec.name}: {' '.join(filter(None, [about, title]))}.")


def _show_several(lab: Lab, spec: ModuleSpec, view: View, shown: Sequence[Shown]) -> None:
    """Draw the original in the first column, and one method in each of the others."""
    first, *others = st.columns(1 + len(shown), gap="small")
    style(STYLE)
    with first.container(key="inspect_head_original"):
        st.markdown("**Original**")
        st.caption(plain(f"{megabytes(spec.num_bytes)} as {spec.dtype}"))
    _map(first, spec, view, view.original, key="original", title="Weights", explained=True)
    _map(first, spec, view, view.spread, key="spread", title="If all were lost", errors=True, explained=True)
    for column, one in zip(others, shown, strict=True):
        with column.container(key=f"inspect_head_{one.style_key}"):
            st.markdown(f"**{plain(one.title)}**")
            if one.found:
                st.caption(plain(size_words(one.found)))
        if one.found is None:
            with column:
                offer_fit(lab, one)
            continue
        key, picture = one.style_key, one.found.picture
        _map(column, spec, view, picture.reconstruction, key=f"weights_{key}", title="Reconstruction", about=one.title)
        lost = f"{results.percent(picture.lost)} lost"
        _map(
            column,
            spec,
            view,
            picture.residual,
            key=f"residual_{key}",
            title=lost,
            about=f"{one.title}, residual,",
            errors=True,
        )
        source = f" From run {label(one.found.run)}." if one.found.run else ""
        column.caption(plain(f"{row_words(one.found)}{source}"))


def show_rows(spec: ModuleSpec, view: View, found: Sequence[Reconstruction]) -> None:
    """Plot how well the rows keep their direction and length, and list the worst rows of each method."""
    first = found[0]
    rows = results.row_table(view, first.picture)
    if len(found) == 1:
        if not rows.empty:
            alt = f"Cosine between rows of {spec.name} and their reconstructions by {first.title}, against row norm."
            draw(rows_figure(rows, palette(), first.style_key), "inspect_rows", alt)
    elif not rows.empty:
        medians, (left, right) = medians_by_method(view, found), st.columns(2, gap="large")
        names = ", ".join(each.title for each in found)
        with left:
            draw(
                charts.cosines_figure(medians, palette()), "inspect_rows", f"Median cosine of rows of {spec.name} with {names}."
            )
        with right:
            draw(
                charts.norms_figure(medians, palette()),
                "inspect_norms",
                f"Median norm error of rows of {spec.name} with {names}.",
            )
    st.caption(plain(results.rows_answer(rows, view, f"{first.title} at {first.size}" if first.size else first.title)))
    worst = worst_rows(view, found)
    if not worst.empty:
        st.markdown("**Rows that turn most, with their cosines**")
        show_table(worst, "inspect_worst")
