"""The explorer in a real Chromium: from a cell to a comparison, groups, links, several sessions, uploads."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.serving import Visit, settled, title, visit

pytestmark = pytest.mark.browser
RUN_MILLISECONDS = 180_000


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
