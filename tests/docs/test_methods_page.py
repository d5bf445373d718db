"""The page on methods agrees with the code: the names of the methods, their formulas, and the tables of their options."""

from __future__ import annotations

import json
import re
from importlib import import_module

import pytest

from offcomp.methods import METHODS, Method, options_of
from tests.docs.examples import DOCS, blocks_of

PAGE = (DOCS / "methods.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def option_table(method: type[Method]) -> str:
    """The table of a method's options in the form in which the page shows it."""
    rows = ["| option | default | values | meaning |", "|---|---|---|---|"]
    for option in options_of(method):
        choices, limits = option.metadata.get("choices"), option.metadata.get("range")
        values = [f"`{choice}`" for choice in choices or ()], [f"{limit:g}" for limit in limits or ()]
        allowed = ", ".join(values[0]) or " to ".join(values[1]) or "true or false"
        rows.append(f"| `{option.name}` | `{json.dumps(option.default)}` | {allowed} | {option.metadata['help']} |")
    return "\n".join(rows)


def test_the_page_has_a_section_for_each_method_in_order() -> None:
    named = [name for name in SECTIONS if name.startswith("`")]
    assert named == [f"`{method.style_key}`: {method.title}" for method in METHODS]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.style_key)
def test_a_section_has_the_formula_of_the_docstring_and_all_options(method: type[Method]) -> None:
    section = SECTIONS[f"`{method.style_key}`: {method.title}"]
    docstring = import_module(method.__module__).__doc__ or ""
    formulas = [block.content for block in blocks_of(section) if block.language == "text"]
    assert formulas
    for line in "".join(formulas).splitlines():
        assert line.strip() in docstring, f"the docstring of {method.__module__} does not contain this line"
    assert option_table(method) in section, f"the section should contain\n{option_table(method)}"
