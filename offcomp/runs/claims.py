"""Identify the process working on a run by its host, process id and start time. Does not import torch.

These values are recorded in worker.json for users and other hosts. To find out whether a worker on this host is alive, check
its lock (`offcomp.files`) instead, since process ids are reused and clocks get adjusted. Only workers from earlier versions,
which did not use locks, are looked up by process id and start time. Claims by other hosts are always trusted, since their
processes cannot be checked from this host.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

MACHINE, BOOT = Path("/etc/machine-id"), Path("/proc/sys/kernel/random/boot_id")
START_SECONDS = 2.0
"""Maximum difference between two readings of a process's start time, unless the clock was adjusted in between."""


@lru_cache(maxsize=1)
def this_host() -> dict[str, str]:
    """The identifiers of this host: name, machine id and boot id. Containers on the same kernel share a boot id.

    Identifiers that the system does not provide are empty strings.
    """
    return {"host": socket.gethostname(), "machine": _text(MACHINE), "boot": _text(BOOT)}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def claim(pid: int) -> dict[str, Any]:
    """Return the values that uniquely identify a process: its host, process id and start time."""
    try:
        started = psutil.Process(pid).create_time()
    except psutil.Error:
        started = 0.0
    return this_host() | {"pid": pid, "started": started}


def foreign_host(worker: Mapping[str, Any]) -> str:
    """Return the host name in a claim if it refers to another host, and an empty string otherwise.

    A claim with the same boot id comes from the same kernel, even if the host or container has been renamed, so its lock can
    be checked. With a different boot id, the claim is from this host (before a reboot) if the host name and machine id match.
    """
    host = this_host()
    if "host" not in worker or _is_of_this_boot(worker):
        return ""
    same = all(worker.get(name, host[name]) == host[name] for name in ("host", "machine"))
    return "" if same else str(worker["host"])


def _is_of_this_boot(worker: Mapping[str, Any]) -> bool:
    boot = this_host()["boot"]
    return bool(boot) and worker.get("boot") == boot


def is_alive(worker: Mapping[str, Any]) -> bool:
    """Whether the process in a claim is alive; False after a reboot. Used only for workers from earlier versions."""
    if not _is_of_this_boot(worker):
        return False
    try:
        process = psutil.Process(int(worker["pid"]))
        ended = process.status() == psutil.STATUS_ZOMBIE
        return not ended and abs(process.create_time() - float(worker["started"])) <= START_SECONDS
    except (psutil.Error, KeyError, TypeError, ValueError, OverflowError):
        return False
