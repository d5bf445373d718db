"""How fast the app answers, in a real Chromium: `python -m benchmarks.app_speed`.

Prints the time from the server's first answer to a complete Start page, and of clicks on Compress (pill to new text), first
with idle workers, then while an autoencoder trains. Median, 95th percentile and maximum in milliseconds.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Browser, Page, expect, sync_playwright

from offcomp.models.listing import model_info
from offcomp.plan import Plan, make_groups
from offcomp.runs import RunStore
from offcomp.tables import format_table
from tests.browser import launch_options
from tests.serving import served, visit

CLICKS = 20


def start_seconds(browser: Browser, home: Path) -> float:
    """Server's first answer to a complete Start page in a fresh browser session."""
    with served(home) as address:
        answered = time.perf_counter()
        with visit(browser, address) as app:
            app.open()
            expect(app.page.get_by_role("button", name="Try it")).to_be_visible()
            expect(app.page.get_by_role("img", name="Which modules lose more?")).to_be_visible()
            return time.perf_counter() - answered


def click_milliseconds(page: Page) -> list[float]:
    """Clicks on a layer's pill until the number of chosen matrices in the answer has changed."""
    row = page.locator('[class*="st-key-row_"]').filter(has_text="query")
    pill = row.get_by_role("button", name="3")
    times = []
    for count in range(CLICKS):
        expected = "11 weight matrices" if count % 2 == 0 else "12 weight matrices"
        started = time.perf_counter()
        pill.click()
        page.get_by_text(expected).first.wait_for()
        times.append((time.perf_counter() - started) * 1e3)
        page.wait_for_timeout(200)
    return times


def row(name: str, times: list[float]) -> dict[str, object]:
    """Median, 95th percentile and maximum."""
    return {
        "what": name,
        "n": len(times),
        "median ms": statistics.median(times),
        "p95 ms": sorted(times)[max(0, round(0.95 * len(times)) - 1)],
        "max ms": max(times),
    }


def busy(home: Path) -> tuple[RunStore, str]:
    """Start an autoencoder on all FFN weights, and wait until it trains."""
    info = model_info("minilm-l6", home)
    specs = [spec for spec in info.modules if spec.kind in ("ffn_in", "ffn_out")]
    store = RunStore(home)
    run = store.submit(Plan("minilm-l6", make_groups(specs, "kind", method="autoencoder", ratio=3.0)), info)
    while not store.get(run.id).progress.get("stage", "").startswith("compress"):
        time.sleep(0.2)
    return store, run.id


def main() -> None:
    """Print the table."""
    rows = []
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        home = Path(folder) / "home"
        browser = playwright.chromium.launch(**launch_options())
        rows.append(row("server's first answer to complete Start page", [1e3 * start_seconds(browser, home) for _ in range(5)]))
        with served(home) as address, visit(browser, address) as app:
            app.open("/compress")
            expect(app.page.get_by_text("12 weight matrices").first).to_be_visible()
            click_milliseconds(app.page)  # fills the caches: the spectra of 11 matrices are computed once
            rows.append(row("click to new text, workers idle", click_milliseconds(app.page)))
            store, name = busy(home)
            rows.append(row("click to new text, an autoencoder trains", click_milliseconds(app.page)))
            store.cancel(name)
        browser.close()
    print(format_table(rows))


if __name__ == "__main__":
    main()
