"""Subcommands that export a run to a folder and check an exported folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from offcomp.cli.compare import find_runs
from offcomp.cli.inputs import Verb, describe, emit, say
from offcomp.cli.text import format_table, sizes_text
from offcomp.errors import StorageError

if TYPE_CHECKING:
    from offcomp.runs.manifest import Manifest
    from offcomp.runs.verify import Check

RESULTS = {True: "passed", False: "failed", None: "not checked"}


def add_verbs(verb: Verb) -> None:
    """Add `export` and `verify`."""
    parser = verb("export", export)
    parser.add_argument("run", help="run id or unique prefix")
    parser.add_argument("folder", metavar="DIR", help="a new or empty folder")
    parser.add_argument(
        "--dense",
        action="store_true",
        help="also write the complete model, with the reconstructed weights in the original dtypes and all other files; "
        "it is as large as the original and can be loaded with transformers",
    )
    parser = verb("verify", verify)
    parser.add_argument("folder", metavar="DIR", help="a folder written by 'offcomp export'")
    parser.add_argument("--original", metavar="MODEL", help="the original model, if it has moved since the export")


def export(arguments: argparse.Namespace) -> None:
    """Export a finished run to a folder: its tensors as safetensors, and a manifest that lists each tensor and its checksum."""
    from offcomp.runs.export import export_run

    (run,) = find_runs([arguments.run])
    if arguments.dense:
        say(f"writing {run.plan.model} with the reconstructed weights")
    manifest = export_run(run, describe(run.plan.model), Path(arguments.folder), dense=arguments.dense)
    if manifest.left_out:
        say(f"left out files that contain the original weights or are not part of the model: {', '.join(manifest.left_out)}")
    written = f"wrote {arguments.folder}; check it with 'offcomp verify {arguments.folder}'"
    document = {"folder": arguments.folder, **manifest.to_dict()}
    emit(arguments, document, lambda: f"{stored_text(manifest)}\n\n{written}")


def stored_text(manifest: Manifest) -> str:
    """A table with one row per group, followed by the three compression ratios."""
    rows = [
        {
            "group": group.name,
            "matrix": f"{group.rows} x {group.cols}",
            "form": group.form,
            "tensors": ", ".join(entry.name for entry in group.ledger),
            "parameters": group.num_parameters,
            "bytes": group.num_bytes,
            "relative_error": group.relative_error,
        }
        for group in manifest.groups
    ]
    return f"{format_table(rows)}\n\n{sizes_text(manifest.sizes)}"


def verify(arguments: argparse.Namespace) -> None:
    """Check an exported folder against its manifest and the original. The exit status is 1 if a check fails."""
    from offcomp.runs.verify import verify as checks_of

    checks = checks_of(Path(arguments.folder), arguments.original)
    faults = [f"{check.name}: {fault}" for check in checks for fault in check.faults]
    rows = [{"name": c.name, "about": c.scope, "holds": c.holds, "faults": c.faults, "left_out": c.skip_reason} for c in checks]
    emit(arguments, {"folder": arguments.folder, "holds": not faults, "checks": rows}, lambda: checks_text(checks))
    if faults:
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise StorageError(f"{arguments.folder} does not match its manifest: {faults[0]}{more}")


def checks_text(checks: list[Check]) -> str:
    """A table with one row per check, followed by a sentence for each fault and each skipped check."""
    rows = [{"check": check.name, "result": RESULTS[check.holds], "about": check.scope} for check in checks]
    faults = [f"{check.name}: {fault}." for check in checks for fault in check.faults]
    left_out = [f"{check.name}, not checked: {check.skip_reason}." for check in checks if check.skip_reason]
    return "\n".join([format_table(rows), "", *faults, *left_out]).rstrip()
