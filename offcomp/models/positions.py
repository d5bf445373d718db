"""Determine how many tokens a model's position embeddings support."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

SPARE_POSITIONS = 2  # left unused so that scores stay comparable with those of the first version
POSITION_TABLES = ("position_embeddings", "embed_positions", "wpe")


def position_limit(model: PreTrainedModel) -> int | None:
    """Maximum number of tokens per text; None if the config sets no limit (relative position embeddings, or -1 as in XLNet).

    In RoBERTa-style models, positions start at pad_token_id + 1, so only max_position_embeddings - pad_token_id - 1 rows of the
    embedding table are usable. These models are recognised by the padding index of the embedding table, not by name.
    """
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    for path, module in model.named_modules():
        is_table = isinstance(module, nn.Embedding) and path.rpartition(".")[2] in POSITION_TABLES
        if is_table and module.padding_idx is not None and module.num_embeddings == limit:
            return max(1, limit - module.padding_idx - 1)
    return limit


def longest_text(model: PreTrainedModel, requested: int) -> int:
    """Default maximum number of tokens per text: `requested`, or fewer if the position embeddings support fewer."""
    limit = position_limit(model)
    if limit is None:
        return requested
    starts_later = limit != model.config.get_text_config().max_position_embeddings
    return max(1, min(requested, limit if starts_later else limit - SPARE_POSITIONS))
