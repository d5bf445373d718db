"""How long typical runs take on MiniLM-L6, from submission to result: `python -m benchmarks.main_job`.

Each run loads the model, scores it, compresses it and scores it again, in its own worker with an empty home folder.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from offcomp.cli.text import format_table
from offcomp.models.listing import model_info
from offcomp.planning.plan import Plan, make_groups
from offcomp.runs.result import overall_error
from offcomp.runs.store import RunStore

MODEL = "minilm-l6"
LINEAR = ("query", "key", "value", "attention_output", "ffn_in", "ffn_out")
JOBS = (
    ("svd", LINEAR, 2.0),
    ("autoencoder", ("key",), 3.0),
    ("autoencoder", ("ffn_in",), 3.0),
    ("autoencoder", ("ffn_out",), 3.0),
)


def measure(method: str, kinds: Sequence[str], ratio: float) -> dict[str, object]:
    """Run one group per kind, and report its times."""
    with TemporaryDirectory() as folder:
        store = RunStore(Path(folder))
        info = model_info(MODEL, store.home)
        specs = [spec for spec in info.modules if spec.kind in kinds]
        started = time.perf_counter()
        run = store.submit(Plan(model=MODEL, groups=make_groups(specs, "kind", method=method, ratio=ratio)), info)
        while not run.ended:
            time.sleep(0.05)
            run = store.get(run.id)
        seconds = time.perf_counter() - started
    assert run.result is not None, run.status
    groups = run.result.groups
    return {
        "method": method,
        "kinds": "all linear" if kinds == LINEAR else ", ".join(kinds),
        "ratio": ratio,
        "total s": seconds,
        "load s": run.result.timings["load the model"],
        "compress s": sum(group.seconds for group in groups),
        "relative error": overall_error(groups),
        "accuracy": run.result.scores["sentiment"].compressed.value,
    }


def main() -> None:
    """Print the table."""
    print(format_table([measure(*job) for job in JOBS]))


if __name__ == "__main__":
    main()
