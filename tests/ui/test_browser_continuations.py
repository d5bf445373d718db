"""Browser tests of continuations: differences are bold, axe finds no serious fault, and a narrow page shows cards."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from offcomp.files import read_json
from offcomp.results import bundled
from tests.made_runs import made_value_score, put_in_home
from tests.serving import PHONE, fits, serious_faults, settled, visit

pytestmark = pytest.mark.browser
TASK, RUN = "causal-prose", "1" * 12
NASTY = "<img src=x onerror=alert(1)> **a** $b$"


@pytest.fixture(scope="module", autouse=True)
def measured(home: Path) -> None:
    """A run in which the models continued two openings."""
    entries = [
        {"opening": "Once", "original": " a man sat", "compressed": " a man stood", "same_tokens": 2, "tokens": 3},
        {"opening": NASTY, "original": NASTY, "compressed": NASTY, "same_tokens": 3, "tokens": 3},
    ]
    document = read_json(bundled.FOLDER / bundled.FILES[0])
    document["plan"]["tasks"], document["scores"] = [TASK], {TASK: made_value_score("perplexity", 12.0, 15.0)}
    document["scores"][TASK] |= {"continuations": entries}
    put_in_home(home, document, RUN, submitted=1.0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_differs_is_bold_and_a_phone_shows_cards(browser: Browser, address: str, scheme: str) -> None:
    with visit(browser, address, color_scheme=scheme) as app:
        page = app.page
        app.open(f"/examples?runs={RUN}")
        settled(page)
        table = page.locator("table.continuations")
        expect(table.locator("tbody tr")).to_have_count(2)
        expect(table.locator("mark")).to_have_text(["stood"])
        weight, background = table.locator("mark").evaluate(
            "mark => [getComputedStyle(mark).fontWeight, getComputedStyle(mark).backgroundColor]"
        )
        assert int(weight) >= 600 and background == "rgba(0, 0, 0, 0)"
        expect(table.get_by_text(NASTY).first).to_be_visible()
        heads = [head.bounding_box() for head in table.locator("thead th").all()]
        assert len({round(head["y"]) for head in heads if head}) == 1
        assert serious_faults(page) == []
        page.set_viewport_size(PHONE)  # type: ignore[arg-type]
        settled(page)
        fits(page, PHONE["width"])
        lefts = {round(cell["x"]) for cell in (c.bounding_box() for c in table.locator("tbody :is(th, td)").all()) if cell}
        assert len(lefts) == 1
