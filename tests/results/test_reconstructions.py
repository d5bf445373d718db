"""Reconstructions side by side: the sentence, sizes, which run is shown, tables; and what runs measured about groups."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from offcomp.models.catalogue import ModuleSpec
from offcomp.planning.matrix_view import Picture, View
from offcomp.results.known_errors import Measured
from offcomp.results.other_methods import grouping_answer, grouping_table
from offcomp.results.reconstructions import (
    Reconstruction,
    Stored,
    figure_table,
    medians_by_method,
    nearest,
    other_sizes,
    reconstructions_answer,
    row_words,
    signed_percent,
    size_words,
    stored_by,
    worst_rows,
)
from offcomp.runs.live_matrices import pictures_of
from offcomp.runs.result import overall_error
from tests.made_runs import made_group, made_run, with_result
from tests.planning.test_matrix_view import made, written


def picture(lost: float) -> Picture:
    none = np.zeros((1, 1), np.float32)
    return Picture(none, none, none[0], none[0], np.array([0.5, np.nan, 0.7]), np.array([0.9, np.nan, 0.8]), lost)


def found(style_key: str, lost: float, ratio: float = 4.0, size: str = "") -> Reconstruction:
    return Reconstruction(style_key, size, ratio, picture(lost))


def test_the_answer_ranks_the_methods_at_equal_bytes() -> None:
    every = [found("svd", 0.31), found("codebook", 0.12, 4.1), found("autoencoder", 1.04)]
    assert reconstructions_answer(every, "query.3") == (
        "At 4.0x fewer bytes, the codebook autoencoder loses 12 % of the energy of query.3, SVD 31 % and the autoencoder "
        "104 %. More than 100 % is worse than storing zeros."
    )
    assert reconstructions_answer([found("svd", 0.31), found("pruning", 0.4, 6.0)], "x") == (
        "At 4.0x to 6.0x fewer bytes, SVD loses 31 % of the energy of x and Pruning 40 %."
    )


def test_sizes_and_rows_in_words() -> None:
    assert size_words(found("svd", 0.1, 3.0, "rank 64")) == "rank 64, 3.0x fewer bytes"
    assert size_words(found("svd", 0.1, 0.5)) == "2.0x more bytes"
    assert row_words(found("svd", 0.1)) == "Rows: median cosine 0.600, norm -15 %."
    assert [signed_percent(x) for x in (-0.214, 0.003, 2e-9, -2e-4)] == ["-21 %", "+0.3 %", "±0 %", "±0 %"]
    table = figure_table([found("svd", 0.25)])
    assert table.loc[0, ["relative_error", "median_cosine", "median_norm_error"]].tolist() == pytest.approx([0.5, 0.6, -0.15])


def stored(ratio: float, name: str = "run", modules: tuple[str, ...] = ("query.0",)) -> Stored:
    run = made_run(name, [made_group("query", 0.3, byte_ratio=ratio, modules=list(modules))])
    assert run.result
    return Stored(run, run.result.groups[0])


def test_the_nearest_size_is_shown_and_only_if_it_is_about_equal() -> None:
    several = [stored(3.0), stored(4.1), stored(4.0, modules=("query.0", "query.1")), stored(4.2, "preferred")]
    assert nearest(several, 4.0) is several[1]
    assert nearest(several, 4.0, "preferred") is several[3]
    assert nearest(several, 3.5) is None
    assert nearest([], 4.0) is None
    assert other_sizes(several) == [3.0, 4.0]


def test_only_finished_runs_of_this_model_with_tensors_are_found(tmp_path: Path) -> None:
    spec = ModuleSpec("query.0", "query", 0, "", "x", 10, 4)
    info: Any = SimpleNamespace(reads="files")
    group = made_group("query", 0.3)
    run = replace(with_result(made_run("a", [group]), model={"reads": "files"}), folder=tmp_path)
    assert stored_by([run], info, spec, "svd") == []
    run.group_file("query").parent.mkdir()
    run.group_file("query").touch()
    assert [each.run.id for each in stored_by([run], info, spec, "svd")] == ["a"]
    assert stored_by([run], info, spec, "codebook") == []
    assert stored_by([run], SimpleNamespace(reads="other files"), spec, "svd") == []  # type: ignore[arg-type]
    assert stored_by([run], info, replace(spec, name="query.1"), "svd") == []
    assert stored_by([replace(run, status="failed")], info, spec, "svd") == []


def test_medians_and_worst_rows_are_those_of_the_reconstructions(tmp_path: Path) -> None:
    matrix = made((40, 12))
    view: View = written(matrix, tmp_path / "view.npz")
    turned = matrix.clone()
    turned[7] = -turned[7]
    turned[9] *= 2
    methods = [
        Reconstruction("svd", "rank 12", 1.0, view.picture(12)),
        Reconstruction("codebook", "", 1.0, pictures_of(matrix, turned)["stored"]),
    ]
    worst = worst_rows(view, methods)
    assert list(worst.columns) == ["SVD", "Autoencoder, codebook"]
    assert worst["Autoencoder, codebook"].iloc[0] == "row 7: -1.00"
    medians = medians_by_method(view, methods)
    assert medians.groupby("style_key").size().to_dict() == {"codebook": 10, "svd": 10}
    assert medians["cosine"].min() > 0.99
    zero = worst_rows(written(torch.zeros(3, 2), tmp_path / "zero.npz"), [])
    assert zero.empty


def measured(name: str, style: dict[str, Any], *modules: tuple[str, ...], ratio: float = 2.0, error: float = 0.5) -> Measured:
    """A run that compresses each tuple of modules as one group."""
    groups = [
        made_group(f"g{index}", error, modules=list(names), parameter_ratio=ratio, num_parameters=round(40 / ratio), **style)
        for index, names in enumerate(modules)
    ]
    run = made_run(name, groups)
    assert run.result
    return Measured(run, overall_error(run.result.groups))


def test_what_runs_measured_about_groups_is_found_also_in_larger_runs() -> None:
    survey: Any = SimpleNamespace(modules=("key.0", "key.1"), ratio=2.0)
    codebook = {"method": "autoencoder", "options": {"preset": "codebook"}}
    runs = [
        measured("apart", codebook, ("key.0",), ("key.1",), ("value.0",), error=0.4),
        measured("joint", codebook, ("key.0", "key.1"), error=0.3),
        measured("svd", {"method": "svd"}, ("key.0", "key.1")),
        measured("mixed", codebook, ("key.0", "key.1", "value.0"), error=0.1),
        measured("half", {"method": "pruning"}, ("key.0",)),
    ]
    table = grouping_table(runs, survey)
    assert table[["grouping", "run"]].to_numpy().tolist() == [["one group by rows", "joint"], ["separately", "apart"]]
    assert grouping_answer(table, survey) == (
        "Autoencoder, codebook: relative error 0.400 separately, 0.300 in one group by rows (measured at about 2x)."
    )
    survey.ratio = 3.0
    assert grouping_answer(grouping_table(runs, survey), survey).startswith(
        "No finished run compresses exactly these modules with another method at about 3x."
    )
