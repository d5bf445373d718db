"""Sensitivities: how much the outputs of the whole model change when one group alone is compressed.

    loss ≈ Σ_g s_g ‖W_g - Ŵ_g‖² / ‖W_g‖²            s_g = loss with group g alone compressed / its squared relative error

The loss needs no labels and is measured on a few texts: the KL divergence of the predicted distributions, or 1 - the cosine
similarity of sentence embeddings. Both have their minimum, 0, at the original weights, so they are quadratic in a small error,
and the losses of several groups add up if their errors act independently. Each group is compressed by its own method at a few
ratios. For larger errors, s_g depends on the stored size, so it is interpolated between these ratios. `benchmarks.sensitivity`
tests these approximations. HAWQ (Dong et al. 2019, arXiv 1905.03696) expands a supervised loss with its Hessian.

They are cached in the home folder, one file per group, by a hash (`_paths`). Torch is imported only to measure them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from offcomp.devices import computing_device
from offcomp.errors import BudgetTooSmall, InputError, TaskError
from offcomp.files import read_json, write_json
from offcomp.methods import make_method, packages_of
from offcomp.models.catalogue import ModelInfo
from offcomp.models.listing import model_info
from offcomp.numerics.accounting import Size
from offcomp.planning.data.metrics import METRICS
from offcomp.planning.data.tasks import FAMILIES, fitting_families
from offcomp.planning.document import Amount, Document, Items, Positive
from offcomp.planning.error_curves import BEYOND, ErrorCurve, error_curve, interpolated_curve, with_floor
from offcomp.planning.grouping import group_shape
from offcomp.planning.json_checks import Malformed
from offcomp.planning.plan import Group, Plan, members
from offcomp.planning.sizes import dtype_of, original_size, predict_group
from offcomp.planning.spectrum import spectrum_key
from offcomp.runs.inputs import text_digest

if TYPE_CHECKING:
    from offcomp.evaluation import OpenTask
    from offcomp.models.loading import LoadedModel
    from offcomp.runs.calibration import Calibration

VERSION = 1
"""Increment this whenever the same group would get a different sensitivity."""
TINY = float(np.finfo(float).tiny)
RATIOS = (2.5, 6.0, 15.0)
"""Each group is compressed at these ratios; those that its method cannot reach are left out."""
PREFERRED = ("head-fidelity", "causal-fidelity", "masked-fidelity", "embedding-fidelity")
"""The loss is measured by the first of these task families that suits the model."""
NUM_TEXTS, MAX_TEXT_LENGTH, POSITIONS = 32, 400, 512
"""Maximum numbers of texts, of characters per text, and of token predictions compared in total."""


class Probe(Document):
    """One group compressed alone."""

    num_parameters: Positive
    """Stored parameters."""
    num_bytes: Positive
    """Stored bytes."""
    relative_error: Annotated[Amount, Field(gt=0)]
    """‖W-Ŵ‖ / ‖W‖."""
    loss: Amount
    """Difference from perfect fidelity, over all texts."""

    @property
    def stored(self) -> Size:
        """The stored size."""
        return Size(self.num_parameters, self.num_bytes)

    @property
    def sensitivity(self) -> float:
        """Loss per unit of squared relative error."""
        return float(self.loss / self.relative_error**2)


class Sensitivity(Document):
    """The measured sensitivity of one group."""

    family: str
    """Family of fidelity tasks."""
    num_texts: Positive
    """Number of texts."""
    squared_norm: Amount
    """‖W‖²."""
    probes: Annotated[Items[Probe], Field(min_length=1)]
    """The group at the ratios that its method can reach, from the largest size to the smallest."""

    def at(self, sizes: NDArray[np.float64], unit: str) -> NDArray[np.float64]:
        """Loss per unit of squared relative error at each stored size.

        Interpolated between the probes, linearly in the logarithms of size and sensitivity, and constant beyond them.
        """
        probes = self.probes[::-1]
        known = np.log([probe.stored.in_unit(unit) for probe in probes])
        values = np.log([max(probe.sensitivity, TINY) for probe in probes])
        return np.exp(np.interp(np.log(sizes), known, values))

    def curve(self, group: Group, info: ModelInfo, unit: str) -> ErrorCurve:
        """The error curve of the group's method, interpolated between the probes."""
        specs = members(group, info)
        return interpolated_curve(
            group.name,
            make_method(group.method, group.options),
            group_shape(specs, group.stack),
            [(probe.stored.in_unit(unit), probe.relative_error**2 * self.squared_norm) for probe in self.probes],
            unit=unit,
            dtype=dtype_of(group, info),
            energy=self.squared_norm,
            original=original_size(specs).in_unit(unit),
        )


SECONDS_TO_LOAD, SECONDS_PER_PARAMETER = 5.0, 6e-8
"""Time to load the model, and time per parameter for one pass over the texts."""
Sensitivities = Mapping[str, Sensitivity]
"""Group name -> its sensitivity."""


def loss_curves(found: Sensitivities, curves: Sequence[ErrorCurve], unit: str) -> list[ErrorCurve]:
    """Turn error curves into curves of the predicted loss of the whole model: the error at each size times the sensitivity.

    The curves begin at half the smallest size that was measured. Raises InputError if no group has any effect on the loss.
    """
    if not any(probe.loss for curve in curves for probe in found[curve.name].probes):
        raise InputError("compressing any of these groups alone leaves the model's outputs unchanged; choose other groups")
    return [_loss_curve(found[curve.name], curve, unit) for curve in curves]


def _loss_curve(sensitivity: Sensitivity, curve: ErrorCurve, unit: str) -> ErrorCurve:
    smallest = sensitivity.probes[-1].stored.in_unit(unit) / BEYOND
    curve = with_floor(curve, min(1.0, smallest / curve.original))
    losses = sensitivity.at(curve.sizes.astype(float), unit) * curve.errors / (sensitivity.squared_norm or 1.0)
    dense = float(curve.sizes[-1]) if curve.is_dense else inf
    kept = len(losses) - curve.is_dense
    energy = float(sensitivity.at(np.array([smallest]), unit)[0])  # the loss at a relative error of 1
    sizes = curve.sizes[:kept].tolist()
    return error_curve(curve.name, sizes, losses[:kept].tolist(), energy=energy, original=curve.original, dense=dense)


def basis(found: Sensitivities) -> str:
    """How the sensitivities were measured, as the end of a sentence."""
    first = next(iter(found.values()))
    word = METRICS[FAMILIES[first.family].metric].word
    distance = "cosine distance of the embeddings" if first.family == "embedding-fidelity" else word
    return f"{distance} from the original on {first.num_texts} texts, each group compressed alone"


# -------------------------------------------------------------------------------------------------------------------- cache


def find(plan: Plan, info: ModelInfo, home: Path) -> dict[str, Sensitivity]:
    """The cached sensitivities of a plan's groups, by group name; groups that have not been measured are left out."""
    found = {}
    for name, path in _paths(plan, info, home).items():
        with suppress(Malformed):  # missing or damaged
            found[name] = Sensitivity.from_json(read_json(path))
    return found


def missing(plan: Plan, info: ModelInfo, home: Path) -> list[str]:
    """Names of the groups whose sensitivity has yet to be measured."""
    found = find(plan, info, home)
    return [group.name for group in plan.groups if group.name not in found]


def estimated_seconds(plan: Plan, info: ModelInfo) -> float:
    """Approximate time in seconds to measure all groups of a plan on two cores."""
    fits = sum(predict_group(group.at_ratio(ratio), info).seconds for group in plan.groups for ratio in RATIOS)
    return SECONDS_TO_LOAD + fits + len(plan.groups) * len(RATIOS) * SECONDS_PER_PARAMETER * info.num_parameters


def _paths(plan: Plan, info: ModelInfo, home: Path) -> dict[str, Path]:
    """The cache file of each group. Its name is a hash of what determines the sensitivity; the group's own ratio does not."""
    folder, text = home / "sensitivities" / info.fingerprint, text_digest(plan.calibration)
    shared = {
        "version": [VERSION, RATIOS, NUM_TEXTS, MAX_TEXT_LENGTH, POSITIONS],
        "model": info.reads,
        "text": [plan.calibration.model_dump(mode="json") | {"text": ""}, text],
        "seed": plan.seed,
    }
    paths = {}
    for group in plan.groups:
        method = asdict(make_method(group.method, group.options))
        facts = {
            "group": [spectrum_key(members(group, info), group.stack), dtype_of(group, info), group.multiple],
            "unit": _unit(group, info),
            "method": [group.method, method, packages_of([group.method])],
        }
        key = hashlib.sha256(json.dumps(shared | facts, sort_keys=True).encode()).hexdigest()[:20]
        paths[group.name] = folder / f"{key}.json"
    return paths


def _unit(group: Group, info: ModelInfo) -> str:
    """The unit in which ratios are measured: that of the group, or bytes if the group's method does not save parameters."""
    return group.unit if predict_group(group.at_ratio(1.0), info).largest_ratio > 1 else "bytes"


# ------------------------------------------------------------------------------------------------------------------ measure


def compute(plan: Plan, home: Path) -> dict[str, Sensitivity]:
    """The sensitivities of a plan's groups, by group name; missing ones are measured with torch and cached one by one.

    Raises ModelError if the model cannot be used, TaskError if it does not read text, InputError if the text cannot be read or
    a group cannot reach any of the `RATIOS`, and StorageError if the sensitivities cannot be saved.
    """
    found = find(plan, model_info(plan.model, home), home)
    unknown = [group for group in plan.groups if group.name not in found]
    if not unknown:
        return found
    from offcomp.models.loading import load

    loaded = load(plan.model).to(computing_device())
    paths = _paths(plan, loaded.info, home)
    for name, sensitivity in measure(loaded, plan.replace(groups=tuple(unknown))):
        write_json(paths[name], sensitivity.to_dict())
        found[name] = sensitivity
    return {group.name: found[group.name] for group in plan.groups}


def measure(loaded: LoadedModel, plan: Plan) -> Iterator[tuple[str, Sensitivity]]:
    """Measure the groups of a plan one by one on its calibration text; yields the name and sensitivity of each.

    The model has its original weights whenever this yields. Raises the same errors as `compute`, except StorageError.
    """
    from offcomp.runs.calibration import calibration_of

    if not plan.groups:
        return
    task = fidelity_task(loaded, plan)
    task.prepare()  # before any weight is replaced
    calibration = calibration_of(plan, loaded)
    for group in plan.groups:
        probes, energy = _probes(loaded, group, task, calibration, plan.seed)
        yield (
            group.name,
            Sensitivity(family=task.task.family, num_texts=task.num_texts, squared_norm=energy, probes=tuple(probes)),
        )


def fidelity_task(loaded: LoadedModel, plan: Plan) -> OpenTask:
    """The fidelity task that best suits the model, on some of the plan's calibration texts.

    Raises InputError if the text cannot be read, and TaskError if the model does not read text.
    """
    from offcomp.evaluation import open_texts

    info, texts = loaded.info, plan.calibration.read(plan.seed).texts
    fitting = fitting_families(info.architecture, info.reads_text)
    if getattr(loaded.model.config, "num_labels", 2) < 2:  # a regression has no distribution of classes
        fitting = tuple(family for family in fitting if family != "head-fidelity")
    if not fitting:
        raise TaskError(f"{info.model} does not read text, so the sensitivity of its groups cannot be measured")
    family = next(family for family in PREFERRED if family in fitting)
    chosen = np.linspace(0, len(texts) - 1, min(NUM_TEXTS, len(texts))).round().astype(int)
    options = {"positions": POSITIONS} if "positions" in FAMILIES[family].options else {}
    return open_texts(family, loaded, [texts[index][:MAX_TEXT_LENGTH] for index in chosen], options)


def _probes(
    loaded: LoadedModel, group: Group, task: OpenTask, calibration: Calibration | None, seed: int
) -> tuple[list[Probe], float]:
    """The probes of a group, from the largest to the smallest, and the squared norm of its weights."""
    from offcomp.models.weights import substituted
    from offcomp.runs.calibration import GroupHints
    from offcomp.runs.compress import compress_group

    specs, probes, energy = members(group, loaded.info), list[Probe](), 0.0
    unit = _unit(group, loaded.info)
    for ratio in RATIOS:
        with GroupHints(calibration, specs, group.stack) if calibration else nullcontext() as hints:
            try:
                at_ratio = group.at_ratio(ratio, unit)
                done = compress_group(loaded.model, loaded.info, at_ratio, hints=hints, seed=seed, measure_outputs=False)
            except BudgetTooSmall:
                continue
        figures, energy = done.figures, done.figures.squared_norm
        repeated = probes and figures.stored.in_unit(unit) >= probes[-1].stored.in_unit(unit)
        if figures.relative_error == 0 or repeated:  # the method may have no size between two ratios
            continue
        with substituted(loaded.model, done.reconstructions):
            score = task.compare()
        loss = abs(METRICS[score.metric].perfect - score.compressed.value)
        stored = {"num_parameters": figures.num_parameters, "num_bytes": figures.num_bytes}
        probes.append(Probe(**stored, relative_error=figures.relative_error, loss=loss))
    if not probes:
        ratios = ", ".join(f"{ratio:g}" for ratio in RATIOS)
        raise InputError(f"group {group.name!r} cannot be compressed at any of the ratios {ratios}; leave it out of the plan")
    return probes, energy
