"""How well the bundled language models predict WikiText-2: `python -m benchmarks.language_models --data FOLDER`.

FOLDER/wikitext2/test.parquet contains the lines as released (Merity et al. 2016). Prints each model's perplexity and accuracy,
and those of a baseline that uses only token frequencies (for the accuracy, it always predicts the most frequent token). Masked
models predict a random 15 % of the tokens (fixed seed), causal models every token but the first, both in rows of at most 128
tokens of one line.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import cross_entropy

from offcomp.cli.text import format_table
from offcomp.models.loading import LoadedModel, load

MODELS = ("offcomp-bert", "offcomp-gpt")
LONGEST, SHARE = 128, 0.15
SHORTEST = 2


def rows(loaded: LoadedModel, texts: list[str]) -> Iterator[torch.Tensor]:
    """Each text's tokens (1, length); long texts are split into several rows."""
    assert loaded.tokenizer is not None
    for text in texts:
        ids = loaded.tokenizer(text)["input_ids"]
        for start in range(0, len(ids), LONGEST):
            part = ids[start : start + LONGEST]
            if len(part) >= SHORTEST:
                yield torch.tensor([part])


def told(loaded: LoadedModel, ids: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (predicted, vocabulary) for the tokens to be predicted, and these tokens (predicted,)."""
    if type(loaded.model).__name__.endswith("ForMaskedLM"):
        assert loaded.tokenizer is not None
        special = torch.tensor(loaded.tokenizer.all_special_ids)
        chosen = (torch.rand(ids.shape, generator=generator) < SHARE) & ~torch.isin(ids, special)
        hidden = ids.masked_fill(chosen, loaded.tokenizer.mask_token_id)
        return loaded.model(hidden).logits[chosen], ids[chosen]
    return loaded.model(ids[:, :-1]).logits[0], ids[0, 1:]


def measure(name: str, texts: list[str]) -> dict[str, Any]:
    """The row of one model."""
    loaded = load(name)
    generator = torch.Generator().manual_seed(0)
    losses, right, truths = [], [], []
    with torch.inference_mode():
        for ids in rows(loaded, texts):
            logits, truth = told(loaded, ids, generator)
            losses.append(cross_entropy(logits.float(), truth, reduction="none"))
            right.append(logits.argmax(1) == truth)
            truths.append(truth)
    counts = np.bincount(torch.cat(truths).numpy())
    shares = counts[counts > 0] / counts.sum()
    return {
        "model": name,
        "tokens": int(counts.sum()),
        "perplexity": exp(float(torch.cat(losses).mean())),
        "of frequencies": exp(float(-(shares * np.log(shares)).sum())),
        "accuracy": float(torch.cat(right).float().mean()),
        "of the most frequent": float(shares.max()),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs="*", default=MODELS)
    arguments = parser.parse_args()
    lines = pd.read_parquet(arguments.data / "wikitext2" / "test.parquet")["text"]
    texts = [text for text in lines.str.strip() if text]
    print(format_table([measure(name, texts) for name in arguments.models]))


if __name__ == "__main__":
    main()
