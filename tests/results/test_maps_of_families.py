"""The map of every family: one cell per kind and layer, which is drawn and names its modules."""

from __future__ import annotations

import pytest

from offcomp.models.live import loaded_from
from offcomp.results.charts.model import map_figure
from offcomp.results.charts.theme import LIGHT
from offcomp.results.model import map_table
from offcomp.results.model_cells import placed_table
from tests.family_models import FAMILY_MODELS, family_model


@pytest.mark.parametrize("name", FAMILY_MODELS)
def test_every_module_is_in_exactly_one_cell(name: str) -> None:
    info = loaded_from(family_model(name)).info
    table = map_table(info, {info.modules[-1].name}, {spec.name: 0.5 for spec in info.modules})
    cells = placed_table(table)
    assert not cells.duplicated(["x", "y"]).any()
    assert sorted(module for members in cells["members"] for module in members) == sorted(spec.name for spec in info.modules)
    assert cells["parameters"].sum() == table["parameters"].sum()
    assert cells["relative_error"].dropna().eq(0.5).all()
    assert cells["in_plan"].sum() == 1


def test_a_cell_of_experts_says_how_many_they_are_and_is_marked_by_any_of_them() -> None:
    info = loaded_from(family_model("mixtral")).info
    experts = [spec for spec in info.modules if (spec.kind, spec.layer) == ("expert_in", 1)]
    first, marked = (map_figure(map_table(info), LIGHT, picked=spec.name) for spec in (experts[0], experts[-1]))
    assert first.data[-2].x == marked.data[-2].x and len(marked.data[-2].x) == 6
    (hover,) = [text for text in marked.data[-1].hovertext if f"<b>{experts[0].name}</b>" in text]
    rows, cols = experts[0].shape
    assert f"and {len(experts) - 1} other experts" in hover
    assert f"{len(experts)} x {rows:,} x {cols:,} = {len(experts) * rows * cols:,} parameters" in hover
