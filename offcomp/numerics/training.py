"""A seeded training loop for all learned methods.

The loop draws random numbers in the same order as a plain PyTorch script (`torch.manual_seed`, modules, a shuffling DataLoader,
Adam), so the results match those of such a script except for the last digits of float32. It uses neither the global generator
nor a DataLoader: rows are shuffled once per epoch and then sliced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from jaxtyping import Float
from torch import Generator, Tensor

SMALL_BATCH = 64
STEPS_AT_ONCE = 64
"""Number of batches whose rows are gathered in one operation."""


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


class Adam:
    """Adam with PyTorch's default settings, on one flat vector of parameters.

    The step is the kernel of `torch.optim.Adam(fused=True)`, called directly: the bookkeeping of the general-purpose
    optimiser takes longer than the update of a small network.
    """

    def __init__(self, flat: Tensor) -> None:
        self.flat, self.steps = flat, torch.zeros((), device=flat.device)
        self.mean, self.square = torch.zeros_like(flat), torch.zeros_like(flat)

    def step(self, learning_rate: float) -> None:
        """Update the parameters by their gradients."""
        self.steps += 1
        torch._fused_adam_(
            [self.flat],
            [cast("Tensor", self.flat.grad)],
            [self.mean],
            [self.square],
            [],
            [self.steps],
            lr=learning_rate,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )


def train(
    parameters: Sequence[Tensor],
    step: Callable[[tuple[Tensor, ...], int], Float[Tensor, " stack"]],
    *,
    tables: tuple[Float[Tensor, "stack rows _"], ...],
    epochs: int,
    batch_size: int,
    learning_rate: Callable[[int], float],
    generator: Generator,
    report: Callable[[float], None],
    after_epoch: Callable[[int, Tensor], None] | None = None,
) -> list[Float[Tensor, " stack"]]:
    """Train one or more stacked models with Adam on shuffled batches.

    `step(batch, epoch)` writes the gradients of `parameters` and returns the loss of each model. Each table has one row per
    model and sample, and a batch takes the same samples from every table and for every model. The parameters are moved into one
    buffer. `report` receives the completed fraction every 64 steps and may raise an exception to stop training. `after_epoch`
    receives the number of each finished epoch, counted from 1, and the mean loss of each model. Returns these losses.
    """
    optimiser = Adam(in_one_buffer(parameters))
    history: list[Tensor] = []
    rows = tables[0].shape[1]
    steps = -(-rows // batch_size)
    with one_thread_if(batch_size <= SMALL_BATCH), torch.no_grad():
        for epoch in range(epochs):
            rate = learning_rate(epoch)
            order = shuffled_rows(rows, generator).to(tables[0].device)
            total = torch.zeros(len(tables[0]), device=tables[0].device)
            for number, chosen in enumerate(order.split(STEPS_AT_ONCE * batch_size)):
                report((epoch + number * STEPS_AT_ONCE / steps) / epochs)
                shuffled = [table.index_select(1, chosen).split(batch_size, 1) for table in tables]
                for batch in zip(*shuffled, strict=True):
                    total += step(batch, epoch)
                    optimiser.step(rate)
            history.append(total.cpu() / steps)
            if after_epoch:
                after_epoch(epoch + 1, history[-1])
    report(1.0)
    return history
