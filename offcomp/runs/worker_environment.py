"""The environment variables of every process that works on runs. Does not import torch."""

from __future__ import annotations

import os

PARENT_VARIABLE, LOCK_VARIABLE = "OFFCOMP_PARENT", "OFFCOMP_LOCK"
PATIENT_THREADS = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
"""Settings that prevent threads from spin-waiting, which slows a worker down a hundredfold while another process is busy."""
RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MKL_DISABLE_FAST_MM": "1"}
"""Settings that return freed blocks of 1 MB or more to the system instead of caching blocks of up to 32 MB (also in MKL)."""
OFFLINE = {"HF_HUB_OFFLINE": "1"}


def worker_environment() -> dict[str, str]:
    """The environment of a worker that this process starts; the user's own thread and memory settings take precedence.

    The worker compares OFFCOMP_PARENT with its parent process id and exits when the parent does, so it is never orphaned.
    """
    return PATIENT_THREADS | RETURN_MEMORY | os.environ | OFFLINE | {PARENT_VARIABLE: str(os.getpid())}


def parent_is_gone() -> bool:
    """Whether the process that started this worker has exited."""
    parent = int(os.environ.get(PARENT_VARIABLE, "0"))
    return bool(parent) and os.getppid() != parent
