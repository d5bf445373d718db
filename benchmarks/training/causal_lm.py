"""Train a small causal language model: `python -m benchmarks.training.causal_lm`.

A GPT-2 (4 layers, 128 wide, 1.9 M parameters) trained on the same tokens as the masked language model (see `language_model`).
Every token is predicted from those before it. Rows have 64 tokens at first, later 128, and start with [CLS].
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.training.corpus import SPECIAL, VOCABULARY
from benchmarks.training.language_model import POSITIONS, Recipe, counted_embeddings, main

STEPS = 400


def new_model(stream: np.ndarray) -> GPT2LMHeadModel:
    """The model before training (seed 0), with embeddings computed from the token counts of the stream (tokens,)."""
    torch.manual_seed(0)
    end = SPECIAL.index("[SEP]")
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=POSITIONS,
        n_embd=128,
        n_layer=4,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=SPECIAL.index("[CLS]"),
        eos_token_id=end,
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        model.transformer.wte.weight.copy_(counted_embeddings(stream, config.n_embd))
    return model


def loss_of(model: GPT2LMHeadModel, inputs: Tensor, _done: float, _seed: int) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy, in nats, and accuracy over all tokens but the first."""
    inputs = inputs.to(model.device)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda"):
        logits = model(inputs[:, :-1], use_cache=False).logits.flatten(0, 1)  # (rows * (length - 1), 8192)
    truth = inputs[:, 1:].flatten()
    return cross_entropy(logits.float(), truth), (logits.argmax(1) == truth).float().mean()


if __name__ == "__main__":
    main(Recipe(new_model, loss_of), __doc__, "build/causal-lm", STEPS)
