"""What holds for every test: no network but loopback, a data folder of its own, one thread, shapes checked at run time.

pytest-socket (`addopts` in pyproject.toml) guards this process; the variables below are inherited by the processes
that tests start.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jaxtyping
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.serving import Visit
    from tests.tiny_models import Tiny

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "NO_PROXY": "*",
    "no_proxy": "*",
}
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY")

pytest.register_assert_rewrite("tests.method_contract", "tests.drawn")

# Before anything imports a hub client or offcomp.numerics: both look once, when imported.
os.environ.update(OFFLINE)
for name in PROXIES:
    os.environ.pop(name, None)
    os.environ.pop(name.lower(), None)
jaxtyping.install_import_hook("offcomp.numerics", "beartype.beartype")


@pytest.fixture(scope="session", autouse=True)
def offcomp_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data folder of this session, empty at its start."""
    home = tmp_path_factory.mktemp("offcomp-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OFFCOMP_HOME", str(home))
        yield home


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small matrices on one thread: beside other processes, threads that wait for each other are far slower."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A tiny model as it is loaded from a folder."""
    from offcomp.models.loading import load
    from tests import tiny_models

    return functools.cache(lambda name: load(str(tiny_models.save(tiny_models.shared(name), tmp_path_factory.mktemp(name)))))


@pytest.fixture
def offcomp(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process, in a home of its own: (exit status, stdout, stderr). Its parser is made once."""
    from offcomp.cli import main as cli

    monkeypatch.setenv("OFFCOMP_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cli, "parser", functools.cache(cli.parser))

    def command(*arguments: str) -> tuple[int, str, str]:
        try:
            cli.main(arguments)
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, once for all tests that drive it."""
    from playwright.sync_api import sync_playwright

    from tests.browser import launch_options

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(**launch_options())
        yield started
        started.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of the served app, empty at first."""
    return tmp_path_factory.mktemp("served") / "home"


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    """Where the app answers."""
    from tests.serving import served

    with served(home) as started:
        yield started


@pytest.fixture
def app(browser: Browser, address: str) -> Iterator[Visit]:
    """A fresh session in the browser."""
    from tests.serving import visit

    with visit(browser, address) as made:
        yield made
