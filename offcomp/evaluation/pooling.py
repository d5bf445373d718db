"""Pool the last hidden states of texts into embeddings, as specified by `offcomp.models.sentence_modules`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn

from offcomp.errors import TaskError
from offcomp.models.sentence_modules import Dense, SentenceModules

Hidden = Float[Tensor, "texts tokens hidden"]
Mask = Int[Tensor, "texts tokens"]
Pooled = Float[Tensor, "texts hidden"]


class Pooler:
    """Turn hidden states (texts, tokens, hidden) into float32 embeddings (texts, features).

    Raises TaskError if a dense layer does not match the width of its input.
    """

    def __init__(self, modules: SentenceModules, hidden: int, prompt_tokens: int = 0):
        """prompt_tokens    number of tokens at the start of each text that are excluded from pooling"""
        self._modules, self._prompt_tokens = modules, prompt_tokens
        self._layers: list[Callable[[Tensor], Tensor]] = []
        width = hidden * len(modules.pooling)
        for layer in modules.layers:
            if not isinstance(layer, Dense):
                self._layers.append(partial(nn.functional.normalize, dim=-1))
                continue
            if layer.in_features != width:
                raise TaskError(
                    f"'{layer.file.parent}' expects vectors of {layer.in_features} values, but its inputs have {width}; "
                    "restore the folder from the original model"
                )
            self._layers.append(_applied(layer))
            width = layer.out_features

    def __call__(self, hidden: Hidden, mask: Mask) -> Pooled:
        """mask     1 for tokens, 0 for padding, which may be on either side"""
        pooled_over = mask * (mask.cumsum(1) > self._prompt_tokens)
        by_position = pooled_over * (mask.cumsum(1) > 0).cumsum(
            1
        )  # counted from the first token, even if it is not pooled over
        ways = self._modules.pooling
        parts = [POOLINGS[way](hidden, by_position if way == "weightedmean" else pooled_over) for way in ways]
        embeddings = torch.cat(parts, dim=-1)
        for layer in self._layers:
            embeddings = layer(embeddings)
        return embeddings


def _applied(dense: Dense) -> Callable[[Tensor], Tensor]:
    """Convert a dense layer to a function of vectors (texts, in_features)."""
    stored = {name: tensor.float() for name, tensor in load_file(dense.file).items()}
    activation: nn.Module = getattr(nn, dense.activation)()  # one of sentence_modules.ACTIVATIONS

    def apply(vectors: Tensor) -> Tensor:
        tensors = {name: tensor.to(vectors.device) for name, tensor in stored.items()}
        bias = tensors["linear.bias"] if dense.bias else None
        output: Tensor = activation(nn.functional.linear(vectors, tensors["linear.weight"], bias))
        if not dense.residual:
            return output
        same = dense.in_features == dense.out_features
        return output + (vectors if same else vectors @ tensors["residual.weight"].T)

    return apply


def _last(hidden: Hidden, mask: Mask) -> Pooled:
    """The hidden state of a text's last token, wherever its padding is; 0 if it has no token."""
    backwards = mask.flip(1).int()
    return _at(hidden, mask.shape[1] - 1 - backwards.argmax(1)) * backwards.amax(1, keepdim=True)


def _at(hidden: Hidden, positions: Int[Tensor, " texts"]) -> Pooled:
    """The hidden state of text i at position `positions[i]`, for all texts."""
    return hidden[torch.arange(len(hidden), device=hidden.device), positions]


def _weighted(hidden: Hidden, weights: Tensor, divisor: Tensor) -> Pooled:
    """The weighted sum over a text's tokens, divided by `divisor`; 0 if all weights are 0."""
    return (hidden * weights[..., None].to(hidden.dtype)).sum(1) / divisor.clamp_min(1)


POOLINGS: Mapping[str, Callable[[Any, Any], Tensor]] = {
    "cls": lambda hidden, mask: _at(hidden, mask.int().argmax(1)),
    "max": lambda hidden, mask: hidden.masked_fill(mask[..., None] == 0, -torch.inf).amax(1),
    "mean": lambda hidden, mask: _weighted(hidden, mask, mask.sum(1, keepdim=True)),
    "mean_sqrt_len_tokens": lambda hidden, mask: _weighted(hidden, mask, mask.sum(1, keepdim=True).float().sqrt()),
    "weightedmean": lambda hidden, weights: _weighted(hidden, weights, weights.sum(1, keepdim=True)),
    "lasttoken": _last,
}
"""Pooling mode -> its implementation, a function of the hidden states and the mask, which has weights for `weightedmean`."""
