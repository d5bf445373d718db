"""The Start page in a browser, served by a process that cannot import torch: speed, reading, phones, and own sentences."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from offcomp.results.start import FILES, RATIOS, TITLES, read_demo
from offcomp.results.start_words import method_name, said
from tests.serving import PHONE, ROOT, fits, serious_faults, served, settled, visit

pytestmark = pytest.mark.browser
PRESS_SECONDS, PRESSES = 1.5, 20
"""Generous, since other tests run at the same time; `benchmarks.app_speed` measures this."""
COLD_MILLISECONDS, WARM_MILLISECONDS = 300_000, 60_000
WITHOUT_TORCH = (sys.executable, "-m", "tests.without_torch")
SHOWN = """() => [...document.querySelectorAll('.start img.weights, .start img.front')].map(each => each.src).join(' ')
  + document.querySelector('.start').textContent"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the app, whose process cannot import torch."""
    with served(tmp_path_factory.mktemp("start") / "home", offcomp=WITHOUT_TORCH, start=ROOT) as found:
        yield found


def slider(page: Page, value: str) -> None:
    """Wait until the slider shows this value."""
    expect(page.get_by_role("slider")).to_have_attribute("aria-valuetext", value)


def test_each_key_press_changes_picture_prediction_and_score_at_once(browser: Browser, address: str) -> None:
    demo = read_demo("sentiment")
    seconds = []
    with visit(browser, address) as app:
        page = app.page
        app.open("/?does=sentiment&size=30x")
        settled(page)
        page.get_by_role("slider").focus()
        places = list(range(len(RATIOS) - 1, 0, -1))
        for number in range(PRESSES):
            down = (number // (len(places) - 1)) % 2 == 0
            before = page.evaluate(SHOWN)
            started = time.perf_counter()
            page.keyboard.press("ArrowLeft" if down else "ArrowRight")
            while page.evaluate(SHOWN) == before:
                assert time.perf_counter() - started < PRESS_SECONDS * 20, "nothing changed"
            seconds.append(time.perf_counter() - started)
        page.keyboard.press("End")
        slider(page, "30x")
        for key, step in demo.steps(30.0).items():
            assert step is not None
            card = page.locator("article", has_text=method_name(key))
            expect(card).to_contain_text(said(demo.texts, step.answers[0], 0))
        settled(page)
    assert np.quantile(seconds, 0.95) <= PRESS_SECONDS, seconds


@pytest.mark.parametrize("kind", list(FILES))
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_can_be_read_by_everyone(browser: Browser, address: str, kind: str, scheme: str) -> None:
    with visit(browser, address, color_scheme=scheme) as app:
        app.open(f"/?does={kind}&size=20x")
        settled(app.page)
        assert serious_faults(app.page) == []
        app.page.set_viewport_size(PHONE)
        settled(app.page)
        fits(app.page, PHONE["width"])
        picture = app.page.locator(".start img.weights").first.bounding_box()
        assert picture and picture["width"] >= 140
        assert serious_faults(app.page) == []


@pytest.mark.timeout(900)
def test_a_sentence_of_ones_own_is_read_by_all_models(browser: Browser, address: str) -> None:
    with visit(browser, address) as app:
        page = app.page
        app.open("/?does=next&size=30x")
        settled(page)
        page.get_by_text("Try a sentence of your own").click()
        box = page.get_by_role("textbox", name="Sentence")
        for text, patience in (("the king of", COLD_MILLISECONDS), ("she looked at the", WARM_MILLISECONDS)):
            box.fill(text)
            box.press("Enter")
            cards = page.locator(".start.own article")
            expect(cards).to_have_count(4)
            expect(page.get_by_text(f"'{text}', read just now by offcomp-gpt on this machine")).to_be_visible(timeout=patience)
            expect(cards.locator(".said")).to_have_count(4, timeout=patience)


def test_the_button_leads_to_the_lab(browser: Browser, address: str, tmp_path: Path) -> None:
    assert list(TITLES) == list(FILES)
    with visit(browser, address) as app:
        app.open("/?does=sentiment&size=12x")
        settled(app.page)
        app.page.get_by_role("button", name="Open this plan in the Lab").click()
        expect(app.page.locator("h1")).to_contain_text("What if")
        expect(app.page.get_by_role("slider")).to_have_attribute("aria-valuetext", "12x")
        expect(app.page).to_have_url(re.compile("model=offcomp-bert-sentiment"))
