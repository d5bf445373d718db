"""Configuration of the documentation: `make docs` builds it into docs/_build, without a network connection.

Docstrings are plain text with Google sections. Their aligned lists and formulas keep their layout (`keep_alignment`).
"""

from __future__ import annotations

import re
from functools import reduce
from operator import or_
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

import offcomp
from offcomp import __version__

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "offcomp"
author = "the authors of offcomp"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_theme_options = {"light_css_variables": {"code-font-size": "var(--font-size--small--3)"}}  # fits longer lines
html_title = "offcomp"
html_favicon = "../assets/images/icon.svg"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
smartquotes_action = "D"  # dashes; quotes in docstrings are code
pygments_style = "friendly"
pygments_dark_style = "monokai"

default_role = "literal"  # `name` in a docstring is code
myst_heading_anchors = 3
nitpicky = True
nitpick_ignore_regex = [
    # Types of other libraries, whose documentation is elsewhere.
    (r"py:.*", r"(collections|pandas|pathlib|plotly|torch|transformers|typing|numpy|tokenizers)\b.*"),
    (r"py:.*", r"(Any|ArrayLike|Callable|Iterable|Iterator|Mapping|Path|Sequence|Tensor|go\.Figure|pd\.DataFrame)"),
    # Types of offcomp that are described where they are used, and that have no entry.
    (r"py:.*", r"Decode|offcomp\.(methods\.base|models|numerics|planning|results|runs|library)\..*"),
]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields|Examples?|Note):$")
LISTED = re.compile(r"([\w.]+(?:, [\w.]+)*) {2,}(\S.*)")
"""A line of an aligned list: one or more names, at least two spaces, and a description."""


def keep_alignment(_app: Sphinx, _what: str, _name: str, _obj: Any, _options: Any, lines: list[str]) -> None:
    """Outside sections, turn aligned lists into definition lists, and indented paragraphs (formulas) into literal blocks."""
    kept: list[str] = []
    in_section = False
    for paragraph in paragraphs(lines):
        first = paragraph[0]
        in_section = bool(SECTION.match(first)) or (in_section and first.startswith(" "))
        if in_section:
            kept += paragraph
        elif first.startswith(" "):
            kept += ["::", "", *paragraph]
        elif LISTED.match(first):
            kept += definitions(paragraph)
        else:
            kept += paragraph
        kept.append("")
    lines[:] = kept


def paragraphs(lines: list[str]) -> list[list[str]]:
    """Split lines at blank lines."""
    return [part.split("\n") for part in re.split(r"\n\s*\n", "\n".join(lines).strip("\n")) if part.strip()]


def definitions(paragraph: list[str]) -> list[str]:
    """Convert an aligned list to a definition list. A line without a name continues the preceding description."""
    made: list[str] = []
    for line in paragraph:
        named = LISTED.match(line)
        made += ["", f"`{named[1]}`", f"    {named[2]}"] if named else [f"    {line.strip()}"]
    return made[1:]


def readable_signature(
    _app: Sphinx, _what: str, _name: str, obj: Any, _options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Name the fields of a JSON document without their types, which follow below, and write a factory as an ellipsis."""
    if is_document(obj):
        fields = [name if field.is_required() else f"{name}=..." for name, field in obj.model_fields.items()]
        return f"(*, {', '.join(fields)})", None
    return signature and signature.replace("<factory>", "..."), returns


def is_document(obj: Any) -> bool:
    """Return whether this is a class of JSON documents."""
    return isinstance(obj, type) and issubclass(obj, BaseModel)


def show_plain_types() -> None:
    """Show the type of each field of a public JSON document without the constraints on its values."""
    for document in filter(is_document, (getattr(offcomp, name) for name in offcomp.__all__)):
        document.__annotations__ = {name: plain(field.annotation) for name, field in document.model_fields.items()}


def plain(kind: Any) -> Any:
    """A type without the annotations that pydantic reads."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return plain(arguments[0])
    if not arguments or origin is Literal:
        return kind
    parts = tuple(None if part is type(None) else plain(part) for part in arguments)
    return reduce(or_, parts) if origin in (Union, UnionType) else origin[tuple(parts)]


def setup(app: Sphinx) -> None:
    """Connect the functions above to Sphinx, which calls this function."""
    show_plain_types()
    app.connect("autodoc-process-signature", readable_signature)
    app.connect("autodoc-process-docstring", keep_alignment, priority=1)  # before napoleon
