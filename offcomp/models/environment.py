"""Record the versions and machine behind a measurement."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from functools import lru_cache
from typing import Any

from offcomp import __version__

COMPUTING = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy", "scikit-learn")
"""Packages that results depend on; runs with different versions of any of them count as different runs."""


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Package -> version for `COMPUTING`; cached, as versions cannot change while a process runs."""
    return {package: importlib.metadata.version(package) for package in COMPUTING}


def environment() -> dict[str, Any]:
    """Versions and machine, to be recorded with a measurement."""
    return {
        "offcomp": __version__,
        "python": platform.python_version(),
        **versions(),
        "datasets": importlib.metadata.version("datasets"),
        "device": "cpu",
        "threads": os.cpu_count(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
