"""What the runs of Compress will cost, under the button that starts them: a line, a warning, and a cheaper way by a button."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from offcomp.errors import OffcompError
from offcomp.estimate import Estimate, duration, estimate, free_memory, gigabytes, roughly
from offcomp.methods import method_of_role
from offcomp.plan import Plan
from offcomp.prediction import Prediction, predict, resolved
from offcomp.results import result_of, stage_times
from offcomp.run_inputs import inputs_of, run_id
from offcomp.runs import Run
from offcomp.ui import draft
from offcomp.ui.choices import Choices
from offcomp.ui.plain import plain

LONG_SECONDS = 60
WORTH_IT = 0.7
"""A cheaper way that stays long is offered where it takes at most this share of the time."""
HELP = (
    "Rough, for two processor cores: loading the model, compressing, and scoring it before and after, one run after the other. "
    "Where a run did the same here before, its time is taken. Memory is that of the libraries, and of the model with "
    "what is written back into it or, where it is more, of the largest group with what its method holds beside it."
)


@dataclass(frozen=True)
class Cost:
    """What is still to be run: an estimate by role; and the runs that there are, by role."""

    estimates: Mapping[str, Estimate]
    there: Mapping[str, Run]

    @property
    def seconds(self) -> float:
        """Of all runs, one after the other."""
        return sum(each.seconds for each in self.estimates.values())

    @property
    def memory(self) -> int:
        """The most bytes that one of them will hold."""
        return max((each.memory for each in self.estimates.values()), default=0)

    def fits(self, free: int | None) -> bool:
        """Whether that much memory is free, as far as is known."""
        return free is None or self.memory <= free


@dataclass(frozen=True)
class Cheaper:
    """Other choices that cost less, in words, and what they change in the session."""

    label: str
    about: str
    choices: Choices
    changes: Mapping[str, Any]


def cost_of(choices: Choices, plans: Mapping[str, Plan], predictions: Mapping[str, Prediction], runs: Sequence[Run]) -> Cost:
    """What running these plans costs, beside the runs that there are."""
    info = choices.info
    kept = {run.id: run for run in runs if run.status in ("done", "queued", "running")}
    names = {role: run_id(resolved(plan, info), inputs_of(plan, info.reads)) for role, plan in plans.items()}
    there = {role: kept[name] for role, name in names.items() if name in kept}
    estimates = {
        role: estimate(plan, info, predictions[role], stage_times(resolved(plan, info), info.fingerprint, runs))
        for role, plan in plans.items()
        if role not in there
    }
    return Cost(estimates, there)


def show_cost(
    choices: Choices, ratio: float, plans: Mapping[str, Plan], predictions: Mapping[str, Prediction], runs: Sequence[Run]
) -> None:
    """How long it takes and what it needs; a warning where memory is short, and a cheaper way where it is or time is long."""
    cost, free = cost_of(choices, plans, predictions, runs), free_memory()
    if text := cost_text(cost):
        st.caption(plain(text), help=HELP)
    if not cost.fits(free):
        st.warning(
            plain(f"About {gigabytes(cost.memory)} are needed and {gigabytes(free or 0)} are free: this may fail."),
            icon=":material/memory:",
        )
    if cost.seconds > LONG_SECONDS or not cost.fits(free):
        _offer(choices, ratio, cost, free, runs)


def cost_text(cost: Cost) -> str:
    """The line: "About 40 s and 0.9 GB in all: SVD 10 s, Autoencoder 30 s. Run before and kept: Pruning (20 s)." """
    told = [f"{_title(role)} {duration(each.seconds)}" for role, each in cost.estimates.items()]
    whole = sum(roughly(each.seconds) for each in cost.estimates.values())  # so that the parts add up as they are told
    about = f"About {duration(whole)} and {gigabytes(cost.memory)}"
    parts = [f"{about} in all: {', '.join(told)}."] if len(told) > 1 else [f"{about} of memory."] if told else []
    before = [f"{_title(role)} ({duration(_seconds(run))})" for role, run in cost.there.items() if run.status == "done"]
    at_work = [_title(role) for role, run in cost.there.items() if run.status != "done"]
    parts += [f"Run before and kept: {', '.join(before)}."] if before else []
    parts += [f"At work: {', '.join(at_work)}."] if at_work else []
    return " ".join(parts)


def _seconds(run: Run) -> float:
    """What a finished run took, without the time that it waited for others."""
    return sum(seconds for stage, seconds in result_of(run)["timings"].items() if stage != "total")


def _title(role: str) -> str:
    return method_of_role(role).title


def _offer(choices: Choices, ratio: float, cost: Cost, free: int | None, runs: Sequence[Run]) -> None:
    """A button for the first cheaper way that is short and fits, else for the cheapest that is worth it."""
    found = []
    for way in cheaper_ways(choices, cost):
        try:
            plans = {role: way.choices.plan(role, ratio) for role in way.choices.methods}
            predictions = {role: predict(plan, way.choices.info) for role, plan in plans.items()}
        except OffcompError:
            continue  # these modules do not go together so
        if all(prediction.feasible for prediction in predictions.values()):
            found.append((way, cost_of(way.choices, plans, predictions, runs)))
    good = [pair for pair in found if pair[1].seconds <= LONG_SECONDS and pair[1].fits(free)]
    worth = [pair for pair in found if _is_worth_it(pair[1], cost, free)]
    best = good[:1] or sorted(worth, key=lambda pair: (not pair[1].fits(free), pair[1].seconds))[:1]
    for way, then in best:
        label = f"{way.label}: about {duration(then.seconds)}" if then.estimates else f"{way.label}: no wait"
        label += "" if cost.fits(free) else f", {gigabytes(then.memory)}"
        if st.button(
            plain(label),
            key="cheaper",
            icon=":material/speed:",
            help=plain(way.about),
            on_click=_change,
            args=(dict(way.changes),),
        ):
            st.rerun()  # the widgets outside of the fragment


def _is_worth_it(then: Cost, now: Cost, free: int | None) -> bool:
    """Whether it fits where the other does not, or is much shorter."""
    if then.fits(free) != now.fits(free):
        return then.fits(free)
    return then.seconds <= WORTH_IT * now.seconds or (not now.fits(free) and then.memory <= WORTH_IT * now.memory)


def _change(changes: dict[str, Any]) -> None:
    st.session_state.update(changes)


def cheaper_ways(choices: Choices, cost: Cost) -> Iterator[Cheaper]:
    """Ways to the same question that cost less, the smallest loss first."""
    slowest = max(cost.estimates, key=lambda role: cost.estimates[role].seconds)
    method, title = method_of_role(slowest), _title(slowest)
    options = choices.options.get(slowest, {})
    if any(options.get(name) != value for name, value in method.quick.items()):
        quick = choices.options | {slowest: options | method.quick}
        listed = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in method.quick.items())
        changes = {draft.option_key(slowest, name): value for name, value in method.quick.items()}
        yield Cheaper(f"{title}, quick settings", f"Sets {listed}.", replace(choices, options=quick), changes)
    if choices.tasks and all(isinstance(task, str) for task in choices.tasks):
        about = "Errors and sizes alone; nothing is scored."
        yield Cheaper("Without tasks", about, replace(choices, tasks=()), {"tasks": []})
    if choices.grouping != "module":
        about = "The largest matrix in memory is then one module; nothing is shared between modules."
        yield Cheaper("Each module alone", about, replace(choices, grouping="module"), {"grouping": "module"})
    if len(choices.methods) > 1:
        rest = tuple(role for role in choices.methods if role != slowest)
        yield Cheaper(f"Without {title}", "The other methods are run.", replace(choices, methods=rest), {"methods": list(rest)})
    elif slowest != "svd":
        about = "SVD alone, whose error is known before."
        yield Cheaper("SVD instead", about, replace(choices, methods=("svd",)), {"methods": ["svd"]})
