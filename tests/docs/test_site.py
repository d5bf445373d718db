"""The built documentation has no warnings or broken links, loads nothing from other hosts, and lists all public names."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import offcomp
from tests.docs.examples import DOCS, PAGES, ROOT

LOADING = {("script", "src"), ("link", "href"), ("img", "src"), ("source", "src"), ("iframe", "src")}
"""Elements and the attributes whose addresses a browser loads automatically."""
FETCHED_BY_STYLE = re.compile(r"""(?:@import\s+|url\()\s*["']?((?:https?:)?//[^"')]+)""")
NOT_FETCHED = ("canonical", "next", "prev", "search", "index", "author")


class Page(HTMLParser):
    """The links and anchors of an HTML page, and the addresses that it loads."""

    def __init__(self, file: Path):
        super().__init__()
        self.file, self.links, self.anchors, self.loads = file, list[str](), set[str](), list[str]()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.anchors |= {attributes[name] for name in ("id", "name") if name in attributes}
        for name, value in attributes.items():
            if (tag, name) in LOADING and attributes.get("rel") not in NOT_FETCHED:
                self.loads.append(value)
            if name in ("href", "src"):
                self.links.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built as `make docs` builds it. Warnings are errors."""
    folder = tmp_path_factory.mktemp("site")
    options = ["-b", "html", "-W", "-n", "--keep-going", "-q", "-d", str(folder / "doctrees")]
    command = [sys.executable, "-m", "sphinx", *options, str(DOCS), str(folder / "html")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {file.resolve(): Page(file) for file in site.rglob("*.html")}


def test_every_source_page_is_built(site: Path, pages: dict[Path, Page]) -> None:
    wanted = {(site / file.relative_to(DOCS)).with_suffix(".html").resolve() for file in PAGES}
    assert wanted <= {*pages}


def test_every_link_leads_somewhere(pages: dict[Path, Page], capsys: pytest.CaptureFixture[str]) -> None:
    broken, external, local = [], set(), 0
    for file, page in pages.items():
        for link in page.links:
            address = urlsplit(link)
            if address.scheme in ("http", "https"):
                external.add(link)
                continue
            if address.scheme or not (address.path or address.fragment):
                continue
            local += 1
            target = (file.parent / unquote(address.path)).resolve() if address.path else file
            anchor = unquote(address.fragment)
            if not target.is_file() or (anchor and target in pages and anchor not in pages[target].anchors):
                broken.append(f"{file.name}: {link}")
    with capsys.disabled():
        sys.stdout.write(f"\n{local} local links in {len(pages)} pages, {len(external)} external addresses\n")
    assert not broken
    assert local > len(pages)


def test_nothing_is_loaded_from_another_machine(site: Path, pages: dict[Path, Page]) -> None:
    loaded = [link for page in pages.values() for link in page.loads]
    for style in site.rglob("*.css"):
        loaded += FETCHED_BY_STYLE.findall(style.read_text(encoding="utf-8"))
    assert loaded
    assert [link for link in loaded if urlsplit(link).netloc] == []


def test_the_reference_has_exactly_the_public_names(pages: dict[Path, Page], site: Path) -> None:
    anchors = pages[(site / "reference.html").resolve()].anchors
    documented = {anchor.removeprefix("offcomp.") for anchor in anchors if re.fullmatch(r"offcomp\.\w+", anchor)}
    assert documented == {*offcomp.__all__}


def test_import_offcomp_is_light() -> None:
    code = "import sys, offcomp; print(sorted({'torch', 'transformers', 'pandas', 'plotly', 'numpy'} & {*sys.modules}))"
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"
