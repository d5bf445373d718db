"""What sizes do not say of themselves, under the sizes: on Compress before a run, on Compare after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from offcomp.methods import method_of_role
from offcomp.models.catalogue import ModelInfo
from offcomp.prediction import Prediction
from offcomp.results import result_of, short_names
from offcomp.runs import Run
from offcomp.size_notes import size_notes, unlisted_note
from offcomp.ui.plain import plain

MOST_RUNS = 4


def show_predicted_notes(info: ModelInfo, predictions: Mapping[str, Prediction]) -> None:
    """A line a method, and what of the model is in no matrix."""
    for role, prediction in predictions.items():
        if prediction.notes:
            st.caption(f"**{plain(method_of_role(role).title)}.** {plain(' '.join(prediction.notes))}")
    if note := unlisted_note(info):
        st.caption(plain(note))


def show_measured_notes(runs: Sequence[Run]) -> None:
    """A line a run, of the first few that have something to say."""
    names = short_names(runs)
    noted = [(names[run.id], notes) for run in runs if (notes := size_notes(result_of(run)["groups"]))]
    for name, notes in noted[:MOST_RUNS]:
        st.caption(plain(f"{name}: {' '.join(notes)}"))
    if len(noted) > MOST_RUNS:
        st.caption(f"Sizes of {len(noted) - MOST_RUNS} more runs have notes; 'offcomp show' has them, and so has the report.")
