"""Hints for a stacked matrix of two members, drawn from a seed: the upper half as it is, the lower half turned."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from offcomp.methods.base import Method
from offcomp.methods.hints import ModuleStatistics


def moment(size: int, seed: int, tokens: int | None = None) -> Tensor:
    """A second moment (size, size) of tokens whose features are correlated and of unlike scale; singular for few tokens."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=generator, dtype=torch.float64) * torch.linspace(2.0, 0.2, size)
    inputs = torch.randn(tokens or 4 * size, size, generator=generator, dtype=torch.float64) @ mixing
    return inputs.T @ inputs / len(inputs)


def member_statistics(rows: int, cols: int, seed: int, tokens: int | None = None) -> ModuleStatistics:
    """Every statistic of a (rows, cols) weight, over so many tokens (four for each feature unless told)."""
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
    """With moments that the reader may overwrite."""
    moments = {name: getattr(statistics, name) for name in ("column_moment", "row_moment")}
    return replace(statistics, **{name: None if each is None else each.clone() for name, each in moments.items()})


@dataclass
class SyntheticHints:
    """Hints for a matrix (rows, cols); `members` are in canonical view."""

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
        """Nothing is kept."""

    def use_compressed_predecessors(self, *, keep_original: bool = False, one_by_one: bool = True) -> None:
        """No group comes before this one."""

    def substitute(self, index: int, reconstruction: Tensor) -> None:
        assert reconstruction.shape[0] == self.heights[index]


@dataclass
class GivenHints:
    """Hints with given moments, which record what was substituted."""

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
        """Nothing is kept."""

    def use_compressed_predecessors(self, *, keep_original: bool = False, one_by_one: bool = True) -> None:
        self.followed, self.kept = True, keep_original

    def substitute(self, index: int, reconstruction: Tensor) -> None:
        self.substituted.append((index, reconstruction.clone()))


def synthetic_hints(rows: int, cols: int, tokens: int | None = None) -> SyntheticHints:
    """Hints for a (rows, cols) matrix."""
    upper, lower = rows // 2, rows - rows // 2
    if upper == 0:
        return SyntheticHints((rows,), (True,), [member_statistics(cols, rows, 2, tokens)])
    members = [member_statistics(upper, cols, 1, tokens), member_statistics(cols, lower, 2, tokens)]
    return SyntheticHints((upper, lower), (False, True), members)


def with_hints(method: Method) -> Method:
    """The method itself; a calibrated one is given synthetic hints whenever it is fitted without any."""
    if method.calibrated:
        fit = method.fit

        def hinted(matrix: Tensor, budget: Any, **arguments: Any) -> Any:
            return fit(matrix, budget, **({"hints": synthetic_hints(*matrix.shape)} | arguments))

        object.__setattr__(method, "fit", hinted)
    return method
