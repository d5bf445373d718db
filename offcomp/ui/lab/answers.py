"""What is known of the draft's plans: exact, measured and estimated errors, scores, and the runs that exist. No widgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import streamlit as st

from offcomp.files import home_folder
from offcomp.models.catalogue import ModelInfo
from offcomp.planning.plan import Plan, members, validate
from offcomp.planning.sizes import Prediction, predict, resolved
from offcomp.planning.spectra import find
from offcomp.planning.spectrum import Spectrum
from offcomp.results import known_errors
from offcomp.results.error_curve import error_curve_table, svd_error
from offcomp.results.known_errors import Measured
from offcomp.results.known_scores import known_scores
from offcomp.results.what_if import Answer
from offcomp.runs.inputs import inputs_of, run_id
from offcomp.runs.store import Run, RunStore
from offcomp.ui.lab.choices import Choices
from offcomp.ui.link import RATIOS

HIGHEST_DRAWN = 50


@dataclass(frozen=True)
class Lab:
    """The draft and everything known of it.

    reference    the plan of plain SVD on the same groups
    spectra      the spectra of its groups, or None if some have not been computed yet
    curve        SVD's error at every ratio; empty without spectra
    runs         all runs in the home folder
    measured     all errors measured on these weights
    """

    choices: Choices
    answers: tuple[Answer, ...]
    reference: Plan
    spectra: list[Spectrum] | None
    curve: pd.DataFrame
    runs: list[Run]
    measured: list[Measured]

    @property
    def plans(self) -> Mapping[str, Plan]:
        """Style key -> plan."""
        return {answer.style_key: answer.plan for answer in self.answers}

    @property
    def predictions(self) -> Mapping[str, Prediction]:
        """Style key -> predicted sizes."""
        return {answer.style_key: answer.prediction for answer in self.answers}

    @property
    def exact(self) -> list[Spectrum] | None:
        """The spectra, if they give the error of the draft's SVD plan; other presets of SVD have other errors."""
        svd = self.plans.get("svd")
        return self.spectra if svd is not None and svd.to_dict() == self.reference.to_dict() else None


def lab_of(choices: Choices) -> Lab:
    """Look up everything known of the draft. Raises PlanError and InputError if its plans are invalid."""
    info = choices.info
    plans = {style_key: choices.plan(style_key) for style_key in choices.methods if choices.specs}
    reference = replace(choices, options={}).plan("svd")
    for plan in (reference, *plans.values()):
        validate(plan, info)
    runs = RunStore().all()
    measured = measurements(runs, info.fingerprint)
    spectra = known_spectra(reference, info)
    table = curve(info, reference, spectra) if spectra else error_curve_table(info, reference, [], [])
    lab = Lab(choices, (), reference, spectra, table, runs, measured)
    by_id = {run.id: run for run in runs}
    plain_svd = "svd" in plans and plans["svd"].to_dict() == reference.to_dict()
    answers = (
        _answer(lab, style_key, plan, spectra if plain_svd and style_key == "svd" else None, by_id)
        for style_key, plan in plans.items()
    )
    return replace(lab, answers=tuple(answers))


def _answer(lab: Lab, style_key: str, plan: Plan, spectra: list[Spectrum] | None, runs: Mapping[str, Run]) -> Answer:
    """Look up what is known of one method's plan; estimate its error only if there is no exact or measured value."""
    info, prediction = lab.choices.info, predict(plan, lab.choices.info)
    answer = Answer(style_key, plan, prediction, rounded_to=lab.choices.rounded_to)
    if not prediction.feasible or not plan.groups:
        return answer
    complete = resolved(plan, info)
    answer = replace(
        answer,
        exact=svd_error(spectra, prediction) if spectra is not None else None,
        measured=known_errors.measurement_of(complete, lab.measured),
        run=runs.get(run_id(complete, inputs_of(plan, info.reads))),
    )
    if answer.exact is None and answer.measured is None:
        estimated = known_errors.estimated(complete, answer.ratio, lab.measured, lab.curve)
        answer = replace(answer, estimated=estimated)
    error = answer.error[0]
    scores = known_scores(complete, info, error, lab.measured, plan.resolved_tasks) if error is not None else {}
    return replace(answer, scores=scores)


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
