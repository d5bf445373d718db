"""Identify the process that works on a run, by host, process id and start time. Does not import torch.

These values are recorded in worker.json for users and other hosts. To find out whether a worker on this host is alive, check
its lock (`offcomp.files`) instead, since process ids are reused and clocks get adjusted. Only workers from earlier versions,
which did not use locks, are looked up by process id and start time. Claims by other hosts are always trusted, since their
processes cannot be checked from this host.
"""

from __future__ import annotations

import socket
from functools import lru_cache
from pathlib import Path

import psutil

from offcomp.planning.document import Amount, Document, Line, Positive

MACHINE, BOOT = Path("/etc/machine-id"), Path("/proc/sys/kernel/random/boot_id")
START_SECONDS = 2.0
"""Maximum difference between two readings of a process's start time, unless the clock was adjusted in between."""


class Host(Document):
    """A host. Containers on the same kernel share a boot id.

    Identifiers that the system does not provide are empty strings; those that were not recorded are None.
    """

    host: Line | None = None
    """Name of the host."""
    machine: Line | None = None
    """Machine id."""
    boot: Line | None = None
    """Boot id."""


class Claim(Host):
    """A process that works on a run."""

    pid: Positive | None = None
    """Process id."""
    started: Amount | None = None
    """When the process started, in seconds since 1970."""


@lru_cache(maxsize=1)
def this_host() -> Host:
    """The identifiers of this host."""
    return Host(host=socket.gethostname(), machine=_text(MACHINE), boot=_text(BOOT))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def claim(pid: int) -> Claim:
    """Identify a process uniquely by its host, process id and start time."""
    try:
        started = psutil.Process(pid).create_time()
    except psutil.Error:
        started = 0.0
    return Claim(**this_host().to_dict(), pid=pid, started=started)


def foreign_host(worker: Claim) -> str:
    """Return the host name in a claim if it refers to another host, and an empty string otherwise.

    A claim with the same boot id comes from the same kernel, even if the host or container has been renamed, so its lock can
    be checked. With a different boot id, the claim is from this host (before a reboot) if the host name and machine id match.
    """
    here = this_host()
    if worker.host is None or _is_of_this_boot(worker):
        return ""
    same = worker.host == here.host and worker.machine in (None, here.machine)
    return "" if same else worker.host


def _is_of_this_boot(worker: Claim) -> bool:
    boot = this_host().boot
    return bool(boot) and worker.boot == boot


def is_alive(worker: Claim) -> bool:
    """Whether the process in a claim is alive; False after a reboot. Used only for workers from earlier versions."""
    if worker.pid is None or worker.started is None or not _is_of_this_boot(worker):
        return False
    try:
        process = psutil.Process(worker.pid)
        ended = process.status() == psutil.STATUS_ZOMBIE
        return not ended and abs(process.create_time() - worker.started) <= START_SECONDS
    except (psutil.Error, OverflowError):
        return False
