"""Calibration statistics of the members of a group, computed on demand."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import sqrt
from typing import Any

from torch import Tensor

from offcomp.models.catalogue import ModuleSpec
from offcomp.planning.grouping import is_transposed
from offcomp.runs.calibration.cache import FLOAT32_BYTES
from offcomp.runs.calibration.cross import CrossMoments
from offcomp.runs.calibration.experts import is_expert
from offcomp.runs.calibration.moments import InputMoments
from offcomp.runs.calibration.passes import Calibration
from offcomp.runs.calibration.substitutions import Reconstructed
from offcomp.runs.result import CalibrationResult


class GroupHints:
    """Implements `Hints` for a group of modules of a loaded model, stacked as specified by `stack`.

    When used as a context manager, restores substituted weights bit for bit at the end (`restore_members`).
    `earlier` are the previously compressed groups.
    """

    def __init__(
        self, calibration: Calibration, specs: Sequence[ModuleSpec], stack: str, earlier: Sequence[Reconstructed] = ()
    ) -> None:
        self._earlier = earlier
        self.specs = tuple(specs)
        self.transposed = tuple(is_transposed(spec, stack) for spec in specs)
        self.heights = tuple(spec.cols if swap else spec.rows for spec, swap in zip(specs, self.transposed, strict=True))
        self.embeddings = tuple(spec in calibration.embeddings for spec in specs)
        position = {spec.name: number for number, spec in enumerate(calibration.loaded.info.modules)}
        self.order = tuple(sorted(range(len(specs)), key=lambda index: position[specs[index].name]))
        self.cache_bytes = max(calibration.cache_bytes, FLOAT32_BYTES * sum(spec.num_parameters for spec in specs) // 2)
        self.has_substitutes = self._one_by_one = self._compares = False
        self.calibration = calibration

    def __enter__(self) -> GroupHints:
        return self

    def __exit__(self, *_: object) -> None:
        self.restore_members()

    def statistics(self, index: int) -> MemberStatistics:
        """Statistics of a member, computed on access with all substitutions applied."""
        return MemberStatistics(self, self.specs[index], self.embeddings[index])

    def release(self) -> None:
        """Drop the cached statistics."""
        self.calibration.forget()

    def use_compressed_predecessors(self, *, keep_original: bool = False, one_by_one: bool = True) -> None:
        """From now on, compute statistics with previously compressed groups replaced by their reconstructions.

        With `keep_original`, a copy of the original model is kept for the cross statistics. If the model is offloaded between
        passes (`Calibration.offloaded`), no copy is made and the cross statistics are None. Without `one_by_one`, the
        statistics of all members are gathered together.

        Raises InputError if `keep_original` is set after members have been substituted without it.
        """
        if keep_original:
            self.calibration.keep_original()
        self.has_substitutes = True
        self._one_by_one, self._compares = one_by_one, keep_original
        self.calibration.follow(self._earlier)

    def substitute(self, index: int, reconstruction: Tensor) -> None:
        """From now on, compute statistics with a member replaced by its reconstruction (in its stacked orientation)."""
        self._ready()
        self.has_substitutes = self._one_by_one = True
        self.calibration.substitute(self.specs[index], reconstruction.T if self.transposed[index] else reconstruction)

    def restore(self) -> None:
        """Undo all substitutions."""
        self.has_substitutes = self._one_by_one = self._compares = False
        self.calibration.restore()

    def restore_members(self) -> None:
        """Undo the substitutions of members, and those of earlier groups unless they are kept for the groups that follow.

        See `Calibration.keeping_earlier_groups`.
        """
        if self.has_substitutes:
            self.has_substitutes = self._one_by_one = self._compares = False
            self.calibration.end_group()

    def _ready(self) -> None:
        """Unless this group uses the compressed model, restore the original, since earlier groups may still be in place."""
        if not self.has_substitutes:
            self.calibration.restore()

    def output_error(self, reconstructions: Mapping[ModuleSpec, Tensor], *, held_out: bool) -> float | None:
        """‖(W-Ŵ)Xᵀ‖ / ‖WXᵀ‖ over all members. X contains the original model's inputs, weighted as in the moments.

        Measured on held-out text or on the text used for fitting; None if that text is empty or all outputs are zero. Undoes
        all substitutions.
        """
        self.restore()
        return share_of_outputs(self.calibration.output_errors(reconstructions, held_out=held_out).values())

    def summary(self, **diagnostics: Any) -> CalibrationResult:
        """A summary for the run's record, with these `diagnostics` of the fit.

        It contains the amount of text, and the number of tokens per dimension of the widest input.
        """
        calibration = self.calibration
        num_tokens = sum(int(batch.counted.sum()) for batch in calibration.batches)
        width = max(spec.rows if lookup else spec.cols for spec, lookup in zip(self.specs, self.embeddings, strict=True))
        scarce = tuple(spec.name for spec in self.specs if spec in calibration.scarce)
        reading: dict[str, Any] = {"rows": calibration.rows, "cut": calibration.cut, "scarce_experts": scarce or None}
        return CalibrationResult.model_construct(  # may contain values that are not finite, see `check_finite`
            num_texts=sum(len(batch.counted) for batch in calibration.batches),
            num_held_out=sum(len(batch.counted) for batch in calibration.held_out),
            num_tokens=num_tokens,
            tokens_per_dimension=num_tokens / width,
            weighting=calibration.weighting,
            digest=calibration.digest,
            **{name: value for name, value in reading.items() if value is not None},
            **diagnostics,
        )

    def moments(self, spec: ModuleSpec) -> InputMoments:
        """Input moments of one member: those in `cross_moments`, unless that is None."""
        cross = self.cross_moments(spec)
        return cross.inputs if cross else self.calibration.moments(self._likely_next(spec), self.cache_bytes)

    def cross_moments(self, spec: ModuleSpec) -> CrossMoments | None:
        """Moments of a member's inputs in the original model and with all substitutions.

        None for an embedding, for an expert (see `Calibration.cross_moments`), or if the original model is not kept.
        """
        is_left_out = spec in self.calibration.embeddings or is_expert(spec)
        if not self._compares or not self.calibration.has_original or is_left_out:
            return None
        return self.calibration.cross_moments(self._likely_next(spec), self.cache_bytes)

    def magnitude(self, spec: ModuleSpec) -> Tensor:
        """Mean absolute inputs of one member that is not an embedding."""
        return self.calibration.magnitude(self._likely_next(spec), self.cache_bytes)

    def gradients(self, spec: ModuleSpec, name: str) -> Tensor:
        """The "fisher", "sensitivity" or "row_moment" statistic of one member. Embeddings have no row moment of gradients."""
        first, *others = self._likely_next(spec)
        lookups = {each for each, lookup in zip(self.specs, self.embeddings, strict=True) if lookup}
        wanted = [first, *(each for each in others if name != "row_moment" or each not in lookups)]
        return self.calibration.gradients(wanted, name, self.cache_bytes)

    def _likely_next(self, spec: ModuleSpec) -> tuple[ModuleSpec, ...]:
        """This member and, unless members are substituted one by one, all later members, which are likely to be needed next."""
        self._ready()
        first = self.specs.index(spec)
        return self.specs[first : first + 1] if self._one_by_one else self.specs[first:]


def share_of_outputs(sums: Collection[tuple[float, float]]) -> float | None:
    """‖(W-Ŵ)Xᵀ‖ / ‖WXᵀ‖ from each member's (squared error, squared norm); None if there are no outputs or all are zero."""
    exact = sum(energy for _, energy in sums)
    return sqrt(sum(error for error, _ in sums) / exact) if exact else None


class MemberStatistics:
    """Implements `Statistics` for one member."""

    def __init__(self, hints: GroupHints, spec: ModuleSpec, is_embedding: bool) -> None:
        self._hints = hints
        self._spec = spec
        self._is_embedding = is_embedding

    @property
    def num_tokens(self) -> int:
        """Number of tokens that reached the module."""
        return self._hints.moments(self._spec).num_tokens

    @property
    def column_moment(self) -> Tensor | None:
        """Second moment of the inputs (cols, cols), in float64; None for an embedding.

        If the original model is kept, token weights are computed from its outputs, as in `cross_moment`.
        """
        return None if self._is_embedding else self._hints.moments(self._spec).second

    @property
    def cross_moment(self) -> Tensor | None:
        """Mean of x x'ᵀ (cols, cols), in float64: x is an input in the original model, x' that input after all substitutions.

        None for an embedding or an expert, or if the original is not kept, as when the model is offloaded between passes.
        """
        cross = self._hints.cross_moments(self._spec)
        return cross.cross if cross else None

    @property
    def input_means(self) -> tuple[Tensor, Tensor] | None:
        """Means of x and of x' (cols,), in float64; None whenever `cross_moment` is."""
        cross = self._hints.cross_moments(self._spec)
        return cross.means if cross else None

    @property
    def row_moment(self) -> Tensor | None:
        """Second moment of output gradients (rows, rows), in float64; for an embedding, relative token frequencies (rows,)."""
        if self._is_embedding:
            return self._hints.moments(self._spec).second
        return self._hints.gradients(self._spec, "row_moment")

    @property
    def fisher(self) -> Tensor | None:
        """Mean squared gradient (rows, cols) of a text's log-likelihood."""
        return self._hints.gradients(self._spec, "fisher")

    @property
    def sensitivity(self) -> Tensor | None:
        """Mean absolute gradient (rows, cols) of a text's log-likelihood."""
        return self._hints.gradients(self._spec, "sensitivity")

    @property
    def column_magnitude(self) -> Tensor | None:
        """Mean absolute input (cols,), in float64; None for an embedding."""
        return None if self._is_embedding else self._hints.magnitude(self._spec)
