"""The budget: a ratio or another target, how it is spent, and how numbers are stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import streamlit as st

from offcomp.models.catalogue import ModelInfo
from offcomp.numerics.accounting import DTYPE_CHOICES, UNITS
from offcomp.planning.data.metrics import METRICS
from offcomp.planning.data.tasks import find_task
from offcomp.results.targets import PER_POINT, SCORE, SENSITIVITY, WEIGHTINGS, Target, parse_target
from offcomp.ui import draft
from offcomp.ui.escape import plain
from offcomp.ui.link import RATIOS

UNIT_HELP = "Compression papers usually count parameters; bytes determine the size on disk."
DTYPE_HELP = "stored: keep the dtype of the checkpoint, so all savings come from the method."
BUDGET = "panel_budget_kind"
BUDGETS = {
    "ratio": "a compression ratio",
    "rank": "a rank",
    "energy": "a share of the energy",
    "megabytes": "the size of the whole model",
    "error": "a relative error",
    "loss": "a drop in the score",
}
BUDGET_HELP = "A plan that meets the budget is shown at once: sizes and errors are known or estimated before the run."
ALLOCATE_HELP = "Instead of the same ratio for every group, give more bytes to groups whose compression costs most per byte."
WEIGHTING = {SCORE: "errors and measured scores", SENSITIVITY: "sensitivity of the model"}
WEIGHTING_HELP = (
    "Errors: give more bytes to the groups whose error falls fastest, weighted by how much the task depends on each group if "
    "this has been measured. Works only for SVD, whose errors are known at every rank. Sensitivity: compress each group alone "
    "at a few ratios, measure how much the outputs change on the calibration text, and minimise the sum of these changes. "
    "Works for every method."
)
EQUAL_HELP = "Methods end up at slightly different sizes. This sets all of them to the largest size that they have in common."
TARGETS: dict[str, tuple[str, Any, Any, Any]] = {
    "rank": ("Rank of every group", 1, 100_000, 8),
    "energy": ("Share of the energy that every group keeps", 0.01, 1.0, 0.05),
    "megabytes": ("Size of the whole model in MB, now {}", 0.001, 1e6, 1.0),
    "error": ("Relative error over the chosen weights, at most", 0.001, 1.0, 0.05),
    "loss": ("Lose at most this many {} of {}", 0.01, 100.0, 0.5),
}
"""Kind of target -> title, smallest and largest value, step."""
FIRST_SHARE = 0.8
"""The initial target size, as a share of the whole model."""


def choose_size(info: ModelInfo) -> None:
    """Let the user choose the size: the ratio by a slider, or the value of another target."""
    if st.session_state["target"]:
        _choose_target_value(parse_target(st.session_state["target"]), info)
    else:
        st.select_slider(
            "Compression ratio of the chosen weights",
            RATIOS,
            key="ratio",
            format_func=lambda value: f"{value:g}x",
            persist_state="session",
        )


def _choose_target_value(target: Target, info: ModelInfo) -> None:
    title, low, high, step = TARGETS[target.kind]
    scale = PER_POINT if target.kind == "loss" else 1
    if target.kind == "loss":
        title = title.format("per cent" if target.relative else "points", target.task or "the first task")
    if target.kind == "megabytes":
        title = title.format(f"{info.num_bytes / 1e6:.1f}")
    key = f"panel_target_{target.kind}"
    st.session_state[key] = type(step)(target.value * scale)

    def change() -> None:
        st.session_state["target"] = str(replace(target, value=st.session_state[key] / scale))

    shown = "%d" if isinstance(step, int) else "%.3g"
    st.number_input(plain(title), low, high, step=step, format=shown, key=key, on_change=change)


def _first_target(kind: str, info: ModelInfo) -> str:
    """Return the initial target of this kind."""
    tasks = [find_task(name) for name in draft.tasks(info)]
    scored = next((task for task in tasks if METRICS[task.kind.metric].most == 1 or "perplexity" in task.kind.metric), None)
    first = {
        "ratio": "",
        "rank": "rank 64",
        "energy": "energy 0.9",
        "megabytes": f"{max(1, round(info.num_bytes * FIRST_SHARE / 1e6))} MB",
        "error": "error 0.3",
        "loss": "lose 1 point",
    }[kind]
    if kind == "loss" and scored:
        first = f"lose {'5 %' if 'perplexity' in scored.kind.metric else '1 point'} of {scored.name}"
    return first


def choose_budget(info: ModelInfo) -> None:
    """Let the user choose what the budget is, how it is spent, the storage dtype and the seed."""
    current = st.session_state["target"]
    st.session_state[BUDGET] = parse_target(current).kind if current else "ratio"

    def change() -> None:
        st.session_state["target"] = _first_target(st.session_state[BUDGET], info)

    st.selectbox(
        "The budget is", list(BUDGETS), format_func=BUDGETS.__getitem__, key=BUDGET, on_change=change, help=BUDGET_HELP
    )
    st.toggle("Spend it where it matters most", key="allocate", persist_state="session", help=ALLOCATE_HELP)
    if st.session_state["allocate"]:
        _radio("Estimate the cost of a group from", WEIGHTINGS, "weighting", WEIGHTING_HELP, WEIGHTING.__getitem__)
    st.toggle("Same bytes for all methods", key="equal_bytes", persist_state="session", help=EQUAL_HELP)
    _radio("The ratio counts", UNITS, "unit", UNIT_HELP)
    _radio("Store numbers as", DTYPE_CHOICES, "dtype", DTYPE_HELP)
    st.number_input("Seed", 0, 2**31 - 1, key="seed", persist_state="session")


def _radio(label: str, options: Sequence[str], key: str, description: str, shown: Callable[[str], str] = str) -> str:
    return str(
        st.radio(
            plain(label),
            options,
            key=key,
            horizontal=True,
            persist_state="session",
            help=plain(description) or None,
            format_func=lambda option: plain(shown(option)),
        )
    )
