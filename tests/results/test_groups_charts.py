"""Groups: tables, tree, sentences and figures of a made-up survey; bundled surveys; surveys saved in a home."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from offcomp.errors import InputError
from offcomp.files import home_folder
from offcomp.planning.merge_survey import (
    BUNDLED,
    Merge,
    Suggestion,
    Survey,
    best_cut,
    estimated_seconds,
    find_survey,
    save_survey,
    sorted_modules,
)
from offcomp.results.charts.groups import pair_figure, tree_figure
from offcomp.results.charts.theme import PALETTES, Palette
from offcomp.results.groups import (
    cut_answer,
    exported,
    group_words,
    groups_at,
    merge_table,
    module_words,
    pair_table,
    provenance,
    survey_answer,
    tree_table,
)
from tests.minilm import minilm_info

MODEL = "minilm-l6"
NAMES = ("query.0", "query.1", "key.0", "ffn_in.0")


def joint(names: tuple[str, ...], stack: str, before: float, after: float) -> Suggestion:
    return Suggestion(names, stack, 2.0, 1000 * len(names), before, after, 16)


def made() -> Survey:
    """Return a survey of three modules that can be stacked, two of them with a gain, and of one that cannot be stacked."""
    first = joint(("query.0", "key.0"), "rows", 0.50, 0.45)
    pairs = (
        first,
        joint(("query.0", "key.0"), "columns", 0.50, 0.55),
        joint(("query.0", "query.1"), "rows", 0.50, 0.51),
        joint(("query.1", "key.0"), "rows", 0.50, 0.53),
    )
    merges = (
        Merge((0, 2), 0.05, first, 0.47),
        Merge((1, 4), -0.02, joint(NAMES[:3], "rows", 0.5, 0.49), 0.49),
    )
    rows = merges
    columns = (Merge((0, 2), -0.05, pairs[1], 0.53),)
    return Survey(MODEL, "f" * 20, 2.0, NAMES, 0.5, pairs, (), {"best": merges, "rows": rows, "columns": columns})


@pytest.fixture(params=sorted(PALETTES))
def palette(request: pytest.FixtureRequest) -> Palette:
    return PALETTES[request.param]


def bundled(kind: str, ratio: float) -> Survey:
    info = minilm_info()
    found = find_survey(info, [spec for spec in info.modules if spec.kind == kind], ratio, home_folder())
    assert found is not None and found[1] == "bundled"
    return found[0]


def test_a_pair_has_its_best_stacking_or_the_one_asked_for() -> None:
    table = pair_table(made()).set_index(["first", "second"])
    assert len(table) == 6
    assert table.loc[("query.0", "key.0"), ["stack", "gain"]].tolist() == ["rows", pytest.approx(0.05)]
    assert table.loc[("query.1", "ffn_in.0"), "gain"] != table.loc[("query.1", "ffn_in.0"), "gain"]
    columns = pair_table(made(), "columns").set_index(["first", "second"])
    assert columns.loc[("query.0", "key.0"), "gain"] == pytest.approx(-0.05)
    assert columns["gain"].notna().sum() == 1


def test_the_heat_map_is_symmetric_and_centred_on_zero(palette: Palette) -> None:
    figure = pair_figure(pair_table(made()), palette)
    heat = figure.data[0]
    assert heat.zmin == -heat.zmax == pytest.approx(-50)
    cells = {(x, y): (z, hover) for x, y, z, hover in zip(heat.x, heat.y, heat.z, heat.customdata, strict=True)}
    assert cells[0, 2][0] == cells[2, 0][0] == pytest.approx(50)
    assert (0, 0) not in cells and np.isnan(cells[3, 0][0])
    assert "+50" in figure.data[1].text and "-30" in figure.data[1].text
    assert "cannot be stacked into one matrix" in cells[3, 0][1]
    assert list(figure.layout.xaxis.ticktext) == ["0<br>query", "1", "0<br>key", "0<br>FFN in"]


def test_many_modules_have_colours_without_numbers(palette: Palette) -> None:
    names = tuple(f"{kind}.{layer}" for kind in ("query", "key") for layer in range(10))
    many = replace(made(), modules=names, pairs=(joint(("query.0", "key.9"), "rows", 0.5, 0.4),))
    figure = pair_figure(pair_table(many), palette)
    assert len(figure.data) == 1 and figure.data[0].showscale
    assert list(figure.layout.yaxis.ticktext) == ["query", "key"]


def test_merges_are_told_with_their_parts_and_the_error_of_all() -> None:
    table = merge_table(made())
    assert table[["one", "other"]].to_numpy().tolist() == [["query.0", "key.0"], ["query.1", "query.0 key.0"]]
    assert table["error"].tolist() == [0.47, 0.49]
    assert table["group_gain"].tolist() == [pytest.approx(0.05), pytest.approx(0.01)]


def test_the_tree_puts_merged_modules_side_by_side_and_falls_to_the_right(palette: Palette) -> None:
    nodes = tree_table(made())
    assert nodes["module"].tolist() == [*NAMES, "", ""]
    assert nodes["y"].tolist() == [0, 2, 1, 3, 0.5, 1.25]
    assert nodes["x"].tolist()[4:] == [pytest.approx(50), pytest.approx(-20)]
    for kept in range(3):
        figure = tree_figure(made(), "best", kept, palette)
        assert sum(trace.line.dash == "solid" for trace in figure.data[:2]) == kept
    cut = next(shape.x0 for shape in tree_figure(made(), "best", 1, palette).layout.shapes if shape.line.dash == "dash")
    assert -20 < cut < 50


def test_a_later_merge_that_gains_more_does_not_turn_the_tree_back() -> None:
    merges = made().merges["best"]
    transposed = replace(made(), merges={"best": (replace(merges[0], gain=-0.01), replace(merges[1], gain=0.03))})
    assert tree_table(transposed)["x"].tolist()[4:] == [pytest.approx(-10), pytest.approx(-10)]


def test_groups_at_the_cut_say_whether_they_help() -> None:
    groups, alone = groups_at(made(), "best", 1)
    assert alone == ["query.1", "ffn_in.0"]
    assert group_words(groups[0]).startswith("gain 0.050. Stacked by rows")
    (worse,), _ = groups_at(made(), "columns", 1)
    assert "loss 0.050" in group_words(worse) and "rises from 0.500 to 0.550" in group_words(worse)
    assert groups_at(made(), "best", 0) == ([], list(NAMES))
    assert (best_cut(made(), "best"), best_cut(made(), "columns")) == (1, 0)


def test_the_answer_is_a_sentence() -> None:
    six = bundled("attention_output", 2.0)
    assert survey_answer(six) == (
        "With stacking by columns, the relative error of attention output of all 6 layers falls from 0.519 to 0.500 at the "
        "same size; with stacking by rows, it rises to 0.583. With the best groups in the tree, the error falls to 0.488."
    )
    assert survey_answer(six, "rows").startswith(
        "With stacking by rows, the relative error of attention output of all 6 layers rises"
    )
    assert survey_answer(six, "rows").endswith(
        "with stacking by columns, it falls to 0.500. No group stacked by rows has a lower error than separate matrices."
    )
    assert "Compressing each module separately is best." in survey_answer(bundled("ffn_out", 2.0))
    assert "cannot be stacked into one matrix in any way; the best pair is query 0 and key 0" in survey_answer(made())
    assert "neither can any two of them" in survey_answer(made(), "residual")
    assert cut_answer(six, "best", 4).endswith("falls from 0.519 to 0.488.")
    assert cut_answer(six, "best", 0).startswith("No merge")
    assert module_words(["query.0", "query.1", "query.3", "encoder.key.2", "word_embeddings"]) == (
        "query 0-1, 3 and encoder key 2 and word embeddings"
    )


def test_what_is_bundled_is_of_the_model_that_is_bundled(palette: Palette) -> None:
    info = minilm_info()
    assert (BUNDLED / f"{MODEL}.json").stat().st_size < 300_000
    for kind in ("query", "key", "value", "attention_output", "ffn_in", "ffn_out"):
        for ratio in (2.0, 3.0):
            survey = bundled(kind, ratio)
            assert survey.fingerprint == info.fingerprint
            assert len(survey.merges["best"]) == 5
            assert tree_figure(survey, "best", best_cut(survey, "best"), palette).layout.height
    both = [spec for spec in info.modules if spec.kind in ("query", "key")]
    assert all(find_survey(info, both, ratio, home_folder()) for ratio in (2.0, 3.0))
    assert "Bundled: minilm-l6 at 2x, offcomp" in provenance(bundled("key", 2.0), "bundled")


def test_a_download_says_where_every_row_comes_from() -> None:
    table = exported(pair_table(made()), made(), "yours")
    assert set(table["origin"]) == {"yours"} and set(table["requested_ratio"]) == {2.0}
    assert isinstance(table, pd.DataFrame) and "version_torch" in table


def test_a_survey_is_kept_in_the_home_and_found_in_any_order(tmp_path: Path) -> None:
    info = minilm_info()
    specs = [info.module(name) for name in ("key.0", "query.1", "query.0")]
    names = tuple(spec.name for spec in sorted_modules(specs))
    assert names == ("query.0", "query.1", "key.0")
    kept = replace(made(), fingerprint=info.fingerprint, modules=names)
    assert find_survey(info, specs, 2.0, tmp_path) is None
    save_survey(kept, tmp_path)
    found = find_survey(info, specs, 2.0, tmp_path)
    assert found is not None and found[1] == "yours" and found[0].modules == names
    assert find_survey(info, specs, 3.0, tmp_path) is None
    next(tmp_path.rglob("*.json")).write_text("{}")
    assert find_survey(info, specs, 2.0, tmp_path) is None
    assert 5 < estimated_seconds(specs) < 6


def test_a_broken_survey_is_one_sentence() -> None:
    document = made().to_dict()
    with pytest.raises(InputError, match="schema 2, but this version reads only schema 1"):
        Survey.from_dict(document | {"schema": 2})
    with pytest.raises(InputError, match="missing or unknown field: 'pairs'"):
        Survey.from_dict({name: value for name, value in document.items() if name != "pairs"})
