"""The scores of a run, one per task: what an evaluation measures and `run.json` records. Does not import torch.

Fields that earlier versions did not record have a default. All scores of those versions are accuracies.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from offcomp.planning.data.metrics import METRICS
from offcomp.planning.data.row_counts import RowCounts, Truncation
from offcomp.planning.document import (
    Amount,
    Count,
    Document,
    Figure,
    Flag,
    Interval,
    Items,
    JsonObject,
    Line,
    MustBe,
    Name,
    Named,
)
from offcomp.planning.json_checks import Malformed

MAX_EXAMPLES = 10_000_000
Examples = Annotated[Count, Field(ge=1, le=MAX_EXAMPLES), MustBe("a whole number, 1 or greater")]
FlipCount = Annotated[Count, Field(le=MAX_EXAMPLES), MustBe("a whole number, 0 or greater")]


def _known_metric(name: str) -> str:
    if name not in METRICS:
        raise ValueError(name)
    return name


MetricName = Annotated[str, AfterValidator(_known_metric), MustBe(f"one of {', '.join(METRICS)}")]


class ScoreValue(Document):
    """The score of one model."""

    value: Figure
    standard_error: Amount | None
    """None if there are too few examples."""
    n: Examples
    """Number of examples; for a perplexity, of tokens."""


class Baseline(Document):
    """The score of a baseline that ignores the text."""

    name: Line
    value: Figure | None = None


class Paired(Document):
    """The paired comparison of two models on the same examples."""

    difference: Figure
    """Compressed minus original."""
    interval: Interval | None
    """95 % interval of the difference; None if there are too few examples."""
    right_to_wrong: FlipCount | None = None
    wrong_to_right: FlipCount | None = None
    p: Figure | None = None
    """p-value of McNemar's exact test on the flips."""
    smallest_difference: Figure | None = None
    """The smallest true difference that would be detected with 80 % power in a two-sided test at the 5 % level."""
    agreement: Figure | None = None
    """Share of examples with the same prediction."""
    divergence: Figure | None = None
    """Mean over examples of KL(original ‖ compressed), in nats."""


class Flip(Document):
    """An example that only one of the models classifies correctly."""

    text: str
    label: str
    """The true class."""
    predicted: str = ""
    """The class predicted by the compressed model."""
    original_probability: Figure
    """Probability of the true class according to the original model."""
    compressed_probability: Figure
    original_margin: Figure | None = None
    """Probability of the true class minus the highest probability among the other classes."""
    compressed_margin: Figure | None = None


class Flips(Document):
    """All examples that changed from right to wrong, and from wrong to right."""

    right_to_wrong: Items[Flip]
    wrong_to_right: Items[Flip]

    def of(self, change: str) -> Items[Flip]:
        """The examples that changed from "right to wrong" or from "wrong to right"."""
        return {"right to wrong": self.right_to_wrong, "wrong to right": self.wrong_to_right}[change]


class Change(Document):
    """An example of a task without classes: the outputs of both models (a score, or a loss in nats per token)."""

    text: str
    truth: Figure | None = None
    """The true score."""
    original: Figure
    compressed: Figure


class Continuation(Document):
    """How both models continue the same opening."""

    opening: str
    original: str
    compressed: str
    same_tokens: Count
    """Number of leading tokens on which both continuations agree."""
    tokens: Count
    """Number of generated tokens."""


class Comparison(Document):
    """A secondary metric of the original and of the compressed model on the same examples."""

    original: ScoreValue
    compressed: ScoreValue
    paired: Paired
    baseline: Baseline | None = None


class ScoreContext(Document):
    """What a score was measured on, and how the model reads the examples."""

    task: Line | None = None
    title: Line | None = None
    family: Line | None = None
    version: Line | None = None
    split: Line | None = None
    digest: Line | None = None
    """Identifies the content of all splits."""
    columns: JsonObject | None = None
    """Column of the task -> column of the data."""
    settings: JsonObject | None = None
    n_train: Count | None = None
    rows: RowCounts | None = None
    embedding: str | None = None
    """How hidden states are turned into a sentence embedding."""
    cut: Truncation | None = None
    """The texts that were truncated; None if there are none."""
    probe: Count | None = None
    """Version of the probe."""

    @model_validator(mode="before")
    @classmethod
    def _without_number_of_rows(cls, value: Any) -> Any:
        """Drop the count of token rows that earlier versions stored under `rows`."""
        if isinstance(value, dict) and type(value.get("rows")) is int:
            return {name: part for name, part in value.items() if name != "rows"}
        return value


class Figures(Document):
    """The figures of a `Score`, in the order in which files list them."""

    metric: MetricName = "accuracy"
    direction: Line | None = None
    """Whether "higher" or "lower" values are better."""
    unchanged: Flag | None = None
    """Whether the outputs of both models are bit-identical."""
    original: ScoreValue
    compressed: ScoreValue
    baseline: Baseline | None = None
    majority_baseline: Figure | None = None
    """Accuracy of always giving the most frequent answer."""
    collapsed: Flag = False
    """Whether all outputs are alike."""
    paired: Paired
    flips: Flips | None = None
    """The flipped predictions; None for tasks without classes."""
    changes: Items[Change] = ()
    """The examples that changed most, for tasks without classes."""
    labels: JsonObject | None = None
    """How the outputs of a classification head were matched to the classes."""
    note: Items[str] = ()
    """Doubts about the score, as sentences."""
    token_accuracy: dict[Name, Figure] | None = None
    """For each model, the share of tokens that were its most likely prediction."""
    protocol: JsonObject | None = None
    """Settings adapted to the limits of the model."""
    continuations: Items[Continuation] = ()
    also: Named[MetricName, Comparison] = Field(default_factory=dict)
    """The scores under secondary metrics."""
    units: Count | None = Field(default=None, exclude=True)
    """Number of independent units that the bootstrap resamples, such as rows of tokens; not recorded in files."""

    def of(self, which: str) -> ScoreValue:
        """The score of the "original" or the "compressed" model."""
        return self.original if which == "original" else self.compressed

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        paired = self.paired
        if paired.agreement is not None or self.flips is not None:
            for name in ("agreement", "right_to_wrong", "wrong_to_right"):
                if getattr(paired, name) is None:
                    raise Malformed(" is missing", f".paired.{name}")
        if (paired.right_to_wrong or 0) + (paired.wrong_to_right or 0) > self.compressed.n:
            raise Malformed(" counts more flips than there are examples", ".paired")
        return self


class Score(ScoreContext, Figures):
    """The scores of the original and of the compressed model on a task."""


class OriginalValue(ScoreValue):
    """The score of the original model under a secondary metric."""

    baseline: Baseline | None = None


class OriginalFigures(ScoreValue):
    """The figures of an `OriginalScore`; see `Figures`."""

    metric: MetricName = "accuracy"
    direction: Line | None = None
    baseline: Baseline | None = None
    majority_baseline: Figure | None = None
    note: Items[str] = ()
    labels: JsonObject | None = None
    also: Named[MetricName, OriginalValue] = Field(default_factory=dict)
    collapsed: Flag = False

    @property
    def original(self) -> ScoreValue:
        """The value, as in a `Score`."""
        return self


class OriginalScore(OriginalFigures, ScoreContext):
    """The score of the original model alone."""
