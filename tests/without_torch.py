"""`python -m tests.without_torch ARGUMENTS` runs offcomp's command line in a process that cannot import torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class NoTorch(MetaPathFinder):
    """Refuses to import torch and transformers."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Raise ImportError for torch."""
        if name.partition(".")[0] in ("torch", "transformers"):
            raise ImportError(f"{name} must not be imported in this process")
        return None


if __name__ == "__main__":
    sys.meta_path.insert(0, NoTorch())
    from offcomp.cli.main import main

    sys.exit(main(sys.argv[1:]))
