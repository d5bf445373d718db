"""Construct runs with figures that are easy to check by hand, and write results to a home folder as runs."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from offcomp.numerics.paired_tests import accuracy_interval
from offcomp.planning.plan import Group, Plan
from offcomp.runs.result import STATUSES, RunResult
from offcomp.runs.store import Run


def made_group(name: str, error: float, *, rmse: float = 0.1, rows: int = 10, cols: int = 4, **fields: Any) -> dict[str, Any]:
    """Return the figures of a group in the format of run.json."""
    errors = {"relative_error": error, "rmse": rmse, "mae": rmse, "cosine_distance": error / 2}
    weights = {"num_rows": rows, "squared_norm": rows * cols * ((rmse / error) ** 2 if error else 1.0)}
    stored = {"num_parameters": rows * cols // 2, "num_bytes": 2 * rows * cols}
    stored |= {"original_parameters": rows * cols, "original_bytes": 4 * rows * cols}
    return (
        {"name": name, "modules": [f"{name}.0"], "method": "svd", "ratio": 2.0, "rows": rows, "cols": cols}
        | errors
        | stored
        | weights
        | {"form": "low_rank", "size_name": "rank", "size": 3, "seconds": 0.1, "ledger": []}
        | {"compression_ratio": 2.0, "parameter_ratio": 2.0, "byte_ratio": 2.0}
        | {"module_errors": {f"{name}.0": errors}}
        | fields
    )


def made_score(right_to_wrong: list[str], wrong_to_right: list[str], *, n: int = 100, right: int = 80) -> dict[str, Any]:
    """Return a score on `n` sentences. The original is right on `right` of them; the outcomes of the listed ones change."""
    after = right - len(right_to_wrong) + len(wrong_to_right)
    lost, won = len(right_to_wrong), len(wrong_to_right)
    difference = (won - lost) / n

    def accuracy(count: int) -> dict[str, Any]:
        return {"value": count / n, "standard_error": (count / n * (1 - count / n) / n) ** 0.5, "n": n}

    def flips(texts: list[str], before: float, change: float) -> list[dict[str, Any]]:
        return [
            {
                "text": text,
                "label": "positive",
                "original_probability": before,
                "compressed_probability": before + change * (i + 1) / 10,
            }
            for i, text in enumerate(texts)
        ]

    return {
        "original": accuracy(right),
        "compressed": accuracy(after),
        "majority_baseline": 0.5,
        "collapsed": False,
        "paired": {
            "difference": difference,
            "interval": list(accuracy_interval(lost, won, n)),
            "agreement": 1 - (lost + won) / n,
            "right_to_wrong": lost,
            "wrong_to_right": won,
        },
        "flips": {"right_to_wrong": flips(right_to_wrong, 0.6, -1), "wrong_to_right": flips(wrong_to_right, 0.4, 1)},
        "version": "1",
        "split": "test",
    }


def made_value_score(metric: str, before: float, after: float, *, spread: float = 0.02, **fields: Any) -> dict[str, Any]:
    """Return a score of a metric without classes. Its standard error is `spread`; that of the difference is a tenth of it."""

    def value(number: float) -> dict[str, Any]:
        return {"value": number, "standard_error": spread, "n": 200}

    difference = after - before
    interval = [difference - 0.2 * spread, difference + 0.2 * spread]
    changes = [
        {
            "text": f"{metric} {i}",
            "truth": float(i) if metric == "spearman" else None,
            "original": before,
            "compressed": after + i,
        }
        for i in range(2)
    ]
    return {
        "metric": metric,
        "direction": "higher" if metric == "spearman" else "lower",
        "original": value(before),
        "compressed": value(after),
        "baseline": None if metric == "spearman" else {"name": "unigram", "value": 100 * before},
        "paired": {"difference": difference, "interval": interval, "smallest_difference": spread, "divergence": 0.1},
        "unchanged": before == after,
        "collapsed": False,
        "changes": changes,
        **{"version": "1", "split": "test", "digest": "0" * 12},
    } | fields


def made_run(
    name: str,
    groups: list[dict[str, Any]],
    score: dict[str, Any] | None = None,
    *,
    model: str = "tiny",
    status: str = "done",
    seed: int = 0,
    others: dict[str, dict[str, Any]] | None = None,
) -> Run:
    """Return a run of these groups, with `score` on the task sentiment and the scores in `others`, by the name of the task."""
    scores = ({"sentiment": score} if score else {}) | (others or {})
    planned = tuple(
        Group(
            name="any", modules=tuple(g["modules"]), method=g["method"], options=g.get("options", {}), ratio=g["ratio"]
        ).replace(name=g["name"])  # not validated, so it can be any text
        for g in groups
    )
    plan = Plan(model=model, groups=planned, tasks=tuple(scores), seed=seed)
    before, after = sum(g["rows"] * g["cols"] for g in groups), sum(g["num_parameters"] for g in groups)
    sizes = {}
    for denominator, rest in (("chosen", 0), ("matrices", 60), ("whole", 100)):
        ratio = (before + rest) / (after + rest) if after + rest else 1.0
        sizes[denominator] = {
            "parameters_before": before + rest,
            "parameters_after": after + rest,
            "bytes_before": 4 * (before + rest),
            "bytes_after": 4 * (after + rest),
            "parameter_ratio": ratio,
            "byte_ratio": ratio,
        }
    result = {
        "id": name,
        "status": status if status in STATUSES else "failed",
        "plan": plan.to_dict(),
        "groups": groups,
        "model": {"name": model, "fingerprint": model, "sizes": sizes},
        "scores": scores,
        "environment": {"offcomp": "0.1.0", "torch": "2.13.0"},
        "timings": {"total": 1.5},
        "started": "2026-01-02T03:04:05+00:00",
    }
    return Run(name, Path("nowhere"), plan, status, 0.0, result=RunResult.from_json(result))


def with_result(run: Run, **fields: Any) -> Run:
    """Return the run with these fields of its result changed: JSON objects are merged, and other values are replaced."""
    assert run.result
    return replace(run, result=RunResult.from_json(_merged(run.result.to_dict(), fields)))


def _merged(value: Any, changes: Any) -> Any:
    if not (isinstance(value, dict) and isinstance(changes, dict)):
        return changes
    return value | {name: _merged(value.get(name), change) for name, change in changes.items()}


def put_in_home(home: Path, document: dict[str, Any], name: str, *, submitted: float, **fields: Any) -> str:
    """Write this document to a home as the run.json of a run with the id `name`, and return the id."""
    document = copy.deepcopy(document) | {"id": name} | fields
    folder = home / "runs" / name
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps(document["plan"]))
    (folder / "worker.json").write_text(json.dumps({"pid": 1, "started": 0.0, "submitted": submitted}))
    (folder / "run.json").write_text(json.dumps(document))
    return name
