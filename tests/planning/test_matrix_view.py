"""The figures in the file of a view equal those of the matrix itself, at every rank and in both orders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from offcomp.errors import InputError
from offcomp.models.listing import model_info
from offcomp.planning.matrix_view import (
    MAX_CELLS,
    MAX_ROWS,
    ORDERS,
    View,
    block_starts,
    read_view,
    save_view,
    view_path,
    weights_in_a_cell,
)
from offcomp.planning.matrix_view_fit import LARGEST_SIDE, known_ranks, view_arrays
from tests import tiny_models
from tests.cli.test_main import Command

SHAPES = [(300, 140), (140, 300), (2500, 6), (20, 20), (1, 30), (30, 1), (1, 1)]


def made(shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """A matrix with a decaying spectrum and rows of very different norms."""
    generator = torch.Generator().manual_seed(seed)
    rows, cols = shape
    scales = torch.logspace(0, -2, min(shape), dtype=torch.float64)
    left = torch.randn(rows, min(shape), generator=generator, dtype=torch.float64)
    matrix = left * scales @ torch.randn(min(shape), cols, generator=generator, dtype=torch.float64)
    return (matrix * torch.rand(rows, 1, generator=generator, dtype=torch.float64)).float()


def written(matrix: torch.Tensor, path: Path, order: str = "stored") -> View:
    shape = (matrix.shape[0], matrix.shape[1])
    save_view(path, shape, view_arrays(matrix))
    view = read_view(path, shape, order)
    assert view is not None
    return view


def averaged(matrix: np.ndarray) -> np.ndarray:
    """Reference implementation of the means of blocks."""
    tall = np.stack([rows.mean(0) for rows in np.split(matrix, block_starts(len(matrix))[1:-1])])
    return np.stack([cols.mean(1) for cols in np.split(tall, block_starts(matrix.shape[1])[1:-1], axis=1)], axis=1)


def in_order(matrix: np.ndarray, order: str) -> tuple[np.ndarray, np.ndarray]:
    """The indices that sort the rows and the columns."""
    if order == "stored":
        return np.arange(matrix.shape[0]), np.arange(matrix.shape[1])
    return tuple(np.argsort(-np.linalg.norm(matrix, axis=1 - axis), kind="stable") for axis in (0, 1))  # type: ignore[return-value]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_maps_and_energies_are_those_of_a_direct_svd(shape: tuple[int, int], order: str, tmp_path: Path) -> None:
    matrix = made(shape)
    view, exact = written(matrix, tmp_path / "view.npz", order), matrix.double().numpy()
    left, values, right = np.linalg.svd(exact, full_matrices=False)
    assert view.values == pytest.approx(values, rel=1e-4, abs=1e-6 * values[0])
    rows, cols = in_order(exact, order)
    scale = np.abs(averaged(exact[rows][:, cols])).max()
    for rank in {1, max(1, min(shape) // 3), min(shape)}:
        low = (left[:, :rank] * values[:rank]) @ right[:rank]
        found = view.picture(rank)
        assert view.original == pytest.approx(averaged(exact[rows][:, cols]), abs=1e-4 * scale)
        assert found.reconstruction == pytest.approx(averaged(low[rows][:, cols]), abs=1e-4 * scale)
        residual = np.square(exact - low)[rows][:, cols]
        for axis, energy in ((1, found.rows_lost), (0, found.columns_lost)):
            blocks = np.add.reduceat(residual.sum(axis), block_starts(shape[1 - axis])[:-1])
            assert energy == pytest.approx(blocks, rel=1e-4, abs=1e-9 * exact.size * np.square(exact).max())
            assert energy.sum() == pytest.approx(np.square(values[rank:]).sum(), rel=1e-4, abs=1e-6)
        assert found.lost == pytest.approx(residual.sum() / np.square(exact).sum(), rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_residual_of_each_cell_is_exact_at_known_ranks_and_adds_up_at_all(
    shape: tuple[int, int], order: str, tmp_path: Path
) -> None:
    matrix = made(shape)
    view, exact = written(matrix, tmp_path / "view.npz", order), matrix.double().numpy()
    left, values, right = np.linalg.svd(exact, full_matrices=False)
    rows, cols = in_order(exact, order)
    sizes = [np.diff(block_starts(length)) for length in shape]
    scale = np.sqrt(np.square(exact).mean())
    for rank in {1, 2, 7, 15, 17, min(shape)} & {*range(1, min(shape) + 1)}:
        residual = np.square(exact - (left[:, :rank] * values[:rank]) @ right[:rank])[rows][:, cols]
        found = view.picture(rank).residual
        total = (np.square(found, dtype=np.float64) * np.outer(*sizes)).sum()
        assert total == pytest.approx(residual.sum(), rel=5e-3, abs=1e-9 * exact.size * scale**2)
        if rank in view.ranks or max(shape) <= MAX_CELLS:
            assert found == pytest.approx(np.sqrt(averaged(residual)), abs=2e-3 * scale)
    assert view.spread == pytest.approx(np.sqrt(averaged(np.square(exact)[rows][:, cols])), rel=2e-3, abs=1e-6)


def test_known_ranks_reach_from_nothing_to_everything() -> None:
    assert known_ranks(1).tolist() == [0, 1]
    assert known_ranks(384)[[0, 1, -1]].tolist() == [0, 1, 384]
    assert (np.diff(known_ranks(384)) > 0).all() and len(known_ranks(384)) < 30


def test_cosines_of_rows_are_those_of_a_direct_svd(tmp_path: Path) -> None:
    for shape in ((60, 20), (20, 60)):
        matrix = made(shape)
        matrix[3] = 0
        view, exact = written(matrix, tmp_path / "view.npz"), matrix.double().numpy()
        left, values, right = np.linalg.svd(exact, full_matrices=False)
        assert list(view.sampled) == list(range(shape[0]))
        assert view.norms == pytest.approx(np.linalg.norm(exact, axis=1), rel=1e-5)
        for rank in (1, 7, 20):
            low = (left[:, :rank] * values[:rank]) @ right[:rank]
            with np.errstate(invalid="ignore"):
                cosines = (low * exact).sum(1) / np.linalg.norm(low, axis=1) / np.linalg.norm(exact, axis=1)
            assert np.isnan(view.picture(rank).cosines[3])
            assert np.delete(view.picture(rank).cosines, 3) == pytest.approx(np.delete(cosines, 3), abs=2e-3)


def test_many_rows_are_sampled_evenly_and_the_file_stays_small(tmp_path: Path) -> None:
    view = written(made((30_522, 48)), tmp_path / "view.npz")
    assert len(view.sampled) == MAX_ROWS
    assert (view.sampled[0], view.sampled[-1]) == (0, 30_521)
    assert set(np.diff(view.sampled)) <= {15, 16}
    assert view.original.shape == (MAX_CELLS, 48)
    assert (tmp_path / "view.npz").stat().st_size < 1e6
    assert (weights_in_a_cell(30_522), weights_in_a_cell(384), weights_in_a_cell(48)) == ("about 318", "4", "1")


def test_zeros_give_zeros(tmp_path: Path) -> None:
    view = written(torch.zeros(5, 4), tmp_path / "view.npz")
    assert not view.values.any()
    assert not view.picture(2).residual.any()
    assert np.isnan(view.picture(2).cosines).all()


def test_a_matrix_too_large_is_refused() -> None:
    with pytest.raises(InputError, match="smaller side"):
        view_arrays(torch.empty(LARGEST_SIDE + 1, LARGEST_SIDE + 1, device="meta"))


@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_a_damaged_file_is_no_view(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "view.npz"
    if content is None:
        save_view(path, (5, 4), view_arrays(torch.ones(5, 4)))
        path.write_bytes(path.read_bytes()[:900])
    else:
        path.write_bytes(content)
    assert read_view(path, (5, 4)) is None
    assert read_view(tmp_path / "none.npz", (5, 4)) is None


def test_a_file_of_another_shape_is_no_view(tmp_path: Path) -> None:
    written(torch.ones(5, 4), tmp_path / "view.npz")
    assert read_view(tmp_path / "view.npz", (4, 5)) is None


def test_the_command_line_answers_and_keeps_the_file(offcomp: Command, tmp_path: Path) -> None:
    folder = str(tiny_models.save(tiny_models.gpt2(), tmp_path / "gpt2"))
    document = json.loads(offcomp("inspect", folder, "key.1", "--rank", "4", "--json")[1])
    info = model_info(folder, tmp_path / "home")
    spec = info.module("key.1")
    assert (document["rows"], document["cols"], document["rank"]) == (*spec.shape, 4)
    assert document["answer"].startswith(f"At rank 4 of {min(spec.shape)}, key.1 keeps ")
    view = read_view(view_path(info, spec, tmp_path / "home"), spec.shape)
    assert view is not None
    assert document["file"] == str(view_path(info, spec, tmp_path / "home"))
    weight = tiny_models.gpt2().get_parameter(spec.path).detach().T[spec.start : spec.start + spec.rows]
    assert view.original == pytest.approx(weight.numpy(), abs=1e-7)
    assert "stored_parameters" in offcomp("inspect", folder, "key.1")[1]


@pytest.mark.parametrize(
    ("module", "rank", "reason"),
    [
        ("key.9", "1", "has no module 'key.9'"),
        ("key.1", "99", "--rank must be between 1 and"),
        ("ln_f", "1", "has no module 'ln_f'"),
    ],
)
def test_what_cannot_be_inspected_is_one_sentence(
    offcomp: Command, tmp_path: Path, module: str, rank: str, reason: str
) -> None:
    folder = str(tiny_models.save(tiny_models.gpt2(), tmp_path / "gpt2", tokenizer=False))
    status, out, err = offcomp("inspect", folder, module, "--rank", rank)
    assert (status, out) == (2, "")
    assert reason in err


def test_weights_that_are_not_finite_are_named(offcomp: Command, tmp_path: Path) -> None:
    model = tiny_models.bert()
    model.get_parameter("bert.encoder.layer.1.attention.self.key.weight")[0, :2] = torch.nan
    folder = str(tiny_models.save(model, tmp_path / "bert"))
    assert offcomp("inspect", folder, "query.0")[0] == 0
    status, _, err = offcomp("inspect", folder, "key.1")
    assert status == 2
    assert "key.weight' has 2 values that are NaN or infinite" in err
