"""The live preview on Compress: exact SVD error and sizes at the chosen ratio, other known errors, and the Run button."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from decimal import ROUND_FLOOR, Context
from functools import partial

import pandas as pd
import streamlit as st

from offcomp.files import home_folder
from offcomp.methods import method_of_style_key
from offcomp.models.catalogue import ModelInfo
from offcomp.planning.plan import Plan, members, validate
from offcomp.planning.sizes import Prediction, predict, resolved
from offcomp.planning.spectra import find
from offcomp.planning.spectrum import Spectrum
from offcomp.results import known_errors
from offcomp.results.charts.error_curve import error_curve_figure
from offcomp.results.error_curve import error_curve_table, prediction_table, svd_error
from offcomp.results.known_errors import Measured
from offcomp.results.runs import with_provenance
from offcomp.runs.store import Run, RunStore
from offcomp.ui.charts import csv_button, draw
from offcomp.ui.compress.cards import Known, show_answers, show_predicted_notes
from offcomp.ui.compress.choices import Choices, choose_ratio
from offcomp.ui.compress.cost import show_cost
from offcomp.ui.escape import plain
from offcomp.ui.frame import fragment, palette
from offcomp.ui.jobs import request_spectra, wait_for
from offcomp.ui.link import RATIOS

COMPUTING = "Computing and caching the singular values of these groups. The exact error will appear in a few seconds."
NAMED_METHODS = 3
HIGHEST_DRAWN = 50
MOST_SOURCES = 20


def known_spectra(plan: Plan, info: ModelInfo) -> list[Spectrum] | None:
    """Return the spectra of all groups, or None if some have not been computed yet."""
    home = home_folder()
    stored = [find(info, members(group, info), group.stack, home) for group in plan.groups]
    known = [spectrum for spectrum in stored if spectrum is not None]
    return known if len(known) == len(stored) else None


@st.cache_resource(max_entries=8, show_spinner=False, hash_funcs={Run: lambda run: (run.id, run.status, run.submitted)})
def measurements(runs: Sequence[Run], fingerprint: str) -> list[Measured]:
    """Return all errors measured on these weights; cached until the runs change."""
    return known_errors.measured_of(runs, fingerprint)


def _at_first_ratio(plan: Plan) -> str:
    """Return a cache key for the plan that does not depend on its ratio."""
    return plan.replace(groups=tuple(group.at_ratio(RATIOS[0]) for group in plan.groups)).to_json()


@st.cache_resource(
    max_entries=32, show_spinner=False, hash_funcs={ModelInfo: lambda info: info.fingerprint, Plan: _at_first_ratio}
)
def curve(info: ModelInfo, reference: Plan, _spectra: Sequence[Spectrum]) -> pd.DataFrame:
    """Tabulate SVD's error at every ratio. The spectra are not hashed because the model and the groups determine them."""
    return error_curve_table(info, reference, _spectra, [ratio for ratio in RATIOS if ratio <= HIGHEST_DRAWN])


@fragment()
def what_if(choices: Choices) -> None:
    """Show the ratio slider and everything that depends on it."""
    info, ratio = choices.info, choose_ratio("the chosen modules")
    plans = {style_key: choices.plan(style_key, ratio) for style_key in choices.methods}
    reference = replace(choices, options={}).plan("svd", ratio)
    for plan in (reference, *plans.values()):
        validate(plan, info)
    spectra = known_spectra(reference, info)
    predictions = {style_key: predict(plan, info) for style_key, plan in plans.items()}
    plain_svd = "svd" in plans and plans["svd"].to_dict() == reference.to_dict()
    exact = spectra if plain_svd else None  # the spectrum does not determine the error of other SVD presets
    runs = RunStore().all()
    measured = measurements(runs, info.fingerprint)
    table = curve(info, reference, spectra) if spectra else error_curve_table(info, reference, [], [])
    known = {
        style_key: _known(resolved(plan, info), predictions[style_key], exact if style_key == "svd" else None, measured, table)
        for style_key, plan in plans.items()
    }
    st.markdown(plain(_sentence(choices, predictions, exact, ratio)))
    show_answers(choices, ratio, predictions, known)
    show_predicted_notes(info, predictions)
    _run_button(choices, ratio, plans, predictions, runs)
    if spectra is None:
        wait_for(partial(request_spectra, info, reference), partial(st.info, COMPUTING))
    else:
        same_groups = [m for m in measured if m.groups == known_errors.groups_of(reference)]
        _show_errors(choices, ratio, table, same_groups, list(known.values()))
    _details(plans, predictions, exact)


def _known(
    plan: Plan, prediction: Prediction, spectra: list[Spectrum] | None, measured: Sequence[Measured], table: pd.DataFrame
) -> Known:
    """Look up what is known about a plan's error; estimate it only if there is no exact or measured value."""
    if not prediction.feasible:
        return Known()
    exact = svd_error(spectra, prediction) if spectra is not None else None
    measurement = known_errors.measurement_of(plan, measured)
    if exact is not None or measurement is not None:
        return Known(exact, measurement)
    achieved = prediction.model.chosen.ratio(plan.groups[0].unit)
    return Known(estimated=known_errors.estimated(plan, achieved, measured, table))


def _show_errors(
    choices: Choices, ratio: float, table: pd.DataFrame, same_groups: list[Measured], known: Sequence[Known]
) -> None:
    """Plot SVD's error together with measured and estimated errors of these groups, and show their sources."""
    points = known_errors.error_point_table(same_groups, [each.estimated for each in known if each.estimated], choices.unit)
    exact = not choices.rounded_to
    figure = error_curve_figure(table, points, ratio, choices.unit, palette(), exact=exact)
    alt = "Relative error against compression ratio: SVD as a line, measured and estimated errors as marks; numbers below."
    draw(figure, "error_curve", alt)
    st.caption(plain(_reading(points, exact)))
    if len(points):
        _sources(choices, points, same_groups)


def _sources(choices: Choices, points: pd.DataFrame, measured: Sequence[Measured]) -> None:
    """Show the source of each mark in the chart, and offer the full list as a CSV file."""
    with st.expander("Where each mark comes from"):
        shown = points.tail(MOST_SOURCES)
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


def _sentence(choices: Choices, predictions: dict[str, Prediction], spectra: list[Spectrum] | None, ratio: float) -> str:
    """Summarise the preview in one sentence."""
    chosen = f"{len(choices.specs)} weight matrices" if len(choices.specs) > 1 else choices.specs[0].name
    dense = [group.name for prediction in predictions.values() for group in prediction.groups if group.form == "dense"]
    if dense:
        return f"At {ratio:g}x, nothing is saved for {', '.join(dict.fromkeys(dense))}: dense storage already fits the budget."
    if spectra is None or "svd" not in predictions:
        return f"{chosen} at {ratio:g}x: run the methods to see how well the model performs."
    if not predictions["svd"].feasible:
        return f"{chosen} at {ratio:g}x: SVD cannot reach this size."
    kept = 1 - svd_error(spectra, predictions["svd"]) ** 2
    return f"At {ratio:g}x, SVD keeps {100 * kept:.3g} % of the energy (squared norm) of {chosen}."


def _run_button(
    choices: Choices, ratio: float, plans: dict[str, Plan], predictions: dict[str, Prediction], runs: Sequence[Run]
) -> None:
    """Show the button that starts one run per method and opens the Runs page, with the estimated cost below."""
    refusals = [
        sentence for style_key, prediction in predictions.items() for sentence in _refusals(style_key, prediction, choices.unit)
    ]
    for sentence in refusals:
        st.error(plain(sentence))
    titles = [method_of_style_key(style_key).title for style_key in plans]
    named = " and ".join([", ".join(titles[:-1]), titles[-1]] if len(titles) > 1 else titles)
    label = f"Run {named}" if len(titles) <= NAMED_METHODS else f"Run {len(titles)} methods"
    if st.button(plain(label if plans else "Choose a method"), type="primary", disabled=not plans or bool(refusals), key="run"):
        store = RunStore()
        for plan in plans.values():
            store.submit(plan, choices.info)
        st.switch_page("pages/runs.py")
    if not refusals:
        show_cost(choices, ratio, plans, predictions, runs)


def _refusals(style_key: str, prediction: Prediction, unit: str) -> list[str]:
    """Explain why a method cannot reach this size, for the first few groups."""
    title = method_of_style_key(style_key).title
    infeasible = [group for group in prediction.groups if group.form == "infeasible"]
    if infeasible and unit == "parameters" and all(group.largest_ratio <= 1 for group in infeasible):
        return [f"{title} saves bytes, not parameters: under Budget and storage, set the ratio to count bytes."]
    return [f"{group.name}, {title}: {group.note} ({_rounded_down(group.largest_ratio)}x at most)." for group in infeasible[:3]]


def _rounded_down(ratio: float) -> str:
    """Format a ratio with three significant digits, rounded down to keep it attainable."""
    return f"{Context(prec=3, rounding=ROUND_FLOOR).create_decimal_from_float(ratio):f}"


def _details(plans: dict[str, Plan], predictions: dict[str, Prediction], spectra: list[Spectrum] | None) -> None:
    """Show group details and the equivalent commands in expanders, built only when opened to keep the slider fast."""
    groups = st.expander("Groups: ranks, sizes and break-even", key="groups_open", on_change="rerun")
    if groups.open:
        for style_key, prediction in predictions.items():
            groups.caption(plain(method_of_style_key(style_key).title))
            table = prediction_table(prediction.groups, spectra if style_key == "svd" else None)
            groups.dataframe(table, hide_index=True, key=f"groups_{style_key}")
    commands = st.expander("Plan and command line", key="commands_open", on_change="rerun")
    if commands.open:
        for style_key, plan in plans.items():
            name = f"{style_key}-{plan.groups[0].ratio:g}x.json" if plan.groups else f"{style_key}.json"
            label = plain(f"Plan for {method_of_style_key(style_key).title}")
            commands.download_button(label, plan.to_json, name, "application/json", key=f"plan_{style_key}")
            commands.code(f"offcomp run {shlex.quote(name)} --json", language="bash")
