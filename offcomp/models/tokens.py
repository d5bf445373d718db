"""The tokenizer of a model folder, and what it makes of texts: the one place where the tokenizers library is called.

What that library raises for files that do not fit is a bare `Exception`, or the panic of its Rust code, which is no `Exception`
at all; both become one sentence here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from offcomp.errors import ModelError, OffcompError
from offcomp.models.sources import TOKENIZER_FILES


def read_tokenizer(folder: Path, config: Any) -> PreTrainedTokenizerBase | None:
    """The folder's tokenizer, None where it has none. Raises ModelError where its files are damaged."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    with _told(f"transformers cannot load the tokenizer of '{folder}'"):
        return AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True, trust_remote_code=False)


def encode(tokenizer: PreTrainedTokenizerBase, texts: str | Sequence[str], **options: Any) -> BatchEncoding:
    """What the tokenizer makes of texts, called with these options. Raises ModelError where it fails."""
    with _told("the tokenizer of this model cannot read the texts"):
        return tokenizer(texts if isinstance(texts, str) else list(texts), **options)


def can_pad(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether it has a token to pad with; where it names none, one that it has serves."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer.pad_token is not None


def longer_than(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], limit: int) -> int:
    """How many texts have more than so many tokens, special ones included. Raises ModelError as `encode` does."""
    return sum(len(ids) > limit for ids in encode(tokenizer, texts, verbose=False)["input_ids"]) if texts else 0


def check_known(model: PreTrainedModel, ids: Iterable[Iterable[int]]) -> None:
    """The model has an embedding for each token number of some texts. Raises ModelError where it has not."""
    known = getattr(model.get_input_embeddings(), "num_embeddings", None)
    largest = max((int(max(each, default=-1)) for each in ids), default=-1)
    if known is not None and largest >= known:
        raise ModelError(
            f"the tokenizer gives the token number {largest}, but the model knows {known} tokens only; use the tokenizer that "
            "belongs to the model"
        )


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn whatever the libraries raise into one sentence."""
    try:
        yield
    except (OffcompError, MemoryError):
        raise
    except Exception as error:  # see the module: tokenizers raises the bare class
        raise ModelError(_sentence(what, error)) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of pyo3, which offers no class to name here
            raise
        raise ModelError(_sentence(what, error)) from None


def _sentence(what: str, error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{what} ({lines[0][:300]}); copy its tokenizer's files again from the original model."
