"""The live side of Compress: exact SVD error and sizes at a ratio, what has been measured, and the button that runs it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace

import pandas as pd
import streamlit as st

from offcomp.bundled import bundled_runs
from offcomp.charts import error_curve_figure, error_curve_table, prediction_table
from offcomp.errors import InputError
from offcomp.files import home_folder
from offcomp.methods import method_of_role
from offcomp.plan import Plan, members, validate
from offcomp.prediction import Prediction, predict
from offcomp.results import overall_error
from offcomp.runs import Run, RunStore, run_id
from offcomp.spectra import Spectrum, find, relative_error
from offcomp.ui import draft
from offcomp.ui.choices import Choices
from offcomp.ui.frame import palette, told
from offcomp.ui.jobs import request_spectra
from offcomp.ui.link import RATIOS

POLL_SECONDS = 1.0
CARDS_ABREAST = 2
NAMED_METHODS = 3


def known_spectra(plan: Plan, choices: Choices) -> list[Spectrum] | None:
    """The singular values of all groups; None, and a request to compute them, where some are not known yet."""
    home = home_folder()
    found = [find(choices.info, members(group, choices.info), group.stack, home) for group in plan.groups]
    known = [spectrum for spectrum in found if spectrum is not None]
    return known if len(known) == len(found) else None


def svd_error(spectra: list[Spectrum], prediction: Prediction) -> float:
    """Relative error of SVD over all chosen weights, at the predicted ranks."""
    return relative_error(spectra, [group.size if group.form != "dense" else None for group in prediction.groups])


def finished_run(plan: Plan, choices: Choices) -> Run | None:
    """A finished run with these groups: one's own of this very plan, or a bundled one with whatever tasks."""
    try:
        run = RunStore().get(run_id(plan, choices.info.fingerprint))
    except InputError:
        wanted = _id_without_tasks(plan, choices.info.fingerprint)
        return next((run for run in bundled_runs() if _id_without_tasks(run.plan, _fingerprint(run)) == wanted), None)
    return run if run.status == "done" else None


def _id_without_tasks(plan: Plan, fingerprint: str) -> str:
    return run_id(replace(plan, tasks=()), fingerprint)


def _fingerprint(run: Run) -> str:
    return str(run.result["model"]["fingerprint"]) if run.result else ""


def what_if(choices: Choices) -> None:
    """The ratio slider and everything that follows from it."""
    with told():
        _what_if(choices)
    draft.share()


def _what_if(choices: Choices) -> None:
    ratio = st.select_slider(
        "Compression ratio",
        RATIOS,
        key="ratio",
        format_func=lambda value: f"{value:g}x",
        persist_state="session",
        help="Original divided by stored, of the chosen modules.",
    )
    plans = {role: choices.plan(role, ratio) for role in choices.methods}
    reference = replace(choices, options={}).plan("svd", ratio)
    for plan in (reference, *plans.values()):
        validate(plan, choices.info)
    spectra = known_spectra(reference, choices)
    predictions = {role: predict(plan, choices.info) for role, plan in plans.items()}
    plain = "svd" in plans and plans["svd"].to_dict() == reference.to_dict()
    exact = spectra if plain else None  # other presets of SVD do not have the error that the spectrum tells
    _answer(choices, plans, predictions, exact, ratio)
    _run_button(choices, plans, predictions)
    if spectra is None:
        _wait_for_spectra(reference)
    else:
        table = error_curve_table(choices.info, reference, spectra, [r for r in RATIOS if r <= 50])
        figure = error_curve_figure(table, ratio, choices.unit, palette())
        st.plotly_chart(
            figure, theme=None, key="error_curve", alt="Relative error of SVD at each compression ratio, as a line."
        )
    _details(plans, predictions, exact)


def _wait_for_spectra(reference: Plan) -> None:
    """Say that the singular values are on their way, and look again until they are."""
    problem = request_spectra(reference)
    if problem == "working":
        st.info("Computing the singular values of these groups, once. The exact error appears in a few seconds.")
        st.fragment(_look_again, run_every=POLL_SECONDS)(reference)
    elif problem:
        st.error(problem, icon=":material/error:")
    else:
        st.rerun()


def _look_again(reference: Plan) -> None:
    if request_spectra(reference) != "working":
        st.rerun()


@dataclass(frozen=True)
class Answer:
    """What is known of one method at the chosen ratio, as text. `about` says where the error comes from, or why it is empty."""

    role: str
    title: str
    parameters: str
    megabytes: str
    ratio: str
    error: str
    about: str


def _answer(
    choices: Choices,
    plans: dict[str, Plan],
    predictions: dict[str, Prediction],
    spectra: list[Spectrum] | None,
    ratio: float,
) -> None:
    """A card a method, or where there are many a line of a table: what it stores, and the error where it is known."""
    st.markdown(_sentence(choices, predictions, spectra, ratio))
    answers = []
    for role, prediction in predictions.items():
        sizes = prediction.model["chosen"]
        answers.append(
            Answer(
                role,
                method_of_role(role).title,
                f"{sizes['parameters_after']:,}",
                f"{sizes['bytes_after'] / 1e6:.2f}",
                f"{sizes[choices.unit.removesuffix('s') + '_ratio']:.2f}x",
                *_error(choices, plans[role], prediction, spectra if role == "svd" else None),
            )
        )
    if len(answers) > CARDS_ABREAST:
        st.table(pd.DataFrame([_line(answer) for answer in answers]), hide_index=True, border="horizontal")
        return
    for column, answer in zip(st.columns(max(1, len(answers))), answers, strict=False):
        with column.container(border=True, key=f"card_{answer.role}"):
            _card(answer, ratio, choices.unit)


def _line(answer: Answer) -> dict[str, str]:
    known = ", ".join(text for text in (answer.error, answer.about) if text)
    return {
        "Method": answer.title,
        "Parameters": answer.parameters,
        "MB": answer.megabytes,
        "Smaller": answer.ratio,
        "Relative error": known,
    }


def _card(answer: Answer, ratio: float, unit: str) -> None:
    stored, other = answer.parameters, f"{answer.megabytes} MB"
    if unit == "bytes":
        stored, other = other, f"{answer.parameters} parameters"
    st.markdown(f"**{answer.title}** at {ratio:g}x")
    st.metric(f"Stored {unit}", stored, f"{answer.ratio} smaller, {other}", delta_color="off", delta_arrow="off")
    st.metric("Relative error", answer.error or "not measured", answer.about, delta_color="off", delta_arrow="off")


def _error(choices: Choices, plan: Plan, prediction: Prediction, spectra: list[Spectrum] | None) -> tuple[str, str]:
    """Relative error over all chosen weights, empty where it is not known, and what there is to say about it."""
    if not prediction.feasible:
        return "", "this size is out of reach"
    if spectra is not None:
        exact = "exact" if choices.dtype == "float32" else f"before rounding to {choices.dtype}"
        return f"{svd_error(spectra, prediction):.3f}", exact
    run = finished_run(plan, choices)
    if run is not None:
        return f"{overall_error(run.result['groups'] if run.result else []):.3f}", "measured"
    return "", f"a run takes about {max(10, round(prediction.seconds + 12))} s"


def _sentence(choices: Choices, predictions: dict[str, Prediction], spectra: list[Spectrum] | None, ratio: float) -> str:
    """The answer in a sentence."""
    chosen = f"{len(choices.specs)} weight matrices" if len(choices.specs) > 1 else choices.specs[0].name
    dense = [group.name for prediction in predictions.values() for group in prediction.groups if group.form == "dense"]
    if dense:
        return f"At {ratio:g}x nothing is saved for {', '.join(dict.fromkeys(dense))}: dense storage fits the budget."
    if spectra is None or "svd" not in predictions:
        return f"{chosen} at {ratio:g}x: run the methods to see what the model keeps."
    kept = 1 - svd_error(spectra, predictions["svd"]) ** 2
    return f"At {ratio:g}x, SVD keeps {100 * kept:.3g} % of the energy (squared length) of {chosen}."


def _run_button(choices: Choices, plans: dict[str, Plan], predictions: dict[str, Prediction]) -> None:
    """Start one run a method, then show the runs."""
    refusals = [sentence for role, prediction in predictions.items() for sentence in _refusals(role, prediction, choices.unit)]
    for sentence in refusals:
        st.error(sentence)
    titles = [method_of_role(role).title for role in plans]
    named = " and ".join([", ".join(titles[:-1]), titles[-1]] if len(titles) > 1 else titles)
    label = f"Run {named}" if len(titles) <= NAMED_METHODS else f"Run {len(titles)} methods"
    if st.button(label if plans else "Choose a method", type="primary", disabled=not plans or bool(refusals), key="run"):
        store = RunStore()
        for plan in plans.values():
            store.submit(plan, choices.info)
        st.switch_page("pages/runs.py")


def _refusals(role: str, prediction: Prediction, unit: str) -> list[str]:
    """Why a method cannot reach this size, for the first few groups."""
    title = method_of_role(role).title
    impossible = [group for group in prediction.groups if group.form == "infeasible"]
    if impossible and unit == "parameters" and all(group.largest_ratio <= 1 for group in impossible):
        return [f"{title} saves bytes, not parameters: let the ratio count bytes, under Budget and storage."]
    return [f"{group.name}, {title}: {group.note} ({group.largest_ratio:.0f}x at most)." for group in impossible[:3]]


def _details(plans: dict[str, Plan], predictions: dict[str, Prediction], spectra: list[Spectrum] | None) -> None:
    """The groups one by one, and how to do the same without a browser."""
    with st.expander("Groups: ranks, sizes and break-even"):
        for role, prediction in predictions.items():
            st.caption(method_of_role(role).title)
            table = prediction_table(prediction.groups, spectra if role == "svd" else None)
            st.dataframe(table, hide_index=True, key=f"groups_{role}")
    with st.expander("Plan and command line"):
        for role, plan in plans.items():
            name = f"{role}-{plan.groups[0].ratio:g}x.json" if plan.groups else f"{role}.json"
            st.download_button(
                f"Plan of {method_of_role(role).title}", plan.to_json, name, "application/json", key=f"plan_{role}"
            )
            st.code(f"offcomp run {shlex.quote(name)} --json", language="bash")
