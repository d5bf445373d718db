"""A plan: which modules of a model to compress together, with which method, and to what size.

Plans are plain JSON, both on disk and in the app's state. A plan can be validated and its sizes predicted without torch or
the model's weights. `validate` reports all faults at once, and `offcomp.planning.sizes` predicts the sizes.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from offcomp.errors import InputError, ModelError, PlanError
from offcomp.methods import default_options, make_method
from offcomp.methods.base import Method
from offcomp.models import hub
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.models.sentence_modules import sentence_modules
from offcomp.models.sources import may_have_tokenizer, resolve
from offcomp.numerics.accounting import DTYPE_CHOICES, STORED, UNITS
from offcomp.plain_text import quoted
from offcomp.planning import json_fields
from offcomp.planning.data.calibration_text import CALIBRATION_TYPES, CalibrationText
from offcomp.planning.data.task_check import task_fault
from offcomp.planning.data.task_fields import read_tasks, task_faults
from offcomp.planning.data.tasks import Task, find_task
from offcomp.planning.grouping import GROUPINGS, STACKS, best_stack, blocks_of_layers, group_shape
from offcomp.planning.json_fields import NAME_WORDS, is_name, read_fields

PLAN_SCHEMA = 1
RARE = {"rank": None, "energy": None, "multiple": 1}
"""Fields of a group -> their defaults, which are not written out, so that plans without them keep their ids."""


@dataclass(frozen=True)
class Group:
    """Modules compressed as one matrix. `ratio` is the requested ratio of original to stored size, measured in `unit`.

    Instead of a ratio, a group may request a `rank` (latent width, number of terms) or, for SVD, a share of the `energy`; its
    `ratio` is then the ratio at that rank (`offcomp.planning.ranks`). Ranks chosen from a ratio or from a share of the energy
    are rounded to a multiple of `multiple`. `dtype` is the dtype of the compressed weights; "stored" keeps the dtype of the
    checkpoint.
    """

    name: str
    modules: tuple[str, ...]
    stack: str = "rows"
    method: str = "svd"
    options: dict[str, Any] = field(default_factory=dict)
    ratio: float = 2.0
    unit: str = "parameters"
    dtype: str = STORED
    rank: int | None = None
    energy: float | None = None
    multiple: int = 1

    def at_ratio(self, ratio: float, unit: str | None = None) -> Group:
        """The group at a different ratio, which also replaces a requested rank or share of the energy."""
        return replace(self, ratio=ratio, unit=unit or self.unit, rank=None, energy=None)

    def to_dict(self) -> dict[str, Any]:
        """The group as JSON values, with every default written out except those of `RARE`."""
        document = asdict(self) | {"modules": list(self.modules)}
        rare = {name: document.pop(name) for name in RARE}
        return document | {name: value for name, value in rare.items() if value != RARE[name]}


@dataclass(frozen=True)
class Plan:
    """Groups of modules in one model, and the tasks on which the original and compressed models are compared.

    A plan without groups is the uncompressed baseline. A task is specified by its name in
    `offcomp.planning.data.tasks.TASKS`, or by a full description.
    """

    model: str
    groups: tuple[Group, ...] = ()
    tasks: tuple[str | Task, ...] = ("sentiment",)
    seed: int = 0
    calibration: CalibrationText = field(default_factory=CalibrationText)

    @property
    def calibrated_groups(self) -> list[Group]:
        """The groups whose methods need calibration text. Options must be valid."""
        return [group for group in self.groups if make_method(group.method, group.options).calibrated]

    @property
    def resolved_tasks(self) -> tuple[Task, ...]:
        """The tasks, with each name replaced by the full description. Raises TaskError for an unknown name."""
        return tuple(find_task(task) if isinstance(task, str) else task for task in self.tasks)

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON values, with every default written out except the default calibration text."""
        groups = [group.to_dict() for group in self.groups]
        calibration = {} if self.calibration == CalibrationText() else {"calibration": asdict(self.calibration)}
        return {
            "schema": PLAN_SCHEMA,
            "model": self.model,
            "seed": self.seed,
            "tasks": [task if isinstance(task, str) else task.to_dict() for task in self.tasks],
            "groups": [entry | {"options": _all_options(entry)} for entry in groups],
            **calibration,
        }

    def to_json(self) -> str:
        """The plan as a JSON document."""
        return json.dumps(self.to_dict(), indent=2)

    @staticmethod
    def from_dict(document: Any) -> Plan:
        """Read a plan. Raises PlanError with one sentence for each invalid field."""
        faults: list[str] = []
        if not isinstance(document, dict):
            raise PlanError([f"a plan must be a JSON object, not {type(document).__name__}."])
        schema = document.get("schema", PLAN_SCHEMA)
        if schema != PLAN_SCHEMA:
            faults.append(f"plan schema {quoted(schema)} is unknown; this version reads schema {PLAN_SCHEMA}.")
        values = read_fields(
            Plan, {k: v for k, v in document.items() if k != "schema"}, "plan", PLAN_TYPES, faults, parts=PLAN_PARTS
        )
        groups = []
        for index, entry in enumerate(values.get("groups", ())):
            if isinstance(entry, dict):
                groups.append(read_fields(Group, entry, f"group {quoted(entry.get('name', index))}", GROUP_TYPES, faults))
            else:
                faults.append(f"group {index} is {quoted(entry)}; it must be a JSON object.")
        tasks = read_tasks(values.get("tasks", Plan.tasks), faults)
        calibration = read_fields(CalibrationText, values.get("calibration", {}), "calibration", CALIBRATION_TYPES, faults)
        if faults:
            raise PlanError(faults)
        parts = {"groups": tuple(Group(**group) for group in groups), "calibration": CalibrationText(**calibration)}
        return Plan(**values | parts | {"tasks": tasks})

    @staticmethod
    def from_json(text: str) -> Plan:
        """Read a plan from a JSON document. Raises PlanError."""
        try:
            return Plan.from_dict(json.loads(text))
        except RecursionError:
            raise PlanError(["the plan nests lists or objects too deeply."]) from None
        except ValueError as error:
            raise PlanError([f"the plan is not valid JSON: {error}."]) from None


def _all_options(group: dict[str, Any]) -> dict[str, Any]:
    """A group's options merged with its method's defaults; numbers are cast so that equal plans produce the same JSON."""
    try:
        defaults = default_options(group["method"], group["options"].get("preset"))
    except InputError:
        return dict(group["options"])
    given = {
        key: float(value) if isinstance(defaults.get(key), float) and json_fields.is_number(value) else value
        for key, value in group["options"].items()
    }
    return defaults | given


PLAN_TYPES = {
    "model": (json_fields.is_text, "a model name, folder or hub id"),
    "groups": (json_fields.is_list, "a list of groups"),
    "tasks": (json_fields.is_list, "a list of task names or descriptions"),
    "seed": (json_fields.whole(0, 2**31 - 1), "a whole number from 0 to 2147483647"),
    "calibration": (json_fields.is_object, "a JSON object"),
}
PLAN_PARTS = ("groups", "tasks", "calibration")
GROUP_TYPES = {
    "name": (is_name, NAME_WORDS),
    "modules": (lambda value: json_fields.is_text_list(value) and len(value) > 0, "a list of one or more module names"),
    "stack": json_fields.one_of(STACKS),
    "method": (json_fields.is_text, "the name of a method"),
    "options": (json_fields.is_object, "a JSON object"),
    "ratio": (json_fields.is_number, "a number, 1 or greater"),
    "unit": json_fields.one_of(UNITS),
    "dtype": json_fields.one_of(DTYPE_CHOICES),
    "rank": (json_fields.whole(1), "a whole number, 1 or greater"),
    "energy": (lambda value: json_fields.is_number(value) and 0 < value <= 1, "a share of the energy, above 0 and at most 1"),
    "multiple": (json_fields.whole(1), "a whole number, 1 or greater"),
}


def validate(plan: Plan, info: ModelInfo) -> None:
    """Check a plan against its model. Raises PlanError listing every fault; infeasible budgets are reported by `predict`."""
    known = {spec.name for spec in info.modules}
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
    """Faults that prevent calibration of the groups that need it; the groups themselves must be valid."""
    groups = plan.calibrated_groups
    if not groups:
        return []
    faults = [plan.calibration.fault()]
    if not may_have_tokenizer(info):
        faults.append(
            f"group {groups[0].name!r} needs calibration text, but {info.model} has no tokenizer; "
            "add tokenizer.json to the model's folder, or choose a method that needs only the weights."
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
    if not is_name(group.name):
        faults.append(f"{where}: the name must be {NAME_WORDS}.")
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
            unknown = "" if info.family else " (its family is unknown, so its modules are named by their paths)"
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
    """Faults in the requested rank, share of the energy and multiple, as far as the shape does not matter."""
    if not method.has_rank and (group.rank or group.energy or group.multiple != 1):
        yield f"{method.title} has no rank; request a ratio, without a multiple"
    elif group.energy is not None and method.name != "svd":
        yield f"a share of the energy applies to SVD, not to {method.title}; request a rank or a ratio"
    if group.rank is not None and group.rank % group.multiple and group.energy is None:
        yield f"rank {group.rank} is not a multiple of {group.multiple}; request one that is, or omit the multiple"


def members(group: Group, info: ModelInfo) -> list[ModuleSpec]:
    """The modules of a group, in order. Raises ModelError for an unknown module."""
    return [info.module(name) for name in group.modules]


def make_groups(
    specs: Sequence[ModuleSpec],
    grouping: str,
    *,
    stack: str = "best",
    block: int = 2,
    method: str = "svd",
    options: dict[str, Any] | None = None,
    ratio: float = 2.0,
    unit: str = "parameters",
    dtype: str = STORED,
    rank: int | None = None,
    energy: float | None = None,
    multiple: int = 1,
) -> tuple[Group, ...]:
    """Group `specs` according to a preset in `GROUPINGS`, all with the same method and ratio. Raises InputError."""
    if grouping not in GROUPINGS:
        raise InputError(f"unknown grouping {grouping!r}; choose one of {', '.join(GROUPINGS)}")
    gathered = blocks_of_layers(specs, block) if grouping == "blocks" else GROUPINGS[grouping][1](specs)
    groups = []
    for name, part in gathered:
        chosen = best_stack(part) if stack == "best" else stack
        modules = tuple(spec.name for spec in part)
        size = (ratio, unit, dtype, rank, energy, multiple)
        groups.append(Group(_safe(name), modules, chosen, method, dict(options or {}), *size))
    return tuple(groups)


def name_groups(parts: Sequence[Sequence[ModuleSpec]]) -> list[str]:
    """A name for each group: the module's name for a single module, otherwise the kinds and a number, as in query+key-2."""
    names = []
    for number, specs in enumerate(parts, 1):
        kinds = "+".join(dict.fromkeys(spec.kind for spec in specs))
        names.append(_safe(specs[0].name if len(specs) == 1 else f"{kinds[:90]}-{number}"))
    return names


def _safe(name: str) -> str:
    """Replace characters that are not allowed in a group's name."""
    return re.sub(r"[^A-Za-z0-9._+-]", "-", name)
