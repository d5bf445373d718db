"""Find, install and start the browser that the browser tests control: Chromium or Chrome.

`python -m tests.browser` prints its path; with `--install` (used by `make test`), Chromium is installed first if none is found.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC_APPS = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
LAUNCH_ARGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",  # other hosts do not resolve
)
REMEDY = (
    "The browser tests need Chromium or Chrome and found none; install one with the system's package manager or by "
    "`.venv/bin/python -m playwright install --with-deps chromium`, or set OFFCOMP_BROWSER to its path."
)


class BrowserError(Exception):
    """Raised if no browser can be found or installed; the message states the remedy."""


def find_browser() -> str:
    """Return the path of the browser: OFFCOMP_BROWSER if set, otherwise an installed browser, otherwise Playwright's own.

    Raises:
        BrowserError: if no browser is found, or if OFFCOMP_BROWSER is set to a file that does not start.
    """
    chosen = os.environ.get("OFFCOMP_BROWSER")
    if chosen:
        if _starts(chosen):
            return chosen
        raise BrowserError(f"OFFCOMP_BROWSER is '{chosen}', which does not start as a browser; correct it or unset it.")
    found = next((path for path in _candidates() if _starts(path)), None)
    if found is None:
        raise BrowserError(REMEDY)
    return found


def launch_options() -> dict[str, Any]:
    """Keyword arguments for Playwright's `chromium.launch`."""
    return {"executable_path": find_browser(), "args": list(LAUNCH_ARGS)}


def _candidates() -> Iterator[str]:
    yield from filter(None, map(shutil.which, NAMES))
    yield from MAC_APPS
    # In a separate process, because the caller may already be running Playwright.
    code = "from playwright.sync_api import sync_playwright as p\nwith p() as own: print(own.chromium.executable_path)"
    yield subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def _starts(path: str) -> bool:
    """Whether the file runs. Some distributions ship a `chromium-browser` that only tells the user to install a snap."""
    if not Path(path).is_file():
        return False
    return _succeeds([path, "--version"], timeout=60, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _succeeds(command: list[str], **options: Any) -> bool:
    try:
        return subprocess.run(command, check=False, **options).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _install_with_apt() -> None:
    """Install the distribution's Chromium if apt-get is available and may be run as root."""
    if shutil.which("apt-get") is None:
        return
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if as_root and not _succeeds([*as_root, "true"], stderr=subprocess.DEVNULL):
        return
    apt = [*as_root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    if _succeeds([*apt, "update"]):
        _succeeds([*apt, "install", "-y", "--no-install-recommends", "chromium"])


def _install_with_playwright() -> None:
    _succeeds([sys.executable, "-m", "playwright", "install", "chromium"])


def install_browser() -> str:
    """Return the path of the browser, after installing one if none is found. Raises BrowserError if that fails."""
    for install in (_install_with_apt, _install_with_playwright):
        try:
            return find_browser()
        except BrowserError:
            if os.environ.get("OFFCOMP_BROWSER"):
                raise
            install()
    return find_browser()


if __name__ == "__main__":
    try:
        print(install_browser() if "--install" in sys.argv[1:] else find_browser())  # noqa: T201
    except BrowserError as error:
        sys.exit(str(error))
