"""The benefit of computing the metrics of an SVD with all earlier matrices compressed (`follow`).

    python -m benchmarks.follow --data FOLDER [--models NAME ...] [--out FILE]

FOLDER contains wikitext2, corpus_wiki, corpus_books and corpus_imdb, each with parquet files that have a column `text`. Every
linear weight of a model is compressed on its own at an equal number of parameters, calibrated on 256 lines of Wikipedia and
books, which are drawn anew with every seed. The result is measured on other lines, of four kinds: as the perplexity of a
language model (for a masked one, over 15 % of the tokens of each text), or as the cosine distance of sentence embeddings from
those of the original, in thousandths.

"change" is the difference from the first variant: of the logarithm of the perplexity in thousandths, or of the distance. Its
95 % interval is over texts, whose changes are averaged over the draws; "least" and "most" are the extremes over draws.
"seconds" are processor seconds of the compression.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

import offcomp
from offcomp.cli.text import format_table
from offcomp.evaluation.embeddings import embed
from offcomp.models.loading import LoadedModel, load
from offcomp.models.weights import substituted

MODELS = ("offcomp-gpt", "offcomp-bert", "minilm-l6")
RATIOS = (2.0, 3.0, 4.0)
PRESETS = ("whitened", "asvd")
VARIANTS = {"usual": {}, "follow": {"follow": True, "toward_original": False}, "toward original": {"follow": True}}
"""Name -> options of the method."""
CALIBRATION = ("corpus_wiki/train", "corpus_books/train")
HELD_OUT = {
    "WikiText-2": "wikitext2/test",
    "Wikipedia": "corpus_wiki/validation",
    "books": "corpus_books/validation",
    "reviews": "corpus_imdb/validation",
}
SHORTEST, LONGEST = 40, 64  # characters, tokens
BATCH, SHARE, RESAMPLES = 32, 0.15, 2000
Vector = NDArray[np.float64]


def lines(file: Path, number: int, seed: int) -> list[str]:
    """Lines drawn from a table of texts."""
    found = pd.read_parquet(file)["text"].str.split("\n").explode().str.strip()
    return list(found[found.str.len() > SHORTEST].sample(number, random_state=seed))


def losses(loaded: LoadedModel, texts: Sequence[str]) -> tuple[Vector, Vector]:
    """Nats and number of predicted tokens of each text (texts,)."""
    assert loaded.tokenizer is not None
    tokenizer, masked = loaded.tokenizer, not type(loaded.model).__name__.endswith(("ForCausalLM", "LMHeadModel"))
    special, generator = torch.tensor(tokenizer.all_special_ids), torch.Generator().manual_seed(0)
    nats, counts = [], []
    for start in range(0, len(texts), BATCH):
        part = tokenizer(
            list(texts[start : start + BATCH]), padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
        )
        ids, mask = part["input_ids"], part["attention_mask"]
        if masked:
            chosen = (torch.rand(ids.shape, generator=generator) < SHARE) & ~torch.isin(ids, special)
            logits = loaded.model(ids.masked_fill(chosen, tokenizer.mask_token_id), attention_mask=mask).logits
        else:
            logits = loaded.model(ids, attention_mask=mask).logits[:, :-1]
            ids, chosen = ids[:, 1:], mask[:, 1:].bool()
        found = torch.zeros(ids.shape, dtype=torch.float64)
        found[chosen] = cross_entropy(logits[chosen].float(), ids[chosen], reduction="none").double()
        nats.append(found.sum(1))
        counts.append(chosen.sum(1).double())
    return torch.cat(nats).numpy(), torch.cat(counts).numpy()


class Held:
    """Held-out texts of one kind and, for a model without a language head, the original model's embeddings of them."""

    def __init__(self, loaded: LoadedModel, texts: Sequence[str]) -> None:
        self.loaded, self.texts = loaded, texts
        self.embeds = not type(loaded.model).__name__.endswith(("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForPreTraining"))
        self.original = self._embeddings() if self.embeds else None

    def _embeddings(self) -> Vector:
        found = embed(self.loaded, self.texts).astype(float)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    def scores(self) -> Vector:
        """A sum and a weight per text (2, texts). The ratio of their totals is the mean loss in nats, or the mean distance."""
        if self.original is None:
            return np.stack(losses(self.loaded, self.texts))
        return np.stack([1 - (self._embeddings() * self.original).sum(1), np.ones(len(self.texts))])

    def value(self, scores: Vector) -> float:
        """The figure for the table: a perplexity, or a distance in thousandths."""
        mean = scores[0].sum() / scores[1].sum()
        return float(1000 * mean if self.embeds else np.exp(mean))


def interval(first: Vector, second: Vector) -> tuple[float, float]:
    """95 % bootstrap interval, in thousandths, of the mean of the second scores (2, texts) minus that of the first."""
    random = np.random.default_rng(0)
    count = first.shape[1]
    gains = []
    for _ in range(RESAMPLES):
        chosen = random.integers(0, count, count)
        one, other = first[:, chosen].sum(1), second[:, chosen].sum(1)
        gains.append(1000 * (other[0] / other[1] - one[0] / one[1]))
    low, high = np.quantile(gains, [0.025, 0.975])
    return float(low), float(high)


def measured(
    loaded: LoadedModel, held: dict[str, Held], calibration: Sequence[Sequence[str]], preset: str, ratio: float
) -> list[dict[str, Any]]:
    """One row per variant and kind of text."""
    rows: list[dict[str, Any]] = []
    usual: dict[str, list[Vector]] = {}
    for variant, options in VARIANTS.items():
        found: dict[str, list[Vector]] = {name: [] for name in held}
        seconds = []
        for texts in calibration:
            started = process_time()
            done = offcomp.compress(
                loaded, ratio=ratio, options={"preset": preset} | options, calibration=list(texts), progress=False
            )
            seconds.append(process_time() - started)
            matrices = {spec: matrix for group in done for spec, matrix in group.reconstructions.items()}
            with substituted(loaded.model, matrices), torch.inference_mode():
                for name, each in held.items():
                    found[name].append(each.scores())
        usual = usual or found
        for name, each in held.items():
            changes = [
                1000 * float(two[0].sum() / two[1].sum() - one[0].sum() / one[1].sum())
                for one, two in zip(usual[name], found[name], strict=True)
            ]
            low, high = interval(np.mean(usual[name], 0), np.mean(found[name], 0))
            rows.append(
                {
                    "model": Path(loaded.info.model).name,
                    "preset": preset,
                    "ratio": ratio,
                    "variant": variant,
                    "text": name,
                    "value": float(np.mean([each.value(scores) for scores in found[name]])),
                    "change": float(np.mean(changes)),
                    "low": low,
                    "high": high,
                    "least": min(changes),
                    "most": max(changes),
                    "seconds": float(np.mean(seconds)),
                }
            )
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs="*", default=MODELS, help="names or folders")
    parser.add_argument("--presets", nargs="*", default=PRESETS)
    parser.add_argument("--ratios", nargs="*", type=float, default=RATIOS)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--texts", type=int, default=256, help="lines of calibration text")
    parser.add_argument("--held-out", type=int, default=100, help="lines of each kind of held-out text")
    parser.add_argument("--out", type=Path, help="also write the rows to this JSON file")
    asked = parser.parse_args()
    files = [asked.data / f"{name}.parquet" for name in CALIBRATION]
    calibration = [
        [text for file in files for text in lines(file, asked.texts // len(files), seed)] for seed in range(asked.draws)
    ]
    rows: list[dict[str, Any]] = []
    for model in asked.models:
        loaded = load(model)
        texts = {name: lines(asked.data / f"{file}.parquet", asked.held_out, 0) for name, file in HELD_OUT.items()}
        with torch.inference_mode():
            held = {name: Held(loaded, each) for name, each in texts.items()}
            print({name: round(each.value(each.scores()), 2) for name, each in held.items()}, flush=True)
        for preset in asked.presets:
            for ratio in asked.ratios:
                rows += (new := measured(loaded, held, calibration, preset, ratio))
                print(format_table(new), flush=True)
                if asked.out:
                    asked.out.write_text(json.dumps(rows, indent=1) + "\n")
    print("\n" + format_table(rows))


if __name__ == "__main__":
    main()
