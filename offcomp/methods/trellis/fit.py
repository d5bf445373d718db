"""Choose the integers of a matrix, and decode them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import inf

import numpy as np
import torch
from torch import Tensor

from offcomp.errors import BudgetTooSmall, InputError, StorageError
from offcomp.methods.base import CompressedMatrix, Hints
from offcomp.methods.trellis.feedback import code_with_feedback
from offcomp.methods.trellis.latents import decode_bytes
from offcomp.methods.trellis.method import TrellisAutoencoder
from offcomp.methods.trellis.plain import code_of
from offcomp.numerics.accounting import Budget
from offcomp.numerics.progress import Report
from offcomp.numerics.storage import num_not_finite


def fit(
    method: TrellisAutoencoder, matrix: Tensor, size: int, budget: Budget, *, hints: Hints | None, seed: int, report: Report
) -> CompressedMatrix:
    """Encode the matrix so that the code fills the bytes of `size`. The search has no randomness, so the seed is not used.

    If there are too few bytes for a code with feedback, for outliers or for a basis, the matrix is coded without these.

    Raises BudgetTooSmall if not even an all-zero matrix fits, and InputError if a value is not finite.
    """
    rows, cols = matrix.shape
    stream = method.stream(rows, cols, size)
    exact = matrix.float().cpu().contiguous()
    if num_not_finite(exact):
        raise InputError("the matrix contains values that are not finite and cannot be coded; check the weights")
    content = None
    if method.feedback and hints is not None and not all(hints.embeddings):
        content = code_with_feedback(method, exact, stream.num_bytes, hints, report)
    for each in (
        method,
        replace(method, rotation="off", outliers=inf),
    ):  # the second variant stores almost nothing except the integers
        content = code_of(each, exact, stream.num_bytes, report) if content is None else content
    if content is None:
        raise BudgetTooSmall(f"a ({rows}, {cols}) matrix cannot be coded in {stream.num_bytes} bytes; lower the ratio")
    padded = np.pad(content, (0, stream.num_bytes - len(content)))
    return CompressedMatrix({"stream": torch.from_numpy(padded)}, decoded_trellis, size, codes={"stream": stream.count})


def decoded_trellis(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder: read the integers, follow the state machine along each row, and scale.

    Raises StorageError if the bytes are detectably damaged.
    """
    try:
        return decode_bytes(tensors["stream"].cpu().numpy())
    except (ValueError, IndexError, KeyError, AssertionError, TypeError) as error:
        raise StorageError(f"the coded integers are damaged ({error}); copy the file again or rerun the compression") from None
