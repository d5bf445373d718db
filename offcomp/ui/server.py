"""The app's server: Streamlit in this process, with what the first page needs loaded while the browser loads its own part."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from threading import Thread

from streamlit.web.cli import main as streamlit

AHEAD = ("offcomp.ui.frame", "offcomp.answers", "offcomp.bundled", "offcomp.ui.results")
"""What Start imports. It took .8 s of the first visit, of which a browser spends more on the scripts of the page."""
PRIVATE = (
    "--server.address=127.0.0.1",
    *("--server.allowedHosts=127.0.0.1", "--server.allowedHosts=localhost"),
    *("--server.headless=true", "--browser.gatherUsageStats=false"),
)
"""What keeps the app on this machine, as flags: they win over any settings file."""


def serve(script: Path, port: int) -> None:
    """Serve the app until it is stopped. Streamlit also reads the settings beside the script, wherever it was started."""
    Thread(target=_load_ahead, name="load ahead", daemon=True).start()
    sys.argv = ["streamlit", "run", str(script), *PRIVATE, f"--server.port={port}"]
    streamlit()


def _load_ahead() -> None:
    for name in AHEAD:
        importlib.import_module(name)
