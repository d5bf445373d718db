"""Verbs of the command line that take a run along: write what it stores to a folder, and check such a folder."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from offcomp.cli_input import describe, emit, say
from offcomp.cli_report import full_id, known_runs
from offcomp.errors import StorageError
from offcomp.tables import format_table, sizes_text

if TYPE_CHECKING:
    from offcomp.manifest import Manifest
    from offcomp.verification import Check

Verb = Callable[[str, Callable[[argparse.Namespace], None]], argparse.ArgumentParser]
RESULTS = {True: "holds", False: "does not hold", None: "not checked"}


def add_verbs(verb: Verb) -> None:
    """Add `export` and `verify`."""
    exporting = verb("export", export)
    exporting.add_argument("run", help="run id or its unique beginning")
    exporting.add_argument("folder", metavar="DIR", help="a folder that is new or empty")
    exporting.add_argument(
        "--dense",
        action="store_true",
        help="also the whole model with the reconstructions written in, in the dtype of each weight and with every other file; "
        "transformers loads it, and it is as large as the original",
    )
    verifying = verb("verify", verify)
    verifying.add_argument("folder", metavar="DIR", help="a folder that 'offcomp export' wrote")
    verifying.add_argument("--original", metavar="MODEL", help="where the original is, if no longer where the manifest says")


def export(arguments: argparse.Namespace) -> None:
    """Write what a finished run stores to a folder: safetensors, and a manifest with every tensor and checksum."""
    from offcomp.export import export_run

    pool = known_runs()
    run = pool[full_id(arguments.run, pool)]
    if arguments.dense:
        say(f"writing {run.plan.model} with the reconstructions in it")
    manifest = export_run(run, describe(run.plan.model), Path(arguments.folder), dense=arguments.dense)
    if manifest.left_out:
        say(f"left out, as they hold the original's weights or are no part of the model: {', '.join(manifest.left_out)}")
    emit(
        arguments,
        {"folder": arguments.folder, **manifest.to_dict()},
        lambda: f"{stored_text(manifest)}\n\nwrote {arguments.folder}; 'offcomp verify {arguments.folder}' checks it",
    )


def stored_text(manifest: Manifest) -> str:
    """A line a group, and the three ratios."""
    rows = [
        {
            "group": group.name,
            "matrix": f"{group.rows} x {group.cols}",
            "form": group.form,
            "tensors": ", ".join(entry["name"] for entry in group.ledger),
            "parameters": group.num_parameters,
            "bytes": group.num_bytes,
            "relative_error": group.relative_error,
        }
        for group in manifest.groups
    ]
    return f"{format_table(rows)}\n\n{sizes_text(dict(manifest.sizes))}"


def verify(arguments: argparse.Namespace) -> None:
    """Check an exported folder against its manifest and the original. Raises StorageError where something does not hold."""
    from offcomp.verification import verify as checks_of

    checks = checks_of(Path(arguments.folder), arguments.original)
    faults = [f"{check.name}: {fault}" for check in checks for fault in check.faults]
    rows = [{"name": c.name, "about": c.about, "holds": c.holds, "faults": c.faults, "left_out": c.left_out} for c in checks]
    emit(arguments, {"folder": arguments.folder, "holds": not faults, "checks": rows}, lambda: checks_text(checks))
    if faults:
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise StorageError(f"{arguments.folder} is not what its manifest says: {faults[0]}{more}")


def checks_text(checks: list[Check]) -> str:
    """A line a check; then a sentence for each fault, and for what was left out."""
    rows = [{"check": check.name, "result": RESULTS[check.holds], "about": check.about} for check in checks]
    faults = [f"{check.name}: {fault}." for check in checks for fault in check.faults]
    left_out = [f"{check.name}, not checked: {check.left_out}." for check in checks if check.left_out]
    return "\n".join([format_table(rows), "", *faults, *left_out]).rstrip()
