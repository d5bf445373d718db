"""The first draft of every bundled model, run as the app runs it: `python -m benchmarks.first_drafts [MODEL ...]`.

For each task, prints the value of each method with its 95 % interval, its difference from the original, whether the task tells
the original and all methods apart, and how long the runs took. Fails unless at least one task of each draft tells all of them
apart.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from tempfile import TemporaryDirectory

import offcomp
from offcomp.cli.text import format_table
from offcomp.models.bundled_models import MODELS
from offcomp.planning.data.scores import Score
from offcomp.planning.drafts import first_draft
from offcomp.results.runs import method_title, result_of
from offcomp.results.scores import against_original, overlap, score_text, within_noise


def tells_all_apart(scores: Sequence[Score]) -> bool:
    """Return whether every method differs from the original beyond noise, and the intervals of the methods do not overlap."""
    differs = all(score.paired.interval is not None and not within_noise(score.paired.interval) for score in scores)
    return differs and not any(overlap(one, other) for i, one in enumerate(scores) for other in scores[:i])


def measured(model: str, home: str) -> bool:
    """Run the first draft of a model and print its scores. Returns whether a task tells the original and all methods apart."""
    info = offcomp.model_info(model)
    runs = [offcomp.run(plan, home=home, progress=False) for plan in first_draft(info).plans(info)]
    rows, decisive = [], []
    for task in result_of(runs[0]).scores:
        scores = [result_of(run).scores[task] for run in runs]
        decisive.append(tells_all_apart(scores))
        for run, score in zip(runs, scores, strict=True):
            rows.append(
                {
                    "task": task,
                    "method": method_title(run),
                    "original": score_text(score, "original"),
                    "compressed": score_text(score),
                    "difference": against_original(score),
                    "all apart": "yes" if decisive[-1] else "no",
                }
            )
    seconds = ", ".join(f"{method_title(run)} {result_of(run).timings['total']:.0f} s" for run in runs)
    print(f"{model}: {seconds}\n{format_table(rows)}\n", flush=True)
    return any(decisive)


def main() -> None:
    """Measure the models that are named, or all bundled ones."""
    names = sys.argv[1:] or [model.name for model in MODELS]
    with TemporaryDirectory() as home:
        undecided = [name for name in names if not measured(name, home)]
    if undecided:
        raise SystemExit(f"no task of the first draft tells original and methods apart for {', '.join(undecided)}")


if __name__ == "__main__":
    main()
