"""What a measurement was made with: versions and machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

from offcomp import __version__

PACKAGES = ("torch", "transformers", "safetensors", "numpy", "scikit-learn", "datasets")


def environment() -> dict[str, Any]:
    """Versions and machine, for the record."""
    return {
        "offcomp": __version__,
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in PACKAGES},
        "device": "cpu",
        "threads": os.cpu_count(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
