"""Methods to show beside SVD on Inspect: which ones, what finished runs store of a matrix at this size, and fits on demand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import streamlit as st

from offcomp.errors import InputError, OffcompError, RunError
from offcomp.methods import SVD, all_methods, method_of_style_key
from offcomp.methods.base import rank_budget
from offcomp.models.catalogue import ModuleSpec
from offcomp.numerics.accounting import storage_dtype
from offcomp.planning.cost import duration
from offcomp.planning.matrix_view import Picture, View
from offcomp.planning.plan import NOTHING, Plan
from offcomp.planning.sizes import GroupPrediction, predict, resolved
from offcomp.results.reconstructions import Reconstruction, Stored, nearest, other_sizes, stored_by
from offcomp.results.runs import title_of_style_key
from offcomp.runs.inputs import inputs_of, run_id
from offcomp.runs.pictures import read_picture
from offcomp.runs.resident import ask
from offcomp.runs.store import Run, RunStore
from offcomp.ui import draft
from offcomp.ui.escape import plain
from offcomp.ui.frame import reporting_errors
from offcomp.ui.lab.answers import Lab
from offcomp.ui.lab.choices import Choices
from offcomp.ui.lab.cost import cost_of
from offcomp.ui.lab.run import POLL_SECONDS, act, progress_of

LIMIT = 4
PATIENT_SECONDS = 150.0
"""How long to wait for the worker, which may have to load the model first."""
METHODS_HELP = (
    "The original is always shown. Every other method takes about as many bytes as SVD at this rank: it comes from a finished "
    "run that stores the matrix at about this size, or is fitted to this one matrix."
)


@dataclass(frozen=True)
class Shown:
    """What is known about one method at the chosen size.

    found       the reconstruction, if there is one
    problem     why there is none and none can be fitted, or why a stored one cannot be decoded
    plan        compresses this one matrix to this size; None if that is impossible or unnecessary
    run         a run of this plan that has not led to a reconstruction
    sizes       byte ratios at which finished runs store the matrix
    """

    style_key: str
    found: Reconstruction | None = None
    problem: str = ""
    plan: Plan | None = None
    run: Run | None = None
    sizes: Sequence[float] = ()

    @property
    def title(self) -> str:
        """The title of the method."""
        return title_of_style_key(self.style_key)


def choose_methods(choices: Choices) -> list[str]:
    """Let the user choose methods by style key; by default, those of the draft."""
    known = [method.style_key for method in all_methods()]
    usual = [style_key for style_key in choices.methods if style_key in known][:LIMIT] or ["svd"]
    key, linked = f"inspect_methods_{'+'.join(usual)}", st.query_params.get("show", "")
    state = st.session_state
    if key not in state:
        wanted = [style_key for style_key in linked.split(",") if style_key]
        if missing := [style_key for style_key in wanted if style_key not in known]:
            fault = f"The link asks for {', '.join(missing)[:100]}, but the methods are {', '.join(known)}."
            st.warning(plain(fault), icon=":material/link_off:")
        state[key] = [style_key for style_key in dict.fromkeys(wanted) if style_key in known][:LIMIT] or usual
    chosen = st.multiselect(
        "Methods, side by side",
        known,
        key=key,
        format_func=title_of_style_key,
        max_selections=LIMIT,
        persist_state="session",
        help=METHODS_HELP,
        label_visibility="collapsed",
        placeholder="Methods to show beside the original",
    )
    draft.note("show", ",".join(chosen or usual), ",".join(usual))
    return chosen or usual


def shown_methods(lab: Lab, spec: ModuleSpec, view: View, chosen: Sequence[str], *, rank: int, order: str) -> list[Shown]:
    """What is known about each chosen method at the bytes of SVD at this rank."""
    dtype = storage_dtype(lab.choices.dtype, [spec.dtype])
    ratio = spec.num_bytes / rank_budget(SVD(), *spec.shape, rank, unit="bytes", dtype=dtype).limit
    svd = Reconstruction("svd", f"rank {rank}", ratio, view.picture(rank))
    return [Shown("svd", svd) if key == "svd" else _shown(lab, spec, key, ratio, order) for key in chosen]


def _shown(lab: Lab, spec: ModuleSpec, style_key: str, ratio: float, order: str) -> Shown:
    """What is known about a method other than SVD at this byte ratio."""
    stored = stored_by(lab.runs, lab.choices.info, spec, style_key)
    nothing = Shown(style_key, sizes=other_sizes(stored))
    if ratio <= 1:
        return replace(nothing, problem="At this rank, SVD saves nothing. Choose a smaller rank to compare at equal bytes.")
    try:
        plan = plan_for(lab.choices, spec, style_key, ratio)
        predicted = predict(plan, lab.choices.info).groups[0]
    except InputError as error:
        return replace(nothing, problem=f"{error}")
    if predicted.form == "infeasible":
        return replace(nothing, problem=f"This method cannot reach this size: at most {predicted.largest_ratio:.3g}x.")
    name = run_id(resolved(plan, lab.choices.info), inputs_of(plan, lab.choices.info.reads))
    if found := nearest(stored, predicted.compression_ratio, name) or nearest(stored, ratio):
        return _decoded(lab, spec, style_key, found, order)
    return replace(nothing, plan=plan, run=next((run for run in lab.runs if run.id == name), None))


def plan_for(choices: Choices, spec: ModuleSpec, style_key: str, ratio: float) -> Plan:
    """The plan that compresses one matrix to this byte ratio, with the options of the draft. Raises InputError."""
    alone = replace(choices, specs=(spec,), grouping="module", own=(), ratio=ratio, unit="bytes", tasks=(), correct=NOTHING)
    return alone.plan(style_key)


def _decoded(lab: Lab, spec: ModuleSpec, style_key: str, stored: Stored, order: str) -> Shown:
    """The reconstruction that a run stores; it is decoded by the resident worker unless its picture is known."""
    group = stored.group
    has_rank = method_of_style_key(style_key).has_rank  # other sizes, such as rate steps, mean nothing to a reader
    size = "stored dense" if not group.size else f"{group.size_name} {group.size:,}" if has_rank else ""
    try:
        picture = read_picture(stored.run, spec, order) or _ask_for_picture(lab, spec, stored.run, order)
    except OffcompError as error:
        return Shown(style_key, problem=f"{error}.", run=stored.run)
    return Shown(style_key, Reconstruction(style_key, size, group.byte_ratio, picture, stored.run))


def _ask_for_picture(lab: Lab, spec: ModuleSpec, run: Run, order: str) -> Picture:
    with st.spinner(f"Decoding {plain(spec.name)} from the weights that run {plain(run.id[:6])} stores."):
        ask(lab.choices.info, {"kind": "picture", "run": run.id, "module": spec.name}, seconds=PATIENT_SECONDS)
    picture = read_picture(run, spec, order)
    if picture is None:
        raise RunError(f"the picture of {spec.name} cannot be read back from {run.folder}; make sure that the disk is not full")
    return picture


def offer_fit(lab: Lab, shown: Shown) -> None:
    """Show why there is no reconstruction, the progress of the run that computes it, or a button that starts this run."""
    if shown.problem:
        st.info(plain(shown.problem))
    elif shown.run is not None and not shown.run.ended:
        st.fragment(_poll, run_every=POLL_SECONDS)(shown.run.id)
    elif shown.plan is not None:
        _offer_run(lab, shown, shown.plan)
    if shown.sizes and not shown.found:
        sizes = ", ".join(f"{ratio:.3g}x" for ratio in shown.sizes)
        st.caption(plain(f"Finished runs store it at {sizes} fewer bytes: choose a rank with about such a size."))


def _offer_run(lab: Lab, shown: Shown, plan: Plan) -> None:
    if shown.run is not None and shown.run.status != "done":
        st.error(plain(shown.run.error or f"the run has the status {shown.run.status!r}"), icon=":material/error:")
    prediction = predict(plan, lab.choices.info)
    cost = cost_of(lab.choices, {shown.style_key: plan}, {shown.style_key: prediction}, [])
    seconds = sum(each.seconds for each in cost.estimates.values())
    st.caption(plain(_missing(prediction.groups[0])))
    label = f"Fit it now (about {duration(seconds)})"
    if st.button(plain(label), key=f"inspect_fit_{shown.style_key}", icon=":material/play_arrow:", width="stretch"):
        RunStore().submit(plan, lab.choices.info, again=True)
        st.rerun()


def _missing(group: GroupPrediction) -> str:
    return f"No finished run stores this matrix at about {group.compression_ratio:.3g}x fewer bytes."


@reporting_errors()
def _poll(name: str) -> None:
    """Show the progress of a run; once it has ended, draw the page with its result."""
    run = next((run for run in RunStore().all() if run.id == name), None)
    if run is None or run.ended:
        st.rerun()
    fraction, text = progress_of(run)
    st.progress(fraction, text=plain(text))
    st.button("Cancel", key=f"inspect_cancel_{name}", on_click=act, args=(RunStore().cancel, name))
