"""Substitute weights of a model while statistics are gathered, and control when the model is in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol

from torch import Tensor

from offcomp.models.catalogue import ModuleSpec
from offcomp.models.loading import LoadedModel
from offcomp.models.offloading import offloaded
from offcomp.models.weights import replace, substituted


class Reconstructed(Protocol):
    """A compressed group, or anything else that has reconstructions."""

    @property
    def reconstructions(self) -> Mapping[ModuleSpec, Tensor]:
        """The approximate matrices (rows, cols) of its members."""


class Substitutions:
    """Replaces weights of a loaded model: those of earlier groups, and those of the current group member by member.

    If the model is offloaded, the weights are replaced again whenever it is loaded.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.earlier: list[Reconstructed] = []
        self.has_members = False
        self._members: list[tuple[ModuleSpec, Tensor]] = []  # kept only while the model is offloaded
        self._undo_earlier, self._undo_members = ExitStack(), ExitStack()
        self._offloaded: ExitStack | None = None
        self._users = 0

    @property
    def is_offloaded(self) -> bool:
        """Whether the model is offloaded between passes."""
        return self._offloaded is not None

    @contextmanager
    def offloaded(self) -> Iterator[None]:
        """Offload the model within the `with` statement, except within `model_loaded`."""
        with ExitStack() as stack:
            stack.enter_context(offloaded(self.loaded))
            self._offloaded = stack
            try:
                yield
            finally:
                self._offloaded = None

    @contextmanager
    def model_loaded(self) -> Iterator[None]:
        """Keep the model in memory within the `with` statement."""
        self._users += 1
        try:
            if self._offloaded and self._users == 1:
                self._offloaded.close()
                for group in self.earlier:
                    replace(self.loaded.model, group.reconstructions)
                for spec, matrix in self._members:
                    replace(self.loaded.model, {spec: matrix})
            yield
        finally:
            self._users -= 1
            if self._offloaded and not self._users:
                self._offloaded.enter_context(offloaded(self.loaded))

    def missing(self, groups: Sequence[Reconstructed]) -> Sequence[Reconstructed] | None:
        """The groups that are not in place yet; None if other groups are in place and must be restored first."""
        known = len(self.earlier)
        same = len(groups) >= known and all(one is other for one, other in zip(self.earlier, groups, strict=False))
        return groups[known:] if same else None

    def add_group(self, group: Reconstructed) -> Sequence[ModuleSpec]:
        """Replace the members of an earlier group; returns them, or none if the model is not in memory."""
        self.earlier.append(group)
        if self._offloaded and not self._users:
            return ()
        matrices = group.reconstructions
        self._write(matrices, self._undo_earlier)
        return list(matrices)

    def add_member(self, spec: ModuleSpec, matrix: Tensor) -> None:
        """Replace a member of the current group."""
        self.has_members = True
        if self._offloaded:
            self._members.append((spec, matrix))
        if self._users or not self._offloaded:
            self._write({spec: matrix}, self._undo_members)

    def restore_members(self) -> None:
        """Restore the members of the current group, bit for bit. The model must not be offloaded."""
        self.has_members = False
        self._undo_members.close()

    def restore(self) -> None:
        """Restore the original weights, bit for bit."""
        self.has_members = False
        self.earlier.clear()
        self._members.clear()
        self._undo_members.close()
        self._undo_earlier.close()
        if self._offloaded and self._users:
            with offloaded(self.loaded):
                pass  # reloads the model on exit

    def _write(self, matrices: Mapping[ModuleSpec, Tensor], undo: ExitStack) -> None:
        if self._offloaded:
            replace(self.loaded.model, matrices)
        else:
            undo.enter_context(substituted(self.loaded.model, matrices))
