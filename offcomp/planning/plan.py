"""A plan: which modules of a model to compress together, with which method, and to what size.

Plans are plain JSON, both on disk and in the app's state. A plan can be validated and its sizes predicted without torch or
the model's weights. `validate` reports all faults at once, and `offcomp.planning.sizes` predicts the sizes.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, Tag, field_serializer

from offcomp.errors import InputError, ModelError, PlanError
from offcomp.methods import default_options, make_method, stated_options
from offcomp.methods.base import Method
from offcomp.models import hub
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.models.sentence_modules import sentence_modules
from offcomp.models.sources import may_have_tokenizer, resolve
from offcomp.numerics.accounting import DTYPE_CHOICES, STORED, UNITS
from offcomp.plain_text import quoted
from offcomp.planning.data.calibration_text import CalibrationText
from offcomp.planning.data.task_check import task_fault
from offcomp.planning.data.task_fields import task_faults
from offcomp.planning.data.tasks import Task, find_task
from offcomp.planning.document import Line, MustBe
from offcomp.planning.grouping import GROUPINGS, STACKS, best_stack, blocks_of_layers, group_shape, safe_name
from offcomp.planning.json_fields import (
    DESCRIBED,
    NAMED,
    JsonModel,
    Name,
    Object,
    Text,
    Texts,
    is_number,
    one_of,
    parts_of,
    whole,
)

PLAN_SCHEMA: Final = 1
DEFAULT_TASKS = ("sentiment",)
NOTHING = "nothing"
CORRECTIONS = {
    NOTHING: "Keep all biases and normalisations of the original.",
    "shift": "Only the bias of the last normalisation, to undo the mean shift of the outputs.",
    "biases": "The biases of compressed modules and of normalisations.",
    "norms": "The same biases, and the gains of normalisations.",
}
"""What to correct after compression, so that outputs match those of the original on calibration text -> a description."""


def _is_unset(value: Any) -> bool:
    return value is None


class Group(JsonModel):
    """Modules compressed as one matrix.

    Instead of a ratio, a group may request a `rank` (latent width, number of terms) or, for SVD, a share of the `energy`; its
    `ratio` is then the ratio at that rank (`offcomp.planning.ranks`).
    """

    noun = "group"

    name: Name
    """Name of the group, unique within its plan."""
    modules: Annotated[Texts, Field(min_length=1), MustBe("a list of one or more module names")]
    """Names of the modules, in stacking order."""
    stack: Annotated[str, one_of(STACKS)] = "rows"
    """How the matrices are stacked into one; see `offcomp.planning.grouping`."""
    method: Annotated[Text, MustBe("the name of a method")] = "svd"
    """Name of the method."""
    options: Object = Field(default_factory=dict)
    """Options of the method that differ from its defaults."""
    ratio: Annotated[float, MustBe("a number, 1 or greater")] = Field(default=2.0, json_schema_extra={"minimum": 1})
    """Requested ratio of original to stored size, measured in `unit`."""
    unit: Annotated[str, one_of(UNITS)] = "parameters"
    """Unit of the sizes that `ratio` compares."""
    dtype: Annotated[str, one_of(DTYPE_CHOICES)] = STORED
    """Dtype of the compressed weights; "stored" keeps the dtype of the checkpoint."""
    rank: Annotated[int, whole(1)] | None = Field(default=None, exclude_if=_is_unset)
    """Requested rank, latent width or number of terms."""
    energy: Annotated[float, Field(gt=0, le=1), MustBe("a share of the energy, above 0 and at most 1")] | None = Field(
        default=None, exclude_if=_is_unset
    )
    """Requested share of the sum of squared singular values."""
    multiple: Annotated[int, whole(1)] = Field(default=1, exclude_if=lambda multiple: multiple == 1)
    """Ranks chosen from a ratio or from a share of the energy are rounded to a multiple of this number."""

    def at_ratio(self, ratio: float, unit: str | None = None) -> Group:
        """The group at a different ratio, which also replaces a requested rank or share of the energy."""
        return self.replace(ratio=ratio, unit=unit or self.unit, rank=None, energy=None)

    @field_serializer("options")
    def _all_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """The options as returned by `stated_options`, with numbers cast so that equal plans produce the same JSON."""
        try:
            defaults, stated = default_options(self.method, options.get("preset")), stated_options(self.method, options)
        except InputError:
            return options
        return {
            key: float(value) if isinstance(defaults.get(key), float) and is_number(value) else value
            for key, value in stated.items()
        }


_DEFAULT_CALIBRATION = CalibrationText()
TaskOrName = Annotated[
    Annotated[Task, Tag(DESCRIBED)]
    | Annotated[Line, Field(min_length=1), MustBe("the name of a task or a JSON object"), Tag(NAMED)],
    Discriminator(lambda value: DESCRIBED if isinstance(value, (dict, Task)) else NAMED),
]


class Plan(JsonModel):
    """Groups of modules in one model, and the tasks on which the original and compressed models are compared.

    A plan without groups is the uncompressed baseline.
    """

    noun = "plan"
    parts = {"tasks": Task, "groups": Group, "calibration": CalibrationText}  # noqa: RUF012

    document_schema: Annotated[Literal[1], MustBe("1")] = Field(default=PLAN_SCHEMA, alias="schema")
    """Version of this format."""
    model: Annotated[Text, MustBe("a model name, folder or hub id")]
    """Catalogue name, folder or hub id of the model."""
    seed: Annotated[int, whole(0, 2**31 - 1)] = 0
    """Seed of all random numbers."""
    tasks: Annotated[tuple[TaskOrName, ...], parts_of("a list of task names or descriptions")] = DEFAULT_TASKS
    """Each task is a name in `offcomp.planning.data.tasks.TASKS`, or a full description."""
    groups: Annotated[tuple[Group, ...], parts_of("a list of groups")] = ()
    """The groups, which have no module in common."""
    calibration: CalibrationText = Field(
        default=_DEFAULT_CALIBRATION, exclude_if=lambda calibration: calibration == _DEFAULT_CALIBRATION
    )
    """The text on which activations and gradients are measured, for methods and corrections that need them."""
    correct: Annotated[str, one_of(CORRECTIONS)] = Field(default=NOTHING, exclude_if=lambda correct: correct == NOTHING)
    """Which biases and normalisations to correct in closed form, once all groups are compressed."""

    @property
    def calibrated_groups(self) -> list[Group]:
        """The groups whose methods need calibration text. Options must be valid."""
        return [group for group in self.groups if make_method(group.method, group.options).calibrated]

    def compression_order(self, info: ModelInfo) -> list[int]:
        """Indices of groups in order of compression: the plan's or, if a method needs it (`Method.follows`), the model's."""
        if not any(make_method(group.method, group.options).follows for group in self.groups):
            return list(range(len(self.groups)))
        position = {spec.name: number for number, spec in enumerate(info.modules)}
        first = [min(position[name] for name in group.modules) for group in self.groups]
        return sorted(range(len(first)), key=first.__getitem__)

    @property
    def corrects(self) -> bool:
        """Whether biases or normalisations are corrected; without groups, there is nothing to correct."""
        return bool(self.groups) and self.correct != NOTHING

    @property
    def needs_text(self) -> bool:
        """Whether calibration text is needed, by a method or for corrections. Options must be valid."""
        return self.corrects or bool(self.calibrated_groups)

    @property
    def resolved_tasks(self) -> tuple[Task, ...]:
        """The tasks, with each name replaced by the full description. Raises TaskError for an unknown name."""
        return tuple(find_task(task) if isinstance(task, str) else task for task in self.tasks)

    def to_json(self) -> str:
        """The plan as a JSON document."""
        return json.dumps(self.to_dict(), indent=2)

    @staticmethod
    def from_dict(document: Any) -> Plan:
        """Read a plan. Raises PlanError with one sentence for each invalid field."""
        if not isinstance(document, dict):
            raise PlanError([f"a plan must be a JSON object, not {type(document).__name__}."])
        return Plan(**document)

    @staticmethod
    def from_json(text: str) -> Plan:
        """Read a plan from a JSON document. Raises PlanError."""
        try:
            return Plan.from_dict(json.loads(text))
        except RecursionError:
            raise PlanError(["the plan nests lists or objects too deeply."]) from None
        except ValueError as error:
            raise PlanError([f"the plan is not valid JSON: {error}."]) from None


def validate(plan: Plan, info: ModelInfo) -> None:
    """Check a plan against its model. Raises PlanError listing every fault; infeasible budgets are reported by `predict`."""
    known = set(info.by_name)
    faults = task_faults(plan.tasks, info.architecture, info.reads_text)
    faults += [] if faults else filter(None, [task_fault(task, info) for task in plan.resolved_tasks])
    owner: dict[str, str] = {}
    names: set[str] = set()
    for group in plan.groups:
        faults += _group_faults(group, info, known, owner, names)
    faults += [] if faults else [*_calibration_faults(plan, info), *_embedding_faults(plan, info)]
    if faults:
        raise PlanError(faults)


def _calibration_faults(plan: Plan, info: ModelInfo) -> list[str]:
    """Faults that prevent corrections, or the calibration of groups that need it; the groups themselves must be valid."""
    if not plan.needs_text:
        return []
    faults = [plan.calibration.fault()]
    if not may_have_tokenizer(info):
        groups = plan.calibrated_groups
        needing = f"group {groups[0].name!r} needs" if groups else f"correcting {plan.correct!r} needs"
        remedy = "choose a method that needs only the weights" if groups else f"correct {NOTHING!r}"
        faults.append(
            f"{needing} calibration text, but {info.model} has no tokenizer; "
            f"add tokenizer.json to the model's folder, or {remedy}."
        )
    return [fault for fault in faults if fault is not None]


def _embedding_faults(plan: Plan, info: ModelInfo) -> list[str]:
    """Faults that prevent tasks from embedding sentences as specified in the model's folder."""
    embedding = [task.name for task in plan.resolved_tasks if task.kind.embeds]
    try:
        folder = (resolve(info.model).folder or hub.cached_folder(info.model)) if embedding else None
        if folder is not None:
            sentence_modules(folder)
    except ModelError as error:
        return [f"task {embedding[0]!r} embeds sentences, but {error}"]
    return []


def _group_faults(group: Group, info: ModelInfo, known: set[str], owner: dict[str, str], names: set[str]) -> list[str]:
    """Faults in one group; updates `names` and `owner`, which track the group names and modules already in use."""
    where = f"group {quoted(group.name)}"
    faults = []
    if group.name in names:
        faults.append(f"{where} appears twice; every group needs a unique name.")
    names.add(group.name)
    if group.ratio < 1:
        faults.append(f"{where} has ratio {group.ratio:g}; the ratio (original / stored) must be 1 or more.")
    try:
        method = make_method(group.method, group.options)
        faults += [f"{where}: {fault}." for fault in _rank_faults(group, method)]
    except InputError as error:
        faults.append(f"{where}: {error}.")
    for module in group.modules:
        if module not in known:
            close = difflib.get_close_matches(module, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"see 'offcomp modules {info.model}'."
            unknown = "" if info.has_kinds else " (its family is unknown, so its modules are named by their paths)"
            faults.append(f"{where} contains {module!r}, which {info.model} does not have{unknown}; {hint}")
        elif module in owner:
            faults.append(f"{where} contains {module!r}, which is already in group {owner[module]!r}.")
        owner.setdefault(module, group.name)
    if all(module in known for module in group.modules):
        try:
            group_shape(members(group, info), group.stack)
        except InputError as error:
            faults.append(f"{where}: {error}.")
    return faults


def _rank_faults(group: Group, method: Method) -> Iterator[str]:
    """Faults in a group's rank, share of the energy and multiple that can be found without knowing its shape."""
    if not method.has_rank and (group.rank or group.energy or group.multiple != 1):
        yield f"{method.title} has no rank; request a ratio, without a multiple"
    elif group.energy is not None and method.name != "svd":
        yield f"a share of the energy applies to SVD, not to {method.title}; request a rank or a ratio"
    if group.rank is not None and group.rank % group.multiple and group.energy is None:
        yield f"rank {group.rank} is not a multiple of {group.multiple}; request one that is, or omit the multiple"


def members(group: Group, info: ModelInfo) -> list[ModuleSpec]:
    """The modules of a group, in order. Raises ModelError for an unknown module."""
    by_name = info.by_name
    return [by_name.get(name) or info.module(name) for name in group.modules]


def make_groups(
    specs: Sequence[ModuleSpec], grouping: str, *, stack: str = "best", block: int = 2, **settings: Any
) -> tuple[Group, ...]:
    """Group `specs` according to a preset in `GROUPINGS`, with the same `settings` (fields of `Group`). Raises InputError."""
    if grouping not in GROUPINGS:
        raise InputError(f"unknown grouping {grouping!r}; choose one of {', '.join(GROUPINGS)}")
    gathered = blocks_of_layers(specs, block) if grouping == "blocks" else GROUPINGS[grouping][1](specs)
    return tuple(
        Group(
            name=safe_name(name),
            modules=tuple(spec.name for spec in part),
            stack=best_stack(part) if stack == "best" else stack,
            **settings,
        )
        for name, part in gathered
    )
