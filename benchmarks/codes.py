"""Trellis, codebook and integers at equal bytes on the bundled language models: `python -m benchmarks.codes --data FOLDER`.

FOLDER contains wikitext2, sst2_sent (both with test.parquet) and the calibration text corpus_wiki (train.parquet). Word
embeddings and linear weights are each stored in the same number of bits per weight; all other weights are unchanged. Integers
come with a scale and a zero point per row, on top of the requested bits. `offcomp-gpt` is scored by the perplexity of
WikiText-2, `offcomp-bert` by the masked perplexity, and `offcomp-bert-sentiment` by the accuracy on SST-2 of its own head, each
as the difference from the original with its 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from torch import Tensor

from benchmarks.sts import CACHE_BYTES, LINEAR, MAX_TOKENS, read_texts
from offcomp.cli.text import format_table
from offcomp.evaluation import OpenTask, open_task
from offcomp.models.catalogue import BYTES_PER_VALUE, ModuleSpec
from offcomp.models.loading import LoadedModel, load
from offcomp.models.weights import substituted
from offcomp.planning.data.tasks import Task
from offcomp.planning.plan import Group, members
from offcomp.runs.calibration import Calibration, GroupHints
from offcomp.runs.compress import CompressedGroup, compress_group

TASKS = {
    "offcomp-gpt": Task(name="wikitext2", family="causal-lm", data="wikitext2"),
    "offcomp-bert": Task(name="wikitext2", family="masked-lm", data="wikitext2"),
    "offcomp-bert-sentiment": Task(name="sst2", family="head", data="sst2_sent", columns={"text": "sentence"}),
}
INTEGERS = "integers"
METHODS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "trellis, calibrated": ("autoencoder", {"preset": "trellis", "feedback": True}),
    "trellis, data-free": ("autoencoder", {"preset": "trellis"}),
    "codebook, calibrated": ("autoencoder", {"preset": "codebook", "feedback": True}),
    "codebook, data-free": ("autoencoder", {"preset": "codebook"}),
    INTEGERS: ("quantization", {}),
}
BITS = (2.0, 2.5, 3.0, 4.0)
SCALE_BITS = 0.5
"""The most that scales and zero points take up, in bits per weight."""
MAX_TEXTS = 600
"""Number of test texts."""


def groups(loaded: LoadedModel, method: str, options: Mapping[str, Any], bits: float) -> tuple[Group, ...]:
    """Word embeddings and linear weights as one group each; word embeddings take no calibration text."""
    linear = tuple(spec.name for spec in loaded.info.modules if spec.kind in LINEAR)
    width = 8 * BYTES_PER_VALUE[loaded.info.dtype]
    without = {name: value for name, value in options.items() if name != "feedback"}
    return tuple(
        Group(name=name, modules=modules, stack=stack, method=method, options=dict(chosen), ratio=width / bits, unit="bytes")
        for name, modules, stack, chosen in (
            ("embeddings", ("word_embeddings",), "rows", without),
            ("linear", linear, "residual", options),
        )
    )


def hints_for(
    group: Group, calibration: Calibration, earlier: Sequence[CompressedGroup]
) -> AbstractContextManager[GroupHints | None]:
    """Calibration hints, if the group needs them."""
    if not group.options.get("feedback"):
        return nullcontext()
    return GroupHints(calibration, members(group, calibration.loaded.info), group.stack, earlier)


def measured(loaded: LoadedModel, name: str, bits: float, calibration: Calibration, task: OpenTask) -> dict[str, Any]:
    """A row of the table."""
    method, options = METHODS[name]
    matrices: dict[ModuleSpec, Tensor] = {}
    earlier: list[CompressedGroup] = []
    num_bytes = num_weights = 0
    started = time.perf_counter()
    for group in groups(loaded, method, options, bits + (SCALE_BITS if name == INTEGERS else 0.0)):
        with hints_for(group, calibration, earlier) as hints:
            done = compress_group(loaded.model, loaded.info, group, hints=hints, measure_outputs=False)
        earlier.append(done)
        earlier.append(done)
        matrices |= done.reconstructions
        num_bytes += done.figures.num_bytes
        num_weights += sum(spec.num_parameters for spec in done.members)
    seconds = time.perf_counter() - started
    with substituted(loaded.model, matrices):
        score = task.compare()
    low, high = score.paired.interval or (float("nan"), float("nan"))
    return {
        "model": loaded.info.model,
        "bits asked": bits,
        "stored": name,
        "bits": 8 * num_bytes / num_weights,
        score.metric: score.compressed.value,
        "difference": score.paired.difference,
        "from": low,
        "to": high,
        "seconds": seconds,
    }


def rows(model: str, data: Path, num_texts: int) -> Iterator[dict[str, Any]]:
    """All rows of a model, with its task opened once."""
    loaded = load(model)
    task = TASKS[model]
    with TemporaryDirectory() as scratch:
        table = pd.read_parquet(data / task.data / "test.parquet")
        if "text" in table:
            table = table[table["text"].str.strip().str.len() > 0]
        table.head(MAX_TEXTS).to_parquet(Path(scratch) / "test.parquet")
        opened = open_task(task.replace(data=scratch), loaded, seed=0)
        opened.prepare()
        texts = read_texts([data / "corpus_wiki" / "train.parquet"], num_texts)
        calibration = Calibration(loaded, texts, max_tokens=MAX_TOKENS, cache_bytes=CACHE_BYTES)
        for bits in BITS:
            for name in METHODS:
                if name != INTEGERS or bits.is_integer():
                    yield measured(loaded, name, bits, calibration, opened)


def main() -> None:
    """Print each row as JSON as soon as it is measured, and a table for each model after its last row."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--data", type=Path, required=True)
    flags.add_argument("--models", nargs="*", default=list(TASKS), choices=list(TASKS))
    flags.add_argument("--num-texts", type=int, default=400)
    asked = flags.parse_args()
    for model in asked.models:
        found = []
        for row in rows(model, asked.data, asked.num_texts):
            print(json.dumps(row), flush=True)
            found.append(row)
        print(format_table(found), flush=True)


if __name__ == "__main__":
    main()
