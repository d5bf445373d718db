"""The metadata of the bundled MiniLM, which is available without its weights."""

from __future__ import annotations

from offcomp.models.catalogue import ModelInfo
from offcomp.models.sources import bundled_info


def minilm_info() -> ModelInfo:
    found = bundled_info("minilm-l6")
    assert found is not None
    return found
