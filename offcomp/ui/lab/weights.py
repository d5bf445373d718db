"""The grid of weights: a checkbox per kind, a pill per layer, and all other weights below."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import streamlit as st

from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.models.families import KIND_TITLES, PARTS
from offcomp.ui import draft
from offcomp.ui.escape import plain


def _rows(info: ModelInfo) -> dict[tuple[str, str], list[ModuleSpec]]:
    """Return the rows of the grid: the modules compressed by default, grouped by part and kind."""
    rows: dict[tuple[str, str], list[ModuleSpec]] = {}
    for spec in info.modules:
        if spec.default:
            rows.setdefault((spec.part, spec.kind), []).append(spec)
    parts, kinds = ("", *PARTS), list(KIND_TITLES)
    return dict(sorted(rows.items(), key=lambda row: (parts.index(row[0][0]), kinds.index(row[0][1]))))


def choose_modules(info: ModelInfo) -> None:
    """Show a grid with a checkbox per kind and a pill per layer, and all other weights in an expander below it."""
    names = {spec.name for spec in draft.modules(info)}
    for (part, kind), specs in _rows(info).items():
        title = f"{part} {KIND_TITLES[kind]}".strip()
        _choose_row(info, f"{info.fingerprint[:8]}_{part}_{kind}", title, specs, names)
    other_weights = {spec.name: spec for spec in info.modules if not spec.default and min(spec.shape) > 1}
    if other_weights:
        with st.expander("Other weights", expanded=not _rows(info)):
            key = f"others_{info.fingerprint[:8]}"
            st.session_state[key] = [name for name in other_weights if name in names]
            st.multiselect(
                "Poolers, heads, position embeddings and unrecognised weights",
                list(other_weights),
                key=key,
                on_change=lambda: draft.replace(info, other_weights, st.session_state[key]),
                help="These weights are listed by path and compressed only if you choose them.",
            )


def _choose_row(info: ModelInfo, key: str, title: str, specs: Sequence[ModuleSpec], names: set[str]) -> None:
    """Show the grid row of one kind. Its checkbox selects or clears all layers and is ticked if any layer is selected.

    The pill of a layer with several modules, its experts, is on if any of them is selected, and turning it on selects all.
    """
    by_layer: dict[int | str, list[str]] = {}
    for spec in specs:
        by_layer.setdefault("all" if spec.layer is None else spec.layer, []).append(spec.name)
    tick, pills = f"kind_{key}", f"layers_{key}"
    st.session_state[pills] = [layer for layer, modules in by_layer.items() if names & {*modules}]
    st.session_state[tick] = bool(st.session_state[pills])
    row = [spec.name for spec in specs]

    def choose_all_or_none() -> None:
        draft.replace(info, row, row if st.session_state[tick] else ())

    def choose_layers() -> None:
        chosen = [[name for name in by_layer[layer] if name in names] or by_layer[layer] for layer in st.session_state[pills]]
        draft.replace(info, row, list(chain.from_iterable(chosen)))

    with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"row_{key}"):
        st.checkbox(plain(title), key=tick, on_change=choose_all_or_none, width=150)
        st.pills(
            plain(f"{title}: layers"),
            list(by_layer),
            selection_mode="multi",
            key=pills,
            on_change=choose_layers,
            label_visibility="collapsed",
        )
