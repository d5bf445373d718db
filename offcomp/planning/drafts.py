"""Placeholder until merged."""

from __future__ import annotations

from dataclasses import dataclass

from offcomp.models.catalogue import ModelInfo
from offcomp.planning.data.tasks import usual_tasks


@dataclass(frozen=True)
class Draft:
    kinds: tuple[str, ...]
    grouping: str
    methods: tuple[str, ...]
    ratio: float
    tasks: tuple[str, ...]


def first_draft(info: ModelInfo) -> Draft:
    return Draft(("query", "key"), "kind", ("svd", "autoencoder"), 3.0, usual_tasks(info.architecture, info.reads_text)[:1])
