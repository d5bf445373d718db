"""Classification by a logistic-regression probe on frozen sentence embeddings.

The probe is fitted once, on the ORIGINAL model's embeddings of the training split; its strength of regularisation is chosen on
the validation split. It is then applied, unchanged, to the embeddings of the compressed model, so the score answers: do the
parts downstream of the model still work? An embedding is the mean of the last hidden states over the tokens of a sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset, DatasetDict
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from offcomp.errors import TaskError
from offcomp.evaluation.comparison import compare
from offcomp.methods.base import Report, ignore_progress
from offcomp.models.loading import LoadedModel, last_hidden_state

if TYPE_CHECKING:
    Embeddings = NDArray[np.float32]

TASK_FOLDER = Path(__file__).parents[2] / "assets" / "tasks"
SPLITS = ("train", "validation", "test")
REGULARISATION = (0.001, 0.01, 0.1, 1.0)
BATCH_SIZE = 32
MAX_TOKENS = 256
RESERVED_POSITIONS = 2  # RoBERTa counts its positions from the padding index + 1


@dataclass(frozen=True)
class FittedProbe:
    """A probe fitted on the original model, with its probabilities on the test split (examples, classes)."""

    classifier: Pipeline
    original: NDArray[np.float64]
    validation_accuracy: float


@dataclass(frozen=True)
class ProbeTask:
    """A bundled classification task, read from `assets/tasks/NAME.csv` with columns text, label and split."""

    name: str
    title: str
    version: str

    def load(self) -> DatasetDict:
        """The three splits as separate data sets."""
        return _read_splits(self.name)

    def fit(self, loaded: LoadedModel, report: Report = ignore_progress) -> FittedProbe:
        """Fit the probe on the original model. Raises TaskError where the model cannot embed sentences."""
        data = self.load()
        texts = [text for split in SPLITS for text in data[split]["text"]]
        embeddings = embed(loaded, texts, report)
        bounds = np.cumsum([len(data[split]) for split in SPLITS])[:-1]
        train, validation, test = np.split(embeddings, bounds)
        candidates = [
            make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000)).fit(train, _labels(data["train"]))
            for strength in REGULARISATION
        ]
        accuracies = [model.score(validation, _labels(data["validation"])) for model in candidates]
        best = int(np.argmax(accuracies))
        return FittedProbe(candidates[best], candidates[best].predict_proba(test), float(accuracies[best]))

    def compare(self, probe: FittedProbe, loaded: LoadedModel, report: Report = ignore_progress) -> dict[str, Any]:
        """Score the (compressed) model on the test split against the original. JSON values; see `comparison.compare`."""
        test = self.load()["test"]
        texts = list(test["text"])
        compressed = probe.classifier.predict_proba(embed(loaded, texts, report))
        result = compare(_labels(test), probe.original, compressed, texts=texts, names=test.features["label"].names)
        return result | {"task": self.name, "version": self.version, "split": "test"}


def _labels(split: Dataset) -> list[int]:
    return list(split["label"])


@cache
def _read_splits(name: str) -> DatasetDict:
    table = pd.read_csv(TASK_FOLDER / f"{name}.csv")
    parts = {
        split: Dataset.from_pandas(table[table["split"] == split][["text", "label"]], preserve_index=False) for split in SPLITS
    }
    return DatasetDict(parts).class_encode_column("label")


def embed(loaded: LoadedModel, texts: Sequence[str], report: Report = ignore_progress) -> Embeddings:
    """Mean-pooled last hidden states (texts, hidden), padding left out. Sentences of like length share a batch.

    Raises TaskError where the model has no tokenizer or gives values that are not finite.
    """
    if loaded.tokenizer is None:
        raise TaskError(f"{loaded.info.model} has no tokenizer, so no task can run; add tokenizer.json or leave tasks empty")
    tokenizer = loaded.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise TaskError(
            f"the tokenizer of {loaded.info.model} has no token to pad with; add a pad_token to tokenizer_config.json"
        )
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    pooled: dict[int, Embeddings] = {}
    for start in range(0, len(order), BATCH_SIZE):
        chosen = order[start : start + BATCH_SIZE]
        pooled |= dict(zip(chosen, _embed_batch(loaded, [texts[i] for i in chosen]), strict=True))
        report(min(1.0, (start + BATCH_SIZE) / len(order)))
    embeddings = np.stack([pooled[i] for i in range(len(texts))])
    if not np.isfinite(embeddings).all():
        raise TaskError(f"{loaded.info.model} gives embeddings that are not finite, so no task can be scored")
    return embeddings


def _embed_batch(loaded: LoadedModel, texts: list[str]) -> Embeddings:
    assert loaded.tokenizer is not None  # noqa: S101  # embed has checked
    positions = getattr(loaded.model.config, "max_position_embeddings", None) or MAX_TOKENS + RESERVED_POSITIONS
    limit = min(MAX_TOKENS, positions - RESERVED_POSITIONS)
    batch = loaded.tokenizer(texts, padding=True, padding_side="right", truncation=True, max_length=limit, return_tensors="pt")
    with torch.inference_mode():
        hidden = last_hidden_state(loaded.model, **batch)  # (batch, tokens, hidden)
    mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    return ((hidden * mask).sum(1) / mask.sum(1).clamp_min(1)).numpy()
