"""Train a small sentiment classifier: `python -m benchmarks.training.sentiment_head`, after `masked_lm`.

The masked language model with a classification head (Devlin et al. 2019, section 4.1), trained on the phrases of SST-2 (Socher
et al. 2013) for a fixed number of epochs with AdamW; the learning rate warms up over the first tenth and then decays linearly
to zero. Nothing is selected on the validation split, whose accuracy is printed after each epoch. If training is interrupted,
the same command resumes after the last complete epoch.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

BATCH, RATE, DECAY, DROPOUT, WARMUP = 32, 3e-4, 0.01, 0.1, 0.1
LABELS = ("negative", "positive")
LONGEST = 128


def new_model(base: Path) -> BertForSequenceClassification:
    """The language model with a new head (seed 0)."""
    torch.manual_seed(0)
    return BertForSequenceClassification.from_pretrained(
        base,
        dtype=torch.float32,
        num_labels=len(LABELS),
        id2label=dict(enumerate(LABELS)),
        label2id={name: index for index, name in enumerate(LABELS)},
        hidden_dropout_prob=DROPOUT,
        classifier_dropout=DROPOUT,
    )


def encoded(tokenizer: PreTrainedTokenizerFast, table: pd.DataFrame) -> list[tuple[Tensor, int]]:
    """The token ids (tokens,) and the label of each row."""
    ids = tokenizer(table["sentence"].tolist(), truncation=True, max_length=LONGEST)["input_ids"]
    return [(torch.tensor(row), int(label)) for row, label in zip(ids, table["label"], strict=True)]


def batches(examples: list[tuple[Tensor, int]], generator: np.random.Generator | None) -> list[list[int]]:
    """Indices of the examples in each batch, grouped by similar length; batches are in random order for training."""
    lengths = np.array([len(ids) for ids, _ in examples], float)
    if generator is not None:
        lengths += generator.random(len(lengths)) * 3
    order = np.argsort(lengths, kind="stable")
    parts = [order[start : start + BATCH].tolist() for start in range(0, len(order), BATCH)]
    return parts if generator is None else [parts[i] for i in generator.permutation(len(parts))]


def logits(
    model: BertForSequenceClassification, examples: list[tuple[Tensor, int]], chosen: list[int]
) -> tuple[Tensor, Tensor]:
    """The logits (batch, 2) and labels (batch,) of the chosen examples."""
    ids = pad_sequence([examples[i][0] for i in chosen], batch_first=True)
    mask = pad_sequence([torch.ones_like(examples[i][0]) for i in chosen], batch_first=True)
    device = model.device
    out = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
    return out, torch.tensor([examples[i][1] for i in chosen], device=device)


def accuracy(model: BertForSequenceClassification, examples: list[tuple[Tensor, int]]) -> float:
    """The share of correct predictions."""
    model.eval()
    with torch.inference_mode():
        right = [
            (out.argmax(1) == truth).sum() for out, truth in (logits(model, examples, part) for part in batches(examples, None))
        ]
    model.train()
    return float(torch.stack(right).sum()) / len(examples)


def train(data: Path, base: Path, work: Path, epochs: int) -> None:
    """Train to the last epoch, resuming from a checkpoint if there is one; write the float16 model."""
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    train_set, held_out = (
        encoded(tokenizer, pd.read_parquet(data / "sst2_glue" / f"{s}.parquet")) for s in ("train", "validation")
    )
    model = new_model(base).to("cuda" if torch.cuda.is_available() else "cpu").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    checkpoint, done = work / "checkpoint.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location=model.device)
        done = saved["epochs"]
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    steps = epochs * len(batches(train_set, None))
    step = done * len(batches(train_set, None))
    for epoch in range(done, epochs):
        torch.manual_seed(epoch)
        for chosen in batches(train_set, np.random.default_rng(epoch)):
            step += 1
            optimizer.param_groups[0]["lr"] = RATE * min(
                step / (WARMUP * steps), (steps - step + 1) / (steps * (1 - WARMUP)), 1.0
            )
            out, truth = logits(model, train_set, chosen)
            cross_entropy(out, truth).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        print(json.dumps({"epoch": epoch + 1, "validation_accuracy": round(accuracy(model, held_out), 4)}), flush=True)
        torch.save({"epochs": epoch + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, checkpoint)
    model.half().save_pretrained(work / "model")
    tokenizer.save_pretrained(work / "model")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with sst2_glue")
    parser.add_argument("--base", type=Path, default=Path("build/masked-lm/model"), help="the masked language model")
    parser.add_argument("--work", type=Path, default=Path("build/sentiment-head"), help="folder for checkpoint and model")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="processor threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments.data, arguments.base, arguments.work, arguments.epochs)


if __name__ == "__main__":
    main()
