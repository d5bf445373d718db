"""Plans of several methods are changed to the same stored size, as closely as each method allows."""

from __future__ import annotations

import pytest

from offcomp.methods import METHODS, method_of_style_key, own_options
from offcomp.models.sources import bundled_info
from offcomp.planning.equal_sizes import ALIKE, equalised
from offcomp.planning.plan import Plan, make_groups
from offcomp.planning.sizes import predict

MODEL = "minilm-l6"
INFO = bundled_info(MODEL)


def plans(ratio: float, style_keys: list[str], **settings: str) -> dict[str, Plan]:
    assert INFO
    specs = [spec for spec in INFO.modules if spec.kind in ("query", "ffn_in")]
    made = {}
    for style_key in style_keys:
        method = method_of_style_key(style_key)
        chosen = {"method": method.name, "options": own_options(method), "ratio": ratio, "unit": "bytes"} | settings
        made[style_key] = Plan(model=MODEL, groups=make_groups(specs, "kind", **chosen), tasks=())
    return made


def stored(found: dict[str, Plan]) -> dict[str, int]:
    assert INFO
    return {key: predict(plan, INFO).model.chosen.bytes_after for key, plan in found.items()}


@pytest.mark.parametrize("ratio", [3.0, 6.0])
def test_all_methods_store_about_the_same_and_no_more_than_the_smallest_did(ratio: float) -> None:
    before = plans(ratio, [method.style_key for method in METHODS])
    found = equalised(before, INFO)
    assert list(found) == list(before)
    sizes = stored(found)
    assert max(sizes.values()) <= min(stored(before).values())
    assert max(sizes.values()) <= ALIKE * min(sizes.values())
    for key, plan in found.items():
        assert [(g.name, g.method, g.options) for g in plan.groups] == [
            (g.name, g.method, g.options) for g in before[key].groups
        ]


def test_plans_in_parameters_become_equal_in_bytes() -> None:
    found = equalised({**plans(4.0, ["svd"], unit="parameters", dtype="float16"), **plans(4.0, ["pruning"])}, INFO)
    sizes = stored(found)
    assert max(sizes.values()) <= ALIKE * min(sizes.values())


def test_a_method_that_cannot_be_as_small_sets_the_size() -> None:
    before = plans(20.0, ["svd", "quantization"])
    found = equalised(before, INFO)
    sizes = stored(found)
    assert sizes["svd"] > stored(plans(20.0, ["svd"]))["svd"]
    assert max(sizes.values()) <= ALIKE * min(sizes.values())


def test_plans_without_groups_stay_as_they_are() -> None:
    baseline = {"original": Plan(model=MODEL)}
    assert equalised(baseline, INFO) == baseline
    assert equalised({**baseline, **plans(4.0, ["svd"])}, INFO)["original"] == baseline["original"]
