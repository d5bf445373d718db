"""What corrected biases and normalisations buy: embeddings and tasks of MiniLM-L6, perplexities of the bundled language models.

    python -m benchmarks.corrections --data FOLDER --texts FILE FILE

FOLDER and FILE are those of `benchmarks.quality`, whose tasks are used; cases are those of `benchmarks.sts`. Every matrix is
compressed once, and each kind of correction is then applied to the same reconstructions. Printed for each case and correction:

    distance       mean cosine distance of embeddings from those of the original, over the test texts of all tasks below FOLDER
    kept           mean difference from the original over all tasks, in points, with probes fitted on the original
    refitted       the same, with probes fitted on the compressed model (`--refit`)
    perplexity     of prose, divided by that of the original: offcomp-gpt (next words) and offcomp-bert (masked words)

with 95 % intervals: bootstrap intervals over texts for the distance, and paired intervals over examples for everything else.
The interval of a mean over tasks treats the tasks as independent. The calibration text does not come from the domain of the
tasks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.quality import TASKS, Opened, forget, opened
from benchmarks.sts import MAX_TOKENS, MODEL, Case, cases, hints_for, read_texts
from offcomp.cli.text import format_table
from offcomp.evaluation import open_task
from offcomp.evaluation.embeddings import embed
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.loading import LoadedModel, load
from offcomp.models.weights import substituted
from offcomp.planning.data.tasks import find_task
from offcomp.planning.plan import CORRECTIONS, NOTHING, make_groups
from offcomp.results.frontier import KEPT, REFITTED
from offcomp.runs.calibration import Calibration
from offcomp.runs.calibration.corrections import corrected_vectors
from offcomp.runs.compress import CompressedGroup, compress_group

CASES = (
    "int3, row by row",
    "SVD, whole model at 5.0x, int8",
    "codebook, data-free, 16.4x",
    "trellis, data-free, 20x",
    "codebook, calibrated, 16.4x",
    "trellis, calibrated, 20x",
)
LANGUAGE_MODELS = {"offcomp-gpt": "causal-prose", "offcomp-bert": "masked-prose"}
"""Model -> the task whose perplexity is measured."""
LANGUAGE_CASES: dict[str, dict[str, Any]] = {
    "integers at 4.8x": {"method": "quantization", "ratio": 4.8, "unit": "bytes"},
    "SVD at 2x": {"method": "svd", "ratio": 2.0},
    "codebook at 7x": {"method": "autoencoder", "options": {"preset": "codebook"}, "ratio": 7.0, "unit": "bytes"},
}
"""Name -> fields of the groups: one per kind of linear matrix, stored in float16. Embeddings are not compressed."""
RESAMPLES, SEED = 2000, 0


def compressed(loaded: LoadedModel, case: Case, texts: Sequence[str]) -> list[CompressedGroup]:
    """The groups of a case."""
    done: list[CompressedGroup] = []
    for group in sorted(case.groups, key=lambda group: group.options.get("feedback", False)):
        with hints_for(loaded, group, texts, done) as hints:
            done.append(compress_group(loaded.model, loaded.info, group, hints=hints))
    return done


def matrices_of(groups: Sequence[CompressedGroup]) -> dict[ModuleSpec, Tensor]:
    """The reconstructions of all groups."""
    return {spec: matrix for group in groups for spec, matrix in group.reconstructions.items()}


def vectors_of(
    loaded: LoadedModel, groups: Sequence[CompressedGroup], texts: Sequence[str], what: str
) -> tuple[dict[str, Tensor], float]:
    """The corrections of a compressed model, and the CPU seconds that they take."""
    started = process_time()
    if what == NOTHING:
        return {}, 0.0
    calibration = Calibration(loaded, texts, max_tokens=MAX_TOKENS)
    return corrected_vectors(calibration, list(matrices_of(groups)), groups, what), process_time() - started


def distances(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine distance (texts,) between two embeddings of each text, both (texts, features)."""
    one, other = (each.astype(float) / np.linalg.norm(each, axis=1, keepdims=True) for each in (first, second))
    return 1 - (one * other).sum(1)


def bootstrapped(values: NDArray[np.float64]) -> str:
    """A mean with its 95 % interval over resampled texts."""
    random = np.random.default_rng(SEED)
    means = [values[random.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


def in_points(scores: Mapping[str, tuple[float, float, float]]) -> str:
    """The mean difference over tasks and its interval, in points, from (difference, low, high) of each task."""
    mean = 100 * np.mean([difference for difference, _, _ in scores.values()])
    half = 50 * np.sqrt(sum((high - low) ** 2 for _, low, high in scores.values())) / len(scores)
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"


@dataclass(frozen=True)
class Questions:
    """The opened tasks, the modes of their probes to be measured, and the texts to be embedded."""

    tasks: Opened
    modes: Sequence[str]
    texts: Sequence[str]

    def differences(self) -> dict[str, dict[str, tuple[float, float, float]]]:
        """Mode -> task -> difference of the model in memory from the original, with both ends of its interval."""
        forget(self.tasks)
        found: dict[str, dict[str, tuple[float, float, float]]] = {}
        for mode in self.modes:
            for name, by_mode in self.tasks.items():
                paired = by_mode[mode if mode in by_mode else KEPT].compare().paired
                low, high = paired.interval or (paired.difference, paired.difference)
                found.setdefault(mode, {})[name] = (paired.difference, low, high)
        return found


def rows(loaded: LoadedModel, case: Case, texts: Sequence[str], questions: Questions) -> list[dict[str, Any]]:
    """One row per correction of a case."""
    original = embed(loaded, list(questions.texts))
    groups, found = compressed(loaded, case, texts), []
    for what in CORRECTIONS:
        vectors, seconds = vectors_of(loaded, groups, texts, what)
        with substituted(loaded.model, matrices_of(groups), vectors):
            distance = bootstrapped(distances(original, embed(loaded, list(questions.texts))))
            scores = questions.differences()
        row = {"stored": case.name, "corrected": what, "distance": distance}
        row |= {mode: in_points(by_task) for mode, by_task in scores.items()}
        points = {name: round(100 * difference, 1) for name, (difference, _, _) in scores[KEPT].items()}
        found.append(row | {"CPU s": round(seconds, 1)})
        print(json.dumps(found[-1] | {"points": points}), flush=True)
    return found


def language_rows(model: str, texts: Sequence[str]) -> list[dict[str, Any]]:
    """One row per case and correction of a language model."""
    loaded, found = load(model), []
    task = open_task(find_task(LANGUAGE_MODELS[model]), loaded, seed=SEED)
    task.prepare()
    linear = [spec for spec in loaded.info.modules if spec.default and spec.kind != "word_embeddings"]
    for name, fields in LANGUAGE_CASES.items():
        groups = [compress_group(loaded.model, loaded.info, group) for group in make_groups(linear, "kind", **fields)]
        for what in CORRECTIONS:
            vectors, _ = vectors_of(loaded, groups, texts, what)
            with substituted(loaded.model, matrices_of(groups), vectors):
                score = task.compare()
            low, high = score.paired.interval or (0.0, 0.0)
            start = score.original.value
            quotients = [(start + each) / start for each in (score.paired.difference, low, high)]
            text = "{:.2f} ({:.2f} to {:.2f})".format(*quotients)
            found.append({"model": model, "stored": name, "corrected": what, "perplexity": text})
            print(json.dumps(found[-1]), flush=True)
    return found


def main() -> None:
    """Print both tables."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--data", type=Path, required=True, help="folder with a folder for each task")
    flags.add_argument("--texts", type=Path, nargs="+", required=True, help="parquet files of calibration text")
    flags.add_argument("--num-texts", type=int, default=400)
    flags.add_argument("--train", type=int, default=2000, help="maximum number of training examples of a probe")
    flags.add_argument("--test", type=int, default=2000, help="maximum number of test examples of a task")
    flags.add_argument("--tasks", nargs="*", default=[task.name for task in TASKS], help="only these tasks")
    flags.add_argument("--refit", action="store_true", help="also fit probes on every compressed model")
    flags.add_argument("--only", nargs="*", default=CASES, help="only these cases")
    flags.add_argument("--language", nargs="*", default=list(LANGUAGE_MODELS), help="only these language models")
    asked = flags.parse_args()
    texts = read_texts(asked.texts, asked.num_texts)
    if asked.language:
        print(format_table([row for model in asked.language for row in language_rows(model, texts)]))
    if not asked.only:
        return
    loaded = load(MODEL)
    most = {"train": asked.train, "validation": asked.train // 4, "test": asked.test}
    chosen = [task for task in TASKS if task.name in asked.tasks]
    modes = (KEPT, REFITTED) if asked.refit else (KEPT,)
    questions = Questions(opened(loaded, chosen, asked.data, most), modes, test_texts(asked.data, asked.test))
    known = {case.name: case for case in cases(loaded.info, with_text=True)}
    print(format_table([row for name in asked.only for row in rows(loaded, known[name], texts, questions)]))


def test_texts(data: Path, most: int) -> list[str]:
    """The first sentence of randomly drawn test examples of the tasks in a folder, at most `most / 4` per task."""
    texts: list[str] = []
    for task in TASKS:
        if not task.bundled:
            table = pd.read_parquet(data / task.data / "test.parquet")
            column = table["sentence" if "sentence" in table else "sentence1"]
            texts += list(column.sample(min(most // 4, len(column)), random_state=SEED))
    return texts


if __name__ == "__main__":
    main()
