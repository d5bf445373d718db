"""Who works on a run: host, process and its start, as worker.json names them for people and for other hosts. No torch.

Whether a worker of this host lives is told by the lock that it holds (`offcomp.locks`), not by what is written here: process
ids are given again, and clocks are set. Only one of an earlier version, which has no lock, goes by its process. A claim of
another host is never judged: from here nobody can tell.
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
"""The start of a process as two looks tell it differs by no more, where no clock was set."""


@lru_cache(maxsize=1)
def this_host() -> dict[str, str]:
    """What tells hosts apart: name, machine and the boot, which containers on one kernel share.

    Empty where a system does not say it.
    """
    return {"host": socket.gethostname(), "machine": _text(MACHINE), "boot": _text(BOOT)}


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
    """The name of the host of a claim where that is not this one; empty also for a claim without a host.

    The same boot is the same kernel, whatever host and container are called now: there the lock tells. Else it is this host,
    perhaps started anew, where name and machine are the same.
    """
    here = this_host()
    if "host" not in worker or _is_of_this_boot(worker):
        return ""
    same = all(worker.get(name, here[name]) == here[name] for name in ("host", "machine"))
    return "" if same else str(worker["host"])


def _is_of_this_boot(worker: Mapping[str, Any]) -> bool:
    boot = this_host()["boot"]
    return bool(boot) and worker.get("boot") == boot


def is_alive(worker: Mapping[str, Any]) -> bool:
    """Whether the process of a claim lives: all there is of a worker of an earlier version. False unless it names this boot."""
    if not _is_of_this_boot(worker):
        return False
    try:
        process = psutil.Process(int(worker["pid"]))
        ended = process.status() == psutil.STATUS_ZOMBIE
        return not ended and abs(process.create_time() - float(worker["started"])) <= START_SECONDS
    except (psutil.Error, KeyError, TypeError, ValueError, OverflowError):
        return False
