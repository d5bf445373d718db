"""Residual autoencoder compared with SVD at equal parameters on MiniLM-L6, float32: `python -m benchmarks.residual_vs_svd`.

There are 96 cases: six kinds, at ratios 2, 3, 5 and 10, in one layer (`--layer`) alone and in all six layers as one group,
under the plain and the whitened metric (bundled calibration text). Errors are relative, in the metric used for fitting. The
gain over SVD is split into the gain from the interpolative form (latents alone, without sparse entries or hidden units:
"linear") and the gain from the rest. `--kinds` and `--ratios` restrict the cases.
"""

from __future__ import annotations

import argparse
from math import sqrt
from time import perf_counter
from typing import Any

import torch

from offcomp.cli.text import format_table
from offcomp.methods import SVD, ResidualAutoencoder
from offcomp.methods.base import Hints, Method
from offcomp.methods.svd.group_metrics import group_metrics
from offcomp.methods.svd.method import PRESETS
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.loading import load
from offcomp.models.weights import read
from offcomp.numerics.accounting import Budget
from offcomp.numerics.weighted_norm import SideWeights
from offcomp.planning.data.calibration_text import CalibrationText
from offcomp.planning.grouping import best_stack
from offcomp.runs.calibration import Calibration, GroupHints
from offcomp.runs.compress import stack

KINDS = ("query", "key", "value", "attention_output", "ffn_in", "ffn_out")
RATIOS = (2.0, 3.0, 5.0, 10.0)
METRICS = ("plain", "whitened")


def case(matrix: torch.Tensor, hints: Hints, metric: str, ratio: float) -> dict[str, Any]:
    """The errors of SVD, of the interpolative form alone and of the whole method, under the metric."""
    weights = SideWeights.of(*group_metrics(hints, PRESETS[metric], 0.0, matrix.device))
    budget, norm = Budget(int(matrix.numel() / ratio)), weights.squared(matrix)
    whole = ResidualAutoencoder(metric=metric)
    methods: dict[str, Method] = {
        "svd": SVD(preset=metric),
        "linear": ResidualAutoencoder(metric=metric, sparse_share=0.0, hidden_share=0.0),
        "residual": whole,
    }
    found: dict[str, Any] = {}
    for name, method in methods.items():
        started = perf_counter()
        compressed = method.fit(matrix, budget, hints=hints)
        assert compressed.stored.num_parameters <= budget.limit
        found[name] = sqrt(weights.squared(compressed.reconstruct() - matrix) / norm)
    return {
        "ratio": ratio,
        **found,
        "% by interpolation": 100 * (1 - found["linear"] / found["svd"]),
        "% by the rest": 100 * (found["linear"] - found["residual"]) / found["svd"],
        "width": compressed.size,
        "hidden": int(compressed.diagnostics.get("hidden_units", 0)),
        "entries": int(compressed.diagnostics.get("sparse_entries", 0)),
        "seconds": perf_counter() - started,
    }


def cases(asked: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per case."""
    loaded = load("minilm-l6")
    calibration = Calibration(loaded, CalibrationText().read(0).texts)
    by_kind = {kind: [spec for spec in loaded.info.modules if spec.kind == kind] for kind in asked.kinds}
    rows = []
    for kind, specs in by_kind.items():
        groups: dict[str, list[ModuleSpec]] = {f"layer {asked.layer}": [specs[asked.layer]], "six layers": specs}
        for name, members in groups.items():
            how = best_stack(members) if len(members) > 1 else "rows"
            matrix = stack({spec: read(loaded.model, spec).float() for spec in members}, how)
            with GroupHints(calibration, members, how) as hints:
                for metric in METRICS:
                    for ratio in asked.ratios:
                        rows.append({"kind": kind, "of": name, "metric": metric} | case(matrix, hints, metric, ratio))
    return rows


def main() -> None:
    """Print the table and a summary."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--ratios", nargs="+", type=float, default=list(RATIOS))
    parser.add_argument("--layer", type=int, default=2)
    rows = cases(parser.parse_args())
    print(format_table(rows))
    better = [row for row in rows if row["residual"] < row["svd"]]
    print(
        f"\nresidual <= svd in {sum(row['residual'] <= row['svd'] for row in rows)} of {len(rows)} cases, strictly better in "
        f"{len(better)}; linear strictly better in {sum(row['linear'] < row['svd'] for row in rows)}; "
        f"residual strictly better than linear in {sum(row['residual'] < row['linear'] for row in rows)}"
    )
    gains = sorted(100 * (1 - row["residual"] / row["svd"]) for row in rows)
    print(f"gain over SVD: minimum {gains[0]:.1f} %, median {gains[len(gains) // 2]:.1f} %, maximum {gains[-1]:.1f} %")


if __name__ == "__main__":
    main()
