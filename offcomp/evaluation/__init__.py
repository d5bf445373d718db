"""Tasks that compare an original and a compressed model on the same examples."""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from offcomp import __version__
from offcomp.errors import StorageError, TaskError
from offcomp.evaluation.also import alone, also, check_metrics
from offcomp.evaluation.base import Arrays, Evaluator, TaskData
from offcomp.evaluation.causal_lm import CausalLM
from offcomp.evaluation.data import read
from offcomp.evaluation.head import Head, described_head
from offcomp.evaluation.head_regression import HeadRegression
from offcomp.evaluation.masked_lm import MaskedLM
from offcomp.evaluation.probe import Probe
from offcomp.evaluation.regression import Regression
from offcomp.evaluation.scaling import PROBE_VERSION
from offcomp.evaluation.similarity import Similarity
from offcomp.evaluation.trial import check_runs
from offcomp.files import write_bytes
from offcomp.models.environment import versions
from offcomp.models.listing import check_unchanged
from offcomp.models.loading import LoadedModel, reads_text
from offcomp.numerics.progress import Report, ignore_progress
from offcomp.planning.data.head_labels import asked_of
from offcomp.planning.data.tasks import Task, unfit

EVALUATORS: Mapping[str, Callable[[LoadedModel, TaskData], Evaluator]] = {
    "head": Head,
    "head-regression": HeadRegression,
    "probe": Probe,
    "regression": Regression,
    "similarity": Similarity,
    "masked-lm": MaskedLM,
    "causal-lm": CausalLM,
}
"""Family -> its evaluator."""

ANSWERS = 4
"""Version of the cached outputs; increment when their content or last digits change, which invalidates older files."""


class OpenTask:
    """A task on an original model: tokenised once, with the original's predictions cached. Each comparison costs one pass."""

    def __init__(self, task: Task, loaded: LoadedModel, data: TaskData, cache: Path | None):
        self.task = task
        self._loaded, self._data, self._cache = loaded, data, cache
        self._evaluator = EVALUATORS[task.family](loaded, data)
        self._reference: Arrays | None = None

    @property
    def guessed(self) -> dict[str, str]:
        """Column of the task -> column of the data, where neither the task's settings nor equal names determine it."""
        return {ours: named for ours, named in self._data.columns.items() if named not in (ours, self.task.columns.get(ours))}

    def prepare(self, report: Report = ignore_progress) -> None:
        """Read the original's predictions from the cache, or compute them; the model must then still be the original."""
        info = self._loaded.info
        file = self._cache / f"{self._key()}.npz" if self._cache and info.reads else None
        self._reference = _kept(file)
        if self._reference is None:
            found = self._evaluator.reference(report)
            if file is not None:
                check_unchanged(info)  # a loaded model may still read its files
                _keep(file, found)
            self._reference = found

    def original(self) -> dict[str, Any]:
        """Score of the original alone as JSON values: metric, direction, value, standard_error, n, baseline."""
        result = self._compared(self._evaluator, self._prepared())
        named: dict[str, Any] = {
            name: result[name] for name in ("metric", "direction", "baseline", "note", "labels") if name in result
        }
        if "also" in result:
            named["also"] = alone(result["also"])
        return self._about(self._evaluator) | named | result["original"] | {"collapsed": result.get("collapsed", False)}

    def compare(self, report: Report = ignore_progress, *, model: LoadedModel | None = None) -> dict[str, Any]:
        """Compare the current model (or another one, with the original's tokenizer) to the original, as JSON values.

        Raises TaskError if the other model cannot do the task.
        """
        evaluator = self._evaluator
        if model is not None:
            other = replace(model, tokenizer=self._loaded.tokenizer)
            check_runs(other, self._data)
            evaluator = EVALUATORS[self.task.family](other, self._data)
        return self._compared(evaluator, evaluator.predict(self._prepared(), report)) | self._about(evaluator)

    def _compared(self, evaluator: Evaluator, predictions: Arrays) -> dict[str, Any]:
        """The comparison with the original, including the task's secondary metrics."""
        reference = self._prepared()
        compared = evaluator.compare(reference, predictions)
        return compared | ({"also": also(self._data, reference, predictions)} if self.task.also else {})

    def _prepared(self) -> Arrays:
        if self._reference is None:
            self.prepare()
        assert self._reference is not None  # noqa: S101  # prepare has set it
        return self._reference

    def _about(self, evaluator: Evaluator) -> dict[str, Any]:
        """The context of the scores: the examples, and how the model read them.

        cut         how many texts were truncated, out of how many, at how many tokens; only if some were
        embedding   how hidden states became a sentence embedding, in words
        probe       version of the probe, if there is one
        """
        splits = self._data.splits
        trained = {"n_train": len(splits["train"])} if "train" in splits else {}
        about: dict[str, Any] = {"task": self.task.name, "title": self.task.title or self.task.name, "family": self.task.family}
        about |= {"version": self.task.version, "split": self._data.tested_on, "digest": self._data.digest}
        about |= {"columns": dict(self._data.columns), "settings": self.task.settings}
        rows = {"rows": self._data.rows.to_dict()} if self._data.rows else {}
        return about | trained | rows | {name: value for name, value in evaluator.about().items() if value}

    def _key(self) -> str:
        """Hash of everything that determines the original's predictions: its files, the examples, settings and versions."""
        facts = [__version__, ANSWERS, PROBE_VERSION, versions(), self.task.family, self.task.settings, self._data.digest]
        return hashlib.sha256(json.dumps([*facts, self._loaded.info.reads], sort_keys=True).encode()).hexdigest()[:24]


def open_task(task: Task, loaded: LoadedModel, *, seed: int = 0, cache: Path | None = None) -> OpenTask:
    """Read a task's examples and tokenise them for a model.

    cache    folder for the original's predictions, keyed by the content of model and examples

    Raises TaskError if the model cannot do the task or the examples cannot be read.
    """
    fault = unfit(task, loaded.info.architecture, reads_text(type(loaded.model)))
    if fault:
        raise TaskError(fault.removesuffix("."))
    if task.family == "head":
        task = asked_of(task, described_head(loaded))
    data = read(task, seed)
    check_metrics(data)
    check_runs(loaded, data)
    return OpenTask(task, loaded, data, cache)


def _kept(file: Path | None) -> Arrays | None:
    """The arrays in a cache file, or None if it is missing or damaged."""
    if file is None or not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error):
        return None


def _keep(file: Path, arrays: Arrays) -> None:
    """Write the arrays to the cache. Failures are ignored: they are computed again next time."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # no array is named allow_pickle
    try:
        write_bytes(file, buffer.getvalue())
    except StorageError:
        return
