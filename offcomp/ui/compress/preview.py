"""The live preview on Compress: the error of SVD at every ratio, other known errors, and the groups and plans in detail."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial

import pandas as pd
import streamlit as st

from offcomp.methods import method_of_style_key
from offcomp.results import known_errors
from offcomp.results.charts.error_curve import error_curve_figure
from offcomp.results.error_curve import prediction_table
from offcomp.results.known_errors import Measured
from offcomp.results.runs import with_provenance
from offcomp.ui.charts import csv_button, draw
from offcomp.ui.escape import plain
from offcomp.ui.frame import palette
from offcomp.ui.jobs import request_spectra, wait_for
from offcomp.ui.lab.answers import Lab
from offcomp.ui.lab.choices import Choices

COMPUTING = "Computing and caching the singular values of these groups. The exact error will appear in a few seconds."
MAX_SOURCES = 20


def show_what_if(lab: Lab) -> None:
    """Show the part of the page below the strip: the preview of the plan."""
    if not lab.choices.specs:
        where = (
            "Under Weights, tick a kind, such as query,"
            if lab.choices.info.has_kinds
            else "The model's family is unknown: choose a matrix under Weights, Other weights,"
        )
        st.info(f"No module is selected. {where} to see what compressing it would do.")
        return
    if lab.spectra is None:
        wait_for(partial(request_spectra, lab.choices.info, lab.reference), partial(st.info, COMPUTING))
    else:
        _show_errors(lab)
    _details(lab)


def _show_errors(lab: Lab) -> None:
    """Plot SVD's error together with measured and estimated errors of the draft's groups, and show the sources."""
    choices, groups = lab.choices, known_errors.groups_of(lab.reference)
    same_groups = [measurement for measurement in lab.measured if measurement.groups == groups]
    estimates = [answer.estimated for answer in lab.answers if answer.estimated]
    points = known_errors.error_point_table(same_groups, estimates, choices.unit)
    exact = not choices.rounded_to
    figure = error_curve_figure(lab.curve, points, lab.ratio, choices.unit, palette(), exact=exact)
    alt = "Relative error against compression ratio: SVD as a line, measured and estimated errors as marks, listed below."
    draw(figure, "error_curve", alt)
    st.caption(plain(_reading(points, exact)))
    if len(points):
        _sources(choices, points, same_groups)


def _sources(choices: Choices, points: pd.DataFrame, measured: Sequence[Measured]) -> None:
    """Show the source of each mark in the chart, and offer the full list as a CSV file."""
    with st.expander("Where each mark comes from"):
        shown = points.tail(MAX_SOURCES)
        for row in shown.to_dict("records"):
            st.caption(
                f"**{plain(row['method'])}**, {row['ratio']:.2f}x smaller, {row['relative_error']:.3f}. {plain(row['about'])}"
            )
        if len(points) > len(shown):
            st.caption(f"{len(shown)} of {len(points)} marks are listed; the download includes all of them.")
        file_name = f"offcomp-{choices.info.model.rsplit('/', 1)[-1]}-errors.csv"
        make = partial(with_provenance, points.drop(columns="seed"), [measurement.run for measurement in measured])
        csv_button("All plotted points with plan, seed and versions (CSV)", file_name, "error_points_csv", make)


def _reading(points: pd.DataFrame, exact: bool) -> str:
    """Explain the line and the solid and hollow marks of the chart, and count the solid ones."""
    line = "Line: SVD, exact." if exact else "Dashed line: SVD before rounding (an estimate)."
    counts = points["origin"].value_counts()
    solid = [f"{counts[name]} {name}" for name in ("yours", "bundled") if name in counts]
    parts = [line, f"Solid: measured ({', '.join(solid)})." if solid else "These groups have not been measured yet."]
    if known_errors.ESTIMATED in counts:
        parts.append("Hollow: estimated until a run measures the error.")
    return " ".join(parts)


def _details(lab: Lab) -> None:
    """Show group details and the equivalent commands in expanders. To keep the slider fast, each is built only when opened."""
    groups = st.expander("Groups: ranks, sizes and break-even", key="groups_open", on_change="rerun")
    if groups.open:
        for style_key, prediction in lab.predictions.items():
            groups.caption(plain(method_of_style_key(style_key).title))
            table = prediction_table(prediction.groups, lab.exact if style_key == "svd" else None)
            groups.dataframe(table, hide_index=True, key=f"groups_{style_key}")
    if reasons := {answer.title: answer.reasons for answer in lab.answers if answer.reasons}:
        with st.expander("Why these sizes?"):
            for title, each in reasons.items():
                st.caption(f"**{plain(title)}**")
                st.markdown("\n".join(f"- {plain(name)}: {plain(reason)}" for name, reason in each.items()))
    commands = st.expander("Plan and command line", key="commands_open", on_change="rerun")
    if commands.open:
        for style_key, plan in lab.plans.items():
            name = f"{style_key}-{plan.groups[0].ratio:g}x.json" if plan.groups else f"{style_key}.json"
            label = plain(f"Plan for {method_of_style_key(style_key).title}")
            commands.download_button(label, plan.to_json, name, "application/json", key=f"plan_{style_key}")
            commands.code(f"offcomp run {shlex.quote(name)} --json", language="bash")
