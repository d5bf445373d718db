"""The table in the strip of the Lab page: what is known about the plans of several methods, before and after they run.

Values are exact (SVD's error, sizes), measured by a finished run of exactly this plan, or estimated.

Does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from offcomp.methods import method_of_style_key
from offcomp.planning.data.scores import Score
from offcomp.planning.data.tasks import Task
from offcomp.planning.plan import Plan
from offcomp.planning.sizes import Prediction
from offcomp.results.bundled import origin
from offcomp.results.known_errors import Estimated, Measured
from offcomp.results.known_scores import KnownScore
from offcomp.results.runs import result_of
from offcomp.results.scores import METRICS, brief_difference, score_text, sentence_start, value_of, within_sentence
from offcomp.results.sentences import origin_text, smaller
from offcomp.runs.result import overall_cosine
from offcomp.runs.store import Run

FROM_SPECTRA = (
    "Computed from the singular values of the chosen groups, which are bundled or cached on this machine: "
    "the square root of the fraction of the energy that the truncation discards."
)
NO_MEASUREMENT = "No measurement with these options is close enough to base an estimate on. Start a run to measure the error."
ERROR, COSINE, PARAMETERS = "Relative error", "Cosine distance", "Stored parameters"
MEGABYTES, WHOLE = "Stored MB", "Whole model, MB"
SAME = 5e-5
"""Relative differences from the pinned value that are smaller than this are not shown."""


@dataclass(frozen=True)
class Answer:
    """One method's plan, and what is known about it.

    exact       relative error over all chosen weights from the spectra, before rounding to the storage dtype
    measured    the error measured by a finished run on these weights with the same groups and settings
    run         the run of exactly this plan, which may be in progress; None if there is none
    scores      task name -> measured or estimated score
    rounded_to  the dtype to which stored values are rounded, or ""
    fault       why the method cannot meet the target, as a clause; empty if it can
    reasons     group name -> one sentence on its size, if the plan was made for a target
    notes       sentences on how the plan meets its target
    """

    style_key: str
    plan: Plan
    prediction: Prediction
    exact: float | None = None
    measured: Measured | None = None
    estimated: Estimated | None = None
    run: Run | None = None
    scores: Mapping[str, KnownScore] = field(default_factory=dict)
    rounded_to: str = ""
    fault: str = ""
    reasons: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def reachable(self) -> bool:
        """Whether the method can reach the size, or meet the target."""
        return self.prediction.feasible and not self.fault

    @property
    def title(self) -> str:
        """The name of the method."""
        return method_of_style_key(self.style_key).title

    @property
    def ratio(self) -> float:
        """The compression ratio that the plan achieves, in the unit of its budget."""
        return self.prediction.model.chosen.ratio(self.plan.groups[0].unit)

    @property
    def done(self) -> Run | None:
        """The finished run of exactly this plan, if there is one."""
        return self.run if self.run and self.run.status == "done" else None

    @cached_property
    def error(self) -> tuple[float | None, str, str]:
        """Relative error over all chosen weights, its origin in a few words, and its origin in full sentences."""
        if not self.reachable:
            return None, "out of reach", ""
        if self.exact is not None and not self.rounded_to:
            return self.exact, "exact", f"Exact. {FROM_SPECTRA}"
        if self.measured is not None:
            source = "bundled measurement" if origin(self.measured.run) == "bundled" else "measured by you"
            return self.measured.relative_error, source, f"Measured. {origin_text(self.measured.run)}"
        if self.exact is not None:
            before = f"before rounding to {self.rounded_to}"
            return self.exact, f"estimated, {before}", f"Estimated, {before}. {FROM_SPECTRA}"
        if self.estimated is not None:
            basis = f"{self.estimated.basis} Start a run to measure the error."
            return self.estimated.relative_error, "estimated", basis
        return None, "run to measure", NO_MEASUREMENT

    @property
    def cosine(self) -> float | None:
        """Mean cosine distance over the rows of all chosen weights, if it was measured."""
        source = self.done or (self.measured.run if self.measured else None)
        groups = result_of(source).groups if source else ()
        recorded = groups and all({"cosine_distance", "num_rows"} <= group.model_fields_set for group in groups)
        return overall_cosine(groups) if recorded else None  # the rows of a bundled table of measurements record only errors


@dataclass(frozen=True)
class Cell:
    """One value of the strip: its text, a note on it, the number behind it (None if unknown), and whether it is estimated."""

    text: str
    note: str = ""
    value: float | None = None
    estimated: bool = False


@dataclass(frozen=True)
class Row:
    """One quantity of the strip: the original model's value, and one cell per method in the order of the answers."""

    name: str
    original: str
    cells: tuple[Cell, ...]
    key: str = ""
    change: str = "{:+.3f}"
    """How a difference from the pinned value is written."""


def rows(answers: Sequence[Answer]) -> list[Row]:
    """The strip: errors, sizes, then one row per task and one for changed predictions."""
    if not answers:
        return []
    chosen, whole = answers[0].prediction.model.chosen, answers[0].prediction.model.whole
    table = [
        Row(ERROR, "0", tuple(map(_error_cell, answers)), "error"),
        Row(COSINE, "0", tuple(map(_cosine_cell, answers)), "cosine"),
        Row(PARAMETERS, f"{chosen.parameters_before:,}", tuple(map(_parameters_cell, answers)), "parameters", "{:+,.0f}"),
        Row(MEGABYTES, f"{chosen.bytes_before / 1e6:.2f}", tuple(map(_bytes_cell, answers)), "bytes", "{:+.2f}"),
        Row(WHOLE, f"{whole.bytes_before / 1e6:.2f}", tuple(map(_whole_cell, answers)), "whole", "{:+.2f}"),
    ]
    table += [_score_row(task, answers) for task in answers[0].plan.resolved_tasks]
    if any(_flips(answer) for answer in answers):
        table.append(Row("Changed predictions", "", tuple(map(_flip_cell, answers))))
    return table


def _error_cell(answer: Answer) -> Cell:
    value, source, _ = answer.error
    if value is None:
        return Cell("", source)
    estimate = source == "estimated"
    text = f"about {value:.2f}" if estimate and value >= 0.1 else f"about {value:.2g}" if estimate else f"{value:.3f}"
    return Cell(text, f"{source}, worse than storing zeros" if value > 1 else source, value, estimated=estimate)


def _cosine_cell(answer: Answer) -> Cell:
    value = answer.cosine
    if value is None:
        return Cell("", "run to measure" if answer.reachable else "")
    return Cell(f"{value:.3f}", "", value)


def _parameters_cell(answer: Answer) -> Cell:
    if not answer.reachable:
        return Cell("")
    sizes = answer.prediction.model.chosen
    return Cell(f"{sizes.parameters_after:,}", smaller(sizes.ratio("parameters"), ".2f"), sizes.parameters_after)


def _bytes_cell(answer: Answer) -> Cell:
    if not answer.reachable:
        return Cell("")
    sizes = answer.prediction.model.chosen
    return Cell(f"{sizes.bytes_after / 1e6:.2f}", smaller(sizes.ratio("bytes"), ".2f"), sizes.bytes_after / 1e6)


def _whole_cell(answer: Answer) -> Cell:
    if not answer.reachable:
        return Cell("")
    sizes = answer.prediction.model.whole
    return Cell(f"{sizes.bytes_after / 1e6:.2f}", smaller(sizes.ratio("bytes"), ".2f"), sizes.bytes_after / 1e6)


def _score_row(task: Task, answers: Sequence[Answer]) -> Row:
    metric = METRICS[task.kind.metric]
    originals = [answer.scores[task.name].original for answer in answers if task.name in answer.scores]
    originals = originals or ([metric.perfect] if metric.fidelity else [])
    original = metric.number(originals[0]) if originals else ""
    title = task.title or task.name
    name = title if metric.fidelity else f"{title}, {within_sentence(metric.title)}"
    cells = tuple(_score_cell(answer, task.name, 100 if metric.percent else 1) for answer in answers)
    return Row(name, original, cells, task.name, "{:+.1f} points" if metric.percent else "{:+.3f}")


def _score_cell(answer: Answer, task: str, scale: int) -> Cell:
    if answer.done and (score := result_of(answer.done).scores.get(task)):
        return Cell(score_text(score), brief_difference(score), scale * value_of(score))
    known = answer.scores.get(task)
    if known is None or not answer.reachable:
        return Cell("", "run to measure" if answer.reachable else "")
    metric = METRICS[known.metric]
    text, span = metric.number(known.value), f"{metric.number(known.low)} to {metric.number(known.high)}"
    if known.origin == "estimated":
        return Cell(f"about {text}", f"({span})", scale * known.value, estimated=True)
    return Cell(text, f"{known.origin}, {span}", scale * known.value)


def _flips(answer: Answer) -> dict[str, Score]:
    scores = result_of(answer.done).scores if answer.done else {}
    return {task: score for task, score in scores.items() if score.paired.right_to_wrong is not None}


def _flip_cell(answer: Answer) -> Cell:
    flips = _flips(answer)
    if not flips:
        return Cell("", "run to count" if answer.reachable else "")
    score = next(iter(flips.values()))
    worse, better = score.paired.right_to_wrong or 0, score.paired.wrong_to_right or 0
    return Cell(f"{worse + better} of {score.compressed.n}", f"{worse} now wrong, {better} now right", worse + better)


def differences(row: Row, keys: Sequence[str], pinned: Mapping[str, Mapping[str, float]]) -> list[str]:
    """For each cell, its difference from the pinned value of the same method, as text; empty if unknown or zero.

    keys      the style key of each cell
    pinned    style key -> row key -> value
    """
    return [_difference(row, cell.value, pinned.get(key, {}).get(row.key)) for cell, key in zip(row.cells, keys, strict=True)]


def _difference(row: Row, value: float | None, before: float | None) -> str:
    if value is None or before is None or abs(value - before) <= SAME * max(abs(before), 1e-12):
        return ""
    return row.change.format(value - before)


def pinned_values(answers: Sequence[Answer]) -> dict[str, dict[str, float]]:
    """Style key -> row key -> value, for all values that are known in the strip."""
    table = [row for row in rows(answers) if row.key]
    return {answer.style_key: _values(table, number) for number, answer in enumerate(answers)}


def _values(table: Sequence[Row], number: int) -> dict[str, float]:
    values = ((row.key, row.cells[number].value) for row in table)
    return {key: value for key, value in values if value is not None}


def pin_title(answers: Sequence[Answer]) -> str:
    """What is pinned, in brief: "SVD and Autoencoder at 3.02x and 3.05x"."""
    titles = " and ".join(answer.title for answer in answers)
    ratios = " and ".join(dict.fromkeys(f"{answer.ratio:.3g}x" for answer in answers))
    return sentence_start(f"{titles} at {ratios}")
