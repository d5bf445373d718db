"""Groups that are fitted in one call have the figures, files and errors of groups that are fitted alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import offcomp
from offcomp.errors import InputError
from offcomp.files import write_json
from offcomp.methods import Autoencoder
from offcomp.models.loading import LoadedModel, load
from offcomp.numerics.accounting import Size
from offcomp.planning.plan import Group, Plan
from offcomp.runs import worker as worker_module
from offcomp.runs.compress import CompressedGroup, check_finite, compress_group, load_group
from offcomp.runs.together import FitsTogether
from offcomp.runs.worker_process import Worker
from tests import tiny_models

SETTINGS: dict[str, Any] = {"method": "autoencoder", "options": {"epochs": 3}, "ratio": 3.0}
QUERY, KEY, VALUE, FFN = (
    Group(name=kind, modules=(f"{kind}.0", f"{kind}.1"), **SETTINGS) for kind in ("query", "key", "value", "ffn_in")
)
GROUPS = (QUERY, FFN, KEY, Group(name="svd", modules=("attention_output.0",), ratio=2.0), VALUE)
TOGETHER = (QUERY, KEY, VALUE)


@pytest.fixture
def tiny(tmp_path: Path) -> LoadedModel:
    return load(str(tiny_models.save(tiny_models.bert(), tmp_path / "tiny")))


def assert_alike(found: CompressedGroup, alone: CompressedGroup) -> None:
    """Check that the figures are equal, except for the seconds and the last digits of learned numbers."""
    assert found.figures.ledger == alone.figures.ledger
    assert found.figures.history == pytest.approx(alone.figures.history, rel=1e-4)
    assert found.figures.relative_error == pytest.approx(alone.figures.relative_error, rel=1e-3)
    for name, matrix in alone.reconstruct().items():
        torch.testing.assert_close(found.reconstruct()[name], matrix, rtol=0, atol=1e-3 * float(matrix.abs().max()))


def test_fits_together_are_those_of_each_group(tiny: LoadedModel) -> None:
    fits = FitsTogether(tiny.model, tiny.info, GROUPS, seed=2)
    for group in GROUPS:
        fitted = fits.take(group)
        assert (fitted is not None) == (group in TOGETHER)
        found = compress_group(tiny.model, tiny.info, group, seed=2, fitted=fitted)
        assert_alike(found, compress_group(tiny.model, tiny.info, group, seed=2))
        if fitted:
            assert found.figures.seconds > fitted.seconds > 0


def test_the_library_fits_groups_together(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"together": "kind", "stack": "rows", "progress": False, "seed": 1} | SETTINGS
    calls: list[int] = []
    fit_together = Autoencoder.fit_together

    def counted(method: Autoencoder, matrices: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        calls.append(len(matrices))
        return fit_together(method, matrices, *arguments, **options)

    monkeypatch.setattr(Autoencoder, "fit_together", counted)
    together = offcomp.compress(tiny, ["query", "key", "ffn_in"], **settings)
    assert calls == [2]
    for name in ("query", "key", "ffn_in"):
        assert_alike(together[name], offcomp.compress(tiny, name, **settings)[0])


def test_a_run_reports_and_saves_every_group(tiny: LoadedModel, tmp_path: Path) -> None:
    plan = Plan(model=tiny.info.model, groups=GROUPS, tasks=())
    folder = tmp_path / "runs" / "one"
    write_json(folder / "plan.json", plan.to_dict())
    worker = Worker(folder)
    worker_module.work(worker)
    assert [group.name for group in worker.groups] == [group.name for group in GROUPS]
    assert [name for name in worker.timings if name.startswith("compress")] == [f"compress {group.name}" for group in GROUPS]
    assert worker.timings["compress query"] > worker.timings["compress key"]
    for group, figures in zip(GROUPS, worker.groups, strict=True):
        alone = compress_group(tiny.model, tiny.info, group).figures
        assert figures.relative_error == pytest.approx(alone.relative_error, rel=1e-3)
        _, compressed = load_group(folder / "groups" / f"{group.name}.safetensors")
        assert compressed.stored == Size(figures.num_parameters, figures.num_bytes)


def test_a_group_that_fails_does_so_at_its_turn_and_leaves_the_others_intact(tiny: LoadedModel) -> None:
    with torch.no_grad():
        tiny.model.get_parameter(tiny.info.module("key.1").path)[0, 0] = float("nan")
    fits = FitsTogether(tiny.model, tiny.info, TOGETHER, seed=0)
    check_finite(compress_group(tiny.model, tiny.info, QUERY, fitted=fits.take(QUERY)))
    with pytest.raises(InputError, match="not finite"):
        fits.take(KEY)
    check_finite(compress_group(tiny.model, tiny.info, VALUE, fitted=fits.take(VALUE)))
