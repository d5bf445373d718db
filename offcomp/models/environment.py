"""Record the package versions and the machine used for a measurement."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from functools import lru_cache
from typing import Any

from offcomp import __version__

COMPUTING = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy", "scikit-learn")
"""Packages that affect results; runs with different versions of these packages are treated as distinct."""


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Installed version of each package in `COMPUTING`; cached because versions cannot change within a process."""
    return {package: importlib.metadata.version(package) for package in COMPUTING}


def environment() -> dict[str, Any]:
    """Package versions and machine details to record with a measurement."""
    return {
        "offcomp": __version__,
        "python": platform.python_version(),
        **versions(),
        "datasets": importlib.metadata.version("datasets"),
        "device": "cpu",
        "threads": os.cpu_count(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
