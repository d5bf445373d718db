"""A segmented control for choosing one option, which keeps its state across pages."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from offcomp.ui import draft
from offcomp.ui.escape import plain


def choose_one(
    label: str,
    titles: Mapping[str, str],
    key: str,
    *,
    parameter: str = "",
    description: str = "",
    show_label: bool = True,
    wrap: bool | None = None,
) -> str:
    """Let the user choose an option; the first is the default. If `parameter` is set, the choice is part of the link."""
    if parameter:
        draft.view(parameter, key, list(titles))
    elif st.session_state.get(key) not in titles:
        st.session_state[key] = next(iter(titles))
    chosen = st.segmented_control(
        plain(label),
        list(titles),
        format_func=lambda name: plain(titles[name]),
        key=key,
        required=True,
        persist_state="session",
        help=plain(description) or None,
        wrap=wrap,
        label_visibility="visible" if show_label else "collapsed",
    )
    return str(chosen)
