"""The jobs of a resident, and how it reports a fork that was killed."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offcomp.runs.documents import RESULT
from offcomp.runs.worker_process import Worker

CAUSES = {
    signal.SIGKILL: (
        "The worker was killed by SIGKILL; if nobody killed it, the machine ran out of memory: choose fewer modules or close "
        "other programs."
    ),
    signal.SIGABRT: (
        "The worker was terminated by SIGABRT, probably because a library could not allocate memory: choose fewer modules or "
        "close other programs. The log above may contain details."
    ),
}
OTHER_CAUSE = "The worker was terminated by {name}; run the plan again."


@dataclass
class Job:
    """A run to carry out or a question to answer, with its open files.

    lock, log    open files of the run
    pipe         where the answer to a question is written
    slot         lock of the slot that the run holds, or None
    pid          process id of the fork that carries out the job, or None while the job waits
    """

    number: int = -1
    folder: Path = Path()
    lock: int = -1
    log: int = -1
    pipe: int = -1
    question: dict[str, Any] | None = None
    deadline: float = float("inf")
    placed: bool = False
    worker: Worker | None = None
    slot: int | None = None
    pid: int | None = None

    def close(self) -> None:
        """Close all files, which releases the locks unless a fork holds them."""
        for file in (self.log, self.pipe, *([] if self.slot is None else [self.slot]), self.lock):
            if file >= 0:
                os.close(file)

    def explain(self, sentence: str) -> None:
        """Append a line to the log of the run."""
        with suppress(OSError):
            os.write(self.log, f"{sentence}\n".encode())

    def explain_end(self, status: int) -> None:
        """Log which signal killed the fork, if one did before it wrote a result. `status` comes from `os.waitpid`."""
        code = os.waitstatus_to_exitcode(status)
        if code < 0 and self.question is None and not (self.folder / RESULT).exists():
            name = signal.Signals(-code)
            self.explain(CAUSES.get(name, OTHER_CAUSE.format(name=name.name)))
