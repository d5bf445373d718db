"""A race: SVD and the paper's autoencoder compress the same matrix to the same size, and you watch the autoencoder learn.

A race is two ordinary runs, which differ in nothing but the method. Does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from offcomp.errors import InputError
from offcomp.models.catalogue import ModelInfo
from offcomp.planning.drafts import default_tasks
from offcomp.planning.plan import Plan, make_groups
from offcomp.planning.sizes import predict
from offcomp.results.paired import paired_difference, same_test
from offcomp.results.runs import result_of
from offcomp.results.scores import (
    METRICS,
    metric_of,
    on_task,
    overlap,
    score_text,
    sentence_start,
    task_title,
    value_of,
    within_noise,
    within_sentence,
)
from offcomp.results.sentences import smaller
from offcomp.runs.frames import MAX_ENTRIES, Frame, Recording, read_frames
from offcomp.runs.store import Run, RunStore

RUNNERS = {"svd": "SVD", "autoencoder": "Autoencoder"}
"""Style key -> the name of each method that races."""
RATIO = 3.0
BRIEF_SECONDS = 5.0
"""The matrix raced by default is the one that takes longest among those that take at most this long on an idle machine."""
WORST = 1.0
"""The relative error of storing zeros."""


@dataclass(frozen=True)
class Race:
    """The two runs of a race, and their frames; None if a run has recorded none so far."""

    svd: Run
    autoencoder: Run
    svd_frames: Recording | None
    frames: Recording | None

    @property
    def runs(self) -> tuple[Run, Run]:
        """SVD's run, then the autoencoder's."""
        return self.svd, self.autoencoder

    @property
    def key(self) -> str:
        """The ids of both runs, as in a link."""
        return f"{self.svd.id},{self.autoencoder.id}"

    @property
    def ended(self) -> bool:
        """Whether both runs have ended."""
        return all(run.ended for run in self.runs)

    @property
    def decided(self) -> bool:
        """Whether both runs are done, so that the race has a result."""
        return all(run.status == "done" for run in self.runs)

    @property
    def shown(self) -> tuple[Frame, ...]:
        """The autoencoder's frames so far, one per epoch."""
        return self.frames.epochs if self.frames else ()

    @property
    def epochs(self) -> int:
        """The number of epochs for which the autoencoder trains."""
        return int(self.autoencoder.plan.groups[0].options.get("epochs", 30))

    @property
    def svd_error(self) -> float | None:
        """The relative error of SVD; None until it is known."""
        if self.svd.status == "done":
            return result_of(self.svd).groups[0].relative_error
        return self.svd_frames.stored.relative_error if self.svd_frames and self.svd_frames.stored else None


def race_plans(info: ModelInfo, module: str, ratio: float) -> dict[str, Plan]:
    """The plans of a race, by style key: the same matrix, size and tasks. Raises ModelError for an unknown module."""
    spec, tasks = info.module(module), default_tasks(info)
    return {
        name: Plan(model=info.model, groups=make_groups([spec], "module", method=name, ratio=ratio), tasks=tasks)
        for name in RUNNERS
    }


def racing_modules(info: ModelInfo) -> list[str]:
    """The names of the modules that can race, in model order: those for which pictures are recorded."""
    return [spec.name for spec in info.modules if spec.default and spec.rows * spec.cols <= MAX_ENTRIES]


def default_module(info: ModelInfo) -> str:
    """The module that keeps the autoencoder busy for longest within `BRIEF_SECONDS`, or else the quickest one."""
    seconds = {name: training_seconds(info, name, RATIO) for name in racing_modules(info)}
    brief = [name for name, taken in seconds.items() if taken <= BRIEF_SECONDS]
    return max(brief, key=seconds.__getitem__) if brief else min(seconds, key=seconds.__getitem__)


def training_seconds(info: ModelInfo, module: str, ratio: float) -> float:
    """Estimated duration of the autoencoder's training in seconds, on an idle machine with two cores."""
    return predict(race_plans(info, module, ratio)["autoencoder"], info).groups[0].seconds


def read_race(store: RunStore, key: str) -> Race:
    """Read the race of the runs "SVD,AUTOENCODER". Raises InputError if there is no such race."""
    names = key.split(",")
    if len(names) != len(RUNNERS):
        raise InputError("the link does not name two runs; start a race below")
    svd, autoencoder = map(store.get, names)
    for run, name in zip((svd, autoencoder), RUNNERS, strict=True):
        if len(run.plan.groups) != 1 or run.plan.groups[0].method != name:
            raise InputError(f"run {run.id} cannot race: it does not compress one matrix with {RUNNERS[name]}")
    one, other = (plan.replace(groups=()) for plan in (svd.plan, autoencoder.plan))
    (first,), (second,) = svd.plan.groups, autoencoder.plan.groups
    if one != other or second.replace(method=first.method, options=first.options) != first:
        raise InputError(f"runs {svd.id} and {autoencoder.id} cannot race: their plans differ in more than the method")
    return Race(svd, autoencoder, read_frames(svd.folder), read_frames(autoencoder.folder))


def standing(race: Race, frame: Frame | None) -> str:
    """Where the race stands after an epoch, in one sentence; None is before the first epoch."""
    svd = race.svd_error
    if svd is None:
        return "SVD is about to be computed."
    if frame is None:
        return f"SVD was done at once: relative error {_error(svd)}. The autoencoder is about to train."
    ahead = "behind" if frame.relative_error > svd else "ahead of"
    return (
        f"After epoch {frame.epoch} of {race.epochs}, the autoencoder is {abs(frame.relative_error - svd):.3f} {ahead} SVD: "
        f"relative error {_error(frame.relative_error)} against {_error(svd)}."
    )


def _error(value: float) -> str:
    return f"{value:.3f}" + (" (worse than storing zeros)" if value > WORST else "")


def winner(race: Race) -> str:
    """The style key of the method with the lower relative error; empty if they are equal. The race must be decided."""
    errors = {name: result_of(run).groups[0].relative_error for name, run in zip(RUNNERS, race.runs, strict=True)}
    best = min(errors, key=errors.__getitem__)
    return "" if len({*errors.values()}) == 1 else best


def verdict(race: Race) -> str:
    """Who wins a decided race, by how much, and whether the scores agree, in one sentence."""
    svd, autoencoder = (result_of(run).groups[0].relative_error for run in race.runs)
    best = winner(race)
    if not best:
        return f"Nobody wins: both have a relative error of {_error(svd)}{_scores(race)}."
    low, high = sorted((svd, autoencoder))
    return f"{RUNNERS[best]} wins by {high - low:.3f} in relative error: {low:.3f} against {_error(high)}{_scores(race)}."


def _scores(race: Race) -> str:
    """A clause on the scores: the method that is ahead on each task, or that the scores are within noise."""
    ahead = {task: _ahead(race, task) for task in result_of(race.svd).scores}
    told = [
        f"{RUNNERS[name]} is ahead in {on_task(task, result_of(race.svd).scores[task])}" for task, name in ahead.items() if name
    ]
    if told:
        even = "" if len(told) == len(ahead) else ", and the other score is within noise"
        return f"; {' and '.join(told)}{even}"
    return "; the scores are within noise of each other" if ahead else "; no task was scored"


def _ahead(race: Race, task: str) -> str:
    """The style key of the method that scores better on a task, beyond noise; empty if neither does."""
    if not same_test(*race.runs, task):
        return ""
    first, second = (result_of(run).scores[task] for run in race.runs)
    difference = paired_difference(*race.runs, task)
    if within_noise(difference[1:]) if difference else overlap(first, second):
        return ""
    metric = metric_of(first)
    names = list(RUNNERS)
    return names[metric.ranked(value_of(second)) > metric.ranked(value_of(first))]


def guess_text(race: Race, guess: str) -> str:
    """Whether the visitor's guess, a style key, was right."""
    return f"Your guess was {RUNNERS[guess]}: {'right' if guess == winner(race) else 'wrong'}."


HEADINGS = ("At the end", "Original", *RUNNERS.values())


def final_table(race: Race) -> list[list[tuple[str, str]]]:
    """The rows of the table of a decided race, each cell as (value, note): error, size and every score with its interval."""
    groups = [result_of(run).groups[0] for run in race.runs]
    notes = ["worse than storing zeros" if group.relative_error > WORST else "" for group in groups]
    errors = [(f"{group.relative_error:.3f}", note) for group, note in zip(groups, notes, strict=True)]
    sizes = [(f"{group.num_parameters:,}", smaller(group.parameter_ratio, ".2f")) for group in groups]
    rows = [
        [("", "Relative error"), ("0", ""), *errors],
        [("", "Stored parameters"), (f"{groups[0].original_parameters:,}", ""), *sizes],
    ]
    for task, score in result_of(race.svd).scores.items():
        other = result_of(race.autoencoder).scores.get(task)
        lower = ", lower is better" if METRICS[score.metric].direction == "lower" else ""
        title = f"{task_title(task, score)}, {within_sentence(metric_of(score).title)}{lower}"
        cells = [(score_text(each), "") if each else ("", "") for each in (score, other)]
        rows.append([("", sentence_start(title)), (score_text(score, "original"), ""), *cells])
    return rows


def troubles(race: Race) -> list[str]:
    """Why the race has no result or cannot be shown, as sentences with the remedy; empty if nothing is wrong."""
    found = []
    for name, run, frames in zip(RUNNERS.values(), race.runs, (race.svd_frames, race.frames), strict=True):
        if run.ended and run.status != "done":
            reached = f" after epoch {race.shown[-1].epoch} of {race.epochs}" if run is race.autoencoder and race.shown else ""
            reason = "" if run.status == "cancelled" else f" Reason: {run.error.rstrip('.')}."
            ended = "failed" if run.status == "failed" else f"was {run.status}"
            found.append(f"{name} {ended}{reached}.{reason} Start the race again to finish it.")
        elif run.ended and frames is None:
            found.append(
                f"{name}'s run {run.id} has no pictures: an earlier version made it, or they could not be written. "
                "Record it again to see them."
            )
    return found


def without_frames(race: Race) -> Sequence[Run]:
    """The finished runs that have recorded no frames."""
    pairs = zip(race.runs, (race.svd_frames, race.frames), strict=True)
    return [run for run, frames in pairs if run.status == "done" and frames is None]
