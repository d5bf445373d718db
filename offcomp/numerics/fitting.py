"""One seeded training loop for every learned method.

The loop draws its random numbers as a plain PyTorch script does (`torch.manual_seed`, modules, a shuffling DataLoader, Adam),
so a fit repeats such a script to the last digits of float32, without touching the global generator and without a DataLoader:
rows are shuffled once an epoch and then sliced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Generator, Tensor

SMALL_BATCH = 64


def shuffled_rows(count: int, generator: Generator) -> Tensor:
    """A permutation of range(count), the one that a shuffling DataLoader would draw for its next epoch."""
    _workers_seed, epoch_seed = (int(torch.empty((), dtype=torch.int64).random_(generator=generator).item()) for _ in range(2))
    return torch.randperm(count, generator=Generator().manual_seed(epoch_seed))


@contextmanager
def one_thread_if(small: bool) -> Iterator[None]:
    """One thread for work in pieces so small that handing them out takes longer than doing them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if small else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train(
    parameters: Sequence[Tensor],
    step: Callable[[Tensor, int], Tensor],
    *,
    rows: int,
    epochs: int,
    batch_size: int,
    learning_rate: Callable[[int], float],
    generator: Generator,
    report: Callable[[float], None],
) -> list[float]:
    """Adam over shuffled batches: `step(row_indices, epoch)` writes the gradients of `parameters` and returns the loss.

    Returns the mean loss of each epoch. `report` gets the fraction done every 64 steps, and may raise to stop the
    training.
    """
    optimizer = torch.optim.Adam(parameters, lr=learning_rate(0), fused=True)
    history: list[float] = []
    starts = range(0, rows, batch_size)
    with one_thread_if(batch_size <= SMALL_BATCH):
        for epoch in range(epochs):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(epoch)
            order = shuffled_rows(rows, generator).to(parameters[0].device)
            total = torch.zeros((), device=parameters[0].device)
            for number, start in enumerate(starts):
                total += step(order[start : start + batch_size], epoch)
                optimizer.step()
                if number % 64 == 0:
                    report((epoch + number / len(starts)) / epochs)
            history.append(float(total) / len(starts))
    report(1.0)
    return history
