"""Tensors on disk: what is read is what was written."""

from __future__ import annotations

import resource

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from offcomp.errors import StorageError
from offcomp.numerics.spool import Spool


@st.composite
def views(draw: st.DrawFn) -> Tensor:
    """Tensors of up to four dimensions, laid out in any order, and some values apart or repeated."""
    sizes = draw(st.lists(st.integers(0, 4), max_size=4))
    order = draw(st.permutations(range(len(sizes))))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool]))
    tensor = torch.randn(sizes, generator=torch.Generator().manual_seed(0)).mul(9).to(dtype).permute(order)
    if tensor.ndim and draw(st.booleans()):
        tensor = tensor[..., ::2]
    return tensor.expand(3, *tensor.shape) if draw(st.booleans()) else tensor


@given(st.lists(views(), min_size=1, max_size=3))
def test_a_tensor_is_read_as_it_was_written_whatever_its_layout(tensors: list[Tensor]) -> None:
    spool = Spool()
    readers = [spool.put(tensor) for tensor in tensors]
    for _ in range(2):
        for tensor, read in reversed(list(zip(tensors, readers, strict=True))):
            assert read().dtype == tensor.dtype
            assert torch.equal(read(), tensor)


def test_a_turned_matrix_is_read_turned() -> None:
    matrix = torch.arange(6.0).view(2, 3)
    read = Spool().put(matrix.T)
    assert torch.equal(read(), matrix.T)
    assert read().T.is_contiguous()
    read().zero_()
    assert torch.equal(read(), matrix.T), "each reader has its own"


@pytest.mark.parametrize("limit", [0, 1000, 3996])
def test_a_disk_without_room_is_told_in_a_sentence(limit: int) -> None:
    spool, before = Spool(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(StorageError, match=r"no space for 4\.0 MB .* set TMPDIR"):
            spool.put(torch.zeros(1_000_000))
        with pytest.raises(StorageError, match=r"no space for 0\.0 MB"):
            spool.put(torch.zeros(1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_without_a_folder_for_temporary_files_the_sentence_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    with pytest.raises(StorageError, match="set TMPDIR"):
        Spool().put(torch.zeros(3))
