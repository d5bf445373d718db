"""Training the paper's autoencoder on all kinds of weight matrices at once: `python -m benchmarks.autoencoder_together`.

The six kinds of linear weights of MiniLM-L6 are six groups, each with the matrices of all layers, the output projection of the
feed-forward layer transposed. All are trained with the paper's recipe for 30 epochs, in three ways, in one process:

    plain       the plain PyTorch loop of `benchmarks.autoencoder_speed`, kind by kind, on one thread
    one by one  ours, kind by kind
    together    ours as a plan runs it: groups of equal shape in batched products, on one thread since batches are small

The loss is that of the final epoch. "Seconds" are wall-clock seconds; processor seconds are summed over all threads. On a busy
machine, only the latter can be compared. `--ratios 3` measures only one ratio, `--epochs 2` only two epochs.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor

from benchmarks.autoencoder_speed import plain_loop
from offcomp.cli.text import format_table
from offcomp.methods import Autoencoder
from offcomp.methods.base import choose_size
from offcomp.models.catalogue import ModelInfo
from offcomp.models.loading import load
from offcomp.numerics.accounting import Budget
from offcomp.planning.plan import Group, make_groups, members
from offcomp.planning.sizes import group_budget
from offcomp.planning.together import sets_of_groups
from offcomp.runs.compress import read_stacked

KINDS = ("query", "key", "value", "attention_output", "ffn_in", "ffn_out")
MEASURES = ("loss", "seconds", "processor seconds")


def groups_of(info: ModelInfo, ratio: float, options: dict[str, Any]) -> list[Group]:
    """One group per kind, all with 384 columns."""
    specs = [spec for spec in info.modules if spec.kind in KINDS]
    made = make_groups(specs, "kind", method="autoencoder", options=options, ratio=ratio)
    return [group.replace(stack="columns" if group.name == "ffn_out" else "rows") for group in made]


def timed(action: Callable[[], list[float]]) -> tuple[list[float], float, float]:
    """The losses, seconds and processor seconds."""
    started, used = perf_counter(), process_time()
    losses = action()
    return losses, perf_counter() - started, process_time() - used


def one_thread(action: Callable[[], list[float]]) -> list[float]:
    """Run an action with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return action()
    finally:
        torch.set_num_threads(threads)


def rows_of_set(names: list[str], matrices: list[Tensor], budget: Budget, epochs: int) -> list[dict[str, Any]]:
    """One row per group of a set of groups that train together; the seconds of "together" are divided equally among them."""
    method = Autoencoder(epochs=epochs)
    rows, cols = matrices[0].shape
    latent = choose_size(method, rows, cols, budget)
    alone = [
        {
            "plain": timed(lambda: one_thread(lambda: [plain_loop(matrix, latent, epochs)[0]])),  # noqa: B023
            "one by one": timed(lambda: [method.fit(matrix, budget).history[-1]]),  # noqa: B023
        }
        for matrix in matrices
    ]
    stacked = torch.stack(matrices)
    losses, seconds, used = timed(lambda: [fit.history[-1] for fit in method.fit_together(stacked, latent, budget)])
    return [
        row_of(name, latent, ways | {"together": ([loss], seconds / len(names), used / len(names))})
        for name, ways, loss in zip(names, alone, losses, strict=True)
    ]


def row_of(kind: str, latent: int, ways: dict[str, tuple[list[float], float, float]]) -> dict[str, Any]:
    """A row of the table, without the speed-ups."""
    row: dict[str, Any] = {"kind": kind, "latent": latent}
    for number, measure in enumerate(MEASURES):
        row |= {f"{measure}, {way}": found[0][0] if number == 0 else found[number] for way, found in ways.items()}
    return row


def totals(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of all kinds: seconds are summed, and other cells are empty."""
    return {name: sum(row[name] for row in rows) if name.startswith(MEASURES[1:]) else "" for name in rows[0]} | {"kind": "all"}


def with_speed_ups(row: dict[str, Any]) -> dict[str, Any]:
    """The row with added columns: the times of the plain loop divided by those of training together."""
    return row | {
        f"plain / together, {measure}": row[f"{measure}, plain"] / row[f"{measure}, together"] for measure in MEASURES[1:]
    }


def main() -> None:
    """Print one table per ratio."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--ratios", nargs="+", type=float, default=[3.0, 10.0])
    parser.add_argument("--epochs", type=int, default=30)
    asked = parser.parse_args()
    loaded = load("minilm-l6")
    for ratio in asked.ratios:
        rows = []
        for groups in sets_of_groups(groups_of(loaded.info, ratio, {"epochs": asked.epochs}), loaded.info):
            matrices = [read_stacked(loaded.model, members(group, loaded.info), group.stack).float() for group in groups]
            rows += rows_of_set([g.name for g in groups], matrices, group_budget(groups[0], loaded.info), asked.epochs)
        machine = f"load {os.getloadavg()[0]:.1f}, {torch.get_num_threads()} threads"
        table = format_table([with_speed_ups(row) for row in [*rows, totals(rows)]])
        print(f"ratio {ratio:g}, {asked.epochs} epochs, {machine}\n{table}\n")


if __name__ == "__main__":
    main()
