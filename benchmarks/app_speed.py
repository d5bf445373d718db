"""How fast the app responds in a real Chromium browser: `python -m benchmarks.app_speed`.

Prints the median, 95th percentile and maximum, in milliseconds, of the time

- from the server's first response to a complete Start page;
- from a click on a pill of the page Compress to the new text, first with idle workers, then while an autoencoder trains;
- from the key press that moves a slider to the last change of a chart or card, on Start, on Compress with every matrix of
  MiniLM-L6, on Inspect with SVD and with four stored methods, and in ten open sessions whose sliders are moved at once;
- from a click on a sidebar link to the next page's title, with its script finished;
- between two pictures of a race that plays in ten open sessions, where a tick is 500 ms, and from the key press to the pause.

Finally prints the memory of the app's process after a visit to every page.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from playwright.sync_api import Browser, Page, expect, sync_playwright

from offcomp.cli.text import format_table
from offcomp.models.listing import model_info
from offcomp.planning.plan import Plan, make_groups
from offcomp.results.race import default_module, race_plans
from offcomp.runs.store import RunStore
from offcomp.ui.frame import PAGES
from tests.browser import launch_options
from tests.serving import holds, served, visit

CLICKS = 20
SESSIONS = 10
EVERYTHING = ",".join(
    ["word_embeddings", *(f"{kind}.0-5" for kind in ("query", "key", "value", "attention_output", "ffn_in", "ffn_out"))]
)
STRIP = "[data-testid=stTable]"
INSPECTED = "h3:has-text('at each rank')"
STORED = ("svd", "autoencoder", "codebook", "trellis")
FIT_MILLISECONDS = 120_000
COMPRESS = f"/compress?modules={EVERYTHING}&together=module&methods=svd"
REST_MILLISECONDS = 1500
WATCH_CHARTS = """() => {
  if (window.drawn !== undefined) return
  document.addEventListener("keydown", () => { window.pressed = performance.now() }, true)
  const inChart = change => (change.target.closest ?? (() => null)).call(change.target, ".js-plotly-plot, [data-testid=stHtml]")
  const note = changes => { if (changes.some(inChart)) window.drawn = performance.now() }
  new MutationObserver(note).observe(document.body, {subtree: true, childList: true, attributes: true, characterData: true})
}"""
RACE_MODEL, RACE_RATIO, PLAYED_MILLISECONDS = "offcomp-gpt", 4.0, 10_000
WATCH_RACE = """() => {
  window.shown = []
  let epoch
  document.addEventListener("keydown", () => { window.pressed = performance.now() }, true)
  const look = () => {
    const now = document.querySelector(".race figure:nth-of-type(3)")?.innerText.match(/epoch (\\d+) of/)?.[1]
    if (now !== epoch) window.shown.push(performance.now())
    epoch = now
    const paused = document.querySelector(".st-key-race_play")?.innerText.includes("Play")
    window.paused = paused ? window.paused || performance.now() : 0
  }
  new MutationObserver(look).observe(document.body, {subtree: true, childList: true, attributes: true, characterData: true})
}"""
AT_REST = "[data-testid=stApp][data-test-script-state=notRunning]"


def start_seconds(browser: Browser, home: Path) -> float:
    """Time from the server's first response to a complete Start page, in a fresh browser session."""
    with served(home) as address:
        answered = time.perf_counter()
        with visit(browser, address) as app:
            app.open()
            expect(app.page.get_by_role("button", name="Open this plan in the Lab")).to_be_visible()
            expect(app.page.get_by_role("img", name="How much of the score is kept?")).to_be_visible()
            return time.perf_counter() - answered


def click_milliseconds(page: Page) -> list[float]:
    """Times from a click on a layer's pill until the displayed number of selected matrices has changed."""
    weights = page.get_by_role("button", name="Weights", exact=True)
    if weights.get_attribute("aria-expanded") != "true":
        weights.click()
    row = page.locator('[class*="st-key-row_"]').filter(has_text="query")
    pill = row.get_by_role("button", name="3")
    times = []
    for count in range(CLICKS):
        expected = "(11 matrices)" if count % 2 == 0 else "(12 matrices)"
        started = time.perf_counter()
        pill.click()
        page.get_by_text(expected).first.wait_for()
        times.append((time.perf_counter() - started) * 1e3)
        page.wait_for_timeout(200)
    return times


def slide_milliseconds(*pages: Page, moves: int = CLICKS) -> list[float]:
    """Move the last slider of all pages at once by one step. Returns the times until the last change of a chart on each."""
    times = []
    for page in pages:
        page.evaluate(WATCH_CHARTS)
    for count in range(moves):
        for page in pages:
            page.get_by_role("slider").last.focus()
            page.evaluate("window.drawn = 0")
        for page in pages:
            page.keyboard.press("ArrowRight" if count % 4 < 2 else "ArrowLeft")
        for page in pages:
            assert holds(page, "window.drawn > 0")
        pages[0].wait_for_timeout(REST_MILLISECONDS)
        times += [page.evaluate("window.drawn - window.pressed") for page in pages]
    return times


def open_slider(page: Page, address: str, path: str, answer: str) -> None:
    """Open a page with a slider, and wait until it is ready."""
    page.goto(address + path)
    page.locator(answer).first.wait_for()
    page.get_by_role("slider").first.wait_for()
    expect(page.locator(AT_REST)).to_be_visible()
    page.wait_for_timeout(1500)


def fit_methods(page: Page, address: str) -> None:
    """Open Inspect with all of STORED, and fit those that have to be trained."""
    open_slider(page, address, f"/inspect?module=value.2&rank=48&show={','.join(STORED)}&ratio=4", INSPECTED)
    for name in STORED[1:]:
        page.locator(f".st-key-inspect_fit_{name}").get_by_role("button").click()
        page.locator(f".st-key-inspect_residual_{name}").wait_for(timeout=FIT_MILLISECONDS)
        expect(page.locator(AT_REST)).to_be_visible()


def switch_milliseconds(page: Page) -> list[float]:
    """Times from a click on a sidebar link until the script of its page has finished, for every page, twice."""
    times = []
    for _ in range(2):
        for _path, title, _icon in PAGES:
            link = page.get_by_test_id("stSidebar").get_by_role("link", name=title, exact=True)
            before = page.locator("h1").inner_text()
            started = time.perf_counter()
            link.click()
            expect(page.locator("h1")).not_to_have_text(before)
            expect(page.locator(AT_REST)).to_be_visible()
            times.append((time.perf_counter() - started) * 1e3)
            page.wait_for_timeout(1000)
    return times


def together_milliseconds(browser: Browser, address: str) -> list[float]:
    """Times of slider moves made in several open sessions at once."""
    with ExitStack() as sessions:
        pages = [sessions.enter_context(visit(browser, address)).page for _ in range(SESSIONS)]
        for page in pages:
            open_slider(page, address, COMPRESS, STRIP)
        return slide_milliseconds(*pages, moves=4)


def race_milliseconds(browser: Browser, address: str, home: Path) -> tuple[list[float], list[float]]:
    """Times between the pictures of a race that plays in several sessions, and from a key press until it is paused."""
    info, store = model_info(RACE_MODEL, home), RunStore(home)
    runs = [store.submit(plan, info) for plan in race_plans(info, default_module(info), RACE_RATIO).values()]
    for run in runs:
        for _ in store.follow(run):
            pass
    with ExitStack() as sessions:
        pages = [sessions.enter_context(visit(browser, address)).page for _ in range(SESSIONS)]
        for page in pages:
            page.goto(f"{address}/race?race={','.join(run.id for run in runs)}")
            page.get_by_text("wins by").wait_for()
            page.evaluate(WATCH_RACE)
        for page in pages:
            page.keyboard.press("p")
        pages[0].wait_for_timeout(PLAYED_MILLISECONDS)
        shown = [page.evaluate("window.shown") for page in pages]
        paused = []
        for page in pages:
            page.keyboard.press("p")
            assert holds(page, "window.paused > window.pressed")
            paused.append(page.evaluate("window.paused - window.pressed"))
        between = [after - before for times in shown for before, after in pairwise(times[1:])]
        return between, paused


def server_megabytes(address: str) -> float:
    """Resident memory of the process that serves the app."""
    port = int(address.rsplit(":", 1)[1])
    found = next(
        c for c in psutil.net_connections("tcp") if c.laddr and c.laddr.port == port and c.status == psutil.CONN_LISTEN
    )
    return psutil.Process(found.pid).memory_info().rss / 1e6


def row(name: str, times: list[float]) -> dict[str, object]:
    """A row of the table: the median, 95th percentile and maximum of these times."""
    return {
        "what": name,
        "n": len(times),
        "median ms": statistics.median(times),
        "p95 ms": sorted(times)[max(0, round(0.95 * len(times)) - 1)],
        "max ms": max(times),
    }


def busy(home: Path) -> tuple[RunStore, str]:
    """Start an autoencoder on all FFN weights, and wait until it is training."""
    info = model_info("minilm-l6", home)
    specs = [spec for spec in info.modules if spec.kind in ("ffn_in", "ffn_out")]
    store = RunStore(home)
    run = store.submit(Plan(model="minilm-l6", groups=make_groups(specs, "kind", method="autoencoder", ratio=3.0)), info)
    while (progress := store.get(run.id).progress) is None or not progress.stage.startswith("compress"):
        time.sleep(0.2)
    return store, run.id


def main() -> None:
    """Print the table."""
    rows = []
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        home = Path(folder) / "home"
        browser = playwright.chromium.launch(**launch_options())
        rows.append(row("server's first response to full Start page", [1e3 * start_seconds(browser, home) for _ in range(5)]))
        with served(home) as address, visit(browser, address) as app:
            open_slider(app.page, address, "/?size=12x", ".start")
            rows.append(row("slider to cards, Start", slide_milliseconds(app.page)))
            app.open("/compress")
            expect(app.page.get_by_text("(12 matrices)").first).to_be_visible()
            click_milliseconds(app.page)  # fills the caches, since the spectra of 11 matrices are computed only once
            rows.append(row("click to new text, workers idle", click_milliseconds(app.page)))
            store, name = busy(home)
            rows.append(row("click to new text, an autoencoder training", click_milliseconds(app.page)))
            store.cancel(name)
            page = app.page
            open_slider(page, address, COMPRESS, STRIP)
            slide_milliseconds(page)  # fills the caches
            rows.append(row("slider to charts, Compress, 37 matrices", slide_milliseconds(page)))
            open_slider(page, address, "/inspect?module=ffn_in.3&rank=96&show=svd", INSPECTED)
            page.locator(".st-key-inspect_residual").wait_for()
            rows.append(row("slider to charts, Inspect, SVD", slide_milliseconds(page)))
            fit_methods(page, address)
            rows.append(row("slider to charts, Inspect, four stored methods", slide_milliseconds(page)))
            rows.append(row("link to the next page", switch_milliseconds(page)))
            megabytes = server_megabytes(address)
            rows.append(row(f"slider to charts, {SESSIONS} sessions", together_milliseconds(browser, address)))
            between, paused = race_milliseconds(browser, address, home)
            rows.append(row(f"between two pictures of a race, {SESSIONS} sessions", between))
            rows.append(row(f"key press to pause of a race, {SESSIONS} sessions", paused))
        browser.close()
    print(format_table(rows))
    print(f"memory of the app's process after a visit to every page: {megabytes:.0f} MB")


if __name__ == "__main__":
    main()
