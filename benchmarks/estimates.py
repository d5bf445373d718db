"""The cost that `offcomp.planning.cost` predicts for runs, compared with the measured cost: `python -m benchmarks.estimates`.

Each run has its own worker and an empty home folder, so that no score of the original model is cached. Its time is the sum over
its stages; its memory is the largest resident size of its process, sampled every 50 ms.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from offcomp.cli.text import format_table
from offcomp.files import read_json
from offcomp.methods import method_of_style_key, own_options
from offcomp.models.listing import model_info
from offcomp.planning.cost import estimate
from offcomp.planning.plan import Plan, make_groups
from offcomp.planning.sizes import predict
from offcomp.results.runs import result_of
from offcomp.runs.store import RunStore

LINEAR = ("query", "key", "value", "attention_output", "ffn_in", "ffn_out")
JOBS: tuple[tuple[str, str, Sequence[str], float, tuple[str, ...]], ...] = (
    ("minilm-l6", "svd", ("query", "key"), 3.0, ("sentiment",)),
    ("minilm-l6", "svd", LINEAR, 2.0, ("sentiment", "topics", "similarity")),
    ("minilm-l6", "autoencoder", ("key",), 3.0, ("sentiment",)),
    ("minilm-l6", "residual", ("ffn_in",), 3.0, ()),
    ("minilm-l6", "codebook", ("word_embeddings",), 3.0, ()),
    ("offcomp-bert", "svd", LINEAR, 2.0, ("masked-prose",)),
    ("offcomp-gpt", "svd", LINEAR, 2.0, ("causal-prose",)),
)


def measure(model: str, style_key: str, kinds: Sequence[str], ratio: float, tasks: tuple[str, ...]) -> dict[str, object]:
    """Measure one run with one group per kind."""
    with TemporaryDirectory() as folder:
        store, method = RunStore(Path(folder)), method_of_style_key(style_key)
        info = model_info(model, store.home)
        specs = [spec for spec in info.modules if spec.kind in kinds]
        groups = make_groups(specs, "kind", method=method.name, options=own_options(method), ratio=ratio)
        plan = Plan(model=model, groups=groups, tasks=tasks)
        expected = estimate(plan, info, predict(plan, info))
        run = store.submit(plan, info)
        worker, most = psutil.Process(read_json(run.folder / "worker.json")["pid"]), 0
        while not run.ended:
            with suppress(psutil.Error):  # the worker may just have ended
                most = max(most, worker.memory_info().rss)
            time.sleep(0.05)
            run = store.get(run.id)
        assert run.status == "done", run.error
        timings = result_of(run).timings
    for name, seconds in expected.stages.items():
        print(f"{model} {style_key}, {name}: expected {seconds:.1f} s, took {timings[name]:.1f} s", file=sys.stderr)
    return {
        "model": model,
        "method": style_key,
        "kinds": "all linear" if kinds == LINEAR else ", ".join(kinds),
        "tasks": len(tasks),
        "expected s": expected.seconds,
        "seconds": sum(timings[name] for name in expected.stages),
        "expected MB": expected.memory / 1e6,
        "MB": most / 1e6,
    }


def main() -> None:
    """Print the table."""
    print(format_table([measure(*job) for job in JOBS]))


if __name__ == "__main__":
    main()
