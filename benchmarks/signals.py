"""How runs cope with signals at random times: `python -m benchmarks.signals [--signals 200] [--seed 0]`.

A worker, a resident (busy or idle), the app's real server or a command line (`offcomp run`) receives KILL, TERM, INT, or STOP
followed by CONT or KILL. A worker is the fork of a resident that carries out a run. Runs are submitted on the command line, and
in Chromium by a click on Compress, two per click. Times are drawn from the whole lifetime of a run, or from the moments after
it began to compress; if a signal comes too late, a new one is drawn. After each signal it is checked that

- every folder of a run is listed, and within SETTLE_SECONDS nothing is queued or running and no worker is left;
- every run that is done has the same results and stored tensors, bit for bit, as the run of the same plan in a separate,
  undisturbed home without residents; after a signal to an idle resident, its plans are run again, which checks its weights;
- no run has been carried out twice, and every run of a click or a command has a folder, unless the submitter was hit;
- every run that was done before still exists, and no traceback was written (except to a run's own log).

At the end the app and a command line are started once more, a plan is run, and no file may be left over (`run_checks.strays`).
Prints a table of outcomes by target and signal, and every fault; the exit status is 1 if there are any.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from playwright.sync_api import Browser, Page, sync_playwright
from playwright.sync_api import Error as BrowserError

from benchmarks.run_checks import (
    Reference,
    app,
    asked,
    free_port,
    offcomp,
    plans,
    report,
    residents,
    start,
    submit_by_click,
    tracebacks,
    unreadable,
    wait_for_rest,
    workers,
)
from offcomp.planning.plan import Plan
from offcomp.runs.store import Run, RunStore
from tests.browser import launch_options

SIGNALS = ("KILL", "TERM", "INT", "STOP CONT", "STOP KILL")
RESIDENT_OF_COMMAND, RESIDENT, IDLE = "resident of a command line", "resident of the app", "idle resident"
TARGETS = {
    **{"worker of a command line": 3, "worker of the app": 3, "command line": 3, "server": 2},
    **{RESIDENT_OF_COMMAND: 2, RESIDENT: 3, IDLE: 3},
}
"""Targets of signals, and how often each is chosen relative to the others."""
SETTLE_SECONDS = 90.0
PATIENCE = 120.0
LATEST_STAGE = "compress"
SHORT = 0.5
STOPPED_SECONDS = 1.0
OUTCOMES = ("done", "failed", "cancelled", "interrupted", "no run")


@dataclass
class Scene:
    """The home under test, with its app and browser, and what was observed so far."""

    home: Path
    reference: Reference
    browser: Browser
    draw: random.Random
    log: Path
    port: int
    pairs: int
    life: float = 5.0
    server: subprocess.Popen[bytes] | None = None
    page: Page | None = None
    done: dict[str, str] = field(default_factory=dict)
    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    stack: ExitStack = field(default_factory=ExitStack)

    @property
    def store(self) -> RunStore:
        return RunStore(self.home)

    def serve(self) -> tuple[subprocess.Popen[bytes], Page]:
        """The server, restarted if it has ended, and a page in the browser."""
        if self.server is None or self.server.poll() is not None:
            self.stack.close()
            self.server = self.stack.enter_context(app(self.home, self.log, self.port))
            self.page = self.browser.new_page()
            self.stack.callback(self.page.close)
            self.page.set_default_timeout(1e3 * PATIENCE)
        assert self.page
        return self.server, self.page

    def fault(self, where: str, what: str) -> None:
        self.faults.append(f"{where}: {what}")
        print(f"fault: {where}: {what}", file=sys.stderr, flush=True)


def click(scene: Scene, seed: int) -> None:
    """Submit two plans with the button on Compress."""
    _, page = scene.serve()
    submit_by_click(page, f"http://127.0.0.1:{scene.port}", seed, 1e3 * PATIENCE)


def forget(scene: Scene, wanted: list[Plan]) -> None:
    """Delete ended runs of these plans, so that the plans are run again."""
    names = {asked(plan) for plan in wanted}
    for run in scene.store.all():
        if asked(run.plan) in names and run.ended:
            scene.store.delete(run.id)
            scene.done.pop(run.id, None)


def wait(seconds: float, found: Callable[[], Any], rest: float = 0.05) -> Any:
    """Call `found` until its result is true or the time is up; returns the last result."""
    deadline = time.monotonic() + seconds
    while not (now := found()) and time.monotonic() < deadline:
        time.sleep(rest)
    return now


def moment(scene: Scene, ended: Callable[[], bool]) -> None:
    """Wait until a random time in the lifetime of the submitted runs, or a random moment of their last stage."""
    if scene.draw.random() < 0.5:
        time.sleep(scene.draw.uniform(0, scene.life))
        return

    def working() -> bool:
        stages = (run.progress.stage for run in scene.store.all() if run.progress)
        return ended() or any(stage.startswith(LATEST_STAGE) for stage in stages)

    wait(PATIENCE, working, rest=0.01)
    time.sleep(scene.draw.uniform(0, SHORT))


def send(process: psutil.Process, kind: str, pause: float) -> bool:
    """Send a process a signal, or two with a pause between them. Returns False if the process has ended."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        first, *then = kind.split()
        process.send_signal(getattr(signal, f"SIG{first}"))
        for second in then:
            time.sleep(pause)
            process.send_signal(getattr(signal, f"SIG{second}"))
    except psutil.NoSuchProcess:
        return False
    return True


@contextmanager
def command(scene: Scene, plan: Plan) -> Iterator[subprocess.Popen[str]]:
    """Start `offcomp run` with a plan, and make sure that it has ended after the block."""
    process = start(scene.home, "run", "--json", "-", text=plan.to_json())
    try:
        yield process
    finally:
        with suppress(OSError):
            process.send_signal(signal.SIGCONT)
        try:
            _, said = process.communicate(timeout=SETTLE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            _, said = process.communicate()
            scene.fault("command line", f"still running after {SETTLE_SECONDS:.0f} s")
        if tracebacks(said):
            scene.fault("command line", f"a traceback: {' '.join(said.split()[-12:])}")


def first_process(scene: Scene, target: str, gone: Callable[[], bool]) -> psutil.Process | None:
    """A random worker or resident, once there is one; None if `gone` returns true first."""
    which = residents if target in (RESIDENT, RESIDENT_OF_COMMAND, IDLE) else workers
    found = wait(PATIENCE, lambda: which(scene.home) or gone())
    return scene.draw.choice(found) if isinstance(found, list) and found else None


def episode(scene: Scene, target: str, kind: str) -> bool:
    """Submit a run, send a signal, and check the home. Returns False if the signal came too late."""
    seed, pause = scene.draw.randrange(scene.pairs), scene.draw.uniform(0, STOPPED_SECONDS)
    wanted = plans(seed)
    if target in ("worker of a command line", "command line", RESIDENT_OF_COMMAND):
        wanted = [scene.draw.choice(wanted)]
        forget(scene, wanted)
        with command(scene, wanted[0]) as process:
            hit: psutil.Process | None = psutil.Process(process.pid)
            if target != "command line":
                hit = first_process(scene, target, lambda: process.poll() is not None)
            moment(scene, lambda: process.poll() is not None)
            sent = hit is not None and send(hit, kind, pause)
    else:
        forget(scene, wanted)
        click(scene, seed)
        assert scene.server
        if target == IDLE:
            wait_for_rest(scene.home, SETTLE_SECONDS)
            forget(scene, wanted)
        hit = psutil.Process(scene.server.pid) if target == "server" else first_process(scene, target, lambda: False)
        if target != IDLE:
            moment(scene, lambda: not workers(scene.home))
        sent = hit is not None and send(hit, kind, pause)
        if target == IDLE:
            click(scene, seed)
        if target == "server" and kind != "STOP CONT":
            with suppress(subprocess.TimeoutExpired):
                scene.server.wait(SETTLE_SECONDS)
            if scene.server.poll() is None:
                scene.fault(f"{target} {kind}", f"still running after {SETTLE_SECONDS:.0f} s")
                scene.server.kill()
    look(scene, f"{target}, {kind}", wanted, target, kind if sent else "")
    return sent


def survived(scene: Scene, target: str, kind: str) -> bool:
    """Run an episode; if a page does not behave as expected, record a fault and restart the app."""
    try:
        return episode(scene, target, kind)
    except (BrowserError, AssertionError) as error:
        scene.fault(f"{target}, {kind}", f"the page: {' '.join(str(error).split()[:40])}")
        scene.stack.close()
        scene.server = None
        look(scene, f"{target}, {kind}", [], target, "")
        return True


def look(scene: Scene, where: str, wanted: list[Plan], target: str, kind: str) -> None:
    """Check the invariants once all runs have ended, and count outcomes if a signal was sent."""
    for run in wait_for_rest(scene.home, SETTLE_SECONDS):
        scene.fault(where, f"run {run.id} is still {run.status} at {run.progress.stage if run.progress else None}")
        for process in workers(scene.home):
            process.kill()
    for process in workers(scene.home):
        scene.fault(where, f"a worker is still running: {process.pid}")
        process.kill()
    for name in unreadable(scene.home):
        scene.fault(where, f"the folder {name} is not listed")
    runs = {run.id: run for run in scene.store.all()}
    for name in scene.done.keys() - runs.keys():
        scene.fault(where, f"run {name} was done and is gone")
    scene.done.clear()
    for run in runs.values():
        if run.status == "done":
            scene.done[run.id] = run.status
            if wrong := scene.reference.fault(run):
                scene.fault(where, wrong)
        elif run.status == "failed":
            scene.fault(where, f"run {run.id} failed: {run.error}")
    if kind:
        check_none_is_lost(scene, where, wanted, target, runs)
        by_plan = {asked(run.plan): run.status for run in runs.values()}
        scene.counts.update((target, kind, by_plan.get(asked(plan), "no run")) for plan in wanted)
        scene.counts[target, kind, "sent"] += 1


def check_none_is_lost(scene: Scene, where: str, wanted: list[Plan], target: str, runs: dict[str, Run]) -> None:
    """Check that each plan has one run, that it was started once, and that signals to idle residents hit no run."""
    for plan in wanted:
        found = [run for run in runs.values() if asked(run.plan) == asked(plan)]
        if len(found) > 1 or (not found and target not in ("server", "command line")):
            scene.fault(where, f"{len(found)} runs of a plan that was submitted once")
        for run in found:
            if run.result and run.result.attempt != 1:
                scene.fault(where, f"run {run.id} was started {run.result.attempt} times")
            if target == IDLE and run.status != "done":
                scene.fault(where, f"run {run.id} is {run.status}, though its resident was hit before it")


def next_start(scene: Scene) -> list[str]:
    """Start everything once more, run a plan, and stop. Returns the files that are left over."""
    scene.stack.close()
    scene.server = None
    forget(scene, plans(0))
    click(scene, 0)
    wait_for_rest(scene.home, SETTLE_SECONDS)
    status, out, said = offcomp(scene.home, "run", "--json", "-", text=plans(0)[0].to_json())
    if status or json.loads(out)["status"] != "done":
        scene.fault("next start", f"the run did not succeed: {said[-300:]}")
    offcomp(scene.home, "runs")
    look(scene, "next start", [], "", "")
    scene.stack.close()
    if found := tracebacks(scene.log.read_text(errors="replace")):
        scene.fault("server", f"{found} tracebacks in its log")
    return scene.reference.strays(scene.home)


def rows(counts: Counter[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """One row per target and signal, and one for all together."""
    kinds = [(target, kind) for target in TARGETS for kind in SIGNALS if counts[target, kind, "sent"]]
    lines = [
        {"to": target, "signal": kind} | {name: counts[target, kind, name] for name in ("sent", *OUTCOMES)}
        for target, kind in kinds
    ]
    whole = {name: sum(int(line[name]) for line in lines) for name in ("sent", *OUTCOMES)}
    return [*lines, {"to": "all", "signal": ""} | whole]


def main() -> None:
    """Send the signals and print the table."""
    flags = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    flags.add_argument("--signals", type=int, default=200)
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--pairs", type=int, default=3, help="pairs of plans to choose from")
    asked_for = flags.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells make background jobs ignore SIGINT
    began = time.monotonic()
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        reference = Reference(Path(folder) / "peace")
        reference.make(plan for seed in range(asked_for.pairs) for plan in plans(seed))
        browser = playwright.chromium.launch(**launch_options())
        draw = random.Random(asked_for.seed)  # noqa: S311
        scene = Scene(
            Path(folder) / "home", reference, browser, draw, Path(folder) / "server.log", free_port(), asked_for.pairs
        )
        scene.life = (time.monotonic() - began) / len(reference.digests)
        print(f"reference: {len(reference.digests)} plans, {scene.life:.1f} s each", file=sys.stderr, flush=True)
        targets, often = list(TARGETS), list(TARGETS.values())
        sent = late = 0
        while sent < asked_for.signals:
            target, kind = draw.choices(targets, often)[0], draw.choice(SIGNALS)
            if survived(scene, target, kind):
                sent += 1
                print(f"{sent}: {target}, {kind}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
            else:
                late += 1
                print(f"too late: {target}, {kind}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        strays = next_start(scene)
        browser.close()
    scene.faults += [f"left over: {place}" for place in strays]
    title = f"{sent} signals in {time.monotonic() - began:.0f} s, seed {asked_for.seed}; {late} others came too late"
    report(title, rows(scene.counts), scene.faults)
    print(f"files left over after the next start: {len(strays)}")
    sys.exit(1 if scene.faults else 0)


if __name__ == "__main__":
    main()
