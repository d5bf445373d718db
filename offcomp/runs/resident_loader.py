"""What a resident does before it forks: import what runs need and, once a run or a question needs it, load the model."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from offcomp.models.listing import known_info
from offcomp.runs.worker import NICE, is_small

if TYPE_CHECKING:
    from offcomp.models.loading import LoadedModel


class Loader(threading.Thread):
    """Imports what runs need, and loads the model unless it is too large to be kept.

    loads      whether to load the model
    threads    the number of threads that torch uses by default, if known
    """

    def __init__(self, home: Path, model: str, *, loads: bool = True, threads: int = 0):
        super().__init__(daemon=True)
        self._home, self._model = home, model
        self.loads, self.threads = loads, threads
        self.loaded: LoadedModel | None = None

    def run(self) -> None:
        """Load. Errors are ignored here, since each run will encounter and report them."""
        os.nice(NICE)  # on Linux, this affects only this thread
        try:
            self._load()
        except Exception:  # noqa: BLE001  # for example, the files are damaged or memory is short
            self.loaded = None

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has exited completely.

        MKL holds locks while a thread exits. A process forked at that moment would wait for them forever.
        """
        super().join(timeout)
        thread = Path(f"/proc/self/task/{self.native_id}")
        while not self.is_alive() and thread.exists():
            time.sleep(0.001)

    def _load(self) -> None:
        import torch

        self.threads = self.threads or torch.get_num_threads()
        torch.set_num_threads(1)

        import datasets  # noqa: F401
        import sklearn.linear_model  # noqa: F401

        import offcomp.evaluation
        import offcomp.models.offloading
        import offcomp.runs.calibration
        import offcomp.runs.compress_groups
        import offcomp.runs.live_answers  # noqa: F401
        from offcomp.models.loading import load

        info = known_info(self._model, self._home) if self.loads else None
        if info is not None and is_small(info):
            self.loaded = load(self._model, held=True)
