"""Browser tests of the Race page: a live race with its pictures, the keys, the verdict, links and accessibility."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.serving import PHONE, fits, serious_faults, settled, visit

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
EPOCHS = 30
RUN_MILLISECONDS = 600_000  # on a busy machine
LEARNED = ".race figure:nth-of-type(3)"
STATE = f"""[...document.querySelectorAll('{LEARNED}')].map(
  figure => [figure.innerText, figure.querySelector('img')?.getAttribute('src') ?? ''])[0] ?? ['', '']"""


RECORD = f"""() => {{
  window.seen = {{}}
  const record = () => {{
    const [text, picture] = {STATE}
    const epoch = text.match(/epoch (\\d+) of/)
    if (epoch) window.seen[epoch[1]] = picture
  }}
  new MutationObserver(record).observe(document.body, {{subtree: true, childList: true, attributes: true, characterData: true}})
}}"""
"""Record the picture of every epoch from now on, however briefly it is shown."""


def epoch_of(page: Page) -> int:
    """Return the epoch that is shown; 0 before the first."""
    found = re.search(rf"epoch (\d+) of {EPOCHS}", page.evaluate(STATE)[0])
    return int(found[1]) if found else 0


def shows(page: Page, epoch: int) -> None:
    expect(page.locator(LEARNED)).to_contain_text(f"epoch {epoch} of {EPOCHS}")


def watched(page: Page) -> dict[int, str]:
    """Wait for the verdict, and return the address of the picture that was shown at each epoch."""
    expect(page.get_by_text("SVD wins by")).to_be_visible(timeout=RUN_MILLISECONDS)
    return {int(epoch): picture for epoch, picture in page.evaluate("window.seen").items()}


def test_a_race_is_seen_live_and_again(browser: Browser, address: str) -> None:
    with visit(browser, address) as app:
        page = app.page
        app.open("/race?model=offcomp-gpt&race_matrix=query.0&race_ratio=4")
        settled(page)
        page.get_by_role("radio", name="SVD").click()
        page.evaluate(RECORD)
        page.get_by_role("button", name="Start the race").click()
        expect(page).to_have_url(re.compile(r"race=\w{12}%2C\w{12}"))
        seen = watched(page)
        assert [*seen] == list(range(1, EPOCHS + 1))
        assert len({*seen.values()}) == EPOCHS
        expect(page.get_by_text("Your guess was SVD: right.")).to_be_visible()
        expect(page.get_by_test_id("stTable")).to_contain_text("±")
        settled(page)
        assert serious_faults(page) == []

        page.keyboard.press("p")
        expect(page.get_by_role("button", name="Pause")).to_be_visible()
        expect(page.locator(LEARNED)).not_to_contain_text(f"epoch {EPOCHS} of")
        page.keyboard.press("p")
        expect(page.get_by_role("button", name="Play")).to_be_visible()
        settled(page)
        epoch = epoch_of(page)
        assert 1 <= epoch < EPOCHS
        page.keyboard.press("s")
        shows(page, epoch + 1)
        page.keyboard.press("b")
        shows(page, epoch)
        page.get_by_role("combobox", name="Matrix").focus()
        page.keyboard.type("sbp")
        page.wait_for_timeout(1500)
        shows(page, epoch)
        page.keyboard.press("Escape")

        with page.expect_download() as download:
            page.get_by_role("button", name="Share as GIF").click()
        assert download.value.path().read_bytes()[:6] == b"GIF89a"
        replayed(page, seen)

        page.go_back()
        expect(page.get_by_text("SVD and the paper's autoencoder store the same matrix")).to_be_visible()
        page.go_forward()
        expect(page.get_by_text("SVD wins by")).to_be_visible()
        page.set_viewport_size(PHONE)  # type: ignore[arg-type]
        settled(page)
        fits(page, PHONE["width"])


def replayed(page: Page, seen: dict[int, str]) -> None:
    """Open the link in a new session, and check that the replay shows the same pictures as the live race."""
    page.reload()
    expect(page.get_by_text("SVD wins by")).to_be_visible()
    settled(page)
    for epoch in range(EPOCHS, EPOCHS - 3, -1):
        shows(page, epoch)
        assert page.evaluate(STATE)[1] == seen[epoch]
        page.keyboard.press("b")
