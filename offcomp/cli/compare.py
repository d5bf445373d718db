"""Subcommand that compares finished runs in a table, as JSON, or in a self-contained report."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping

from offcomp.cli.inputs import Verb, emit, write_file
from offcomp.cli.text import format_table
from offcomp.errors import InputError
from offcomp.results.bundled import bundled_runs
from offcomp.runs.store import Run, RunStore


def add_verbs(verb: Verb) -> None:
    """Add `compare`."""
    parser = verb("compare", compare)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="id or unique prefix of one of your runs or of a bundled run")
    parser.add_argument("--html", metavar="FILE", help="also write a self-contained HTML report that works offline")


def compare(arguments: argparse.Namespace) -> None:
    """Compare finished runs: sizes, errors, scores and changed predictions."""
    from offcomp.results.report import comparison_document, figures_table, html_report
    from offcomp.results.sentences import answer

    runs = [finished(run) for run in find_runs(arguments.runs)]
    if arguments.html:
        write_file(arguments.html, html_report(runs), "report")
    document = comparison_document(runs) if arguments.json else None
    emit(arguments, document, lambda: f"{answer(runs)}\n\n{format_table(figures_table(runs).to_dict('records'))}")


def find_runs(prefixes: Iterable[str]) -> list[Run]:
    """Find the runs whose ids start with these prefixes, including bundled runs; duplicates are removed."""
    pool = {run.id: run for run in [*bundled_runs(), *RunStore().all()]}
    return [pool[name] for name in dict.fromkeys(_full_id(prefix, pool) for prefix in prefixes)]


def _full_id(prefix: str, pool: Mapping[str, Run]) -> str:
    """The only run id with this prefix. Raises InputError unless exactly one id matches."""
    if prefix in pool:
        return prefix
    matches = sorted(name for name in pool if name.startswith(prefix)) if prefix else []
    if len(matches) > 1:
        raise InputError(
            f"{len(matches)} run ids begin with {prefix!r}: {', '.join(matches[:4])}; enter more characters of the id"
        )
    if not matches:
        bad = next((folder for folder in RunStore().listing()[1] if prefix and folder.name.startswith(prefix)), None)
        if bad is not None:
            raise InputError(f"run {bad}")
        bundled = ", ".join(run.id for run in bundled_runs())
        raise InputError(f"there is no run {prefix!r}; list your runs with 'offcomp runs', or use a bundled run: {bundled}")
    return matches[0]


def finished(run: Run) -> Run:
    """Return the run unchanged if it finished successfully. Raises InputError otherwise."""
    if run.status != "done":
        reason = f": {run.error.rstrip('.')}" if run.error else ""
        raise InputError(f"run {run.id} has status {run.status}, so it has no results to compare{reason}; choose finished runs")
    return run
