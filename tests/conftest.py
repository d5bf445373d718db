"""The environment of all tests: no network except loopback, a separate data folder, one thread, shapes checked at run time.

pytest-socket (`addopts` in pyproject.toml) guards this process; the processes that tests start inherit the variables below.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Generator, Iterator
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

# This must precede the imports of hub clients, which read the variables once, and of offcomp.numerics, which the hook wraps.
os.environ.update(OFFLINE)
for name in PROXIES:
    os.environ.pop(name, None)
    os.environ.pop(name.lower(), None)
jaxtyping.install_import_hook("offcomp.numerics", "beartype.beartype")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that includes the tests marked `long`."""
    parser.addoption("--long", action="store_true", help="include the tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests marked `long`, unless they are asked for."""
    if not config.getoption("--long"):
        items[:] = [item for item in items if not item.get_closest_marker("long")]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the page showed to the report of a browser test that failed."""
    report = yield
    app = getattr(item, "funcargs", {}).get("app")
    if report.when == "call" and report.failed and hasattr(app, "state"):
        report.sections.append(("page", app.state()))
    return report


@pytest.fixture(scope="session", autouse=True)
def offcomp_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data folder of this test session, initially empty."""
    home = tmp_path_factory.mktemp("offcomp-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OFFCOMP_HOME", str(home))
        yield home


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Compute on one thread: the matrices are small, and threads that wait for each other are slow on a busy machine."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A function that returns the tiny model with this name, loaded from a folder once per test module."""
    from offcomp.models.loading import load
    from tests import tiny_models

    return functools.cache(lambda name: load(str(tiny_models.save(tiny_models.shared(name), tmp_path_factory.mktemp(name)))))


@pytest.fixture
def offcomp(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """A function that runs a command in this process with a separate home, and returns (exit status, stdout, stderr).

    The parser is created only once per test.
    """
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
    """One browser instance for all browser tests."""
    from playwright.sync_api import sync_playwright

    from tests.browser import launch_options

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(**launch_options())
        yield started
        started.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of the served app, initially empty."""
    return tmp_path_factory.mktemp("served") / "home"


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    """The address of the served app."""
    from tests.serving import served

    with served(home) as started:
        yield started


@pytest.fixture
def app(browser: Browser, address: str) -> Iterator[Visit]:
    """A new browser session in the app, which is checked at the end of the test."""
    from tests.serving import visit

    with visit(browser, address) as made:
        yield made
