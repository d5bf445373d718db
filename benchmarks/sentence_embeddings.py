"""Our sentence embeddings compared with those of sentence-transformers, for every supported configuration of a model folder.

    python -m benchmarks.sentence_embeddings      (needs sentence-transformers, which offcomp itself does not)

Each row is a copy of MiniLM-L6 with a different pooling, a dense layer, a token limit or a prompt. Both libraries embed the
same texts; the table shows the lowest cosine between the two embeddings of a text, and the largest difference between two
entries.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from offcomp.cli.text import format_table
from offcomp.evaluation.embeddings import cosines, embed
from offcomp.models.loading import load
from offcomp.models.sentence_modules import POOLINGS
from offcomp.models.sources import resolve

MODEL = "minilm-l6"
TASK = Path(__file__).parents[1] / "assets" / "tasks" / "similarity.csv"
Change = Callable[[Path], None]


def edited(name: str, **values: Any) -> Change:
    """Set some values of a JSON file in the folder."""

    def change(folder: Path) -> None:
        file = folder / name
        document = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(document | values))

    return change


def pooled_by(*ways: str) -> Change:
    """Concatenate these poolings, in the older configuration format."""
    return edited("1_Pooling/config.json", **{flag: way in ways for way, flag in POOLINGS.items()})


def with_modules(*kinds: str) -> Change:
    """List these modules after the Transformer."""
    entries = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for index, kind in enumerate(kinds, 1):
        path = f"{index}_{kind}"
        entries.append({"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"})
    return lambda folder: void((folder / "modules.json").write_text(json.dumps(entries)))


def void(_: object) -> None:
    """Return None, whatever the argument."""


def with_dense(index: int, rows: int, cols: int, **config: Any) -> Change:
    """Write a dense layer (rows, cols) of random numbers with a fixed seed."""

    def change(folder: Path) -> None:
        place = folder / f"{index}_Dense"
        place.mkdir(exist_ok=True)
        random = torch.Generator().manual_seed(index)
        bias = config.get("bias", True)
        tensors = {"linear.weight": torch.randn(rows, cols, generator=random) / cols**0.5}
        tensors |= {"linear.bias": torch.randn(rows, generator=random)} if bias else {}
        if config.get("use_residual") and rows != cols:
            tensors["residual.weight"] = torch.randn(rows, cols, generator=random) / cols**0.5
        save_file(tensors, place / "model.safetensors")
        usual = {"bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}
        (place / "config.json").write_text(json.dumps({"in_features": cols, "out_features": rows} | usual | config))

    return change


def cases() -> Iterator[tuple[str, tuple[Change, ...]]]:
    """The name of each configuration, and the changes to the copy that produce it."""
    yield "unchanged", ()
    for way in POOLINGS:
        yield f"pooling {way}", (pooled_by(way),)
        yield f"pooling {way}, not normalised", (pooled_by(way), with_modules("Pooling"))
    yield "cls, max and mean concatenated", (pooled_by("cls", "max", "mean"),)
    for limit in (8, 16, 512):
        yield f"max_seq_length {limit}", (edited("sentence_bert_config.json", max_seq_length=limit),)
    yield "max_seq_length null", (edited("sentence_bert_config.json", max_seq_length=None),)
    dense = with_modules("Pooling", "Dense", "Normalize")
    yield "dense 128", (dense, with_dense(2, 128, 384))
    identity = "torch.nn.modules.linear.Identity"
    yield "dense 128, identity, no bias", (dense, with_dense(2, 128, 384, bias=False, activation_function=identity))
    yield "dense 128, residual", (dense, with_dense(2, 128, 384, use_residual=True))
    twice = with_modules("Pooling", "Dense", "Dense")
    yield "two dense layers", (twice, with_dense(2, 512, 384), with_dense(3, 64, 512, use_residual=False))
    prompts = {"prompts": {"query": "represent this: "}, "default_prompt_name": "query"}
    yield "default prompt", (edited("config_sentence_transformers.json", **prompts),)
    yield (
        "default prompt, not pooled",
        (edited("config_sentence_transformers.json", **prompts), edited("1_Pooling/config.json", include_prompt=False)),
    )
    cased = edited("tokenizer_config.json", do_lower_case=False)
    yield "lower-cased", (cased, edited("sentence_bert_config.json", do_lower_case=True))


def texts() -> list[str]:
    """Short and long sentences, some in capitals."""
    table = pd.read_csv(TASK)
    sentences = [str(text) for text in table["sentence1"][:20]]
    return [*sentences, " ".join(sentences), "", "A", *(text.upper() for text in sentences[:5])]


def compared(folder: Path, sentences: list[str]) -> tuple[float, float]:
    """(lowest cosine, largest difference of an entry) of the embeddings of both libraries."""
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    expected = np.asarray(theirs.encode(sentences, batch_size=8), np.float32)
    found = embed(load(str(folder)), sentences)
    return float(cosines(expected, found).min()), float(np.abs(expected - found).max())


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    source = resolve(MODEL).folder
    assert source is not None
    rows = []
    with TemporaryDirectory() as place:
        for index, (name, changes) in enumerate(cases()):
            folder = Path(place) / str(index)
            shutil.copytree(source, folder)
            for change in changes:
                change(folder)
            cosine, difference = compared(folder, texts())
            rows.append({"declared": name, "1 - lowest cosine": f"{1 - cosine:.1e}", "largest difference": f"{difference:.1e}"})
            shutil.rmtree(folder)
    print(format_table(rows))


if __name__ == "__main__":
    main()
