"""Subcommand that compares finished runs, or the samples of two evaluations by lm-evaluation-harness."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping

from offcomp.cli.inputs import Verb, emit, write_file
from offcomp.cli.text import format_table
from offcomp.errors import InputError
from offcomp.files import path_of
from offcomp.results.bundled import bundled_runs
from offcomp.runs.store import Run, RunStore


def add_verbs(verb: Verb) -> None:
    """Add `compare`."""
    parser = verb("compare", compare)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="id or unique prefix of one of your runs or of a bundled run")
    parser.add_argument(
        "--lm-eval",
        nargs=2,
        metavar=("A", "B"),
        help="instead of runs: two output folders (or samples files) of `lm_eval --log_samples`, matched document by document",
    )
    parser.add_argument("--html", metavar="FILE", help="also write a self-contained HTML report that works offline")


def compare(arguments: argparse.Namespace) -> None:
    """Compare finished runs: sizes, errors, scores and changed predictions. Or compare two outputs of lm_eval."""
    if arguments.lm_eval:
        compare_lm_eval(arguments)
        return
    if not arguments.runs:
        raise InputError("compare needs at least one run, or two outputs of lm_eval; list your runs with 'offcomp runs'")
    from offcomp.results.report import comparison_document, figures_table, html_report
    from offcomp.results.sentences import answer

    runs = [finished(run) for run in find_runs(arguments.runs)]
    if arguments.html:
        write_file(arguments.html, html_report(runs), "report")
    document = comparison_document(runs) if arguments.json else None
    emit(arguments, document, lambda: f"{answer(runs)}\n\n{format_table(figures_table(runs).to_dict('records'))}")


def compare_lm_eval(arguments: argparse.Namespace) -> None:
    """Compare two outputs of lm_eval. Raises InputError."""
    from offcomp.evaluation.lm_eval_samples import as_documents, compare_samples

    if arguments.runs or arguments.html:
        raise InputError("--lm-eval compares two outputs of lm_eval and nothing else; leave out the runs and --html")
    rows, notes = compare_samples(*map(path_of, arguments.lm_eval))
    table = [
        {
            "task": row.task,
            "metric": row.metric,
            "better": row.better,
            "n": row.compared.compressed.n,
            "A": row.compared.original.value,
            "B": row.compared.compressed.value,
            "B - A": row.compared.paired.difference,
            "95 % interval": _interval(row.compared.paired.interval),
            "only A right": "" if (lost := row.compared.paired.right_to_wrong) is None else lost,
            "only B right": "" if (won := row.compared.paired.wrong_to_right) is None else won,
            "p (McNemar)": "" if (p := row.compared.paired.p) is None else f"{p:.3g}",
        }
        for row in rows
    ]
    document = {"first": arguments.lm_eval[0], "second": arguments.lm_eval[1], "rows": as_documents(rows), "notes": notes}
    emit(arguments, document, lambda: "\n".join([format_table(table), *([""] if notes else []), *notes]))


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:+.4g} to {interval[1]:+.4g}"


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
