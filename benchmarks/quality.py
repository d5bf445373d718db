"""What is left of MiniLM-L6 on seven tasks when its weights are stored in fewer bytes.

    python -m benchmarks.quality --data FOLDER --texts FILE FILE

FOLDER holds a folder for each of stsb (sentence1, sentence2, score), sst2_sent (sentence, label), ag_news (sentence, label) and
mrpc (sentence1, sentence2, label), with test.parquet and, except in stsb, train.parquet and validation.parquet; three more
tasks come with offcomp. FILE is calibration text as in `benchmarks.sts`, whose cases are measured here; it should be of another
domain than the tasks are. Classes are told by a probe on embeddings, in two ways: `kept` is fitted on the original model and
asks whether what reads the embeddings still works, `refitted` is fitted on the compressed model and asks what can still be
read. Similarity has no probe. Every figure is the difference from the original on the same examples with its 95 % interval.

Rows go to the JSON file one by one, and those that are there are not measured again; a file that was made with other data,
text, options or versions is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.sts import MAX_TOKENS, MODEL, Case, cases, read_texts, stored
from offcomp.evaluation import OpenTask, open_task
from offcomp.evaluation.embeddings import SplitEmbedder
from offcomp.files import write_bytes
from offcomp.models.environment import environment
from offcomp.models.loading import LoadedModel, load
from offcomp.numerics.progress import Report
from offcomp.planning.data.tasks import Task, find_task

OUT = Path(__file__).parents[1] / "assets" / "measurements" / "quality-minilm-l6.json"
ROWS = (
    "codebook, calibrated, 16.4x",
    "codebook, data-free, 16.4x",
    "codebook, calibrated, 20x",
    "codebook, data-free, 20x",
    "int3, row by row",
    "int4, row by row",
    "SVD, whole model at 5.0x, int8",
    "SVD, whole model at 16.0x, int8",
    "SVD, linear weights alone at 1.25x",
)
"""The cases of `benchmarks.sts` that are measured."""
SENTENCE = {"text": "sentence"}
TASKS = (
    Task("stsb", "similarity", "stsb", "STS-B"),
    Task("sst2", "probe", "sst2_sent", "SST-2", SENTENCE),
    Task("ag_news", "probe", "ag_news", "AG News", SENTENCE),
    Task("mrpc", "probe", "mrpc", "MRPC"),
    *map(find_task, ("topics", "sentiment", "similarity")),
)
"""The tasks; `data` of those that do not come with offcomp is a folder below `--data`."""
KEPT, REFITTED = "kept", "refitted"
SEED = 0
Opened = Mapping[str, Mapping[str, OpenTask]]
"""Task -> mode of its probe -> the task on the original. A task without a probe has one mode, KEPT."""


class Remembered:
    """A split's features for both modes of a probe, embedded once; `forget` them whenever the model changes."""

    def __init__(self, embedder: SplitEmbedder):
        self._embedder = embedder
        self._features: NDArray[np.float32] | None = None

    def details(self) -> dict[str, Any]:
        """As `SplitEmbedder.details`."""
        return self._embedder.details()

    def features(self, report: Report) -> NDArray[np.float32]:
        """As `SplitEmbedder.features`."""
        if self._features is None:
            self._features = self._embedder.features(report)
        return self._features

    def forget(self) -> None:
        """Embed anew next time."""
        self._features = None


def with_fewer_examples(source: Path, target: Path, most: Mapping[str, int]) -> None:
    """A copy of a folder of splits, at most `most[split]` examples each, drawn by SEED, in their order; others are whole."""
    target.mkdir(parents=True)
    for file in sorted(source.glob("*.parquet")):
        table = pd.read_parquet(file)
        if len(table) > most.get(file.stem, len(table)):
            table = table.sample(most[file.stem], random_state=SEED).sort_index()
        table.to_parquet(target / file.name)


def opened(loaded: LoadedModel, tasks: Sequence[Task], data: Path, most: Mapping[str, int]) -> Opened:
    """The tasks on the original model, its predictions at hand; `most` is the largest size of a split of those below `data`."""
    found: dict[str, dict[str, OpenTask]] = {}
    with TemporaryDirectory() as scratch:
        for task in tasks:
            folder = Path(scratch) / task.name
            if not task.bundled:
                with_fewer_examples(data / task.data, folder, most)
            there = task if task.bundled else replace(task, data=str(folder))
            modes = {KEPT: {"refit": False}, REFITTED: {"refit": True}} if task.kind.trains else {KEPT: {}}
            found[task.name] = {
                mode: open_task(replace(there, options=options), loaded, seed=SEED) for mode, options in modes.items()
            }
            if len(modes) > 1:
                share(found[task.name])
            for each in found[task.name].values():
                each.prepare()
    return found


def share(modes: Mapping[str, OpenTask]) -> None:
    """Have both modes of a probe read the same features."""
    evaluators = [each._evaluator for each in modes.values()]
    shared = {name: Remembered(embedder) for name, embedder in evaluators[0]._embedders.items()}  # type: ignore[attr-defined]
    for evaluator in evaluators:
        evaluator._embedders = shared  # type: ignore[attr-defined]


def forget(tasks: Opened) -> None:
    """Forget the features of the model as it was."""
    for modes in tasks.values():
        if len(modes) > 1:
            for each in modes[KEPT]._evaluator._embedders.values():  # type: ignore[attr-defined]
                each.forget()


def originals(tasks: Opened) -> dict[str, dict[str, Any]]:
    """Each task's own figures: what it is, how many examples, and the original's score."""
    names = ("title", "family", "metric", "version", "split", "digest", "n", "n_train", "value", "standard_error", "baseline")
    found = {name: modes[KEPT].original() for name, modes in tasks.items()}
    return {name: {field: about[field] for field in names if field in about} for name, about in found.items()}


def measured(loaded: LoadedModel, case: Case, texts: Sequence[str], tasks: Opened) -> dict[str, Any]:
    """A row: what a case stores, and in each task and mode its score beside the original's."""
    with stored(loaded, case, texts) as sizes:
        forget(tasks)
        scores = {name: {mode: difference(each.compare()) for mode, each in modes.items()} for name, modes in tasks.items()}
    return {"stored": case.name, "series": case.series} | sizes | {"scores": scores}


def difference(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a comparison that the table needs."""
    paired = comparison["paired"]
    return {
        "value": comparison["compressed"]["value"],
        "difference": paired["difference"],
        "interval": paired["interval"],
        "collapsed": comparison["collapsed"],
    }


def completed(
    path: Path, about: Mapping[str, Any], wanted: Sequence[str], measure: Callable[[str], dict[str, Any]]
) -> dict[str, Any]:
    """The document in a file, with every wanted row; each new one is written as soon as it is there.

    Raises SystemExit where the file says something else about its rows than `about`.
    """
    document: dict[str, Any] = {**about, "rows": []}
    if path.is_file():
        document = json.loads(path.read_text())
        different = [field for field, value in about.items() if document.get(field) != _as_json(value)]
        if different:
            raise SystemExit(f"{path} was made with another {', '.join(different)}; move it away, or name another --out")
    for name in wanted:
        if all(row["stored"] != name for row in document["rows"]):
            document["rows"].append(measure(name))
            document["date"] = datetime.now(UTC).date().isoformat()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, (json.dumps(document, indent=1) + "\n").encode())
            print(json.dumps(document["rows"][-1]), flush=True)
    return document


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def markdown(document: Mapping[str, Any], mode: str) -> str:
    """A table of the tasks that have this mode: a line a row, cells `difference (interval)`, bold where it leaves 0 out."""
    shown = {
        name: about for name, about in document["tasks"].items() if all(mode in row["scores"][name] for row in document["rows"])
    }
    first = [f"{about['value']:.4f}" for about in shown.values()]
    lines = [
        ["stored", "times fewer bytes", *(f"{about['title'] or name} (n = {about['n']})" for name, about in shown.items())],
        ["---"] * (2 + len(shown)),
        ["original", "1", *first],
    ]
    for row in document["rows"]:
        cells = [_cell(row["scores"][name][mode]) for name in shown]
        lines.append([row["stored"], f"{row['ratio']:.1f}", *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(score: Mapping[str, Any]) -> str:
    if score["interval"] is None:
        return f"{score['difference']:+.3f}"
    low, high = score["interval"]
    text = f"{score['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
    return f"**{text}**" if low > 0 or high < 0 else text


def main() -> None:
    """Measure what the file lacks, and print both tables."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--data", type=Path, required=True, help="folder with a folder for each task")
    flags.add_argument("--texts", type=Path, nargs="+", required=True, help="parquet files of calibration text")
    flags.add_argument("--num-texts", type=int, default=400)
    flags.add_argument("--train", type=int, default=4000, help="training examples of a probe at most")
    flags.add_argument("--test", type=int, default=10_000, help="test examples of a task at most")
    flags.add_argument("--tasks", nargs="*", default=[task.name for task in TASKS], help="only these tasks")
    flags.add_argument("--only", nargs="*", default=[""], help="only rows whose name contains one of these")
    flags.add_argument("--out", type=Path, default=OUT)
    asked = flags.parse_args()
    loaded = load(MODEL)
    texts = read_texts(asked.texts, asked.num_texts)
    most = {"train": asked.train, "validation": asked.train // 4, "test": asked.test}
    tasks = opened(loaded, [task for task in TASKS if task.name in asked.tasks], asked.data, most)
    about = {
        "model": MODEL,
        "benchmark": "python -m benchmarks.quality",
        "calibration": {
            "files": [f"{file.parent.name}/{file.stem}" for file in asked.texts],
            "texts": len(texts),
            "max_tokens": MAX_TOKENS,
            "digest": hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12],
        },
        "most": most,
        "seed": SEED,
        "environment": environment(),
        "tasks": originals(tasks),
    }
    known = {case.name: case for case in cases(loaded.info, with_text=True)}
    wanted = [name for name in ROWS if any(part in name for part in asked.only)]
    document = completed(asked.out, about, wanted, lambda name: measured(loaded, known[name], texts, tasks))
    for mode, title in ((KEPT, "Probes kept"), (REFITTED, "Probes refitted")):
        print(f"\n{title}\n\n{markdown(document, mode)}")


if __name__ == "__main__":
    main()
