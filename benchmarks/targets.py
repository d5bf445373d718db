"""Check the plans proposed for targets: `python -m benchmarks.targets [--only TEXT]`.

For each case, a plan is proposed from the bundled measurements alone, compressed and scored. Its row contains the expected
score with its 90 % band, and the measured score.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.measurements import measured as measured_row
from offcomp.cli.text import format_table
from offcomp.evaluation import open_task
from offcomp.files import home_folder
from offcomp.methods import method_of_style_key, own_options
from offcomp.models.catalogue import ModelInfo
from offcomp.models.listing import model_info
from offcomp.models.loading import load
from offcomp.planning.data.tasks import find_task
from offcomp.planning.plan import Plan, make_groups
from offcomp.planning.sizes import resolved
from offcomp.planning.spectra import compute, missing
from offcomp.results.known_errors import measured_of
from offcomp.results.proposals import propose
from offcomp.results.targets import parse_target


@dataclass(frozen=True)
class Case:
    """A target, and the plan to be changed; `kinds` is empty for all linear weights, or "all" for the embeddings as well."""

    model: str
    task: str
    target: str
    kinds: str = ""
    method: str = "svd"
    grouping: str = "module"
    allocate: bool = False

    def plan(self, info: ModelInfo) -> Plan:
        """The plan whose sizes are to be chosen."""
        kinds = self.kinds.split(",")
        default = [spec for spec in info.modules if spec.default and (spec.layer is not None or self.kinds)]
        specs = default if kinds in ([""], ["all"]) else [spec for spec in default if spec.kind in kinds]
        method = method_of_style_key(self.method)
        unit = "parameters" if self.method == "svd" else "bytes"
        groups = make_groups(specs, self.grouping, method=method.name, options=own_options(method), unit=unit)
        return Plan(model=self.model, groups=groups, tasks=(self.task,))


CASES = (
    Case("minilm-l6", "similarity", "lose 1 point of similarity", allocate=True),
    Case("minilm-l6", "similarity", "lose 1 point of similarity", kinds="query,key"),
    Case("minilm-l6", "similarity", "lose 1 point of similarity", method="quantization", grouping="kind"),
    Case("minilm-l6", "similarity", "12 MB", kinds="all", method="codebook", grouping="kind"),
    Case("minilm-l6", "similarity", "12 MB", kinds="all", method="quantization", grouping="kind"),
    Case("offcomp-bert-sentiment", "sentiment-head", "lose 1 point of accuracy"),
    Case("offcomp-bert-sentiment", "sentiment-head", "lose 1 point of accuracy", allocate=True),
    Case("offcomp-gpt", "causal-prose", "lose 5 % of perplexity", allocate=True),
    Case("offcomp-gpt", "causal-prose", "lose 5 % of perplexity", kinds="query,key"),
    Case("offcomp-gpt", "causal-prose", "lose 5 % of perplexity", method="quantization", grouping="kind"),
)


def row_of(case: Case) -> dict[str, Any]:
    """The expected and the measured score of the proposed plan."""
    info, home = model_info(case.model, home_folder()), home_folder()
    plan = case.plan(info)
    if missing(plan, info, home):
        compute(plan, home)
    found = propose(plan, parse_target(case.target), info, home, measured_of([], info.fingerprint), allocate=case.allocate)
    loaded = load(case.model)
    task = open_task(find_task(case.task), loaded)
    task.prepare()  # before anything is compressed
    row = measured_row(resolved(found.plan, info), loaded, [task])
    measured, expected = row["scores"][case.task]["compressed"]["value"], found.expected
    facts: dict[str, Any] = {"model": case.model, "target": case.target, "weights": case.kinds or "all linear"}
    facts |= {"method": case.method, "allocated": case.allocate, "MB": row["sizes"]["whole"]["bytes_after"] / 1e6}
    facts |= {"ratio": row["sizes"]["chosen"]["byte_ratio"], "error": found.error, "measured error": row["relative_error"]}
    facts |= {"original": row["scores"][case.task]["original"]["value"], "expected": None, "low": None, "high": None}
    facts |= {name: getattr(expected, part) for name, part in EXPECTED.items()} if expected else {}
    return facts | {"measured": measured, "within": expected.low <= measured <= expected.high if expected else None}


EXPECTED = {"expected": "value", "low": "low", "high": "high"}


def main() -> None:
    """Print one row per case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="only cases of models whose name contains this text")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for case in CASES:
        if arguments.only in case.model:
            rows.append(row_of(case))
            print(rows[-1], flush=True)
    print(format_table(rows))


if __name__ == "__main__":
    main()
