"""What calibrated methods receive: statistics of each weight matrix, computed on request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Statistics(Protocol):
    """Interface with the fields of `ModuleStatistics`, which implementations may compute lazily."""

    @property
    def num_tokens(self) -> int:
        """Number of tokens over which the statistics are averaged."""

    @property
    def column_moment(self) -> Tensor | None:
        """Second moment of the inputs: (cols, cols), or (cols,) if diagonal."""

    @property
    def row_moment(self) -> Tensor | None:
        """Second moment of the output gradients: (rows, rows), or (rows,) if diagonal."""

    @property
    def column_magnitude(self) -> Tensor | None:
        """Mean absolute inputs: (cols,)."""

    @property
    def fisher(self) -> Tensor | None:
        """Mean squared gradient: (rows, cols)."""

    @property
    def sensitivity(self) -> Tensor | None:
        """Mean absolute gradient: (rows, cols)."""

    @property
    def cross_moment(self) -> Tensor | None:
        """Cross moment between the inputs in the original model and the inputs after all substitutions: (cols, cols)."""

    @property
    def input_means(self) -> tuple[Tensor, Tensor] | None:
        """Mean inputs in the original model, and mean inputs after all substitutions: (cols,) each."""


@dataclass(frozen=True)
class ModuleStatistics:
    """Calibration statistics of one weight matrix W (rows, cols), in its canonical view. Missing statistics are None.

    column_moment       (cols, cols), or (cols,) if diagonal: mean over tokens of x xᵀ, where x is the input of W
    row_moment          (rows, rows), or (rows,) if diagonal: mean over tokens of g gᵀ, where g is the gradient at the output;
                        for an embedding, the frequency of each token
    column_magnitude    (cols,): mean over tokens of |x|
    fisher              (rows, cols): mean over samples of the squared gradient of the log-likelihood with respect to W
    sensitivity         (rows, cols): mean over samples of the absolute gradient with respect to W
    num_tokens          number of tokens over which the statistics are averaged
    cross_moment        (cols, cols): mean over tokens of x x'ᵀ, where x is the input of W in the original model and x' its
                        input in the model with all substitutions so far; tokens are weighted as in the column moment, which is
                        then the mean of x' x'ᵀ; None for an embedding or an expert, or if the original model is not kept
    input_means         (cols,) each: means of x and of x', with the same token weights; None whenever the cross moment is None
    """

    num_tokens: int
    column_moment: Tensor | None = None
    row_moment: Tensor | None = None
    column_magnitude: Tensor | None = None
    fisher: Tensor | None = None
    sensitivity: Tensor | None = None
    cross_moment: Tensor | None = None
    input_means: tuple[Tensor, Tensor] | None = None


class Hints(Protocol):
    """Calibration statistics for the members of a stacked matrix, computed on request.

    heights     number of rows of each member in the stacked matrix, from top to bottom
    transposed  whether each member is transposed in the stack
    embeddings  whether each member is an embedding table, whose inputs have no second moment
    order       indices of the members in the order in which the model uses them
    """

    heights: tuple[int, ...]
    transposed: tuple[bool, ...]
    embeddings: tuple[bool, ...]
    order: tuple[int, ...]

    def statistics(self, index: int) -> Statistics:
        """Statistics of a member in its canonical view, measured on the model with all substitutions made so far."""

    def release(self) -> None:
        """Drop cached statistics that the caller no longer needs."""

    def use_compressed_predecessors(self, *, keep_original: bool = False, one_by_one: bool = True) -> None:
        """Measure all subsequent statistics on the model with the previously compressed groups in place.

        Call this before substituting. Set `one_by_one` to False only if no member will be substituted; the statistics of all
        members may then be measured together. With `keep_original`, a copy of the original model is kept for the statistics
        `cross_moment` and `input_means`. Without a copy, or if the model is too large to stay in memory, both are None.
        """

    def substitute(self, index: int, reconstruction: Tensor) -> None:
        """Replace a member with its reconstruction, oriented as in the stacked matrix, for all later statistics."""
