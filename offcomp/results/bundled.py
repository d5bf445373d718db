"""Measurements that ship with offcomp, so that a first visit shows real results. Each file is a copy of a `run.json`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from offcomp.files import assets_folder, read_json
from offcomp.planning.plan import Plan
from offcomp.runs.store import Run

FOLDER = assets_folder() / "runs"
FILES = ("minilm-l6-svd.json", "minilm-l6-autoencoder.json")


def bundled_runs(folder: Path = FOLDER) -> list[Run]:
    """Load the bundled measurements that can be read, as finished runs."""
    return [run for file in FILES if (run := _read(folder / file)) is not None]


def origin(run: Run) -> str:
    """ "bundled" if the run ships with offcomp, else "yours"."""
    return "bundled" if run.folder == FOLDER else "yours"


def missing_files(folder: Path = FOLDER) -> list[str]:
    """Names of the bundled measurements that are missing or unreadable."""
    return [file for file in FILES if _read(folder / file) is None]


def _read(path: Path) -> Run | None:
    result = read_json(path)
    if result is None:
        return None
    started = datetime.fromisoformat(result["started"]).timestamp()
    return Run(result["id"], path.parent, Plan.from_dict(result["plan"]), "done", started, {}, result)
