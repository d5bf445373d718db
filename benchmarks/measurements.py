"""Make the bundled measurements: `python -m benchmarks.measurements [--data FOLDER]` writes assets/runs/MODEL-sweep.json.

Each row is one compressed model: all linear weights compressed by one method, grouping and ratio (a sweep), a single weight
matrix compressed (its sensitivity), or one kind of matrix or one half of the layers compressed (subsets). It is scored on the
bundled tasks and, with --data, on real data sets too, read from FOLDER/NAME/SPLIT.parquet: stsb (sentence1, sentence2, score),
sst2_sent, mrpc and ag_news. Of these, only scores are stored, no texts. No score is used to train or select anything. Each row
contains its plan, so that `offcomp run` can reproduce it; the file records versions, machine and date. Rows and tasks missing
from an existing file are added without measuring the others again; --fresh starts from scratch.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from offcomp.errors import BudgetTooSmall
from offcomp.evaluation import OpenTask, open_task
from offcomp.methods import method_of_style_key, own_options, style_key_in_plan
from offcomp.models.catalogue import ModelInfo
from offcomp.models.environment import environment
from offcomp.models.loading import LoadedModel, load
from offcomp.models.weights import substituted
from offcomp.planning.data.scores import OriginalScore, Score
from offcomp.planning.data.tasks import Task, find_task, usual_tasks
from offcomp.planning.model_sizes import model_sizes
from offcomp.planning.plan import Group, Plan, make_groups
from offcomp.runs.compress import compress_group
from offcomp.runs.result import overall_cosine, overall_error

FOLDER = Path(__file__).parents[1] / "assets" / "runs"
REAL = {
    "stsb": Task(name="stsb", family="similarity", data="stsb", title="STS-B"),
    "sst2_sent": Task(name="sst2", family="probe", data="sst2_sent", title="SST-2"),
    "mrpc": Task(name="mrpc", family="probe", data="mrpc", title="MRPC"),
    "ag_news": Task(name="ag_news", family="probe", data="ag_news", title="AG News"),
}
BOTH, JOINT = ("module", "kind"), ("kind",)
METHODS = {
    "svd": BOTH,
    "residual": BOTH,
    "quantization": BOTH,
    "pruning": BOTH,
    "codebook": JOINT,
    "autoencoder": JOINT,
}
"""Style key -> groupings. Codebook and autoencoder are not designed for a separate codebook or decoder per matrix."""
RATIOS = (1.5, 2.0, 4.0, 8.0)
UNITS = {"codebook": "bytes", "quantization": "bytes", "pruning": "bytes"}
ALONE = 4.0  # ratio at which each matrix is compressed alone
SEED = 0
KEPT_OF_A_GROUP = ("name", "form", "size", "compression_ratio", "relative_error", "num_parameters", "num_bytes", "dtype")


def sweep(info: ModelInfo) -> Iterator[Plan]:
    """Plans that compress all linear weights, for each method, grouping and ratio."""
    specs = [spec for spec in info.modules if spec.default and spec.layer is not None]
    for style_key, groupings in METHODS.items():
        method = method_of_style_key(style_key)
        for grouping in groupings:
            for ratio in RATIOS:
                groups = make_groups(
                    specs,
                    grouping,
                    method=method.name,
                    options=own_options(method),
                    ratio=ratio,
                    unit=UNITS.get(style_key, "parameters"),
                )
                yield Plan(model=info.model, groups=groups, tasks=(), seed=SEED)


def alone(info: ModelInfo) -> Iterator[Plan]:
    """Plans that compress a single matrix each, by SVD."""
    for spec in info.modules:
        if spec.default:
            yield Plan(
                model=info.model, groups=(Group(name=spec.name, modules=(spec.name,), ratio=ALONE),), tasks=(), seed=SEED
            )


def subsets(info: ModelInfo) -> Iterator[Plan]:
    """Plans that compress one kind of matrix in all layers, or all linear weights in one half of the layers, by SVD.

    Each matrix is compressed separately.
    """
    specs = [spec for spec in info.modules if spec.default and spec.layer is not None]
    middle = (1 + max(spec.layer or 0 for spec in specs)) / 2
    chosen = [[spec for spec in specs if spec.kind == kind] for kind in dict.fromkeys(spec.kind for spec in specs)]
    halves = [[spec for spec in specs if ((spec.layer or 0) < middle) == first] for first in (True, False)]
    for part in (*chosen, *halves):
        for ratio in RATIOS[1:]:  # at the first ratio, most losses are within noise
            yield Plan(model=info.model, groups=make_groups(part, "module", ratio=ratio), tasks=(), seed=SEED)


def measured(plan: Plan, loaded: LoadedModel, tasks: list[OpenTask]) -> dict[str, Any]:
    """One row: the plan, sizes, errors and scores."""
    started = perf_counter()
    groups = [compress_group(loaded.model, loaded.info, group, seed=plan.seed) for group in plan.groups]
    matrices = {spec: matrix for group in groups for spec, matrix in group.reconstructions.items()}
    with substituted(loaded.model, matrices):
        scores = {task.task.name: figures_of(task.compare()) for task in tasks}
    figures = [group.figures for group in groups]
    stored = [(each.original, each.stored) for each in figures]
    return {
        "plan": plan.to_dict(),
        "relative_error": overall_error(figures),
        "cosine_distance": overall_cosine(figures),
        "sizes": model_sizes(stored, loaded.info).to_dict(),
        "groups": [{name: getattr(figure, name) for name in KEPT_OF_A_GROUP} for figure in figures],
        "scores": scores,
        "seconds": perf_counter() - started,
    }


def complete(rows: list[dict[str, Any]], plan: Plan, loaded: LoadedModel, tasks: list[OpenTask]) -> bool:
    """Measure the tasks missing from the plan's row, or a new row if there is none; returns whether anything was measured."""
    row = next((row for row in rows if row["plan"] == rounded(plan.to_dict())), None)
    missing = [task for task in tasks if row is None or task.task.name not in row["scores"]]
    if not missing:
        return False
    try:
        found = rounded(measured(plan, loaded, missing))
    except BudgetTooSmall as error:
        print(f"skipped: {error}")
        return False
    if row is None:
        rows.append(found)
    elif row["groups"] == found["groups"]:
        row["scores"] |= found["scores"]
    else:  # the method has changed in the meantime
        rows[rows.index(row)] = rounded(measured(plan, loaded, tasks))
    return True


def figures_of(score: Score | OriginalScore) -> dict[str, Any]:
    """A score without its texts, as JSON values."""
    texts = ("flips", "changes", "continuations", "settings", "title", "columns")
    return {name: value for name, value in score.to_dict().items() if name not in texts}


def rounded(value: Any) -> Any:
    """JSON values with six significant digits."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def main() -> None:
    """Measure everything, and write the file after each row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="minilm-l6")
    parser.add_argument("--data", type=Path, help="folder with the real data sets")
    parser.add_argument("--real", nargs="*", choices=REAL, default=["stsb"], help="which of the real data sets to use")
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    parser.add_argument("--only", action="append", choices=("sweep", "sensitivity", "subsets"), help="measure only these rows")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    loaded = load(arguments.model)
    asked = [find_task(name) for name in usual_tasks(loaded.info.architecture)]
    if arguments.data:
        asked += [_at(REAL[name], arguments.data / name) for name in arguments.real]
    tasks = [open_task(task, loaded) for task in asked]
    file = FOLDER / f"{arguments.model}-sweep.json"
    originals = rounded({task.task.name: figures_of(task.original()) for task in tasks})
    document = {} if arguments.fresh or not file.exists() else json.loads(file.read_text())
    before = document.get("originals", {})
    if (
        document.get("reads", loaded.info.reads) != loaded.info.reads
        or document.get("fingerprint", loaded.info.fingerprint) != loaded.info.fingerprint
        or not _agree(before, originals)
    ):
        raise SystemExit(f"{file.name} was measured on different weights or examples; pass --fresh to measure everything again")
    document |= {"schema": 1, "model": arguments.model, "fingerprint": loaded.info.fingerprint}
    document |= {"reads": loaded.info.reads, "seed": SEED}
    document |= {"environment": environment(), "measured": datetime.now(UTC).isoformat(timespec="seconds")}
    document["originals"] = originals | before
    purposes = {"sweep": sweep, "sensitivity": alone, "subsets": subsets}
    for purpose in arguments.only or purposes:
        plans = purposes[purpose](loaded.info)
        rows = document.setdefault(purpose, [])
        for plan in plans:
            if complete(rows, plan, loaded, tasks):
                file.write_text(json.dumps(document, separators=(",", ":")) + "\n")
                print(_line(next(row for row in rows if row["plan"] == rounded(plan.to_dict()))), flush=True)
    print(f"{file.name}: {file.stat().st_size / 1e6:.2f} MB")


def _agree(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Return whether the scores of the original agree on every task and field that both contain."""
    return all(
        before[task][name] == value
        for task in before.keys() & after
        for name, value in after[task].items()
        if name in before[task]
    )


def _at(task: Task, folder: Path) -> Task:
    """The task, with a folder's files as its data."""
    return Task(name=task.name, family=task.family, data=str(folder), title=task.title)


def _line(row: dict[str, Any]) -> str:
    groups = row["plan"]["groups"]
    scores = "  ".join(f"{name} {score['compressed']['value']:.3f}" for name, score in row["scores"].items())
    style_key = style_key_in_plan(groups[0]["method"], groups[0]["options"])
    about = f"{style_key:12} {len(groups):2} groups of {groups[0]['name']:10} at {groups[0]['ratio']:4}"
    return f"{about}  error {row['relative_error']:.3f}  {scores}  {row['seconds']:.1f} s"


if __name__ == "__main__":
    main()
