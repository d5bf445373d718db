"""Every example in the documentation runs, every command in it has valid flags, and every name in it exists."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from offcomp.cli.main import parser
from tests.docs.examples import DOCS, PAGES, ROOT, blocks_of, difference, run_page

TUTORIAL = DOCS / "tutorial.md"  # see test_tutorial.py
README = ROOT / "README.md"
ALL = [*PAGES, README]
NAME = re.compile(r"`(offcomp(?:\.\w+)+)`")


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT).with_suffix(""))


def has_examples(page: Path) -> bool:
    return any(block.language == "python" for block in blocks_of(page.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of all examples, so that a run that appears on two pages is carried out only once."""
    return tmp_path_factory.mktemp("home")


@pytest.mark.parametrize("page", [page for page in ALL if page != TUTORIAL and has_examples(page)], ids=page_id)
def test_examples_run_and_print_what_the_page_shows(
    page: Path, shared_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OFFCOMP_HOME", str(shared_home))
    monkeypatch.chdir(tmp_path)
    run_page(page)


@pytest.mark.parametrize("page", ALL, ids=page_id)
def test_commands_have_the_right_flags(page: Path) -> None:
    commands = parser()
    for block in blocks_of(page.read_text(encoding="utf-8")):
        for line in block.content.splitlines() if block.language == "sh" else ():
            words = shlex.split(re.split(r" [|>] ", line)[0], comments=True)
            if words[:1] == ["offcomp"]:
                try:
                    commands.parse_args(words[1:])
                except SystemExit:
                    pytest.fail(f"{page}: {line!r} is not a valid command")


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_names_exist(page: Path) -> None:
    for name in NAME.findall(page.read_text(encoding="utf-8")):
        assert exists(name), f"{page} mentions {name}, which does not exist"


def exists(name: str) -> bool:
    """Return whether a dotted name is a module, or an attribute of one."""
    try:
        import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return bool(module) and exists(module) and hasattr(import_module(module), attribute)
    return True


@pytest.mark.parametrize(
    ("printed", "shown", "same"),
    [
        ("error 0.1234 rank 8", "error  0.125 rank 8", True),
        ("error 0.1234 rank 8", "error 0.2 rank 8", False),
        ("error 0.1234 rank 8", "error 0.1234 rank 9", False),
        ("1,024 bytes", "1,024 bytes", True),
        ("1,024 bytes", "1,025 bytes", False),
        ("one\ntwo\nthree", "one\n...\nthree", True),
        ("one\ntwo", "one", False),
        ("run e18348", "run ...", True),
    ],
)
def test_a_difference_from_the_page_is_noticed(printed: str, shown: str, same: bool) -> None:
    assert (difference(printed, shown) == "") is same
