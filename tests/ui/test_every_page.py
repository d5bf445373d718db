"""Every page in the sidebar opens in an empty home, and there are no other pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from offcomp.ui.frame import PAGES
from tests.pages import PATHS, ROOT, home, opened

__all__ = ["home"]  # a fixture


def test_the_sidebar_lists_every_page() -> None:
    assert {path for path, _, _ in PAGES} == {
        "app.py",
        *(str(file.relative_to(ROOT)) for file in (ROOT / "pages").glob("*.py")),
    }
    for names in zip(*PAGES, strict=True):
        assert len({*names}) == len(names)


@pytest.mark.parametrize("path", PATHS)
def test_a_page_opens_in_an_empty_home_with_its_question_and_no_error(home: Path, path: str) -> None:
    app = opened(path.strip("/"))
    (title,) = app.title
    assert title.value[-1] in ".?"
    assert not app.error
