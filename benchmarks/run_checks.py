"""Checks for benchmarks that stress a home of runs, by comparing it with a home in which the same plans run undisturbed.

Only public interfaces are used: offcomp commands, `RunStore`, the machine's processes and files on disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from playwright.sync_api import Page, expect

from offcomp.models.catalogue import ModuleSpec
from offcomp.models.listing import known_info
from offcomp.planning.plan import Plan, make_groups
from offcomp.results.runs import result_of
from offcomp.runs.store import Run, RunStore

ROOT = Path(__file__).parents[1]
MODEL = "offcomp-gpt"
KINDS, LAYERS = ("query", "key", "value"), range(4)
METHODS = ("svd", "kronecker")
RATIO = 2.0
TAKEN = re.compile("^(Running|Already run)$")
"""Labels of the button Run once the plans have been submitted."""
AT_REST = "[data-testid=stApp][data-test-script-state=notRunning]"
WORKER, RESIDENT = "offcomp.runs.worker", "offcomp.runs.resident_process"
OWN_TIME = ("seconds",)
"""Values of a group that differ between two runs of the same plan."""
OFTEN = ("cancel",)
"""Files of a run that exist only if a user action created them, so not in an undisturbed home."""
UNDER_WAY = ("queued", "running")


def plans(seed: int) -> list[Plan]:
    """The plans that a click on the page Compress submits, in order: one per method, for twelve separate matrices, no task."""
    groups = [make_groups(_modules(), "module", method=method, ratio=RATIO) for method in METHODS]
    return [Plan(model=MODEL, groups=each, tasks=(), seed=seed) for each in groups]


@cache
def _modules() -> list[ModuleSpec]:
    """The modules of the plans, in the model's order, as in the app."""
    with TemporaryDirectory() as home:
        info = known_info(MODEL, Path(home))
    assert info
    return [spec for spec in info.modules if spec.kind in KINDS and spec.layer in LAYERS]


def link(seed: int) -> str:
    """The address of the page Compress with these plans as its draft."""
    modules = ",".join(f"{kind}.{LAYERS[0]}-{LAYERS[-1]}" for kind in KINDS)
    asked_for = {"model": MODEL, "modules": modules, "together": "module", "methods": ",".join(METHODS), "ratio": f"{RATIO:g}"}
    return "/compress?" + "&".join(f"{name}={text}" for name, text in (asked_for | {"tasks": "none", "seed": seed}).items())


def submit_by_click(page: Page, address: str, seed: int, patience: float) -> None:
    """Submit the plans returned by `plans` with the button on Compress.

    Raises AssertionError, with the messages on the page, if the button does not say within `patience` milliseconds that the
    plans are running or have been run.
    """
    page.goto(address + link(seed))
    expect(page.locator(AT_REST)).to_be_visible(timeout=patience)
    page.get_by_role("button", name="Run SVD").click(timeout=patience)
    try:
        expect(page.get_by_role("button", name=TAKEN)).to_be_visible(timeout=patience)
    except AssertionError:
        said = " | ".join(page.get_by_test_id("stAlert").all_inner_texts())
        raise AssertionError(f"a click on Run had no effect; messages on the page: {said or 'none'}") from None


def environment(home: Path, *, resident: bool = True) -> dict[str, str]:
    """Environment variables of processes that use this home, each with one thread.

    resident    whether runs are carried out by residents, or each by a new process
    """
    return os.environ | {"OFFCOMP_HOME": str(home), "OMP_NUM_THREADS": "1", "OFFCOMP_RESIDENT": str(int(resident))}


def start(home: Path, *arguments: str, text: str = "", resident: bool = True) -> subprocess.Popen[str]:
    """Start an offcomp command with this text as its input."""
    process = subprocess.Popen(
        [sys.executable, "-m", "offcomp.cli", *arguments],
        cwd=ROOT,
        env=environment(home, resident=resident),
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin
    process.stdin.write(text)
    process.stdin.close()
    process.stdin = None
    return process


def offcomp(home: Path, *arguments: str, text: str = "", resident: bool = True) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of an offcomp command."""
    process = start(home, *arguments, text=text, resident=resident)
    out, said = process.communicate()
    return process.returncode, out, said


def digest(run: Run) -> str:
    """A digest of a finished run's results: its errors, scores and stored tensors, without times, versions and its id."""
    result = result_of(run).to_dict()
    groups = [{name: value for name, value in group.items() if name not in OWN_TIME} for group in result["groups"]]
    found = {"groups": groups, "scores": result["scores"], "sizes": result["model"]["sizes"]}
    whole = hashlib.sha256(json.dumps(found, sort_keys=True).encode())
    for file in run.tensor_files:
        whole.update(file.read_bytes())
    return whole.hexdigest()


def asked(plan: Plan) -> str:
    """A key for a plan that does not depend on the names of its groups or on how their dtypes were resolved."""
    return json.dumps([sorted((g.modules, g.method, g.ratio) for g in plan.groups), plan.seed])


@dataclass
class Reference:
    """The results of each plan in an undisturbed home, and the files that runs leave in it."""

    home: Path
    digests: dict[str, str] = field(default_factory=dict)

    def make(self, wanted: Iterable[Plan]) -> None:
        """Run these plans one after the other, each in a new process."""
        for plan in wanted:
            status, out, said = offcomp(self.home, "run", "--json", "-", text=plan.to_json(), resident=False)
            assert not status, said
            self.digests[asked(plan)] = digest(RunStore(self.home).get(json.loads(out)["id"]))

    def fault(self, run: Run) -> str:
        """How a finished run differs from the same run in this home, or an empty string if it does not."""
        try:
            found = digest(run)
        except (OSError, KeyError, TypeError) as error:
            return f"run {run.id} is done but incomplete: {type(error).__name__} {error}"
        return "" if found == self.digests[asked(run.plan)] else f"run {run.id} is done but its results differ"

    def strays(self, home: Path) -> list[str]:
        """Files in a home that no ended run should have left."""
        usual = {pattern(file, self.home) for file in files(self.home)}
        return sorted(str(file.relative_to(home)) for file in files(home) if is_stray(file, home, usual))


def files(home: Path) -> Iterator[Path]:
    """Every file and every empty folder in a home."""
    for path in sorted(home.rglob("*")):
        if path.is_file() or (path.is_dir() and not any(path.iterdir())):
            yield path


def pattern(file: Path, home: Path) -> str:
    """A file's path with run ids and process ids replaced by placeholders."""
    return re.sub(r"\d+", "N", re.sub(r"(?<![0-9a-f])[0-9a-f]{12}(?![0-9a-f])", "RUN", str(file.relative_to(home))))


def is_stray(file: Path, home: Path, usual: set[str]) -> bool:
    """Return whether a file is left over: a partial file, the lock of an ended run, or one that undisturbed runs lack."""
    place = pattern(file, home)
    if file.suffix == ".part" or ("RUN" in place.rpartition("/")[2] and file.suffix == ".lock"):
        return True
    return place.startswith("runs/") and file.name not in OFTEN and place not in usual


def workers(home: Path) -> list[psutil.Process]:
    """The processes that work on runs in this home, or wait for their turn: workers, and forks of residents."""
    return _split(home)[0]


def residents(home: Path) -> list[psutil.Process]:
    """The resident processes of this home, without their forks."""
    return _split(home)[1]


def _split(home: Path) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """The workers and the residents of this home, from a single scan of all processes."""
    there = _processes(home)
    pids = {process.pid for process, line in there if RESIDENT in line}
    found: tuple[list[psutil.Process], list[psutil.Process]] = ([], [])
    for process, line in there:
        with suppress(psutil.Error):
            is_resident = RESIDENT in line and process.ppid() not in pids
            found[is_resident].append(process)
    return found


def _processes(home: Path) -> list[tuple[psutil.Process, list[str]]]:
    """The live workers, residents and forks of this home, with their command lines."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            line = process.cmdline()
            is_ours = bool({WORKER, RESIDENT} & set(line)) and any(part.startswith(str(home)) for part in line)
            if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append((process, line))
    return found


def unreadable(home: Path) -> list[str]:
    """Names of folders in the runs folder that are not listed as runs."""
    store = RunStore(home)
    there = {folder.name for folder in store.folder.iterdir() if folder.is_dir()} if store.folder.is_dir() else set()
    return sorted(there - {run.id for run in store.all()})


def wait_for_rest(home: Path, seconds: float) -> list[Run]:
    """Wait until every run has ended and no worker is left. Returns the runs still under way after this many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        busy = [run for run in RunStore(home).all() if run.status in UNDER_WAY]
        if (not busy and not workers(home)) or time.monotonic() > deadline:
            return busy
        time.sleep(0.1)


@contextmanager
def app(home: Path, log: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Serve the app on a port inside the block, once it responds; its output is appended to a log file."""
    from tests.serving import wait_for_server

    command = [sys.executable, "-m", "offcomp.cli", "app", "--port", str(port)]
    with log.open("ab") as out, subprocess.Popen(command, cwd=ROOT, env=environment(home), stdout=out, stderr=out) as server:
        try:
            wait_for_server(f"http://127.0.0.1:{port}")
            yield server
        finally:
            if server.poll() is None:
                server.terminate()
            server.wait(20)


def free_port() -> int:
    """A port of this machine that is not in use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tracebacks(text: str) -> int:
    """The number of tracebacks in a text."""
    return text.count("Traceback (most recent call last)")


def report(title: str, rows: list[dict[str, Any]], faults: list[str], most: int = 20) -> None:
    """Print a table and the faults."""
    from offcomp.cli.text import format_table

    print(f"{title}\n\n{format_table(rows)}\n\nfaults: {len(faults)}")
    for fault in faults[:most]:
        print(f"  {fault}")
