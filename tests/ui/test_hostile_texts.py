"""Hostile text in any field of a plan, run, task, model, manifest or link is rejected when read, or displayed literally."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from playwright.sync_api import Browser, Page, expect
from safetensors.numpy import save_file

from offcomp.cli import main as cli
from offcomp.errors import InputError, ModelError, PlanError
from offcomp.models.catalogue import ModelInfo
from offcomp.planning.plan import Plan
from offcomp.results.bundled import FOLDER, bundled_runs
from offcomp.results.charts.theme import LIGHT
from offcomp.results.csv_text import csv_text
from offcomp.results.report import comparison_tables, html_report
from offcomp.runs.manifest import Manifest
from offcomp.ui.escape import WORD_JOINER, code, plain
from tests.made_runs import put_in_home
from tests.markdown_sinks import faults_in, twice_in
from tests.minilm import minilm_info
from tests.serving import Visit, open_part, settled, visit

ROOT = Path(__file__).resolve().parents[2]
MARKUP = (
    "Z ![QZI](http://evil.example/i.png)<img src=http://evil.example/j.png onerror=alert(1)> <b>QZB</b> **QZS** _QZE_ "
    '<a href="http://evil.example">QZA</a> [QZL](http://evil.example) `QZC` $QZM$ :red[QZR] :material/bolt: :unicorn_face: '
    "www.evil.example <script>QZX</script> &lt;QZN&gt; %{x}"
)
FOLDER_NAME = "![QZI](i.png)<img src=x onerror=alert(1)><b>QZB</b>**QZS** `QZC` $QZM$".replace("/", "\u2215")
MARKS = ("QZI", "QZB", "QZS", "QZE", "QZA", "QZL", "QZC", "QZM", "QZR", "QZX")
RENDERED = f"""() => {{
  const marks = {list(MARKS)};
  const found = [];
  for (const part of document.querySelectorAll('body *')) {{
    if (part.children.length === 0 && marks.includes(part.textContent.trim())) found.push(part.outerHTML.slice(0, 200));
    for (const name of ['src', 'href', 'xlink:href'])
      if (/^https?:.*evil\\.example/.test(part.getAttribute(name) || '')) found.push(part.outerHTML.slice(0, 200));
    if (part.matches('.katex, [aria-label="bolt icon"], [onerror]')) found.push(part.outerHTML.slice(0, 200));
  }}
  if (document.body.innerText.includes('\U0001f984')) found.push('an emoji');
  return found;
}}"""
"""JavaScript that returns every element of a page that results from interpreting a part of MARKUP as markup."""
UNSEEN = ("\x1b]0;title\x07\x1b[31mred", "two\nlines", "\u202eevil", "\x00", "x" * 10_000, "\ud800", "zero\u200bwidth")
WORDS = {"id", "status", "schema", "method", "stack", "unit", "dtype", "form", "size_name", "metric", "direction", "started"}
"""Fields whose values are among a few words that the code looks up."""


def replaced(value: Any, text: str, key: str = "") -> Any:
    """Return a JSON value in which `text` replaces every string except the values of options and of the fields in WORDS."""
    if isinstance(value, dict):
        return {name: part if name == "options" else replaced(part, text, name) for name, part in value.items()}
    if isinstance(value, list):
        return [replaced(part, f"{text} {index}" if index else text, key) for index, part in enumerate(value)]
    return text if isinstance(value, str) and key not in WORDS else value


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every string in a JSON value."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if isinstance(value, str):
        yield path
    for key, part in parts:
        yield from places(part, (*path, key))


def with_text(document: Any, path: tuple[Any, ...], text: str) -> Any:
    changed = copy.deepcopy(document)
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = text
    return changed


TASK = {
    **{
        "name": "mine",
        "family": "probe",
        "data": "reviews.tsv",
        "title": "Mine",
        "columns": {"text": "body", "label": "stars"},
    },
    **{"version": "2", "source": "somebody", "licence": "MIT", "also": ["f1"]},
}
PLAN: dict[str, Any] = {
    **{"schema": 1, "model": "minilm-l6", "seed": 0, "tasks": ["sentiment", TASK]},
    "groups": [
        {"name": "query", "modules": ["query.0", "query.1"], "stack": "rows", "method": "svd", "options": {"preset": "plain"}}
        | {"ratio": 3.0, "unit": "parameters", "dtype": "stored"}
    ],
    "calibration": {"text": "bundled"},
}


def manifest() -> dict[str, Any]:
    group = {
        **{"name": "query", "file": "groups/query.safetensors", "form": "low_rank", "rows": 2, "cols": 2, "num_parameters": 4},
        **{"num_bytes": 16, "original_parameters": 4, "original_bytes": 16, "relative_error": 0.0},
        "ledger": [{"name": "left", "shape": [2, 2], "dtype": "float32", "bytes": 16}],
    }
    before = {"parameters_before": 4, "parameters_after": 4, "bytes_before": 16, "bytes_after": 16}
    sizes = dict.fromkeys(("chosen", "matrices", "whole"), before | {"parameter_ratio": 1.0, "byte_ratio": 1.0})
    return {
        **{
            "schema": 1,
            "offcomp": "1",
            "run": "abc",
            "plan": Plan.from_dict(PLAN).to_dict(),
            "groups": [group],
            "dense": False,
        },
        **{"original": minilm_info().to_dict(), "num_parameters": 4, "num_bytes": 16, "sizes": sizes | {"about": "chosen"}},
        **{"files": {"config.json": {"bytes": 1, "sha256": "00"}}, "left_out": ["onnx/model.onnx"]},
    }


def read_model(document: Any) -> None:
    ModelInfo.from_dict(document)


def model() -> dict[str, Any]:
    document = minilm_info().to_dict()
    return document | {"modules": [each for each in document["modules"] if each["name"] in ("query.0", "query.1")]}


READERS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], type[InputError]]] = {
    "plan": (lambda: copy.deepcopy(PLAN), Plan.from_dict, PlanError),
    "manifest": (lambda: manifest() | {"original": model()}, Manifest.from_dict, InputError),
    "model": (model, read_model, ModelError),
}


@pytest.mark.parametrize("text", UNSEEN)
@pytest.mark.parametrize("kind", READERS)
def test_what_cannot_be_shown_is_refused_in_every_field(kind: str, text: str) -> None:
    make, read, error = READERS[kind]
    document = make()
    read(document)
    found = list(places(document))
    assert len(found) > 5
    for path in found:
        with pytest.raises(error) as refused:
            read(with_text(document, path, text))
        said = str(refused.value)
        assert said.isprintable() and len(said) < 1000, path


@pytest.mark.parametrize("name", [MARKUP, "-x", "a b", "", "x" * 101, "../x", "é"])
def test_a_name_is_of_few_characters(name: str) -> None:
    for path in (("groups", 0, "name"), ("tasks", 1, "name")):
        with pytest.raises(PlanError):
            Plan.from_dict(with_text(PLAN, path, name))


def test_a_title_may_be_any_line_of_text() -> None:
    for title in ("Rezensionen – „gut“", "می‌خواهم", "👩‍👩‍👧", MARKUP):
        assert Plan.from_dict(with_text(PLAN, ("tasks", 1, "title"), title)).resolved_tasks[1].title == title


def test_every_text_on_a_page_is_escaped_once() -> None:
    files = [ROOT / "app.py", *(ROOT / "pages").glob("*.py"), *(ROOT / "offcomp" / "ui").rglob("*.py")]
    assert len(files) > 20
    assert [fault for file in files for fault in [*faults_in(file), *twice_in(file)]] == []


@pytest.mark.parametrize(
    "line",
    [
        "st.caption(f'{name} is here')",
        "st.markdown(answer(run))",
        "place.metric('Score', name)",
        "st.button('x', help=name)",
        "st.pills('x', names, format_func=titles.get)",
        "st.info('a' + name)",
        "st.table(frame)",
    ],
)
def test_a_text_that_is_not_escaped_is_noticed(line: str, tmp_path: Path) -> None:
    file = tmp_path / "page.py"
    file.write_text(f"def f(name):\n    {line}\n")
    assert len(faults_in(file)) == 1
    file.write_text(f"def f(name):\n    {line.replace('name)', 'plain(plain(name)))')}\n")
    assert twice_in(file) or "name)" not in line


@pytest.mark.parametrize(
    "text", [MARKUP, "1. one", "# head", "> said", "- x", "a --> b <= c ~= d", "__x__", "a@b.example", "08:15"]
)
def test_plain_changes_nothing_that_is_seen(text: str) -> None:
    shown = plain(text).replace(WORD_JOINER, "")
    assert shown.replace("\\", "") == text


@pytest.mark.parametrize(("text", "shown"), [("pip --x", "`pip --x`"), ("a`b``c", "```a`b``c```"), ("`a", "`` `a ``")])
def test_code_ends_where_its_text_does(text: str, shown: str) -> None:
    assert code(text) == shown


def hostile_document() -> dict[str, Any]:
    """Return the run.json of a finished run in which all free texts are MARKUP, including the names of tasks and modules."""
    document = json.loads((FOLDER / "minilm-l6-svd.json").read_text())
    score = document["scores"]["sentiment"]
    changed: dict[str, Any] = replaced(document, MARKUP)
    changed["scores"] = {MARKUP: replaced(score, MARKUP) | {"note": [MARKUP], "collapsed": True}}
    changed["plan"] = hostile_plan(document["plan"])
    for planned, group in zip(changed["plan"]["groups"], changed["groups"], strict=True):
        names = [f"{MARKUP} {index}" for index, _ in enumerate(group["module_errors"])]
        group["modules"] = planned["modules"] = names
        group["module_errors"] = dict(zip(names, group["module_errors"].values(), strict=True))
        group["name"] = planned["name"]  # a different name would be rejected
    return changed


def hostile_plan(plan: dict[str, Any]) -> dict[str, Any]:
    """Return the plan with MARKUP in all fields whose text is free."""
    task = {**TASK, "title": MARKUP, "source": MARKUP, "licence": MARKUP, "version": MARKUP, "columns": {"text": MARKUP}}
    groups = [group | {"modules": [f"{MARKUP} {index}"]} for index, group in enumerate(plan["groups"])]
    return plan | {"model": MARKUP, "tasks": [task], "groups": groups}


def plant(home: Path) -> None:
    """Add three runs with hostile texts to this home: two finished runs and a failed one."""
    document = hostile_document()
    put_in_home(home, document, "aaaaaaaaaaaa", submitted=3.0)
    second = copy.deepcopy(document)
    for group in second["groups"]:
        group["relative_error"] *= 0.9
    put_in_home(home, second, "bbbbbbbbbbbb", submitted=2.0)
    put_in_home(home, document, "cccccccccccc", submitted=1.0, status="failed", error=MARKUP)


def hostile_model(folder: Path) -> Path:
    """Create a model made of matrices in a folder with a hostile name, with hostile names in its config; return the folder."""
    place = folder / FOLDER_NAME
    place.mkdir(parents=True)
    listed = [{"name": f"{MARKUP} {index}", "rows": 12, "cols": 8} for index in range(2)]
    config = {"model_type": "offcomp_matrices", "file": MARKUP, "left_out": [MARKUP], "names_of": "", "matrices": listed}
    (place / "config.json").write_text(json.dumps(config | {"architectures": [MARKUP]}))
    values = np.random.default_rng(0).normal(size=(2, 12, 8)).astype(np.float32)
    save_file({f"matrices.{index}.weight": values[index] for index in range(2)}, place / "model.safetensors", {"format": "pt"})
    return place


def look(page: Page, within: str = "body") -> None:
    """Expand all collapsed sections in a part of the page, then check that MARKUP is not interpreted anywhere on the page."""
    settled(page, 60_000)
    page.evaluate(f"document.querySelectorAll('{within} details:not([open]) > summary').forEach(part => part.click())")
    settled(page, 60_000)
    assert page.evaluate(RENDERED) == []


def seen(page: Page) -> str:
    return str(page.inner_text("body")).replace(WORD_JOINER, "")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of the app, with hostile runs."""
    home = tmp_path_factory.mktemp("hostile") / "home"
    plant(home)
    return home


@pytest.mark.browser
@pytest.mark.parametrize(
    "path",
    [
        *(
            "/runs",
            "/compare?runs=aaaaaaaaaaaa,bbbbbbbbbbbb",
            "/compare?runs=aaaaaaaaaaaa",
            "/examples?runs=aaaaaaaaaaaa,bbbbbbbbbbbb",
        ),
        "/compare?runs=cccccccccccc",
    ],
)
def test_a_page_of_hostile_runs_shows_their_texts_as_they_are(app: Visit, path: str) -> None:
    app.open(path)
    look(app.page)
    assert "<b>QZB</b> **QZS**" in seen(app.page)


@pytest.mark.browser
def test_no_table_offers_a_download_that_leaves_formulas_as_they_are(app: Visit) -> None:
    app.open("/compare?runs=aaaaaaaaaaaa,bbbbbbbbbbbb")
    look(app.page)
    app.page.get_by_test_id("stDataFrame").locator("visible=true").first.hover()
    expect(app.page.get_by_label("Fullscreen").locator("visible=true").first).to_be_visible()  # its other tools are visible
    assert app.page.get_by_label("Download as CSV").count()
    assert not app.page.get_by_label("Download as CSV").locator("visible=true").count()


def test_every_data_card_says_how_downloads_write_formulas() -> None:
    cards = list((ROOT / "assets" / "tasks").glob("*.md"))
    assert len(cards) == 4
    assert all("apostrophe" in " ".join(card.read_text().split()) for card in cards)


@pytest.mark.browser
def test_pages_of_a_hostile_model_show_its_names_as_they_are(browser: Browser, tmp_path: Path) -> None:
    from tests.serving import served

    place = hostile_model(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OFFCOMP_MODEL_ROOTS", str(tmp_path))
        with served(tmp_path / "home") as address, visit(browser, address) as app:
            for page in ("/model", "/inspect", "/groups", "/compress", "/"):
                app.page.goto(f"{address}{page}?model={quote(str(place))}")
                expect(app.page.locator("h1")).to_be_visible(timeout=60_000)
                look(app.page)
                if page != "/":
                    expect(app.page.get_by_role("combobox", name="Model")).to_have_value(re.compile(r"\*\*QZS\*\*"))
            app.open(f"/compress?model={quote(str(place))}")
            for part in ("Weights", "Groups", "Methods", "Tasks", "Budget"):
                with open_part(app.page, part):
                    look(app.page, "[data-testid=stPopoverBody]")


@pytest.mark.browser
def test_a_hostile_link_is_shown_as_it_is(app: Visit) -> None:
    pages = {"model": "compress", "modules": "compress", "options": "compress", "runs": "compare", "module": "inspect"}
    for parameter, page in (pages | {"rank": "inspect", "kinds": "groups", "task": "examples", "at": "groups"}).items():
        app.open(f"/{page}?{parameter}={quote(MARKUP)}")
        look(app.page)


@pytest.mark.browser
def test_a_link_that_nests_without_end_leaves_the_page_around_its_sentence(app: Visit) -> None:
    app.open(f"/compress?options={3000 * '['}")
    expect(app.page.get_by_text("The link asks for").first).to_be_visible(timeout=60_000)
    expect(app.page.get_by_test_id("stSidebar").get_by_role("link", name="Runs")).to_be_visible()


@pytest.mark.browser
def test_the_report_shows_hostile_texts_as_they_are(browser: Browser, tmp_path: Path, home: Path) -> None:
    from offcomp.runs.store import RunStore

    runs = [run for run in RunStore(home).all() if run.status == "done"]
    (tmp_path / "report.html").write_text(html_report(runs))
    page, asked = browser.new_page(), []
    page.on("request", lambda request: asked.append(request.url) if not request.url.startswith("file:") else None)
    page.goto((tmp_path / "report.html").as_uri())
    page.wait_for_selector(".js-plotly-plot")
    point = "[{curveNumber: 0, pointNumber: 0}]"
    page.evaluate(f"document.querySelectorAll('.js-plotly-plot').forEach(chart => Plotly.Fx.hover(chart, {point}))")
    page.wait_for_timeout(500)
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert page.evaluate(RENDERED) == []
    assert "<b>QZB</b>" in seen(page)
    assert [url for url in asked if not url.startswith("data:")] == []
    page.close()


def test_the_terminal_gets_no_commands(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    other = home.parent / "terminal"
    document = json.loads((FOLDER / "minilm-l6-svd.json").read_text())
    text = "\x1b]0;title\x07\x1b[31mred\u202e"
    hostile = replaced(document, text) | {
        "plan": document["plan"],
        "scores": {text: replaced(document["scores"]["sentiment"], text)},
    }
    for planned, group in zip(document["plan"]["groups"], hostile["groups"], strict=True):
        group |= {
            "name": text,
            "modules": planned["modules"],
            "module_errors": {text: next(iter(group["module_errors"].values()))},
        }
    put_in_home(other, hostile, "aaaaaaaaaaaa", submitted=1.0)
    put_in_home(other, document, "bbbbbbbbbbbb", submitted=2.0, status="failed", error=text)
    monkeypatch.setenv("OFFCOMP_HOME", str(other))
    for arguments in (["runs"], ["show", "aaaaaaaaaaaa"], ["show", "bbbbbbbbbbbb"], ["compare", "aaaaaaaaaaaa"]):
        with suppress(SystemExit):  # names that cannot be displayed are rejected
            cli.main(arguments)
        said = "".join(capsys.readouterr())
        assert "red" in said
        assert all(character.isprintable() for character in said if character != "\n")
    cli.main(["show", "bbbbbbbbbbbb", "--json"])
    assert "\x1b" not in capsys.readouterr().out


FORMULAS = ("=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", " =1", "=cmd|' /C calc'!A0", "-x", "\n=1")
NUMBERS = ("-2.5", "+3", "-1e-5", "-12 %", "1", "", "text", "a=b", -2.5, 3)


def test_no_cell_of_a_download_is_a_formula() -> None:
    table = pd.DataFrame({"=heading": [*FORMULAS], "number": [-1.5] * len(FORMULAS)})
    read = pd.read_csv(pd.io.common.StringIO(csv_text(table)), keep_default_na=False)  # type: ignore[attr-defined]
    assert list(read.columns) == ["'=heading", "number"]
    assert list(read["'=heading"]) == [f"'{text}".replace("\r", "\n") for text in FORMULAS]
    assert list(read["number"]) == [-1.5] * len(FORMULAS)
    assert csv_text(pd.DataFrame({"a": [*NUMBERS]})) == pd.DataFrame({"a": [*NUMBERS]}).to_csv(index=False)


def test_every_download_of_the_app_goes_through_it() -> None:
    sources = {str(file): file.read_text() for file in (ROOT / "offcomp").rglob("*.py")}
    assert [Path(name).name for name, source in sources.items() if "to_csv(" in source] == ["csv_text.py"]


def figures(runs: Sequence[Any]) -> Iterator[go.Figure]:
    from offcomp.results.charts.pareto import front_figure
    from offcomp.results.charts.runs import error_figure, error_table, size_figure, size_table
    from offcomp.results.charts.scores import score_figure, score_table
    from offcomp.results.pareto import front_table, measures_of
    from offcomp.results.runs import short_names

    yield error_figure(error_table(runs), LIGHT)
    yield error_figure(error_table(runs, "module"), LIGHT, "module")
    yield size_figure(size_table(runs), LIGHT, "bytes")
    yield score_figure(score_table(runs), LIGHT)
    measure = next(iter(measures_of(runs)))
    table = front_table(runs, measure, "bytes", short_names(runs))
    yield front_figure(table, LIGHT, pd.DataFrame({"name": [], "value": [], "size": []}))


def test_charts_of_hostile_runs_hold_no_markup(home: Path) -> None:
    from offcomp.runs.store import RunStore

    runs = [run for run in RunStore(home).all() if run.status == "done"]
    assert len(runs) == 2
    drawn = [figure.to_json() for figure in figures(runs)]
    assert all("<b>QZB" not in text and "\\u003cb\\u003eQZB" not in text for text in drawn)
    assert any("&lt;b&gt;QZB" in text for text in drawn)
    assert comparison_tables(bundled_runs())
