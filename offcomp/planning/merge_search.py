"""Compare joint and separate SVD at the same stored size to find modules that benefit from being compressed together.

Separate SVD compresses each module on its own, all at the same ratio. Joint SVD stacks the modules into one matrix, which may
use no more parameters than the separate modules combined. Both errors are computed from spectra (`planning.grams`) in
closed form, so comparing thousands of groups takes seconds:

    gain = relative error of the separate modules - relative error of the joint matrix,   over the same weights

The official repository of arXiv 2302.04045 stacks modules only by rows, and across all layers or not at all, so it cannot find
the best pairs in MiniLM-L6.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import combinations
from math import inf

from offcomp.errors import BudgetTooSmall, InputError
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.models.environment import environment
from offcomp.planning.error_curves import svd_sizes
from offcomp.planning.grams import Grams
from offcomp.planning.grouping import STACKS, group_shape
from offcomp.planning.merge_survey import BEST, Merge, Suggestion, Survey, groups_after, sorted_modules
from offcomp.planning.spectrum import DENSE, OUT_OF_REACH, MatrixSpectrum, spectrum_key, svd_rank


@dataclass(frozen=True)
class _Part:
    """Modules compressed as one matrix with at most `budget` parameters."""

    specs: tuple[ModuleSpec, ...]
    stack: str
    budget: int
    squared_error: float
    energy: float


def all_pairs(grams: Grams, specs: Sequence[ModuleSpec], ratio: float) -> list[Suggestion]:
    """Every pair of modules in every valid stacking that yields a distinct matrix, largest gain first.

    Like the other functions here, raises BudgetTooSmall if a module cannot be compressed by this ratio.
    """
    pairs = list(combinations([_alone(grams, spec, ratio) for spec in specs], 2))
    suggestions = [_suggestion(pair, joint, ratio) for pair, joint in _all_joined(grams, pairs, STACKS)]
    return sorted(suggestions, key=lambda suggestion: -suggestion.gain)


def merged(grams: Grams, specs: Sequence[ModuleSpec], ratio: float, *, threshold: float = 0.001) -> list[Suggestion]:
    """Groups of two or more modules found by agglomerative merging, largest gain first; other modules stay ungrouped.

    Starting from single modules, each step merges the two parts whose joint matrix, in its best stacking, reduces the relative
    error over their weights the most. Merging stops when no merge reduces the error by more than `threshold`.
    """
    steps = merge_steps(grams, specs, ratio, threshold=threshold)
    return groups_after(steps, len(steps), len(specs))


def merge_steps(
    grams: Grams, specs: Sequence[ModuleSpec], ratio: float, *, stacks: Sequence[str] = STACKS, threshold: float = -inf
) -> list[Merge]:
    """The steps of `merged` in order, using only these `stacks`; by default, merges that increase the error are included."""
    alone = {spec: _alone(grams, spec, ratio) for spec in specs}
    parts = dict(enumerate(alone.values()))
    energy = sum(part.energy for part in parts.values())
    open_merges = _merges(grams, list(combinations(parts.items(), 2)), stacks)
    steps: list[Merge] = []
    while open_merges:
        best = max(open_merges, key=lambda merge: merge.gain)
        if best.gain <= threshold:
            break
        node = len(specs) + len(steps)
        parts = {index: part for index, part in parts.items() if index not in best.nodes}
        open_merges = [merge for merge in open_merges if not set(merge.nodes) & set(best.nodes)]
        open_merges += _merges(grams, [(part, (node, best.joint)) for part in parts.items()], stacks)
        parts[node] = best.joint
        members = tuple(spec for spec in specs if spec in best.joint.specs)
        group = _suggestion([alone[spec] for spec in members], replace(best.joint, specs=members), ratio)
        error = _relative(sum(part.squared_error for part in parts.values()), energy)
        steps.append(Merge(best.nodes, best.gain, group, error))
    return steps


def survey(grams: Grams, info: ModelInfo, specs: Sequence[ModuleSpec], ratio: float) -> Survey:
    """Survey every pair, all modules as one matrix, and merges: a sequence per stacking and one with the best at each step."""
    specs = sorted_modules(specs)
    parts = [_alone(grams, spec, ratio) for spec in specs]

    def suggestions(groups: Sequence[Sequence[_Part]]) -> tuple[Suggestion, ...]:
        joined = [each for stack in STACKS for each in _all_joined(grams, groups, (stack,))]
        return tuple(_suggestion(group, joint, ratio) for group, joint in joined)

    pairs = suggestions(list(combinations(parts, 2)))
    fitting = [stack for stack in STACKS if any(pair.stack == stack for pair in pairs)]
    merges = {stack: tuple(merge_steps(grams, specs, ratio, stacks=(stack,))) for stack in fitting}
    if fitting:
        merges = {BEST: tuple(merge_steps(grams, specs, ratio))} | merges
    return Survey(
        info.model,
        info.fingerprint,
        ratio,
        tuple(spec.name for spec in specs),
        _relative(sum(part.squared_error for part in parts), sum(part.energy for part in parts)),
        pairs,
        suggestions([parts] if len(parts) > 1 else []),
        merges,
        environment(),
        datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _alone(grams: Grams, spec: ModuleSpec, ratio: float) -> _Part:
    """A single module compressed at this ratio; its budget is its actual stored size."""
    spectrum = grams.spectrum((spec,), "rows")
    rank = svd_rank(spec.shape, ratio, "parameters", "float32", 4)
    if rank == OUT_OF_REACH:
        raise BudgetTooSmall(
            f"rank 1 of {spec.name} {spec.shape} has {sum(spec.shape)} parameters, too many at ratio {ratio:g}; lower the ratio"
        )
    budget = spec.num_parameters if rank == DENSE else rank * sum(spec.shape)
    error = 0.0 if rank == DENSE else float(spectrum.squared_errors[rank])
    return _Part((spec,), "rows", budget, error, float(spectrum.squared_errors[0]))


def _joined(grams: Grams, parts: Sequence[_Part], stack: str) -> _Part:
    """Merge the parts into one matrix that may use their combined budget."""
    specs = tuple(spec for part in parts for spec in part.specs)
    spectrum = grams.spectrum(specs, stack)
    budget = sum(part.budget for part in parts)
    return _Part(specs, stack, budget, squared_error_within(spectrum, budget), sum(part.energy for part in parts))


def squared_error_within(spectrum: MatrixSpectrum, budget: int) -> float:
    """The smallest squared error of SVD with at most `budget` parameters; 0 if the dense matrix fits."""
    if spectrum.rows * spectrum.cols <= budget:
        return 0.0
    rank = int(svd_sizes(spectrum.shape, "parameters", "float32").searchsorted(budget, side="right"))
    return float(spectrum.squared_errors[rank])


def _candidates(groups: Iterable[Sequence[_Part]], stacks: Sequence[str]) -> Iterator[tuple[Sequence[_Part], str]]:
    """Yield each set of parts with every valid stacking of its modules, skipping stackings that yield the same matrix."""
    for parts in groups:
        specs = [spec for part in parts for spec in part.specs]
        by_matrix: dict[str, str] = {}
        for stack in stacks:
            with suppress(InputError):  # these modules cannot be stacked this way
                group_shape(specs, stack)
                by_matrix.setdefault(spectrum_key(specs, stack), stack)
        yield from ((parts, stack) for stack in by_matrix.values())


def _all_joined(grams: Grams, groups: Iterable[Sequence[_Part]], stacks: Sequence[str]) -> list[tuple[Sequence[_Part], _Part]]:
    """Each set of parts with its joint matrix in every valid stacking; the spectra are computed in parallel."""
    candidates = list(_candidates(groups, stacks))
    grams.spectra([([spec for part in parts for spec in part.specs], stack) for parts, stack in candidates])
    return [(parts, _joined(grams, parts, stack)) for parts, stack in candidates]


@dataclass(frozen=True)
class _OpenMerge:
    """A possible merge of two nodes into the part `joint`."""

    gain: float
    nodes: tuple[int, int]
    joint: _Part


_Node = tuple[int, _Part]


def _merges(grams: Grams, pairs: Sequence[tuple[_Node, _Node]], stacks: Sequence[str]) -> list[_OpenMerge]:
    """Every possible merge of these pairs of parts."""
    nodes = {id(part): node for pair in pairs for node, part in pair}
    merges = []
    for (first, second), joint in _all_joined(grams, [(first, second) for (_, first), (_, second) in pairs], stacks):
        before = _relative(first.squared_error + second.squared_error, joint.energy)
        gain = before - _relative(joint.squared_error, joint.energy)
        merges.append(_OpenMerge(gain, (nodes[id(first)], nodes[id(second)]), joint))
    return merges


def _relative(squared_error: float, energy: float) -> float:
    return float((squared_error / energy) ** 0.5) if energy else 0.0


def _suggestion(parts: Sequence[_Part], joint: _Part, ratio: float) -> Suggestion:
    return Suggestion(
        tuple(spec.name for spec in joint.specs),
        joint.stack,
        ratio,
        joint.budget,
        _relative(sum(part.squared_error for part in parts), joint.energy),
        _relative(joint.squared_error, joint.energy),
        group_shape(joint.specs, joint.stack)[1],
    )
