"""The first draft of a model has a task that the model supports, and gives a valid plan for each of its methods."""

from __future__ import annotations

from dataclasses import replace

import pytest

from offcomp.models.bundled_models import MODELS
from offcomp.models.sources import bundled_info
from offcomp.planning.data.tasks import FAMILIES, find_task, usual_tasks
from offcomp.planning.drafts import default_tasks, first_draft
from offcomp.planning.grouping import GROUPINGS
from offcomp.planning.plan import validate
from tests import tiny_models
from tests.tiny_models import Tiny

TASKS = {
    "minilm-l6": "embedding-fidelity",
    "offcomp-bert": "masked-fidelity",
    "offcomp-bert-sentiment": "head-fidelity",
    "offcomp-gpt": "causal-fidelity",
}
"""Bundled model -> the fidelity task of its first draft."""


@pytest.mark.parametrize("name", [model.name for model in MODELS])
def test_a_bundled_model_starts_with_a_valid_plan_for_each_method(name: str) -> None:
    info = bundled_info(name)
    assert info is not None
    draft = first_draft(info)
    assert (draft.kinds, draft.grouping, draft.ratio) == (("query", "key"), "kind", 3.0)
    assert draft.tasks[0] == TASKS[name] and {*draft.tasks} <= {*usual_tasks(info.architecture, info.reads_text)}
    plans = draft.plans(info)
    assert [plan.groups[0].method for plan in plans] == ["svd", "autoencoder"]
    for plan in plans:
        assert [group.name for group in plan.groups] == ["query", "key"] and plan.tasks == draft.tasks
        assert {name for group in plan.groups for name in group.modules} == {spec.name for spec in draft.modules(info)}
        validate(plan, info)


@pytest.mark.parametrize("name", tiny_models.TINY)
def test_every_model_of_text_starts_with_a_fidelity_that_it_can_do(tiny: Tiny, name: str) -> None:
    info = tiny(name).info
    draft = first_draft(info)
    family = find_task(draft.tasks[0]).kind
    assert family.fidelity and (not family.needs or info.architecture.endswith(family.needs))
    own_head = any(family.needs and info.architecture.endswith(family.needs) for family in FAMILIES.values() if family.fidelity)
    assert bool(family.needs) == own_head
    assert draft.grouping in GROUPINGS and draft.modules(info)


def test_a_model_that_does_not_read_text_starts_without_a_task(tiny: Tiny) -> None:
    info = tiny("bert_base").info
    assert default_tasks(replace(info, reads_text=False)) == ()
    matrices = replace(info, architecture="Matrices", modules=tuple(replace(spec, kind="other") for spec in info.modules))
    draft = first_draft(matrices)
    assert (draft.kinds, draft.grouping, draft.tasks) == ((), "module", ())
    assert draft.modules(matrices) == matrices.modules
