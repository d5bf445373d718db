"""Joint training of all parts of the residual autoencoder: latents, linear decoder, hidden units and sparse part.

The output of the hidden units starts at zero. Full-batch Adam, with explicit gradients computed in chunks of rows; the sparse
part is chosen again every few steps. The best parts seen are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from math import cos, inf, pi, sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from offcomp.methods.residual.alternation import Decoder, Target
from offcomp.methods.residual.sparse import clear, largest_of
from offcomp.numerics.memory import give_back_free_memory
from offcomp.numerics.mlp import SLOPE
from offcomp.numerics.progress import Report

PEAK_RATE = 2e-2
WARM_UP = 0.2
CHOOSE_EVERY = 10
ROWS_AT_ONCE = 1024


def train(
    target: Target, latents: Tensor, decoder: Decoder, *, steps: int, report: Report
) -> tuple[Tensor, Decoder, list[float]]:
    """Train latents and decoder jointly, without metrics. The positions of S are chosen again every few steps.

    Returns the best parts seen, including the start, and the history of root mean square errors. Overwrites `latents`.
    """
    scale = _root_mean_square(latents)
    latents.div_(scale)
    decoder = replace(decoder, linear=decoder.linear * scale[:, None])
    shared = [decoder.linear, decoder.inner, decoder.bias, decoder.outer]
    for tensor in shared:
        tensor.grad = torch.zeros_like(tensor)
    steppers = [_Stepper([latents[start:end]]) for start, end in target.ranges()]
    best, least = [tensor.clone() for tensor in (latents, *shared)], inf
    history, for_shared = [], _Stepper(shared)
    for step in range(steps):
        report(step / steps)
        if step % CHOOSE_EVERY == 0:
            positions = torch.empty(0)  # frees memory for the next ones
            positions = largest_of(partial(target.errors, latents, decoder), target.matrix, target.entries).positions
            give_back_free_memory()
            error = target.squared(latents, decoder, positions)
            history.append(sqrt(error / target.matrix.numel()))
            if error < least:
                least = error
                for kept, tensor in zip(best, (latents, *shared), strict=True):
                    kept.copy_(tensor)
        rate = PEAK_RATE * _schedule(step / steps)
        for gradient, stepper in zip(write_gradients(target, latents, decoder, positions), steppers, strict=True):
            stepper.step(rate, [gradient])
        for_shared.step(rate)
    for stepper in (*steppers, for_shared):
        stepper.release()
    return best[0], Decoder(*best[1:]), history


def _root_mean_square(latents: Float[Tensor, "rows rank"]) -> Float[Tensor, " rank"]:
    """The root mean square of each latent dimension, at least the smallest normal float32."""
    squares = sum(piece.square().sum(0) for piece in latents.split(ROWS_AT_ONCE))
    return (squares / len(latents)).sqrt().clamp_min(torch.finfo(torch.float32).tiny)


class _Stepper:
    """Adam for some tensors, whose gradients may be supplied just for one step."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self._tensors = tensors
        self._adam = torch.optim.Adam(tensors, lr=PEAK_RATE, fused=True)

    def step(self, rate: float, gradients: list[Tensor] | None = None) -> None:
        """Take one step with this learning rate."""
        if gradients is not None:
            for tensor, gradient in zip(self._tensors, gradients, strict=True):
                tensor.grad = gradient
        self._adam.param_groups[0]["lr"] = rate
        self._adam.step()
        if gradients is not None:
            self._adam.zero_grad()

    def release(self) -> None:
        """Drop all tensors: an optimiser is part of a reference cycle, so they would live until the next garbage collection."""
        self._adam.state.clear()
        self._adam.param_groups.clear()


def _schedule(done: float) -> float:
    """Linear warm-up to 1, then cosine decay to 0."""
    return done / WARM_UP + 0.01 if done < WARM_UP else 0.5 + 0.5 * cos(pi * (done - WARM_UP) / (1 - WARM_UP))


def write_gradients(target: Target, latents: Tensor, decoder: Decoder, positions: Tensor) -> Iterator[Tensor]:
    """Gradients of half the mean squared error. S absorbs the error at its positions, so those entries contribute nothing.

    Yields the gradient with respect to the latents in chunks of rows; the caller may update a chunk as soon as it is yielded.
    The decoder's gradients accumulate in its `grad` and are complete at the end.
    """
    for shared in (decoder.linear, decoder.inner, decoder.bias, decoder.outer):
        shared.grad.zero_()  # type: ignore[union-attr]  # made by the caller
    for start, end in target.ranges():
        yield _add_gradients(target, latents[start:end], decoder, positions, (start, end))


def _add_gradients(target: Target, piece: Tensor, decoder: Decoder, positions: Tensor, rows: tuple[int, int]) -> Tensor:
    """For a chunk of rows, add to the decoder's gradients and return the gradient with respect to its latents."""
    start, end = rows
    error = target.piece(start, end)
    units = decoder.units(piece)
    error.addmm_(piece, decoder.linear, alpha=-1).addmm_(units, decoder.outer, alpha=-1)
    clear(error, positions, start * error.shape[1])
    error.mul_(-1 / target.matrix.numel())
    decoder.linear.grad.addmm_(piece.T, error)  # type: ignore[union-attr]  # made by the caller, as are the others
    decoder.outer.grad.addmm_(units.T, error)  # type: ignore[union-attr]
    to_units = torch.ops.aten.leaky_relu_backward(error @ decoder.outer.T, units, SLOPE, True)
    decoder.inner.grad.addmm_(piece.T, to_units)  # type: ignore[union-attr]
    decoder.bias.grad.add_(to_units.sum(0))  # type: ignore[union-attr]
    return (error @ decoder.linear.T).addmm_(to_units, decoder.inner.T)
