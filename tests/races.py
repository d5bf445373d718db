"""Make races of a tiny model without a worker process: both runs are compressed here and put into a home."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from offcomp.models.catalogue import ModelInfo
from offcomp.models.listing import model_info
from offcomp.models.loading import LoadedModel
from offcomp.planning.plan import Group, Plan
from offcomp.planning.sizes import resolved
from offcomp.results.race import race_plans
from offcomp.runs.compress import CompressedGroup, compress_group
from offcomp.runs.frame_writer import FrameWriter
from offcomp.runs.frames import FRAMES
from offcomp.runs.inputs import inputs_of, run_id
from tests.made_runs import made_run, put_in_home

MODULE, RATIO = "key.0", 2.0


def recorded(folder: Path, loaded: LoadedModel, group: Group) -> CompressedGroup:
    """Compress a group, and write its frames to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with FrameWriter(folder, loaded.model, loaded.info, group, lambda _done: None) as frames:
        compressed = compress_group(loaded.model, loaded.info, group, report=frames.report)
        frames.finish(compressed)
    return compressed


def made_race(home: Path, loaded: LoadedModel, *, epochs: int = 6, module: str = MODULE, **scores: dict[str, Any]) -> str:
    """Put a finished race into a home, and return its key. `scores`: style key -> the score on sentiment."""
    info = model_info(loaded.info.model, home)
    names = []
    for name, plan in tiny_plans(info, module, epochs).items():
        (group,) = plan.groups
        ident = run_id(resolved(plan, info), inputs_of(plan, info.reads))
        compressed = recorded(home.parent / ident, loaded, group)
        made = made_run(ident, [compressed.figures.to_dict() | {"ratio": group.ratio}], scores.get(name), model=info.model)
        assert made.result
        shutil.rmtree(home / "runs" / ident, ignore_errors=True)
        names.append(put_in_home(home, made.result.to_dict(), ident, submitted=1.0, plan=plan.to_dict()))
        shutil.move(home.parent / ident / FRAMES, home / "runs" / ident)
    return ",".join(names)


def tiny_plans(info: ModelInfo, module: str, epochs: int) -> dict[str, Plan]:
    """The plans of a short race, by style key."""
    plans = race_plans(info, module, RATIO)
    (group,) = plans["autoencoder"].groups
    short = group if epochs == 30 else group.replace(options={"epochs": epochs})
    return plans | {"autoencoder": plans["autoencoder"].replace(groups=(short,))}
