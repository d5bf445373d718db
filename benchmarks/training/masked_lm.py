"""Train a small masked language model: `python -m benchmarks.training.masked_lm`.

A BERT encoder (4 layers, 256 wide, 5.4 M parameters) with a WordPiece vocabulary of 8192, trained on running text of Wikipedia
and of books out of copyright; no row is seen twice in less than one pass. 15 % of the tokens are to be told (of these 80 %
masked, 10 % random, 10 % as they are; Devlin et al. 2019, section 3.1); only they go through the vocabulary projection.
Matrices of the encoder are trained by Muon (Jordan et al. 2024), everything else by AdamW; warm-up, then a linear descent to
zero.

On little text a masked language model stays long on a plateau where it knows no more than how frequent words are, since an
even attention shows it everything and nothing. So the first layer starts with heads that look at one neighbour each (the word
before, after, and the two beyond): positions start as sinusoids (Vaswani et al. 2017), among which a step is one rotation, and
that rotation is written into the query matrix. All of it is trained on like everything else; the architecture is plain BERT.
Cut off at any time, the same command goes on from the last checkpoint. Step and seed decide rows and masks.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.processors import BertProcessing
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from benchmarks.training.corpus import SPECIAL, VOCABULARY, tokenizer, tokens

TOKENS, MASKED = 6144, 0.15
LENGTHS = ((0.6, 64), (1.0, 128))  # until this share of the steps, rows of so many tokens
EVALUATED = 128
NEIGHBOURS = (-1, 1, -2, 2)  # one a head
SHARPNESS = 2.0  # of the first layer's attention to them
SLOWEST = 256  # tokens in half a turn of the slowest sinusoid; the fastest turns half a circle a token
POSITIONS = 256
WARMUP, MUON_RATE, ADAM_RATE, DECAY = 150, 0.02, 2e-3, 0.01
CLS, MASK = SPECIAL.index("[CLS]"), SPECIAL.index("[MASK]")
EVALUATION_BATCHES = 10


def new_model() -> BertForMaskedLM:
    """The model with random weights (seed 0)."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
        max_position_embeddings=POSITIONS,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = BertForMaskedLM(config)
    with torch.no_grad():
        look_at_neighbours(model)
    return model


def look_at_neighbours(model: BertForMaskedLM) -> None:
    """Positions as sinusoids, and each head of the first layer on one neighbour (see the module)."""
    config, half = model.config, model.config.hidden_size // 2
    rates = torch.pi * SLOWEST ** (-torch.arange(half) / (half - 1))  # radians a token
    angles = torch.arange(POSITIONS)[:, None] * rates
    scale = config.initializer_range * 2**0.5  # as much variance as the words have
    model.bert.embeddings.position_embeddings.weight.copy_(torch.cat([angles.sin(), angles.cos()], dim=1) * scale)
    width = config.hidden_size // config.num_attention_heads
    used = torch.arange(width // 2)  # the fastest sinusoids tell neighbours apart best
    attention = model.bert.encoder.layer[0].attention.self
    for head, step in enumerate(NEIGHBOURS):
        sines, cosines = head * width + used, head * width + width // 2 + used
        turn = rates[used] * step
        for matrix, cos, sin in (
            (attention.key.weight, torch.ones_like(turn), 0 * turn),
            (attention.query.weight, turn.cos(), turn.sin()),
        ):
            matrix[sines, used] += SHARPNESS**0.5 * cos
            matrix[sines, half + used] += SHARPNESS**0.5 * sin
            matrix[cosines, half + used] += SHARPNESS**0.5 * cos
            matrix[cosines, used] -= SHARPNESS**0.5 * sin


def rows(stream: np.ndarray, length: int, chosen: np.ndarray) -> Tensor:
    """Rows of `length` tokens that open with [CLS] (rows, length)."""
    width = length - 1
    body = np.stack([stream[i * width : (i + 1) * width] for i in chosen]).astype(np.int64)
    return torch.from_numpy(np.concatenate([np.full((len(body), 1), CLS), body], axis=1))


def hide(inputs: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The inputs with tokens hidden, and which are to be told (both rows, length)."""
    told = (torch.rand(inputs.shape, generator=generator) < MASKED) & (inputs >= len(SPECIAL))
    how = torch.rand(inputs.shape, generator=generator)
    other = torch.randint(len(SPECIAL), VOCABULARY, inputs.shape, generator=generator)
    hidden = torch.where(told & (how < 0.8), MASK, inputs)
    return torch.where(told & (how >= 0.8) & (how < 0.9), other, hidden), told


def loss_of(model: BertForMaskedLM, inputs: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of the hidden tokens, in nats, and the share of them that is right."""
    hidden, told = hide(inputs, torch.Generator().manual_seed(seed))
    device = model.device
    hidden, told, inputs = hidden.to(device), told.to(device), inputs.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):  # slower than float32 on a processor
        states = model.bert(hidden).last_hidden_state[told]  # (told, 256)
        logits = model.cls(states)  # (told, 8192)
    truth = inputs[told]
    return cross_entropy(logits.float(), truth), (logits.argmax(1) == truth).float().mean()


def optimisers(model: BertForMaskedLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the encoder, AdamW for embeddings, head, norms and biases."""
    matrices = [p for name, p in model.named_parameters() if "encoder" in name and p.ndim == 2]
    held = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in held]
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=DECAY, momentum=0.95, ns_steps=4),
        torch.optim.AdamW(others, lr=ADAM_RATE, weight_decay=DECAY, betas=(0.9, 0.98)),
    ]


def evaluate(model: BertForMaskedLM, stream: np.ndarray) -> tuple[float, float]:
    """Loss and accuracy on the validation split, always the same rows and masks."""
    model.eval()
    size = TOKENS // EVALUATED
    chosen = np.random.default_rng(1).permutation(len(stream) // (EVALUATED - 1))[: EVALUATION_BATCHES * size]
    parts = enumerate(np.split(chosen, EVALUATION_BATCHES))
    with torch.inference_mode():
        figures = [loss_of(model, rows(stream, EVALUATED, part), i) for i, part in parts]
    model.train()
    return tuple(float(torch.stack(column).mean()) for column in zip(*figures, strict=True))  # type: ignore[return-value]


def train(data: Path, work: Path, steps: int, every: int) -> None:
    """Train to the last step, or on from the checkpoint in the working folder; write the float16 model."""
    work.mkdir(parents=True, exist_ok=True)
    tokenizer(data, work)
    stream, held_out = tokens(data, work, "train"), tokens(data, work, "validation")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = new_model().to(device).train()
    optimizers = optimisers(model)
    checkpoint, start = work / "checkpoint.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location=device)
        start = saved["step"]
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
    bases = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    if start:
        bases = [MUON_RATE, ADAM_RATE]
    began = time.perf_counter()
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters, {len(stream):,} tokens")
    for step in range(start, steps):
        length = next(length for share, length in LENGTHS if step < share * steps)
        size, count = TOKENS // length, len(stream) // (length - 1)
        epoch, place = divmod(step * size, count - count % size)
        order = np.random.default_rng(epoch).permutation(count)
        rate = min(1.0, (step + 1) / WARMUP, (steps - step) / (steps - WARMUP))
        for optimizer, base in zip(optimizers, bases, strict=True):
            optimizer.param_groups[0]["lr"] = base * rate
        loss, _ = loss_of(model, rows(stream, length, order[place : place + size]), step)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if (step + 1) % every == 0 or step + 1 == steps:
            figures = evaluate(model, held_out)
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
    """The tokenizer as transformers reads it; a text stands between [CLS] and [SEP]."""
    made.post_processor = BertProcessing(("[SEP]", made.token_to_id("[SEP]")), ("[CLS]", CLS))
    names = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=POSITIONS, **names).save_pretrained(folder)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with corpus_wiki and corpus_books")
    parser.add_argument(
        "--work", type=Path, default=Path("build/masked-lm"), help="folder for vocabulary, checkpoint and model"
    )
    parser.add_argument("--steps", type=int, default=6000, help="steps of 6144 tokens")
    parser.add_argument("--every", type=int, default=100, help="steps between two checkpoints")
    parser.add_argument("--threads", type=int, default=2, help="processor threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments.data, arguments.work, arguments.steps, arguments.every)


if __name__ == "__main__":
    main()
