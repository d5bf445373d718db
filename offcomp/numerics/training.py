"""A seeded training loop for all learned methods.

The loop draws random numbers in the same order as a plain PyTorch script (`torch.manual_seed`, modules, a shuffling DataLoader,
Adam), so the results match those of such a script except for the last digits of float32. It uses neither the global generator
nor a DataLoader: rows are shuffled once per epoch and then sliced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Generator, Tensor

SMALL_BATCH = 64


def shuffled_rows(count: int, generator: Generator) -> Tensor:
    """The permutation of range(count) that a shuffling DataLoader would draw for its next epoch."""
    _workers_seed, epoch_seed = (int(torch.empty((), dtype=torch.int64).random_(generator=generator).item()) for _ in range(2))
    return torch.randperm(count, generator=Generator().manual_seed(epoch_seed))


@contextmanager
def one_thread_if(small: bool) -> Iterator[None]:
    """Run on one thread if `small`, because splitting very small tasks across threads takes longer than running them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if small else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_one_buffer(parameters: Sequence[Tensor]) -> Tensor:
    """Move all parameters into one flat vector, so that an optimiser can update all of them in a single call.

    The parameters become views of this vector, and their gradients become views of its gradient.
    """
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    flat.grad = torch.zeros_like(flat)
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, values, gradient in zip(parameters, flat.split(sizes), flat.grad.split(sizes), strict=True):
        parameter.data = values.view_as(parameter)
        parameter.grad = gradient.view_as(parameter)
    return flat


def train(
    parameters: Sequence[Tensor],
    step: Callable[[tuple[Tensor, ...], int], Tensor],
    *,
    tables: tuple[Tensor, ...],
    epochs: int,
    batch_size: int,
    learning_rate: Callable[[int], float],
    generator: Generator,
    report: Callable[[float], None],
) -> list[float]:
    """Train with Adam on shuffled batches: `step(batch, epoch)` writes the gradients of `parameters` and returns the loss.

    Each tensor in `tables` has one row per sample, and a batch takes the same rows from every tensor. The parameters are moved
    into one buffer. `report` receives the completed fraction every 64 steps and may raise an exception to stop training.
    Returns the mean loss of each epoch.
    """
    flat = in_one_buffer(parameters)
    optimizer = torch.optim.Adam([flat], lr=learning_rate(0), fused=True)
    history: list[float] = []
    rows = len(tables[0])
    starts = range(0, rows, batch_size)
    with one_thread_if(batch_size <= SMALL_BATCH), torch.no_grad():
        for epoch in range(epochs):
            optimizer.param_groups[0]["lr"] = learning_rate(epoch)
            order = shuffled_rows(rows, generator).to(flat.device)
            total = torch.zeros((), device=flat.device)
            for number, chosen in enumerate(order.split(batch_size)):
                total += step(tuple(table[chosen] for table in tables), epoch)
                optimizer.step()
                if number % 64 == 0:
                    report((epoch + number / len(starts)) / epochs)
            history.append(float(total) / len(starts))
    report(1.0)
    return history
