"""How much memory a run takes in addition to its process and its model: `python -m benchmarks.memory`.

The promise: in addition to the worker's memory right after its imports and to the model, a run needs at most six times the size
of its largest group, as a stacked matrix in float32. This holds if a group is at least as large as the second moments of its
members (8 bytes times the square of a side); a single FFN weight with a gradient-based metric is smaller. If a model takes at
most a quarter of the free memory, it stays loaded, and text statistics may take another quarter; this benchmark measures runs
in which this is not the case (`--free-memory` sets the free memory that they see). It prints two tables:

1. For each method and shape, a separate process fits a random matrix of that shape, at ratio 2 (codebook, trellis and
   quantization: 8 in bytes). "peak" is the peak memory (resident set) during the fit minus the memory before the matrix was
   created, as a multiple of the matrix. `--large` adds an FFN weight of Llama-7B for the SVD and the codebook.
2. For each method, a separate process compresses a model with BERT-base's shapes and random weights, as the worker does, with
   one group per kind, at the same ratios; methods that use calibration text come last. "peak" is the peak memory minus the
   memory after the imports and, if the run loads the model (for text or tasks), minus the model, as a multiple of the largest
   group. The size of the model is the memory that loading it adds: weights, modules and tokenizer. `--model`, `--grouping`,
   `--modules` and `--tasks` change the run.

Freed blocks that the allocator has not returned to the system are included. The peak is read from VmHWM, which Linux resets on
request (`man proc_pid_clear_refs`); this benchmark does not work on other systems. `--part N` prints one table, `--methods a,b`
only these rows, `--shapes RxC,..` only these shapes. Everything together takes about an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from offcomp.cli.text import format_table
from offcomp.files import write_json
from offcomp.models.listing import model_info
from offcomp.planning.plan import GROUPINGS, Plan, make_groups
from offcomp.runs.result import GroupResult
from offcomp.runs.worker_environment import RETURN_MEMORY

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "svd": ("svd", {}),
    "svd direction": ("svd", {"preset": "direction"}),
    "banaei2023": ("autoencoder", {"epochs": 1}),  # takes as much memory as 30 epochs
    "residual": ("autoencoder", {"preset": "residual", "rounds": 3, "steps": 21}),  # instead of 8 and 120
    "codebook": ("autoencoder", {"preset": "codebook", "iterations": 2}),  # instead of 15
    "trellis": ("autoencoder", {"preset": "trellis"}),
    "kronecker": ("kronecker", {}),
    "tucker": ("tucker", {}),
    "pruning": ("pruning", {}),
    "quantization": ("quantization", {}),
    "quantization rank": ("quantization", {"rank": 16}),
}
CALIBRATED: dict[str, tuple[str, dict[str, Any]]] = {
    "svd whitened": ("svd", {"preset": "whitened"}),
    "svd two_sided": ("svd", {"preset": "two_sided"}),
    "svd fwsvd_columns": ("svd", {"preset": "fwsvd_columns"}),
    "codebook feedback": ("autoencoder", {"preset": "codebook", "iterations": 2, "feedback": True}),
    "trellis feedback": ("autoencoder", {"preset": "trellis", "feedback": True}),
    "quantization feedback": ("quantization", {"rank": 16, "feedback": True}),
    "residual whitened": ("autoencoder", {"preset": "residual", "metric": "whitened", "rounds": 3, "steps": 21}),
    "banaei2023 fisher": ("autoencoder", {"epochs": 1, "coefficients": "fisher_entries"}),
}
SHAPES = ((12288, 1024), (4096, 4096), (2048, 2048), (3072, 768))
LARGE = (11008, 4096)
OF_LARGE = ("svd", "codebook")
RATIO = 2.0
BASE = "bert-base"
PROMISED = 6
IMPORTED_BY_THE_WORKER = ("offcomp.evaluation", "offcomp.models.offloading", "offcomp.runs.compress", "scipy.linalg")
ALL, LINEAR = "all", "linear"
STATUS = Path("/proc/self/status")
KILOBYTE = 1024
FLOAT32_BYTES = 4


def held(field: str = "VmRSS") -> int:
    """Memory of this process in bytes: current, or with VmHWM the peak since the last reset."""
    found = re.search(rf"^{field}:\s+(\d+) kB", STATUS.read_text(encoding="ascii"), re.MULTILINE)
    assert found, f"{STATUS} has no {field}"
    return int(found[1]) * KILOBYTE


def reset_peak() -> None:
    """Reset VmHWM to the current memory."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def unit_of(name: str) -> str:
    """The unit of the ratio. Packed numbers count as parameters too, so methods that pack numbers save only bytes."""
    return "bytes" if name.split(maxsplit=1)[0] in ("codebook", "trellis", "quantization") else "parameters"


def measure_fit(name: str, rows: int, cols: int) -> dict[str, Any]:
    """One row of table 1, measured in this process."""
    import torch

    from offcomp.methods import make_method
    from offcomp.numerics.accounting import Budget

    method, budget = make_method(*METHODS[name]), Budget(int(rows * cols / RATIO), unit_of(name))
    import_module(f"{type(method).__module__.rpartition('.')[0]}.fit")
    before, started = held(), perf_counter()
    matrix = torch.randn(rows, cols, generator=torch.Generator().manual_seed(0))
    reset_peak()
    method.fit(matrix, budget)
    peak = (held("VmHWM") - before) / matrix.nbytes
    return {
        "method": name,
        "matrix": f"{rows} x {cols}",
        "peak": peak,
        "promised": PROMISED,
        "seconds": perf_counter() - started,
    }


def make_model(folder: Path) -> None:
    """Save a BERT-base model with random weights and the tokenizer of MiniLM."""
    import torch
    import transformers

    from offcomp.models.loading import load

    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig()).save_pretrained(folder)
    tokenizer = load("minilm-l6").tokenizer
    assert tokenizer is not None
    tokenizer.save_pretrained(folder)


def measure_run(name: str, folder: Path, settings: Sequence[str]) -> dict[str, Any]:
    """One row of table 2, measured by calling the worker's `work` in this process."""
    free_memory, model, grouping, modules, *tasks = settings
    from offcomp.models.loading import load
    from offcomp.runs import worker

    for module in IMPORTED_BY_THE_WORKER:
        import_module(module)
    worker.free_memory = lambda: int(free_memory)
    before, started = held(), perf_counter()
    path = str(folder / model) if model == BASE else model
    if name in CALIBRATED or tasks:  # otherwise the run does not load the model
        loaded = load(path)
        model_bytes = held() - before
        del loaded
    else:
        model_bytes = 0
    reset_peak()
    groups = run_on(path, name, folder, grouping, modules, *tasks)
    largest = FLOAT32_BYTES * max(group.rows * group.cols for group in groups)
    peak = held("VmHWM") - before - model_bytes
    return {
        "method": name,
        "groups": len(groups),
        "model MB": model_bytes / 1e6,
        "largest group MB": largest / 1e6,
        "peak MB": peak / 1e6,
        "peak": peak / largest,
        "promised": PROMISED,
        "seconds": perf_counter() - started,
    }


def run_on(model: str, name: str, folder: Path, grouping: str, modules: str, *tasks: str) -> list[GroupResult]:
    """Compress a model as the worker does; returns the results of its groups."""
    from offcomp.runs import worker as execute

    method, options = (METHODS | CALIBRATED)[name]
    info = model_info(model, folder)
    specs = [spec for spec in info.modules if spec.default]
    if modules == LINEAR:
        specs = [spec for spec in specs if spec.kind != "word_embeddings"]
    elif modules != ALL:
        specs = [info.module(module) for module in modules.split(",")]
    unit = unit_of(name)
    ratio = RATIO * FLOAT32_BYTES if unit == "bytes" else RATIO
    groups = make_groups(specs, grouping, method=method, options=options, ratio=ratio, unit=unit)
    with TemporaryDirectory(dir=folder) as home:
        run = Path(home) / "runs" / "run"
        run.mkdir(parents=True)
        write_json(run / "plan.json", Plan(model=model, groups=groups, tasks=tasks).to_dict())
        worker = execute.Worker(run)
        execute.work(worker)
    return worker.groups


def in_a_process(arguments: Sequence[str]) -> dict[str, Any]:
    """A row measured in a separate process, which prints it on its last line; earlier lines are ignored."""
    command = [sys.executable, "-m", "benchmarks.memory", "--child", *arguments]
    environment = os.environ | RETURN_MEMORY
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return json.loads(output.strip().splitlines()[-1])


def fits(names: Sequence[str], shapes: Sequence[tuple[int, int]], large: bool) -> None:
    """Print table 1."""
    wanted = [(name, shape) for shape in shapes for name in names]
    wanted += [(name, LARGE) for name in names if large and name in OF_LARGE]
    rows = []
    for name, shape in wanted:
        rows.append(in_a_process([name, *map(str, shape)]))
        print(f"{name} {shape}: {rows[-1]['peak']:.2f}", file=sys.stderr)
    print(format_table(rows))


def runs(names: Sequence[str], *settings: str) -> None:
    """Print table 2."""
    with TemporaryDirectory() as folder:
        in_a_process(["models", folder])
        rows = []
        for name in names:
            rows.append(in_a_process([name, folder, *settings]))
            print(f"{name}: {rows[-1]['peak']:.2f}", file=sys.stderr)
        print(format_table(rows))


def child(arguments: Sequence[str]) -> dict[str, Any]:
    """Do the work of a separate process, given its command-line arguments. Returns the row to be printed."""
    if len(arguments) == 3:
        return measure_fit(arguments[0], int(arguments[1]), int(arguments[2]))
    name, folder, *rest = arguments
    if name == "models":
        make_model(Path(folder) / BASE)
        return {}
    return measure_run(name, Path(folder), rest)


def main() -> None:
    """Print the tables."""
    flags = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    flags.add_argument("--part", type=int, choices=(1, 2))
    flags.add_argument("--large", action="store_true")
    flags.add_argument("--methods", type=lambda text: text.split(","), default=[*METHODS, *CALIBRATED])
    flags.add_argument("--shapes", type=lambda text: [tuple(map(int, s.split("x"))) for s in text.split(",")], default=SHAPES)
    flags.add_argument("--free-memory", default="0", help="free memory that the runs see, in bytes")
    flags.add_argument("--model", default=BASE)
    flags.add_argument("--grouping", choices=tuple(GROUPINGS), default="kind")
    flags.add_argument("--modules", default=ALL, help="all, linear, or names such as query.0,ffn_in.11")
    flags.add_argument("--tasks", type=lambda text: text.split(","), default=[])
    flags.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    asked = flags.parse_args()
    if asked.child:
        print(json.dumps(child(asked.child)))
        return
    if asked.part in (None, 1):
        fits([name for name in METHODS if name in asked.methods], asked.shapes, asked.large)
    if asked.part in (None, 2):
        names = [name for name in (*METHODS, *CALIBRATED) if name in asked.methods]
        runs(names, asked.free_memory, asked.model, asked.grouping, asked.modules, *asked.tasks)


if __name__ == "__main__":
    main()
