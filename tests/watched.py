"""Record the network accesses of child processes and their descendants: a hook in each interpreter writes them to a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

HOOK = """
import os, sys

PLACES = {{"socket.connect": 1, "socket.bind": 1, "socket.sendto": 1, "socket.sendmsg": 1, "socket.getaddrinfo": 0}}
PLACES |= {{"socket.gethostbyname": 0, "socket.gethostbyaddr": 0, "socket.getnameinfo": 0}}

def watch(event, arguments):
    if event in PLACES:
        target = arguments[PLACES[event]]
        host = target[0] if isinstance(target, tuple) else target
        with open({log!r}, "a") as log:
            log.write(f"{{event}} {{host}}\\n")

sys.addaudithook(watch)
"""


@contextmanager
def watched(folder: Path) -> Iterator[Path]:
    """Record the network accesses of processes started within this context.

    Yields the log file, with one line per access: the event and the host.
    """
    log = folder / "targets.txt"
    log.touch()
    (folder / "sitecustomize.py").write_text(HOOK.format(log=str(log)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        yield log


def outside(log: Path) -> list[str]:
    """Return the lines of a log whose hosts are not on this machine."""
    return [line for line in log.read_text().splitlines() if not _is_here(line.partition(" ")[2])]


def _is_here(host: str) -> bool:
    if host in ("localhost", "None", "") or host.startswith("/"):  # paths are Unix sockets
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
