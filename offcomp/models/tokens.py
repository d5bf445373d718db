"""Load and call a model folder's tokenizer. The tokenizers library is called nowhere else.

For files that it cannot handle, that library raises a bare `Exception`, or a Rust panic that does not even derive from
`Exception`; both become a one-sentence ModelError here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from offcomp.errors import ModelError, OffcompError, first_line
from offcomp.models.sources import TOKENIZER_FILES


def read_tokenizer(folder: Path, config: Any) -> PreTrainedTokenizerBase | None:
    """The folder's tokenizer, or None if it has none. Raises ModelError if its files are damaged."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    with _as_model_error(f"transformers cannot load the tokenizer of '{folder}'"):
        return AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True, trust_remote_code=False)


def encode(tokenizer: PreTrainedTokenizerBase, texts: str | Sequence[str], **options: Any) -> BatchEncoding:
    """Tokenise texts with these options. Raises ModelError if the tokenizer fails."""
    with _as_model_error("the tokenizer of this model cannot process the texts"):
        return tokenizer(texts if isinstance(texts, str) else list(texts), **options)


def can_pad(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the tokenizer can pad. If it defines no padding token, its end or unknown token is used as one."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer.pad_token is not None


def longer_than(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], limit: int) -> int:
    """How many texts are longer than `limit` tokens, special tokens included. Raises ModelError as `encode` does."""
    return sum(len(ids) > limit for ids in encode(tokenizer, texts, verbose=False)["input_ids"]) if texts else 0


def check_known(model: PreTrainedModel, ids: Iterable[Iterable[int]]) -> None:
    """Check that the model has an embedding for every token id. Raises ModelError if not."""
    num_embeddings = getattr(model.get_input_embeddings(), "num_embeddings", None)
    largest = max((int(max(text_ids, default=-1)) for text_ids in ids), default=-1)
    if num_embeddings is not None and largest >= num_embeddings:
        raise ModelError(
            f"the tokenizer produces the token id {largest}, but the model has only {num_embeddings} embeddings; use the "
            "tokenizer that belongs to the model"
        )


@contextmanager
def _as_model_error(failure: str) -> Iterator[None]:
    """Turn whatever the libraries raise into a one-sentence ModelError."""
    try:
        yield
    except (OffcompError, MemoryError):
        raise
    except BaseException as error:  # tokenizers raises the bare class; see the module docstring
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # pyo3 exports no class to catch
            raise
        reason = first_line(error)[:300]
        raise ModelError(f"{failure} ({reason}); copy the tokenizer files again from the original model.") from error
