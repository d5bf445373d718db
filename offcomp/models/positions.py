"""How many tokens a model's position embeddings have room for."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

SPARE_POSITIONS = 2  # left free since the first version, so that figures stay comparable
POSITION_TABLES = ("position_embeddings", "embed_positions", "wpe")


def position_limit(model: PreTrainedModel) -> int | None:
    """Tokens that a text may have; None where the config sets no limit (relative positions, XLNet's -1).

    RoBERTa and its kin count positions from the padding index + 1: their table has max_position_embeddings rows, and a
    padding row, so that a text has max_position_embeddings - pad_token_id - 1 tokens. The table tells them apart, not a name.
    """
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    for path, module in model.named_modules():
        is_table = isinstance(module, nn.Embedding) and path.rpartition(".")[2] in POSITION_TABLES
        if is_table and module.padding_idx is not None and module.num_embeddings == limit:
            return max(1, limit - module.padding_idx - 1)
    return limit


def longest_text(model: PreTrainedModel, wanted: int) -> int:
    """Tokens of a text where nothing else says how many: `wanted`, or what the positions have room for."""
    limit = position_limit(model)
    if limit is None:
        return wanted
    starts_later = limit != model.config.get_text_config().max_position_embeddings
    return max(1, min(wanted, limit if starts_later else limit - SPARE_POSITIONS))
