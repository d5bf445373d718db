"""Check estimated scores against measured ones: `python -m benchmarks.score_estimates [--measure]`.

Thirty plans that the bundled sweeps do not contain, ten for each of three models, are drawn with a fixed seed: random kinds,
layers, groupings and ratios, mostly for SVD. With --measure they are compressed and scored on the model's main task, in one
process, and written to assets/runs/score-estimates.json. Without it, the file is read. Either way, each score
is then predicted as the app predicts it, from the bundled sweeps alone, and the coverage of the 90 % bands is printed and added
to the file. Nothing is tuned on these plans; tuned choices are compared on the sweeps with --cross-validation.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measurements import measured as measured_row
from benchmarks.measurements import rounded
from offcomp.cli.text import format_table
from offcomp.evaluation import open_task
from offcomp.files import home_folder
from offcomp.methods import method_of_style_key, own_options
from offcomp.models.catalogue import ModelInfo
from offcomp.models.environment import environment
from offcomp.models.listing import model_info
from offcomp.models.loading import load
from offcomp.planning.data.tasks import find_task, usual_tasks
from offcomp.planning.plan import Plan, make_groups
from offcomp.planning.sizes import predict, resolved
from offcomp.results.candidates import Family
from offcomp.results.estimate_check import accuracy_of_estimates
from offcomp.results.known_errors import measured_of
from offcomp.results.known_scores import evidence_of, known_scores, scored
from offcomp.results.score_curve import SHRINKAGE, cross_validated

FILE = Path(__file__).parents[1] / "assets" / "runs" / "score-estimates.json"
TASKS = {"minilm-l6": "similarity", "offcomp-bert-sentiment": "sentiment-head", "offcomp-gpt": "causal-prose"}
"""Model -> its main task."""
METHODS = ("svd",) * 6 + ("quantization", "pruning", "residual", "codebook")
UNITS = {"codebook": "bytes", "quantization": "bytes", "pruning": "bytes"}
SMALLEST_RATIO, LARGEST_RATIO = 1.3, 8.0
SEED = 2023


def plans(info: ModelInfo) -> Iterator[Plan]:
    """Ten random plans for a model, the same in every call: random kinds, layers, groupings and ratios."""
    specs = [spec for spec in info.modules if spec.default and spec.layer is not None]
    kinds, layers = sorted({spec.kind for spec in specs}), sorted({spec.layer or 0 for spec in specs})
    for number, style_key in enumerate(METHODS):
        method, attempt = method_of_style_key(style_key), 0
        while True:
            generator = random.Random(f"{SEED} {info.model} {number} {attempt}")  # noqa: S311  # not for secrets
            chosen_kinds = generator.sample(kinds, generator.randint(1, len(kinds)))
            chosen_layers = generator.sample(layers, generator.randint(1, len(layers)))
            chosen = [spec for spec in specs if spec.kind in chosen_kinds and spec.layer in chosen_layers]
            groups = make_groups(
                chosen,
                generator.choice(("module", "kind")),
                method=method.name,
                options=own_options(method),
                ratio=round(SMALLEST_RATIO * (LARGEST_RATIO / SMALLEST_RATIO) ** generator.random(), 2),
                unit=UNITS.get(style_key, "parameters"),
            )
            plan = resolved(Plan(model=info.model, groups=groups, tasks=(TASKS[info.model],)), info)
            if predict(plan, info).feasible and all(group.form == "compressed" for group in predict(plan, info).groups):
                yield plan
                break
            attempt += 1


def measure(threads: int) -> dict[str, Any]:
    """Compress and score all plans, loading each model once."""
    torch.set_num_threads(threads)
    rows = []
    for model, task in TASKS.items():
        loaded = load(model)
        opened = [open_task(find_task(task), loaded)]
        opened[0].prepare()
        for plan in plans(loaded.info):
            row = rounded(measured_row(plan, loaded, opened))
            rows.append({name: row[name] for name in ("plan", "relative_error", "scores")})
            figures = row["scores"][task]
            print(
                model,
                plan.groups[0].method,
                len(plan.groups),
                plan.groups[0].ratio,
                f"{row['relative_error']:.3f}",
                f"{figures['paired']['difference']:+.4f}",
                f"{row['seconds']:.1f} s",
                flush=True,
            )
    return {"schema": 1, "seed": SEED, "environment": environment(), "rows": rows}


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per plan: the measured score, the estimate from the bundled sweeps alone, and whether the band contains it.

    Errors are those that the app knows before the run: estimated, or exact for SVD. Singular values that are not bundled, which
    the app would compute, are replaced by the measured error.
    """
    table = []
    for row in rows:
        plan = Plan.from_dict(row["plan"])
        info = model_info(plan.model, home_folder())
        (task, score), *_ = row["scores"].items()
        measured = measured_of([], info.fingerprint)
        candidate = Family(plan, info, home_folder(), measured, plan.groups[0].unit).candidate(plan)
        known = candidate.score(find_task(task))
        if known is None and candidate.family.is_plain_svd:
            known = known_scores(plan, info, row["relative_error"], measured, [task]).get(task)
        value = score["compressed"]["value"]
        facts = {"model": plan.model, "task": task, "method": plan.groups[0].method, "groups": len(plan.groups)}
        facts |= {"ratio": plan.groups[0].ratio, "error": candidate.error, "measured_error": row["relative_error"]}
        estimate = {"value": known.value, "low": known.low, "high": known.high} if known else {}
        facts |= (
            {"original": score["original"]["value"], "measured": value} | {"value": None, "low": None, "high": None} | estimate
        )
        table.append(facts | {"within": known.low <= value <= known.high if known else None})
    return table


def summary(table: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures that the app shows."""
    known = [row for row in table if row["within"] is not None]
    models = {}
    for model, task in TASKS.items():
        errors = [abs(row["value"] - row["measured"]) for row in known if row["model"] == model]
        models[model] = {"task": task, "metric": find_task(task).kind.metric, "mean_error": sum(errors) / len(errors)}
    return {"drawn": len(table), "plans": len(known), "within": sum(row["within"] for row in known), "models": models}


def cross_validation() -> list[dict[str, Any]]:
    """Compare two models of the loss by their cross-validated errors on the bundled sweeps, on which the choice is based.

    Each figure is the mean absolute error divided by the mean absolute loss, over plans that compress several matrices.
    """
    rows = []
    for model in (*TASKS, "offcomp-bert"):
        info = model_info(model, home_folder())
        measured = measured_of([], info.fingerprint)
        for task in usual_tasks(info.architecture, info.reads_text):
            evidence = [evidence_of(m, score, info) for m, score in scored(measured, find_task(task))]
            several = np.array([(each.errors > 0).sum() > 1 for each in evidence])
            losses = np.array([each.loss for each in evidence])
            row: dict[str, Any] = {"model": model, "task": task, "measurements": len(evidence)}
            for name, shrinkage in (("by size", inf), ("by kind and layer", SHRINKAGE)):
                residuals = losses - cross_validated(evidence, info.modules, shrinkage)[1]
                row[name] = float(np.abs(residuals[several]).mean() / np.abs(losses[several]).mean())
            rows.append(row)
    return rows


def main() -> None:
    """Measure if requested, and compare the estimates with the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true", help="compress and score the plans again")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cross-validation", action="store_true", help="compare models of the loss on the bundled sweeps")
    arguments = parser.parse_args()
    if arguments.cross_validation:
        print(format_table(cross_validation()))
        return
    document = measure(arguments.threads) if arguments.measure else json.loads(FILE.read_text(encoding="utf-8"))
    table = compared(document["rows"])
    document["summary"] = rounded(summary(table))
    FILE.write_text(json.dumps(document, separators=(",", ":")) + "\n", encoding="utf-8")
    print(format_table(table))
    print(f"\n{accuracy_of_estimates()}")


if __name__ == "__main__":
    main()
