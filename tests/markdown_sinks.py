"""Find the places in the source code that pass unescaped text to Streamlit, which renders it as Markdown.

An expression is fine if it is a literal or a constant, a number, or the result of an escaping function such as `plain`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

SINKS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("markdown", "caption", "info", "warning", "error", "success", "title", "header", "subheader"), (0,)),
    **dict.fromkeys(("toast", "spinner", "status", "expander", "popover", "table", "tabs", "badge"), (0,)),
    **dict.fromkeys(("button", "download_button", "link_button", "checkbox", "toggle", "radio", "selectbox"), (0,)),
    **dict.fromkeys(("multiselect", "pills", "segmented_control", "slider", "select_slider", "number_input"), (0,)),
    **dict.fromkeys(("text_input", "text_area", "file_uploader"), (0,)),
    "metric": (0, 1, 2),
    **dict.fromkeys(("progress", "page_link"), ()),
}
"""Positions of the arguments that each method renders as Markdown."""
NAMED = ("label", "help", "text", "body")
FORMATTED = ("pills", "segmented_control", "radio")
"""Methods that render their options as Markdown as well."""
ESCAPING = {"plain", "plain_table", "noted_table", "code"}
NUMBERS = {"len", "sum", "int", "float", "round", "min", "max"}


def faults_in(file: Path) -> list[str]:
    """Return every argument of a sink in this file that may contain markup, with its line."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.Module))]
    inside = {child: function for function in functions for child in ast.walk(function)}  # inner ones override outer ones
    return [
        f"{file.name}:{part.lineno} {ast.unparse(part)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SINKS
        for part in _parts(node, node.func.attr)
        if not _is_fine(part, inside[node])
    ]


def _parts(call: ast.Call, sink: str) -> Iterator[ast.expr]:
    yield from (call.args[place] for place in SINKS[sink] if place < len(call.args))
    for keyword in call.keywords:
        if keyword.arg in NAMED:
            yield keyword.value
        elif keyword.arg == "format_func" and sink in FORMATTED:
            yield keyword.value.body if isinstance(keyword.value, ast.Lambda) else keyword.value


def _is_fine(part: ast.AST, function: ast.AST) -> bool:
    fine = False
    match part:
        case ast.Constant():
            fine = True
        case ast.Name(id=name):
            fine = name.isupper() or _is_always_fine(name, function)
        case ast.Subscript(value=ast.Name(id=name)) | ast.Attribute(value=ast.Name(id=name), attr="__getitem__"):
            fine = name.isupper()
        case ast.FormattedValue(value=value, format_spec=spec):
            fine = spec is not None or _is_fine(value, function)
        case ast.Call(func=ast.Name(id=name)):
            fine = name in ESCAPING or name in NUMBERS
        case ast.Call(func=ast.Attribute(value=ast.Constant(), attr="join"), args=[ast.Call(args=[ast.Name(id=name), _])]):
            fine = name in ESCAPING  # map(plain, ...)
        case ast.Call(func=ast.Attribute(value=value, attr="join" | "format"), args=arguments, keywords=keywords):
            fine = all(_is_fine(each, function) for each in (value, *arguments, *(keyword.value for keyword in keywords)))
        case ast.Attribute(value=ast.Constant(), attr="format"):
            fine = True
        case ast.JoinedStr(values=values) | ast.BoolOp(values=values) | ast.List(elts=values):
            fine = all(_is_fine(value, function) for value in values)
        case ast.IfExp(body=one, orelse=other) | ast.BinOp(left=one, right=other):
            fine = _is_fine(one, function) and _is_fine(other, function)
        case ast.GeneratorExp(elt=value) | ast.ListComp(elt=value):
            fine = _is_fine(value, function)
    return fine


def _is_always_fine(name: str, function: ast.AST) -> bool:
    """Whether every value that a function assigns or appends to a name is fine; False for its parameters."""
    values = []
    for node in ast.walk(function):
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=found)], value=value)
                | ast.NamedExpr(target=ast.Name(id=found), value=value)
                | ast.AugAssign(target=ast.Name(id=found), value=value)
                | ast.Call(func=ast.Attribute(value=ast.Name(id=found), attr="append"), args=[value])
            ) if found == name:
                values.append(value)
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=parts)):
                values += [part for found, part in zip(names, parts, strict=False) if getattr(found, "id", "") == name]
    return bool(values) and all(_is_fine(value, function) for value in values)


def twice_in(file: Path) -> list[str]:
    """Return every expression in this file that is escaped twice, so that escape characters would be visible, with its line."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [
        f"{file.name}:{inner.lineno} {ast.unparse(inner)}"
        for outer in ast.walk(tree)
        if _escapes(outer)
        for inner in ast.walk(outer)
        if inner is not outer and _escapes(inner)
    ]


def _escapes(node: ast.AST) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ESCAPING
