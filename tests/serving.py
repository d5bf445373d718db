"""The real app for browser tests: its server, and a page that records all errors and all requests to other machines."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Error, Locator, Page, expect

ROOT = Path(__file__).parents[1]
START_SECONDS = 60
SETTLED_MILLISECONDS = 300
PATIENCE_SECONDS = 40.0
"""How long to wait for expected content: on a busy machine, it can take many seconds until a page is drawn."""
expect.set_options(timeout=1000 * PATIENCE_SECONDS)
DRAWN = "[...document.querySelectorAll('[data-testid=stPlotlyChart]')].every(chart => chart.querySelector('.main-svg'))"
WIDTH = "Math.max(...[document.documentElement, document.querySelector('[data-testid=stMain]')].map(part => part.scrollWidth))"
MESSAGES = ("stAlert", "stException", "stSpinner")
PHONE = {"width": 390, "height": 844}
CELLS = """[...document.querySelectorAll('[data-testid=stTable] tr')].map(
  row => [...row.querySelectorAll('th, td')].map(cell => cell.innerText.trim()))"""
# Given a deep link, Streamlit first looks for its server below the address of the page, and then at the right address.
EXPECTED_404 = ("/_stcore/health", "/_stcore/host-config")


@contextmanager
def served(
    home: Path, port: int | None = None, offcomp: Sequence[str] = (sys.executable, "-m", "offcomp.cli"), start: Path = ROOT
) -> Iterator[str]:
    """Serve the app with this home, using the command `offcomp` in the folder `start`. Yields the address once it responds."""
    if port is None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [*offcomp, "app", "--port", str(port)]
    with (
        (home.parent / f"server-{port}.log").open("wb") as log,
        subprocess.Popen(command, cwd=start, env=os.environ | {"OFFCOMP_HOME": str(home)}, stdout=log, stderr=log) as server,
    ):
        try:
            wait_for_server(address)
            yield address
        finally:
            server.terminate()
            server.wait(20)


def wait_for_server(address: str) -> None:
    """Wait until the server responds. Raises AssertionError if it does not within START_SECONDS."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{address}/_stcore/health", timeout=1).close()  # noqa: S310
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError(f"no answer from {address} within {START_SECONDS} s")


@dataclass
class Visit:
    """A browser page, with the errors that occurred on it and its requests to other machines."""

    page: Page
    address: str
    foreign: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def open(self, path: str = "/") -> None:
        """Open a path of the app and wait for the title of the page."""
        self.page.goto(self.address + path)
        expect(self.page.locator("h1")).to_be_visible()

    def state(self) -> str:
        """What the page says of itself, for the report of a failed test."""
        try:
            script = self.page.get_by_test_id("stApp").get_attribute("data-test-script-state", timeout=1000)
            messages = [text for part in MESSAGES for text in self.page.get_by_test_id(part).all_inner_texts()]
        except Error as error:  # the browser may be gone
            return str(error)
        return f"{self.page.url}\nscript {script}\nmessages {messages}\nerrors {self.errors}"

    def check(self) -> None:
        """Check that no request left this machine, that no error occurred, and that the page shows no exception."""
        assert not self.foreign, f"requests left this machine: {self.foreign}"
        assert not self.errors, f"errors on the page: {self.errors}"
        expect(self.page.get_by_test_id("stException")).to_have_count(0)


@contextmanager
def visit(browser: Browser, address: str, **context_options: object) -> Iterator[Visit]:
    """Yield a page in a new browser session of the app, and check it at the end."""
    options = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"} | context_options
    context = browser.new_context(**options)  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(1000 * PATIENCE_SECONDS)
    made = Visit(page, address)
    page.on("request", lambda request: made.foreign.append(request.url) if is_foreign(request.url) else None)
    page.on("pageerror", lambda error: made.errors.append(str(error)))
    page.on("console", lambda message: made.errors.append(message.text) if is_console_error(message) else None)
    page.on(
        "response", lambda r: made.errors.append(f"{r.status} {r.url}") if r.status >= 400 and is_unexpected(r.url) else None
    )
    try:
        yield made
        made.check()
    finally:
        context.close()


def title(page: Page, text: str) -> None:
    """Wait until the title of the page contains this text."""
    expect(page.locator("h1")).to_contain_text(text)


def settled(page: Page, patience: float = 1000 * PATIENCE_SECONDS) -> None:
    """Wait until the script has ended, no elements of its previous run remain, and the charts are drawn.

    patience    how long to wait for the script, in milliseconds
    """
    expect(page.locator("[data-testid=stApp][data-test-script-state=notRunning]")).to_be_visible(timeout=patience)
    expect(page.locator("[data-stale=true]")).to_have_count(0)
    expect(page.locator("[data-testid=stSkeleton]")).to_have_count(0, timeout=patience)
    holds(page, DRAWN)  # not asserted: the test itself notices missing charts
    page.wait_for_timeout(SETTLED_MILLISECONDS)


def fits(page: Page, width: int) -> None:
    """Wait until no part of the page is wider than `width` pixels."""
    assert holds(page, f"{WIDTH} <= {width}"), f"{page.evaluate(WIDTH)} pixels wide"


def serious_faults(page: Page) -> list[str]:
    """Return every serious or critical fault that axe finds on the page, with the element and an explanation."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{fault['id']}: {node['html'][:200]} {node['failureSummary']}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


@contextmanager
def open_part(page: Page, name: str) -> Iterator[Locator]:
    """Open one part of the plan, such as "Weights", yield its popover, and close it afterwards."""
    part, body = page.locator(f".st-key-panel_{name.lower()}"), page.get_by_test_id("stPopoverBody")
    part.get_by_role("button", name=name).click()
    expect(body).to_be_visible()
    settled(page)
    yield body
    page.keyboard.press("Escape")
    expect(body).to_have_count(0)
    settled(page)


def shown_strip(page: Page) -> dict[str, dict[str, str]]:
    """Return the text of each cell in the strip of the Lab, by row and by column heading, such as "SVD, 3.02x"."""
    expect(page.get_by_test_id("stTable")).to_be_visible()
    (_, *headings), *lines = page.evaluate(CELLS)
    return {row: dict(zip(headings, cells, strict=True)) for row, *cells in lines}


def run_fits(page: Page) -> None:
    """Check that the Run button of a Lab page is visible on a phone without scrolling."""
    box = page.locator(".st-key-run").get_by_role("button").bounding_box()
    assert box and box["y"] >= 0 and box["y"] + box["height"] <= PHONE["height"], box


def holds(page: Page, condition: str) -> bool:
    """Whether a JavaScript condition is met within PATIENCE_SECONDS. Playwright's waiting needs eval, which the app forbids."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := bool(page.evaluate(condition))) and time.monotonic() < deadline:
        page.wait_for_timeout(50)
    return found


def is_console_error(message: ConsoleMessage) -> bool:
    """Whether a console message is an error that is worth reporting."""
    return message.type == "error" and is_unexpected(message.location.get("url", ""))


def is_foreign(url: str) -> bool:
    """Whether a request to this URL leaves this machine."""
    parts = urlsplit(url)
    return parts.scheme in ("http", "https", "ws", "wss") and parts.hostname not in ("127.0.0.1", "localhost")


def is_unexpected(url: str) -> bool:
    """Whether an error status for this URL is worth reporting."""
    return not urlsplit(url).path.endswith(EXPECTED_404)
