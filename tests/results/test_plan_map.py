"""The small map of the chosen weights: one cell per matrix, in the row of its kind and the column of its layer."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from offcomp.results.charts.plan_map import plan_map_alt, plan_map_svg
from offcomp.results.charts.theme import DARK, LIGHT, Palette
from tests.minilm import minilm_info

RECT = "{http://www.w3.org/2000/svg}rect"


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_chosen_matrices_are_filled_where_their_kind_and_layer_are(palette: Palette) -> None:
    info = minilm_info()
    cells = ElementTree.fromstring(plan_map_svg(info, {"query.2", "ffn_out.5"}, palette)).iter(RECT)  # noqa: S314  # trusted
    by_title = {cell[0].text: cell for cell in cells}
    assert len(by_title) == sum(spec.default for spec in info.modules) == 37
    filled = {title for title, cell in by_title.items() if cell.get("fill") == palette.colour("svd")}
    assert filled == {"query, layer 2", "FFN out, layer 5"}
    assert {cell.get("fill") for cell in by_title.values()} == {palette.colour("svd"), palette.grid}
    places = {title: (int(cell.get("x", "")), int(cell.get("y", ""))) for title, cell in by_title.items()}
    assert len({y for _, y in places.values()}) == 7
    assert places["query, layer 2"][0] == places["value, layer 2"][0] > places["query, layer 1"][0]
    assert places["query, layer 2"][1] == places["query, layer 5"][1] != places["key, layer 5"][1]


def test_the_map_in_words_counts_the_chosen_matrices() -> None:
    assert plan_map_alt(minilm_info(), {"query.2"}).startswith("Map of the chosen weights: 1 of 40 matrices")
