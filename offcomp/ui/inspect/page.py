"""The Inspect page: choose a module, a rank and methods, see what each keeps and loses, and view the spectrum of the module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from offcomp.files import home_folder
from offcomp.models.catalogue import BYTES_PER_VALUE, ModelInfo, ModuleSpec
from offcomp.models.families import KIND_TITLES
from offcomp.numerics.accounting import storage_dtype
from offcomp.planning.matrix_view import ORDERS, Picture, View, read_view, view_path
from offcomp.planning.spectra import find
from offcomp.planning.spectrum import DENSE, MatrixSpectrum, svd_rank
from offcomp.results import inspect as results
from offcomp.results.charts import inspect as charts
from offcomp.results.charts.reconstructions import LINES_PIXELS, MAP_PIXELS
from offcomp.results.reconstructions import Reconstruction, figure_table, reconstructions_answer
from offcomp.ui import draft
from offcomp.ui.charts import csv_button, draw, show_table
from offcomp.ui.escape import code, plain
from offcomp.ui.frame import fragment, palette
from offcomp.ui.inspect.entry import show_entry
from offcomp.ui.inspect.methods import choose_methods, shown_methods
from offcomp.ui.inspect.reconstructions import show_maps, show_rows
from offcomp.ui.jobs import request_view, wait_for
from offcomp.ui.lab.answers import Lab
from offcomp.ui.switch import choose_one

MODULE, ORDER = "inspect_module", "inspect_order"
NAMES = results.SPECTRUM_COLUMNS | {"first": "From", "last": "To", "norm": "Length", "norm_error": "Length error"}
RANK_HELP = (
    "The number of components of the singular value decomposition to keep. All methods are shown at about its size in bytes. "
    "The default is the rank that the draft's compression ratio allows."
)
ORDER_HELP = (
    "By norm: the largest rows and columns come first, which shows whether a few of them account for most of the energy."
)


def show_matrix(lab: Lab) -> None:
    """Draw everything below the plan, as a fragment of its own so that changing the rank does not redraw the plan."""
    info = lab.choices.info
    if info.modules:
        st.fragment(_show_matrix)(lab)
    else:
        st.info(f"{plain(info.model)} has no weight matrices. Choose another model.")


@fragment()
def _show_matrix(lab: Lab) -> None:
    info = lab.choices.info
    left, right = st.columns([5, 7], gap="medium")
    with left:
        spec = _choose_module(info)
    draft.view("order", ORDER, list(ORDERS))
    order = str(st.session_state[ORDER])
    view = read_view(view_path(info, spec, home_folder()), spec.shape, order)
    values = find(info, (spec,), "rows", home_folder()) if view is None else view.values
    if values is None:
        st.markdown(
            plain(f"{spec.name} is a {spec.rows:,} x {spec.cols:,} matrix. Its singular values have not been computed yet.")
        )
        _wait(info, spec)
        return
    with right:
        rank = _choose_rank(info, spec)
    table = results.spectrum_table(MatrixSpectrum(*spec.shape, values))
    place = st.container()
    answer = results.spectrum_answer(table, spec.name, rank)
    if view is None:
        _show_answer(place, info, spec, answer)
        _show_spectrum(spec, table, rank)
        _wait(info, spec)
    else:
        found = _show_methods(lab, spec, view, rank, order)
        compared = reconstructions_answer(found, spec.name) if len(found) > 1 else ""
        _show_answer(place, info, spec, compared or answer)
        st.subheader("How well can SVD compress it at each rank?")
        if compared:
            st.markdown(plain(answer))
        _show_spectrum(spec, table, rank)
        _show_picture_tables(info, spec, view, found, order)
    _offer(info, spec, "Singular values as a table", "spectrum", lambda: table)
    _show_sources(info, spec, bundled=view is None)


def _show_methods(lab: Lab, spec: ModuleSpec, view: View, rank: int, order: str) -> list[Reconstruction]:
    """Show the methods side by side, and return the reconstructions that are known."""
    left, right = st.columns([8, 3], gap="medium", vertical_alignment="center")
    with left:
        chosen = choose_methods(lab.choices)
    with right:
        choose_one("Rows and columns", ORDERS, ORDER, description=ORDER_HELP, show_label=False)
    shown = shown_methods(lab, spec, view, chosen, rank=rank, order=order)
    show_maps(lab, spec, view, shown, order)
    found = [one.found for one in shown if one.found]
    if found:
        show_rows(spec, view, found)
        show_entry(lab.choices.info, spec, found, rank)
    return found


def _choose_module(info: ModelInfo) -> ModuleSpec:
    """Let the user choose the module to inspect."""
    specs = {spec.name: spec for spec in info.modules}
    st.session_state[MODULE] = draft.inspected(info)

    def pick() -> None:
        draft.inspect(st.session_state[MODULE])
        st.query_params.pop("rank", None)

    name = st.selectbox(
        "Weight matrix",
        list(specs),
        format_func=lambda name: _title(specs[name]),
        key=MODULE,
        on_change=pick,
        help=f"Matrices of {plain(info.model)}; choose another model on the Model page. Type to search.",
    )
    return specs[name]


def _title(spec: ModuleSpec) -> str:
    size = f"{spec.rows:,} x {spec.cols:,}"
    if spec.kind not in KIND_TITLES:
        return f"{spec.name}, {size}"
    layer = "" if spec.layer is None else f" of layer {spec.layer}"
    title = f"{spec.part} {KIND_TITLES[spec.kind]}{layer}, {size}".strip()
    return title[0].upper() + title[1:]


def _choose_rank(info: ModelInfo, spec: ModuleSpec) -> int:
    """Let the user choose a rank; the default is the rank in the link, else the rank of SVD at the draft's ratio."""
    max_rank = min(spec.shape)
    if max_rank == 1:
        st.caption(f"A {spec.rows:,} x {spec.cols:,} matrix has only one singular value, so rank 1 is the matrix itself.")
        return 1
    default_rank = _default_rank(spec)
    key = f"inspect_rank_{info.fingerprint[:8]}_{spec.name}_{default_rank}"
    if key not in st.session_state:
        st.session_state[key] = _linked_rank(max_rank, spec.name) or default_rank
    rank = int(st.slider("Rank", 1, max_rank, key=key, persist_state="session", help=RANK_HELP))
    draft.note("rank", str(rank), str(default_rank))
    return rank


def _default_rank(spec: ModuleSpec) -> int:
    """Return the rank that the draft's ratio allows; if dense storage meets the ratio, the largest rank that saves space."""
    state = st.session_state
    dtype = storage_dtype(state["dtype"], [spec.dtype])
    rank = svd_rank(spec.shape, float(state["ratio"]), state["unit"], dtype, BYTES_PER_VALUE[spec.dtype])
    return int(np.clip(results.break_even(*spec.shape) if rank == DENSE else rank, 1, min(spec.shape)))


def _linked_rank(max_rank: int, name: str) -> int | None:
    """Return the rank in the URL; a rank that is out of range for the matrix is reported and ignored."""
    text = st.query_params.get("rank", "")
    if text.isdecimal() and 1 <= int(text[:9]) <= max_rank:
        return int(text[:9])
    if text:
        fault = f"The link asks for rank {text[:20]}, but for {name} the rank must be between 1 and {max_rank}."
        st.warning(plain(fault), icon=":material/link_off:")
    return None


def _show_answer(place: DeltaGenerator, info: ModelInfo, spec: ModuleSpec, answer: str) -> None:
    """Show the answer and the button that compresses the matrix."""
    text_column, button_column = place.columns([5, 1], vertical_alignment="center")
    text_column.markdown(plain(answer))
    if button_column.button("Compress it", key="inspect_compress", icon=":material/compress:", width="stretch"):
        draft.choose(info, [spec.name])
        st.switch_page("pages/compress.py")


def _show_spectrum(spec: ModuleSpec, table: pd.DataFrame, rank: int) -> None:
    """Plot the singular values, and beside them the energy and the stored parameters at each rank."""
    left, right = st.columns(2, gap="large")
    with left:
        alt = f"Singular values of {spec.name} and of a random matrix on a log scale, with filled marks up to rank {rank}."
        draw(charts.spectrum_figure(table, rank, palette()), "inspect_spectrum", alt)
    with right:
        alt = f"Energy kept and parameters stored at each rank of {spec.name}, in per cent, with rank {rank} marked."
        draw(charts.energy_figure(table, rank, palette()), "inspect_energy", alt)


def _show_picture_tables(info: ModelInfo, spec: ModuleSpec, view: View, found: Sequence[Reconstruction], order: str) -> None:
    """Show the data of the maps and the rows as tables, each built only when opened."""
    if not found:
        return

    def of_each(make: Callable[[View, Picture], pd.DataFrame]) -> pd.DataFrame:
        return pd.concat([make(view, each.picture).assign(method=each.title, size=each.size) for each in found])

    _offer(info, spec, "Methods as a table", "methods", lambda: figure_table(found))
    _offer(info, spec, "Block energies as a table", "blocks", lambda: of_each(results.block_table), order=ORDERS[order])
    _offer(info, spec, "Rows as a table", "rows", lambda: of_each(results.row_table))


def _show_sources(info: ModelInfo, spec: ModuleSpec, *, bundled: bool) -> None:
    """State where the numbers come from."""
    source = "bundled or cached" if bundled else "computed on this machine from the weights"
    st.caption(
        f"Singular values: {source}; nothing is estimated. Energy is the squared norm; rank r keeps the sum of the r largest "
        "squared singular values (Eckart and Young 1936). Random: a Gaussian matrix of the same shape and norm, from the "
        f"Marchenko-Pastur law (1967). {code(f'offcomp inspect {info.model} {spec.name}')} prints the same numbers."
    )


def _offer(
    info: ModelInfo, spec: ModuleSpec, label: str, purpose: str, make: Callable[[], pd.DataFrame], **settings: Any
) -> None:
    """Show a table and its download in an expander; `settings` are added to every row of the download."""
    section = st.expander(plain(label), key=f"inspect_{purpose}_open", on_change="rerun")
    if not section.open:
        return
    table = make()
    with section:
        show_table(table, f"inspect_{purpose}_table", names=NAMES, formats=_formats(table), height=300)
        exported = partial(results.exported, table.assign(**settings), info, spec)
        csv_button("Download as CSV", f"offcomp-{spec.name}-{purpose}.csv", f"inspect_{purpose}_csv", exported)


def _formats(table: pd.DataFrame) -> dict[str, Any]:
    """Format floats with four significant digits and parameter counts with thousands separators."""
    column = st.column_config.NumberColumn
    formats = {name: column(format="%.4g") for name in table.columns if table[name].dtype == np.float64}
    return formats | {"stored_parameters": column(format="localized"), "rank": column(format="%d")}


def _wait(info: ModelInfo, spec: ModuleSpec) -> None:
    """Show placeholders and poll until the pictures are ready, or explain why there are none."""
    wait_for(partial(request_view, info, spec), partial(_show_skeletons, spec))


def _show_skeletons(spec: ModuleSpec) -> None:
    st.caption(plain(f"Reading the weights of {spec.name}; the result is then cached. Pictures will appear in a few seconds."))
    for column in st.columns(3, gap="small"):
        column.skeleton(height=MAP_PIXELS)
    st.skeleton(height=LINES_PIXELS)
