"""How fast a home with many finished runs is listed, shown and compared: `python -m benchmarks.many_runs [--runs 1000]`.

Carries out two real runs on the command line, an SVD and a quantization of a bundled model with one scored task, and copies
their folders under new ids, with different seeds and ratios and with results that vary around the real ones. `--methods 1`
copies only the SVD. Prints three tables, each with the best of REPEATS measurements; processor seconds are meaningful even
on a busy machine:

1. Command line: time of the whole process of each command, after one run that warms the disk cache.
2. Scripts of the pages: their time without a browser, from the second visit on, and how many elements, buttons and charts they
   create.
3. Pages in Chromium: time from a click in the sidebar, and from opening an address in a new session, until the script has
   finished and everything is drawn; after the click also the longest time during which the browser did not respond to input,
   and the processor seconds used by server and browser.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from playwright.sync_api import Browser, Page, expect, sync_playwright

from benchmarks.run_checks import ROOT, environment, offcomp
from offcomp.cli.text import format_table
from offcomp.files import read_json, write_json
from offcomp.numerics.accounting import Size
from offcomp.planning.model_sizes import SizeChange
from tests.browser import launch_options
from tests.serving import holds, served, visit

MODEL = "offcomp-bert-sentiment"
MODULES = ",".join(f"{kind}.{layer}" for kind in ("query", "key") for layer in range(4))
METHODS = {"svd": "parameters", "quantization": "bytes"}
REPEATS = 3
REST_MILLISECONDS = 300
PATIENCE = 120_000
TITLES = {"runs": "What is running", "compare": "Which method", "examples": "Which predictions", "compress": "What if"}
VISITS = [*((page, "") for page in TITLES), ("compare", "all"), ("examples", "all")]
"""Pages, and the value of the parameter `runs` in the link to each."""
DRAWN = "[...document.querySelectorAll('[data-testid=stPlotlyChart]')].every(chart => chart.querySelector('.main-svg'))"
WATCH_TASKS = """() => {
  window.longest = 0
  const note = tasks => { for (const task of tasks.getEntries()) window.longest = Math.max(window.longest, task.duration) }
  new PerformanceObserver(note).observe({type: "longtask", buffered: true})
}"""


def printed(home: Path, *arguments: str, text: str = "") -> str:
    """The output of an offcomp command."""
    status, out, said = offcomp(home, *arguments, text=text)
    assert not status, f"offcomp {' '.join(arguments)}: {said[-2000:]}"
    return out


def real_run(home: Path, method: str) -> Path:
    """Compress query and key matrices by this method, scored on sentiment; returns the folder of the run."""
    flags = ("--modules", MODULES, "--method", method, "--unit", METHODS[method], "--ratio", "4", "--json")
    plan = printed(home, "plan", MODEL, *flags)
    return home / "runs" / str(json.loads(printed(home, "run", "--json", "-", text=plan))["id"])


def spread(document: dict[str, Any], index: int, draw: random.Random) -> dict[str, Any]:
    """The document of a finished run, changed as if by a different plan: a new seed, ratio and id, and similar results."""
    made = copy.deepcopy(document)
    ratio, factor = round(draw.uniform(1.5, 12), 2), draw.uniform(0.6, 1.5)
    made["id"] = hashlib.sha256(f"{index} {document['id']}".encode()).hexdigest()[:12]
    made["plan"]["seed"] = index
    for planned, group in zip(made["plan"]["groups"], made["groups"], strict=True):
        planned["ratio"] = group["ratio"] = ratio
        for errors in (group, *group["module_errors"].values()):
            errors.update({name: errors[name] * factor for name in ("relative_error", "rmse", "mae", "cosine_distance")})
    for denominator, sizes in made["model"]["sizes"].items():
        before = Size(sizes["parameters_before"], sizes["bytes_before"])
        after = Size(max(1, round(before.num_parameters / ratio)), max(1, round(before.num_bytes / ratio)))
        made["model"]["sizes"][denominator] = SizeChange.between(before, after).to_dict()
    for score in made["scores"].values():
        change = draw.uniform(-0.05, 0.0)
        score["compressed"]["value"] += change
        score["paired"]["difference"] += change
        score["paired"]["interval"] = [end + change for end in score["paired"]["interval"]]
    return made


def fill(home: Path, sources: Sequence[Path], count: int, seed: int = 0) -> list[str]:
    """Copy finished runs until the home has `count` runs, including the originals; returns the ids of the copies.

    Files of stored tensors are hard-linked, not copied.
    """
    draw, names = random.Random(seed), []  # noqa: S311
    for index in range(count - len(sources)):
        source = sources[index % len(sources)]
        made = spread(read_json(source / "run.json"), index, draw)
        folder = shutil.copytree(source, home / "runs" / str(made["id"]), copy_function=os.link)
        ticket = read_json(source / "worker.json") or {}
        write_json(folder / "run.json", made)
        write_json(folder / "plan.json", made["plan"])
        write_json(folder / "worker.json", ticket | {"submitted": ticket.get("submitted", 0.0) - 60.0 * (index + 1)})
        names.append(str(made["id"]))
    return names


def timed(action: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock seconds of an action, and processor seconds of this process and of the child processes it waits for."""
    wall, processor = time.perf_counter(), sum(os.times()[:4])
    action()
    return time.perf_counter() - wall, sum(os.times()[:4]) - processor


def best(action: Callable[[], object]) -> dict[str, float]:
    """The best times of REPEATS measurements."""
    walls, processors = zip(*(timed(action) for _ in range(REPEATS)), strict=True)
    return {"s": min(walls), "processor s": min(processors)}


def verbs(home: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of table 1."""
    plan = json.dumps(read_json(home / "runs" / names[0] / "plan.json"))
    asked: dict[str, tuple[str, ...]] = {
        "runs": ("runs",),
        "runs --json": ("runs", "--json"),
        "show RUN": ("show", names[0]),
        "compare RUN RUN": ("compare", *names[:2]),
        "predict PLAN": ("predict", "-"),
        "models (reads no run)": ("models",),
    }
    rows = []
    for name, arguments in asked.items():
        printed(home, *arguments, text=plan)
        rows.append({"offcomp": name} | best(partial(printed, home, *arguments, text=plan)))
    return rows


def scripts(home: Path) -> list[dict[str, Any]]:
    """The rows of table 2, measured in a new process, in which nothing has been loaded beforehand."""
    command = [sys.executable, "-m", "benchmarks.many_runs", "--scripts"]
    done = subprocess.run(command, cwd=ROOT, env=environment(home), check=True, stdout=subprocess.PIPE, text=True)
    return list(json.loads(done.stdout))


def script_rows() -> list[dict[str, Any]]:
    """The rows of table 2, measured in this process."""
    from tests.pages import opened

    rows = []
    for page, query in VISITS:
        parameters = {"runs": query} if query else {}
        app = opened(page, **parameters)
        row = {"page": named(page, query)} | best(partial(opened, page, **parameters))
        rows.append(row | {"elements": len(list(app)), "buttons": len(app.button), "charts": len(app.get("plotly_chart"))})
    return rows


def named(page: str, query: str) -> str:
    """The address of a page, with the parameter `runs` if there is one."""
    return f"{page}?runs={query}" if query else page


def at_rest(page: Page) -> None:
    """Wait until the script has finished and everything is drawn."""
    expect(page.locator("[data-testid=stApp][data-test-script-state=notRunning]")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("[data-stale=true]")).to_have_count(0)
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0)
    assert holds(page, DRAWN)
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 0)))")


def shown(page: Page, go: Callable[[], object], title: str) -> None:
    """Open a page by calling `go`, and wait until everything is drawn."""
    go()
    expect(page.locator("h1")).to_contain_text(title)
    at_rest(page)


def processor_seconds() -> tuple[float, float]:
    """Processor seconds used so far by the server and by the browser, both started by this process."""
    server, browser = 0.0, 0.0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            taken = sum(process.cpu_times()[:2])
            if "offcomp.cli" in process.cmdline():
                server += taken
            elif "chrom" in process.name().lower() or "headless" in process.name().lower():
                browser += taken
    return server, browser


def click(browser: Browser, address: str, page: str, query: str) -> dict[str, float]:
    """Measure how long it takes to open a page from a different page, using the sidebar."""
    with visit(browser, address) as app:
        app.page.set_default_timeout(PATIENCE)
        app.page.add_init_script(f"({WATCH_TASKS})()")
        app.open(named("/atlas", query))
        at_rest(app.page)
        app.page.evaluate("window.longest = 0")
        link = app.page.get_by_test_id("stSidebar").get_by_role("link", name=page.capitalize(), exact=True)
        before = processor_seconds()
        wall, _ = timed(partial(shown, app.page, link.click, TITLES[page]))
        app.page.wait_for_timeout(REST_MILLISECONDS)
        server, browsing = (after - start for after, start in zip(processor_seconds(), before, strict=True))
        deaf = app.page.evaluate("window.longest")
    return {"click s": wall, "deaf ms": deaf, "server s": server, "browser s": browsing}


def address_seconds(browser: Browser, address: str, page: str, query: str) -> float:
    """Time to open a page by its address in a new session."""
    with visit(browser, address) as app:
        app.page.set_default_timeout(PATIENCE)
        return timed(partial(shown, app.page, partial(app.page.goto, f"{address}/{named(page, query)}"), TITLES[page]))[0]


def browser_rows(browser: Browser, home: Path) -> list[dict[str, Any]]:
    """The rows of table 3."""
    rows = []
    with served(home) as address:
        for page, query in VISITS:
            clicks = [click(browser, address, page, query) for _ in range(REPEATS)]
            links = [address_seconds(browser, address, page, query) for _ in range(REPEATS)]
            least = {name: min(found[name] for found in clicks) for name in clicks[0]}
            rows.append({"page": named(page, query), "address s": min(links)} | least)
    return rows


def main() -> None:
    """Print the tables."""
    flags = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    flags.add_argument("--runs", type=int, default=1000)
    flags.add_argument("--methods", type=int, choices=(1, 2), default=2)
    flags.add_argument("--home", type=Path, help="keep the runs in this folder, and reuse the runs in it")
    flags.add_argument("--scripts", action="store_true", help=argparse.SUPPRESS)
    asked = flags.parse_args()
    if asked.scripts:
        print(json.dumps(script_rows()))
        return
    expect.set_options(timeout=PATIENCE)
    with TemporaryDirectory() as folder:
        home = asked.home or Path(folder) / "home"
        if not (home / "runs").is_dir():
            fill(home, [real_run(home, method) for method in list(METHODS)[: asked.methods]], asked.runs)
        names = [str(row["run"]) for row in json.loads(printed(home, "runs", "--json"))]
        print(f"{len(names)} finished runs of {asked.methods} method{'s' * (asked.methods > 1)} in {home}\n")
        print(format_table(verbs(home, names)), end="\n\n", flush=True)
        print(format_table(scripts(home)), end="\n\n", flush=True)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(**launch_options())
            print(format_table(browser_rows(browser, home)))
            browser.close()


if __name__ == "__main__":
    main()
