"""What the page Inspect asks for: a module and a rank; a link has both."""

from __future__ import annotations

import numpy as np
import streamlit as st

from offcomp.inspection import break_even
from offcomp.models.catalogue import BYTES_PER_VALUE, ModelInfo, ModuleSpec
from offcomp.numerics.accounting import storage_dtype
from offcomp.spectra import DENSE, svd_rank
from offcomp.theme import KIND_TITLES
from offcomp.ui import draft
from offcomp.ui.plain import plain

MODULE = "inspect_module"
RANK_HELP = (
    "How many components of the singular value decomposition are kept. "
    "At first as many as the draft's compression ratio leaves room for."
)


def choose_module(info: ModelInfo) -> ModuleSpec:
    """The module of the draft that is looked at."""
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
        help=f"Of {plain(info.model)}; choose another model on the page Model. Type to search.",
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
    """A rank, at first the one that SVD gets at the draft's ratio, or the one that the link asks for."""
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
    """The rank that the draft's ratio leaves room for; the largest that saves something where the ratio asks for nothing."""
    state = st.session_state
    dtype = storage_dtype(state["dtype"], [spec.dtype])
    rank = svd_rank(spec.shape, float(state["ratio"]), state["unit"], dtype, BYTES_PER_VALUE[spec.dtype])
    return int(np.clip(break_even(*spec.shape) if rank == DENSE else rank, 1, min(spec.shape)))


def _asked_rank(most: int, name: str) -> int | None:
    """The rank in the URL; one that the matrix does not have is named and left out."""
    text = st.query_params.get("rank", "")
    if text.isdecimal() and 1 <= int(text[:9]) <= most:
        return int(text[:9])
    if text:
        asked = text[:20]
        st.warning(plain(f"The link asks for rank {asked}, but {name} has the ranks 1 to {most}."), icon=":material/link_off:")
    return None
