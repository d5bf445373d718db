"""Our training of the paper's autoencoder compared with a plain PyTorch loop: `python -m benchmarks.autoencoder_speed`.

Both train on the six key matrices of MiniLM-L6, stacked vertically (2304 x 384), for 30 epochs, at the latent widths of ratios
3 and 10, in one process on the same cores. The plain loop is a direct implementation of the paper: nn.Module, DataLoader with
batches of 16, autograd, Adam, StepLR, the same losses. The reported losses are those of the paper (cosine and RMSE) over the
final epoch, and over all rows after training.

    plain, N threads    the plain loop; speed-ups are relative to the fastest number of threads
    faithful            ours with its default options: the same steps
    fast                ours with FAST, for the same number of epochs and for 8

Processor seconds are summed over all threads; with `OMP_NUM_THREADS=1` they are meaningful even on a busy machine.
`--ratios 3` measures only one ratio; `--repeats N` reports the shortest of N runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from offcomp.cli.text import format_table
from offcomp.methods import Autoencoder
from offcomp.methods.autoencoder.losses import RowLoss
from offcomp.methods.autoencoder.method import FAST
from offcomp.models.loading import load
from offcomp.models.weights import read
from offcomp.numerics.accounting import Budget


class Rows(Dataset):
    """The rows of a matrix."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def __len__(self) -> int:
        return len(self.matrix)

    def __getitem__(self, index: int) -> Tensor:
        return self.matrix[index]


class PlainAutoencoder(nn.Module):
    """The paper's encoder and decoder, with enforced row norms."""

    def __init__(self, latent: int, cols: int) -> None:
        super().__init__()
        self.decoder = nn.Sequential(
            *(nn.Linear(latent, 2 * latent), nn.LeakyReLU(), nn.Linear(2 * latent, 4 * latent), nn.LeakyReLU()),
            *(nn.Linear(4 * latent, cols), nn.Tanh()),
        )
        self.encoder = nn.Sequential(
            *(nn.Linear(cols, 8 * latent), nn.LeakyReLU(), nn.Linear(8 * latent, 4 * latent), nn.LeakyReLU()),
            *(nn.Linear(4 * latent, latent), nn.LeakyReLU()),
        )

    def forward(self, rows: Tensor) -> Tensor:
        output = self.decoder(self.encoder(rows))
        return output / output.norm(dim=1, keepdim=True) * rows.norm(dim=1, keepdim=True)


def paper_loss(output: Tensor, target: Tensor) -> Tensor:
    """Cosine distance and root mean square error with the paper's weights."""
    cosine = nn.functional.cosine_similarity(output, target, dim=1)
    return 0.9091 * (1 - cosine).mean() + 0.0909 * (output - target).square().mean().sqrt()


def plain_loop(matrix: Tensor, latent: int, epochs: int) -> tuple[float, Tensor]:
    """The mean loss of the final epoch, and the reconstruction."""
    torch.manual_seed(1)
    model = PlainAutoencoder(latent, matrix.shape[1])
    loader = DataLoader(Rows(matrix), batch_size=16, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.8)
    losses: list[float] = []
    for _ in range(epochs):
        losses.clear()
        for batch in loader:
            loss = paper_loss(model(batch), batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        scheduler.step()
    with torch.no_grad():
        return sum(losses) / len(losses), model(matrix)


def ours(matrix: Tensor, budget: Budget, options: dict[str, Any], epochs: int) -> tuple[float, Tensor]:
    """The mean loss of the final epoch, and the reconstruction, of our method."""
    compressed = Autoencoder(**({"epochs": epochs} | options)).fit(matrix, budget)
    return compressed.history[-1], compressed.reconstruct()


def timed(action: Callable[[], tuple[float, Tensor]], matrix: Tensor, repeats: int) -> dict[str, float]:
    """The shortest times, the loss of the final epoch, and the loss and relative error over all rows."""
    seconds, processor = float("inf"), float("inf")
    for _ in range(repeats):
        started, used = perf_counter(), process_time()
        loss, reconstruction = action()
        seconds, processor = min(seconds, perf_counter() - started), min(processor, process_time() - used)
    over_all, _ = RowLoss(0.9091, 0.0909, 0.0).with_gradient(reconstruction, matrix)
    error = (reconstruction - matrix).norm() / matrix.norm()
    return {
        "seconds": seconds,
        "processor seconds": processor,
        "final epoch": loss,
        "all rows": over_all.item(),
        "relative error": error.item(),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--ratios", nargs="+", type=float, default=[3.0, 10.0])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=30)
    asked = parser.parse_args()
    loaded = load("minilm-l6")
    matrix = torch.cat([read(loaded.model, spec).float() for spec in loaded.info.modules if spec.kind == "key"])
    threads = torch.get_num_threads()
    rows = []
    for ratio in asked.ratios:
        budget = Budget(int(matrix.numel() / ratio))
        latent = Autoencoder(epochs=1).fit(matrix, budget).size
        found = {}
        for count in dict.fromkeys((1, threads)):
            torch.set_num_threads(count)
            action = lambda: plain_loop(matrix, latent, asked.epochs)  # noqa: B023, E731
            found[f"plain, {count} thread{'s' * (count > 1)}"] = timed(action, matrix, asked.repeats)
        fastest = min(row["seconds"] for row in found.values())
        for name, options in (("faithful", {}), ("fast", FAST), ("fast, 8 epochs", FAST | {"epochs": 8})):
            action = lambda: ours(matrix, budget, options, asked.epochs)  # noqa: B023, E731
            found[name] = timed(action, matrix, asked.repeats)
        rows += [
            {"ratio": ratio, "latent": latent, "training": name, **row, "plain / this": fastest / row["seconds"]}
            for name, row in found.items()
        ]
    print(format_table(rows))


if __name__ == "__main__":
    main()
