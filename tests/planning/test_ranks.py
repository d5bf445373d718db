"""Ranks, shares of the energy, and multiples determine the sizes in plans and in stored groups."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offcomp.errors import InputError, PlanError
from offcomp.methods import METHODS, own_options
from offcomp.methods.base import choose_size, dense_shapes, rank_budget
from offcomp.models.catalogue import ModelInfo
from offcomp.numerics.accounting import UNITS, Budget, stored_size
from offcomp.planning.plan import Plan, make_groups, validate
from offcomp.planning.ranks import with_known_ranks
from offcomp.planning.sizes import predict
from offcomp.planning.spectrum import energy_rank
from tests.minilm import minilm_info

RANKED = [method for method in METHODS if method.has_rank]


@pytest.fixture(scope="module")
def info() -> ModelInfo:
    return minilm_info()


def plan(info: ModelInfo, **size: object) -> Plan:
    specs = [spec for spec in info.modules if spec.kind == "query"]
    return Plan(model="minilm-l6", groups=make_groups(specs, "module", **size), tasks=())  # type: ignore[arg-type]


def sizes(info: ModelInfo, home: Path, **size: object) -> list[int]:
    return [group.size for group in predict(with_known_ranks(plan(info, **size), info, home), info).groups]


@given(st.lists(st.floats(0, 100, width=32), min_size=1, max_size=40), st.floats(0.01, 1), st.sampled_from([1, 8, 16]))
def test_the_energy_rank_is_the_smallest_that_keeps_the_share(values: list[float], share: float, multiple: int) -> None:
    spectrum = np.sort(np.array(values, np.float32))[::-1]
    energy = np.square(spectrum, dtype=np.float64)
    rank = energy_rank(spectrum, share, multiple)
    assert 1 <= rank <= len(spectrum) and (rank % multiple == 0 or rank == len(spectrum))
    assert energy[:rank].sum() >= share * energy.sum() * (1 - 1e-9)
    below = rank - multiple if rank % multiple == 0 else rank // multiple * multiple
    assert below <= 0 or energy[:below].sum() < share * energy.sum() * (1 + 1e-9)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("method", RANKED, ids=lambda method: method.style_key)
def test_the_budget_of_a_rank_admits_exactly_this_rank(method: type, unit: str) -> None:
    made = method(**own_options(method))
    rows, cols = 96, 64
    dense = stored_size(dense_shapes(rows, cols), "float32")
    for rank in (1, 2, 5, 11):
        budget = rank_budget(made, rows, cols, rank, unit=unit, dtype="float32")
        assert budget.limit >= dense.in_unit(unit) or choose_size(made, rows, cols, budget) == rank


def test_a_rank_is_what_is_stored_and_its_ratio_what_it_gives(info: ModelInfo, tmp_path: Path) -> None:
    assert sizes(info, tmp_path, rank=64) == [64] * 6
    assert {group.ratio for group in with_known_ranks(plan(info, rank=64), info, tmp_path).groups} == {3.0}


def test_ratios_round_down_to_a_multiple_and_energy_rounds_up(info: ModelInfo, tmp_path: Path) -> None:
    assert sizes(info, tmp_path, ratio=3.5) == [54] * 6
    assert sizes(info, tmp_path, ratio=3.5, multiple=16) == [48] * 6
    exact, rounded = (sizes(info, tmp_path, energy=0.8, multiple=multiple) for multiple in (1, 8))
    assert rounded == [-(-rank // 8) * 8 for rank in exact] and len(set(exact)) > 1


def test_a_group_without_savings_stays_dense_and_says_so(info: ModelInfo, tmp_path: Path) -> None:
    (group, *_) = predict(with_known_ranks(plan(info, rank=300), info, tmp_path), info).groups
    assert (group.form, group.size, group.compression_ratio) == ("dense", 0, 1.0) and "not compressed" in group.note


def test_plans_keep_the_request_and_old_plans_keep_their_text(info: ModelInfo) -> None:
    asked = plan(info, energy=0.9, multiple=8)
    group = asked.to_dict()["groups"][0]
    assert (group["energy"], group["multiple"], "rank" in group) == (0.9, 8, False)
    assert Plan.from_json(asked.to_json()).groups[0].energy == 0.9
    assert not {"rank", "energy", "multiple"} & plan(info).to_dict()["groups"][0].keys()


def test_an_unknown_spectrum_is_named(info: ModelInfo, tmp_path: Path) -> None:
    other = replace(info, fingerprint="unknown")
    with pytest.raises(InputError, match=r"'query\.0' requests a share of the energy, but its singular values are not known"):
        with_known_ranks(plan(info, energy=0.9), other, tmp_path)
    with pytest.raises(InputError, match="determine its rank first"):
        predict(plan(info, energy=0.9), info)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"rank": 3, "method": "pruning"}, "Pruning has no rank; request a ratio"),
        ({"multiple": 8, "method": "quantization"}, "Quantization has no rank"),
        ({"energy": 0.9, "method": "kronecker"}, "a share of the energy applies to SVD, not to Kronecker"),
        ({"rank": 9, "multiple": 8}, "rank 9 is not a multiple of 8"),
    ],
)
def test_every_group_with_an_unsuitable_size_is_named(info: ModelInfo, size: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=message) as caught:
        validate(plan(info, **size), info)
    assert len(caught.value.faults) == 6


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "8"])
def test_sizes_of_the_wrong_type_are_refused(info: ModelInfo, value: object) -> None:
    document = plan(info).to_dict()
    document["groups"][0] |= {"rank": value, "multiple": value}
    with pytest.raises(PlanError) as caught:
        Plan.from_dict(document)
    assert len(caught.value.faults) == 2


def test_a_rank_that_does_not_exist_is_refused(info: ModelInfo) -> None:
    with pytest.raises(InputError, match=r"rank 385 of a \(384, 384\) matrix does not exist; choose one from 1 to 384"):
        predict(plan(info, rank=385), info)


def test_a_multiple_larger_than_every_rank_leaves_the_smallest(info: ModelInfo) -> None:
    assert choose_size(RANKED[0](), 20, 10, Budget(100, multiple=64)) == 1
