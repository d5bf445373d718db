"""Notes that qualify the sizes shown above them: on Compress before a run, on Compare after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from offcomp.methods import method_of_style_key
from offcomp.models.catalogue import ModelInfo
from offcomp.planning.size_notes import size_notes, unlisted_note
from offcomp.planning.sizes import Prediction
from offcomp.results.runs import result_of, short_names
from offcomp.runs.store import Run
from offcomp.ui.escape import plain

MOST_RUNS = 4


def show_predicted_notes(info: ModelInfo, predictions: Mapping[str, Prediction]) -> None:
    """One line per method with notes, and one for parameters that are in no matrix."""
    for style_key, prediction in predictions.items():
        if prediction.notes:
            st.caption(f"**{plain(method_of_style_key(style_key).title)}.** {plain(' '.join(prediction.notes))}")
    if note := unlisted_note(info.unlisted, info.num_parameters):
        st.caption(plain(note))


def show_measured_notes(runs: Sequence[Run]) -> None:
    """One line per run, for the first few runs with notes."""
    names = short_names(runs)
    noted = [(names[run.id], notes) for run in runs if (notes := size_notes(result_of(run)["groups"]))]
    for name, notes in noted[:MOST_RUNS]:
        st.caption(plain(f"{name}: {' '.join(notes)}"))
    if len(noted) > MOST_RUNS:
        st.caption(f"Notes on the sizes of {len(noted) - MOST_RUNS} more runs are in 'offcomp show' and in the report.")
