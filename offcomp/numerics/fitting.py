"""One seeded training loop for every learned method.

The loop draws its random numbers as a plain PyTorch script does (`torch.manual_seed`, modules, a shuffling DataLoader, Adam),
so a fit repeats such a script to the last digits of float32, without touching the global generator and without a DataLoader:
rows are shuffled once an epoch and then sliced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import sqrt

import torch
from jaxtyping import Float
from torch import Generator, Tensor

Layer = tuple[Tensor, Tensor]
"""Weight (out, in) and bias (out,)."""


def new_layers(widths: Sequence[int], generator: Generator, device: torch.device) -> list[Layer]:
    """Linear layers between consecutive widths, initialised as `torch.nn.Linear` is: uniform in ±1/√fan_in."""
    layers = []
    for fan_in, fan_out in pairwise(widths):
        bound = 1 / sqrt(fan_in)
        weight = torch.empty(fan_out, fan_in).uniform_(-bound, bound, generator=generator)
        bias = torch.empty(fan_out).uniform_(-bound, bound, generator=generator)
        layers.append((weight.to(device).requires_grad_(), bias.to(device).requires_grad_()))
    return layers


def shuffled_rows(count: int, generator: Generator) -> Tensor:
    """A permutation of range(count), the one that a shuffling DataLoader would draw for its next epoch."""
    _workers_seed, epoch_seed = (int(torch.empty((), dtype=torch.int64).random_(generator=generator).item()) for _ in range(2))
    return torch.randperm(count, generator=Generator().manual_seed(epoch_seed))


def train(
    parameters: Sequence[Tensor],
    loss_of: Callable[[Tensor, int], Tensor],
    *,
    rows: int,
    epochs: int,
    batch_size: int,
    learning_rate: Callable[[int], float],
    generator: Generator,
    report: Callable[[float], None],
) -> list[float]:
    """Minimise `loss_of(row_indices, epoch)` with Adam over shuffled batches of row indices.

    Returns the mean loss of each epoch. `report` gets the fraction done every 64 steps, and may raise to stop the
    training.
    """
    optimizer = torch.optim.Adam(parameters, lr=learning_rate(0), fused=True)
    history: list[float] = []
    starts = range(0, rows, batch_size)
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(epoch)
        order = shuffled_rows(rows, generator).to(parameters[0].device)
        total = torch.zeros((), device=parameters[0].device)
        for step, start in enumerate(starts):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(order[start : start + batch_size], epoch)
            loss.backward()
            optimizer.step()
            total += loss.detach()
            if step % 64 == 0:
                report((epoch + step / len(starts)) / epochs)
        history.append(float(total) / len(starts))
    report(1.0)
    return history


def apply_layers(
    layers: Sequence[Layer], inputs: Float[Tensor, "rows width"], *, last: Callable[[Tensor], Tensor] | None
) -> Float[Tensor, "rows width_out"]:
    """The layers with LeakyReLU (slope .01) between them and `last` after the final one."""
    hidden = inputs
    for weight, bias in layers[:-1]:
        hidden = torch.nn.functional.leaky_relu(torch.nn.functional.linear(hidden, weight, bias))
    weight, bias = layers[-1]
    hidden = torch.nn.functional.linear(hidden, weight, bias)
    return hidden if last is None else last(hidden)
