"""Training of a small language model, masked or causal, on 2 cores: data, initialisation, optimisers, loop, checkpoints.

Matrices are trained by Muon (Jordan et al. 2024), everything else by AdamW; the learning rate warms up and then decays linearly
to zero. Rows are short at first. If training is interrupted, the same command resumes from the last checkpoint; rows and masks
depend only on step and seed.

Word embeddings are initialised from co-occurrence counts (`counted_embeddings`), which saves most of the training that a small
model would need to learn which words are similar.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.processors import BertProcessing
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from benchmarks.training.corpus import SPECIAL, VOCABULARY, tokenizer, tokens

TOKENS = 6144  # per step
LENGTHS = ((0.6, 64), (1.0, 128))  # (share of the steps up to which a length is used, tokens per row)
EVALUATED = 128
POSITIONS = 128
WINDOW, SMOOTHING = 4, 0.75  # for the counts of neighbouring words
SPREAD = 0.08  # root mean square of the embeddings
WARMUP, DECAY = 50, 0.01
MUON_RATE, EMBEDDING_RATE, ADAM_RATE = 0.007, 3e-4, 1e-3
"""Embeddings have a low learning rate, since noise would soon destroy what the counts contain about rare words."""
BOLD_STEPS, BOLD_RATE = 200, 0.02
"""Muon's first steps are larger; later, steps of that size would increase the loss."""
EMBEDDINGS = re.compile(r"embeddings|wte|wpe")
CLS, SEP = SPECIAL.index("[CLS]"), SPECIAL.index("[SEP]")
EVALUATION_BATCHES = 10


@dataclass(frozen=True)
class Recipe:
    """A kind of language model.

    new_model   training tokens -> the model before training
    loss_of     model, rows of tokens (rows, length), completed share of the training (1 for evaluation), seed -> mean
                cross-entropy in nats, and accuracy
    """

    new_model: Callable[[np.ndarray], PreTrainedModel]
    loss_of: Callable[[PreTrainedModel, Tensor, float, int], tuple[Tensor, Tensor]]


def counted_embeddings(stream: np.ndarray, width: int) -> Tensor:
    """Embeddings of equal norm from the positive pointwise mutual information of neighbouring tokens (vocabulary, width).

    Neighbours at distance d count 1/d; context counts are raised to the power 0.75 (Levy, Goldberg and Dagan 2015, section 3).
    """
    pairs = np.zeros(VOCABULARY**2, np.float32)
    numbers = stream.astype(np.int64)
    for distance in range(1, WINDOW + 1):
        seen = np.bincount(numbers[:-distance] * VOCABULARY + numbers[distance:], minlength=VOCABULARY**2)
        pairs += seen.astype(np.float32) / distance
    counts = torch.from_numpy(pairs).view(VOCABULARY, VOCABULARY)
    counts = counts + counts.T
    contexts = counts.sum(0) ** SMOOTHING
    expected = counts.sum(1, keepdim=True) * (contexts / contexts.sum())
    information = (counts / expected.clamp_min(1e-9)).clamp_min(1.0).log()
    left, values, _ = torch.svd_lowrank(information, q=width + 32, niter=3)
    turned = torch.linalg.qr(torch.randn(width, width))[0]  # spreads the strong directions over all columns
    made = left[:, :width] * values[:width].sqrt() @ turned
    return made / made.norm(dim=1, keepdim=True).clamp_min(1e-6) * SPREAD * width**0.5


def rows(stream: np.ndarray, length: int, chosen: np.ndarray) -> Tensor:
    """Rows of `length` tokens that start with [CLS] (rows, length)."""
    width = length - 1
    body = np.stack([stream[i * width : (i + 1) * width] for i in chosen]).astype(np.int64)
    return torch.from_numpy(np.concatenate([np.full((len(body), 1), CLS), body], axis=1))


def optimisers(model: PreTrainedModel) -> list[torch.optim.Optimizer]:
    """Muon for the matrices in layers and head, AdamW for embeddings, norms and biases."""
    named = dict(model.named_parameters())  # tied ones appear once
    embeddings = [p for name, p in named.items() if EMBEDDINGS.search(name) and p.ndim == 2]
    matrices = [p for name, p in named.items() if not EMBEDDINGS.search(name) and p.ndim == 2]
    others = [p for p in named.values() if p.ndim == 1]
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=DECAY, momentum=0.95, ns_steps=4),
        torch.optim.AdamW(embeddings, lr=EMBEDDING_RATE, weight_decay=0.0, betas=(0.9, 0.99)),
        torch.optim.AdamW(others, lr=ADAM_RATE, weight_decay=0.0, betas=(0.9, 0.99)),
    ]


def evaluate(recipe: Recipe, model: PreTrainedModel, stream: np.ndarray) -> tuple[float, float]:
    """Loss and accuracy on the validation split, always with the same rows and masks."""
    model.eval()
    size = TOKENS // EVALUATED
    chosen = np.random.default_rng(1).permutation(len(stream) // (EVALUATED - 1))[: EVALUATION_BATCHES * size]
    parts = enumerate(np.split(chosen, EVALUATION_BATCHES))
    with torch.inference_mode():
        figures = [recipe.loss_of(model, rows(stream, EVALUATED, part), 1.0, i) for i, part in parts]
    model.train()
    losses, shares = zip(*figures, strict=True)
    return float(torch.stack(losses).mean()), float(torch.stack(shares).mean())


def train(recipe: Recipe, data: Path, work: Path, steps: int, every: int) -> None:
    """Train to the last step, resuming from a checkpoint in the working folder if there is one; write the float16 model."""
    work.mkdir(parents=True, exist_ok=True)
    tokenizer(data, work)
    stream, held_out = tokens(data, work, "train"), tokens(data, work, "validation")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = recipe.new_model(stream).to(device).train()
    optimizers = optimisers(model)
    checkpoint, start = work / "checkpoint.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location=device)
        start = saved["step"]
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
    began = time.perf_counter()
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters, {len(stream):,} tokens")
    for step in range(start, steps):
        length = next(length for share, length in LENGTHS if step < share * steps)
        size, count = TOKENS // length, len(stream) // (length - 1)
        epoch, place = divmod(step * size, count - count % size)
        order = np.random.default_rng(epoch).permutation(count)
        rate = min(1.0, (step + 1) / WARMUP, (steps - step) / (steps - WARMUP))
        bases = (BOLD_RATE if step < BOLD_STEPS else MUON_RATE, EMBEDDING_RATE, ADAM_RATE)
        for optimizer, base in zip(optimizers, bases, strict=True):
            optimizer.param_groups[0]["lr"] = base * rate
        loss, _ = recipe.loss_of(model, rows(stream, length, order[place : place + size]), step / steps, step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if (step + 1) % every == 0 or step + 1 == steps:
            figures = evaluate(recipe, model, held_out)
            seconds = time.perf_counter() - began
            line = {
                "step": step + 1,
                "tokens": (step + 1) * TOKENS,
                "validation_loss": round(figures[0], 4),
                "accuracy": round(figures[1], 4),
                "tokens_per_second": round((step + 1 - start) * TOKENS / seconds),
            }
            print(json.dumps(line), flush=True)
            with (work / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            state = {"step": step + 1, "model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}
            torch.save(state, work / "checkpoint.new")
            (work / "checkpoint.new").replace(checkpoint)
    model.half().save_pretrained(work / "model")
    save_tokenizer(tokenizer(data, work), work / "model")


def save_tokenizer(made: Tokenizer, folder: Path) -> None:
    """Save the tokenizer in the format of transformers; texts are enclosed in [CLS] and [SEP]."""
    made.post_processor = BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    names = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=POSITIONS, **names).save_pretrained(folder)


def main(recipe: Recipe, description: str, work: str, steps: int) -> None:
    """The command line for one kind of model."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="folder with corpus_wiki and corpus_books")
    parser.add_argument("--work", type=Path, default=Path(work), help="folder for vocabulary, checkpoint and model")
    parser.add_argument("--steps", type=int, default=steps, help=f"training steps of {TOKENS} tokens each")
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--threads", type=int, default=2, help="processor threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(recipe, arguments.data, arguments.work, arguments.steps, arguments.every)
