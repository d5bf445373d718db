"""How long calibrated SVD of many small matrices takes: `python -m benchmarks.calibrated_speed [--repeats 3] [--model NAME]`.

Each linear weight of a model (24 in offcomp-gpt) is compressed on its own at ratio 2, in a run that is submitted to a store,
with statistics of the bundled text: of the original model or, with `follow`, of the model with the earlier weights compressed.
"compress" is the sum over the stages of all groups; the first one includes the pass over the text. "outputs" is the time to
measure all output errors: those on held-out text take one pass, and those on the text used for fitting are computed from its
second moments or, if there are none (as with ASVD or `follow`), in a second pass.
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

OPTIONS = {
    "asvd": {"preset": "asvd"},
    "whitened": {"preset": "whitened"},
    "whitened, follow": {"preset": "whitened", "follow": True, "toward_original": False},
    "whitened, toward original": {"preset": "whitened", "follow": True},
}
"""Name -> options of SVD."""


def measured(model: str, name: str) -> dict[str, object]:
    """The row of one run, with its times in seconds."""
    with TemporaryDirectory() as folder:
        store = RunStore(Path(folder))
        info = model_info(model, store.home)
        groups = make_groups(select_modules(info), "module", options=OPTIONS[name])
        *_, run = store.follow(store.submit(Plan(model=info.model, groups=groups, tasks=()), info))
        timings = result_of(run).timings
        compress = sum(seconds for stage, seconds in timings.items() if stage.startswith("compress "))
        return {
            "SVD": name,
            "groups": len(run.plan.groups),
            "compress s": compress,
            "outputs s": timings["measure outputs on text"],
            "total s": timings["total"],
        }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="offcomp-gpt")
    asked = parser.parse_args()
    print(format_table([measured(asked.model, name) for name in OPTIONS for _ in range(asked.repeats)]))


if __name__ == "__main__":
    main()
