"""Browser tests of the Lab's accessibility: with the keyboard, on a phone, in light and dark, before and after a run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from offcomp.runs.store import RunStore
from tests.pages import LAB
from tests.serving import PHONE, Visit, fits, open_part, run_fits, serious_faults, settled, shown_strip, visit
from tests.ui.test_browser import ended, set_slider

pytestmark = pytest.mark.browser
WIDE = {"width": 1280, "height": 900}
MAX_PRESSES = 8
PARTS = ("Weights", "Groups", "Methods", "Tasks", "Budget")
FOCUSED = "document.activeElement.innerText.trim()"
ON_RUN = "document.activeElement.closest('.st-key-run') !== null"
UNFOLD = "part => part.querySelectorAll('details:not([open]) > summary').forEach(head => head.click())"


@pytest.mark.parametrize("path", LAB)
def test_run_is_a_few_presses_away_from_the_top_of_each_page(app: Visit, path: str) -> None:
    page = app.page
    app.open(path)
    settled(page)
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED) == "Skip to main content"
    page.keyboard.press("Enter")
    for presses in range(2, MAX_PRESSES + 1):
        if page.evaluate(ON_RUN):
            return
        page.keyboard.press("Tab")
        assert presses < MAX_PRESSES, f"after {presses} presses the focus is on {page.evaluate(FOCUSED)!r}"


def test_control_and_enter_run_the_plan(app: Visit, home: Path) -> None:
    page = app.page
    app.open("/groups?modules=value.3&methods=svd&tasks=none&ratio=4")
    settled(page)
    page.keyboard.press("Control+Enter")
    ended(page)
    (run,) = RunStore(home).all()
    assert (run.status, run.plan.groups[0].modules, run.plan.tasks) == ("done", ("value.3",), ())
    assert list(shown_strip(page)["Relative error"])[1].startswith("SVD, 4")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_parts_of_the_plan_have_no_serious_fault_and_fit_a_phone(browser: Browser, address: str, scheme: str) -> None:
    with visit(browser, address, color_scheme=scheme) as app:
        page = app.page
        app.open("/compress?methods=svd,autoencoder,codebook")
        settled(page)
        for name in PARTS:
            with open_part(page, name) as part:
                part.evaluate(UNFOLD)
                settled(page)
                assert part.inner_text().strip()
                assert serious_faults(page) == [], name
        page.set_viewport_size(PHONE)  # type: ignore[arg-type]
        settled(page)
        for name in PARTS:
            with open_part(page, name) as part:
                fits(page, PHONE["width"])
                box = part.bounding_box()
                assert box and box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"], (name, box)


@pytest.mark.parametrize(("scheme", "seed"), [("light", 1), ("dark", 2)])
def test_the_results_of_a_run_have_no_serious_fault_and_fit_a_phone(
    browser: Browser, address: str, scheme: str, seed: int
) -> None:
    with visit(browser, address, color_scheme=scheme, viewport=WIDE) as app:
        page = app.page
        app.open(f"/model?modules=value.0-5&methods=svd&seed={seed}&tasks=sentiment")
        settled(page)
        page.get_by_role("button", name="Run SVD").click()
        ended(page)
        for path in LAB:
            go_to(page, path)
            assert "Changed predictions" in shown_strip(page)
            assert serious_faults(page) == [], path
            page.set_viewport_size(PHONE)  # type: ignore[arg-type]
            settled(page)
            fits(page, PHONE["width"])
            run_fits(page)
            page.set_viewport_size(WIDE)  # type: ignore[arg-type]
        page.get_by_role("button", name="Pin this answer").click()
        set_slider(page, "4x")
        settled(page)
        expect(page.get_by_text("Differences in brackets")).to_be_visible()
        assert serious_faults(page) == []


def go_to(page: Page, path: str) -> None:
    """Open a page from the sidebar, in the same session."""
    sidebar = page.get_by_test_id("stSidebar")
    if sidebar.get_attribute("aria-expanded") == "false":  # it was collapsed for the phone
        page.get_by_test_id("stExpandSidebarButton").click()
    sidebar.get_by_role("link", name=path.strip("/").capitalize()).click()
    expect(page).to_have_url(re.compile(path))
    settled(page)
