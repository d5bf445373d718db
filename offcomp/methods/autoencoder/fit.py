"""Train the autoencoder, and decode its stored tensors."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import cos, pi

import torch
from torch import Generator, Tensor

from offcomp.methods.autoencoder.coefficients import group_coefficients
from offcomp.methods.autoencoder.losses import RowLoss, rescale_rows
from offcomp.methods.autoencoder.method import Autoencoder
from offcomp.methods.autoencoder.svd_start import start_as_svd
from offcomp.methods.autoencoder.training import RowTask, refine
from offcomp.methods.base import CompressedMatrix, Hints
from offcomp.numerics.accounting import Budget
from offcomp.numerics.mlp import Network
from offcomp.numerics.progress import Report
from offcomp.numerics.storage import pack
from offcomp.numerics.training import train

ANNEALED_EPOCHS = 2 / 3  # the official run anneals over 20 of its 30 epochs
PAPER_SEED = 1


def fit(
    method: Autoencoder, matrix: Tensor, size: int, budget: Budget, *, hints: Hints | None, seed: int, report: Report
) -> CompressedMatrix:
    """Train an autoencoder with latent width `size` on the device of `matrix`."""
    task = _task(method, matrix, hints)
    generator = torch.Generator().manual_seed(PAPER_SEED + seed)
    encoder, decoder = _networks(method, task, size, generator)
    refined = method.refine_epochs / (method.epochs + method.refine_epochs)
    history = train(
        decoder.parameters + encoder.parameters,
        lambda batch, epoch: task.through_both(encoder, decoder, batch, epoch),
        tables=task.tables,
        epochs=method.epochs,
        batch_size=method.batch_size,
        learning_rate=partial(learning_rate, method),
        generator=generator,
        report=lambda done: report((1 - refined) * done),
    )
    latents = encoder(task.samples)
    if method.refine_epochs:
        latents, losses = refine(
            task,
            decoder,
            latents,
            epoch=method.epochs,
            steps=method.refine_epochs,
            learning_rate=method.learning_rate,
            report=lambda done: report(1 - refined + refined * done),
        )
        history += losses
    tensors = {"latents": latents}
    for index, (weight, bias) in enumerate(decoder.layers):
        tensors |= {f"decoder.{index}.weight": weight, f"decoder.{index}.bias": bias}
    if method.enforce_norm:
        tensors["row_norms"] = task.norms
    return CompressedMatrix(pack(tensors, budget.dtype), decoded_latents, size, tuple(history))


def _task(method: Autoencoder, matrix: Tensor, hints: Hints | None) -> RowTask:
    """The training task, on the same device as the matrix."""
    samples = matrix.float()
    coefficients = None
    if method.calibrated and hints is not None:
        coefficients = group_coefficients(hints, method.coefficients).to(samples.device)
    norms = samples.double().norm(dim=1).float()
    return RowTask(samples, norms, coefficients, method.enforce_norm, partial(_loss, method))


def _networks(method: Autoencoder, task: RowTask, latent: int, generator: Generator) -> tuple[Network, Network]:
    """Create and initialise the encoder and decoder."""
    cols, device = task.samples.shape[1], task.samples.device
    decoder = Network.new(method.decoder_widths(latent, cols), _last(method.decoder, "tanh"), generator, device)
    encoder = Network.new(method.encoder_widths(latent, cols), _last(method.encoder, "leaky_relu"), generator, device)
    if method.init == "svd":
        start_as_svd(encoder, decoder, task.samples, directions=method.enforce_norm)
    return encoder, decoder


def learning_rate(method: Autoencoder, epoch: int) -> float:
    """The learning rate for a given epoch."""
    if method.schedule == "cosine":
        return method.learning_rate * (0.5 + 0.5 * cos(pi * epoch / method.epochs))
    return method.learning_rate * 0.8 ** (epoch // 10)


def _loss(method: Autoencoder, epoch: int) -> RowLoss:
    """Weighted sum of cosine distance, RMSE and power-L1 (section 3 of the paper; `losses/` in the official code)."""
    annealed = min(1.0, epoch / max(1.0, ANNEALED_EPOCHS * method.epochs))
    return RowLoss(method.cosine_weight, method.rmse_weight, method.l1_weight, power=1 - 0.9 * annealed)


def _last(kind: str, activation: str) -> str:
    """The activation after the final layer, which is the identity for a linear network."""
    return activation if kind == "nonlinear" else "identity"


def decoded_latents(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder: apply the stored network to the latents and restore the row norms, if stored."""
    count = sum(name.endswith(".weight") for name in tensors)
    layers = tuple((tensors[f"decoder.{i}.weight"], tensors[f"decoder.{i}.bias"]) for i in range(count))
    output = Network(layers, "tanh" if count > 1 else "identity")(tensors["latents"])
    return rescale_rows(output, tensors["row_norms"]) if "row_norms" in tensors else output
