"""The metrics of tasks as they read: names, axes, units, and how their values are written."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, inf, log10

MOST_DECIMALS = 4


@dataclass(frozen=True)
class Metric:
    """How a metric reads.

    word        its name within a sentence
    axis        its name on an axis, which says what it is a share or a number of
    question    the title of its chart; takes the task
    counts      what the number of examples counts
    least       the smallest value that there is, and the largest
    percent     whether it is written in %, and a difference in points
    """

    name: str
    title: str
    word: str
    axis: str
    question: str
    help: str
    counts: str
    least: float
    most: float
    direction: str = "higher"
    percent: bool = False

    @property
    def better(self) -> str:
        """Which direction is better on an axis from left to right."""
        return "right is better" if self.direction == "higher" else "lower is better"

    def number(self, value: float) -> str:
        """A value: "83.2 %", "0.820", "12.3"."""
        if self.percent:
            return f"{100 * value:.1f} %"
        return f"{value:.3f}" if self.most == 1 else _digits(value, 3)

    def change(self, value: float) -> str:
        """A difference of two values, with its unit: "+0.7 points", "-0.012", "+1.34"."""
        return f"{self.bare_change(value)} points" if self.percent else self.bare_change(value)

    def bare_change(self, value: float) -> str:
        """The same without its unit."""
        if self.percent:
            return f"{100 * value:+.1f}"
        sign = "-" if value < 0 else "+"
        return f"{value:+.3f}" if self.most == 1 else sign + _digits(abs(value), 3)

    def margin(self, value: float) -> str:
        """Half an interval, without its unit: "4.4", "0.021", "0.98"."""
        return f"{100 * value:.1f}" if self.percent else f"{value:.3f}" if self.most == 1 else _digits(value, 2)

    def ranked(self, value: float) -> float:
        """A number that grows as the value gets better."""
        return value if self.direction == "higher" else -value


def _digits(value: float, digits: int) -> str:
    """A number of 0 or more with so many significant digits, never with an exponent."""
    behind = digits - 1 - floor(log10(value)) if value > 0 else digits - 1
    return f"{value:,.{max(0, min(behind, MOST_DECIMALS))}f}"


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "accuracy",
            "Accuracy",
            "accuracy",
            "Accuracy (share of test sentences, in %)",
            "What is left of the accuracy on {}?",
            "Share of the test sentences that the compressed model gets right, with its 95 % interval.",
            "sentences",
            0.0,
            1.0,
            percent=True,
        ),
        Metric(
            "spearman",
            "Correlation",
            "Spearman correlation",
            "Spearman correlation",
            "What is left of the correlation on {}?",
            "Spearman's rank correlation between the model's scores and those that people gave, with its 95 % interval. "
            "1 is the same order, 0 is no relation.",
            "examples",
            -1.0,
            1.0,
        ),
        Metric(
            "masked perplexity",
            "Masked perplexity",
            "masked perplexity",
            "Perplexity of masked tokens",
            "How perplexed is it by {}?",
            "Among how many tokens the model is as good as guessing where one is masked, with its 95 % interval. "
            "Lower is better; 1 is certainty.",
            "masked tokens",
            1.0,
            inf,
            "lower",
        ),
        Metric(
            "perplexity",
            "Perplexity",
            "perplexity",
            "Perplexity of next tokens",
            "How perplexed is it by {}?",
            "Among how many tokens the model is as good as guessing the next one, with its 95 % interval. "
            "Lower is better; 1 is certainty.",
            "tokens",
            1.0,
            inf,
            "lower",
        ),
        Metric(
            "f1",
            "F1",
            "F1",
            "F1 of the second class",
            "What is left of F1 on {}?",
            "The harmonic mean of precision and recall of the second class, with its 95 % interval. 1 is best.",
            "examples",
            0.0,
            1.0,
        ),
        Metric(
            "matthews",
            "Matthews correlation",
            "Matthews correlation",
            "Matthews correlation",
            "What is left of the Matthews correlation on {}?",
            "Matthews' correlation between the classes said and the right ones, with its 95 % interval. 1 is all right, 0 is "
            "no better than chance.",
            "examples",
            -1.0,
            1.0,
        ),
        Metric(
            "pearson",
            "Pearson correlation",
            "Pearson correlation",
            "Pearson correlation",
            "What is left of the Pearson correlation on {}?",
            "Pearson's correlation between the model's scores and those that people gave, with its 95 % interval. 1 is a "
            "straight line, 0 is no relation.",
            "examples",
            -1.0,
            1.0,
        ),
    )
}
