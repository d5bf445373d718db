"""The cost estimate of the draft's runs, with a memory warning and a button for a cheaper alternative."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from offcomp.errors import OffcompError
from offcomp.methods import method_of_style_key
from offcomp.models.catalogue import ModelInfo
from offcomp.planning.cost import Estimate, duration, estimate, free_memory, gigabytes, roughly
from offcomp.planning.plan import Plan
from offcomp.planning.sizes import Prediction, predict, resolved
from offcomp.results.runs import result_of, stage_times
from offcomp.runs.inputs import inputs_of, run_id
from offcomp.runs.resident import is_held
from offcomp.runs.store import Run
from offcomp.ui import draft
from offcomp.ui.escape import plain
from offcomp.ui.lab.answers import Lab
from offcomp.ui.lab.choices import Choices

LONG_SECONDS = 60
WORTH_IT = 0.7
"""A cheaper alternative that is still slow is offered only if it takes at most this fraction of the current time or memory."""
KEPT = ("done", "queued", "running")
"""Runs of these statuses are not started again."""
LOAD, LOADED_SECONDS = "load the model", 0.5
"""The stage that loads the model. If it took fewer seconds than this, the model was already loaded."""
HELP = (
    "Rough estimate for two CPU cores: loading the model, compressing it, and scoring it before and after, one run at a "
    "time. If an earlier run on this machine did the same work, its time is used. Peak memory includes the libraries and "
    "either the model with the new weights or the largest group with its method's working memory, whichever is larger."
)


@dataclass(frozen=True)
class Cost:
    """Cost estimates for new runs, and the runs that already exist, both keyed by style key."""

    estimates: Mapping[str, Estimate]
    existing: Mapping[str, Run]

    @property
    def seconds(self) -> float:
        """Total time in seconds to execute all runs one after another."""
        return sum(each.seconds for each in self.estimates.values())

    @property
    def memory(self) -> int:
        """Peak memory of the most demanding run, in bytes."""
        return max((each.memory for each in self.estimates.values()), default=0)

    def fits(self, free: int | None) -> bool:
        """Return whether the runs fit in `free` bytes of memory; always true if the free memory is unknown."""
        return free is None or self.memory <= free


@dataclass(frozen=True)
class Cheaper:
    """A cheaper set of choices, with a label, a description and the session state changes that apply it."""

    label: str
    description: str
    choices: Choices
    changes: Mapping[str, Any]


def cost_of(choices: Choices, plans: Mapping[str, Plan], predictions: Mapping[str, Prediction], runs: Sequence[Run]) -> Cost:
    """Estimate the cost of running these plans, excluding those that already have a run."""
    info = choices.info
    kept = {run.id: run for run in runs if run.status in KEPT}
    names = {style_key: run_id(resolved(plan, info), inputs_of(plan, info.reads)) for style_key, plan in plans.items()}
    existing = {style_key: kept[name] for style_key, name in names.items() if name in kept}
    return _estimated(info, plans, predictions, runs, existing)


def _estimated(
    info: ModelInfo,
    plans: Mapping[str, Plan],
    predictions: Mapping[str, Prediction],
    runs: Sequence[Run],
    existing: Mapping[str, Run],
) -> Cost:
    """Estimate the cost of the plans that have no run yet."""
    estimates = {
        style_key: estimate(plan, info, predictions[style_key], _known_times(plan, info, runs))
        for style_key, plan in plans.items()
        if style_key not in existing
    }
    return Cost(estimates, existing)


def _known_times(plan: Plan, info: ModelInfo, runs: Sequence[Run]) -> dict[str, float]:
    """Times of the stages in earlier runs. Loading takes no time while a worker holds the model."""
    known = dict(stage_times(resolved(plan, info), info.fingerprint, runs))
    if is_held(info):
        return known | {LOAD: 0.0}
    if known.get(LOAD, LOADED_SECONDS) < LOADED_SECONDS:  # that run found the model loaded
        del known[LOAD]
    return known


def show_cost(lab: Lab) -> None:
    """Show time and memory, and warn if memory is short."""
    cost, free = _cost(lab), free_memory()
    if text := cost_text(cost):
        st.caption(plain(text), help=HELP)
    if not cost.fits(free):
        shortage = (
            f"The run needs about {gigabytes(cost.memory)} of memory, but only {gigabytes(free or 0)} is free. It may fail."
        )
        st.warning(plain(shortage), icon=":material/memory:")


def offer_cheaper(lab: Lab) -> None:
    """Offer a cheaper alternative if memory is short or the runs are slow."""
    cost, free = _cost(lab), free_memory()
    if cost.seconds > LONG_SECONDS or not cost.fits(free):
        _offer(lab.choices, cost, free, lab.runs)


def _cost(lab: Lab) -> Cost:
    """The cost of running the feasible plans."""
    reachable = [answer for answer in lab.answers if answer.reachable]
    existing = {answer.style_key: answer.run for answer in reachable if answer.run and answer.run.status in KEPT}
    plans = {answer.style_key: answer.plan for answer in reachable}
    return _estimated(lab.choices.info, plans, lab.predictions, lab.runs, existing)


def cost_text(cost: Cost) -> str:
    """Format the cost: "About 40 s and 0.9 GB in all: SVD 10 s, Autoencoder 30 s. Already run (cached): Pruning (20 s)." """
    durations = [f"{_title(style_key)} {duration(each.seconds)}" for style_key, each in cost.estimates.items()]
    seconds = sum(roughly(each.seconds) for each in cost.estimates.values())  # so that the displayed parts add up
    total = f"About {duration(seconds)} and {gigabytes(cost.memory)}"
    parts = [f"{total} in all: {', '.join(durations)}."] if len(durations) > 1 else [f"{total} of memory."] if durations else []
    finished = [
        f"{_title(style_key)} ({duration(_seconds(run))})" for style_key, run in cost.existing.items() if run.status == "done"
    ]
    unfinished = [_title(style_key) for style_key, run in cost.existing.items() if run.status != "done"]
    parts += [f"Already run (cached): {', '.join(finished)}."] if finished else []
    parts += [f"In progress: {', '.join(unfinished)}."] if unfinished else []
    return " ".join(parts)


def _seconds(run: Run) -> float:
    """Return the duration of a finished run, excluding the time spent waiting for other runs."""
    return sum(seconds for stage, seconds in result_of(run).timings.items() if stage != "total")


def _title(style_key: str) -> str:
    return method_of_style_key(style_key).title


def _offer(choices: Choices, cost: Cost, free: int | None, runs: Sequence[Run]) -> None:
    """Offer the first cheaper alternative that is quick and fits in memory, or else the cheapest worthwhile one."""
    candidates = []
    for alternative in cheaper_alternatives(choices, cost):
        cheaper = alternative.choices
        try:
            plans = {style_key: cheaper.plan(style_key) for style_key in cheaper.methods}
            predictions = {style_key: predict(plan, cheaper.info) for style_key, plan in plans.items()}
        except OffcompError:
            continue  # these modules cannot be grouped that way
        if all(prediction.feasible for prediction in predictions.values()):
            candidates.append((alternative, cost_of(cheaper, plans, predictions, runs)))
    good = [pair for pair in candidates if pair[1].seconds <= LONG_SECONDS and pair[1].fits(free)]
    worth = [pair for pair in candidates if _is_worth_it(pair[1], cost, free)]
    best = good[:1] or sorted(worth, key=lambda pair: (not pair[1].fits(free), pair[1].seconds))[:1]
    for alternative, new in best:
        seconds = f"about {duration(new.seconds)}" if new.estimates else "no wait"
        memory = "" if cost.fits(free) else f", {gigabytes(new.memory)}"
        if st.button(
            plain(f"Cheaper: {alternative.label}, {seconds}{memory}"),
            key="cheaper",
            icon=":material/speed:",
            help=plain(alternative.description),
            on_click=st.session_state.update,
            args=(alternative.changes,),
        ):
            st.rerun()  # to update the widgets outside the fragment


def _is_worth_it(new: Cost, current: Cost, free: int | None) -> bool:
    """Return whether the alternative is much cheaper, or fits in memory while the current choices do not."""
    if new.fits(free) != current.fits(free):
        return new.fits(free)
    return new.seconds <= WORTH_IT * current.seconds or (not current.fits(free) and new.memory <= WORTH_IT * current.memory)


def cheaper_alternatives(choices: Choices, cost: Cost) -> Iterator[Cheaper]:
    """Yield cheaper ways to answer the same question, starting with those that sacrifice the least."""
    slowest = max(cost.estimates, key=lambda style_key: cost.estimates[style_key].seconds)
    method, title = method_of_style_key(slowest), _title(slowest)
    options = choices.options.get(slowest, {})
    if any(options.get(name) != value for name, value in method.fast_options.items()):
        fast_options = choices.options | {slowest: options | method.fast_options}
        listed = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in method.fast_options.items())
        changes = {draft.option_key(slowest, name): value for name, value in method.fast_options.items()}
        yield Cheaper(f"{title}, quick settings", f"Sets {listed}.", replace(choices, options=fast_options), changes)
    if choices.tasks and all(isinstance(task, str) for task in choices.tasks):
        description = "Computes only errors and sizes, without scoring the model."
        yield Cheaper("Without tasks", description, replace(choices, tasks=()), {"tasks": ()})
    if choices.grouping != "module":
        description = "Compresses each module separately: no matrix is larger than one module, but nothing is shared."
        yield Cheaper("Each module alone", description, replace(choices, grouping="module"), {"grouping": "module"})
    if len(choices.methods) > 1:
        rest = tuple(style_key for style_key in choices.methods if style_key != slowest)
        yield Cheaper(
            f"Without {title}", "Runs only the other methods.", replace(choices, methods=rest), {"methods": list(rest)}
        )
    elif slowest != "svd":
        description = "Runs only SVD, whose error is known in advance."
        yield Cheaper("SVD instead", description, replace(choices, methods=("svd",)), {"methods": ["svd"]})
