"""What is known about each method at the chosen ratio: stored size, error, and where the error comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from offcomp.methods import method_of_style_key
from offcomp.planning.sizes import Prediction
from offcomp.results.bundled import origin
from offcomp.results.known_errors import Estimated, Measured
from offcomp.results.sentences import origin_text
from offcomp.ui.compress.choices import Choices
from offcomp.ui.escape import plain, plain_table

CARDS_ABREAST = 2
FROM_SPECTRA = (
    "Computed from the singular values of the chosen groups, which are bundled or were computed and cached here: "
    "the square root of the fraction of the energy that the rank discards."
)
NO_MEASUREMENT = "No measurement with these options is close enough for an estimate. A run measures it."


@dataclass(frozen=True)
class Answer:
    """What is known about one method at the chosen ratio, as text. `about` gives the error's source briefly, `help` in full."""

    style_key: str
    title: str
    parameters: str
    megabytes: str
    ratio: str
    error: str
    about: str
    help: str


@dataclass(frozen=True)
class Known:
    """What is known about a plan's error: exact from the spectrum, else measured, else estimated, else nothing."""

    exact: float | None = None
    measured: Measured | None = None
    estimated: Estimated | None = None


def answer_of(style_key: str, choices: Choices, prediction: Prediction, known: Known) -> Answer:
    """Build the answer of one method."""
    sizes = prediction.model["chosen"]
    return Answer(
        style_key,
        method_of_style_key(style_key).title,
        f"{sizes['parameters_after']:,}",
        f"{sizes['bytes_after'] / 1e6:.2f}",
        f"{sizes[choices.unit.removesuffix('s') + '_ratio']:.2f}x",
        *_error(choices, prediction, known),
    )


def _error(choices: Choices, prediction: Prediction, known: Known) -> tuple[str, str, str]:
    """Relative error over all chosen weights, empty if unknown, and its source in brief and in full."""
    if not prediction.feasible:
        return "", "this size is out of reach", ""
    if known.exact is not None and not choices.rounded_to:
        return f"{known.exact:.3f}", "exact", f"Exact. {FROM_SPECTRA}"
    if known.measured is not None:
        run = known.measured.run
        about = "bundled measurement" if origin(run) == "bundled" else "measured by you"
        return f"{known.measured.relative_error:.3f}", about, f"Measured. {origin_text(run)}"
    if known.exact is not None:
        about = f"before rounding to {choices.rounded_to}"
        return f"{known.exact:.3f}", f"estimated: {about}", f"Estimated, {about}. {FROM_SPECTRA}"
    if known.estimated is not None:
        help_text = f"{known.estimated.basis} A run measures it."
        error = known.estimated.relative_error
        return f"about {error:.2f}" if error >= 0.1 else f"about {error:.2g}", "estimated", help_text
    return "", "run it to measure it", NO_MEASUREMENT


def show_answers(answers: Sequence[Answer], ratio: float, unit: str) -> None:
    """Show one card per method, or a table if there are many."""
    if len(answers) > CARDS_ABREAST:
        st.table(plain_table(pd.DataFrame([_line(answer) for answer in answers])), hide_index=True, border="horizontal")
        return
    for column, answer in zip(st.columns(max(1, len(answers))), answers, strict=False):
        with column.container(border=True, key=f"card_{answer.style_key}"):
            _card(answer, ratio, unit)


def _line(answer: Answer) -> Mapping[str, str]:
    return {
        "Method": answer.title,
        "Relative error": ", ".join(text for text in (answer.error, answer.about) if text),
        "Smaller": answer.ratio,
        "MB": answer.megabytes,
        "Parameters": answer.parameters,
    }


def _card(answer: Answer, ratio: float, unit: str) -> None:
    stored, other = answer.parameters, f"{answer.megabytes} MB"
    if unit == "bytes":
        stored, other = other, f"{answer.parameters} parameters"
    st.markdown(f"**{plain(answer.title)}** at {ratio:g}x")
    st.metric(
        plain(f"Stored {unit}"), plain(stored), plain(f"{answer.ratio} smaller, {other}"), delta_color="off", delta_arrow="off"
    )
    st.metric(
        "Relative error",
        plain(answer.error or "not measured"),
        plain(answer.about),
        delta_color="off",
        delta_arrow="off",
        help=plain(answer.help) if answer.help else None,
    )
