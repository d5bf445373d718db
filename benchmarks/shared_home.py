"""Two apps and a command line sharing one home: `python -m benchmarks.shared_home [--minutes 5] [--seed 0]`.

Three actors, each in its own process, perform one random action after another. Two of them each use their own app in Chromium
(submit on Compress, cancel, delete, run again, look at pages, compare), and the third uses the command line (run, list, show,
compare, cancel). All draw their plans from the same pool, so that they act on the same runs. Runs of half the plans in the pool
may be deleted or run again; those of the other half may not. Meanwhile the home is monitored. At the end, when all runs have
ended, it is checked that

- every run that was seen done, and was not deleted or run again since, still exists and is complete; every run that is done
  equals the run of the same plan in a separate home, bit for bit;
- every folder is listed, nothing is queued or running, no worker is left, no file is left over (`run_checks.strays`);
- neither the servers nor the command line wrote a traceback, and no page showed one.

Prints a table of actions by actor, and every fault; the exit status is 1 if there are any.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import Error as BrowserError
from playwright.sync_api import Page, expect, sync_playwright

from benchmarks.run_checks import (
    AT_REST,
    ROOT,
    Reference,
    app,
    asked,
    environment,
    free_port,
    offcomp,
    plans,
    report,
    submit_by_click,
    tracebacks,
    unreadable,
    wait_for_rest,
    workers,
)
from offcomp.planning.plan import Plan
from offcomp.runs.store import Run, RunStore
from tests.browser import launch_options

SETTLE_SECONDS = 120.0
PATIENCE = 120_000
CLICK_MILLISECONDS = 5000
LOOK_SECONDS = 0.5
PAGES = ("", "model", "runs", "compare", "examples", "atlas")
APPS = ("app 1", "app 2")
MAY_BE_MADE_AGAIN = "may be made again"
EXCUSES = ("delete", "again", MAY_BE_MADE_AGAIN)
"""Actions that may remove a finished run."""
EXPECTED = ("cancelled", "no results to compare", "there is no run", "cancel it before", "is not done")
"""Messages that a command may print if another actor was faster."""


def may_go(run: Run) -> bool:
    """Return whether actors may delete a run or run its plan again."""
    return run.plan.seed % 2 == 1


@dataclass(frozen=True)
class Part:
    """An actor's home, the journal of its actions, its random seed, and the number of pairs of plans in the pool."""

    home: Path
    journal: Path
    seed: int
    pairs: int


@dataclass(frozen=True)
class Outcome:
    """The lines of the actors' journals, the runs that were seen done, and the faults."""

    lines: list[dict[str, Any]]
    seen: dict[str, Plan]
    faults: list[str]


class Actor:
    """Performs random actions in a home, and writes a journal of them."""

    def __init__(self, part: Part):
        self.home, self.journal, self.pairs = part.home, part.journal, part.pairs
        self.draw = random.Random(part.seed)  # noqa: S311
        self.store = RunStore(part.home)

    def note(self, action: str, run: str = "", fault: str = "") -> None:
        """Add a line to the journal; if it names a run, call this before the action."""
        line = {"at": time.time(), "action": action, "run": run, "fault": fault}
        with self.journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def some(self, fits: Callable[[Run], bool]) -> Run | None:
        """A random run among those that fit, or None if there are none."""
        found = [run for run in self.store.all() if fits(run)]
        return self.draw.choice(found) if found else None

    def act(self, until: float, actions: dict[Callable[[], None], int]) -> None:
        """Perform random actions, weighted by their values, until this time."""
        while time.time() < until:
            action = self.draw.choices(list(actions), list(actions.values()))[0]
            try:
                action()
            except (BrowserError, AssertionError) as error:
                self.note("", "", f"the page: {' '.join(str(error).split()[:40])}")


class AtCommandLine(Actor):
    """An actor that uses the command line."""

    def do(self, *arguments: str, text: str = "", run: str = "") -> None:
        self.note(arguments[0], run)
        status, _, said = offcomp(self.home, *arguments, text=text)
        if tracebacks(said):
            self.note("", run, f"offcomp {arguments[0]}: {' '.join(said.split()[-14:])}")
        elif status and not any(words in said for words in EXPECTED):
            self.note("", run, f"offcomp {arguments[0]} exited with {status}: {said.strip()[-200:]}")

    def run(self) -> None:
        plan = self.draw.choice(plans(self.draw.randrange(self.pairs)))
        again = plan.seed % 2 == 1 and self.draw.random() < 0.5
        if again:
            self.note(MAY_BE_MADE_AGAIN, asked(plan))
        self.do("run", *(["--again"] if again else []), "--json", "-", text=plan.to_json())

    def runs(self) -> None:
        self.do("runs", "--json")

    def of(self, verb: str, fits: Callable[[Run], bool]) -> None:
        if run := self.some(fits):
            self.do(verb, run.id, run=run.id)

    def actions(self) -> dict[Callable[[], None], int]:
        return {
            self.run: 4,
            self.runs: 2,
            lambda: self.of("show", lambda _: True): 1,
            lambda: self.of("compare", lambda run: run.status == "done"): 1,
            lambda: self.of("cancel", lambda run: not run.ended): 1,
        }


class AtApp(Actor):
    """An actor that uses the pages of an app."""

    def __init__(self, part: Part, address: str, page: Page):
        super().__init__(part)
        self.address, self.page = address, page

    def open(self, path: str) -> None:
        self.page.goto(f"{self.address}/{path.lstrip('/')}")
        expect(self.page.locator(AT_REST)).to_be_visible(timeout=PATIENCE)
        if self.page.get_by_test_id("stException").count():
            self.note("", "", f"an exception on {path}: {self.page.get_by_test_id('stException').first.inner_text()[:300]}")

    def submit(self) -> None:
        self.note("submit")
        submit_by_click(self.page, self.address, self.draw.randrange(self.pairs), PATIENCE)

    def press(self, what: str, fits: Callable[[Run], bool]) -> None:
        """Click a button of a run's card, if it still exists by then."""
        if not (run := self.some(fits)):
            return
        self.open("runs")
        self.note(what, run.id)
        button = self.page.locator(f".st-key-{what}_{run.id} button")
        with suppress(BrowserError):
            button.click(timeout=CLICK_MILLISECONDS)
            self.page.wait_for_timeout(500)

    def look(self) -> None:
        path = self.draw.choice(PAGES)
        self.note("look")
        self.open(path)

    def compare(self) -> None:
        self.note("compare")
        self.open("compare?runs=all")

    def actions(self) -> dict[Callable[[], None], int]:
        return {
            self.submit: 4,
            lambda: self.press("cancel", lambda run: not run.ended): 1,
            lambda: self.press("delete", lambda run: run.ended and may_go(run)): 2,
            lambda: self.press("again", lambda run: run.ended and run.status != "done"): 1,
            self.look: 1,
            self.compare: 1,
        }


def actor(part: Part, until: float, address: str) -> None:
    """Run an actor's process: on the app at this address or, if it is empty, on the command line."""
    if not address:
        line = AtCommandLine(part)
        line.act(until, line.actions())
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**launch_options())
        person = AtApp(part, address, browser.new_page())
        person.act(until, person.actions())
        browser.close()


def watch(home: Path, until: float) -> dict[str, Plan]:
    """Monitor the home until this time; returns each run that was seen done, with its plan."""
    seen: dict[str, Plan] = {}
    while time.time() < until:
        seen |= {run.id: run.plan for run in RunStore(home).all() if run.status == "done"}
        time.sleep(LOOK_SECONDS)
    return seen


def excused(lines: list[dict[str, Any]], plan: Plan, name: str) -> bool:
    """Return whether an actor may have deleted a run or run its plan again."""
    return any(
        line["run"] in (name, asked(plan)) and line["action"] in ("delete", "again", "may be made again") for line in lines
    )


def check(home: Path, reference: Reference, lines: list[dict[str, Any]], seen: dict[str, Plan]) -> list[str]:
    """The faults of a home after all runs have ended."""
    faults = [f"run {run.id} is still {run.status}" for run in wait_for_rest(home, SETTLE_SECONDS)]
    faults += [f"a worker is still running: {process.pid}" for process in workers(home)]
    runs = {run.id: run for run in RunStore(home).all()}
    for name, plan in seen.items():
        if (name not in runs or runs[name].status != "done") and not excused(lines, plan, name):
            faults.append(f"run {name} was done and is now {runs[name].status if name in runs else 'gone'}")
    faults += [wrong for run in runs.values() if run.status == "done" and (wrong := reference.fault(run))]
    faults += [f"run {run.id} failed: {run.error}" for run in runs.values() if run.status == "failed"]
    return faults + [f"the folder {name} is not listed" for name in unreadable(home)]


def act_together(place: Path, home: Path, reference: Reference, *, minutes: float, seed: int, pairs: int) -> Outcome:
    """Serve two apps, let the actors act, and check the home while the servers are still running."""
    with ExitStack() as stack:
        ports = {name: free_port() for name in APPS}
        for name, port in ports.items():
            stack.enter_context(app(home, place / f"{name}.log", port))
        until = time.time() + 60 * minutes
        actors = {}
        for number, name in enumerate((*APPS, "command line")):
            address = f"http://127.0.0.1:{ports[name]}" if name in ports else ""
            told = [str(home), str(place / f"{name}.jsonl"), str(1000 * seed + number), str(pairs), str(until), address]
            actors[name] = start_actor(home, told, place / f"{name}.err")
        seen = watch(home, until)
        ends = {name: process.wait(4 * SETTLE_SECONDS) for name, process in actors.items()}
        lines = [json.loads(line) | {"by": name} for name in actors for line in read_lines(place / f"{name}.jsonl")]
        faults = check(home, reference, lines, seen)
    faults += [f"{line['by']}: {line['fault']}" for line in lines if line["fault"]]
    faults += [f"{name} failed: {(place / f'{name}.err').read_text()[-400:]}" for name, status in ends.items() if status]
    for name in APPS:
        if found := tracebacks((place / f"{name}.log").read_text(errors="replace")):
            faults.append(f"{name}: {found} tracebacks in the server's log")
    return Outcome(lines, seen, faults)


def start_actor(home: Path, told: list[str], said: Path) -> subprocess.Popen[bytes]:
    """Start an actor's process; its error output is written to a file."""
    command = [sys.executable, "-m", "benchmarks.shared_home", "--actor", *told]
    with said.open("wb") as out:
        return subprocess.Popen(command, cwd=ROOT, env=environment(home), stderr=out)


def read_lines(file: Path) -> list[str]:
    """The lines of a journal; none if it does not exist yet."""
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []


def rows(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How often each actor performed each action."""
    counts = Counter((line["by"], line["action"]) for line in lines if line["action"])
    names = sorted({action for _, action in counts} - {MAY_BE_MADE_AGAIN})
    return [{"actor": by} | {name: counts[by, name] for name in names} for by in (*APPS, "command line")]


def main() -> None:
    """Let the actors act, and print the table."""
    flags = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    flags.add_argument("--minutes", type=float, default=5.0)
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument(
        "--pairs", type=int, default=6, help="pairs of plans in the pool; runs of every second pair may be deleted"
    )
    flags.add_argument("--actor", nargs=6, help=argparse.SUPPRESS)
    wanted = flags.parse_args()
    if wanted.actor:
        place, journal, seed, pairs, until, address = wanted.actor
        actor(Part(Path(place), Path(journal), int(seed), int(pairs)), float(until), address)
        return
    with TemporaryDirectory() as folder:
        home, reference = Path(folder) / "home", Reference(Path(folder) / "peace")
        reference.make(plan for pair in range(wanted.pairs) for plan in plans(pair))
        found = act_together(Path(folder), home, reference, minutes=wanted.minutes, seed=wanted.seed, pairs=wanted.pairs)
        offcomp(home, "runs")
        strays = reference.strays(home)
        runs = Counter(run.status for run in RunStore(home).all())
    faults = found.faults + [f"left over: {name}" for name in strays]
    title = f"{wanted.minutes:g} minutes, seed {wanted.seed}; {len(found.seen)} runs were seen done; at the end {dict(runs)}"
    report(title, rows(found.lines), faults)
    print(f"files left over: {len(strays)}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
