"""Computing spectra once compared with a decomposition per ratio: `python -m benchmarks.spectra_speed`.

Prints four tables:

1. MiniLM-L6, 36 linear weights and the embedding: time of all spectra and of a direct SVD, the difference between the two, and
   the time of all errors at one ratio.
2. BERT-base shapes (12 layers and a 30522 x 768 embedding, random weights) in a separate process: time and peak memory.
3. An error curve over 10 ratios, from the spectrum and by scikit-learn's TruncatedSVD (n_iter=10), which is fitted again for
   each ratio. Its time includes only the fits, not the errors; ours includes the Gram matrix, the spectrum and all errors.
4. Different ways to compute the same singular values.

Times are the shortest of `--tries` runs, to reduce the influence of other work on the machine. `--part N` prints one table.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigvalsh
from scipy.linalg.blas import dsyrk
from sklearn.decomposition import TruncatedSVD
from torch import Tensor

from benchmarks.svd_routes import best_of
from offcomp.cli.text import format_table
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.loading import load
from offcomp.models.weights import read
from offcomp.numerics.grams import gram, in_parallel
from offcomp.planning.grams import Grams
from offcomp.planning.spectrum import ErrorTable, MatrixSpectrum, errors_at, svd_rank
from offcomp.runs.compress import stack

RATIOS = (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 20.0)
HIDDEN, FFN, LAYERS, TOKENS = 768, 3072, 12, 30522
MEGABYTE = 2**20


def minilm() -> tuple[Any, list[ModuleSpec]]:
    """The model, and the specs of its 36 linear weights and its embedding."""
    loaded = load("minilm-l6")
    return loaded.model, [spec for spec in loaded.info.modules if spec.default]


def all_spectra(grams: Grams, specs: Sequence[ModuleSpec]) -> dict[str, MatrixSpectrum]:
    """Module name -> its singular values."""
    return {spec.name: found for spec, found in zip(specs, grams.spectra([((spec,), "rows") for spec in specs]), strict=True)}


def all_spectra_of_minilm(tries: int) -> None:
    """Print table 1."""
    model, specs = minilm()
    matrices = [read(model, spec) for spec in specs]
    ours, found = best_of(lambda: all_spectra(Grams.of_model(model), specs), tries)
    direct, values = best_of(lambda: [torch.linalg.svdvals(matrix).numpy() for matrix in matrices], max(1, tries // 3))
    spectra = list(found.values())
    apart = max(float(np.abs(s.values - v).max() / v[0]) for s, v in zip(spectra, values, strict=True))

    def first_time() -> ErrorTable:
        svd_rank.cache_clear()
        return errors_at([MatrixSpectrum(*s.shape, s.values) for s in spectra], [2.0])

    cold, table = best_of(first_time, tries)
    warm, _ = best_of(lambda: errors_at(spectra, [2.0]), tries)
    rows = [
        {"what": f"spectra of {len(specs)} matrices, ms", "value": ours * 1e3},
        {"what": "direct float32 SVD of the same, ms", "value": direct * 1e3},
        {"what": "largest difference, relative to the largest singular value", "value": apart},
        {"what": "errors of all at one ratio, first time, ms", "value": cold * 1e3},
        {"what": "errors of all at one ratio, later times, ms", "value": warm * 1e3},
        {"what": "relative error of all together at ratio 2", "value": float(table.together[0])},
    ]
    print(format_table(rows))


def bert_base_shapes() -> dict[ModuleSpec, Tensor]:
    """Random weights with the shapes of BERT-base."""
    generator = torch.Generator().manual_seed(0)
    shapes = [("word_embeddings", TOKENS, HIDDEN)]
    for layer in range(LAYERS):
        kinds = ("query", "key", "value", "attention_output")
        shapes += [(f"{kind}.{layer}", HIDDEN, HIDDEN) for kind in kinds]
        shapes += [(f"ffn_in.{layer}", FFN, HIDDEN), (f"ffn_out.{layer}", HIDDEN, FFN)]
    return {
        ModuleSpec(name, name.split(".")[0], 0, "", name, rows, cols): torch.randn(rows, cols, generator=generator) / 20
        for name, rows, cols in shapes
    }


def measure_bert_base() -> None:
    """Measure for table 2, in a child process, and print one line of JSON."""
    matrices = bert_base_shapes()
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MEGABYTE  # noqa: E731
    before = peak()
    started = perf_counter()
    found = all_spectra(Grams(matrices.__getitem__), list(matrices))
    seconds = perf_counter() - started
    started = perf_counter()
    errors_at(list(found.values()), [2.0])
    print(
        json.dumps(
            {
                "matrices": len(matrices),
                "seconds": seconds,
                "errors at a ratio, ms": (perf_counter() - started) * 1e3,
                "weights MB": sum(matrix.nbytes for matrix in matrices.values()) / MEGABYTE,
                "peak with weights MB": before,
                "peak in all MB": peak(),
                "added MB": peak() - before,
            }
        )
    )


def bert_base(tries: int) -> None:
    """Print table 2."""
    command = [sys.executable, "-m", "benchmarks.spectra_speed", "--child"]
    runs = [json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(tries)]
    print(format_table(sorted(runs, key=lambda run: run["seconds"])))


Members = tuple[ModuleSpec, ...]


def curve_groups(specs: Sequence[ModuleSpec]) -> dict[str, list[tuple[Members, str]]]:
    """Name of a row -> the matrices that are decomposed: the six of each kind, two stacked groups, and the embedding."""
    kinds: dict[str, Members] = {}
    for spec in specs:
        kinds[spec.kind] = (*kinds.get(spec.kind, ()), spec)
    embedding = kinds.pop("word_embeddings")
    rows: dict[str, list[tuple[Members, str]]] = {
        f"{kind}, each alone": [((spec,), "rows") for spec in members] for kind, members in kinds.items()
    }
    rows["key, stacked by rows"] = [(kinds["key"], "rows")]
    rows["attention_output, stacked by columns"] = [(kinds["attention_output"], "columns")]
    return rows | {"word_embeddings": [(embedding, "rows")]}


def errors_of(model: Any, groups: Sequence[tuple[Members, str]]) -> ErrorTable:
    """Our errors at all ratios, computed from the weights."""
    return errors_at(Grams.of_model(model).spectra(groups), RATIOS)


def truncated(matrices: Sequence[Tensor], ranks: NDArray[np.int64]) -> list[list[TruncatedSVD]]:
    """scikit-learn's randomised SVD of each matrix, fitted again at each of its ranks (matrices, ratios)."""
    return [
        [TruncatedSVD(int(rank), n_iter=10, random_state=0).fit(matrix.numpy()) for rank in its_ranks]
        for matrix, its_ranks in zip(matrices, ranks, strict=True)
    ]


def truncated_error(matrix: Tensor, fitted: TruncatedSVD) -> float:
    """The relative error of TruncatedSVD's approximation, computed in float64. This is not timed."""
    values, basis = matrix.double().numpy(), np.asarray(fitted.components_, dtype=np.float64)
    return float(np.linalg.norm(values - (values @ basis.T) @ basis) / np.linalg.norm(values))


def curves(tries: int) -> None:
    """Print table 3."""
    model, specs = minilm()
    rows, totals = [], [0.0, 0.0]
    for name, groups in curve_groups(specs).items():
        ours, table = best_of(partial(errors_of, model, groups), tries)
        matrices = [stack({spec: read(model, spec) for spec in members}, how) for members, how in groups]
        theirs, fits = best_of(partial(truncated, matrices, table.ranks), max(1, tries // 5))
        errors = [[truncated_error(m, fit) for fit in each] for m, each in zip(matrices, fits, strict=True)]
        excess = np.array(errors) / table.relative_errors - 1
        rows.append(
            {
                "matrices": name,
                "shape": f"{len(matrices)} x {matrices[0].shape[0]} x {matrices[0].shape[1]}",
                "spectra ms": ours * 1e3,
                "TruncatedSVD ms": theirs * 1e3,
                "speed-up": theirs / ours,
                "its excess error, least": float(excess.min()),
                "its excess error, most": float(excess.max()),
            }
        )
        totals = [totals[0] + ours, totals[1] + theirs]
    print(format_table(rows))
    print(f"overall: {totals[1]:.2f} s for TruncatedSVD, {totals[0]:.3f} s for ours, {totals[1] / totals[0]:.0f} times faster")


def routes(tries: int) -> None:
    """Print table 4."""
    rows = []
    for shape in ((384, 384), (1536, 384), (768, 768), (3072, 768)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) / 20
        shape_text = f"{shape[0]} x {shape[1]}"
        for way, do in routes_of(matrix).items():
            rows.append({"matrix": shape_text, "route": way, "ms": best_of(do, tries)[0] * 1e3})
    print(format_table(rows))
    exact = torch.linalg.svdvals(matrix.double())
    for kind, grams in (("float32", matrix.T @ matrix), ("float64", gram(matrix))):
        found = torch.linalg.eigvalsh(grams).flip(0).clamp_min(0).sqrt()
        apart = float((found - exact).abs().max() / exact[0])
        print(f"{shape_text} by a {kind} Gram matrix: errors up to {apart:.1e} of the largest singular value")


def routes_of(matrix: Tensor) -> dict[str, Callable[[], object]]:
    """Name -> the function to time."""
    wide, small = matrix.double().numpy(), gram(matrix)
    return {
        "Gram, by blocks": lambda: gram(matrix),
        "Gram, one product": lambda: matrix.double().T @ matrix.double(),
        "Gram, scipy dsyrk": lambda: dsyrk(1.0, wide.T),
        "eigenvalues, torch": lambda: torch.linalg.eigvalsh(small),
        "eigenvalues, numpy": lambda: np.linalg.eigvalsh(small.numpy()),
        "eigenvalues, scipy": lambda: eigvalsh(small.numpy(), check_finite=False),
        "eigenvalues, torch, two at once": lambda: in_parallel(torch.linalg.eigvalsh, [small, small]),
        "direct svdvals, float32": lambda: torch.linalg.svdvals(matrix),
    }


def main() -> None:
    """Print the tables."""
    flags = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    flags.add_argument("--tries", type=int, default=5)
    flags.add_argument("--part", type=int, choices=(1, 2, 3, 4))
    flags.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = flags.parse_args()
    if asked.child:
        measure_bert_base()
        return
    parts = (all_spectra_of_minilm, bert_base, curves, routes)
    for number, part in enumerate(parts, 1):
        if asked.part in (None, number):
            print(f"\nTable {number}, {torch.get_num_threads()} threads\n")
            part(asked.tries)


if __name__ == "__main__":
    main()
