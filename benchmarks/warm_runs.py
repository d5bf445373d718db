"""How long a run takes from its submission: `python -m benchmarks.warm_runs [--model minilm-l6] [--repeats 3]`.

Each run compresses all query and key matrices to a third of their size by SVD, and scores a task. A cold run is carried out by
a new process; the first run of a resident waits until the resident has loaded the model, and the next runs start in its forks.
Every run has a new seed, so none is a copy of an earlier one; the original model's predictions are computed beforehand.

Prints the seconds until the run starts to compute (its first stage after loading) and until it is done, and the ratio of a cold
run's time to these.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from offcomp.cli.text import format_table
from offcomp.models.listing import model_info
from offcomp.planning.plan import Plan, make_groups
from offcomp.planning.selection import select_modules
from offcomp.runs.resident import RESIDENT_VARIABLE
from offcomp.runs.store import RunStore

WAITING = ("queued", "load the model")
REST = 0.01


@dataclass(frozen=True)
class Times:
    """Seconds from submission until a run starts to compute, and until it is done."""

    computes: float
    done: float


def timed(store: RunStore, plan: Plan) -> Times:
    """Carry out a plan, and measure its times."""
    info = model_info(plan.model, store.home)
    began, computes = time.perf_counter(), 0.0
    run = store.submit(plan, info)
    while not run.ended:
        time.sleep(REST)
        run = store.get(run.id)
        if not computes and run.progress and run.progress.stage not in WAITING:
            computes = time.perf_counter() - began
    if run.status != "done":
        raise SystemExit(f"the run is {run.status}: {run.error}")
    return Times(computes, time.perf_counter() - began)


def main() -> None:
    """Measure, and print the table."""
    flags = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    flags.add_argument("--model", default="minilm-l6")
    flags.add_argument("--task", default="sentiment")
    flags.add_argument("--repeats", type=int, default=3, help="runs of each kind but the first of a resident")
    asked_for = flags.parse_args()
    with TemporaryDirectory() as folder:
        store = RunStore(Path(folder) / "home")
        os.environ["OFFCOMP_HOME"] = str(store.home)
        groups = make_groups(select_modules(model_info(asked_for.model, store.home), "query,key"), "kind", ratio=3.0)
        plans = (Plan(model=asked_for.model, groups=groups, tasks=(asked_for.task,), seed=seed) for seed in range(1000))
        os.environ[RESIDENT_VARIABLE] = "0"
        timed(store, next(plans))  # computes the original's predictions
        cold = [timed(store, next(plans)) for _ in range(asked_for.repeats)]
        os.environ[RESIDENT_VARIABLE] = "1"
        first = [timed(store, next(plans))]
        later = [timed(store, next(plans)) for _ in range(asked_for.repeats)]
    whole = median(times.done for times in cold)
    rows = [
        {
            "run": name,
            "runs": len(times),
            "computes after": f"{median(each.computes for each in times):.2f} s",
            "done after": f"{median(each.done for each in times):.2f} s",
            "fastest": f"{min(each.done for each in times):.2f} s",
            "cold / this": f"{whole / median(each.done for each in times):.1f}",
        }
        for name, times in (("cold", cold), ("first of a resident", first), ("next of a resident", later))
    ]
    print(format_table(rows))


if __name__ == "__main__":
    main()
