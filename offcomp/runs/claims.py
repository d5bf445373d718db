"""The process working on a run: its host, id and start time, recorded in worker.json for people and other hosts. No torch.

To find out whether a worker on this host is alive, check the lock that it holds (`offcomp.files`), not this record, since
process ids are reused and clocks get adjusted. Only workers from earlier versions, which hold no lock, are looked up by process
id and start time. Claims by other hosts are always trusted, since their processes cannot be checked from here.
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
"""Two readings of a process's start time differ by at most this much, unless the clock was adjusted in between."""


@lru_cache(maxsize=1)
def this_host() -> dict[str, str]:
    """What identifies this host: its name, machine id and boot id; containers on the same kernel share the boot id.

    A value is empty if the system does not provide it.
    """
    return {"host": socket.gethostname(), "machine": _text(MACHINE), "boot": _text(BOOT)}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def claim(pid: int) -> dict[str, Any]:
    """What identifies a process uniquely: its host, its id and its start time."""
    try:
        started = psutil.Process(pid).create_time()
    except psutil.Error:
        started = 0.0
    return this_host() | {"pid": pid, "started": started}


def foreign_host(worker: Mapping[str, Any]) -> str:
    """The host name in a claim if that is a different host; empty for this host, and for a claim without a host.

    The same boot id means the same kernel, whatever the host or container is called now, so the lock can be checked. Otherwise
    the claim is from this host, perhaps before a reboot, if both name and machine id match.
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
    """Whether the process in a claim is alive; used only for workers from earlier versions. False for a different boot."""
    if not _is_of_this_boot(worker):
        return False
    try:
        process = psutil.Process(int(worker["pid"]))
        ended = process.status() == psutil.STATUS_ZOMBIE
        return not ended and abs(process.create_time() - float(worker["started"])) <= START_SECONDS
    except (psutil.Error, KeyError, TypeError, ValueError, OverflowError):
        return False
