"""How long calibrated SVD of many small matrices takes: `python -m benchmarks.calibrated_speed [--repeats 3]`.

Each of the 24 linear weights of offcomp-gpt is compressed on its own at ratio 2, in a run that is submitted to a store, with
statistics of the bundled text. "compress" is the sum over the stages of all groups; the first one includes the pass over the
text. "outputs" measures all output errors: on held-out text in a pass, and on the text used for fitting from its second moments
or, if there are none (ASVD), in a second pass.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from offcomp.cli.text import format_table
from offcomp.models.listing import model_info
from offcomp.planning.plan import Plan, make_groups
from offcomp.planning.selection import select_modules
from offcomp.results.runs import result_of
from offcomp.runs.store import RunStore


def measured(preset: str) -> dict[str, object]:
    """The row of one run, with its times in seconds."""
    with TemporaryDirectory() as folder:
        store = RunStore(Path(folder))
        info = model_info("offcomp-gpt", store.home)
        groups = make_groups(select_modules(info), "module", options={"preset": preset})
        *_, run = store.follow(store.submit(Plan(model=info.model, groups=groups, tasks=()), info))
        timings = result_of(run).timings
        compress = sum(seconds for stage, seconds in timings.items() if stage.startswith("compress "))
        return {
            "preset": preset,
            "groups": len(run.plan.groups),
            "compress s": compress,
            "outputs s": timings["measure outputs on text"],
            "total s": timings["total"],
        }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    print(format_table([measured(preset) for preset in ("asvd", "whitened") for _ in range(repeats)]))


if __name__ == "__main__":
    main()
