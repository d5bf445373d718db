"""Train the autoencoder, and decode its stored tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import starmap
from math import cos, pi
from threading import Lock

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from offcomp.methods.autoencoder.coefficients import group_coefficients
from offcomp.methods.autoencoder.latent_codes import LatentGrid, stored_latents
from offcomp.methods.autoencoder.losses import RowLoss, rescale_rows
from offcomp.methods.autoencoder.method import Autoencoder
from offcomp.methods.autoencoder.svd_start import start_as_svd
from offcomp.methods.autoencoder.training import RowTask, refine
from offcomp.methods.base import CompressedMatrix, Hints
from offcomp.numerics.accounting import Budget
from offcomp.numerics.grams import in_parallel
from offcomp.numerics.mlp import Network
from offcomp.numerics.progress import Report, Watch, watch_of
from offcomp.numerics.storage import pack
from offcomp.numerics.training import SMALL_BATCH, train

ANNEALED_EPOCHS = 2 / 3  # the official run anneals over 20 of its 30 epochs
PAPER_SEED = 1


def fit(
    method: Autoencoder, matrix: Tensor, size: int, budget: Budget, *, hints: Hints | None, seed: int, report: Report
) -> CompressedMatrix:
    """Train an autoencoder with latent width `size` on the device of `matrix`."""
    samples, coefficients = matrix.float(), None
    if method.calibrated and hints is not None:
        coefficients = group_coefficients(hints, method.coefficients).to(samples.device)[None]
    trained = _train(method, samples[None], coefficients, size, budget.dtype, seed=seed, report=report, watch=watch_of(report))
    return trained.compressed(0)


def fit_together(
    method: Autoencoder,
    matrices: Float[Tensor, "stack rows cols"],
    size: int,
    budget: Budget,
    *,
    seed: int,
    report: Report,
) -> Iterator[CompressedMatrix]:
    """See `Method.fit_together`. On the CPU, each thread trains a share of the matrices, if batches are large.

    Steps of small batches are so short that threads would spend more time waiting for Python's lock than they save, so one
    thread takes all matrices. A caller that watches the training watches the first matrix.
    """
    small = method.batch_size <= SMALL_BATCH or matrices.device.type != "cpu"
    parts = matrices.float().tensor_split(1 if small else min(torch.get_num_threads(), len(matrices)))
    done, lock = [0.0] * len(parts), Lock()

    def train_part(number: int) -> Trained:
        def report_part(fraction: float) -> None:
            with lock:
                done[number] = fraction
                report(sum(done) / len(done))

        watch = watch_of(report) if number == 0 else None
        return _train(method, parts[number], None, size, budget.dtype, seed=seed, report=report_part, watch=watch)

    trained = in_parallel(train_part, range(len(parts)))
    each = [(part, index) for part in trained for index in range(len(part.latents))]
    return starmap(Trained.compressed, each)


@dataclass(frozen=True)
class Trained:
    """The result of training one or more stacked autoencoders.

    latents     (stack, rows, latent)
    grid        the grid of the latents, or None if they are stored as floats
    decoder     a stack of networks
    norms       (stack, rows, 1), or None if norms are not stored
    history     the losses (stack,) of each epoch
    dtype       storage dtype
    """

    latents: Float[Tensor, "stack rows latent"]
    grid: LatentGrid | None
    decoder: Network
    norms: Float[Tensor, "stack rows 1"] | None
    history: Sequence[Float[Tensor, " stack"]]
    dtype: str

    def compressed(self, index: int) -> CompressedMatrix:
        """The stored form of one matrix. Raises InputError if any value to be stored is not finite."""
        _, rows, latent = self.latents.shape
        tensors = {"latents": self.latents[index]} if self.grid is None else self.grid.tensors(self.latents, index)
        for layer, (weight, bias) in enumerate(self.decoder.layers):
            tensors |= {f"decoder.{layer}.weight": weight[index], f"decoder.{layer}.bias": bias[index]}
        if self.dtype == "int8":
            tensors |= centred(tensors, self.latents[index].mean(0))
        if self.norms is not None:
            tensors["row_norms"] = self.norms[index, :, 0]
        history = tuple(float(losses[index]) for losses in self.history)
        codes = {} if self.grid is None else {"latents": rows * latent, "latent_layout": 2}
        return CompressedMatrix(pack(tensors, self.dtype), decoded_latents, latent, history, codes=codes)


def centred(tensors: Mapping[str, Tensor], means: Float[Tensor, " latent"]) -> dict[str, Tensor]:
    """The tensors that change if the means of the latents move into the first bias of the decoder, which stays a float.

    The decoder computes the same. Latents are never negative and may be far from 0; without their means, much finer integers
    can store them and the weights that they meet.
    """
    name = "latents" if "latent_zeros" not in tensors else "latent_zeros"
    bias = tensors["decoder.0.bias"] + tensors["decoder.0.weight"] @ means
    return {name: tensors[name] - means, "decoder.0.bias": bias}


def _train(
    method: Autoencoder,
    samples: Float[Tensor, "stack rows cols"],
    coefficients: Float[Tensor, "stack rows _"] | None,
    latent: int,
    dtype: str,
    *,
    seed: int,
    report: Report,
    watch: Watch | None = None,
) -> Trained:
    """Train stacked autoencoders, each with the random numbers that it would draw if it were trained alone.

    `watch` is called for the first of them, after each epoch except those of the refinement.
    """
    norms = samples.double().norm(dim=-1, keepdim=True).float()
    task = RowTask(samples, norms, coefficients, method.enforce_norm, partial(_loss, method))
    generator = torch.Generator().manual_seed(PAPER_SEED + seed)
    encoder, decoder = _networks(method, task, latent, generator)
    refined = method.refine_epochs / (method.epochs + method.refine_epochs)
    stored_norms = norms if method.enforce_norm else None

    def as_stored() -> Tensor:
        first = Network(tuple((weight[:1], bias[:1]) for weight, bias in encoder.layers), encoder.last)(task.samples[:1])
        grid = _grid(method, first, dtype)
        return Trained(first, grid, decoder, stored_norms, (), dtype).compressed(0).reconstruct()

    history = train(
        decoder.parameters + encoder.parameters,
        lambda batch, epoch: task.through_both(encoder, decoder, batch, epoch),
        tables=task.tables,
        epochs=method.epochs,
        batch_size=method.batch_size,
        learning_rate=partial(learning_rate, method),
        generator=generator,
        report=lambda done: report((1 - refined) * done),
        after_epoch=None if watch is None else lambda epoch, losses: watch(epoch, float(losses[0]), as_stored),
    )
    latents = encoder(task.samples)
    grid = _grid(method, latents, dtype)
    if method.refine_epochs:
        latents, losses = refine(
            task,
            decoder,
            latents,
            rounding=grid.rounded if grid else None,
            epoch=method.epochs,
            steps=method.refine_epochs,
            learning_rate=method.learning_rate,
            report=lambda done: report(1 - refined + refined * done),
        )
        history += losses
    return Trained(latents, grid, decoder, stored_norms, history, dtype)


def _grid(method: Autoencoder, latents: Float[Tensor, "stack rows latent"], dtype: str) -> LatentGrid | None:
    return LatentGrid.of(latents, method.latent_bits, dtype) if method.latent_bits else None


def _networks(method: Autoencoder, task: RowTask, latent: int, generator: Generator) -> tuple[Network, Network]:
    """Create and initialise the stacked encoders and decoders."""
    stack, _, cols = task.samples.shape
    device = task.samples.device
    decoder = Network.new(method.decoder_widths(latent, cols), _last(method.decoder, "tanh"), generator, device).stacked(stack)
    encoder = Network.new(method.encoder_widths(latent, cols), _last(method.encoder, "leaky_relu"), generator, device)
    encoder = encoder.stacked(stack)
    if method.init == "svd":
        for index, samples in enumerate(task.samples):
            start_as_svd(encoder[index], decoder[index], samples, directions=method.enforce_norm)
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
    """Decoder: apply the stored network to the latents, which may be codes, and restore the row norms, if stored."""
    count = sum(name.endswith(".weight") for name in tensors)
    layers = tuple((tensors[f"decoder.{i}.weight"], tensors[f"decoder.{i}.bias"]) for i in range(count))
    output = Network(layers, "tanh" if count > 1 else "identity")(stored_latents(tensors))
    return rescale_rows(output, tensors["row_norms"][:, None]) if "row_norms" in tensors else output
