"""Who works on a run: host, process and its start, as worker.json names them for people and for other hosts. No torch.

Whether a worker of this host lives is told by the lock that it holds (`offcomp.locks`), not by what is written here: process
ids are given again, and clocks are set. A claim of another host is never judged: from here nobody can tell.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

MACHINE, BOOT = Path("/etc/machine-id"), Path("/proc/sys/kernel/random/boot_id")
PROCESSES = Path("/proc/self/ns/pid")


@lru_cache(maxsize=1)
def this_host() -> dict[str, str]:
    """What tells hosts apart: name, machine and the space in which process ids count (containers have their own); and the boot.

    Empty where a system does not say it.
    """
    try:
        processes = str(PROCESSES.readlink())
    except OSError:
        processes = ""
    return {"host": socket.gethostname(), "machine": _text(MACHINE), "processes": processes, "boot": _text(BOOT)}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def claim(pid: int) -> dict[str, Any]:
    """What names a process for good: its host, its id and when it started."""
    try:
        started = psutil.Process(pid).create_time()
    except psutil.Error:
        started = 0.0
    return this_host() | {"pid": pid, "started": started}


def foreign_host(worker: Mapping[str, Any]) -> str:
    """The name of the host of a claim where that is not this one; empty also for a claim without a host."""
    here = this_host()
    if "host" not in worker or _rebooted(worker):
        return ""
    same = all(worker.get(name, here[name]) == here[name] for name in ("host", "machine", "processes"))
    return "" if same else str(worker["host"])


def _rebooted(worker: Mapping[str, Any]) -> bool:
    """Whether a claim is of this host before it was started the last time."""
    here = this_host()
    same = worker.get("host") == here["host"] and worker.get("machine") == here["machine"]
    return same and worker.get("boot", here["boot"]) != here["boot"]
