"""The accuracy of estimated scores: the bundled check on plans that were not used to fit the estimates.

Does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from offcomp.files import assets_folder, read_json
from offcomp.planning.data.metrics import METRICS

CHECKED = assets_folder() / "runs" / "score-estimates.json"


@dataclass(frozen=True)
class EstimateCheck:
    """A comparison of estimates with measurements of plans that were not used in the fit (`benchmarks/score_estimates.py`).

    plans, within       number of plans, and how many of their measured scores lay within the band
    mean_errors         model -> its task, metric, and the mean absolute difference between estimate and measurement
    """

    plans: int
    within: int
    mean_errors: Mapping[str, tuple[str, str, float]]

    def __str__(self) -> str:
        return self._sentence(", ".join(f"{_error_text(*row)} ({model})" for model, row in self.mean_errors.items()))

    def about(self, model: str) -> str:
        """The check as a sentence, with the mean error on one model, or on all if that model was not part of it."""
        return self._sentence(_error_text(*self.mean_errors[model])) if model in self.mean_errors else str(self)

    def _sentence(self, errors: str) -> str:
        share = 100 * self.within / self.plans
        return (
            f"In a check on {self.plans} other plans, {share:.0f} % of the measured scores lay within the 90 % band; "
            f"mean error {errors}."
        )


def _error_text(task: str, metric: str, error: float) -> str:
    return f"{METRICS[metric].margin(error)}{' points' * METRICS[metric].percent} on {task}"


def accuracy_of_estimates() -> EstimateCheck | None:
    """The bundled check of the estimates; None if its file is missing."""
    summary = (read_json(CHECKED) or {}).get("summary")
    if not summary:
        return None
    errors = {model: (row["task"], row["metric"], row["mean_error"]) for model, row in summary["models"].items()}
    return EstimateCheck(summary["plans"], summary["within"], errors)
