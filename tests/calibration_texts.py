"""Texts and helper functions for the calibration tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from offcomp.models.catalogue import ModuleSpec
from offcomp.models.loading import LoadedModel
from offcomp.runs.calibration import Calibration, GroupHints

TEXTS = ["w2 w3 w4 w5 w6 w7 w8 w9", "w9 w8", "w10 w11 w12 w13 w14", "w5 w5 w5", "w20 w21 w22 w23", "w30 w31"]
PLENTY = 1 << 26
"""A cache size in bytes that is sufficient for the statistics of any tiny model."""


def spec_of(loaded: LoadedModel, name: str) -> ModuleSpec:
    return loaded.info.module(name)


def calibrate(loaded: LoadedModel, texts: Sequence[str], specs: Sequence[ModuleSpec], stack: str, **options: Any) -> GroupHints:
    return GroupHints(Calibration(loaded, texts, **options), specs, stack)
