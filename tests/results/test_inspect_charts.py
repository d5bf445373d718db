"""Tables, sentences and charts of one matrix: they state its true figures, and matrices of any shape can be drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from offcomp.planning.marchenko_pastur import random_spectrum
from offcomp.planning.spectrum import MatrixSpectrum
from offcomp.results.charts.inspect import energy_figure, rows_figure, spectrum_figure
from offcomp.results.charts.reconstructions import cell_words, colour_limit, map_figure
from offcomp.results.charts.theme import PALETTES, Palette
from offcomp.results.inspect import (
    block_table,
    blocks_answer,
    break_even,
    median_table,
    percent,
    row_table,
    rows_answer,
    spectrum_answer,
    spectrum_table,
)
from tests.planning.test_matrix_view import SHAPES, made, written

BOTH = pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)


def table_of(matrix: torch.Tensor) -> pd.DataFrame:
    values = torch.linalg.svdvals(matrix.double()).numpy().astype(np.float32)
    return spectrum_table(MatrixSpectrum(*matrix.shape, values))


@pytest.mark.parametrize("shape", [(400, 400), (900, 300), (200, 1000)])
def test_the_random_spectrum_is_that_of_a_random_matrix(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    values = torch.linalg.svdvals(matrix).numpy()
    curve = random_spectrum(*shape, norm=float(matrix.norm()))
    assert np.square(curve).sum() == pytest.approx(np.square(values).sum())
    assert np.abs(curve - values).max() < 0.015 * values[0]


def test_the_random_spectrum_of_the_smallest_matrices() -> None:
    assert random_spectrum(1, 1, 2.0) == pytest.approx([2.0])
    assert random_spectrum(1, 50, 2.0) == pytest.approx([2.0])
    assert not random_spectrum(4, 3, 0.0).any()


def test_the_spectrum_table() -> None:
    table = table_of(torch.diag(torch.tensor([3.0, 4.0, 0.0])))
    assert table["rank"].tolist() == [1, 2, 3]
    assert table["energy_kept"].tolist() == pytest.approx([16 / 25, 1, 1])
    assert table["relative_error"].tolist() == pytest.approx([0.6, 0, 0])
    assert table["stored_parameters"].tolist() == [6, 12, 18]
    assert table["stored_fraction"].tolist() == pytest.approx([6 / 9, 12 / 9, 2])
    assert table["random_energy_kept"].iloc[-1] == pytest.approx(1)


def test_the_answer_says_what_is_kept_and_whether_anything_is_saved() -> None:
    table = table_of(torch.diag(torch.tensor([8.0, 6.0, 0.0, 0.0, 0.0])))
    assert spectrum_answer(table, "query.3", 1).startswith(
        "At rank 1 of 5, query.3 keeps 64 % of its energy and needs 40 % as many parameters. A random matrix"
    )
    assert "but needs 120 % as many parameters: from rank 3 on, nothing is saved." in spectrum_answer(table, "query.3", 3)
    assert "for a matrix this narrow, no rank" in spectrum_answer(table_of(torch.ones(1, 6)), "head", 1)
    assert spectrum_answer(table_of(torch.zeros(3, 3)), "x", 1) == "x contains only zeros, so every rank reproduces it exactly."


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0, "0 %"), (0.004, "0.4 %"), (0.00012, "0.012 %"), (0.714, "71 %"), (0.9953, "99.5 %"), (1, "100 %"), (1.2, "120 %")],
)
def test_per_cent_never_claims_all_or_nothing(fraction: float, text: str) -> None:
    assert percent(fraction) == text
    assert percent(1 - 1e-9) == "more than 99.9 %"


def test_break_even_is_where_two_factors_store_as_much() -> None:
    assert break_even(384, 384) == 192
    assert break_even(1536, 384) == pytest.approx(307.2)


def test_rows_of_zeros_are_left_out_and_counted(tmp_path: Path) -> None:
    matrix = made((300, 20))
    matrix[:30] = 0
    view = written(matrix, tmp_path / "view.npz")
    rows = row_table(view, view.picture(8))
    assert len(rows) == 270
    assert rows["row"].min() == 30
    assert rows["norm"].tolist() == pytest.approx(matrix[30:].norm(dim=1).tolist(), rel=1e-5)
    assert len(median_table(rows)) == 10
    assert "(all 300 rows, 30 all-zero rows left out)" in rows_answer(rows, view, "SVD at rank 8")
    nothing = written(torch.zeros(4, 3), tmp_path / "zeros.npz")
    assert (
        rows_answer(row_table(nothing, nothing.picture(1)), nothing, "SVD")
        == "Every row is zero, so none has a direction (all 4 rows)."
    )


def test_the_blocks_add_up_to_the_matrix_and_the_worst_are_named(tmp_path: Path) -> None:
    matrix = torch.zeros(6, 5)
    matrix[0, 0], matrix[4, 3], matrix[4, 1] = 4.0, 3.0, 0.0
    view = written(matrix, tmp_path / "view.npz")
    blocks = block_table(view, view.picture(1))
    for side in ("rows", "columns"):
        part = blocks[blocks["side"] == side]
        assert part["energy"].sum() == pytest.approx(25)
        assert part["residual"].sum() == pytest.approx(9)
    assert blocks_answer(blocks, "stored") == (
        "The residual contains 36 % of the energy; the largest losses are 100 % of row 4 and 100 % of column 3."
    )
    assert blocks_answer(block_table(view, view.picture(2)), "norm") == "The residual is zero: the matrix is kept in full."


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_shape_breaks_a_chart(shape: tuple[int, int], tmp_path: Path) -> None:
    matrix, palette = made(shape), PALETTES["light"]
    view, table = written(matrix, tmp_path / "view.npz", "norm"), table_of(matrix)
    for rank in {1, min(shape)}:
        picture, limit = view.picture(rank), colour_limit(view.spread)
        common = {"limit": limit, "shape": shape, "title": "x", "palette": palette}
        figure = map_figure(picture.residual, errors=True, **common)
        weights = map_figure(picture.reconstruction, **common)
        assert (figure.data[0].zmin, figure.data[0].zmax) == (0, limit)
        assert (weights.data[0].zmin, weights.data[0].zmax) == (-limit, limit)
        assert figure.data[0].z.shape == weights.data[0].z.shape == view.original.shape
        for chart in (figure, weights, spectrum_figure(table, rank, palette), energy_figure(table, rank, palette)):
            assert chart.layout.title.text
            assert np.isfinite([*chart.layout.xaxis.range, *chart.layout.yaxis.range]).all()
        assert rows_figure(row_table(view, picture), palette).data[0].x is not None


@BOTH
def test_zeros_can_be_drawn(palette: Palette, tmp_path: Path) -> None:
    view = written(torch.zeros(6, 5), tmp_path / "view.npz")
    assert colour_limit(view.original) == 1.0
    assert spectrum_figure(table_of(torch.zeros(6, 5)), 2, palette).layout.yaxis.type == "log"
    assert map_figure(view.original, limit=1.0, shape=(6, 5), title="Original", palette=palette)


def test_the_rank_is_a_line_and_what_saves_nothing_is_shaded() -> None:
    figure = spectrum_figure(table_of(made((40, 40))), 7, PALETTES["light"])
    shaded, line = figure.layout.shapes
    assert (shaded.x0, line.x0) == (20, 7)
    assert "rank 7" in [note.text for note in figure.layout.annotations]


def test_a_cell_says_how_many_weights_it_stands_for() -> None:
    assert cell_words((384, 384)) == "Each cell stands for 4 x 4 weights."
    assert cell_words((30_522, 384)) == "Each cell stands for about 318 x 4 weights."
    assert cell_words((20, 96)) == "Each cell is one weight."
