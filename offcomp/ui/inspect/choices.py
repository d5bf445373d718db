"""Controls of the Inspect page: a module and a rank, both part of the link."""

from __future__ import annotations

import numpy as np
import streamlit as st

from offcomp.models.catalogue import BYTES_PER_VALUE, ModelInfo, ModuleSpec
from offcomp.models.families import KIND_TITLES
from offcomp.numerics.accounting import storage_dtype
from offcomp.planning.spectrum import DENSE, svd_rank
from offcomp.results.inspect import break_even
from offcomp.ui import draft
from offcomp.ui.escape import plain

MODULE = "inspect_module"
RANK_HELP = (
    "How many components of the singular value decomposition are kept. "
    "The default is the rank that the draft's compression ratio allows."
)


def choose_module(info: ModelInfo) -> ModuleSpec:
    """Ask for the module to inspect."""
    specs = {spec.name: spec for spec in info.modules}
    st.session_state[MODULE] = draft.inspected(info)

    def looked_at() -> None:
        draft.inspect(st.session_state[MODULE])
        st.query_params.pop("rank", None)

    name = st.selectbox(
        "Weight matrix",
        list(specs),
        format_func=lambda name: _title(specs[name]),
        key=MODULE,
        on_change=looked_at,
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


def choose_rank(info: ModelInfo, spec: ModuleSpec) -> int:
    """Ask for a rank; the default is the one in the link, else the one SVD gets at the draft's ratio."""
    most = min(spec.shape)
    if most == 1:
        st.caption(f"A {spec.rows:,} x {spec.cols:,} matrix has one singular value: rank 1 is the matrix itself.")
        return 1
    usual = _usual_rank(spec)
    key = f"inspect_rank_{info.fingerprint[:8]}_{spec.name}_{usual}"
    if key not in st.session_state:
        st.session_state[key] = _asked_rank(most, spec.name) or usual
    rank = int(st.slider("Rank", 1, most, key=key, persist_state="session", help=RANK_HELP))
    draft.note("rank", str(rank), str(usual))
    return rank


def _usual_rank(spec: ModuleSpec) -> int:
    """The rank that the draft's ratio allows; if dense storage meets the ratio, the largest rank that saves anything."""
    state = st.session_state
    dtype = storage_dtype(state["dtype"], [spec.dtype])
    rank = svd_rank(spec.shape, float(state["ratio"]), state["unit"], dtype, BYTES_PER_VALUE[spec.dtype])
    return int(np.clip(break_even(*spec.shape) if rank == DENSE else rank, 1, min(spec.shape)))


def _asked_rank(most: int, name: str) -> int | None:
    """The rank in the URL; one that the matrix does not have is reported and ignored."""
    text = st.query_params.get("rank", "")
    if text.isdecimal() and 1 <= int(text[:9]) <= most:
        return int(text[:9])
    if text:
        asked = text[:20]
        st.warning(plain(f"The link asks for rank {asked}, but {name} has ranks 1 to {most}."), icon=":material/link_off:")
    return None
