"""Random hints with fixed seeds for a stack of two matrices; the lower one is transposed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from offcomp.methods.base import Method
from offcomp.methods.hints import ModuleStatistics


def moment(size: int, seed: int, tokens: int | None = None) -> Tensor:
    """Return the second moment (size, size) of correlated features with different scales; it is singular if tokens < size."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=generator, dtype=torch.float64) * torch.linspace(2.0, 0.2, size)
    inputs = torch.randn(tokens or 4 * size, size, generator=generator, dtype=torch.float64) @ mixing
    return inputs.T @ inputs / len(inputs)


def member_statistics(rows: int, cols: int, seed: int, tokens: int | None = None) -> ModuleStatistics:
    """Return the statistics of a (rows, cols) weight over this number of tokens, by default four per feature."""
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(9, rows, cols, generator=generator) * torch.rand(rows, 1, generator=generator)
    return ModuleStatistics(
        num_tokens=tokens or 4 * cols,
        column_moment=moment(cols, seed, tokens),
        row_moment=moment(rows, seed + 1, tokens),
        column_magnitude=moment(cols, seed, tokens).diagonal().sqrt(),
        fisher=gradients.square().mean(0),
        sensitivity=gradients.abs().mean(0),
    )


def copied(statistics: ModuleStatistics) -> ModuleStatistics:
    """Return the statistics with copies of the moments, which the caller may overwrite."""
    moments = {name: getattr(statistics, name) for name in ("column_moment", "row_moment")}
    return replace(statistics, **{name: None if each is None else each.clone() for name, each in moments.items()})


@dataclass
class SyntheticHints:
    """Hints for a stacked matrix; `members` contains the statistics of its members in canonical view."""

    heights: tuple[int, ...]
    transposed: tuple[bool, ...]
    members: list[ModuleStatistics]

    @property
    def embeddings(self) -> tuple[bool, ...]:
        return tuple(member.column_moment is None for member in self.members)

    @property
    def order(self) -> tuple[int, ...]:
        return tuple(range(len(self.heights)))

    def statistics(self, index: int) -> ModuleStatistics:
        return copied(self.members[index])

    def release(self) -> None:
        """Do nothing: no statistics are cached."""

    def use_compressed_predecessors(self, *, keep_original: bool = False) -> None:
        """Do nothing: no group precedes this one."""

    def substitute(self, index: int, reconstruction: Tensor) -> None:
        assert reconstruction.shape[0] == self.heights[index]


@dataclass
class GivenHints:
    """Hints with the specified moments. They record the reconstructions that are substituted."""

    heights: tuple[int, ...]
    transposed: tuple[bool, ...]
    moments: list[Tensor | None]
    order: tuple[int, ...] = ()
    substituted: list[tuple[int, Tensor]] = field(default_factory=list)
    followed: bool = False
    kept: bool = False
    cross: Tensor | None = None

    def __post_init__(self) -> None:
        self.order = self.order or tuple(range(len(self.heights)))

    @property
    def embeddings(self) -> tuple[bool, ...]:
        return tuple(moment is None for moment in self.moments)

    def statistics(self, index: int) -> ModuleStatistics:
        return copied(ModuleStatistics(1, column_moment=self.moments[index], cross_moment=self.cross if self.kept else None))

    def release(self) -> None:
        """Do nothing: no statistics are cached."""

    def use_compressed_predecessors(self, *, keep_original: bool = False) -> None:
        self.followed, self.kept = True, keep_original

    def substitute(self, index: int, reconstruction: Tensor) -> None:
        self.substituted.append((index, reconstruction.clone()))


def synthetic_hints(rows: int, cols: int, tokens: int | None = None) -> SyntheticHints:
    """Return hints for a (rows, cols) matrix with two members, or with one if it has a single row."""
    upper, lower = rows // 2, rows - rows // 2
    if upper == 0:
        return SyntheticHints((rows,), (True,), [member_statistics(cols, rows, 2, tokens)])
    members = [member_statistics(upper, cols, 1, tokens), member_statistics(cols, lower, 2, tokens)]
    return SyntheticHints((upper, lower), (False, True), members)


def with_hints(method: Method) -> Method:
    """Make a calibrated method use synthetic hints whenever it is fitted without any, and return the method."""
    if method.calibrated:
        fit = method.fit

        def hinted(matrix: Tensor, budget: Any, **arguments: Any) -> Any:
            return fit(matrix, budget, **({"hints": synthetic_hints(*matrix.shape)} | arguments))

        object.__setattr__(method, "fit", hinted)
    return method
