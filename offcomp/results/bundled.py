"""Bundled measurements, to compare before the first run of one's own. Each file is a copy of a run's `run.json`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from offcomp.files import assets_folder, read_json
from offcomp.planning.plan import Plan
from offcomp.runs.result import RunResult
from offcomp.runs.store import Run

FOLDER = assets_folder() / "runs"
FILES = ("minilm-l6-svd.json", "minilm-l6-autoencoder.json")


def bundled_runs(folder: Path = FOLDER) -> list[Run]:
    """Load all readable bundled measurements as finished runs."""
    return [run for file in FILES if (run := _read(folder / file)) is not None]


def origin(run: Run) -> str:
    """Returns "bundled" if the run ships with offcomp, and "yours" otherwise."""
    return "bundled" if run.folder == FOLDER else "yours"


def _read(path: Path) -> Run | None:
    document = read_json(path)
    if document is None:
        return None
    result = RunResult.from_json(document)
    started = datetime.fromisoformat(result.started).timestamp()
    return Run(result.id, path.parent, Plan.from_dict(result.plan), "done", started, result=result)
