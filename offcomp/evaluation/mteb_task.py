"""Tasks of MTEB: the library embeds with the model in memory and scores it, and we compare the examples where we can.

The texts are embedded by sentence-transformers, as the library does for a folder, so its scores of a dense export are those of
a run, to the last digit. The score is the library's main score, averaged over its splits and subsets.

semantic similarity    (one split and subset) the correlation is resampled over pairs
classification         (one split and subset) the mean accuracy of its repeated experiments is resampled over examples
all other tasks        no interval: the library reports no results per example, or the score is not a function of them

With `include_path`, the data are the tables in the folder include_path/NAME, one file per split (test.jsonl, train.csv, ...),
with the columns that the library expects.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from offcomp.errors import TaskError
from offcomp.evaluation import bootstrap as uncertainty
from offcomp.evaluation.base import Arrays, Evaluator, TaskData
from offcomp.evaluation.comparison import change, largest, scored
from offcomp.evaluation.harness import as_task_error, check_available, global_generators, harness_data
from offcomp.evaluation.harness_comparison import compared_means, with_values, without_interval
from offcomp.evaluation.secondary_metrics import pearson
from offcomp.models.loading import LoadedModel
from offcomp.numerics.progress import Report, ignore_progress
from offcomp.planning.data.metrics import METRICS
from offcomp.planning.data.scores import Comparison, Score
from offcomp.planning.data.task_families import MTEB
from offcomp.planning.data.tasks import Task

if TYPE_CHECKING:
    from offcomp.evaluation.comparison import Counts

SEED = 42  # of the library
BATCH_SIZE = 32  # of the library
LOCAL = "local"  # stands for the revision of local tables
CORRELATIONS = {
    f"{prefix}{name}": (column, name)
    for prefix, column in (
        ("", "similarity_scores"),
        ("cosine_", "cosine_scores"),
        ("manhattan_", "manhattan_distances"),
        ("euclidean_", "euclidean_distances"),
    )
    for name in ("pearson", "spearman")
}
"""Main score of a task of semantic similarity -> the predictions that it correlates, and the correlation."""


def read_mteb(task: Task) -> TaskData:
    """Read a task and its data. Raises TaskError if the library, the task or the data are missing."""
    check_available(task)
    name, folder = task.data.partition(":")[2], task.settings["include_path"]
    with as_task_error(task, "read"), global_generators(SEED, SEED, SEED):
        import mteb

        source = mteb.get_task(name)
        if folder:
            tables = Path(folder, name)
            if not tables.is_dir():
                raise TaskError(f"task {task.data!r} needs the folder {tables} with a table per split, which does not exist")
            source.metadata = source.metadata.model_copy(update={"dataset": {"path": str(tables), "revision": LOCAL}})
        source.load_data()
        splits = list(source.eval_splits)
        found = [
            (subset, split, table)
            for subset, tables_of in _by_subset(source).items()
            for split, table in tables_of.items()
            if hasattr(table, "column_names")
        ]
        content = _content(source.dataset)
        texts = [text for _, split, table in found if split in splits for text in _texts(table)]
        if not texts:  # the data are not a table per split, as in retrieval
            texts = [f"{name} {index}" for index in range(_count(source, splits))]
    release = str(source.metadata.revision)
    return harness_data(task, source, texts, content=content, tested_on=",".join(splits), release=release)


def _content(data: Any) -> Any:
    """All tables and texts within the data of a task, however they are nested."""
    if hasattr(data, "to_dict"):
        return data.to_dict()
    return {str(key): _content(each) for key, each in data.items()} if isinstance(data, Mapping) else data


def _by_subset(source: Any) -> dict[str, Any]:
    """Subset -> split -> table; a task without subsets has the single subset "default"."""
    data = source.dataset
    is_nested = data is not None and all(isinstance(each, Mapping) for each in data.values())
    return dict(data) if is_nested else {"default": data or {}}


def _texts(table: Any) -> list[str]:
    """The text columns of each row of a table, separated by vertical bars."""
    names = [name for name, feature in table.features.items() if getattr(feature, "dtype", "") in ("string", "large_string")]
    return [" | ".join(row) for row in zip(*(map(str, table[name]) for name in names), strict=True)] if names else []


def _count(source: Any, splits: list[str]) -> int:
    """A number of examples: of queries, if there are any."""
    queries = getattr(source, "queries", None) or {}
    by_subset = [each for each in [queries, *queries.values()] if isinstance(each, Mapping)]
    sizes = [len(each[split]) for each in by_subset for split in splits if split in each]
    return max(1, sum(sizes))


class Mteb(Evaluator):
    """See the module docstring.

    `reference` and `predict` return the library's main score as `value`; and, where the examples can be compared, `predicted`
    (examples,), the similarity of each pair or the share of experiments that classify an example correctly.
    """

    def __init__(self, loaded: LoadedModel, data: TaskData):
        self._loaded, self._data, self._source = loaded, data, data.source
        if loaded.folder is None:
            raise TaskError(f"task {data.task.data!r} needs a model in a folder, but {loaded.info.model} is only in memory")
        subsets, splits = _by_subset(self._source), list(self._source.eval_splits)
        self._table: Any = None
        if len(subsets) == len(splits) == 1:
            self._table = next(iter(subsets.values())).get(splits[0])

    def details(self) -> dict[str, Any]:
        """The revision of the data, the library's version, and how the texts are embedded."""
        settings = {**self._data.task.settings, "library": f"{MTEB} {version(MTEB)}"}
        modules = self._loaded.sentence_modules
        embedding = str(modules) if modules.declared else "the default of sentence-transformers"
        return {"version": self._data.release, "settings": settings, "embedding": embedding}

    def reference(self, report: Report = ignore_progress) -> Arrays:
        """The score of the current model. Raises TaskError if it is not finite."""
        self._loaded.sentence_modules  # noqa: B018  # raises ModelError if the folder needs custom code
        with (
            as_task_error(self._data.task, "score"),
            global_generators(SEED, SEED, SEED),
            tempfile.TemporaryDirectory() as folder,
        ):
            import mteb

            found = mteb.evaluate(
                self._embedder(),
                self._source,
                co2_tracker=False,
                cache=None,
                overwrite_strategy="always",
                prediction_folder=folder,
                show_progress_bar=False,
                encode_kwargs={"batch_size": BATCH_SIZE, "show_progress_bar": False},
            )
            files = [*Path(folder).rglob(self._source.prediction_file_name)]
            predictions = json.loads(files[0].read_text(encoding="utf-8")) if files else {}
            value = float(found.task_results[0].get_score())
        report(1.0)
        if not np.isfinite(value):
            raise TaskError(f"{self._loaded.info.model} has a score that is not finite on task {self._data.task.data!r}")
        predicted = self._per_example(predictions)
        return {"value": np.array(value)} | ({} if predicted is None else {"predicted": predicted})

    def _embedder(self) -> Any:
        """The model as a SentenceTransformer, built from its folder, with the weights in memory."""
        from sentence_transformers import SentenceTransformer

        model = self._loaded.model
        embedder = SentenceTransformer(
            str(self._loaded.folder),
            device=str(model.device),
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"dtype": torch.float32},
        )
        embedder[0].model = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
        return embedder

    def _per_example(self, predictions: Mapping[str, Any]) -> NDArray[np.float64] | None:
        """What the library predicts for each example; None if that is not known or does not determine the score."""
        by_split = [splits for subset, splits in predictions.items() if subset != "mteb_model_meta"]
        if self._table is None or len(by_split) != 1 or len(by_split[0]) != 1:
            return None
        found, kind = next(iter(by_split[0].values())), self._source.metadata.type
        main = self._source.metadata.main_score
        if kind == "STS" and main in CORRELATIONS:
            column = found[CORRELATIONS[main][0]]
            return np.asarray(found["cosine_scores"] if column is None else column, np.float64)
        if kind == "Classification" and main == "accuracy" and not self._source.is_cross_validation:
            truth = np.asarray(self._table[self._source.label_column_name])
            return np.mean([np.asarray(each) == truth for each in found], axis=0, dtype=np.float64)
        return None

    def compare(self, reference: Arrays, predictions: Arrays) -> Score:
        """The library's scores, and what we can say of their difference."""
        values = float(reference["value"]), float(predictions["value"])
        metric = f"{MTEB} {self._source.metadata.main_score}"
        fields: dict[str, Any] = {"metric": metric, "direction": METRICS[metric].direction}
        if "predicted" not in reference or "predicted" not in predictions:
            note = f"{self._data.task.data}: the score has no interval, since the library reports no results per example."
            compared = without_interval(*values, len(self._data.texts))
            return Score(**fields, **dict(compared), note=(note,))
        before, after = reference["predicted"], predictions["predicted"]
        texts = self._data.texts
        return Score(
            **fields,
            **dict(with_values(self._compared(before, after), *values)),
            unchanged=np.array_equal(before, after),
            changes=tuple(change(texts[i], self._truth(i), before[i], after[i]) for i in largest(after - before)),
        )

    def _truth(self, index: int) -> float | None:
        """The score of a pair according to the data; None for other tasks."""
        return float(self._table[index]["score"]) if self._source.metadata.type == "STS" else None

    def _compared(self, before: NDArray[np.float64], after: NDArray[np.float64]) -> Comparison:
        if self._source.metadata.type != "STS":
            return compared_means(before, after, unchanged=np.array_equal(before, after))
        truth = np.asarray(self._table["score"], np.float64)
        if CORRELATIONS[self._source.metadata.main_score][1] == "spearman":
            return scored(partial(uncertainty.rank_correlations, truth, (before, after)), len(truth), len(truth))

        def correlations(counts: Counts) -> Counts:
            return np.stack([pearson(truth, each, counts) for each in (before, after)])

        return scored(correlations, len(truth), len(truth))
