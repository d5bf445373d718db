"""Quality against bytes for every method, as measured by `python -m benchmarks.quality` in assets/measurements.

Each file, quality*-MODEL.json, contains the tasks with the scores of the original model, and rows: a way of storing the model,
its bytes, and the paired difference of each task's score from the original's. Reading them does not require torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import nan
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from offcomp.errors import StorageError
from offcomp.files import assets_folder
from offcomp.planning.document import Amount, Count, Document, Fact, Figure, Interval, Items, Line, Name, Named, Positive
from offcomp.planning.json_checks import Malformed, read_checked
from offcomp.results.runs import VERSIONS
from offcomp.results.scores import within_noise

FOLDER = assets_folder() / "measurements"
MEAN = "mean"
"""The choice of task that stands for the mean of all tasks."""
KEPT, REFITTED = "kept", "refitted"
"""The modes of a probe: fitted on the original model and kept, or fitted again on the compressed model."""
LIMIT = "limit"
"""The style key of Shannon's limit."""
POINTS = 100
COLUMNS = (
    *("line", "style_key", "hollow", "stored", "ratio", "bytes", "draws", "original", "score", "difference", "low", "high"),
    "cosine_distance",
)


class Drawn(NamedTuple):
    """How the rows of one method are named and drawn; a hollow mark tells two lines of the same method apart."""

    line: str
    style_key: str
    hollow: bool = False


LINES = {
    "trellis, calibrated": Drawn("trellis with text", "trellis"),
    "trellis, data-free": Drawn("trellis without text", "trellis", hollow=True),
    "codebook, calibrated": Drawn("codebook with text", "codebook"),
    "codebook, data-free": Drawn("codebook without text", "codebook", hollow=True),
    "int": Drawn("rounded to integers", "quantization"),
    "SVD, whole model": Drawn("SVD", "svd"),
    "SVD, linear weights alone": Drawn("SVD, linear weights alone", "svd", hollow=True),
    "paper's autoencoder, fast options": Drawn("paper's autoencoder, fast options", "autoencoder", hollow=True),
    "paper's autoencoder": Drawn("paper's autoencoder", "autoencoder"),
    "Shannon's limit": Drawn("Shannon's limit", LIMIT),
}
"""How a row's name begins -> how it is drawn; the first that fits counts."""


class Difference(Document):
    """A score of the compressed model compared with the original's on the same examples, as fractions."""

    value: Figure
    difference: Figure
    interval: Interval | None


class Row(Document):
    """One way of storing the model. Calibrated rows are repeated for several draws of calibration text."""

    stored: Line
    series: Line
    draw: Count
    bytes: Positive
    ratio: Amount
    scores: Named[Name, Named[Name, Difference]]
    cosine_distance: Figure | None = None


class MeasuredTask(Document):
    """A task and the score of the original model on it, as a fraction."""

    title: Line
    value: Figure
    n: Positive


class Quality(Document):
    """One file of measurements."""

    model: Line
    benchmark: Line
    date: Line
    environment: Named[Name, Fact]
    tasks: Named[Name, MeasuredTask]
    rows: Items[Row]


def quality_files(model: str, folder: Path = FOLDER) -> list[Path]:
    """The files with measurements of a model, in order of their names."""
    return sorted([*folder.glob(f"quality-{model}.json"), *folder.glob(f"quality-*-{model}.json")])


def read_quality(model: str, folder: Path = FOLDER) -> Quality:
    """All measurements of a model.

    Raises StorageError if there are none, or if they are damaged or differ in their tasks.
    """
    documents = [_read(file) for file in quality_files(model, folder)]
    if not documents:
        raise StorageError(
            f"there are no measurements of quality against bytes for {model}; reinstall offcomp, or run benchmarks.quality"
        )
    first = documents[0]
    if any((each.model, each.tasks) != (model, first.tasks) for each in documents):
        raise StorageError(f"the measurements of {model} are of different models or tasks; repeat them with the same options")
    return first.model_copy(
        update={"rows": tuple(row for each in documents for row in each.rows), "date": max(each.date for each in documents)}
    )


def _read(file: Path) -> Quality:
    """One file. Raises StorageError if it cannot be read or is incomplete."""
    try:
        found = read_checked(file, Quality.from_json)
        for row in found.rows:
            for name in found.tasks:
                if KEPT not in row.scores.get(name, {}):
                    raise Malformed(f" has no score of {row.stored!r} on {name!r}", file.name)
    except (OSError, Malformed) as fault:
        raise StorageError(f"the measurements in {file.name} cannot be used ({fault}); reinstall offcomp") from None
    if not found.rows or not found.tasks:
        raise StorageError(f"{file.name} contains no measurements; reinstall offcomp")
    return found


def choices(quality: Quality, mode: str = KEPT) -> dict[str, str]:
    """Task -> title of every choice: the mean first, then each task that every row has in this mode."""
    names = tasks_with(quality, mode)
    return {MEAN: f"Mean of {len(names)} task{'s' * (len(names) != 1)}"} | {name: quality.tasks[name].title for name in names}


def tasks_with(quality: Quality, mode: str) -> list[str]:
    """The tasks that every row has in a mode. Similarity has no probe, so its tasks are not refitted."""
    return [name for name in quality.tasks if all(mode in row.scores[name] for row in quality.rows)]


def frontier_table(quality: Quality, task: str = MEAN, mode: str = KEPT) -> pd.DataFrame:
    """One row per way of storing the model, ordered by line and size, with COLUMNS as columns.

    `ratio` is the original's bytes divided by the stored ones. `score`, `difference`, `low` and `high` are in points; the last
    two are the ends of the 95 % interval. Draws of calibration text are averaged. `task` is a task's name or MEAN.
    """
    names = tasks_with(quality, mode) if task == MEAN else [task]
    original = POINTS * sum(quality.tasks[name].value for name in names) / len(names)
    rows = []
    for stored in dict.fromkeys(row.stored for row in quality.rows):
        draws = [row for row in quality.rows if row.stored == stored]
        change = mean_of_tasks([averaged([row.scores[name][mode] for row in draws]) for name in names])
        low, high = change.interval or (nan, nan)
        distances = [row.cosine_distance for row in draws if row.cosine_distance is not None]
        figures = original, original + POINTS * change.difference, POINTS * change.difference, POINTS * low, POINTS * high
        size = draws[0].ratio, draws[0].bytes, len(draws)
        distance = sum(distances) / len(distances) if distances else nan
        rows.append((*drawn_as(stored, draws[0].series), stored, *size, *figures, distance))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    order = [*(each.line for each in LINES.values()), *table["line"]]
    return table.sort_values(["line", "ratio"], key=lambda column: column.map(order.index) if column.name == "line" else column)


def drawn_as(stored: str, series: str) -> Drawn:
    """How a row is drawn; a row that is not in LINES is named after what is stored, without its size."""
    known = [drawn for start, drawn in LINES.items() if stored.startswith(start)]
    return known[0] if known else Drawn(stored.rpartition(", ")[0] or stored, series)


class Change(NamedTuple):
    """A difference from the original and its 95 % interval, as fractions."""

    difference: float
    interval: tuple[float, float] | None


def averaged(scores: Sequence[Difference]) -> Change:
    """The mean difference and the mean ends of the intervals over several draws of texts, which share their test examples."""
    ends = [score.interval for score in scores if score.interval is not None]
    low, high = (sum(end) / len(ends) for end in zip(*ends, strict=True)) if ends else (nan, nan)
    difference = sum(score.difference for score in scores) / len(scores)
    return Change(difference, (low, high) if len(ends) == len(scores) else None)


def mean_of_tasks(changes: Sequence[Change]) -> Change:
    """The mean difference over tasks, with an interval computed from their intervals as if the tasks were independent."""
    middle = sum(change.difference for change in changes) / len(changes)
    if len(changes) == 1:
        return changes[0]
    if any(change.interval is None for change in changes):
        return Change(middle, None)
    half = sum(((high - low) / 2) ** 2 for low, high in _intervals(changes)) ** 0.5 / len(changes)
    return Change(middle, (middle - half, middle + half))


def _intervals(changes: Iterable[Change]) -> list[tuple[float, float]]:
    return [change.interval for change in changes if change.interval is not None]


def noise(table: pd.DataFrame) -> float:
    """The half width of the narrowest interval, in points: every smaller difference is within noise. NaN without intervals."""
    return float(((table["high"] - table["low"]) / 2).min())


def frontier_answer(table: pd.DataFrame, ratio: float = 16.0) -> str:
    """What the chart shows, in one sentence: the best and the worst method near this many times fewer bytes."""
    near = table[(table["ratio"] / ratio).between(0.95, 1.05) & (table["style_key"] != LIMIT)]
    if near.empty:
        return "How much quality is left in fewer bytes?"
    ordered = near.sort_values("difference")
    best, worst = ordered.iloc[-1], ordered.iloc[0]
    noisy = " (within noise)" if within_noise((best["low"], best["high"])) else ""
    start = f"At {ratio:g}x fewer bytes: {best['line']} {best['difference']:+.1f} points{noisy}"
    return start if len(near) == 1 else f"{start}, {worst['line']} {worst['difference']:+.1f}"


def provenance(quality: Quality) -> str:
    """One-line provenance of the measurements: model, date, versions and machine."""
    environment = quality.environment
    versions = ", ".join(f"{name} {environment[name]}" for name in ("offcomp", "torch", "transformers") if name in environment)
    return f"{quality.model}, {quality.date}, {versions}, {environment.get('machine', 'unknown machine')}"


def exported(table: pd.DataFrame, quality: Quality) -> pd.DataFrame:
    """A table with the model, date and versions in each row, for a download."""
    versions = {f"version_{name}": value for name, value in quality.environment.items() if name in VERSIONS}
    return table.drop(columns=["style_key", "hollow"]).assign(model=quality.model, measured=quality.date, **versions)
