"""Which height of Tucker's slabs gives the smallest error: `python -m benchmarks.tucker_slabs`.

Compresses every linear weight of MiniLM-L6 individually, and those of each kind as one group (rows), at equal parameters. Each
column is a slab height in rows, or the nearest height that divides the matrix; `default` is the method's own choice, and `svd`
the plain SVD at the same budget. Entries are relative errors; for individual matrices, the root of the sum of squared errors
over the sum of squared entries. Word embeddings take many minutes and are measured only with `--kinds word_embeddings`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator

import torch

from offcomp.cli.text import format_table
from offcomp.methods.base import Method
from offcomp.methods.svd.method import SVD
from offcomp.methods.tucker.method import Tucker
from offcomp.models import weights
from offcomp.models.loading import load
from offcomp.numerics.accounting import Budget

LINEAR = ("query", "key", "value", "attention_output", "ffn_in", "ffn_out")
RATIOS = (2.0, 3.0, 4.0, 8.0)
HEIGHTS = (768, 384, 192, 96, 64, 48, 32, 24, 16, 8)


def sets_of_matrices(kinds: tuple[str, ...]) -> Iterator[tuple[str, list[torch.Tensor]]]:
    """Pairs of a name and either the matrices that are compressed individually, or the single matrix of a group."""
    loaded = load("minilm-l6")
    for kind in kinds:
        members = [weights.read(loaded.model, spec).float() for spec in loaded.info.modules if spec.kind == kind]
        yield f"{kind}, each alone", members
        if len(members) > 1:
            yield f"{kind}, one group", [torch.cat(members)]


def slabs_of_height(rows: int, height: int) -> int:
    """The number of equal slabs whose height is nearest to this one by ratio."""
    counts = [count for count in range(1, rows + 1) if rows % count == 0]
    return min(counts, key=lambda count: max(rows / count / height, height / (rows / count)))


def error(method: Method, matrices: list[torch.Tensor], ratio: float) -> float:
    """Relative error over all matrices, each compressed at the ratio in parameters."""
    residual = energy = 0.0
    for matrix in matrices:
        found = method.fit(matrix, Budget(int(matrix.numel() / ratio), "parameters")).reconstruct()
        residual += (matrix - found).double().square().sum().item()
        energy += matrix.double().square().sum().item()
    return (residual / energy) ** 0.5


def main() -> None:
    """Print one line per set of matrices and ratio, and the mean of each column."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--kinds", nargs="*", default=LINEAR, choices=(*LINEAR, "word_embeddings"))
    flags.add_argument("--ratios", nargs="*", type=float, default=RATIOS)
    flags.add_argument("--heights", nargs="*", type=int, default=HEIGHTS)
    asked = flags.parse_args()
    lines: list[dict[str, float | str]] = []
    for name, matrices in sets_of_matrices(tuple(asked.kinds)):
        rows = len(matrices[0])
        for ratio in asked.ratios:
            line: dict[str, float | str] = {"matrices": name, "ratio": ratio}
            for height in asked.heights:
                line[str(height)] = error(Tucker(slabs=slabs_of_height(rows, height)), matrices, ratio)
            line |= {"default": error(Tucker(), matrices, ratio), "svd": error(SVD(), matrices, ratio)}
            lines.append(line)
            print(json.dumps(line), file=sys.stderr, flush=True)
    columns = [column for column in lines[0] if column not in ("matrices", "ratio")]
    means = {column: sum(float(line[column]) for line in lines) / len(lines) for column in columns}
    print(format_table([*lines, {"matrices": "mean", "ratio": 0.0} | means]))


if __name__ == "__main__":
    main()
