"""Which metric of SVD preserves a model's embeddings best: `python -m benchmarks.svd_metrics --data FOLDER`.

Each linear weight of MiniLM-L6 is compressed individually, at an equal number of parameters, and calibrated with text that is
not from the task. Prints Spearman's correlation on the pairs of STS-B (FOLDER/stsb/SPLIT.parquet: sentence1, sentence2, score),
with the bootstrap interval of its difference from the first line over the same pairs. Both errors are over all matrices
together: that of the weights, and that of the outputs on held-out text, where each token is weighted by 1 / ‖output of the
original‖².
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from offcomp.cli.text import format_table
from offcomp.evaluation.embeddings import embed
from offcomp.methods import make_method
from offcomp.models.loading import LoadedModel, load
from offcomp.models.weights import read, substituted
from offcomp.numerics.accounting import Budget
from offcomp.numerics.reconstruction_error import reconstruction_error
from offcomp.planning.data.calibration_text import CalibrationText
from offcomp.runs.calibration import Calibration, GroupHints

RATIOS = (2.0, 3.0, 5.0)
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "direction": ({"preset": "direction"}, {}),
    "fwsvd_rows": ({"preset": "fwsvd_rows"}, {}),
    "fwsvd_columns": ({"preset": "fwsvd_columns"}, {}),
    "l1_sensitivity": ({"preset": "l1_sensitivity"}, {}),
    "asvd": ({"preset": "asvd"}, {}),
    "whitened": ({"preset": "whitened"}, {}),
    "whitened, shrinkage .1": ({"preset": "whitened", "shrinkage": 0.1}, {}),
    "whitened, shrinkage .3": ({"preset": "whitened", "shrinkage": 0.3}, {}),
    "whitened, tokens alike": ({"preset": "whitened"}, {"weighting": "equal"}),
    "whitened, special tokens too": ({"preset": "whitened"}, {"weighting": "equal", "special_tokens": True}),
    "whitened, special tokens too, shrinkage .1": (
        {"preset": "whitened", "shrinkage": 0.1},
        {"weighting": "equal", "special_tokens": True},
    ),
    "two_sided": ({"preset": "two_sided"}, {}),
    "two_sided, shrinkage .1": ({"preset": "two_sided", "shrinkage": 0.1}, {}),
}
"""Name -> (options of the method, options of the calibration)."""


def similarities(loaded: LoadedModel, pairs: pd.DataFrame) -> np.ndarray:
    """The cosine similarity of the embeddings of the two sentences of each pair."""
    both = embed(loaded, [*pairs["sentence1"], *pairs["sentence2"]])
    unit = both / np.linalg.norm(both, axis=1, keepdims=True)
    return (unit[: len(pairs)] * unit[len(pairs) :]).sum(1)


def difference(scores: np.ndarray, found: np.ndarray, plain: np.ndarray) -> str:
    """The 95 % bootstrap interval of the difference between two correlations over the same pairs."""
    generator = np.random.default_rng(0)
    draws = [generator.integers(0, len(scores), len(scores)) for _ in range(500)]
    gains = [spearmanr(found[d], scores[d])[0] - spearmanr(plain[d], scores[d])[0] for d in draws]
    low, high = np.quantile(gains, [0.025, 0.975])
    return f"{low:+.4f} .. {high:+.4f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--text", default="bundled", help="calibration text: bundled, or a file")
    parser.add_argument("--split", default="test", choices=("validation", "test"))
    parser.add_argument("--ratios", nargs="*", type=float, default=RATIOS)
    parser.add_argument("--kinds", nargs="*", help="compress only these kinds")
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    arguments = parser.parse_args()
    loaded = load("minilm-l6")
    pairs = pd.read_parquet(arguments.data / "stsb" / f"{arguments.split}.parquet")
    scores = pairs["score"].to_numpy()
    print(f"original: {spearmanr(similarities(loaded, pairs), scores)[0]:.4f} on {len(pairs)} pairs\n")
    specs = [s for s in loaded.info.modules if s.default and s.layer is not None]
    specs = [s for s in specs if not arguments.kinds or s.kind in arguments.kinds]
    texts = CalibrationText(text=arguments.text).read(0).texts
    usual = Calibration(loaded, texts)
    rows = []
    for ratio in arguments.ratios:
        plain: np.ndarray | None = None
        for name in arguments.variants:
            options, settings = VARIANTS[name]
            calibration = Calibration(loaded, texts, **settings)
            started = perf_counter()
            matrices = {}
            for spec in specs:
                budget = Budget(int(spec.num_parameters / ratio))
                with GroupHints(calibration, [spec], "rows") as hints:
                    compressed = make_method("svd", options).fit(read(loaded.model, spec), budget, hints=hints)
                matrices[spec] = compressed.reconstruct()
            seconds = perf_counter() - started
            with substituted(loaded.model, matrices):
                found = similarities(loaded, pairs)
            plain = found if plain is None else plain
            weight_error = reconstruction_error(
                [(read(loaded.model, s), matrix) for s, matrix in matrices.items()]
            ).relative_error
            with GroupHints(usual, specs, "rows") as hints:
                error = hints.output_error(matrices, held_out=True)
            row = {"ratio": ratio, "metric": name, "weight error": weight_error, "output error": error}
            row |= {"STS-B": spearmanr(found, scores)[0], "against the first": difference(scores, found, plain)}
            rows.append(row | {"seconds": seconds})
            print(format_table(rows[-1:]), flush=True)
    print("\n" + format_table(rows))


if __name__ == "__main__":
    main()
