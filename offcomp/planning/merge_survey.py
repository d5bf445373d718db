"""Surveys of the gain from compressing modules together, for every pair of modules and for a full sequence of merges. No torch.

`offcomp suggest MODEL --survey` computes a survey with `merge_search.survey` and saves it in the home folder. Surveys of
MiniLM-L6, one for each kind of module, are bundled. All errors are exact SVD errors, and joint and separate compression are
compared at the same number of stored parameters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import combinations, product
from pathlib import Path
from typing import Any

from offcomp.errors import InputError
from offcomp.files import assets_folder, read_json, write_json
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.models.families import KINDS
from offcomp.planning.grouping import STACKS, group_shape

BUNDLED = assets_folder() / "groups"
SCHEMA = 1
BEST = "best"
DIGITS = 6
SHARED = {
    "rows": "the modules share one basis for their {cols}-dimensional input space",
    "columns": "the modules share one basis for their {cols}-dimensional output space",
    "residual": "the modules share one basis for the {cols}-dimensional residual stream",
}
SECONDS_TO_LOAD = 5.0
SECONDS_A_CUBE = 6e-10  # times the cubed side of each Gram matrix; covers both pairs and merges


@dataclass(frozen=True)
class Suggestion:
    """One SVD of stacked modules versus separate SVDs at the same stored size; the joint SVD is better if gain > 0.

    stored_parameters   number of parameters stored by the separate modules; the joint matrix stores no more
    gain                separate_error - joint_error, both relative to the norm of all members
    """

    modules: tuple[str, ...]
    stack: str
    ratio: float
    stored_parameters: int
    separate_error: float
    joint_error: float
    cols: int

    @property
    def gain(self) -> float:
        """Reduction in the relative error."""
        return self.separate_error - self.joint_error

    @property
    def reason(self) -> str:
        """One human-readable sentence."""
        verb = "falls" if self.gain > 0 else "rises"
        return (
            f"Stacked by {self.stack}, {SHARED[self.stack].format(cols=self.cols)}: the relative error {verb} from "
            f"{self.separate_error:.3f} to {self.joint_error:.3f} with the same {self.stored_parameters:,} parameters."
        )

    def to_dict(self, compact: bool = False) -> dict[str, Any]:
        """Convert to JSON values; `compact` omits the derived gain and reason and rounds the errors."""
        document = asdict(self) | {"modules": list(self.modules)}
        if compact:
            return document | {name: round(document[name], DIGITS) for name in ("separate_error", "joint_error")}
        return document | {"gain": self.gain, "reason": self.reason}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Suggestion:
        """The inverse of `to_dict`, whether compact or not. Raises KeyError or TypeError."""
        fields = {name: document[name] for name in cls.__dataclass_fields__}
        return cls(**fields | {"modules": tuple(document["modules"])})


@dataclass(frozen=True)
class Merge:
    """One step of agglomerative merging.

    parts   the two merged nodes; the modules of the survey are numbered 0, 1, ..., and the merges continue the numbering
    gain    reduction of the relative error over the merged weights in this step; negative if the error rises
    joint   the merged group compared with its modules compressed individually
    error   relative error over all modules of the survey after this step
    """

    parts: tuple[int, int]
    gain: float
    joint: Suggestion
    error: float

    def to_dict(self, compact: bool = False) -> dict[str, Any]:
        """As JSON values."""
        gain, error = (round(value, DIGITS) if compact else value for value in (self.gain, self.error))
        return {"parts": list(self.parts), "gain": gain, "error": error, "joint": self.joint.to_dict(compact)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Merge:
        """The inverse of `to_dict`. Raises KeyError, TypeError or ValueError."""
        first, second = document["parts"]
        return cls((first, second), document["gain"], Suggestion.from_dict(document["joint"]), document["error"])


@dataclass(frozen=True)
class Survey:
    """All results for compressing a set of modules together at one compression ratio.

    pairs       every pair of modules, in every valid stacking
    together    all modules as one matrix, in every valid stacking
    merges      stacking, or "best" for the best one at each step -> all merges, including those that raise the error
    error       relative error over all modules, each compressed individually
    """

    model: str
    fingerprint: str
    ratio: float
    modules: tuple[str, ...]
    error: float
    pairs: tuple[Suggestion, ...]
    together: tuple[Suggestion, ...]
    merges: dict[str, tuple[Merge, ...]]
    environment: dict[str, Any] = field(default_factory=dict)
    measured: str = ""

    def to_dict(self, compact: bool = False) -> dict[str, Any]:
        """As JSON values."""
        converted = {
            "modules": list(self.modules),
            "pairs": [pair.to_dict(compact) for pair in self.pairs],
            "together": [suggestion.to_dict(compact) for suggestion in self.together],
            "merges": {stack: [step.to_dict(compact) for step in steps] for stack, steps in self.merges.items()},
        }
        return {"schema": SCHEMA} | vars(self) | converted

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Survey:
        """The inverse of `to_dict`. Raises InputError."""
        try:
            if document["schema"] != SCHEMA:
                raise InputError(f"the survey has schema {document['schema']!r}, but this version reads only schema {SCHEMA}")
            converted = {
                "modules": tuple(document["modules"]),
                "pairs": tuple(map(Suggestion.from_dict, document["pairs"])),
                "together": tuple(map(Suggestion.from_dict, document["together"])),
                "merges": {stack: tuple(map(Merge.from_dict, steps)) for stack, steps in document["merges"].items()},
            }
            return cls(**{name: document[name] for name in cls.__dataclass_fields__} | converted)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"the survey has a missing or unknown field: {error}") from None


def sorted_modules(specs: Iterable[ModuleSpec]) -> list[ModuleSpec]:
    """Sort modules in survey order: by part, kind and layer."""
    kinds = {kind: index for index, kind in enumerate(KINDS)}
    return sorted(specs, key=lambda spec: (spec.part, kinds.get(spec.kind, len(kinds)), spec.layer or 0))


def groups_after(merges: Sequence[Merge], kept: int, modules: int) -> list[Suggestion]:
    """The groups of two or more modules that exist after the first `kept` merges, largest gain first."""
    absorbed = {part - modules for step in merges[:kept] for part in step.parts}
    groups = [step.joint for index, step in enumerate(merges[:kept]) if index not in absorbed]
    return sorted(groups, key=lambda group: -group.gain)


def best_cut(survey: Survey, stack: str) -> int:
    """The number of merges that minimises the relative error over all modules."""
    errors = [survey.error, *(step.error for step in survey.merges.get(stack, ()))]
    return min(range(len(errors)), key=errors.__getitem__)


def estimated_seconds(specs: Sequence[ModuleSpec]) -> float:
    """Approximate time in seconds to survey these modules on one core."""
    cubes = 0
    for pair, stack in product(combinations(specs, 2), STACKS):
        with suppress(InputError):  # these modules cannot be stacked this way
            cubes += min(group_shape(pair, stack)) ** 3
    return SECONDS_TO_LOAD + SECONDS_A_CUBE * cubes


def find_survey(info: ModelInfo, specs: Iterable[ModuleSpec], ratio: float, home: Path) -> tuple[Survey, str] | None:
    """Return the survey of these modules at this ratio and its source ("bundled" or "yours"), or None if no survey exists."""
    wanted = tuple(spec.name for spec in sorted_modules(specs))
    for file in sorted(BUNDLED.glob("*.json")):
        for survey in _bundled(file):
            if (survey.fingerprint, survey.ratio, survey.modules) == (info.fingerprint, ratio, wanted):
                return survey, "bundled"
    try:
        return Survey.from_dict(read_json(_path(home, info.fingerprint, wanted, ratio))), "yours"
    except InputError:
        return None


def save_survey(survey: Survey, home: Path) -> None:
    """Save a survey where `find_survey` can find it. Raises StorageError."""
    write_json(_path(home, survey.fingerprint, survey.modules, survey.ratio), survey.to_dict(compact=True))


@lru_cache(maxsize=4)
def _bundled(path: Path) -> tuple[Survey, ...]:
    """The surveys in a bundled file; empty if the file is missing or unreadable."""
    try:
        return tuple(Survey.from_dict(each) for each in read_json(path) or ())
    except InputError:
        return ()


def _path(home: Path, fingerprint: str, modules: Sequence[str], ratio: float) -> Path:
    name = hashlib.sha256("\n".join((*modules, f"{ratio:g}")).encode()).hexdigest()[:20]
    return home / "groups" / fingerprint / f"{name}.json"
