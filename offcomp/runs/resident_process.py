"""The resident process: `python -m offcomp.runs.resident_process HOME MODEL IDLE_SECONDS SOCKET`. Its client is `resident`.

The main thread is an event loop that never blocks for long. A second thread imports torch and, once a run or a question needs
the whole model, loads it. Runs that arrive meanwhile wait in the resident, which handles requests to cancel them and shows the
progress of the first. Once the second thread has finished, the only other threads belong to fork-safe libraries, and each run
is carried out by a fork:

- Forks share the memory of the model until they write to it, so every run begins with exactly the weights that were loaded.
- OpenMP cannot be used in a fork if it has started threads in the parent. The resident therefore computes with one thread, and
  each fork sets the usual number of threads before it starts work.
- The resident holds the lock of a run until the run's fork has ended. If the fork was killed, the log says why by then.

The resident exits with the process that started it, after IDLE_SECONDS without a job, or when told to. If a model is too large
to keep in memory or cannot be loaded, the forks load it themselves and report any errors.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import select
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

from offcomp.errors import OffcompError
from offcomp.models.listing import known_info
from offcomp.runs.resident import ABOUT_A_MATRIX
from offcomp.runs.resident_jobs import Job
from offcomp.runs.resident_loader import Loader
from offcomp.runs.slots import free_slot
from offcomp.runs.worker import LOAD, carry_out, estimated_stages, set_up_log
from offcomp.runs.worker_environment import PARENT_VARIABLE, parent_is_gone
from offcomp.runs.worker_lock import is_in_place, wait_for_folder
from offcomp.runs.worker_process import Worker

log = logging.getLogger("offcomp")

LARGEST_MESSAGE, MAX_FILES = 1 << 16, 4
RECEIVING = getattr(socket, "MSG_DONTWAIT", 0) | getattr(socket, "MSG_CMSG_CLOEXEC", 0)
LOADING_SECONDS, BUSY_SECONDS, REST_SECONDS = 0.05, 0.1, 1.0
"""Polling intervals of the event loop: while loading, while there are jobs, and while there are none."""


class Resident:
    """The event loop. `messages` is the resident's end of the connection."""

    def __init__(self, home: Path, model: str, idle_seconds: float, messages: socket.socket):
        self._home, self._model = home, model
        self._idle_seconds = idle_seconds
        self._messages = messages
        self._jobs: list[Job] = []
        self._loader = Loader(home, model, loads=False)
        self._ready = self._leaving = self._needs_model = False
        self._last_busy = time.monotonic()

    def serve(self) -> None:
        """Carry out jobs until it is time to exit."""
        self._loader.start()
        while True:
            if self._wait_for_message():
                self._receive()
            if parent_is_gone():
                os._exit(1)
            if not self._loader.is_alive():
                self._prepare()
            self._look_after_jobs()
            if self._is_done() and self._refuse_messages():
                return

    def _wait_for_message(self) -> bool:
        idle = min(REST_SECONDS, self._idle_seconds)
        rest = LOADING_SECONDS if not self._ready else BUSY_SECONDS if self._jobs else idle
        if self._leaving:
            time.sleep(rest)
            return False
        return bool(select.select([self._messages], [], [], rest)[0])

    def _receive(self) -> None:
        """Read one message. The end of the connection means that the client has exited or no longer needs this resident."""
        try:
            content, files, flags, _ = socket.recv_fds(self._messages, LARGEST_MESSAGE, MAX_FILES, RECEIVING)
        except BlockingIOError:
            return
        if not content:
            self._leaving = True
            return
        message = json.loads(content)
        if flags & socket.MSG_CTRUNC:  # this process has no file descriptors left; closing the lock ends the run
            for file in files:
                os.close(file)
        elif "run" in message:
            lock, output = files
            self._needs_model |= message["loads"]
            self._jobs.append(Job(message["run"], Path(message["folder"]), lock, output))
        elif "ask" in message:
            self._needs_model |= message["ask"].get("kind") not in ABOUT_A_MATRIX
            deadline = time.monotonic() + message["seconds"]
            self._jobs.append(Job(pipe=files[0], question=message["ask"], deadline=deadline))
        elif "stop" in message:
            self._stop(message["stop"])
            os.close(files[0])
        elif "load" in message:
            self._needs_model = True
        else:
            self._leaving = True

    def _prepare(self) -> None:
        """Now that the loader has finished, load the model if a job needs it and this was not tried; then allow forks."""
        if self._needs_model and not self._loader.loads:
            self._loader.join()
            self._ready = False
            self._loader = Loader(self._home, self._model, threads=self._loader.threads)
            self._loader.start()
        elif not self._ready:
            self._become_ready()

    def _become_ready(self) -> None:
        """Prepare for forking once the loader has finished."""
        self._ready = True
        self._loader.join()
        nowhere = os.open(os.devnull, os.O_WRONLY)  # until now, output went to the log of the first run
        for output in (sys.stdout, sys.stderr):
            output.flush()
            os.dup2(nowhere, output.fileno())
        os.close(nowhere)
        gc.collect()
        gc.freeze()  # memory that is never collected stays shared with forks

    def _look_after_jobs(self) -> None:
        for job in list(self._jobs):
            if job.pid is None:
                self._look_after_waiting(job)
            else:
                self._look_after_fork(job, job.pid)
        if self._jobs:
            self._last_busy = time.monotonic()

    def _look_after_waiting(self, job: Job) -> None:
        if time.monotonic() > job.deadline:
            self._remove(job)
        elif self._ready:
            self._fork(job)
        elif job.question is None:
            self._look_after_waiting_run(job)

    def _look_after_waiting_run(self, job: Job) -> None:
        """Handle a request to cancel the run, drop it if its folder is gone, and show progress if it is the first in line."""
        in_place = is_in_place(job.folder, job.lock)
        if (job.placed and not in_place) or not os.fstat(job.lock).st_nlink:
            self._remove(job)
            return
        job.placed = in_place
        if not in_place:
            return
        with suppress(OffcompError, OSError):  # the fork will report any error
            job.worker = job.worker or Worker(job.folder, job.lock)
            if job.worker.is_cancelled:
                job.worker.conclude("cancelled", error="Cancelled.")
                self._remove(job)
            else:
                self._show_progress(job, job.worker)

    def _show_progress(self, job: Job, worker: Worker) -> None:
        """Give the first run a slot, if one is free, and show that the model is being loaded for it."""
        is_first = next(other for other in self._jobs if other.question is None) is job
        if is_first and job.slot is None:
            job.slot = free_slot(job.folder)
            if job.slot is not None:
                info = known_info(worker.plan.model, self._home)
                worker.begin(estimated_stages(worker.plan, info) if info else {})
                worker.enter(LOAD)
        worker.show_life()

    def _fork(self, job: Job) -> None:
        """Carry out a job in a fork of this process. The resident keeps the lock and the log of a run open until it ends."""
        resident = os.getpid()
        try:
            job.pid = os.fork()
        except OSError as error:
            job.explain(f"cannot start a process: {error.strerror}; close other programs, then run the plan again")
            self._remove(job)
            return
        if job.pid == 0:
            try:
                self._work(job, resident)
            except BaseException:  # noqa: BLE001  # a fork must never return to the event loop
                traceback.print_exc()
            finally:
                os._exit(1)
        for name in ("slot", "pipe"):
            file = getattr(job, name)
            if file is not None and file >= 0:
                os.close(file)
        job.slot, job.pipe = None, -1

    def _work(self, job: Job, resident: int) -> None:
        """Do a job in a fork, and exit."""
        os.environ[PARENT_VARIABLE] = str(resident)
        os.setsid()
        self._messages.close()
        for other in self._jobs:
            if other is not job:
                other.close()
        if self._loader.threads:
            import torch

            torch.set_num_threads((job.question or {}).get("threads", self._loader.threads))
        if job.question is not None:
            from offcomp.runs.live_answers import write_answer

            write_answer(job.pipe, job.question, self._loader.loaded, self._model, self._home)
            os._exit(0)
        for output in (1, 2):
            os.dup2(job.log, output)
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("300")  # if memory runs out, kill this process rather than the resident
        set_up_log()
        wait_for_folder(job.folder, job.lock)
        try:
            worker = job.worker or Worker(job.folder, job.lock)
            worker.take_over()
        except OffcompError as error:
            log.error("%s", error)
            os._exit(1)
        carry_out(worker, self._loader.loaded, job.slot)

    def _look_after_fork(self, job: Job, pid: int) -> None:
        if time.monotonic() > job.deadline:
            os.kill(pid, signal.SIGKILL)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            job.explain_end(status)
            self._remove(job)

    def _stop(self, number: int) -> None:
        """End the work on a run at once."""
        for job in [job for job in self._jobs if job.number == number]:
            if job.pid:
                os.kill(job.pid, signal.SIGKILL)
                os.waitpid(job.pid, 0)
            self._remove(job)

    def _remove(self, job: Job) -> None:
        self._jobs.remove(job)
        job.close()

    def _is_done(self) -> bool:
        return not self._jobs and (self._leaving or time.monotonic() - self._last_busy >= self._idle_seconds)

    def _refuse_messages(self) -> bool:
        """Refuse new messages, and read those already sent. Returns whether no jobs remain."""
        with suppress(OSError):
            self._messages.shutdown(socket.SHUT_RD)
        self._leaving = False
        while not self._leaving:  # until the end of the connection
            self._receive()
        return not self._jobs


def main(arguments: list[str]) -> None:
    """Run a resident."""
    home, model, idle_seconds, file = arguments
    Resident(Path(home), model, float(idle_seconds), socket.socket(fileno=int(file))).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
