"""Create finished runs with compressed weights for the export tests, as the worker does but in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from offcomp.models.loading import LoadedModel
from offcomp.planning.model_sizes import model_sizes
from offcomp.planning.plan import Group, Plan
from offcomp.runs.compress import compress_group, save_group
from offcomp.runs.result import ModelResult, RunResult
from offcomp.runs.store import Run

GROUPS = (
    Group(name="key", modules=("key.0", "key.1"), ratio=3.0),
    Group(name="words", modules=("word_embeddings",), ratio=4.0, dtype="float16", unit="bytes"),
    Group(name="ffn", modules=("ffn_in.0", "ffn_out.1"), stack="residual", method="quantization", ratio=1.5, unit="bytes"),
)
"""Three groups of a tiny BERT: two key matrices stacked by rows, the tied embeddings, and two FFN matrices, one transposed."""


def finished_run(loaded: LoadedModel, folder: Path, groups: Sequence[Group] = GROUPS) -> Run:
    """Compress these groups of a model and return a finished run, whose folder contains the compressed weights."""
    figures = []
    for group in groups:
        compressed = compress_group(loaded.model, loaded.info, group)
        save_group(compressed, folder / "groups")
        figures.append(compressed.figures)
    sizes = model_sizes([(entry.original, entry.stored) for entry in figures], loaded.info)
    info, plan = loaded.info, Plan(model=loaded.info.model, groups=tuple(groups), tasks=())
    model = ModelResult(name=info.model, fingerprint=info.fingerprint, reads=info.reads, sizes=sizes)
    result = RunResult.model_construct(status="done", groups=tuple(figures), model=model)
    return Run("0123456789ab", folder, plan, "done", 0.0, result=result)
