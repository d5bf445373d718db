"""Subcommands for runs: run a plan and wait for it to finish, list all runs, and show or cancel a run."""

from __future__ import annotations

import argparse
import time

from offcomp.cli.inputs import Verb, device_flag, emit, read_plan, say, say_notes
from offcomp.cli.text import format_table, run_text
from offcomp.errors import RunError
from offcomp.methods import style_key_in_plan
from offcomp.plain_text import without_unseen
from offcomp.runs.store import OF_A_SAMPLE, Run, RunStore, without_collection

NO_RUNS = "no runs yet; make a plan and run it (see 'offcomp plan --help')"


def add_verbs(verb: Verb) -> None:
    """Add `run`, `runs`, `show` and `cancel`."""
    run_parser = verb("run", run)
    run_parser.add_argument("plan", help="plan file, or - for standard input")
    run_parser.add_argument("--again", action="store_true", help="run the plan even if it has already been run")
    device_flag(run_parser)
    verb("runs", runs)
    verb("show", show).add_argument("run", help="run id")
    verb("cancel", cancel).add_argument("run", help="run id")


def run(arguments: argparse.Namespace) -> None:
    """Run a plan and wait for it to finish. The exit status is 1 if the run does not finish."""
    plan, info = read_plan(arguments.plan)
    store = RunStore()
    current = store.submit(plan, info, again=arguments.again)
    try:
        current = wait(store, current)
    except KeyboardInterrupt:
        store.cancel(current.id)
        say(f"offcomp: run {current.id} was cancelled")
        raise
    result = current.result
    say_notes(arguments, result.notes if result else ())
    document = result.to_dict() if result else {"id": current.id, "status": current.status}
    emit(arguments, document, lambda: run_text(current))
    if current.status != "done":
        raise RunError(f"run {current.id} {current.status}: {current.error}")


def wait(store: RunStore, submitted: Run) -> Run:
    """Wait for a run to end, printing each stage when it starts."""
    reported = ""
    for latest in store.follow(submitted):
        stage = latest.progress.stage if latest.progress else "queued"
        if stage != reported and not latest.ended:
            say(f"{latest.id} {stage}")
            reported = stage
    return latest


@without_collection()
def runs(arguments: argparse.Namespace) -> None:
    """List all runs, newest first; run folders that cannot be read are reported on stderr."""
    readable, damaged = RunStore().listing()
    rows = [
        {
            "run": r.id,
            "status": r.status,
            "host": r.host,
            "model": r.plan.model,
            "methods": ", ".join(sorted({style_key_in_plan(g.method, g.options) for g in r.plan.groups})),
            "groups": len(r.plan.groups),
            "submitted": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(r.submitted)),
            "identity": "sample" if r.of_a_sample else "",
            "error": r.error,
        }
        for r in readable
    ]
    note = f"\n\nidentity 'sample': the model is {OF_A_SAMPLE}" * any(row["identity"] for row in rows)
    emit(arguments, rows, lambda: format_table(rows) + note if rows else NO_RUNS)
    for folder in damaged:
        say(without_unseen(f"not listed: {folder}"))


def show(arguments: argparse.Namespace) -> None:
    """Show one run."""
    stored = RunStore().get(arguments.run)
    document = {"id": stored.id, "status": stored.status, "host": stored.host, "plan": stored.plan.to_dict()}
    document |= {"progress": stored.progress.to_dict() if stored.progress else {}}
    if stored.result:
        document = stored.result.to_dict()
    emit(arguments, document, lambda: run_text(stored))


def cancel(arguments: argparse.Namespace) -> None:
    """Ask a run to stop; this has no effect if the run has already ended or been interrupted."""
    store = RunStore()
    store.cancel(arguments.run)
    stored = store.get(arguments.run)
    message = f"run {stored.id} {f'has already ended: {stored.status}' if stored.ended else 'was asked to stop'}"
    emit(arguments, {"id": stored.id, "status": stored.status}, lambda: message)
