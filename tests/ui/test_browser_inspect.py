"""Browser test of Inspect: a method is fitted on request, stands beside SVD, and its arithmetic is shown; axe and a phone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from offcomp.runs.store import RunStore
from tests.serving import PHONE, Visit, fits, serious_faults, settled

pytestmark = pytest.mark.browser
PATIENT_MILLISECONDS = 240_000


def test_a_method_is_fitted_and_stands_beside_svd(app: Visit, home: Path) -> None:
    page = app.page
    app.open("/inspect?module=value.2&rank=48&show=svd,codebook&ratio=4")
    fit = page.locator(".st-key-inspect_fit_codebook").get_by_role("button")
    expect(fit).to_be_visible(timeout=PATIENT_MILLISECONDS)
    assert serious_faults(page) == []
    fit.click()
    expect(page.locator(".st-key-inspect_residual_codebook")).to_be_visible(timeout=PATIENT_MILLISECONDS)
    settled(page, PATIENT_MILLISECONDS)
    expect(page.get_by_text(re.compile("fewer bytes, the codebook autoencoder loses"))).to_be_visible()
    (run,) = [run for run in RunStore(home).all() if run.plan.groups[0].modules == ("value.2",)]
    assert run.result
    assert (run.folder / "pictures" / "value.2.npz").is_file()
    page.get_by_text("How is one entry computed?").click()
    expect(page.get_by_text(re.compile("^SVD at head"))).to_be_visible(timeout=PATIENT_MILLISECONDS)
    settled(page, PATIENT_MILLISECONDS)
    page.get_by_role("radio", name="Autoencoder, codebook").click()
    expect(page.get_by_text("Autoencoder, codebook at head")).to_be_visible(timeout=PATIENT_MILLISECONDS)
    expect(page.get_by_role("cell", name=re.compile("scale of row"))).to_be_visible()
    page.mouse.move(0, 0)  # the colours under the pointer are Streamlit's own
    settled(page, PATIENT_MILLISECONDS)
    assert serious_faults(page) == []
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    settled(page, PATIENT_MILLISECONDS)
    fits(page, PHONE["width"])
    assert serious_faults(page) == []
