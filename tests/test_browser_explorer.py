"""The explorer in a real Chromium: from a cell to a comparison, groups, links, several sessions, and access."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser import launch_options
from tests.serving import Visit, served, visit

pytestmark = pytest.mark.browser
RUN_MILLISECONDS = 180_000
PATHS = ("/", "/model", "/inspect", "/groups", "/compress", "/runs", "/compare", "/examples", "/measured")
SETTLED_MILLISECONDS = 1500


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(**launch_options())
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("explorer") / "home") as started:
        yield started


@pytest.fixture
def app(browser: Browser, address: str) -> Iterator[Visit]:
    with visit(browser, address) as made:
        yield made


def title(page: Page, text: str) -> None:
    """Wait for the page with this question."""
    expect(page.locator("h1")).to_contain_text(text)


def settled(page: Page) -> None:
    """Wait until the script has ended and nothing is being drawn."""
    expect(page.locator("[data-testid=stApp][data-test-script-state=notRunning]")).to_be_visible()
    page.wait_for_timeout(SETTLED_MILLISECONDS)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PATHS)
def test_no_serious_fault_of_access(browser: Browser, address: str, path: str, scheme: str) -> None:
    with visit(browser, address, color_scheme=scheme) as app:
        app.open(path)
        settled(app.page)
        found = Axe().run(app.page, options={"resultTypes": ["violations"]}).response["violations"]
        serious = [
            f"{fault['id']}: {node['html'][:200]}"
            for fault in found
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"]
        ]
        assert not serious, "\n".join(serious)


def test_from_a_cell_to_the_changed_predictions(app: Visit) -> None:
    page = app.page
    app.open("/model")
    settled(page)
    cell(page, layer=3, kind="Query")
    expect(page.get_by_text("encoder.layer.3.attention.self.query.weight").first).to_be_visible(timeout=RUN_MILLISECONDS)
    page.get_by_role("button", name="Inspect").click()
    title(page, "How compressible")
    expect(page).to_have_url(re.compile("module=query.3"))
    page.get_by_role("button", name="Compress it").click()
    title(page, "What if")
    expect(page).to_have_url(re.compile(r"modules=query\.3"))
    page.get_by_text("Autoencoder", exact=True).first.click()
    page.get_by_role("button", name="Run SVD").click()
    title(page, "What is running")
    expect(page.get_by_text("1 done")).to_be_visible(timeout=RUN_MILLISECONDS)
    page.get_by_role("link", name="Compare").last.click()
    title(page, "Which")
    run = re.search(r"runs=(\w+)", page.url)
    page.get_by_test_id("stSidebar").get_by_role("link", name="Examples").click()
    title(page, "Which predictions")
    expect(page).to_have_url(re.compile(f"runs={run[1] if run else 'none'}"))


def cell(page: Page, layer: int, kind: str) -> None:
    """Click the cell of a kind and layer in the map of the model."""
    texts = page.locator(".js-plotly-plot text")
    row = texts.filter(has_text=re.compile(f"^{kind}$", re.IGNORECASE)).first
    column = texts.filter(has_text=re.compile(f"^{layer}$")).first
    expect(row).to_be_visible(timeout=RUN_MILLISECONDS)
    settled(page)
    label, tick = row.bounding_box(), column.bounding_box()
    assert label
    assert tick
    page.mouse.click(tick["x"] + tick["width"] / 2, label["y"] + label["height"] / 2)


def test_suggested_groups_are_run(app: Visit) -> None:
    page = app.page
    app.open("/groups")
    page.get_by_role("button", name="Use these groups").click()
    title(page, "What if")
    expect(page).to_have_url(re.compile("together=own"))
    page.get_by_text("Autoencoder", exact=True).first.click()
    page.get_by_role("button", name="Run SVD").click()
    title(page, "What is running")
    expect(page.get_by_text(re.compile("0 under way"))).to_be_visible(timeout=RUN_MILLISECONDS)


def test_a_link_opens_the_same_page_in_another_browser(browser: Browser, app: Visit, address: str) -> None:
    page = app.page
    app.open("/compress?modules=value.0-2&ratio=5&methods=svd&together=module")
    expect(page.get_by_text("3 weight matrices").first).to_be_visible()
    shown = page.locator(".st-key-card_svd").inner_text()
    link = page.url.removeprefix(address)
    assert "modules=value.0-2" in link
    with visit(browser, address) as other:
        other.open(link)
        expect(other.page.locator(".st-key-card_svd")).to_have_text(re.compile(re.escape(shown.splitlines()[0])))
        assert other.page.locator(".st-key-card_svd").inner_text() == shown


def test_a_refresh_and_a_second_session_see_the_same_run(browser: Browser, app: Visit, address: str) -> None:
    page = app.page
    app.open("/compress?modules=ffn_in.0-5&methods=autoencoder&ratio=9.99")
    expect(page.get_by_text("is not available here")).to_be_visible()
    page.get_by_role("button", name="Run Autoencoder").click()
    title(page, "What is running")
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    page.reload()
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    with visit(browser, address) as other:
        other.open("/measured")
        expect(other.page.get_by_text("1 running").or_(other.page.get_by_text("1 waiting")).first).to_be_visible()
        other.open("/runs")
        other.page.get_by_role("button", name="Cancel").click()
        expect(other.page.get_by_text("cancelled").first).to_be_visible()
    expect(page.get_by_text("cancelled").first).to_be_visible()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_a_phone(browser: Browser, address: str, path: str, scheme: str) -> None:
    with visit(browser, address, viewport={"width": 390, "height": 844}, color_scheme=scheme) as app:
        app.open(path)
        settled(app.page)
        assert app.page.evaluate("document.documentElement.scrollWidth") <= 390
