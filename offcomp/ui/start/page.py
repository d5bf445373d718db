"""The Start page: one slider that stores a real model in fewer bytes, and what three methods make of it. From bundled files."""

from __future__ import annotations

import streamlit as st

from offcomp.methods import method_of_style_key, options_of, own_options
from offcomp.results.charts.start_cards import CSS, start_html
from offcomp.results.start import RATIOS, TITLES, Demo, read_demo
from offcomp.results.start_words import what_happened
from offcomp.ui import draft
from offcomp.ui.atlas.frontier import show_winner
from offcomp.ui.escape import plain
from offcomp.ui.frame import fragment, palette, style
from offcomp.ui.start.own import own_sentence
from offcomp.ui.switch import choose_one

KIND, TEXT, RATIO = "start_kind", "start_text", "start_ratio"
FIRST_RATIO = 8.0
DEFAULT_FIRST = (FIRST_RATIO, *(ratio for ratio in RATIOS if ratio != FIRST_RATIO))
"""The sizes; the one with which the page opens comes first."""


def show_start() -> None:
    """Draw the slider and everything that follows it; moving it reruns nothing else."""
    style(CSS)
    st.fragment(_start)()
    show_winner("minilm-l6")


@fragment()
def _start() -> None:
    kind = choose_one("What the model does", TITLES, KIND, parameter="does", show_label=False, wrap=True)
    demo = read_demo(kind)
    ratio, index = _choices(demo)
    st.markdown(plain(what_happened(kind, demo, ratio, index)))
    st.html(start_html(demo, ratio, index, palette()))
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button("Open this plan in the Lab", type="primary", key="start_lab", icon=":material/compress:"):
            _open_lab(demo, ratio)
        st.page_link("pages/race.py", label="Race", icon=":material/sports_score:", width="content")
        st.page_link("pages/runs.py", label="Results", icon=":material/list_alt:", width="content")
    own_sentence(demo, ratio)
    st.caption(plain(_provenance(demo)))


def _choices(demo: Demo) -> tuple[float, int]:
    """Let the user choose the size and the text."""
    texts = demo.texts[: demo.num_chosen]
    if st.session_state.get(TEXT) not in texts:
        st.session_state[TEXT] = texts[0]
    draft.view("size", RATIO, DEFAULT_FIRST, lambda ratio: f"{ratio:g}x")
    size, text = st.columns([3, 2], gap="medium", vertical_alignment="bottom")
    ratio = size.select_slider(
        "How many times fewer bytes?", RATIOS, key=RATIO, format_func=lambda ratio: f"{ratio:g}x", persist_state="session"
    )
    chosen = text.selectbox("Text", texts, key=TEXT, persist_state="session")
    return float(ratio), texts.index(chosen)


def _open_lab(demo: Demo, ratio: float) -> None:
    """Go to the Lab with the plans of this size."""
    plans = {lane.style_key: lane.plan_at(ratio if ratio > 1 else FIRST_RATIO) for lane in demo.lanes}
    first = next(iter(plans.values()))
    group = first.groups[0]
    draft.forget_modules()
    st.session_state.update(
        {
            "model": demo.model,
            "draft_modules": tuple(name for each in first.groups for name in each.modules),
            "grouping": "kind",
            "stack": "best",
            "methods": list(plans),
            "ratio": group.ratio,
            "target": "",
            "allocate": False,
            "unit": group.unit,
            "dtype": group.dtype,
            "tasks": tuple(first.tasks),
        }
    )
    for style_key, plan in plans.items():
        method = method_of_style_key(style_key)
        for option in options_of(method):
            if option.name not in own_options(method):
                value = plan.groups[0].options.get(option.name, option.default)
                st.session_state[draft.option_key(style_key, option.name)] = value
    st.switch_page("pages/compress.py")


def _provenance(demo: Demo) -> str:
    versions = ", ".join(f"{name} {demo.environment.get(name)}" for name in ("offcomp", "torch"))
    return (
        f"Bundled measurement: {demo.model}, {demo.date}, {versions}. Sizes count all linear weights and word embeddings, "
        "stored as int8 by SVD and the autoencoder and as entropy-coded integers by the trellis, one group per kind. "
        f"The pictures show the first {demo.rows} x {demo.cols} weights of {demo.module}. "
        "Nothing on this page was computed live, except the answers to your own sentence."
    )
