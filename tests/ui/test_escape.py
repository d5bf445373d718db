"""Text from users, files and links is displayed literally wherever a page renders Markdown."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from offcomp.ui.escape import plain
from tests.pages import home, opened

__all__ = ["home"]  # a fixture
IMAGE = "![x](http://127.0.0.1:9/x.png)"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("word_embeddings of /some/model-2.0", "word_embeddings of /some/model-2.0"),
        (IMAGE, "!\\[x\\](http:\u2060//127.0.0.1:9/x.png)"),
        ("__a__ 1. b", r"\_\_a\_\_ 1. b"),
        ("1. a", r"1\. a"),
        ("# a -> b :smile: :red[c] at 08:15", "\\# a -\u2060> b :\u2060smile: :\u2060red\\[c\\] at 08:15"),
        ("\u202ea\x1b[31m", r"a \[31m"),
        ("_a_ **b** `c` ~d~ <e> $f$ &lt; \\", r"\_a\_ \*\*b\*\* \`c\` \~d\~ \<e> \$f\$ \&lt; \\"),
        (" two\n\n# lines ", "two # lines"),
    ],
)
def test_markup_is_escaped(text: str, shown: str) -> None:
    assert plain(text) == shown


def written(app: AppTest) -> list[str]:
    """Return every text of a page that is rendered as Markdown."""
    return [element.value for kind in ("markdown", "caption", "info", "warning", "error") for element in app.get(kind)]


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("page", "parameter"),
    [
        *(("model", "model"), ("compress", "model"), ("compress", "modules"), ("compress", "options"), ("compress", "ratio")),
        *(("inspect", "module"), ("inspect", "rank"), ("groups", "kinds"), ("groups", "at"), ("compare", "runs")),
    ],
)
def test_a_link_puts_no_image_on_a_page(page: str, parameter: str) -> None:
    texts = written(opened(page, **{parameter: IMAGE}))
    assert any("127.0.0" in text for text in texts)
    assert not [text for text in texts if "![" in text]
