"""Where the files that come with offcomp lie: beside the package in a clone, inside it as `offcomp/app` in the wheel."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def app_folder() -> Path:
    """The folder of app.py, pages, .streamlit and assets."""
    installed = PACKAGE / "app"
    return installed if (installed / "app.py").is_file() else PACKAGE.parent


def assets_folder() -> Path:
    """The folder of the bundled models, runs, spectra, surveys and tasks."""
    return app_folder() / "assets"
