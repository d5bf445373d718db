"""Browser tests of the accessibility of every page, in light and dark: no serious fault found by axe, and it fits a phone."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from offcomp.results.charts.theme import PALETTES
from tests.pages import LAB, PATHS
from tests.serving import PHONE, fits, run_fits, serious_faults, settled, visit

pytestmark = pytest.mark.browser
PAGE_COLOUR = "getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor"
TITLE_COLOURS = "[...document.querySelectorAll('.js-plotly-plot .gtitle')].map(text => getComputedStyle(text).fill)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PATHS)
def test_a_page_has_no_serious_fault_its_own_colours_and_fits_a_phone(
    browser: Browser, address: str, path: str, scheme: str
) -> None:
    with visit(browser, address, color_scheme=scheme) as app:
        page = app.page
        app.open(path)
        settled(page)
        assert serious_faults(page) == []
        colours = PALETTES[scheme]
        assert page.evaluate(PAGE_COLOUR) == as_rgb(colours.surface)
        assert set(page.evaluate(TITLE_COLOURS)) <= {as_rgb(colours.text)}
        page.set_viewport_size(PHONE)  # type: ignore[arg-type]
        settled(page)
        fits(page, PHONE["width"])
        if path in LAB:
            run_fits(page)


def as_rgb(colour: str) -> str:
    """Return a colour in the notation that a browser uses for computed styles."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgb({red}, {green}, {blue})"
