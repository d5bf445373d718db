"""Gather calibration statistics in passes over text, and control when the model is in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property

from torch import Tensor

from offcomp.errors import InputError
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.loading import LoadedModel
from offcomp.models.positions import longest_text
from offcomp.models.weights import stored_view
from offcomp.planning.data.calibration_text import digest
from offcomp.planning.data.row_counts import RowCounts
from offcomp.runs.calibration.batches import split_at_random, token_batches, truncation
from offcomp.runs.calibration.blocks import ModelPair
from offcomp.runs.calibration.cache import StatisticsCache
from offcomp.runs.calibration.cross import CrossMoments, sum_cross_moments
from offcomp.runs.calibration.experts import is_expert, scarce
from offcomp.runs.calibration.forward import has_module, is_embedding, modules_of
from offcomp.runs.calibration.gradients import sum_gradients
from offcomp.runs.calibration.likelihood import Likelihood
from offcomp.runs.calibration.moments import (
    InputMoments,
    errors_from_moments,
    output_errors,
    shared_inputs,
    sum_magnitudes,
    sum_moments,
)
from offcomp.runs.calibration.substitutions import Reconstructed, Substitutions

OF_GRADIENTS = ("fisher", "sensitivity", "row_moment")


class Calibration:
    """A loaded model with its calibration text. Statistics are cached, within a budget, until a weight is substituted.

    If the statistics of a group's members exceed the budget, they are gathered in several passes over the text.

    Args:
        texts: calibration texts, of which a random fifth (fixed seed) is held out to measure errors on unseen text.
        max_tokens: maximum number of tokens per text; longer texts are truncated.
        special_tokens: whether to include tokens added by the tokenizer, such as [CLS]. Some special tokens have activations
            large enough to dominate all other tokens.
        weighting: "output" weights each token by 1 / ‖output of the module‖², since the normalisation that follows
            gives all tokens a similar norm; "equal" is the plain mean used in the papers.
        rows: row counts of the source that the texts were read from, for the run's record.
        cache_bytes: budget in bytes for cached statistics (at least half a group's matrix). The captured inputs of blocks
            have a budget of the same size.
        ahead: the modules of all calibrated groups. Each pass over the text gathers statistics for as many of them as fit in
            the cache, where they stay for later groups. If `ahead` is empty, each group's statistics are dropped after use.

    Raises InputError if the model has no tokenizer or the text contains no tokens.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        texts: Sequence[str],
        *,
        max_tokens: int = 128,
        special_tokens: bool = False,
        weighting: str = "output",
        seed: int = 0,
        rows: RowCounts | None = None,
        cache_bytes: int = 0,
        ahead: Sequence[ModuleSpec] = (),
    ) -> None:
        self.cache_bytes = cache_bytes
        self._ahead = tuple(ahead)
        self.rows = rows
        self.loaded = loaded
        self.weighting = weighting
        self.seed = seed
        self.digest = digest(texts)
        self.scarce: set[ModuleSpec] = set()  # experts that too few tokens reached in some pass
        parts = split_at_random(texts, seed)
        self.batches, self.held_out = (token_batches(loaded, part, max_tokens, special_tokens) for part in parts)
        self.cut = truncation([*self.batches, *self.held_out], longest_text(loaded.model, max_tokens))
        if not any(batch.counted.any() for batch in self.batches):
            raise InputError("the calibration text has no tokens; provide at least one text that contains a word")
        self._is_changed = self._is_kept = False
        self._weights = Substitutions(loaded)
        self._kept = StatisticsCache(self._weights.model_loaded)
        self._models = ModelPair(loaded.model, cache_bytes)

    @contextmanager
    def offloaded(self) -> Iterator[None]:
        """Offload the model within the `with` statement, except during passes over the text."""
        with self._weights.offloaded():
            self._models.reset(limit=0)
            try:
                yield
            finally:
                self._models.reset(self.cache_bytes)

    def model_loaded(self) -> AbstractContextManager[None]:
        """Keep the model in memory within the `with` statement."""
        return self._weights.model_loaded()

    def keep_original(self) -> None:
        """Keep a copy of the original model until `restore`, for `cross_moments`, unless it is too large and thus offloaded.

        Raises InputError if a member has already been replaced.
        """
        if self.has_original or self._weights.is_offloaded:
            return
        if self._weights.has_members:
            raise InputError("weights have been replaced already; keep the original model before the first replacement")
        self.restore()
        self._models.keep_original()

    @property
    def has_original(self) -> bool:
        """Whether a copy of the original model is kept."""
        return self._models.original is not None

    def follow(self, groups: Sequence[Reconstructed]) -> None:
        """Replace the members of all these earlier groups until `restore`, and again whenever the model has been reloaded.

        Groups that are already in place are not decoded again.
        """
        missing = self._weights.missing(groups)
        if missing is None:
            self._restore_weights()
            missing = groups
        self._begin_changes()
        for group in missing:
            self._forget_outdated(self._weights.add_group(group))

    @contextmanager
    def keeping_earlier_groups(self) -> Iterator[None]:
        """Within the `with` statement, leave earlier groups in place for the next group that uses them; then restore the model.

        A group that does not use them still sees the original weights. Has no effect on a model that is offloaded.
        """
        self._is_kept = True
        try:
            yield
        finally:
            self._is_kept = False
            self.restore()

    def substitute(self, spec: ModuleSpec, matrix: Tensor) -> None:
        """Replace the matrix of a member of the current group until the end of the group."""
        self._begin_changes()
        self._weights.add_member(spec, matrix)
        self._forget_outdated([spec])

    def end_group(self) -> None:
        """Restore the members of the current group, and the whole model unless `keeping_earlier_groups`."""
        if not self._is_kept or self._weights.is_offloaded:
            self.restore()
        elif self._weights.has_members:
            self._models.substituted.drop()
            self._kept.clear()
            self._weights.restore_members()

    def restore(self) -> None:
        """Restore the model's original matrices, bit for bit, and drop the copy of the original model."""
        if self.has_original:
            self._models.drop_original()
        self._restore_weights()

    def _restore_weights(self) -> None:
        if self._is_changed:
            self._is_changed = False
            self._kept.clear()
            self._models.substituted.drop()
            self._weights.restore()

    def _begin_changes(self) -> None:
        if not self._is_changed:
            self._is_changed = True
            self._kept.clear()

    def _forget_outdated(self, changed: Sequence[ModuleSpec]) -> None:
        """Drop captured inputs and cached statistics that depend on the changed modules.

        Statistics of inputs are kept if all changed modules have the same input, as query, key and value do, and the captured
        inputs show that their block is used once in a pass.
        """
        inputs = self._models.substituted
        for spec in changed:
            inputs.drop_unless_inside(spec)
        owners = {self._shared.get(spec) for spec in changed} if inputs.path and self._kept.values else set()
        owner = owners.pop() if len(owners) == 1 else None
        weighted = changed if self.weighting == "output" else ()  # by the output of the module itself
        self._kept.keep(
            lambda spec, name: (
                owner is not None and self._shared.get(spec) == owner and spec not in weighted and name not in OF_GRADIENTS
            )
        )

    def moments(self, specs: Sequence[ModuleSpec], cache_bytes: int) -> InputMoments:
        """Input moments of the first module. The same pass gathers the moments of as many later modules as fit in the cache."""

        def gather(owners: list[ModuleSpec]) -> Callable[[ModuleSpec], InputMoments]:
            sums = sum_moments(self.loaded.model, owners, self.batches, self.weighting, self._models.substituted)
            self.scarce |= scarce(owners, sums.tokens)
            return sums.means

        return self._kept.first([self._owner(spec) for spec in self._alike(specs)], "inputs", cache_bytes, gather)

    def cross_moments(self, specs: Sequence[ModuleSpec], cache_bytes: int) -> CrossMoments:
        """Moments of the first module's inputs in both models; see `moments`. Requires the original, and vectors as inputs.

        The module must not be an expert, which different tokens may reach in the two models.
        """

        def gather(owners: list[ModuleSpec]) -> Callable[[ModuleSpec], CrossMoments]:
            return sum_cross_moments(self._models, owners, self.batches, self.weighting).means

        owners = [self._owner(spec) for spec in self._alike(specs) if not is_expert(spec)]
        return self._kept.first(owners, "cross", cache_bytes, gather)

    def magnitude(self, specs: Sequence[ModuleSpec], cache_bytes: int) -> Tensor:
        """Mean absolute inputs (cols,) of the first module, which must not be an embedding; see `moments`."""

        def gather(owners: list[ModuleSpec]) -> Callable[[ModuleSpec], Tensor]:
            sums = sum_magnitudes(self.loaded.model, owners, self.batches, self._models.substituted)
            self.scarce |= scarce(owners, sums.tokens)
            return sums.means

        return self._kept.first([self._shared.get(spec, spec) for spec in self._alike(specs)], "magnitude", cache_bytes, gather)

    def gradients(self, specs: Sequence[ModuleSpec], name: str, cache_bytes: int) -> Tensor:
        """The "fisher", "sensitivity" or "row_moment" statistic of the first module; see `moments`."""

        def gather(wanted: list[ModuleSpec]) -> Callable[[ModuleSpec], Tensor]:
            likelihood = Likelihood(self.loaded.model, self.loaded.tokenizer, self.seed)
            sums = sum_gradients(self.loaded.model, wanted, self.batches, [name], likelihood)
            self.scarce |= scarce(wanted, {spec: sums[spec].num_tokens for spec in wanted})
            return lambda spec: sums[spec].means()[name]

        ahead = () if self._is_changed else self._ahead
        later = [spec for spec in ahead if name != "row_moment" or spec not in self.embeddings]
        return self._kept.first([*specs, *later], name, cache_bytes, gather)

    @cached_property
    def embeddings(self) -> frozenset[ModuleSpec]:
        """The modules of the model that take token ids as input."""
        modules = filter(has_module, self.loaded.info.modules)
        return frozenset(spec for spec in modules if is_embedding(modules_of(self.loaded.model, spec)[0]))

    def _alike(self, specs: Sequence[ModuleSpec]) -> list[ModuleSpec]:
        """The modules, and those gathered in advance, that take inputs of the same kind as the first: vectors or token ids."""
        takes_ids = specs[0] in self.embeddings
        return [spec for spec in (*specs, *self._in_advance(specs[0])) if (spec in self.embeddings) == takes_ids]

    def _in_advance(self, first: ModuleSpec) -> Sequence[ModuleSpec]:
        """Modules whose input statistics are gathered in advance.

        As long as no weight has been changed, these are all modules in `ahead`. After that, they are only those with the same
        input as `first`, because later changes would invalidate the statistics of the others.
        """
        if not self._is_changed or not self._ahead:
            return self._ahead
        owner = self._shared.get(first)
        return [spec for spec in self._ahead if owner and self._shared.get(spec) == owner]

    def output_errors(
        self, reconstructions: Mapping[ModuleSpec, Tensor], *, held_out: bool
    ) -> Mapping[ModuleSpec, tuple[float, float]]:
        """Compute `moments.output_errors` on held-out text or the text used for fitting, from cached moments where possible."""
        self.forget()  # free memory for the reconstructions
        moments = {} if held_out else self._cached_moments(reconstructions)
        rest = {spec: matrix for spec, matrix in reconstructions.items() if spec not in moments}
        model, batches = self.loaded.model, self.held_out if held_out else self.batches
        with self.model_loaded():
            errors = output_errors(model, rest, batches, self.weighting) if rest else {}
            return errors | {
                spec: errors_from_moments(stored_view(model, spec), reconstructions[spec], found)
                for spec, found in moments.items()
            }

    def _cached_moments(self, specs: Iterable[ModuleSpec]) -> dict[ModuleSpec, InputMoments]:
        """The cached moments of those modules that have any, except embeddings and experts, whose moments may be of no text."""
        weighted = (spec for spec in specs if spec not in self.embeddings and not is_expert(spec))
        keys = {spec: (self._owner(spec), "inputs") for spec in weighted}
        return {spec: self._kept.values[key] for spec, key in keys.items() if key in self._kept.values}

    def forget(self) -> None:
        """Drop captured inputs, and cached statistics unless they are kept across groups (`ahead`), to free memory."""
        self._models.reset()
        if not self._ahead:
            self._kept.clear()

    def _owner(self, spec: ModuleSpec) -> ModuleSpec:
        """The module whose cached moments are used for `spec`: with equal weighting, the first module with the same input."""
        return self._shared.get(spec, spec) if self.weighting == "equal" else spec

    @cached_property
    def _shared(self) -> dict[ModuleSpec, ModuleSpec]:
        with self.model_loaded():
            return shared_inputs(self.loaded.model, self.loaded.info.modules, next(self.batches[0].parts(1)))
