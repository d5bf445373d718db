"""Cards that describe each method at the chosen ratio: stored size, error, and the source of the error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from offcomp.methods import method_of_style_key
from offcomp.models.catalogue import ModelInfo
from offcomp.planning.size_notes import unlisted_note
from offcomp.planning.sizes import Prediction
from offcomp.results.bundled import origin
from offcomp.results.known_errors import Estimated, Measured
from offcomp.results.sentences import origin_text
from offcomp.ui.charts import show_metric
from offcomp.ui.compress.choices import Choices
from offcomp.ui.escape import plain, plain_table

CARDS_ABREAST = 2
FROM_SPECTRA = (
    "Computed from the singular values of the chosen groups, which are bundled or cached on this machine: "
    "the square root of the fraction of the energy that the truncation discards."
)
NO_MEASUREMENT = "No measurement with these options is close enough to base an estimate on. Start a run to measure the error."


@dataclass(frozen=True)
class Known:
    """What is known about a plan's error: the exact value from the spectrum, a measurement, an estimate, or nothing."""

    exact: float | None = None
    measured: Measured | None = None
    estimated: Estimated | None = None


def show_answers(choices: Choices, ratio: float, predictions: Mapping[str, Prediction], known: Mapping[str, Known]) -> None:
    """Show one card per method, or a single table for many methods."""
    if len(predictions) > CARDS_ABREAST:
        rows = [_row(choices, style_key, prediction, known[style_key]) for style_key, prediction in predictions.items()]
        st.table(plain_table(pd.DataFrame(rows)), hide_index=True, border="horizontal")
        return
    for column, (style_key, prediction) in zip(st.columns(max(1, len(predictions))), predictions.items(), strict=False):
        with column.container(border=True, key=f"card_{style_key}"):
            st.markdown(f"**{plain(method_of_style_key(style_key).title)}** at {ratio:g}x")
            _show_card(choices, prediction, known[style_key])


def _row(choices: Choices, style_key: str, prediction: Prediction, known: Known) -> dict[str, str]:
    """Return one method's error and sizes as a table row."""
    parameters, megabytes, smaller = _sizes(choices, prediction)
    error, source, _ = _error(choices, prediction, known)
    return {
        "Method": method_of_style_key(style_key).title,
        "Relative error": ", ".join(filter(None, (error, source))),
        "Smaller": smaller,
        "MB": megabytes,
        "Parameters": parameters,
    }


def _show_card(choices: Choices, prediction: Prediction, known: Known) -> None:
    """Show one method's stored size and relative error as two metrics."""
    parameters, megabytes, smaller = _sizes(choices, prediction)
    stored, equivalent = parameters, f"{megabytes} MB"
    if choices.unit == "bytes":
        stored, equivalent = equivalent, f"{parameters} parameters"
    error, source, details = _error(choices, prediction, known)
    show_metric(f"Stored {choices.unit}", stored, f"{smaller} smaller, {equivalent}")
    show_metric("Relative error", error or "not measured", source, details)


def _sizes(choices: Choices, prediction: Prediction) -> tuple[str, str, str]:
    """Return the stored parameters, the megabytes and the compression ratio of the chosen weights."""
    sizes = prediction.model.chosen
    return f"{sizes.parameters_after:,}", f"{sizes.bytes_after / 1e6:.2f}", f"{sizes.ratio(choices.unit):.2f}x"


def _error(choices: Choices, prediction: Prediction, known: Known) -> tuple[str, str, str]:
    """Return the relative error over all chosen weights (empty if unknown), with a short and a long note on its source."""
    if not prediction.feasible:
        return "", "this size cannot be reached", ""
    if known.exact is not None and not choices.rounded_to:
        return f"{known.exact:.3f}", "exact", f"Exact. {FROM_SPECTRA}"
    if known.measured is not None:
        run = known.measured.run
        source = "bundled measurement" if origin(run) == "bundled" else "measured by you"
        return f"{known.measured.relative_error:.3f}", source, f"Measured. {origin_text(run)}"
    if known.exact is not None:
        before = f"before rounding to {choices.rounded_to}"
        return f"{known.exact:.3f}", f"estimated: {before}", f"Estimated, {before}. {FROM_SPECTRA}"
    if known.estimated is not None:
        error = known.estimated.relative_error
        rounded = f"{error:.2f}" if error >= 0.1 else f"{error:.2g}"
        return f"about {rounded}", "estimated", f"{known.estimated.basis} Start a run to measure the error."
    return "", "start a run to measure it", NO_MEASUREMENT


def show_predicted_notes(info: ModelInfo, predictions: Mapping[str, Prediction]) -> None:
    """Show caveats about the sizes: one line per method that has any, and one for parameters outside the matrices."""
    for style_key, prediction in predictions.items():
        if prediction.notes:
            st.caption(f"**{plain(method_of_style_key(style_key).title)}.** {plain(' '.join(prediction.notes))}")
    if note := unlisted_note(info.unlisted, info.num_parameters):
        st.caption(plain(note))
