"""Load and call a model's tokenizer. No other module calls the tokenizers library.

When the tokenizers library cannot handle a file, it raises a bare `Exception`, or a Rust panic that does not even derive from
`Exception`. This module converts either to a one-sentence ModelError.
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
    """Load a folder's tokenizer, or return None if the folder has none. Raises ModelError if the files are damaged."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    with _as_model_error(f"transformers cannot load the tokenizer of '{folder}'"):
        return AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True, trust_remote_code=False)


def encode(tokenizer: PreTrainedTokenizerBase, texts: str | Sequence[str], **options: Any) -> BatchEncoding:
    """Tokenise texts, passing `options` to the tokenizer. Raises ModelError if the tokenizer fails."""
    with _as_model_error("the model's tokenizer cannot process the texts"):
        return tokenizer(texts if isinstance(texts, str) else list(texts), **options)


def can_pad(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the tokenizer can pad. A missing padding token is replaced by the end-of-sequence or unknown token."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer.pad_token is not None


def longer_than(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], limit: int) -> int:
    """The number of texts longer than `limit` tokens, including special tokens. Raises ModelError if the tokenizer fails."""
    return sum(len(ids) > limit for ids in encode(tokenizer, texts, verbose=False)["input_ids"]) if texts else 0


def check_known(model: PreTrainedModel, ids: Iterable[Iterable[int]]) -> None:
    """Check that the model has an embedding for every token id. Raises ModelError if not."""
    num_embeddings = getattr(model.get_input_embeddings(), "num_embeddings", None)
    largest = max((int(max(text_ids, default=-1)) for text_ids in ids), default=-1)
    if num_embeddings is not None and largest >= num_embeddings:
        raise ModelError(
            f"the tokenizer produces token id {largest}, but the model has only {num_embeddings} embeddings; use the "
            "model's own tokenizer"
        )


@contextmanager
def _as_model_error(failure: str) -> Iterator[None]:
    """Convert any exception raised by transformers or tokenizers to a one-sentence ModelError."""
    try:
        yield
    except (OffcompError, MemoryError):
        raise
    except BaseException as error:  # tokenizers raises a bare Exception; see the module docstring
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # pyo3 exports no class to catch
            raise
        reason = first_line(error)[:300]
        raise ModelError(f"{failure} ({reason}); copy the tokenizer files again from the original model.") from error
