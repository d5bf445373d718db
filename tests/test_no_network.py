"""The default test run connects to no other machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_socket import SocketConnectBlockedError

from tests.conftest import OFFLINE, PROXIES

DOCUMENTATION_ADDRESS = "192.0.2.1"  # reserved by RFC 5737: no machine has it

pytestmark = pytest.mark.filterwarnings("ignore:A test tried to use socket")


@pytest.mark.parametrize("host", [DOCUMENTATION_ADDRESS, "example.invalid"])
def test_connecting_elsewhere_is_blocked(host: str) -> None:
    with socket.socket() as connection, pytest.raises(SocketConnectBlockedError, match=host):
        connection.connect((host, 80))


def test_a_name_that_resolves_elsewhere_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (DOCUMENTATION_ADDRESS, 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_arguments, **_options: elsewhere)
    with pytest.raises(SocketConnectBlockedError, match=DOCUMENTATION_ADDRESS):
        socket.create_connection(("example.invalid", 80), timeout=1)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_is_allowed(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection((host, server.getsockname()[1]), timeout=5).close()


def test_hub_clients_are_offline_and_proxies_gone() -> None:
    assert {name: os.environ.get(name) for name in OFFLINE} == OFFLINE
    assert not [name for name in PROXIES if name in os.environ or name.lower() in os.environ]


def test_the_hub_client_of_a_child_process_is_offline() -> None:
    code = "from huggingface_hub import constants; print(constants.HF_HUB_OFFLINE)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "True"


def test_runs_go_to_a_temporary_folder(offcomp_home: Path, tmp_path: Path) -> None:
    assert Path(os.environ["OFFCOMP_HOME"]) == offcomp_home
    assert offcomp_home.parent == tmp_path.parent
