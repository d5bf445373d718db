"""Giving memory back changes nothing but memory, and is harmless where the C library cannot."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator

import pytest
import torch

from offcomp.numerics import memory as allocator
from offcomp.numerics.memory import give_back_free_memory, give_back_large_blocks_at_once


@pytest.fixture(autouse=True)
def _looked_up_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MKL_DISABLE_FAST_MM", "")  # so that what is set there goes with the test
    monkeypatch.delenv("MKL_DISABLE_FAST_MM")
    allocator._of_c_library.cache_clear()
    yield
    allocator._of_c_library.cache_clear()


def test_it_may_be_called_again_and_leaves_tensors_alone() -> None:
    kept = torch.arange(100_000)
    for _ in range(2):
        assert give_back_free_memory() is None
        assert give_back_large_blocks_at_once() is None
    assert torch.equal(kept, torch.arange(100_000))
    assert os.environ["MKL_DISABLE_FAST_MM"] == "1"


def test_a_setting_of_ones_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_DISABLE_FAST_MM", "0")
    give_back_large_blocks_at_once()
    assert os.environ["MKL_DISABLE_FAST_MM"] == "0"


@pytest.mark.parametrize("failure", [OSError, TypeError, AttributeError])
def test_without_such_a_call_it_does_nothing(failure: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(_name: str | None) -> None:
        raise failure

    monkeypatch.setattr(ctypes, "CDLL", unavailable)
    assert give_back_free_memory() is None
    assert give_back_large_blocks_at_once() is None
