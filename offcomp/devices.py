"""Choose the device that computes: OFFCOMP_DEVICE, or `--device`, is auto (the GPU if there is one), cpu or cuda.

A plan does not contain the device, as results agree within rounding; the result of a run records which one was used. Stored
tensors are always written from the CPU, where they are also decoded and compared with the originals. Imports torch only in
functions. The process that forks the workers must not call `computing_device`, since a fork cannot use CUDA if its parent has.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from offcomp.errors import InputError

if TYPE_CHECKING:
    import torch

DEVICE_VARIABLE = "OFFCOMP_DEVICE"
AUTO, CPU, CUDA = "auto", "cpu", "cuda"
DEVICES = (AUTO, CPU, CUDA)


def requested_device() -> str:
    """One of DEVICES, as OFFCOMP_DEVICE says; auto by default. Raises InputError if it says anything else."""
    name = os.environ.get(DEVICE_VARIABLE, "").strip() or AUTO
    if name not in DEVICES:
        raise InputError(f"{DEVICE_VARIABLE} is {name[:40]!r}; set it to {AUTO}, {CPU} or {CUDA}, or unset it")
    return name


def computing_device() -> torch.device:
    """The device on which to fit, train, calibrate and evaluate.

    Raises InputError if OFFCOMP_DEVICE is invalid, or if it is cuda and torch finds no GPU.
    """
    import torch

    name = requested_device()
    if name == CPU or (name == AUTO and not torch.cuda.is_available()):
        return torch.device(CPU)
    if not torch.cuda.is_available():
        build = "" if torch.version.cuda else f", since torch {torch.__version__} is built without CUDA"
        raise InputError(f"the device is {CUDA}, but torch finds no GPU{build}; use --device {CPU}, or {AUTO}")
    torch.backends.cudnn.allow_tf32 = False  # as for matrix products; TF32 has 10 bits of precision
    return torch.device(CUDA, torch.cuda.current_device())


def device_name(device: torch.device) -> str:
    """The name of a device for people and for run.json: "cpu", or "cuda" with the model of the GPU."""
    if device.type != CUDA:
        return device.type
    import torch

    return f"{CUDA} ({torch.cuda.get_device_name(device)})"


@contextmanager
def using_device(name: str | None) -> Iterator[None]:
    """Set OFFCOMP_DEVICE within the block, also for the processes started there; None leaves it as it is.

    Raises InputError as `computing_device` does, but looks for a GPU only if the device is cuda.
    """
    former = os.environ.get(DEVICE_VARIABLE)
    if name is not None:
        os.environ[DEVICE_VARIABLE] = name
    try:
        if requested_device() == CUDA:
            computing_device()
        yield
    finally:
        if name is not None and former is None:
            del os.environ[DEVICE_VARIABLE]
        elif name is not None and former is not None:
            os.environ[DEVICE_VARIABLE] = former
