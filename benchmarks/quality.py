"""How well MiniLM-L6 still performs on seven tasks when its weights are stored in fewer bytes.

    python -m benchmarks.quality --data FOLDER --texts FILE FILE

FOLDER contains a folder for each of stsb (sentence1, sentence2, score), sst2_sent (sentence, label), ag_news (sentence, label)
and mrpc (sentence1, sentence2, label), with test.parquet and, except in stsb, train.parquet and validation.parquet; three more
tasks come with offcomp. FILE is calibration text as in `benchmarks.sts`, whose cases are measured here; its domain should
differ from that of the tasks. Classes are predicted by a probe on the embeddings, in two modes: `kept` is fitted on the
original model and shows whether existing users of the embeddings still work; `refitted` is fitted on the compressed model and
shows how much information the embeddings still contain. Similarity has no probe. Every cell is the difference from the original
on the same examples, with its 95 % interval. Calibrated rows are averages over several draws of calibration text (`--draws`).
The cosine distance between the embeddings of both models is averaged over sentences of STS-B.

Rows are written to the JSON file one by one, and existing rows are not measured again. A file that was made with different
data, texts, options or versions is rejected. `--tables FILE ...` measures nothing and prints the tables of these JSON files, as
in the README. `--chart FOLDER` measures nothing and draws the chart of the README, light and dark, from the bundled files:

    python -m benchmarks.quality --chart assets/images
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.sts import MAX_TOKENS, MODEL, Case, Sentences, cases, read_texts, stored
from offcomp.evaluation import OpenTask, open_task
from offcomp.evaluation.embeddings import SplitEmbedder, cosines, embed
from offcomp.files import write_bytes
from offcomp.models.environment import environment
from offcomp.models.loading import LoadedModel, load
from offcomp.numerics.progress import Report
from offcomp.planning.data.scores import Score
from offcomp.planning.data.tasks import Task, find_task
from offcomp.results.charts.frontier_svg import frontier_svg
from offcomp.results.charts.theme import PALETTES
from offcomp.results.frontier import (
    KEPT,
    MEAN,
    REFITTED,
    Change,
    Difference,
    averaged,
    choices,
    frontier_answer,
    frontier_table,
    mean_of_tasks,
    read_quality,
)

OUT = Path(__file__).parents[1] / "assets" / "measurements" / "quality-minilm-l6.json"
ROWS = (
    *(f"trellis, {how}, {total}x" for total in (8, 12, 16, 20, 24, 30) for how in ("calibrated", "data-free")),
    *(f"Shannon's limit, {total}x" for total in (8, 12, 16, 20, 24, 30)),
    "codebook, calibrated, 16.4x",
    "codebook, data-free, 16.4x",
    "codebook, calibrated, 20x",
    "codebook, data-free, 20x",
    "int3, row by row",
    "int4, row by row",
    "SVD, whole model at 5.0x, int8",
    "SVD, whole model at 16.0x, int8",
    "paper's autoencoder, fast options, whole model at 5.0x, int8",
    "paper's autoencoder, fast options, whole model at 16.0x, int8",
    "paper's autoencoder, whole model at 5.0x, int8",
    "paper's autoencoder, whole model at 16.0x, int8",
    "SVD, linear weights alone at 1.25x",
)
"""The cases of `benchmarks.sts` that are measured."""
TITLES = {
    "int3, row by row": "3-bit integers",
    "int4, row by row": "4-bit integers",
    "SVD, whole model at 5.0x, int8": "SVD, int8 factors",
    "SVD, whole model at 16.0x, int8": "SVD, int8 factors",
    "paper's autoencoder, fast options, whole model at 5.0x, int8": "paper's autoencoder, fast options, int8 latents",
    "paper's autoencoder, fast options, whole model at 16.0x, int8": "paper's autoencoder, fast options, int8 latents",
    "paper's autoencoder, whole model at 5.0x, int8": "paper's autoencoder, int8 latents",
    "paper's autoencoder, whole model at 16.0x, int8": "paper's autoencoder, int8 latents",
    "SVD, linear weights alone at 1.25x": "SVD, float32, linear weights alone",
}
"""The names in the table of cases whose own name is not a method and its size."""
SENTENCE = {"text": "sentence"}
TASKS = (
    Task(name="stsb", family="similarity", data="stsb", title="STS-B"),
    Task(name="sst2", family="probe", data="sst2_sent", title="SST-2", columns=SENTENCE),
    Task(name="ag_news", family="probe", data="ag_news", title="AG News", columns=SENTENCE),
    Task(name="mrpc", family="probe", data="mrpc", title="MRPC"),
    *map(find_task, ("topics", "sentiment", "similarity")),
)
"""The tasks. For those that do not come with offcomp, `data` is a folder below `--data`."""
CHART = "quality-{}.svg"
SEED = 0
NUM_SENTENCES = 1000
"""Number of sentences over which the cosine distance is averaged."""
Opened = Mapping[str, Mapping[str, OpenTask]]
"""Task -> mode of its probe -> the opened task. A task without a probe has only the mode KEPT."""


class Remembered:
    """The features of a split, embedded only once for both modes of a probe. Call `forget` whenever the model changes."""

    def __init__(self, embedder: SplitEmbedder):
        self._embedder = embedder
        self._features: NDArray[np.float32] | None = None

    def details(self) -> dict[str, Any]:
        """See `SplitEmbedder.details`."""
        return self._embedder.details()

    def features(self, report: Report) -> NDArray[np.float32]:
        """See `SplitEmbedder.features`."""
        if self._features is None:
            self._features = self._embedder.features(report)
        return self._features

    def forget(self) -> None:
        """Drop the features, so that they are computed again when next needed."""
        self._features = None


def with_fewer_examples(source: Path, target: Path, most: Mapping[str, int]) -> None:
    """Copy a folder of splits, each limited to `most[split]` (if set) randomly drawn examples, in their original order."""
    target.mkdir(parents=True)
    for file in sorted(source.glob("*.parquet")):
        table = pd.read_parquet(file)
        if len(table) > most.get(file.stem, len(table)):
            table = table.sample(most[file.stem], random_state=SEED).sort_index()
        table.to_parquet(target / file.name)


def opened(loaded: LoadedModel, tasks: Sequence[Task], data: Path, most: Mapping[str, int]) -> Opened:
    """Open the tasks and predict with the original model. `most` limits the size of each split of the tasks below `data`."""
    found: dict[str, dict[str, OpenTask]] = {}
    with TemporaryDirectory() as scratch:
        for task in tasks:
            folder = Path(scratch) / task.name
            if not task.bundled:
                with_fewer_examples(data / task.data, folder, most)
            there = task if task.bundled else task.replace(data=str(folder))
            modes = {KEPT: {"refit": False}, REFITTED: {"refit": True}} if task.kind.trains else {KEPT: {}}
            found[task.name] = {
                mode: open_task(there.replace(options=options), loaded, seed=SEED) for mode, options in modes.items()
            }
            if len(modes) > 1:
                share(found[task.name])
            for each in found[task.name].values():
                each.prepare()
    return found


def share(modes: Mapping[str, OpenTask]) -> None:
    """Make both modes of a probe use the same features."""
    evaluators = [each._evaluator for each in modes.values()]
    shared = {name: Remembered(embedder) for name, embedder in evaluators[0]._embedders.items()}  # type: ignore[attr-defined]
    for evaluator in evaluators:
        evaluator._embedders = shared  # type: ignore[attr-defined]


def forget(tasks: Opened) -> None:
    """Drop the features of the previous model."""
    for modes in tasks.values():
        if len(modes) > 1:
            for each in modes[KEPT]._evaluator._embedders.values():  # type: ignore[attr-defined]
                each.forget()


def originals(tasks: Opened) -> dict[str, dict[str, Any]]:
    """Details of each task: its title, family and metric, its number of examples, and the score of the original model."""
    names = ("title", "family", "metric", "version", "split", "digest", "n", "n_train", "value", "standard_error", "baseline")
    found = {name: modes[KEPT].original().to_dict() for name, modes in tasks.items()}
    return {name: {field: about[field] for field in names if field in about} for name, about in found.items()}


def measured(loaded: LoadedModel, case: Case, texts: Sequence[str], tasks: Opened, distance: Distance) -> dict[str, Any]:
    """A row: how much a case stores, and its score in each task and mode compared with the original's."""
    with stored(loaded, case, texts) as sizes:
        forget(tasks)
        scores = {name: {mode: difference(each.compare()) for mode, each in modes.items()} for name, modes in tasks.items()}
        sizes |= {"cosine_distance": distance.now()}
    return {"stored": case.name, "series": case.series} | sizes | {"scores": scores}


class Distance:
    """The mean cosine distance of a loaded model's sentence embeddings from those it had at first."""

    def __init__(self, loaded: LoadedModel, sentences: Sequence[str]):
        self._loaded, self._sentences = loaded, list(sentences)
        self._first = embed(loaded, self._sentences)

    def now(self) -> float:
        """The distance at this moment."""
        return 1.0 - float(cosines(self._first, embed(self._loaded, self._sentences)).mean())


def difference(score: Score) -> dict[str, Any]:
    """The values of a comparison that the table needs."""
    interval = score.paired.interval
    return {
        "value": score.compressed.value,
        "difference": score.paired.difference,
        "interval": list(interval) if interval else None,
        "collapsed": score.collapsed,
    }


def completed(
    path: Path, about: Mapping[str, Any], wanted: Sequence[tuple[str, int]], measure: Callable[[str, int], dict[str, Any]]
) -> dict[str, Any]:
    """The document in a file, with a row for every wanted name and draw of texts; each new row is written once measured.

    Raises SystemExit if the description in the file differs from `about`.
    """
    document: dict[str, Any] = {**about, "rows": []}
    if path.is_file():
        document = json.loads(path.read_text())
        different = [field for field, value in about.items() if document.get(field) != _as_json(value)]
        if different:
            raise SystemExit(f"{path} was made with a different {', '.join(different)}; move it, or pass a different --out")
    for name, draw in wanted:
        if all((row["stored"], row["draw"]) != (name, draw) for row in document["rows"]):
            document["rows"].append({"draw": draw} | measure(name, draw))
            document["date"] = datetime.now(UTC).date().isoformat()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, (json.dumps(document, indent=1) + "\n").encode())
            print(json.dumps(document["rows"][-1]), flush=True)
    return document


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def markdown(document: Mapping[str, Any], mode: str) -> str:
    """A table of the tasks with this mode: one line per case, cells `difference (interval)`, bold if the interval excludes 0.

    Scores and differences are in points. Differences and intervals are averaged over the draws. The interval of the mean over
    tasks treats tasks as independent.
    """
    shown = {
        name: about for name, about in document["tasks"].items() if all(mode in row["scores"][name] for row in document["rows"])
    }
    first = [f"{100 * about['value']:.1f}" for about in shown.values()]
    lines = [
        ["stored", "times fewer bytes", "draws", "cosine distance", "mean"]
        + [f"{about['title'] or name.replace('_', ' ')}" for name, about in shown.items()],
        ["---"] * (5 + len(shown)),
        ["original", "1", "", "0", f"{100 * sum(about['value'] for about in shown.values()) / max(len(shown), 1):.1f}", *first],
    ]
    for stored_as in dict.fromkeys(row["stored"] for row in document["rows"]):
        rows = [row for row in document["rows"] if row["stored"] == stored_as]
        distances = [row["cosine_distance"] for row in rows if "cosine_distance" in row]
        scores = [averaged([Difference.from_json(row["scores"][name][mode]) for row in rows]) for name in shown]
        lines.append(
            [
                _title(stored_as),
                f"{rows[0]['ratio']:.1f}",
                str(len(rows)),
                f"{sum(distances) / len(distances):.3f}" if distances else "",
            ]
            + [cell(score, 100, 1) for score in ([mean_of_tasks(scores)] if scores else []) + scores]
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _title(stored_as: str) -> str:
    """The name of a case without its size, which has a column of its own."""
    return TITLES.get(stored_as) or stored_as.rpartition(", ")[0] or stored_as


def cell(score: Change | Difference, scale: float = 1.0, digits: int = 3) -> str:
    """`difference (interval)` times `scale`, bold if the interval excludes 0."""
    if score.interval is None:
        return f"{scale * score.difference:+.{digits}f}"
    low, high = score.interval
    text = f"{scale * score.difference:+.{digits}f} ({scale * low:+.{digits}f} to {scale * high:+.{digits}f})"
    return f"**{text}**" if low > 0 or high < 0 else text


def tables(documents: Sequence[Mapping[str, Any]]) -> str:
    """Both tables of several documents, which have the same tasks and original; rows of a method are ordered by size."""
    rows = [row for document in documents for row in document["rows"]]
    places = {_title(row["stored"]): place for place, row in reversed(list(enumerate(rows)))}
    ordered = sorted(rows, key=lambda row: (places[_title(row["stored"])], row["ratio"], row["draw"]))
    merged = {**documents[0], "rows": ordered}
    modes = ((KEPT, "Probes kept"), (REFITTED, "Probes refitted"))
    return "\n\n".join(f"{title}\n\n{markdown(merged, mode)}" for mode, title in modes)


def draw_charts(folder: Path) -> None:
    """Write the chart of the mean of all tasks with kept probes to quality-light.svg and quality-dark.svg in a folder."""
    quality = read_quality(MODEL)
    table, what = frontier_table(quality), choices(quality)[MEAN]
    folder.mkdir(parents=True, exist_ok=True)
    for theme, palette in PALETTES.items():
        drawn = frontier_svg(table, palette, title=frontier_answer(table), what=what)
        (folder / CHART.format(theme)).write_text(drawn + "\n", encoding="utf-8")


def main() -> None:
    """Measure the missing rows, and print both tables."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--tables", type=Path, nargs="+", metavar="FILE", help="only print the tables of these JSON files")
    flags.add_argument("--chart", type=Path, metavar="FOLDER", help="only draw the chart of the bundled measurements")
    flags.add_argument("--data", type=Path, help="folder with a folder for each task")
    flags.add_argument("--texts", type=Path, nargs="+", help="parquet files of calibration text")
    flags.add_argument("--num-texts", type=int, default=400)
    flags.add_argument("--draws", type=int, default=1, help="number of draws of calibration text for calibrated rows")
    flags.add_argument("--train", type=int, default=4000, help="maximum number of training examples of a probe")
    flags.add_argument("--test", type=int, default=10_000, help="maximum number of test examples of a task")
    flags.add_argument("--tasks", nargs="*", default=[task.name for task in TASKS], help="only these tasks")
    flags.add_argument("--only", nargs="*", default=[""], help="only rows whose name contains one of these")
    flags.add_argument("--out", type=Path, default=OUT)
    asked = flags.parse_args()
    if asked.tables:
        print(tables([json.loads(file.read_text()) for file in asked.tables]))
        return
    if asked.chart:
        draw_charts(asked.chart)
        return
    if not asked.data or not asked.texts:
        flags.error("--data and --texts are needed, unless --tables or --chart is given")
    loaded = load(MODEL)
    draws = [read_texts(asked.texts, asked.num_texts, draw) for draw in range(asked.draws)]
    most = {"train": asked.train, "validation": asked.train // 4, "test": asked.test}
    tasks = opened(loaded, [task for task in TASKS if task.name in asked.tasks], asked.data, most)
    about = {
        "model": MODEL,
        "benchmark": "python -m benchmarks.quality",
        "calibration": {
            "files": [f"{file.parent.name}/{file.stem}" for file in asked.texts],
            "texts": len(draws[0]),
            "max_tokens": MAX_TOKENS,
            "digest": hashlib.sha256("\0".join(draws[0]).encode()).hexdigest()[:12],
        },
        "most": most,
        "seed": SEED,
        "environment": environment(),
        "tasks": originals(tasks),
    }
    known = {case.name: case for case in cases(loaded.info, with_text=True)}
    names = [name for name in ROWS if any(part in name for part in asked.only)]
    wanted = [(name, draw) for name in names for draw in range(asked.draws if ", calibrated" in name else 1)]
    distance = Distance(loaded, Sentences.read(asked.data / "stsb" / "test.parquet").first[:NUM_SENTENCES])
    document = completed(
        asked.out, about, wanted, lambda name, draw: measured(loaded, known[name], draws[draw], tasks, distance)
    )
    print(tables([document]))


if __name__ == "__main__":
    main()
