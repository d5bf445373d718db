"""Check estimated scores against measured ones: `python -m benchmarks.score_estimates [--measure]`.

Thirty plans that the bundled sweeps do not contain, ten for each of three models, are drawn with a fixed seed: random kinds,
layers, groupings and ratios, mostly for SVD. With --measure they are compressed and scored on the model's main task, one process
for all of them, and written to assets/measurements/score-estimates.json. Without it, the file is read. Either way, each score is
then predicted as the app predicts it, from the bundled sweeps alone, and the coverage of the 90 % bands is printed. Nothing is
tuned on these plans.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from offcomp.methods import method_of_style_key, own_options
from offcomp.models.catalogue import ModelInfo
from offcomp.planning.plan import Plan, make_groups
from offcomp.planning.sizes import predict, resolved

FILE = Path(__file__).parents[1] / "assets" / "measurements" / "score-estimates.json"
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
            generator = random.Random(f"{SEED} {info.model} {number} {attempt}")
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
    import torch

    from benchmarks.measurements import measured, rounded
    from offcomp.evaluation import open_task
    from offcomp.models.environment import environment
    from offcomp.models.loading import load
    from offcomp.planning.data.tasks import find_task

    torch.set_num_threads(threads)
    rows = []
    for model, task in TASKS.items():
        loaded = load(model)
        opened = [open_task(find_task(task), loaded)]
        opened[0].prepare()
        for plan in plans(loaded.info):
            row = rounded(measured(plan, loaded, opened))
            rows.append({"fingerprint": loaded.info.fingerprint, **row})
            figures = row["scores"][task]
            print(model, plan.groups[0].method, len(plan.groups), plan.groups[0].ratio, f"{row['relative_error']:.3f}",
                  f"{figures['paired']['difference']:+.4f}", f"{row['seconds']:.1f} s", flush=True)
    return {"schema": 1, "seed": SEED, "environment": environment(), "rows": rows}


def main() -> None:
    """Measure if requested, and compare the estimates with the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true", help="compress and score the plans again")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.measure:
        document = measure(arguments.threads)
        FILE.write_text(json.dumps(document, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
