"""The queue: runs wait for a slot in order of submission. OFFCOMP_SLOTS sets the number of slots (default: 1)."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from offcomp import files
from offcomp.errors import InputError
from offcomp.runs.store import RunStore
from offcomp.runs.worker_process import WATCH_SECONDS, Worker

SLOTS = re.compile(r"[1-9][0-9]{0,2}")


@contextmanager
def slot(worker: Worker) -> Iterator[None]:
    """Wait for a free slot, first come, first served. The slot is released when the `with` statement or the process ends."""
    worker.wait_in_queue()
    while (file := free_slot(worker.folder)) is None:
        time.sleep(WATCH_SECONDS)
    with files.closing(file):
        yield


def free_slot(folder: Path) -> int | None:
    """Take a slot for the run in a folder, if one is free and no earlier run waits for it. Returns the open lock of the slot.

    Raises InputError if OFFCOMP_SLOTS is invalid.
    """
    store = RunStore(folder.parent.parent)
    for index in range(_slot_count()):
        file = files.open_lock(store.home / f".slot-{index}.lock")
        if files.take_lock(file) and not is_preceded(store, folder.name):
            return file
        os.close(file)
    return None


def _slot_count() -> int:
    """The maximum number of concurrent runs. Raises InputError if OFFCOMP_SLOTS is invalid."""
    value = os.environ.get("OFFCOMP_SLOTS", "1")
    if not SLOTS.fullmatch(value.strip()):
        raise InputError(f"OFFCOMP_SLOTS is {value[:40]!r}; set it to the number of concurrent runs (1 to 999), or unset it")
    return int(value)


def is_preceded(store: RunStore, name: str) -> bool:
    """Whether a run submitted earlier on this host is still waiting."""
    waiting = [run for run in store.all() if run.status == "queued" and not run.host]
    submitted = next((run.submitted for run in waiting if run.id == name), 0.0)
    return any(run.submitted < submitted for run in waiting)
