"""Whole numbers survive packing into bytes and unpacking."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offcomp.numerics import bits as packing
from offcomp.numerics.accounting import Codes
from offcomp.numerics.bits import pack_bits, unpack_bits


@settings(max_examples=60, deadline=None, derandomize=True)
@given(bits=st.integers(1, 16), count=st.integers(0, 200), seed=st.integers(0, 1000))
def test_unpacking_gives_back_what_was_packed_in_the_bytes_that_were_counted(bits: int, count: int, seed: int) -> None:
    values = torch.randint(0, 2**bits, (count,), generator=torch.Generator().manual_seed(seed))
    packed = pack_bits(values, bits)
    assert packed.shape == Codes(count, bits).shape
    assert torch.equal(unpack_bits(packed, bits, count), values)


@pytest.mark.parametrize("bits", [3, 8, 11])
def test_chunks_join_without_a_gap(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randint(0, 2**bits, (1000,), generator=torch.Generator().manual_seed(0))
    whole = pack_bits(values, bits)
    monkeypatch.setattr(packing, "CHUNK", 64)
    assert torch.equal(pack_bits(values, bits), whole)
    assert torch.equal(unpack_bits(whole, bits, 1000), values)


def test_the_first_number_fills_the_lowest_bits() -> None:
    assert pack_bits(torch.tensor([1, 2, 3]), 4).tolist() == [0x21, 0x03]
