"""What a run reads: everything beside its plan that its figures depend on, and the name that follows from both. No torch.

The same plan on the same inputs is the same run. Files count by their bytes, wherever they lie and whenever they were written;
a data set of a hub counts by its address alone, as it is fetched once and then kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offcomp.calibration_text import BUNDLED, BUNDLED_FILE
from offcomp.environment import versions
from offcomp.errors import ModelError, RunError
from offcomp.files import path_of
from offcomp.models.catalogue import ModelInfo
from offcomp.models.identity import IDENTITY, file_digest
from offcomp.models.listing import identity_of
from offcomp.plan import Plan
from offcomp.task_files import all_files, place_of
from offcomp.tasks import Task

RESULTS_VERSION = 3
"""Raised whenever the same plan would give other figures, so that old results are not taken for new ones."""

WORDS = {
    "model": "the files of its model",
    "calibration": "its calibration text",
    "tasks": "the examples of its tasks",
    "environment": "the versions of the libraries",
}
"""Input -> what it is, for people."""


def inputs_of(plan: Plan, model: str) -> dict[str, Any]:
    """The inputs of a plan as JSON values.

    model    the identity of everything that is read of the model, `ModelInfo.reads`
    """
    return {
        "identity": IDENTITY,
        "results": RESULTS_VERSION,
        "model": model,
        "calibration": _calibration_digest(plan),
        "tasks": {task.name: [task.version, _task_digests(task)] for task in plan.asked_tasks},
        "environment": versions(),
    }


def run_id(plan: Plan, inputs: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that are the same for the same plan on the same inputs. Where the model lies does not count."""
    asked = {"plan": plan.to_dict() | {"model": ""}, "inputs": inputs}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]


def check_inputs(plan: Plan, info: ModelInfo, inputs: Mapping[str, Any]) -> None:
    """Raise RunError unless a loaded model and what lies on disk now are the inputs of a run."""
    try:
        identity = identity_of(info.model)
    except ModelError:  # gone, or half written
        identity = None
    now = inputs_of(plan, identity.reads if identity else "") if identity and identity.reads == info.reads else {}
    differing = [name for name in (now or {"model": ""}) if now.get(name) != inputs.get(name)]
    if differing:
        changed = " and ".join(WORDS.get(name, f"its {name}") for name in differing)
        raise RunError(f"{changed} changed after the run was submitted, so its figures belong to nothing; run the plan again")


def _calibration_digest(plan: Plan) -> str:
    if not plan.calibrated:
        return ""
    text = plan.calibration.text
    return _digest(BUNDLED_FILE if text == BUNDLED else path_of(text))


def _task_digests(task: Task) -> dict[str, str]:
    """File name -> sha256 of each file that a task's examples may come from."""
    place = place_of(task)
    return {} if place is None else {file.name: _digest(file) for file in sorted(all_files(place))}


def _digest(file: Path) -> str:
    """The sha256 of a file; empty where it cannot be read, which the run says in its own words."""
    try:
        return file_digest(file)
    except OSError:
        return ""
