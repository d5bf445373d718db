"""The inputs of a run: everything, apart from the plan, that affects its results. Does not import torch.

The run id is derived from the plan and its inputs, so running the same plan on the same inputs again yields the same id. Files
are identified by their contents, regardless of path and modification time. A hub data set is identified by its address and its
revision in the `datasets` cache, which the worker reads.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from pathlib import Path

from huggingface_hub.constants import HF_HOME

from offcomp.errors import ModelError, RunError
from offcomp.files import check_shortage, path_of, read_json
from offcomp.methods import packages_of
from offcomp.models.catalogue import ModelInfo
from offcomp.models.environment import versions
from offcomp.models.identity import IDENTITY, file_digest
from offcomp.models.listing import identity_of
from offcomp.planning.data.calibration_text import BUNDLED, BUNDLED_FILE, CalibrationText
from offcomp.planning.data.harness_files import harness_files
from offcomp.planning.data.task_files import all_files, location_of
from offcomp.planning.data.tasks import HUB, Task
from offcomp.planning.plan import Plan
from offcomp.runs.result import Inputs

RESULTS_VERSION = 4
"""Increment this whenever the same plan would produce different results, so that outdated results are not reused."""

TITLES = {
    "model": "the model files",
    "calibration": "the calibration text",
    "tasks": "the task examples",
    "environment": "the library versions",
    "plugins": "the packages of the plan's methods",
}
"""Input -> its description in messages."""


def inputs_of(plan: Plan, model: str) -> Inputs:
    """Return the inputs of a plan.

    model    the identity of all files that are read from the model (`ModelInfo.reads`)
    """
    packages = packages_of(group.method for group in plan.groups)
    return Inputs(
        identity=IDENTITY,
        results=RESULTS_VERSION,
        model=model,
        calibration=calibration_digest(plan),
        tasks={task.name: [task.version, task_digests(task)] for task in plan.resolved_tasks},
        environment=versions(),
        **({"plugins": packages} if packages else {}),
    )


def run_id(plan: Plan, inputs: Inputs) -> str:
    """The id of a run: twelve hexadecimal digits that depend on the plan and its inputs, but not on the model's location."""
    key = {"plan": plan.to_dict() | {"model": ""}, "inputs": inputs.to_dict()}
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]


def check_inputs(plan: Plan, info: ModelInfo, inputs: Inputs) -> None:
    """Raise RunError unless the loaded model and the files currently on disk match the inputs of a run."""
    try:
        identity = identity_of(info.model)
    except ModelError:  # missing or partially written
        identity = None
    if identity and identity.reads == info.reads:
        current = inputs_of(plan, info.reads)
        changed_names = [name for name in Inputs.model_fields if getattr(current, name) != getattr(inputs, name)]
    else:
        changed_names = ["model"]
    if changed_names:
        changed = " and ".join(TITLES.get(name, f"the {name}") for name in changed_names)
        raise RunError(f"{changed} changed after the run was submitted, so the results are not valid; run the plan again")


def calibration_digest(plan: Plan) -> str:
    """SHA-256 of a plan's current calibration text; empty if no text is needed or the text cannot be read."""
    return text_digest(plan.calibration) if plan.needs_text else ""


def text_digest(calibration: CalibrationText) -> str:
    """SHA-256 of the file with a calibration text; empty if it cannot be read."""
    return _digest(BUNDLED_FILE if calibration.text == BUNDLED else path_of(calibration.text))


def task_digests(task: Task) -> dict[str, str]:
    """SHA-256 of each file that may contain a task's examples, keyed by name; for a hub data set, see `_cached_revision`.

    For a task of another library: the version of the library, the files that define the task, and its local data files or the
    revision of its hub data set.
    """
    if task.kind.harness:
        found = harness_files(task)
        revisions = _cached_revision(found.hub) if found.hub else {}
        return {task.kind.harness: found.version} | {name: _digest(file) for name, file in found.files.items()} | revisions
    if task.data.startswith(HUB):
        return _cached_revision(task.data.removeprefix(HUB))
    path = location_of(task)
    return {} if path is None else {file.name: _digest(file) for file in sorted(all_files(path))}


def _cached_revision(address: str) -> dict[str, str]:
    """Revision of the newest copy of OWNER/NAME[/CONFIG] in the `datasets` cache, keyed by CONFIG/VERSION; empty if not found.

    This is the copy that `datasets` uses offline. The cache layout is OWNER___NAME/CONFIG/VERSION/REVISION.
    """
    owner, _, rest = address.partition("/")
    name, _, config = rest.partition("/")
    if not owner or not name:
        return {}
    snake = re.sub(r"([a-z\d])([A-Z])", r"\1_\2", re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)).lower()
    home = os.getenv("HF_DATASETS_CACHE") or Path(HF_HOME) / "datasets"
    folders = (Path(home).expanduser() / f"{owner}___{snake}").glob(f"{glob.escape(config) or '*'}/*/*")
    copies = [copy for copy in folders if (read_json(copy / "dataset_info.json") or {}).get("config_name") == copy.parts[-3]]
    newest = max(copies, key=lambda copy: copy.stat().st_mtime_ns, default=None)
    return {} if newest is None else {"/".join(newest.parts[-3:-1]): newest.name}


def _digest(file: Path) -> str:
    """SHA-256 of a file; empty if the file cannot be read, since the run itself will report that error."""
    try:
        return file_digest(file)
    except OSError as error:
        check_shortage(file.parent, error)
        return ""
