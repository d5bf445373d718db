"""Every method at an equal number of bytes on MiniLM-L6, and standard implementations: `python -m benchmarks.methods_quality`.

Each kind is one group, in its best stacking, stored in float32. Each method uses the largest size within original bytes /
ratio. The standard implementations (scikit-learn's TruncatedSVD and torch.linalg.svd at the rank of our SVD, tensorly's
`tucker` at the ranks of our Tucker) run on the same matrices in the same process. Errors are over all weights of the kinds
together; seconds are summed over the kinds. Methods that need calibration text are left out. `--ratios 5 10` measures only
these ratios, and `--without METHOD` skips methods. The paper's autoencoder takes minutes and is measured only if `--without` is
passed without values.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import tensorly
import torch
from sklearn.decomposition import TruncatedSVD
from tensorly.decomposition import tucker

from benchmarks.svd_routes import direct
from offcomp.cli.text import format_table
from offcomp.errors import BudgetTooSmall
from offcomp.methods import METHODS, make_method, method_class, own_options
from offcomp.methods.base import Method, choose_size
from offcomp.methods.svd.method import SVD
from offcomp.methods.tucker.method import Tucker
from offcomp.models import weights
from offcomp.models.loading import load
from offcomp.numerics.accounting import Budget
from offcomp.planning.grouping import best_stack

KINDS = ("query", "value", "attention_output", "ffn_in", "ffn_out")
RATIOS = (2.0, 3.0, 5.0, 10.0, 16.0)
SLOW = ("autoencoder",)
"""Style keys of methods that are left out unless `--without` is passed."""
VARIANTS: dict[str, list[dict[str, Any]]] = {"quantization": [{}, {"search": False}, {"block": 64}]}

Recipe = Callable[[torch.Tensor, Budget], torch.Tensor]


def stacked_kinds() -> list[torch.Tensor]:
    """One stacked matrix per kind."""
    loaded = load("minilm-l6")
    matrices = []
    for kind in KINDS:
        members = [spec for spec in loaded.info.modules if spec.kind == kind]
        transposed = best_stack(members) == "columns"
        parts = [weights.read(loaded.model, spec).float() for spec in members]
        matrices.append(torch.cat([part.T if transposed else part for part in parts]))
    return matrices


def of_method(method: Method) -> Recipe:
    """The recipe of one of our methods."""
    return lambda matrix, budget: method.fit(matrix, budget).reconstruct()


def svd_rank(matrix: torch.Tensor, budget: Budget) -> int:
    """The rank of our SVD within this budget."""
    rows, cols = matrix.shape
    return choose_size(SVD(), rows, cols, budget)


def truncated_svd(matrix: torch.Tensor, budget: Budget) -> torch.Tensor:
    """The reconstruction by scikit-learn's randomised SVD, with as many iterations as a careful user would choose."""
    model = TruncatedSVD(svd_rank(matrix, budget), n_iter=10, random_state=0)
    return torch.from_numpy(model.inverse_transform(model.fit_transform(matrix.numpy())))


def direct_svd(matrix: torch.Tensor, budget: Budget) -> torch.Tensor:
    """The reconstruction by torch.linalg.svd, truncated."""
    left, right = direct(matrix, svd_rank(matrix, budget))
    return left @ right


def plain_tucker(matrix: torch.Tensor, budget: Budget) -> torch.Tensor:
    """The reconstruction by tensorly's `tucker` of the slabs, at the ranks of our Tucker within this budget."""
    method, (rows, cols) = Tucker(), matrix.shape
    ranks = method.ranks(rows, cols, choose_size(method, rows, cols, budget))
    tensor = matrix.reshape(method.tensor_sides(rows, cols)).numpy()
    return torch.from_numpy(tensorly.tucker_to_tensor(tucker(tensor, ranks)).reshape(rows, cols))


def recipes(without: Sequence[str]) -> dict[str, Recipe]:
    """Name -> a function that reconstructs a matrix within a budget."""
    ours: dict[str, Recipe] = {}
    for method in METHODS:
        for options in VARIANTS.get(method.style_key, [{}]):
            made = make_method(method.name, own_options(method) | options)
            if method.style_key not in without and not made.calibrated:
                assert type(made) is method_class(method.name, getattr(made, "preset", None))
                ours[" ".join([method.style_key, *(f"{key}={value}" for key, value in options.items())])] = of_method(made)
    plain: dict[str, Recipe] = {
        "scikit-learn TruncatedSVD": truncated_svd,
        "torch.linalg.svd": direct_svd,
        "tensorly tucker": plain_tucker,
    }
    return ours | plain


def measure(recipe: Recipe, matrices: list[torch.Tensor], ratio: float) -> dict[str, float | str]:
    """The relative error over all matrices, and the seconds taken."""
    residual, energy, started = 0.0, 0.0, perf_counter()
    for matrix in matrices:
        try:
            approximate = recipe(matrix, Budget(int(4 * matrix.numel() / ratio), "bytes"))
        except BudgetTooSmall:
            return {"error": "out of reach", "seconds": perf_counter() - started}
        residual += (matrix.double() - approximate.double()).square().sum().item()
        energy += matrix.double().square().sum().item()
    return {"error": (residual / energy) ** 0.5, "seconds": perf_counter() - started}


def main() -> None:
    """Print the table: one line per method, with its error and seconds at each ratio."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--ratios", nargs="*", type=float, default=RATIOS)
    parser.add_argument("--without", nargs="*", default=SLOW, choices=[method.style_key for method in METHODS])
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)  # tensorly warns about its own ranks
    matrices = stacked_kinds()
    rows = []
    for name, recipe in recipes(arguments.without).items():
        measure(recipe, [matrices[0][:96]], 2.0)  # excludes imports and thread pools from the times
        row: dict[str, float | str] = {"method": name}
        for ratio in arguments.ratios:
            found = measure(recipe, matrices, ratio)
            row |= {f"{ratio:g}x": found["error"], f"{ratio:g}x s": found["seconds"]}
            print(f"{name} at {ratio:g}x: {found['seconds']:.1f} s", file=sys.stderr, flush=True)
        rows.append(row)
    print(format_table(rows))


if __name__ == "__main__":
    main()
