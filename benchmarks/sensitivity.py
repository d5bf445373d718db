"""Allocation by sensitivity against equal ratios and water-filled weight errors, at equal bytes.

    python -m benchmarks.sensitivity --text FILE [--models ...] [--methods ...] [--out FILE]

For each model and method, all linear weights and, unless `--linear` is passed, the word embeddings are compressed, one matrix
per group, or one kind with `--group kind`. The budget is what equal ratios store within a number of bits per weight. It is
divided in four ways: with equal ratios; by water-filling relative or absolute weight errors; and by water-filling predicted
losses, from sensitivities that are measured on FILE. The error curves are the same for all four.

FILE is calibration text whose domain differs from that of the tasks. Everything is judged on other texts: the fidelity and the
perplexity on bundled prose, and the bundled tasks, with probes kept from the original. Differences from the original are in
points of a score, or in percent of a perplexity, with 95 % intervals.

Three more tables show the assumptions: how the sensitivities at the measured ratios agree, how the predicted loss compares with
the loss measured on FILE, and which ratios the kinds of weights get. Rows are appended to the JSON file, if one is given; rows
that it contains are not measured again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from math import nan
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch

from benchmarks.measurements import rounded
from offcomp.cli.text import format_table
from offcomp.evaluation import OpenTask, open_task
from offcomp.files import read_json, write_json
from offcomp.methods import SVD, make_method, method_of_style_key, own_options
from offcomp.models.loading import LoadedModel, load
from offcomp.models.weights import substituted
from offcomp.planning.allocation import Allocation, allocated_plan, uniform, waterfill, weights_for
from offcomp.planning.data.calibration_text import CalibrationText
from offcomp.planning.data.metrics import METRICS
from offcomp.planning.data.scores import Score
from offcomp.planning.data.tasks import find_task
from offcomp.planning.error_curves import ErrorCurve, svd_curve
from offcomp.planning.grams import Grams
from offcomp.planning.plan import Plan, make_groups, members
from offcomp.planning.sizes import dtype_of, original_size
from offcomp.runs.compress import compress_group
from offcomp.runs.sensitivity import Sensitivities, compute, fidelity_task, loss_curves

TASKS = ("similarity", "sentiment", "topics")
TEXT_TASKS = {
    "minilm-l6": ("embedding-fidelity",),
    "offcomp-bert": ("masked-fidelity", "masked-prose"),
    "offcomp-gpt": ("causal-fidelity", "causal-prose"),
}
"""Model -> fidelity and perplexity on held-out text."""
BITS = {"svd": (12.0, 6.0), "codebook": (3.0, 2.0), "quantization": (4.5, 3.5)}
"""Style key of a method -> budgets in bits per weight; models are stored in 16 or 32 bits."""
WAYS = ("uniform", "relative", "frobenius", "sensitivity")


def plan_of(loaded: LoadedModel, style_key: str, arguments: argparse.Namespace) -> Plan:
    """All linear weights and, unless `--linear` is passed, the word embeddings; by default, each matrix on its own."""
    method = method_of_style_key(style_key)
    specs = [spec for spec in loaded.info.modules if spec.default and spec.layer is not None]
    specs += [] if arguments.linear else [spec for spec in loaded.info.modules if spec.kind == "word_embeddings"]
    groups = make_groups(specs, arguments.group, method=method.name, options=own_options(method), unit="bytes")
    return Plan(model=loaded.info.model, groups=groups, tasks=(), calibration=CalibrationText(text=arguments.text))


def curves_of(plan: Plan, loaded: LoadedModel, found: Sensitivities) -> list[ErrorCurve]:
    """The exact error curve of plain SVD; for another method, that of its probes."""
    if any(make_method(group.method, group.options) != SVD() for group in plan.groups):
        return [found[group.name].curve(group, loaded.info, "bytes") for group in plan.groups]
    specs = {group.name: members(group, loaded.info) for group in plan.groups}
    spectra = Grams.of_model(loaded.model).spectra([(specs[group.name], group.stack) for group in plan.groups])
    return [
        svd_curve(
            group.name,
            spectrum,
            unit="bytes",
            dtype=dtype_of(group, loaded.info),
            original_bytes=original_size(specs[group.name]).num_bytes,
        )
        for group, spectrum in zip(plan.groups, spectra, strict=True)
    ]


def divided(way: str, curves: Sequence[ErrorCurve], losses: Sequence[ErrorCurve], total: int) -> Allocation:
    """The budget water-filled in one of the WAYS."""
    if way == "sensitivity":
        return waterfill(losses, total, weights_for(losses, "frobenius"))
    return waterfill(curves, total, weights_for(curves, way))


def predicted(losses: Sequence[ErrorCurve], sizes: Sequence[int]) -> float:
    """The sum of the predicted losses at these sizes; sizes below a curve's smallest count as its smallest."""
    return sum(float(curve.errors[max(0, curve.largest_within(size))]) for curve, size in zip(losses, sizes, strict=True))


def measured(plan: Plan, loaded: LoadedModel, tasks: Sequence[OpenTask]) -> tuple[list[Score], int, float]:
    """The scores of a compressed model, its stored bytes (compressed weights only) and its mean relative error."""
    groups = [compress_group(loaded.model, loaded.info, group, seed=plan.seed, measure_outputs=False) for group in plan.groups]
    matrices = {spec: matrix for group in groups for spec, matrix in group.reconstructions.items()}
    with substituted(loaded.model, matrices):
        scores = [task.compare() for task in tasks]
    stored = sum(group.figures.num_bytes for group in groups)
    return scores, stored, float(np.mean([group.figures.relative_error for group in groups]))


def difference(score: Score) -> list[float]:
    """The difference from the original and its 95 % interval: in points, or in percent of a perplexity; or a fidelity loss."""
    paired = score.paired
    interval = paired.interval or (nan, nan)
    if METRICS[score.metric].fidelity:
        return [abs(paired.difference), *sorted(map(abs, interval))]
    scale = 100 / score.original.value if "perplexity" in score.metric else 100.0
    return [scale * value for value in (paired.difference, *interval)]


def rows_of(
    model: str, style_key: str, arguments: argparse.Namespace, home: Path, done: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """One row per budget and way, measured unless it is in `done`."""
    wanted = [(bits, way) for bits in arguments.bits or BITS[style_key] for way in WAYS]
    cell = {"model": model, "method": style_key, "group": arguments.group, "linear": arguments.linear}
    known = {(row["bits"], row["way"]) for row in done if cell.items() <= row.items()}
    if known.issuperset(wanted):
        return []
    loaded = load(model)
    plan = plan_of(loaded, style_key, arguments)
    started = perf_counter()
    found = compute(plan, home)
    seconds = perf_counter() - started
    curves = curves_of(plan, loaded, found)
    losses = loss_curves(found, curves, "bytes")
    own = fidelity_task(loaded, plan)
    tasks = [own, *(open_task(find_task(name), loaded, cache=home / "evaluations") for name in (*TEXT_TASKS[model], *TASKS))]
    for task in tasks:
        task.prepare()
    kinds = {spec.name: spec.kind for spec in loaded.info.modules}
    rows = []
    for bits, way in wanted:
        if (bits, way) in known:
            continue
        limit = int(bits / 8 * sum(spec.num_parameters for group in plan.groups for spec in members(group, loaded.info)))
        alike = uniform(curves, limit, weights_for(curves))
        allocation = alike if way == "uniform" else divided(way, curves, losses, alike.total)
        scores, stored, error = measured(allocated_plan(plan, allocation, loaded.info, "bytes"), loaded, tasks)
        shares: dict[str, list[int]] = {}
        for group, size, curve in zip(plan.groups, allocation.sizes, curves, strict=True):
            share = shares.setdefault(kinds[group.modules[0]], [0, 0])
            share[0], share[1] = share[0] + curve.original, share[1] + size
        rows.append(
            {
                **cell,
                "bits": bits,
                "way": way,
                "MB": stored / 1e6,
                "relative_error": error,
                "predicted_loss": predicted(losses, allocation.sizes),
                "loss": difference(scores[0])[0],
                "ratios": {kind: before / after for kind, (before, after) in shares.items()},
                "scores": {each.task.name: difference(score) for each, score in zip(tasks[1:], scores[1:], strict=True)},
                "probes": [[probe.sensitivity for probe in found[group.name].probes] for group in plan.groups],
                "seconds": seconds,
            }
        )
        print(json.dumps(rounded({name: value for name, value in rows[-1].items() if name != "probes"})), flush=True)
    return rows


def shown(values: Sequence[float], name: str) -> str:
    """A difference and its interval."""
    value, low, high = values
    return f"{value:.3g} [{low:.3g}, {high:.3g}]" if name.endswith("fidelity") else f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the tables of every model, and the tables on the assumptions."""
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        names = ("model", "method", "group", "bits", "way", "MB", "relative_error")
        print(format_table([{n: row[n] for n in names} | {n: shown(v, n) for n, v in row["scores"].items()} for row in own]))
        print()
    print(
        format_table(
            [{n: row[n] for n in ("model", "method", "group", "bits", "way", "predicted_loss", "loss")} for row in rows]
        )
    )
    print()
    print(format_table([{n: row[n] for n in ("model", "method", "group", "bits", "way")} | row["ratios"] for row in rows]))
    print()
    agreement = []
    for model, method in dict.fromkeys((row["model"], row["method"]) for row in rows):
        row = next(row for row in rows if (row["model"], row["method"]) == (model, method))
        logs = np.log([values for values in row["probes"] if len(values) == max(map(len, row["probes"]))])
        for later in range(1, logs.shape[1]):
            steps = logs[:, later] - logs[:, later - 1]
            agreement.append(
                {
                    "model": model,
                    "method": method,
                    "probes": f"{later} to {later + 1}",
                    "median factor": float(np.exp(np.median(steps))),
                    "spread (log)": float(steps.std()),
                    "spread over groups (log)": float(logs[:, later].std()),
                    "correlation of logs": float(np.corrcoef(logs[:, later], logs[:, later - 1])[0, 1]),
                    "seconds": row["seconds"],
                }
            )
    print(format_table(agreement))


def main() -> None:
    """Measure what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True, help="calibration text, as for 'offcomp plan --calibration'")
    parser.add_argument("--models", nargs="+", default=[*TEXT_TASKS], choices=[*TEXT_TASKS])
    parser.add_argument("--methods", nargs="+", default=[*BITS], choices=[*BITS])
    parser.add_argument("--bits", nargs="+", type=float, help="bits per weight, instead of the budgets of each method")
    parser.add_argument("--group", default="module", choices=("module", "kind"), help="what is compressed together")
    parser.add_argument("--linear", action="store_true", help="leave the word embeddings out")
    parser.add_argument("--out", type=Path, help="JSON file of the rows")
    parser.add_argument("--home", type=Path, help="folder in which sensitivities are cached; by default, a temporary one")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = (read_json(arguments.out) or []) if arguments.out else []
    with TemporaryDirectory() as scratch:
        for model in arguments.models:
            for style_key in arguments.methods:
                rows += rounded(rows_of(model, style_key, arguments, arguments.home or Path(scratch), rows))
                if arguments.out:
                    write_json(arguments.out, rows)
    show([row for row in rows if row["model"] in arguments.models and row["method"] in arguments.methods])


if __name__ == "__main__":
    main()
