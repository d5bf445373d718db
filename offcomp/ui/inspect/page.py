"""The Inspect page: choose a module and a rank, see what that rank keeps, and view heat maps once they are available."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from offcomp.files import home_folder
from offcomp.models.catalogue import BYTES_PER_VALUE, ModelInfo, ModuleSpec
from offcomp.models.families import KIND_TITLES
from offcomp.numerics.accounting import storage_dtype
from offcomp.planning.matrix_view import ORDERS, View, read_view, view_path
from offcomp.planning.spectra import find
from offcomp.planning.spectrum import DENSE, MatrixSpectrum, svd_rank
from offcomp.results import inspect as results
from offcomp.results.charts import inspect as charts
from offcomp.ui import draft
from offcomp.ui.charts import csv_button, draw, show_table
from offcomp.ui.escape import code, plain
from offcomp.ui.frame import fragment, palette
from offcomp.ui.jobs import request_view, wait_for
from offcomp.ui.lab.answers import Lab
from offcomp.ui.switch import choose_one

MODULE, ORDER, ZOOMED = "inspect_module", "inspect_order", "inspect_times"
ZOOM = 5
NAMES = results.SPECTRUM_COLUMNS | {"first": "From", "last": "To", "norm": "Length"}
MAPS = (("original", "energy", "Original"), ("reconstruction", "kept", "Rank {}"), ("residual", "residual", "Residual"))
RANK_HELP = (
    "The number of components of the singular value decomposition to keep. "
    "The default is the rank that the draft's compression ratio allows."
)
ORDER_HELP = (
    "By norm: the largest rows and columns come first, which shows whether a few of them account for most of the energy."
)


def show_matrix(lab: Lab) -> None:
    """Draw everything below the plan, as a fragment of its own so that changing the rank does not redraw the plan."""
    info = lab.choices.info
    if info.modules:
        st.fragment(_show_matrix)(info)
    else:
        st.info(f"{plain(info.model)} has no weight matrices. Choose another model.")


@fragment()
def _show_matrix(info: ModelInfo) -> None:
    left, right = st.columns([5, 7], gap="medium")
    with left:
        spec = _choose_module(info)
    draft.view("order", ORDER, list(ORDERS))
    draft.view("residual", ZOOMED, (False, True), lambda zoomed: str(ZOOM if zoomed else 1))
    path = view_path(info, spec, home_folder())
    view = read_view(path, spec.shape, st.session_state[ORDER])
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
    _show_answer(info, spec, results.spectrum_answer(table, spec.name, rank))
    _show_spectrum(spec, table, rank)
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        st.subheader(f"What does rank {rank:d} keep and lose?", width="stretch")
        if view is not None:
            choose_one("Rows and columns", ORDERS, ORDER, description=ORDER_HELP, show_label=False)
            st.toggle(
                f"Residual x{ZOOM}", key=ZOOMED, persist_state="session", help="Amplify the colours of the residual only."
            )
    if view is None:
        _wait(info, spec)
    else:
        _show_maps(spec, view, rank)
        _show_rows(spec, view, rank)
    _show_tables(info, spec, table, view, rank)


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


def _show_answer(info: ModelInfo, spec: ModuleSpec, answer: str) -> None:
    """Show the answer and the button that compresses the matrix."""
    text_column, button_column = st.columns([5, 1], vertical_alignment="center")
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


def _show_maps(spec: ModuleSpec, view: View, rank: int) -> None:
    """Draw the original, the reconstruction and the residual on one colour scale, with bars that show energy."""
    zoomed = bool(st.session_state[ZOOMED])
    maps, blocks = view.maps(rank), results.block_table(view, rank)
    st.markdown(plain(results.blocks_answer(blocks, st.session_state[ORDER])))
    limit = charts.colour_limit(view.original)
    for column, (name, part, title) in zip(st.columns(3, gap="small"), MAPS, strict=True):
        stretched = zoomed and name == "residual"
        figure = charts.map_figure(
            getattr(maps, name),
            blocks,
            part=part,
            limit=limit / ZOOM if stretched else limit,
            shape=spec.shape,
            title=title.format(rank) + (f", colours x{ZOOM}" if stretched else ""),
            palette=palette(),
        )
        with column:
            draw(figure, f"inspect_{name}", f"Heat map of {spec.name}: {title.format(rank)}; the table below has the energies.")
    colours = f"All three use the same colour scale{f', except that the residual is amplified {ZOOM}x' if zoomed else ''}"
    cells = charts.cell_words(spec.shape)
    st.caption(
        plain(
            f"{cells} {colours}: red is positive, blue is negative; 99.5 % of the original's cells are within the scale. "
            "Bars: the exact energy of each block of rows (right) and of columns (top), also on a common scale."
        )
    )


def _show_rows(spec: ModuleSpec, view: View, rank: int) -> None:
    """Plot, against each row's norm, the cosine between the row and its reconstruction."""
    rows = results.row_table(view, rank)
    if not rows.empty:
        alt = f"Cosine between rows of {spec.name} and their reconstructions at rank {rank}, against row norm."
        draw(charts.rows_figure(rows, palette()), "inspect_rows", alt)
    st.caption(plain(results.rows_answer(rows, view, rank)))


def _show_tables(info: ModelInfo, spec: ModuleSpec, spectrum: pd.DataFrame, view: View | None, rank: int) -> None:
    """Show the data as tables, each built only when opened, and state the source of the numbers."""
    _offer(info, spec, "Singular values as a table", "spectrum", lambda: spectrum)
    if view is not None:
        order = ORDERS[st.session_state[ORDER]]
        blocks, rows = partial(results.block_table, view, rank), partial(results.row_table, view, rank)
        _offer(info, spec, "Block energies as a table", "blocks", blocks, rank=rank, order=order)
        _offer(info, spec, "Rows as a table", "rows", rows, rank=rank)
    source = "bundled or cached" if view is None else "computed on this machine from the weights"
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
        column.skeleton(height=charts.MAP_PIXELS)
    st.skeleton(height=charts.ROWS_PIXELS)
