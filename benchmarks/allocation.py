"""Water-filling compared with a uniform ratio, and the best groups, on MiniLM-L6: `python -m benchmarks.allocation`.

Everything is computed from spectra alone, for the 36 linear weights. The total budget is the number of parameters that the
ratio allows. Errors are relative errors over all weights together, either weighted so that each matrix counts equally
("relative") or unweighted ("frobenius").
"""

from __future__ import annotations

from time import perf_counter

from offcomp.cli.text import format_table
from offcomp.models.loading import load
from offcomp.planning.allocation import WEIGHTINGS, uniform, waterfill, weights_for
from offcomp.planning.error_curves import svd_curve, with_floor
from offcomp.planning.grams import Grams
from offcomp.planning.merge_search import Suggestion, all_pairs, merged

RATIOS = (2, 3, 4, 5, 6, 7, 8, 9, 10)
FLOOR = 0.05


def main() -> None:
    """Print the tables."""
    loaded = load("minilm-l6")
    specs = [spec for spec in loaded.info.modules if spec.default and spec.layer is not None]
    grams = Grams.of_model(loaded.model)
    curves = [
        svd_curve(spec.name, spectrum)
        for spec, spectrum in zip(specs, grams.spectra([((spec,), "rows") for spec in specs]), strict=True)
    ]
    original = sum(curve.original for curve in curves)
    rows = []
    for weighting in WEIGHTINGS:
        weights = weights_for(curves, weighting)
        for ratio in RATIOS:
            started = perf_counter()
            found = waterfill(curves, original // ratio, weights)
            milliseconds = (perf_counter() - started) * 1e3
            same = uniform(curves, original // ratio, weights)
            floored = waterfill([with_floor(curve, FLOOR) for curve in curves], original // ratio, weights)
            kept = [size / curve.original for size, curve in zip(found.sizes, curves, strict=True)]
            rows.append(
                {
                    "weighting": weighting,
                    "ratio": ratio,
                    "uniform": same.relative_error,
                    "water-filled": found.relative_error,
                    f"with a floor of {FLOOR:g}": floored.relative_error,
                    "least kept": min(kept),
                    "kept dense": sum(fraction == 1 for fraction in kept),
                    "used": found.total / (original // ratio),
                    "ms": milliseconds,
                }
            )
    print(format_table(rows))
    for ratio in (2, 5, 10):
        started = perf_counter()
        pairs = all_pairs(grams, specs, ratio)
        seconds = perf_counter() - started
        gaining = sum(pair.gain > 0 for pair in pairs)
        print(f"\nratio {ratio}: {len(pairs)} pairs in {seconds:.1f} s, {gaining} with a gain; the ten best:\n")
        print(format_table([_row(pair) for pair in pairs[:10]]))
        started = perf_counter()
        groups = merged(grams, specs, ratio)
        print(f"\nratio {ratio}: groups found by merging, in {perf_counter() - started:.1f} s\n")
        print(format_table([_row(group) for group in groups]))


def _row(suggestion: Suggestion) -> dict[str, object]:
    row = suggestion.to_dict()
    keys = ("stack", "gain", "separate_error", "joint_error")
    return {"modules": " ".join(row["modules"])} | {key: row[key] for key in keys}


if __name__ == "__main__":
    main()
