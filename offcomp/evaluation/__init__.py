"""Evaluation tasks that compare an original and a compressed model on the same examples."""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from datasets import Dataset, DatasetDict

from offcomp import __version__
from offcomp.errors import StorageError
from offcomp.evaluation.base import Arrays, Evaluator, TaskData
from offcomp.evaluation.causal_lm import CausalLM
from offcomp.evaluation.data import read
from offcomp.evaluation.fidelity import EmbeddingFidelity, HeadFidelity
from offcomp.evaluation.head import Head, described_head
from offcomp.evaluation.head_regression import HeadRegression
from offcomp.evaluation.lm_eval_task import LMEval, read_lm_eval
from offcomp.evaluation.masked_lm import MaskedLM
from offcomp.evaluation.mteb_task import Mteb, read_mteb
from offcomp.evaluation.probe import Probe
from offcomp.evaluation.regression import Regression
from offcomp.evaluation.scaling import PROBE_VERSION
from offcomp.evaluation.secondary_metrics import check_metrics, original_scores, secondary_metrics
from offcomp.evaluation.seq2seq_lm import Seq2SeqLM
from offcomp.evaluation.similarity import Similarity
from offcomp.evaluation.token_fidelity import causal_fidelity, masked_fidelity
from offcomp.evaluation.trial import check_fits, check_runs
from offcomp.files import write_bytes
from offcomp.models.environment import versions
from offcomp.models.listing import check_unchanged
from offcomp.models.loading import LoadedModel
from offcomp.numerics.progress import Report, ignore_progress
from offcomp.planning.data.calibration_text import digest
from offcomp.planning.data.head_labels import adapted_to
from offcomp.planning.data.scores import OriginalScore, Score
from offcomp.planning.data.task_families import LM_EVAL, MTEB
from offcomp.planning.data.tasks import Task

EVALUATORS: Mapping[str, Callable[[LoadedModel, TaskData], Evaluator]] = {
    "head": Head,
    "head-regression": HeadRegression,
    "probe": Probe,
    "regression": Regression,
    "similarity": Similarity,
    "masked-lm": MaskedLM,
    "causal-lm": CausalLM,
    "seq2seq-lm": Seq2SeqLM,
    "embedding-fidelity": EmbeddingFidelity,
    "masked-fidelity": masked_fidelity,
    "causal-fidelity": causal_fidelity,
    "head-fidelity": HeadFidelity,
    LM_EVAL: LMEval,
    MTEB: Mteb,
}
"""Task family -> its evaluator."""

READERS: Mapping[str, Callable[[Task], TaskData]] = {LM_EVAL: read_lm_eval, MTEB: read_mteb}
"""Task family of another library -> what reads its data."""

ANSWERS = 4
"""Version of the cached outputs. Increment it if the outputs change, even in the last digits; older files are then ignored."""


class OpenTask:
    """A task prepared for one original model.

    The examples are tokenised once and the original's predictions are cached, so each comparison requires only one pass.
    """

    def __init__(self, task: Task, loaded: LoadedModel, data: TaskData, cache: Path | None):
        self.task = task
        self._loaded, self._data, self._cache = loaded, data, cache
        self._evaluator = EVALUATORS[task.family](loaded, data)
        self._reference: Arrays | None = None

    @property
    def guessed(self) -> dict[str, str]:
        """Task column -> data column, for columns that were guessed: the task does not specify them, and their names differ."""
        return {ours: named for ours, named in self._data.columns.items() if named not in (ours, self.task.columns.get(ours))}

    @property
    def num_texts(self) -> int:
        """The number of test examples."""
        return len(self._data.splits["test"])

    def prepare(self, report: Report = ignore_progress) -> Arrays:
        """The original's predictions. They are cached; on the first call, the model must still have its original weights."""
        if self._reference is not None:
            return self._reference
        info = self._loaded.info
        file = self._cache / f"{self._key()}.npz" if self._cache and info.reads else None
        reference = _cached(file) if file else None
        if reference is None:
            reference = self._evaluator.reference(report)
            if file:
                check_unchanged(info)  # a loaded model may still be reading from its files
                _write_cache(file, reference)
        self._reference = reference
        return reference

    def original(self) -> OriginalScore:
        """Scores of the original model alone."""
        result = self._compared(self._evaluator, self.prepare())
        names = ("metric", "direction", "baseline", "note", "labels", "collapsed")
        fields = self._context(self._evaluator) | dict(result.original)
        fields |= {name: getattr(result, name) for name in names if name in result.model_fields_set}
        return OriginalScore(**fields | ({"also": original_scores(result.also)} if result.also else {}))

    def compare(self, report: Report = ignore_progress, *, model: LoadedModel | None = None) -> Score:
        """Compare the loaded model in its current state (or `model`, but with the original's tokenizer) to the original.

        Raises TaskError if `model` cannot perform the task.
        """
        evaluator = self._evaluator
        if model is not None:
            compared = replace(model, tokenizer=self._loaded.tokenizer, pooling=self._loaded.pooling)
            check_fits(compared, self.task)
            if self.task.family not in READERS:
                check_runs(compared, self._data)
            evaluator = EVALUATORS[self.task.family](compared, self._data)
        score = self._compared(evaluator, evaluator.predict(self.prepare(), report))
        return score.model_copy(update=self._context(evaluator))

    def _compared(self, evaluator: Evaluator, predictions: Arrays) -> Score:
        """Compare predictions with those of the original, including the task's secondary metrics."""
        reference = self.prepare()
        secondary = {"also": secondary_metrics(self._data, reference, predictions)} if self.task.also else {}
        return evaluator.compare(reference, predictions).model_copy(update=secondary)

    def _context(self, evaluator: Evaluator) -> dict[str, Any]:
        """The fields of `ScoreContext` that describe the examples and the way in which the model reads them."""
        task, data = self.task, self._data
        context: dict[str, Any] = {"task": task.name, "title": task.title or task.name, "family": task.family}
        context |= {"version": task.version, "split": data.tested_on, "digest": data.digest}
        context |= {"columns": dict(data.columns), "settings": dict(task.settings)}
        trained = {"n_train": len(data.splits["train"])} if "train" in data.splits else {}
        rows = {"rows": data.rows} if data.rows else {}
        return context | trained | rows | {name: value for name, value in evaluator.details().items() if value}

    def _key(self) -> str:
        """Hash of everything that determines the original's predictions: model files, examples, settings and versions."""
        facts = [__version__, ANSWERS, PROBE_VERSION, versions(), self.task.family, self.task.settings, self._data.digest]
        library = self.task.kind.harness
        facts += [version(library)] if library else []
        device = self._loaded.model.device.type
        facts += [] if device == "cpu" else [device]
        return hashlib.sha256(json.dumps([*facts, self._loaded.info.reads], sort_keys=True).encode()).hexdigest()[:24]


def open_task(task: Task, loaded: LoadedModel, *, seed: int = 0, cache: Path | None = None) -> OpenTask:
    """Read a task's examples and tokenise them for a model.

    cache    folder for the original's predictions, keyed by the contents of the model and the examples

    Raises TaskError if the model cannot perform the task or the examples cannot be read.
    """
    check_fits(loaded, task)
    if task.family in READERS:
        return OpenTask(task, loaded, READERS[task.family](task), cache)
    if task.family == "head":
        task = adapted_to(task, described_head(loaded))
    loaded = replace(loaded, pooling=task.options.get("pooling", ""))
    data = read(task, seed)
    check_metrics(data)
    check_runs(loaded, data)
    return OpenTask(task, loaded, data, cache)


def open_texts(family: str, loaded: LoadedModel, texts: Sequence[str], options: Mapping[str, Any] | None = None) -> OpenTask:
    """A task of this fidelity family on these texts, prepared for a model. Raises TaskError if the model cannot perform it."""
    task = Task(name=family, family=family, data="texts", options=dict(options or {}))
    check_fits(loaded, task)
    splits = DatasetDict({"test": Dataset.from_dict({"text": list(texts)})})
    data = TaskData(task, splits, digest(texts), columns={"text": "text"})
    check_runs(loaded, data)
    return OpenTask(task, loaded, data, None)


def _cached(file: Path) -> Arrays | None:
    """Read the arrays in a cache file; None if the file is missing or damaged."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error):
        return None


def _write_cache(file: Path, arrays: Arrays) -> None:
    """Write the arrays to the cache. Failures are ignored, since the arrays can be recomputed next time."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # no array is named allow_pickle
    with suppress(StorageError):
        write_bytes(file, buffer.getvalue())
