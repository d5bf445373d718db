"""Generate the files of the Start page: `python -m benchmarks.start [TASK ...]` writes assets/start.

For each task, one model is compressed by SVD, the paper's autoencoder and trellis codes to every size of the slider: all linear
weights and word embeddings, one group per kind, at equal bytes, with numbers stored as int8. Each is an ordinary run, scored on
the task. Answers to the example texts come from `runs.live_answers`. The autoencoder is trained with its fast options, and its
latents are stored as 8-bit codes, since int8 with one scale per row would ruin them.
`--home FOLDER` keeps the runs, and uses those that are there. `--check` writes nothing and prints the largest difference from
the stored files.

The weights of some models are bundled as well, in assets/start/runs, so that they can read a sentence of the visitor's own at
once: those of the autoencoders and trellis codes of both small models from 12x on, which take long to fit. All files together
take up at most 6 MB.
"""

from __future__ import annotations

import argparse
import json
import shutil
from base64 import b64encode
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

import offcomp
from offcomp.errors import InputError
from offcomp.methods import method_of_style_key, own_options
from offcomp.models.catalogue import ModelInfo
from offcomp.models.environment import environment
from offcomp.models.listing import model_info
from offcomp.models.loading import load
from offcomp.models.weights import read
from offcomp.planning.plan import Plan, make_groups
from offcomp.planning.sizes import predict
from offcomp.results.start import FILES, FOLDER, RATIOS, ZERO, read_demo
from offcomp.runs.live_answers import answer
from offcomp.runs.result import overall_error
from offcomp.runs.store import Run

STYLE_KEYS = ("svd", "autoencoder", "trellis")
TASKS = {"similarity": "similarity", "sentiment": "sentiment-head", "next": "causal-prose"}
TEXTS = {
    "similarity": (
        "It will rain tomorrow.",
        "A cat sleeps on the sofa.",
        "The market fell sharply today.",
        "He plays the guitar on stage.",
        "She baked bread this morning.",
        "A kitten naps on the couch.",
        "Shares lost value this afternoon.",
        "The forecast promises showers.",
    ),
    "sentiment": (
        "I expected little, and it was a delight.",
        "Nobody should miss this charming little story.",
        "The film never finds its feet.",
        "A warm, funny and quietly moving film.",
        "The plot drags and the jokes fall flat.",
    ),
    "next": (
        "the city of new",
        "the united",
        "at the end",
        "los",
        "the prime",
    ),
}
NUM_CHOSEN = 5
BUNDLED = {kind: dict.fromkeys(("autoencoder", "trellis"), (12.0, 20.0, 30.0)) for kind in ("sentiment", "next")}
"""Task -> style key -> sizes whose weights are bundled."""
MODULE = "query.0"
ROWS, COLS = 48, 72
LIMIT = 3.0
"""The pictures' colours end at this many times the root mean square of the cells."""


def plan_of(info: ModelInfo, style_key: str, ratio: float, task: str) -> Plan:
    """The plan of one method and size."""
    method = method_of_style_key(style_key)
    options = own_options(method) | (method.fast_options | {"latent_bits": 8} if style_key == "autoencoder" else {})
    specs = [spec for spec in info.modules if spec.default]
    groups = make_groups(specs, "kind", method=method.name, options=options, ratio=ratio, unit="bytes", dtype="int8")
    return Plan(model=info.model, groups=groups, tasks=(task,))


def picture(matrix: Tensor, limit: float) -> str:
    """The first entries of a matrix as a picture; see `results.start.Demo`."""
    cells = matrix[:ROWS, :COLS].double() / limit
    return b64encode((ZERO * (1 + cells.clamp(-1, 1))).round().to(torch.uint8).numpy().tobytes()).decode()


def answers_of(found: dict[str, Any], which: str) -> list[dict[str, Any]]:
    """The answers to the chosen texts by the "original" or the "compressed" model, with shares rounded to 4 digits."""
    if "similarities" in found:
        return [{"similarities": [round(share, 4) for share in row]} for row in found["similarities"][which][:NUM_CHOSEN]]
    answers = []
    for text in found["texts"][:NUM_CHOSEN]:
        said = dict(text[which])
        if "probabilities" in said:
            said = {"probabilities": {name: round(share, 4) for name, share in said["probabilities"].items()}}
        else:
            said["next"] = [[token, round(share, 4)] for token, share in said["next"]]
        answers.append(said)
    return answers


def score_of(run: Run, task: str) -> dict[str, Any]:
    """The score of a run, without its examples."""
    assert run.result is not None
    left_out = ("flips", "changes", "continuations", "labels", "token_accuracy", "protocol", "settings", "columns", "rows")
    return {name: value for name, value in run.result.scores[task].to_dict().items() if name not in left_out}


def step_of(info: ModelInfo, plan: Plan, kind: str, *, limit: float, home: Path) -> dict[str, Any]:
    """Run a plan and describe the compressed model."""
    run = offcomp.run(plan, home=home, progress=False)
    assert run.result is not None
    loaded = load(info.model)
    found = answer({"kind": "texts", "run": run.id, "texts": list(TEXTS[kind])}, loaded, home)
    spec = next(spec for spec in info.modules if spec.name == MODULE)
    return {
        "ratio": plan.groups[0].ratio,
        "run": run.id,
        "num_bytes": sum(group.num_bytes for group in run.result.groups),
        "relative_error": overall_error(run.result.groups),
        "num_groups": len(run.result.groups),
        "num_whole": sum(group.form == "dense" for group in run.result.groups),
        "score": score_of(run, TASKS[kind]),
        "answers": answers_of(found, "compressed"),
        "picture": picture(read(loaded.model, spec), limit),
    }


def lane_of(info: ModelInfo, style_key: str, kind: str, limit: float, home: Path) -> dict[str, Any]:
    """One method at every size."""
    plans = {ratio: plan_of(info, style_key, ratio, TASKS[kind]) for ratio in RATIOS[1:]}
    lane: dict[str, Any] = {"style_key": style_key, "plan": plans[RATIOS[1]].to_dict(), "steps": [], "faults": {}}
    for ratio, plan in plans.items():
        try:
            predict(plan, info)
            lane["steps"].append(step_of(info, plan, kind, limit=limit, home=home))
        except InputError as error:
            lane["faults"][f"{ratio:g}"] = str(error)
        print(kind, style_key, ratio, lane["steps"][-1]["score"]["compressed"] if lane["steps"] else lane["faults"], flush=True)
    return lane


def demo_of(kind: str, home: Path) -> dict[str, Any]:
    """The whole file of one task."""
    loaded = load(Path(FILES[kind]).stem)
    info = loaded.info
    spec = next(spec for spec in info.modules if spec.name == MODULE)
    cells = read(loaded.model, spec)[:ROWS, :COLS]
    limit = LIMIT * float(cells.double().square().mean().sqrt())
    found = answer({"kind": "texts", "run": None, "texts": list(TEXTS[kind])}, loaded, home)
    lanes = [lane_of(info, style_key, kind, limit, home) for style_key in STYLE_KEYS]
    return {
        "model": info.model,
        "task": TASKS[kind],
        "texts": list(TEXTS[kind]),
        "num_chosen": NUM_CHOSEN,
        "module": MODULE,
        "rows": ROWS,
        "cols": COLS,
        "limit": limit,
        "original": {
            "num_bytes": sum(spec.num_bytes for spec in info.modules if spec.default),
            "score": lanes[0]["steps"][0]["score"]["original"],
            "answers": answers_of(found, "original"),
            "picture": picture(cells, limit),
        },
        "lanes": lanes,
        "environment": environment(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def bundle(kind: str, made: dict[str, Any], home: Path) -> None:
    """Bundle the weights of some steps: their runs without a task. Adds the runs' ids to the steps."""
    for lane in made["lanes"]:
        for step in lane["steps"]:
            if step["ratio"] not in BUNDLED.get(kind, {}).get(lane["style_key"], ()):
                continue
            plan = plan_of(model_info(made["model"]), lane["style_key"], step["ratio"], made["task"]).replace(tasks=())
            run = offcomp.run(plan, home=home, progress=False)
            target = FOLDER / "runs" / run.id
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(run.folder / "groups", target / "groups", copy_function=shutil.copyfile)
            shutil.copyfile(run.folder / "run.json", target / "run.json")
            step["stored"] = run.id


def remove_unused() -> None:
    """Remove bundled runs that no file mentions."""
    stored = {step.stored for kind in FILES for lane in read_demo(kind).lanes for step in lane.steps}
    for folder in (FOLDER / "runs").iterdir():
        if folder.name not in stored:
            shutil.rmtree(folder)


def numbers(value: Any) -> Iterator[float]:
    """All numbers in a JSON value, in order."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, Sequence) and not isinstance(value, str):
        for part in value:
            yield from numbers(part)
    elif isinstance(value, int | float):
        yield float(value)


def largest_difference(kind: str, made: dict[str, Any]) -> float:
    """The largest difference between a number in the stored file and the same number made afresh."""
    stored, fresh = (list(numbers(each["lanes"])) for each in (read_demo(kind).to_dict(), made))
    if len(stored) != len(fresh):
        raise SystemExit(f"{FILES[kind]} has {len(stored)} numbers, but {len(fresh)} were made afresh")
    return max(abs(first - second) for first, second in zip(stored, fresh, strict=True))


def main() -> None:
    """Write or check the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", choices=[*FILES, []], metavar="TASK", help=f"only these: {', '.join(FILES)}")
    parser.add_argument("--home", type=Path, help="folder for the runs")
    parser.add_argument("--check", action="store_true", help="compare with the stored files instead of writing them")
    asked = parser.parse_args()
    with TemporaryDirectory() as scratch:
        for kind in asked.tasks or FILES:
            made = demo_of(kind, asked.home or Path(scratch))
            if asked.check:
                print(f"{FILES[kind]}: largest difference {largest_difference(kind, made):g}")
                continue
            bundle(kind, made, asked.home or Path(scratch))
            path = FOLDER / FILES[kind]
            path.write_text(json.dumps(made, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
            print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")
    if not asked.check:
        remove_unused()


if __name__ == "__main__":
    main()
