"""Run a plan and wait for its result, with a progress bar in a terminal or a notebook."""

from __future__ import annotations

from pathlib import Path

from tqdm.auto import tqdm

from offcomp.devices import using_device
from offcomp.errors import RunError
from offcomp.models.listing import model_info
from offcomp.planning.plan import Plan, validate
from offcomp.planning.ranks import with_computed_ranks
from offcomp.runs.store import Run, RunStore


def run(
    plan: Plan, *, home: Path | str | None = None, again: bool = False, progress: bool = True, device: str | None = None
) -> Run:
    """Run a plan in a worker process and wait until it is done; a plan that has been run before is not run again.

    The result is the same as that of `offcomp run`, and the app and the command line list the run. Interrupting the call
    cancels the run.

    Args:
        home: folder of the runs; by default the one that the app and the command line use.
        again: run the plan even if it has been run before.
        progress: whether to show a progress bar.
        device: where to compute, "auto" (the GPU if there is one), "cpu" or "cuda"; by default the environment variable
            OFFCOMP_DEVICE or, without it, "auto". The result says which device was used.

    Raises:
        InputError: the device is unknown, or it is "cuda" and there is no GPU.
        PlanError: the plan is invalid or infeasible; all faults are listed.
        ModelError: the model cannot be used.
        RunError: the run failed or was cancelled.
        StorageError: the run cannot be started.
    """
    store = RunStore(Path(home) if home is not None else None)
    info = model_info(plan.model, store.home)
    validate(plan, info)
    with using_device(device):
        submitted = store.submit(with_computed_ranks(plan, info, store.home), info, again=again)
    try:
        with tqdm(total=100, unit="%", disable=not progress, bar_format="{l_bar}{bar}| {elapsed}") as bar:
            for latest in store.follow(submitted):
                state = latest.progress
                note = f" ({state.note})" if state and state.note else ""
                bar.set_description(f"{state.stage}{note}" if state else latest.status)
                bar.update(100.0 * (state.fraction if state else float(latest.ended)) - bar.n)
    except KeyboardInterrupt:
        store.cancel(submitted.id)
        raise
    if latest.status != "done":
        raise RunError(f"run {latest.id} {latest.status}: {latest.error}")
    return latest
