"""What is known about the draft's plans: exact, measured and estimated errors, scores, and the runs that exist. No widgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import streamlit as st

from offcomp.errors import InputError, PlanError
from offcomp.files import home_folder
from offcomp.methods import SVD, make_method
from offcomp.models.catalogue import ModelInfo
from offcomp.planning.equal_sizes import equalised
from offcomp.planning.plan import Plan, members, validate
from offcomp.planning.sizes import Prediction, predict, resolved
from offcomp.planning.spectra import find
from offcomp.planning.spectrum import Spectrum, relative_error
from offcomp.results import known_errors
from offcomp.results.error_curve import error_curve_table, svd_error
from offcomp.results.known_errors import Measured
from offcomp.results.known_scores import Errors, errors_of, known_scores
from offcomp.results.proposals import Proposal, propose
from offcomp.results.restored import in_dtype
from offcomp.results.targets import SENSITIVITY, parse_target
from offcomp.results.what_if import Answer
from offcomp.runs.inputs import inputs_of, run_id
from offcomp.runs.sensitivity import missing
from offcomp.runs.store import Run, RunStore
from offcomp.ui.lab.choices import Choices
from offcomp.ui.link import RATIOS

HIGHEST_DRAWN = 50


@dataclass(frozen=True)
class Lab:
    """The draft and everything known about it.

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
    def ratio(self) -> float:
        """The requested compression ratio or, for a target, the ratio of the first plan that reaches it."""
        reached = [answer.ratio for answer in self.answers if answer.reachable and answer.plan.groups]
        return reached[0] if self.choices.target and reached else self.choices.ratio

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
        """The spectra, if they determine the error of the draft's SVD plan; other SVD presets have different errors."""
        svd = self.plans.get("svd")
        return self.spectra if svd is not None and _is_plain_svd(svd) else None


def lab_of(choices: Choices) -> Lab:
    """Look up everything known about the draft. Raises PlanError or InputError if its plans are invalid."""
    info = choices.info
    reference = replace(choices, options={}).plan("svd")
    drafts = {style_key: choices.plan(style_key) for style_key in choices.methods if choices.specs}
    for plan in (reference, *drafts.values()):
        validate(plan, info)
    runs = RunStore().all()
    measured = measurements(runs, info.fingerprint)
    spectra = known_spectra(reference, info)
    table = curve(info, reference, spectra) if spectra else error_curve_table(info, reference, [], [])
    lab = Lab(choices, (), reference, spectra, table, runs, measured)
    by_id = {run.id: run for run in runs}
    planned = [_planned(lab, style_key, plan) for style_key, plan in drafts.items()]
    if choices.equal_bytes:
        planned = _with_equal_bytes(planned, info)
    return replace(lab, answers=tuple(_answer(lab, answer, by_id) for answer in planned))


def _with_equal_bytes(answers: Sequence[Answer], info: ModelInfo) -> list[Answer]:
    """Give all feasible plans the same number of stored bytes, or as near to it as each method allows."""
    plans = {answer.style_key: answer.plan for answer in answers if not answer.fault}
    equal = _equalised(tuple(plans), tuple(plans.values()), info) if len(plans) > 1 else plans
    return [
        replace(answer, plan=equal[answer.style_key], prediction=predict(equal[answer.style_key], info))
        if answer.style_key in equal
        else answer
        for answer in answers
    ]


@st.cache_resource(
    max_entries=64,
    show_spinner=False,
    hash_funcs={ModelInfo: lambda info: info.fingerprint, Plan: lambda plan: plan.to_json()},
)
def _equalised(style_keys: Sequence[str], plans: Sequence[Plan], info: ModelInfo) -> dict[str, Plan]:
    """See `planning.equal_sizes.equalised`."""
    return equalised(dict(zip(style_keys, plans, strict=True)), info)


def _planned(lab: Lab, style_key: str, plan: Plan) -> Answer:
    """Make a plan that meets the target with this method, or explain why there is none."""
    choices, info = lab.choices, lab.choices.info
    answer = Answer(style_key, plan, predict(plan, info), rounded_to=choices.rounded_to)
    if not plan.groups or not (choices.target or choices.allocate):
        return answer
    target = choices.target or f"{choices.ratio:g}x"
    unmeasured = not_measured(plan, choices)
    known = (lab.spectra is not None, *unmeasured, *((run.id, run.status) for run in lab.runs))
    weighting = choices.weighting if choices.allocate else ""
    proposal = _proposed(plan, target, known, info, lab.measured, allocate=choices.allocate, weighting=weighting)
    if isinstance(proposal, str):
        return replace(answer, fault=proposal)
    prediction = predict(proposal.plan, info)
    return replace(answer, plan=proposal.plan, prediction=prediction, reasons=proposal.reasons, notes=proposal.notes)


@st.cache_resource(
    max_entries=64,
    show_spinner=False,
    hash_funcs={ModelInfo: lambda info: info.fingerprint, Plan: lambda plan: plan.to_json()},
)
def _proposed(
    plan: Plan,
    target: str,
    known: Sequence[Any],  # noqa: ARG001  # part of the key of the cache
    info: ModelInfo,
    _measured: Sequence[Measured],
    *,
    allocate: bool,
    weighting: str,
) -> Proposal | str:
    """Propose a plan that meets a target; if there is none, explain why.

    Cached by `known`, which stands for the spectra, the sensitivities and the runs.
    """
    try:
        proposal = propose(plan, parse_target(target), info, home_folder(), _measured, allocate=allocate, weighting=weighting)
        validate(proposal.plan, info)
    except InputError as error:
        fault = error.faults[0] if isinstance(error, PlanError) else str(error)
        return fault.rstrip(".")
    return proposal


def not_measured(plan: Plan, choices: Choices) -> list[str]:
    """Names of the groups whose sensitivity is needed to divide the budget but has not been measured yet."""
    needed = choices.allocate and choices.weighting == SENSITIVITY and len(plan.groups) > 1
    return missing(plan, choices.info, home_folder()) if needed else []


def _answer(lab: Lab, answer: Answer, runs: Mapping[str, Run]) -> Answer:
    """Look up what is known about one method's plan; estimate its error only if there is no exact or measured value."""
    info, plan, prediction = lab.choices.info, answer.plan, answer.prediction
    if not answer.reachable or not plan.groups:
        return answer
    complete = resolved(plan, info)
    spectra = lab.spectra if answer.style_key == "svd" and _is_plain_svd(plan) else None
    answer = replace(
        answer,
        exact=svd_error(spectra, prediction) if spectra is not None else None,
        measured=known_errors.measurement_of(complete, lab.measured),
        run=runs.get(run_id(complete, inputs_of(plan, info.reads))),
    )
    if answer.exact is None and answer.measured is None:
        measured = in_dtype(lab.measured, complete.groups[0].dtype, info)
        estimated = known_errors.estimated(complete, answer.ratio, measured, lab.curve)
        answer = replace(answer, estimated=estimated)
    errors = _errors(answer, complete, spectra)
    return replace(answer, scores=known_scores(complete, info, errors, lab.measured, plan.resolved_tasks))


def _errors(answer: Answer, plan: Plan, spectra: list[Spectrum] | None) -> Errors | None:
    """Return the relative error of each group, or an estimate for all of them, or None if there is neither."""
    groups = answer.prediction.groups
    if spectra is not None:
        ranks = [None if group.form == "dense" else group.size for group in groups]
        found = zip(groups, spectra, ranks, strict=True)
        return {group.name: relative_error([spectrum], [rank]) for group, spectrum, rank in found}
    if answer.measured is not None:
        return errors_of(plan, answer.measured)
    return answer.estimated.relative_error if answer.estimated else None


def _is_plain_svd(plan: Plan) -> bool:
    """Return whether all groups use SVD with its default options, whose error the spectra determine."""
    return all(make_method(group.method, group.options) == SVD() for group in plan.groups)


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
