"""Names of the rows of a weight matrix: tokens of an embedding, attention heads, and units of a feed-forward layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from offcomp.models.catalogue import ModuleSpec
from offcomp.plain_text import without_unseen

LONGEST = 32
"""Maximum number of characters of a token that are shown."""
HEADS = {"query": ("num_attention_heads",), **dict.fromkeys(("key", "value"), ("num_key_value_heads", "num_attention_heads"))}
"""Kind -> names in a config for the number of heads into which its rows are divided."""
UNITS = ("ffn_in", "ffn_gate")


def row_names(tokenizer: PreTrainedTokenizerBase | None, config: Any, spec: ModuleSpec, rows: Sequence[int]) -> list[str]:
    """The names of these rows, such as 'token "the" (row 1,996)', "head 3, dimension 12 (row 108)" or "unit 7".

    `tokenizer` and `config` are those of the model.
    """
    if spec.kind == "word_embeddings" and tokenizer is not None:
        tokens = tokenizer.convert_ids_to_tokens(list(rows))
        return [_token_name(token, row) for token, row in zip(tokens, rows, strict=True)]
    if size := _head_size(config, spec):
        return [f"head {row // size}, dimension {row % size} (row {row:,})" for row in rows]
    return [f"unit {row:,}" if spec.kind in UNITS else f"row {row:,}" for row in rows]


def _token_name(token: str | None, row: int) -> str:
    """The name of a row of an embedding, which may have more rows than the tokenizer has tokens."""
    if not token:
        return f"row {row:,}"
    shown = without_unseen(token)
    return f'token "{shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}…"}" (row {row:,})'


def _head_size(config: Any, spec: ModuleSpec) -> int:
    """The number of rows per attention head, or 0 if the rows are not divided into heads."""
    counts = (getattr(config, name, None) for name in HEADS.get(spec.kind, ()))
    heads = next((count for count in counts if isinstance(count, int) and count > 0), 0)
    return spec.rows // heads if heads and spec.rows % heads == 0 else 0
