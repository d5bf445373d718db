"""Browser tests across pages: from a cell of the map to a comparison, suggested groups, links, several sessions, uploads."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from offcomp.models.listing import known_info
from offcomp.planning.data.tasks import usual_tasks
from offcomp.runs.store import RunStore
from tests.serving import Visit, open_part, settled, shown_strip, title, visit
from tests.ui.test_browser import choose_methods, ended

pytestmark = pytest.mark.browser
RUN_MILLISECONDS = 180_000


def test_from_a_cell_to_the_changed_predictions(app: Visit) -> None:
    page = app.page
    app.open("/model?ratio=4")
    settled(page)
    cell(page, layer=3, kind="Query")
    expect(page.get_by_text("encoder.layer.3.attention.self.query.weight").first).to_be_visible(timeout=RUN_MILLISECONDS)
    page.get_by_role("button", name="Inspect").click()
    title(page, "How compressible")
    expect(page).to_have_url(re.compile("module=query.3"))
    page.get_by_role("button", name="Compress it").click()
    title(page, "What if")
    expect(page).to_have_url(re.compile(r"modules=query\.3"))
    expect(page.get_by_role("slider", name="Compression ratio")).to_have_attribute("aria-valuetext", "4x")
    choose_methods(page, "SVD")
    page.get_by_role("button", name="Run SVD").click()
    ended(page)
    page.get_by_role("link", name="Compare in detail").click()
    title(page, "Which")
    run = re.search(r"runs=(\w+)", page.url)
    settled(page)
    mark = page.locator(".st-key-compare_front .points path").first.bounding_box()
    assert mark
    page.mouse.click(mark["x"] + mark["width"] / 2, mark["y"] + mark["height"] / 2)
    expect(page.get_by_text("Selected:")).to_be_visible()
    page.get_by_role("link", name="See its predictions").click()
    title(page, "Which predictions")
    expect(page).to_have_url(re.compile(f"runs={run[1] if run else 'none'}"))


def cell(page: Page, layer: int, kind: str) -> None:
    """Click the cell of this kind and layer in the map of the model."""
    texts = page.locator(".js-plotly-plot text")
    row = texts.filter(has_text=re.compile(f"^{kind}$", re.IGNORECASE)).first
    column = texts.filter(has_text=re.compile(f"^{layer}$")).first
    expect(row).to_be_visible(timeout=RUN_MILLISECONDS)
    settled(page)
    label, tick = row.bounding_box(), column.bounding_box()
    assert label
    assert tick
    page.mouse.click(tick["x"] + tick["width"] / 2, label["y"] + label["height"] / 2)


def test_every_task_of_a_bundled_model_is_scored(app: Visit, home: Path) -> None:
    model = "offcomp-gpt"
    page, info = app.page, known_info(model, home)
    assert info is not None
    tasks = usual_tasks(info.architecture)
    assert len(tasks) >= 3
    app.open(f"/compress?model={model}&methods=svd&ratio=2&tasks={','.join(tasks)}")
    settled(page)
    page.get_by_role("button", name="Run SVD").click()
    ended(page)
    (run,) = [run for run in RunStore(home).all() if run.plan.model == model and run.plan.tasks == tasks]
    assert run.result is not None
    assert set(run.result.scores) == set(tasks)
    assert not any(score.unchanged for score in run.result.scores.values())


def test_suggested_groups_are_run(app: Visit) -> None:
    page = app.page
    app.open("/groups")
    page.get_by_role("button", name="Use these groups").click()
    title(page, "What if")
    expect(page).to_have_url(re.compile("together=own"))
    choose_methods(page, "SVD")
    page.get_by_role("button", name="Run SVD").click()
    ended(page)
    expect(page.get_by_text("SVD stores")).to_be_visible()


def test_a_link_opens_the_same_page_in_another_browser(browser: Browser, app: Visit, address: str) -> None:
    page = app.page
    app.open("/compress?modules=value.0-2&ratio=5&methods=svd&together=module")
    expect(page.get_by_text("Value (3 matrices); each module alone;")).to_be_visible()
    settled(page)
    shown = shown_strip(page)
    link = page.url.removeprefix(address)
    assert "modules=value.0-2" in link
    with visit(browser, address) as other:
        other.open(link)
        settled(other.page)
        expect(other.page.get_by_text("Value (3 matrices); each module alone;")).to_be_visible()
        assert shown_strip(other.page) == shown


def test_a_refresh_and_a_second_session_see_the_same_run(browser: Browser, app: Visit, address: str) -> None:
    page = app.page
    app.open("/compress?modules=ffn_in.0-5&methods=autoencoder&ratio=9.99")
    expect(page.get_by_text("This part of the link is ignored")).to_be_visible()
    page.get_by_role("button", name="Run Autoencoder").click()
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    page.reload()
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    expect(page.get_by_role("button", name="Running")).to_be_disabled()
    with visit(browser, address) as other:
        other.open("/atlas")
        expect(other.page.get_by_text("1 running").or_(other.page.get_by_text("1 waiting")).first).to_be_visible()
        other.open("/runs")
        other.page.get_by_role("button", name="Cancel").click()
        expect(other.page.get_by_text("cancelled").first).to_be_visible()
    expect(page.get_by_role("button", name="Run Autoencoder")).to_be_enabled()


def test_uploaded_matrices_are_inspected_and_a_bad_file_changes_nothing(app: Visit) -> None:
    page = app.page
    app.open("/model?ratio=5")
    upload(page, "Bring your own", "upload_matrices", "broken.npz", b"no archive")
    expect(page.get_by_role("alert").filter(has_text="broken.npz")).to_be_visible()
    expect(page.get_by_text("Query and key (12 matrices)")).to_be_visible()
    content = io.BytesIO()
    np.savez(content, left=np.random.default_rng(0).normal(size=(90, 60)).astype(np.float32))
    upload(page, "Bring your own", "upload_matrices", "mine.npz", content.getvalue())
    expect(page.get_by_text("90 x 60").first).to_be_visible(timeout=RUN_MILLISECONDS)
    page.get_by_role("button", name="Inspect it").click()
    title(page, "How compressible")
    expect(page.get_by_text("A random matrix of the same shape")).to_be_visible(timeout=RUN_MILLISECONDS)
    expect(page.get_by_role("combobox", name="Weight matrix")).to_have_value("left, 90 x 60")


def test_an_uploaded_table_is_scored_and_a_bad_one_is_a_sentence(app: Visit, home: Path) -> None:
    page = app.page
    app.open("/compress?modules=value.3&methods=svd&ratio=4&tasks=sentiment")
    rows = [
        f"The {word} number {n} was {verdict}.,{verdict}"
        for n in range(40)
        for word, verdict in (("film", "good"), ("soup", "bad"))
    ]
    table = "\n".join(["sentence,verdict", *rows]).encode()
    with open_part(page, "Tasks") as tasks:
        upload(page, "Your own examples", "upload_examples", "nothing.csv", b"text,label\n")
        expect(tasks.get_by_role("alert").filter(has_text="nothing.csv")).to_be_visible()
        expect(page.get_by_test_id("stTable")).to_be_visible()
        upload(page, "Your own examples", "upload_examples", "verdicts.csv", table)
        expect(tasks.get_by_role("combobox", name="label")).to_be_visible()
    expect(page.get_by_text("scored on sentiment and verdicts")).to_be_visible()
    page.get_by_role("button", name="Run SVD").click()
    ended(page)
    scores = [run.result.scores for run in RunStore(home).all() if run.result and "verdicts" in run.result.scores]
    assert [score["verdicts"].compressed.value for score in scores] == [1.0]


def upload(page: Page, label: str, key: str, name: str, content: bytes) -> None:
    """Open the expander with this label, if it is closed, and upload a file with the uploader inside it."""
    chooser = page.locator(f".st-key-{key} input[type=file]")
    if not chooser.count():
        page.get_by_text(label, exact=False).first.click()
    chooser.set_input_files({"name": name, "mimeType": "application/octet-stream", "buffer": content})
