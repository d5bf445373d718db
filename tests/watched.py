"""Every address that a process and its children ask for over the network: a hook in the interpreter writes them to a file."""

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
    """Processes that are started inside write what they ask for to the file that this yields, an event and a host a line."""
    log = folder / "targets.txt"
    log.touch()
    (folder / "sitecustomize.py").write_text(HOOK.format(log=str(log)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        yield log


def outside(log: Path) -> list[str]:
    """The lines of those that are not on this machine."""
    return [line for line in log.read_text().splitlines() if not _is_here(line.partition(" ")[2])]


def _is_here(host: str) -> bool:
    if host in ("localhost", "None", "") or host.startswith("/"):  # the last are sockets in the file system
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
