"""Subcommand that lists the methods of offcomp and of other installed packages."""

from __future__ import annotations

import argparse
from dataclasses import Field
from typing import Any

from offcomp import __version__
from offcomp.cli.inputs import Verb, emit, say
from offcomp.cli.text import format_table
from offcomp.methods import all_methods, options_of, own_options, packages_of, plugin_faults
from offcomp.methods.base import Method


def add_verbs(verb: Verb) -> None:
    """Add `methods`."""
    verb("methods", methods)


def methods(arguments: argparse.Namespace) -> None:
    """List the compression methods with their options; packages whose methods cannot be used are reported on stderr."""
    rows = [_row(method) for method in all_methods()]
    shown = [row | {"options": ", ".join(option["name"] for option in row["options"])} for row in rows]
    emit(arguments, rows, lambda: format_table(shown))
    for fault in plugin_faults():
        say(f"offcomp: {fault}")


def _row(method: type[Method]) -> dict[str, Any]:
    """One method; `name` is the value of --method."""
    packages = packages_of([method.name]) or {"offcomp": __version__}
    return {
        "name": method.style_key,
        "title": method.title,
        "size": method.size_name,
        "paper": method.paper,
        "package": " ".join(next(iter(packages.items()))),
        "options": [_option(option) for option in options_of(method) if option.name not in own_options(method)],
    }


def _option(option: Field[Any]) -> dict[str, Any]:
    limits = {name: list(option.metadata[name]) for name in ("choices", "range") if name in option.metadata}
    return {"name": option.name, "default": option.default, "help": option.metadata["help"]} | limits
