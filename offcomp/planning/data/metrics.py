"""How task metrics are displayed: names, axis labels, units and number formats."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from math import floor, inf, log10

MAX_DECIMALS = 4
LOWER = " (lower is better)"
LOWER_NAMES = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "brier_score", "ter")
"""Metrics of lm-evaluation-harness for which lower is better."""
MAX_METRIC_LENGTH = 80
HARNESS_METRIC = re.compile(rf"(lm-eval|mteb) (\S{{1,{MAX_METRIC_LENGTH}}})({re.escape(LOWER)})?")
"""The name of a metric that another library computes: the library, and its own name for the metric."""


@dataclass(frozen=True)
class Metric:
    """How a metric is displayed.

    word        the name of the metric within a sentence
    axis        axis label, which includes the denominator for a metric that is a fraction
    question    chart title, with {} as a placeholder for the task
    counts      plural noun for the examples
    least       the smallest possible value; `most`: the largest
    percent     whether values are shown in % and differences in percentage points
    example     what the value of a single example is, for tasks without classes
    fidelity    whether values are distances from the original's outputs, so that the original's value is perfect by definition
    """

    name: str
    title: str
    word: str
    axis: str
    question: str
    help: str
    counts: str = "examples"
    least: float = -1.0
    most: float = 1.0
    direction: str = "higher"
    percent: bool = False
    example: str = "score given by the model"
    fidelity: bool = False

    @property
    def perfect(self) -> float:
        """The best possible value."""
        return self.most if self.direction == "higher" else self.least

    @property
    def better(self) -> str:
        """A note for the chart axis that says which direction is better."""
        return "right is better" if self.direction == "higher" else "lower is better"

    def number(self, value: float) -> str:
        """Format a value: "83.2 %", "0.820", "12.3"."""
        return f"{100 * value:.1f} %" if self.percent else self._plain(value, 3)

    def change(self, value: float) -> str:
        """Format a difference between two values, with its unit: "+0.7 points", "-0.012", "+1.34"."""
        return f"{self.bare_change(value)} points" if self.percent else self.bare_change(value)

    def bare_change(self, value: float) -> str:
        """Format a difference between two values, without its unit."""
        return ("-" if value < 0 else "+") + self._plain(abs(value), 3)

    def margin(self, value: float) -> str:
        """Format the half-width of an interval, without its unit: "4.4", "0.021", "0.98"."""
        return self._plain(value, 2)

    def _plain(self, value: float, digits: int) -> str:
        """Format a value without its unit; `digits` applies only if the metric has no upper bound."""
        if self.percent:
            return f"{100 * value:.1f}"
        return f"{value:.3f}" if self.most == 1 else _digits(value, digits)

    def ranked(self, value: float) -> float:
        """A sort key for values of this metric: higher is better."""
        return value if self.direction == "higher" else -value


def _digits(value: float, digits: int) -> str:
    """Format a non-negative number with `digits` significant digits and without an exponent."""
    behind = digits - 1 - floor(log10(value)) if value > 0 else digits - 1
    return f"{value:,.{max(0, min(behind, MAX_DECIMALS))}f}"


_perplexity = partial(
    Metric,
    question="How high is the perplexity on {}?",
    least=1.0,
    most=inf,
    direction="lower",
    example="loss in nats per token",
)


def _divergence(name: str, axis: str, *, outputs: str, counts: str) -> Metric:
    """The metric for the mean KL(original ‖ compressed) of the distributions that the two models predict."""
    return Metric(
        name,
        "KL divergence",
        "KL divergence",
        f"KL divergence from the original (nats per {axis})",
        "How far from the original is the model on {}?",
        f"How far the compressed model's {outputs} are from the original's: the mean Kullback-Leibler divergence "
        "KL(original ‖ compressed) in nats, with its 95 % interval. Lower is better; 0 means identical outputs.",
        counts=counts,
        least=0.0,
        most=inf,
        direction="lower",
        example="KL divergence in nats",
        fidelity=True,
    )


@lru_cache(maxsize=256)
def _harness_metric(name: str) -> Metric | None:
    """The metric of another library with this name; None if the name is not one."""
    match = HARNESS_METRIC.fullmatch(name)
    if match is None:
        return None
    library, metric, lower = match.groups()
    return Metric(
        name,
        metric,
        metric,
        f"{metric} ({library})",
        "How much of the score on {} is retained?" if lower is None else "How high is the loss on {}?",
        f"The metric {metric} as {library} computes it, with its 95 % interval where the metric permits one. "
        f"{'Higher' if lower is None else 'Lower'} is better.",
        least=-inf,
        most=inf,
        direction="higher" if lower is None else "lower",
        example=f"{metric} of the example",
    )


class _Metrics(Mapping[str, Metric]):
    """Metrics by name: those of offcomp, which are listed, and any metric of another library (`HARNESS_METRIC`)."""

    def __init__(self, metrics: Mapping[str, Metric]):
        self._metrics = metrics

    def __getitem__(self, name: str) -> Metric:
        found = self._metrics.get(name) or _harness_metric(name)
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._metrics)

    def __len__(self) -> int:
        return len(self._metrics)


_OWN = {
    metric.name: metric
    for metric in (
        Metric(
            "accuracy",
            "Accuracy",
            "accuracy",
            "Accuracy (% of test sentences)",
            "How much of the accuracy on {} is retained?",
            "Percentage of test sentences that the compressed model classifies correctly, with its 95 % interval.",
            counts="sentences",
            least=0.0,
            percent=True,
        ),
        Metric(
            "spearman",
            "Correlation",
            "Spearman correlation",
            "Spearman correlation",
            "How much of the correlation on {} is retained?",
            "Spearman's rank correlation between the model's scores and human ratings, with its 95 % interval. "
            "1 means an identical ranking, and 0 means no correlation.",
        ),
        _perplexity(
            "masked perplexity",
            "Masked perplexity",
            "masked perplexity",
            "Perplexity of masked tokens",
            help="The number of equally likely tokens that the model is effectively choosing from at each masked position, "
            "with its 95 % interval. Lower is better; 1 is perfect.",
            counts="masked tokens",
        ),
        _perplexity(
            "perplexity",
            "Perplexity",
            "perplexity",
            "Perplexity of next tokens",
            help="The number of equally likely next tokens that the model is effectively choosing from, with "
            "its 95 % interval. Lower is better; 1 is perfect.",
            counts="tokens",
        ),
        _perplexity(
            "target perplexity",
            "Perplexity of targets",
            "perplexity of targets",
            "Perplexity of target tokens, given the source",
            help="The number of equally likely tokens that an encoder-decoder is effectively choosing from at each token of "
            "the target text, given the source text, with its 95 % interval. Lower is better; 1 is perfect.",
            counts="tokens",
        ),
        Metric(
            "embedding cosine",
            "Cosine similarity",
            "cosine similarity",
            "Cosine similarity to the original embeddings",
            "How close to the original is the model on {}?",
            "The mean cosine similarity between the original and the compressed model's embeddings of the same text, with its "
            "95 % interval. 1 means identical directions.",
            counts="texts",
            example="cosine similarity",
            fidelity=True,
        ),
        _divergence("masked KL", "masked token", outputs="predictions of masked tokens", counts="masked tokens"),
        _divergence("next-token KL", "token", outputs="predictions of next tokens", counts="tokens"),
        _divergence("class KL", "text", outputs="class probabilities", counts="texts"),
        Metric(
            "f1",
            "F1",
            "F1",
            "F1 of the second class",
            "How much of the F1 score on {} is retained?",
            "The harmonic mean of precision and recall for the second class, with its 95 % interval. 1 is perfect.",
            least=0.0,
        ),
        Metric(
            "matthews",
            "Matthews correlation",
            "Matthews correlation",
            "Matthews correlation",
            "How much of the Matthews correlation on {} is retained?",
            "The Matthews correlation between predicted and true classes, with its 95 % interval. 1 is perfect, and 0 is no "
            "better than chance.",
        ),
        Metric(
            "pearson",
            "Pearson correlation",
            "Pearson correlation",
            "Pearson correlation",
            "How much of the Pearson correlation on {} is retained?",
            "Pearson's correlation between the model's scores and human ratings, with its 95 % interval. 1 means a perfect "
            "linear relationship, and 0 means none.",
        ),
    )
}

METRICS = _Metrics(_OWN)
"""Name -> metric."""
