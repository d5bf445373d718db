"""How fast a home with many finished runs is listed, shown and compared: `python -m benchmarks.many_runs [--runs 1000]`.

Makes two real runs by the command line, an SVD and a quantization of a bundled model with a scored task, and copies their
folders under new ids: seeds and ratios of their own, figures spread around the real ones. `--methods 1` copies the SVD alone.
Prints three tables:

1. Verbs of the command line: wall seconds of the whole process, best and worst of REPEATS after one that warms the disk's cache.
2. Scripts of the pages, without a browser: seconds of the second visit and later ones, and the widgets and charts on the page.
3. Pages in Chromium: seconds from a click in the sidebar, and from an address in a new session, until the script has ended and
   nothing is left to be drawn; and the longest that the browser was deaf to its user.
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
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

from offcomp.files import read_json, write_json
from offcomp.tables import format_table
from tests.browser import launch_options
from tests.serving import served, visit

ROOT = Path(__file__).parents[1]
MODEL = "offcomp-bert-sentiment"
MODULES = ",".join(f"{kind}.{layer}" for kind in ("query", "key") for layer in range(4))
METHODS = {"svd": "parameters", "quantization": "bytes"}
REPEATS = 5
PAGES = {"runs": "What is running", "compare": "Which method", "examples": "Which predictions", "compress": "What if"}
EVERYTHING = {"compare": "runs=all", "examples": "runs=all"}
WATCH_TASKS = """() => {
  window.longest = 0
  new PerformanceObserver(list => { for (const task of list.getEntries()) window.longest = Math.max(window.longest, task.duration) })
    .observe({type: "longtask", buffered: true})
}"""


def offcomp(home: Path, *arguments: str, text: str = "") -> str:
    """What a verb of the command line prints."""
    done = subprocess.run(
        [sys.executable, "-m", "offcomp.cli", *arguments],
        **{"cwd": ROOT, "env": os.environ | {"OFFCOMP_HOME": str(home)}, "input": text, "text": True},
        capture_output=True,
        check=False,
    )
    assert not done.returncode, f"offcomp {' '.join(arguments)}: {done.stderr[-2000:]}"
    return done.stdout


def real_run(home: Path, method: str) -> Path:
    """The folder of a run of queries and keys by this method, scored on sentiment."""
    flags = ("--modules", MODULES, "--method", method, "--unit", METHODS[method], "--ratio", "4", "--json")
    plan = offcomp(home, "plan", MODEL, *flags)
    return home / "runs" / str(json.loads(offcomp(home, "run", "--json", "-", text=plan))["id"])


def spread(document: dict[str, Any], index: int, draw: random.Random) -> dict[str, Any]:
    """A finished run as another plan would have left it: a seed, a ratio and an id of its own, figures near the real ones."""
    made = copy.deepcopy(document)
    ratio, factor = round(draw.uniform(1.5, 12), 2), draw.uniform(0.6, 1.5)
    made["id"] = hashlib.sha256(f"{index} {document['id']}".encode()).hexdigest()[:12]
    made["plan"]["seed"] = index
    for planned, group in zip(made["plan"]["groups"], made["groups"], strict=True):
        planned["ratio"] = group["ratio"] = ratio
        for errors in (group, *group["module_errors"].values()):
            errors.update({name: errors[name] * factor for name in ("relative_error", "rmse", "mae", "cosine_distance")})
    for sizes in made["model"]["sizes"].values():
        for unit in ("parameters", "bytes"):
            sizes[f"{unit}_after"] = max(1, round(sizes[f"{unit}_before"] / ratio))
            sizes[f"{unit.removesuffix('s')}_ratio"] = sizes[f"{unit}_before"] / sizes[f"{unit}_after"]
    for score in made["scores"].values():
        change = draw.uniform(-0.05, 0.0)
        score["compressed"]["value"] += change
        score["paired"]["difference"] += change
        score["paired"]["interval"] = [end + change for end in score["paired"]["interval"]]
    return made


def fill(home: Path, sources: Sequence[Path], count: int, seed: int = 0) -> list[str]:
    """Copy finished runs until the home has `count`, the originals among them; returns the ids of the copies.

    Files of stored tensors are linked, not copied.
    """
    draw, names = random.Random(seed), []
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


def seconds(action: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def best_and_worst(action: Callable[[], object]) -> dict[str, float]:
    """Of REPEATS."""
    times = [seconds(action) for _ in range(REPEATS)]
    return {"best s": min(times), "worst s": max(times)}


def verbs(home: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Table 1."""
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
        offcomp(home, *arguments, text=plan)
        rows.append({"offcomp": name} | best_and_worst(lambda arguments=arguments: offcomp(home, *arguments, text=plan)))  # type: ignore[misc]
    return rows


def scripts(home: Path) -> list[dict[str, Any]]:
    """Table 2, from a process of its own, so that nothing of this one is loaded in it."""
    command = [sys.executable, "-m", "benchmarks.many_runs", "--scripts"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OFFCOMP_HOME": str(home)}, check=True, stdout=subprocess.PIPE, text=True
    )
    return list(json.loads(done.stdout))


def script_rows() -> list[dict[str, Any]]:
    """Table 2, in this process."""
    from tests.pages import at

    rows = []
    for page, query in [(page, "") for page in PAGES] + list(EVERYTHING.items()):
        parameters = dict(part.split("=") for part in query.split("&") if part)
        at(page, **parameters).run()

        def visit_again(page: str = page, parameters: dict[str, str] = parameters) -> None:
            assert not at(page, **parameters).run().exception

        row = {"page": f"{page}?{query}" if query else page} | best_and_worst(visit_again)
        app = at(page, **parameters).run()
        blocks = [element for element in app if hasattr(element, "proto")]
        rows.append(row | {"elements": len(blocks), "buttons": len(app.button), "charts": len(app.get("plotly_chart"))})
    return rows


def at_rest(page: Page) -> None:
    """Wait until the script has ended and all is drawn."""
    expect(page.locator("[data-testid=stApp][data-test-script-state=notRunning]")).to_be_visible(timeout=120_000)
    expect(page.locator("[data-stale=true]")).to_have_count(0, timeout=120_000)
    expect(page.get_by_test_id("stSkeletonElement")).to_have_count(0, timeout=120_000)
    charts = page.get_by_test_id("stPlotlyChart")
    expect(charts.locator(".main-svg").first.or_(page.locator("h1"))).to_be_visible(timeout=120_000)
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 0)))")


def browser_rows(browser: Browser, home: Path) -> list[dict[str, Any]]:
    """Table 3."""
    rows = []
    with served(home) as address:
        for page, query in [(page, "") for page in PAGES] + list(EVERYTHING.items()):
            clicks, links, deaf = [], [], 0.0
            for _ in range(3):
                with visit(browser, address) as app:
                    app.page.set_default_timeout(120_000)
                    app.page.add_init_script(f"({WATCH_TASKS})()")
                    app.open(f"/measured?{query}")
                    at_rest(app.page)
                    app.page.evaluate("window.longest = 0")
                    link = app.page.get_by_test_id("stSidebar").get_by_role("link", name=page.capitalize(), exact=True)
                    clicks.append(seconds(lambda link=link, app=app, page=page: shown(app.page, link.click, PAGES[page])))  # type: ignore[misc]
                    app.page.wait_for_timeout(300)
                    deaf = max(deaf, app.page.evaluate("window.longest"))
                with visit(browser, address) as app:
                    app.page.set_default_timeout(120_000)
                    go = f"{address}/{page}?{query}"
                    links.append(seconds(lambda app=app, go=go, page=page: shown(app.page, lambda: app.page.goto(go), PAGES[page])))  # type: ignore[misc]
            name = f"{page}?{query}" if query else page
            rows.append({"page": name, "click s": min(clicks), "address s": min(links), "deaf ms": deaf})
    return rows


def shown(page: Page, go: Callable[[], object], title: str) -> None:
    """Go there, and wait until all is drawn."""
    go()
    expect(page.locator("h1")).to_contain_text(title, timeout=120_000)
    at_rest(page)


def main() -> None:
    """Print the tables."""
    flags = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    flags.add_argument("--runs", type=int, default=1000)
    flags.add_argument("--methods", type=int, choices=(1, 2), default=2)
    flags.add_argument("--home", type=Path, help="keep the runs in this folder, and use those that are there")
    flags.add_argument("--scripts", action="store_true", help=argparse.SUPPRESS)
    asked = flags.parse_args()
    if asked.scripts:
        print(json.dumps(script_rows()))
        return
    with TemporaryDirectory() as folder:
        home = asked.home or Path(folder) / "home"
        if not (home / "runs").is_dir():
            fill(home, [real_run(home, method) for method in list(METHODS)[: asked.methods]], asked.runs)
        names = [str(row["run"]) for row in json.loads(offcomp(home, "runs", "--json"))]
        print(f"{len(names)} finished runs of {asked.methods} method{'s' * (asked.methods > 1)} in {home}\n")
        print(format_table(verbs(home, names)), end="\n\n", flush=True)
        print(format_table(scripts(home)), end="\n\n", flush=True)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(**launch_options())
            print(format_table(browser_rows(browser, home)))
            browser.close()


if __name__ == "__main__":
    main()
