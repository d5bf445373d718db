"""What text says of the members of a group, computed when a method asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import sqrt
from typing import TYPE_CHECKING, Any

from torch import Tensor

from offcomp.calibration.moments import InputMoments, is_embedding, modules_of
from offcomp.grouping import is_turned
from offcomp.models.catalogue import ModuleSpec

if TYPE_CHECKING:
    from offcomp.calibration.passes import Calibration

Changes = Callable[[], Iterable[Mapping[ModuleSpec, Tensor]]]
"""What gives matrices in the place of a model's own, as the reconstructions of one group after the other."""


class GroupHints:
    """The `Hints` of a group of modules of a loaded model."""

    def __init__(
        self,
        calibration: Calibration,
        specs: Sequence[ModuleSpec],
        stack: str,
        *,
        before: Changes,
        room: int,
    ) -> None:
        self._before = before
        self.specs = tuple(specs)
        self.turned = tuple(is_turned(spec, stack) for spec in specs)
        self.heights = tuple(spec.cols if turn else spec.rows for spec, turn in zip(specs, self.turned, strict=True))
        self.embeddings = tuple(is_embedding(modules_of(calibration.loaded.model, spec)[0]) for spec in specs)
        place = {spec.name: number for number, spec in enumerate(calibration.loaded.info.modules)}
        self.order = tuple(sorted(range(len(specs)), key=lambda index: place[specs[index].name]))
        self.room = room
        self.has_settled = False
        self.calibration = calibration

    def statistics(self, index: int) -> MemberStatistics:
        """Statistics of a member on inputs that settled members already shape, each computed when it is read."""
        return MemberStatistics(self, self.specs[index], self.embeddings[index])

    def release(self) -> None:
        """Drop the statistics that are kept."""
        self.calibration.forget()

    def follow(self) -> None:
        """From now on statistics are of the model with the groups that were compressed before this one."""
        self.has_settled = True
        self.calibration.change(self._before)

    def settle(self, index: int, reconstruction: Tensor) -> None:
        """From now on statistics are of the model with a member's reconstruction, as it stands in the stacked matrix."""
        self.has_settled = True
        self.calibration.settle(self.specs[index], reconstruction.T if self.turned[index] else reconstruction)

    def restore(self) -> None:
        """Take back what was settled."""
        if self.has_settled:
            self.has_settled = False
            self.calibration.restore()

    def output_error(self, reconstructions: Mapping[ModuleSpec, Tensor], *, held_out: bool) -> float | None:
        """‖(W-Ŵ)Xᵀ‖ / ‖WXᵀ‖ over all members, X the inputs in the original model, tokens weighed as for the moments.

        On text that was not used to fit, or on that which was. None where there is no such text, or the outputs are zero.
        Takes back what was settled.
        """
        self.restore()
        sums = self.calibration.output_errors(reconstructions, held_out=held_out).values()
        exact = sum(energy for _, energy in sums)
        return sqrt(sum(error for error, _ in sums) / exact) if exact else None

    def summary(self) -> dict[str, Any]:
        """How much text there is for the widest input of a member, for the record."""
        calibration = self.calibration
        num_tokens = sum(int(batch.counted.sum()) for batch in calibration.batches)
        width = max(spec.rows if lookup else spec.cols for spec, lookup in zip(self.specs, self.embeddings, strict=True))
        rows = {"rows": calibration.rows.to_dict()} if calibration.rows else {}
        cut = {"cut": calibration.cut} if calibration.cut else {}
        return (
            {
                "num_texts": sum(len(batch.counted) for batch in calibration.batches),
                "num_held_out": sum(len(batch.counted) for batch in calibration.held_out),
                "num_tokens": num_tokens,
                "tokens_per_dimension": num_tokens / width,
                "weighting": calibration.weighting,
                "digest": calibration.digest,
            }
            | rows
            | cut
        )

    def moments(self, spec: ModuleSpec) -> InputMoments:
        """Moments of the inputs of one member."""
        return self.calibration.moments(self._likely_next(spec), self.room)

    def second_moment(self, spec: ModuleSpec) -> Tensor:
        """The second moment of the inputs of one member, to be overwritten."""
        return self.calibration.owned(self.moments(spec).second)

    def gradients(self, spec: ModuleSpec, name: str) -> Tensor:
        """ "fisher", "sensitivity" or "row_moment" of one member; an embedding has no row moment of gradients."""
        first, *others = self._likely_next(spec)
        lookups = {each for each, lookup in zip(self.specs, self.embeddings, strict=True) if lookup}
        wanted = [first, *(each for each in others if name != "row_moment" or each not in lookups)]
        return self.calibration.gradients(wanted, name, self.room)

    def _likely_next(self, spec: ModuleSpec) -> tuple[ModuleSpec, ...]:
        """A member, and as long as none is settled those after it, which will be asked for next."""
        place = self.specs.index(spec)
        return self.specs[place : place + 1] if self.has_settled else self.specs[place:]


class MemberStatistics:
    """The `Statistics` of one member."""

    def __init__(self, hints: GroupHints, spec: ModuleSpec, is_embedding: bool) -> None:
        self._hints = hints
        self._spec = spec
        self._is_embedding = is_embedding

    @property
    def num_tokens(self) -> int:
        """Tokens of the text that reached the module."""
        return self._hints.moments(self._spec).num_tokens

    @property
    def column_moment(self) -> Tensor | None:
        """(cols, cols) float64; None for an embedding."""
        return None if self._is_embedding else self._hints.second_moment(self._spec)

    @property
    def row_moment(self) -> Tensor | None:
        """(rows, rows) float64, of gradients; for an embedding (rows,), the share of each token."""
        if self._is_embedding:
            return self._hints.second_moment(self._spec)
        return self._hints.calibration.owned(self._hints.gradients(self._spec, "row_moment"))

    @property
    def fisher(self) -> Tensor | None:
        """(rows, cols), mean squared gradient of a text's log-likelihood."""
        return self._hints.gradients(self._spec, "fisher")

    @property
    def sensitivity(self) -> Tensor | None:
        """(rows, cols), mean absolute gradient of a text's log-likelihood."""
        return self._hints.gradients(self._spec, "sensitivity")

    @property
    def column_magnitude(self) -> Tensor | None:
        """(cols,) float64; None for an embedding."""
        return self._hints.moments(self._spec).magnitude
