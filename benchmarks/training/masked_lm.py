"""Train a small masked language model: `python -m benchmarks.training.masked_lm`.

A BERT encoder (4 layers, 256 wide, 5.4 M parameters) with a WordPiece vocabulary of 8192, trained on continuous text from
Wikipedia and from out-of-copyright books (see `language_model`). The share of tokens to be predicted falls from 30 % to 15 %
(Yang et al. 2023); of these, 80 % are masked, 10 % random and 10 % unchanged (Devlin et al. 2019, section 3.1). Only tokens to
be predicted pass through the vocabulary projection.

With little text, a masked language model stays for a long time on a plateau where it has learned only word frequencies.
Training therefore starts from parameters computed from counts; the architecture is plain BERT:

- word embeddings are the 256 strongest directions of the square root of the words' positive pointwise mutual information (Levy
  and Goldberg 2014), and the output bias is the logarithm of each token's frequency;
- each head of the first layer attends to one neighbour (the word before, the word after, and the two beyond): position
  embeddings are sinusoids (Vaswani et al. 2017), for which a step is a rotation, which is written into the query matrix.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForMaskedLM

from benchmarks.training.corpus import SPECIAL, VOCABULARY
from benchmarks.training.language_model import POSITIONS, SPREAD, Recipe, counted_embeddings, main

MASKED, MASKED_FIRST = 0.15, 0.30
NEIGHBOURS = (-1, 1, -2, 2)  # one per head
SHARPNESS = 2.0  # sharpness of the first layer's attention to these neighbours
SLOWEST = 256  # tokens per half turn of the slowest sinusoid; the fastest makes half a turn per token
MASK = SPECIAL.index("[MASK]")
STEPS = 2000


def new_model(stream: np.ndarray) -> BertForMaskedLM:
    """The model before training (seed 0), with parameters computed from the token counts of the stream (tokens,)."""
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
    seen = np.bincount(stream, minlength=VOCABULARY) + 1
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight.copy_(counted_embeddings(stream, config.hidden_size))
        model.cls.predictions.bias.copy_(torch.from_numpy(np.log(seen / seen.sum())))
        look_at_neighbours(model)
    return model


def look_at_neighbours(model: BertForMaskedLM) -> None:
    """Set position embeddings to sinusoids, and make each head of the first layer attend to one neighbour (see above)."""
    config, half = model.config, model.config.hidden_size // 2
    rates = torch.pi * SLOWEST ** (-torch.arange(half) / (half - 1))  # radians per token
    angles = torch.arange(POSITIONS)[:, None] * rates
    scale = SPREAD * 2**0.5  # gives position embeddings the norm of the word embeddings
    model.bert.embeddings.position_embeddings.weight.copy_(torch.cat([angles.sin(), angles.cos()], dim=1) * scale)
    width = config.hidden_size // config.num_attention_heads
    used = torch.arange(width // 2)  # the fastest sinusoids distinguish neighbours best
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


def hide(inputs: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The inputs with some tokens hidden, and a mask of the tokens to be predicted, both (rows, length)."""
    told = (torch.rand(inputs.shape, generator=generator) < share) & (inputs >= len(SPECIAL))
    how = torch.rand(inputs.shape, generator=generator)
    other = torch.randint(len(SPECIAL), VOCABULARY, inputs.shape, generator=generator)
    hidden = torch.where(told & (how < 0.8), MASK, inputs)
    return torch.where(told & (how >= 0.8) & (how < 0.9), other, hidden), told


def loss_of(model: BertForMaskedLM, inputs: Tensor, done: float, seed: int) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy, in nats, and accuracy over the tokens to be predicted."""
    share = MASKED_FIRST + (MASKED - MASKED_FIRST) * done
    hidden, told = hide(inputs, share, torch.Generator().manual_seed(seed))
    device = model.device
    hidden, told, inputs = hidden.to(device), told.to(device), inputs.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):  # slower than float32 on a CPU
        states = model.bert(hidden).last_hidden_state[told]  # (predicted, 256)
        logits = model.cls(states)  # (predicted, 8192)
    truth = inputs[told]
    return cross_entropy(logits.float(), truth), (logits.argmax(1) == truth).float().mean()


if __name__ == "__main__":
    main(Recipe(new_model, loss_of), __doc__, "build/masked-lm", STEPS)
