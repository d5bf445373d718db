"""Finished runs with compressed weights, made in this process as the worker makes them, to be exported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from offcomp.models.loading import LoadedModel
from offcomp.numerics.accounting import Size
from offcomp.planning.plan import Group, Plan
from offcomp.planning.sizes import model_sizes
from offcomp.runs.compress import compress_group, save_group
from offcomp.runs.store import Run

GROUPS = (
    Group(name="key", modules=("key.0", "key.1"), ratio=3.0),
    Group(name="words", modules=("word_embeddings",), ratio=4.0, dtype="float16", unit="bytes"),
    Group(name="ffn", modules=("ffn_in.0", "ffn_out.1"), stack="residual", method="quantization", ratio=1.5, unit="bytes"),
)
"""Three of a tiny BERT: two stacked by rows, the tied embeddings, and one turned beside one that is not."""


def finished_run(loaded: LoadedModel, folder: Path, groups: Sequence[Group] = GROUPS) -> Run:
    """The groups of a model compressed and kept in a run's folder."""
    figures = []
    for group in groups:
        compressed = compress_group(loaded.model, loaded.info, group)
        save_group(compressed, folder / "groups")
        figures.append(compressed.figures)
    stored = [
        (Size(entry["original_parameters"], entry["original_bytes"]), Size(entry["num_parameters"], entry["num_bytes"]))
        for entry in figures
    ]
    model = {"name": loaded.info.model, "fingerprint": loaded.info.fingerprint}
    model |= {"reads": loaded.info.reads, "sizes": model_sizes(stored, loaded.info)}
    plan = Plan(model=loaded.info.model, groups=tuple(groups), tasks=())
    return Run("0123456789ab", folder, plan, "done", 0.0, {}, {"status": "done", "groups": figures, "model": model})
