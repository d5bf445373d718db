"""The Model page: the parameter map, the selected module, and the recognised weights."""

from __future__ import annotations

from functools import partial

import pandas as pd
import streamlit as st

from offcomp.files import home_folder
from offcomp.models.catalogue import ModelInfo
from offcomp.planning.plan import Plan
from offcomp.planning.size_notes import unlisted_note
from offcomp.results import model as results
from offcomp.results.charts.model import COMPRESSIBLE, PARAMETERS, map_figure, map_pixels, share_figure
from offcomp.results.model import RECOGNISED, map_table, share_table, shown_rows, svd_errors
from offcomp.results.scores import sentence_start
from offcomp.ui import draft
from offcomp.ui.charts import csv_button, draw_clickable, show_table
from offcomp.ui.escape import code, plain
from offcomp.ui.frame import fragment, palette, style
from offcomp.ui.jobs import request_spectra, wait_for
from offcomp.ui.lab.answers import Lab
from offcomp.ui.model.kinds import show_structure
from offcomp.ui.switch import choose_one

COLOURS = {PARAMETERS: "Parameters", COMPRESSIBLE: "Compressible"}
COLOUR_HELP = "Colour the cells by parameter count, or by the relative error of SVD on each matrix alone at the draft's ratio."
MAP, MODULE, REQUESTED = "model_map", "model_module", "model_spectra"
MAX_LAYERS_IN_COLUMN = 12  # a deeper model needs the full width for its map
TEXT_PIXELS = 175
NAMES = {"cols": "Columns", "in_plan": "In your plan", "relative_error": "Relative error of SVD"}
HIDDEN = ["row", "known_error"]
FORMATS = {
    "module": st.column_config.TextColumn(width=TEXT_PIXELS),
    "share": st.column_config.NumberColumn("Share, %", format="%.2f"),
    "parameters": st.column_config.NumberColumn(format="localized"),
    "relative_error": st.column_config.NumberColumn(format="%.3f"),
}
SPECTRA_HELP = "Computes the singular values of each matrix from its weights in a background process and caches them."


def show_model(lab: Lab) -> None:
    """Draw everything below the plan."""
    info = lab.choices.info
    if not info.modules:
        st.info(f"{plain(info.model)} has no weight matrices, so there is nothing to compress.")
        return
    show_structure(info)
    colour = choose_one("Colour", COLOURS, "model_colour", description=COLOUR_HELP)
    st.fragment(_explore)(info, colour, lab.choices.ratio if colour == COMPRESSIBLE else 0.0)
    _show_shares(info)
    _show_recognised(info)


@fragment()
def _explore(info: ModelInfo, colour: str, ratio: float) -> None:
    """Show the map and the selected module, in a fragment to keep clicks responsive."""
    answer = st.empty()
    deep = max((spec.layer or 0 for spec in info.modules), default=0) >= MAX_LAYERS_IN_COLUMN
    left, right = (st.container(), st.container()) if deep else st.columns([7, 4], gap="large")
    with left:
        errors = svd_errors(info, home_folder(), ratio, *_storage()) if ratio else {}
        table = map_table(info, {spec.name for spec in draft.modules(info)}, errors)
        answer.markdown(plain(results.compressible_answer(table, ratio) if ratio else results.parameters_answer(info)))
        _show_map(info, table, colour, ratio)
        if ratio:
            _offer_spectra(info, errors)
    with right:
        _show_picked(info, table, ratio)


def _storage() -> tuple[str, str]:
    """Return the unit of the draft's ratio and the storage dtype."""
    return st.session_state["unit"], st.session_state["dtype"]


def _show_map(info: ModelInfo, table: pd.DataFrame, colour: str, ratio: float) -> None:
    """Show the map, wide enough to keep its numbers legible, and its table."""
    box = f".st-key-{MAP}_box"
    style(f"{box} {{overflow-x: auto}} {box} .st-key-{MAP} {{min-width: {map_pixels(table)}px}}")
    picked = draft.inspected(info)
    figure = map_figure(table, palette(), colour, picked, ratio)
    quantity = "parameters of" if colour == PARAMETERS else f"relative error of SVD at {ratio:g}x for"
    with st.container(key=f"{MAP}_box"):
        alt = f"Map of the {quantity} each weight matrix, by kind and layer; "
        alt += "the Module selector and the table below have the same data."
        draw_clickable(figure, MAP, alt, partial(_pick_clicked, info))
    layers = table["layer"].nunique()
    hint = f" Scroll sideways to see all {layers} layers." if layers > MAX_LAYERS_IN_COLUMN else ""
    st.caption(
        f"Solid outline: in your plan. Dotted: selected. Click a cell to select it, or use the *Module* selector.{plain(hint)}"
    )
    if colour == COMPRESSIBLE:
        unit, dtype = _storage()
        _show_table(info, table, colour, ratio=ratio, unit=unit, storage=dtype)
    else:
        _show_table(info, table.drop(columns="relative_error"), colour)
    outside, rows = shown_rows(table)
    drawn = len(outside) + int(table["row"].isin(rows).sum())
    if drawn < len(table):
        st.caption(f"The map shows only the {drawn} largest of {len(table)} weight matrices. The table lists all of them.")


def _pick_clicked(info: ModelInfo) -> None:
    """Select the module whose cell was clicked. Redrawing the map clears the clicked points but not the selected module."""
    names = [point["customdata"][0] for point in st.session_state[MAP].selection.points]
    if names and names[0] in {spec.name for spec in info.modules}:
        draft.inspect(names[0])


def _show_picked(info: ModelInfo, table: pd.DataFrame, ratio: float) -> None:
    """Show a selector for the module, as an alternative to clicking the map, with the module's properties and actions."""
    name = draft.inspected(info)
    st.session_state[MODULE] = name
    st.selectbox(
        "Module",
        [spec.name for spec in info.modules],
        key=MODULE,
        on_change=lambda: draft.inspect(st.session_state[MODULE]),
        help="Choose a module here or click its cell in the map.",
    )
    row = table[table["module"] == name].iloc[0]
    error_text = f"  \n{plain(sentence_start(results.error_words(row, ratio)))}." if ratio else ""
    share = plain(results.percent(row["share"]))
    size = f"**{row['rows']:,} x {row['cols']:,}** = {row['parameters']:,} parameters, {share} of the model."
    st.markdown(f"{size}{error_text}  \n{plain(sentence_start(row['orientation']))}.  \n{code(row['path'])}")
    st.caption(plain(f"{row['status'].capitalize()}. {'In your plan.' if row['in_plan'] else 'Not in your plan.'}"))
    _actions(info, table, name)


def _actions(info: ModelInfo, table: pd.DataFrame, name: str) -> None:
    """Show buttons that inspect the selected module, compress it, or compress all modules of its kind."""
    kind = results.same_row(table, name)
    with st.container(horizontal=True):
        if st.button("Inspect it", key="model_inspect", icon=":material/search:"):
            draft.inspect(name)
            st.switch_page("pages/inspect.py")
        if st.button("Compress it", key="model_compress", icon=":material/compress:", help="Compress only this module."):
            _compress(info, [name])
        if len(kind) > 1 and st.button(
            "Compress all of its kind",
            key="model_compress_kind",
            icon=":material/view_column:",
            help=plain(f"Compress only these {len(kind)} modules: {', '.join(kind[:6])}{', ...' if len(kind) > 6 else ''}"),
        ):
            _compress(info, kind)


def _compress(info: ModelInfo, names: list[str]) -> None:
    draft.choose(info, names)
    st.switch_page("pages/compress.py")


def _offer_spectra(info: ModelInfo, errors: dict[str, float]) -> None:
    """On request, compute the missing spectra in a separate process and poll until they are ready."""
    requested: Plan | None = st.session_state.get(REQUESTED)
    plan = results.spectra_plan(info, errors)
    unknown = {group.modules for group in plan.groups}
    if requested is not None and requested.model == info.model and unknown & {group.modules for group in requested.groups}:
        activity = f"Computing {_spectra(requested)}. The map will fill in when this is done."
        wait_for(partial(request_spectra, info, requested), partial(st.info, activity))
    elif plan.groups:
        seconds = results.spectra_seconds(info, plan)
        label = f"Compute {_spectra(plan)} (about {seconds:.0f} s)"
        if st.button(plain(label), key="model_spectra_button", icon=":material/calculate:", help=SPECTRA_HELP):
            st.session_state[REQUESTED] = plan
            st.rerun()
    rounded_to = results.rounded_to(_storage()[1], info.modules)
    start = f"SVD errors before rounding to {rounded_to}" if rounded_to else "Exact SVD errors"
    st.caption(plain(f"{start} for each separate matrix, from singular values that are bundled or cached on this machine."))


def _spectra(plan: Plan) -> str:
    return f"{len(plan.groups)} missing spectra" if len(plan.groups) > 1 else "the missing spectrum"


def _show_shares(info: ModelInfo) -> None:
    """Show the whole model as a single bar, divided by kind."""
    table = share_table(info)
    alt = "Share of all parameters by kind, as one bar; the table below has the numbers."
    config = {"displayModeBar": False}
    st.plotly_chart(share_figure(table, palette()), theme=None, key="model_shares", alt=alt, config=config)
    _show_table(info, table, "shares")
    if note := unlisted_note(info.unlisted, info.num_parameters):
        st.caption(plain(note))


def _show_table(info: ModelInfo, table: pd.DataFrame, purpose: str, **settings: str | float) -> None:
    """Show a chart's table, with a download that includes the model and the settings."""
    with st.expander("Show as a table"):
        shown = table.drop(columns=HIDDEN, errors="ignore")
        if "share" in shown:
            shown = shown.assign(share=100 * shown["share"])
        show_table(shown, f"model_{purpose}_table", names=NAMES, formats=FORMATS)
        make = partial(results.exported, table, info, **settings)
        csv_button(f"{purpose.capitalize()}, CSV", f"offcomp-model-{purpose}.csv", f"model_csv_{purpose}", make)


def _show_recognised(info: ModelInfo) -> None:
    """List all weights, unrecognised ones first, and state whether each is recognised by name."""
    with st.expander("Which weights are recognised?", expanded=not info.family):
        st.markdown(plain(results.recognised_answer(info)))
        table = map_table(info)
        order = table.assign(known=table["status"] == RECOGNISED).sort_values("known", kind="stable").index
        listed = table.loc[order, ["module", "status", "kind", "rows", "cols", "path"]]
        show_table(listed, "model_recognised_table", names=NAMES, formats=FORMATS)
