"""Schemas of a run's files, which are validated when read so that all other code can rely on them. Does not import torch.

Files from earlier versions may lack some fields. Fields not listed here may have any value that is not nested too deeply.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from offcomp.errors import InputError, PlanError
from offcomp.methods import METHODS, make_method
from offcomp.planning.data.metrics import METRICS
from offcomp.planning.json_checks import (
    Check,
    Malformed,
    anything,
    by_name,
    count,
    each,
    fields,
    flag,
    line,
    maybe,
    number,
    one_of,
    read_checked,
    text,
)
from offcomp.planning.json_fields import is_name
from offcomp.planning.plan import Plan

PLAN, INPUTS, WORKER, PROGRESS, RESULT = "plan.json", "inputs.json", "worker.json", "progress.json", "run.json"
RUN_SCHEMA = 1
LATEST_SECONDS = 1e11
"""The latest accepted timestamp, in seconds since 1970; it is within the range of `datetime`."""
MOST_EXAMPLES = 10_000_000
KNOWN_METHODS = frozenset(method.name for method in METHODS)
STATUSES = ("done", "failed", "cancelled")


def _group_name(value: Any) -> None:
    if not is_name(value):
        raise Malformed(f" is {str(value)[:40]!r}, which is not a valid group name")


EXAMPLES = count(1, MOST_EXAMPLES)
AT_LEAST_ONE, FIGURE, SIZE = count(1), number(), number(0)
ROWS = fields({"read": count(), "used": count(), "left_out": by_name(count())}, {"notes": each(text)})
CUT = fields({"texts": count(), "of": count(), "tokens": count()})
ERRORS = {"relative_error": SIZE, "rmse": SIZE, "mae": SIZE, "cosine_distance": FIGURE}
GROUP = fields(
    {
        "name": _group_name,
        **dict.fromkeys(("method", "form", "size_name"), line),
        "modules": each(line),
        **dict.fromkeys(("rows", "cols", "num_rows"), AT_LEAST_ONE),
        **dict.fromkeys(("num_parameters", "num_bytes", "original_parameters", "original_bytes"), AT_LEAST_ONE),
        "size": count(),
        **dict.fromkeys(("compression_ratio", "parameter_ratio", "byte_ratio", "squared_norm", "seconds"), SIZE),
        **ERRORS,
        "module_errors": by_name(fields(ERRORS)),
        "ledger": each(fields({"name": line, "shape": each(count()), "dtype": line, "bytes": count()})),
    },
    {
        **dict.fromkeys(("stack", "unit", "dtype", "original_dtypes"), line),
        "requested_ratio": SIZE,
        "bytes_in_own_dtype": AT_LEAST_ONE,
        "calibration": fields({}, {"rows": ROWS, "cut": maybe(CUT)}),
    },
)
SIZES = fields(
    {
        **dict.fromkeys(("parameters_before", "parameters_after", "bytes_before", "bytes_after"), count()),
        **dict.fromkeys(("parameter_ratio", "byte_ratio"), SIZE),
    }
)
MODEL = fields(
    {"name": line, "fingerprint": line, "sizes": fields(dict.fromkeys(("chosen", "matrices", "whole"), SIZES))},
    {"reads": line, "family": maybe(line), "dtype": line, "unlisted": count()},
)
VALUE = fields({"value": FIGURE, "standard_error": maybe(SIZE), "n": EXAMPLES})
PAIRED = fields(
    {"difference": FIGURE, "interval": maybe(each(FIGURE, 2))},
    {
        **dict.fromkeys(("right_to_wrong", "wrong_to_right"), count(0, MOST_EXAMPLES)),
        **dict.fromkeys(("agreement", "divergence"), FIGURE),
        "smallest_difference": maybe(FIGURE),
    },
)
COMPARED = {"original": VALUE, "compressed": VALUE, "paired": PAIRED}
FLIPS = each(
    fields({"text": text, "label": text, "original_probability": FIGURE, "compressed_probability": FIGURE}, {"predicted": text})
)
SCORE = fields(
    COMPARED,
    {
        "metric": one_of(METRICS),
        "also": by_name(fields(COMPARED)),
        "baseline": maybe(fields({"name": line}, {"value": maybe(FIGURE)})),
        "majority_baseline": maybe(FIGURE),
        "flips": fields({"right_to_wrong": FLIPS, "wrong_to_right": FLIPS}),
        "changes": each(fields({"text": text, "original": FIGURE, "compressed": FIGURE}, {"truth": maybe(FIGURE)})),
        "continuations": each(
            fields({**dict.fromkeys(("opening", "original", "compressed"), text), "same_tokens": count(), "tokens": count()})
        ),
        "note": each(text),
        "rows": ROWS,
        "cut": maybe(CUT),
        **dict.fromkeys(("title", "family", "version", "split", "digest", "direction", "task"), line),
        "embedding": maybe(text),
        "probe": maybe(count()),
        **dict.fromkeys(("collapsed", "unchanged"), flag),
    },
)
CHECKED_RESULT = fields(
    {
        "status": one_of(STATUSES),
        "plan": by_name(anything),
        "groups": each(GROUP),
        "model": maybe(MODEL),
        "scores": by_name(SCORE),
        "environment": fields({"offcomp": line, "torch": line}, {"plugins": by_name(line)}),
        "timings": fields({"total": SIZE}, others=SIZE),
        "started": line,
    },
    {"error": text, "notes": each(text), "inputs": fields({}, {"calibration": text, "model": text})},
)
CHECKED_WORKER = fields(
    {"submitted": number(0, LATEST_SECONDS)},
    {**dict.fromkeys(("host", "machine", "boot"), line), "pid": AT_LEAST_ONE, "started": SIZE},
)
CHECKED_PROGRESS = fields({"stage": line, "fraction": number(0, 1)}, {"remaining_seconds": SIZE, "elapsed_seconds": SIZE})
CHECKED_INPUTS = fields({}, {"model": text})


def read_plan(folder: Path) -> Plan:
    """Read the plan of a run. Raises Malformed and OSError."""
    return _plan_of(read_checked(folder / PLAN, by_name(anything)), PLAN)


def _plan_of(document: Any, where: str) -> Plan:
    """Parse the plan of a run. Unknown methods may have any options, since the run may come from another version of offcomp."""
    try:
        plan = Plan.from_dict(document)
        for group in plan.groups:
            if group.method in KNOWN_METHODS:
                _check_options(group.method, json.dumps(group.options))
    except InputError as error:
        fault = error.faults[0] if isinstance(error, PlanError) else str(error)
        raise Malformed(f": {fault.rstrip('.')}", where) from None
    return plan


@lru_cache(maxsize=1024)
def _check_options(method: str, options: str) -> None:
    """Raise InputError if a method does not accept these options (JSON). Cached, since many runs share the same options."""
    make_method(method, json.loads(options))


def read_result(folder: Path) -> tuple[Plan, dict[str, Any]]:
    """Read the plan and the result of a run. Raises Malformed and OSError."""
    result = read_checked(folder / RESULT, _check_result)
    return _plan_of(result["plan"], f"{RESULT}: plan"), result


def _check_result(value: Any) -> None:
    if isinstance(value, dict) and isinstance(value.get("scores"), dict):
        for score in value["scores"].values():
            if isinstance(score, dict) and type(score.get("rows")) is int:
                del score["rows"]  # earlier versions stored a count of token rows here
    CHECKED_RESULT(value)
    schema = value.get("schema", RUN_SCHEMA)
    if schema != RUN_SCHEMA:
        raise Malformed(f" is {str(schema)[:40]}, but this version reads only schema {RUN_SCHEMA}", "schema")
    if value["status"] == "done" and value["model"] is None:
        raise Malformed(" is null, but the run is done", "model")
    for task, score in value["scores"].items():
        line(task)
        _check_score(task, score)


def _check_score(task: str, score: dict[str, Any]) -> None:
    """Check that the numbers in a score are consistent with one another."""
    paired, where = score["paired"], f"scores.{task[:40]}"
    if "agreement" in paired or "flips" in score:
        for name in ("agreement", "right_to_wrong", "wrong_to_right"):
            if name not in paired:
                raise Malformed(f".paired.{name} is missing", where)
    if paired.get("right_to_wrong", 0) + paired.get("wrong_to_right", 0) > score["compressed"]["n"]:
        raise Malformed(".paired counts more flips than there are examples", where)
    for name in score.get("also", {}):
        one_of(METRICS)(name)


def read_worker(folder: Path) -> dict[str, Any]:
    """Read the record of a run's worker process; empty if the file is missing. Raises Malformed and OSError."""
    return _optional(folder / WORKER, CHECKED_WORKER)


def read_inputs(folder: Path) -> dict[str, Any]:
    """Read the inputs of a run; empty for old runs, which did not record them. Raises Malformed and OSError."""
    return _optional(folder / INPUTS, CHECKED_INPUTS)


def read_progress(folder: Path) -> dict[str, Any]:
    """Read the progress of a run; empty if the file is missing or malformed, as it will soon be rewritten. Raises OSError."""
    try:
        return _optional(folder / PROGRESS, CHECKED_PROGRESS)
    except Malformed:
        return {}


def _optional(file: Path, check: Check) -> dict[str, Any]:
    try:
        return read_checked(file, check)
    except FileNotFoundError:
        return {}
