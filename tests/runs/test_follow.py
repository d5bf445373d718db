"""SVD with metrics that are computed with all earlier matrices compressed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import offcomp
from offcomp.files import write_json
from offcomp.methods.svd.method import SVD
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.loading import LoadedModel
from offcomp.models.weights import read, substituted
from offcomp.numerics.accounting import Budget
from offcomp.numerics.changed_inputs import weight_for_changed_inputs
from offcomp.planning.plan import Group, Plan
from offcomp.runs import worker as worker_module
from offcomp.runs.calibration import Calibration, GroupHints
from offcomp.runs.calibration import blocks as blocks_module
from offcomp.runs.calibration.forward import run
from offcomp.runs.compress import CompressedGroup, compress_group
from tests import tiny_models
from tests.calibration_texts import PLENTY, TEXTS, Earlier, calibrate, spec_of
from tests.tiny_models import Tiny

TOWARD: dict[str, Any] = {"follow": True}
FOLLOW: dict[str, Any] = TOWARD | {"toward_original": False}
RATIO = 1.5


def compressed(loaded: LoadedModel, options: Mapping[str, Any], **settings: Any) -> dict[ModuleSpec, Tensor]:
    """Reconstructions of all weights of a model, by default each compressed on its own."""
    done = offcomp.compress(loaded, options=options, ratio=RATIO, calibration=TEXTS, progress=False, **settings)
    return {spec: matrix for group in done for spec, matrix in group.reconstructions.items()}


def step_by_step(loaded: LoadedModel, options: Mapping[str, Any]) -> dict[ModuleSpec, Tensor]:
    """Reference for `compressed`: for each weight, a full pass through a model that really contains the earlier matrices."""
    specs = offcomp.select_modules(loaded.info)
    done: dict[ModuleSpec, Tensor] = {}
    plain = SVD(**options)
    for spec in specs:
        matrix = read(loaded.model, spec)
        with substituted(loaded.model, done), calibrate(loaded, TEXTS, [spec], "rows") as hints:
            found = plain.fit(matrix, Budget(int(spec.num_parameters / RATIO)), hints=hints)
        done[spec] = found.reconstruct()
    return done


def assert_close(found: Mapping[ModuleSpec, Tensor], expected: Mapping[ModuleSpec, Tensor], tolerance: float) -> None:
    assert list(found) == list(expected)
    for spec, matrix in found.items():
        torch.testing.assert_close(matrix, expected[spec], rtol=tolerance, atol=tolerance)


CASES = [
    *((name, "whitened", 1e-5) for name in ("bert", "gpt2", "llama", "albert", "t5")),
    ("bert", "asvd", 1e-5),
    ("gpt2", "two_sided", 1e-3),  # gradients are summed in another order
]


@pytest.mark.parametrize(("name", "preset", "tolerance"), CASES)
def test_each_matrix_is_fitted_to_inputs_that_the_earlier_ones_produce(
    tiny: Tiny, name: str, preset: str, tolerance: float
) -> None:
    loaded = tiny(name)
    before = {path: parameter.clone() for path, parameter in loaded.model.named_parameters()}
    found = compressed(loaded, {"preset": preset} | FOLLOW)
    assert all(torch.equal(before[path], parameter) for path, parameter in loaded.model.named_parameters())
    assert_close(found, step_by_step(loaded, {"preset": preset}), tolerance)
    usual = compressed(loaded, {"preset": preset})
    assert sum(not torch.equal(matrix, usual[spec]) for spec, matrix in found.items()) > 1


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_toward_the_original_fits_the_weight_that_makes_up_for_changed_inputs(tiny: Tiny, name: str) -> None:
    loaded = tiny(name)
    early, spec = spec_of(loaded, "ffn_out.0"), spec_of(loaded, "key.1")
    matrix, budget = read(loaded.model, spec), Budget(int(spec.num_parameters / RATIO))
    earlier = [Earlier({early: 0.3 * read(loaded.model, early)})]
    with GroupHints(Calibration(loaded, TEXTS, cache_bytes=PLENTY), [spec], "rows", earlier) as hints:
        found = SVD(preset="whitened", **TOWARD).fit(matrix, budget, hints=hints).reconstruct()
    with GroupHints(Calibration(loaded, TEXTS), [spec], "rows", earlier) as hints:
        hints.use_compressed_predecessors(keep_original=True)
        statistics = hints.statistics(0)
        target = weight_for_changed_inputs(matrix.double(), statistics.column_moment, statistics.cross_moment)
        expected = SVD(column_metric="full").fit(target.float(), budget, hints=hints).reconstruct()
    assert torch.equal(found, expected)
    with GroupHints(Calibration(loaded, TEXTS), [spec], "rows", earlier) as hints:
        assert not torch.equal(found, SVD(preset="whitened", **FOLLOW).fit(matrix, budget, hints=hints).reconstruct())


def test_a_transposed_member_is_fitted_like_an_upright_one(tiny: Tiny) -> None:
    loaded = tiny("bert")
    early, spec = spec_of(loaded, "key.0"), spec_of(loaded, "ffn_out.0")
    matrix, budget = read(loaded.model, spec), Budget(int(spec.num_parameters / RATIO))
    found = []
    for stack in ("rows", "columns"):
        with GroupHints(
            Calibration(loaded, TEXTS), [spec], stack, [Earlier({early: 0.3 * read(loaded.model, early)})]
        ) as hints:
            turned = hints.transposed[0]
            done = SVD(preset="whitened", **TOWARD).fit(matrix.T if turned else matrix, budget, hints=hints).reconstruct()
            found.append(done.T if turned else done)
            assert turned == (stack == "columns")
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def passes_of(monkeypatch: pytest.MonkeyPatch, loaded: LoadedModel, options: Mapping[str, Any], **settings: Any) -> int:
    """The number of full passes over a part of the text."""
    passes: list[object] = []
    monkeypatch.setattr(blocks_module, "run", lambda entry, part: (passes.append(entry), run(entry, part)))
    compressed(loaded, options, **settings)
    return len(passes)


@pytest.mark.parametrize("options", [FOLLOW, TOWARD], ids=["follow", "toward original"])
def test_following_takes_one_full_pass_per_model(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    for name in ("bert", "gpt2", "llama"):
        loaded = tiny(name)
        once = passes_of(monkeypatch, loaded, {"preset": "whitened"})
        assert passes_of(monkeypatch, loaded, {"preset": "whitened"} | options) == once * (2 if options == TOWARD else 1)


def test_members_of_a_group_are_measured_together(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny("bert")
    once = passes_of(monkeypatch, loaded, {"preset": "whitened"}, together="kind")
    kinds = {spec.kind for spec in offcomp.select_modules(loaded.info)}
    assert passes_of(monkeypatch, loaded, {"preset": "whitened"} | FOLLOW, together="kind") == len(kinds) * once


def groups(names: Sequence[str], options: Mapping[str, Any]) -> list[Group]:
    return [Group(name=name, modules=(name,), ratio=RATIO, options={"preset": "whitened"} | options) for name in names]


def test_groups_that_follow_are_compressed_in_the_order_of_the_model(tiny: Tiny) -> None:
    info = tiny("bert").info
    names = ("query.1", "ffn_out.0", "key.0")
    assert Plan(model=info.model, groups=groups(names, FOLLOW)).compression_order(info) == [2, 1, 0]
    assert Plan(model=info.model, groups=groups(names, {})).compression_order(info) == [0, 1, 2]
    stacked = Group(name="both", modules=("query.1", "query.0"), options={"preset": "asvd"} | FOLLOW)
    assert Plan(model=info.model, groups=[*groups(names, {}), stacked]).compression_order(info) == [3, 2, 1, 0]
    plain = [Group(name=name, modules=(name,), options=FOLLOW) for name in names]
    assert Plan(model=info.model, groups=plain).compression_order(info) == [0, 1, 2], "a plain SVD has no metric"


@pytest.mark.parametrize("share", [0.25, 0.0], ids=["in memory", "offloaded"])
def test_a_run_keeps_the_order_of_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    monkeypatch.setattr(worker_module, "SMALL_SHARE", share)
    model = str(tiny_models.save(tiny_models.bert(), tmp_path / "tiny"))
    names = ("query.1", "ffn_out.0", "key.0")

    def figures(name: str, ordered: Sequence[str], options: Mapping[str, Any]) -> dict[str, tuple[float, float | None]]:
        folder = tmp_path / name / "runs" / "one"
        write_json(folder / "plan.json", Plan(model=model, groups=groups(ordered, options), tasks=()).to_dict())
        worker = worker_module.Worker(folder)
        worker_module.work(worker)
        assert [group.name for group in worker.groups] == list(ordered)
        return {group.name: (group.relative_error, group.output_error) for group in worker.groups}

    found = figures("one", names, FOLLOW)
    assert found == figures("two", names[::-1], FOLLOW)
    usual = figures("three", names, {})
    assert found["key.0"] == usual["key.0"]
    assert found["query.1"] != usual["query.1"] and found["ffn_out.0"] != usual["ffn_out.0"]


def test_a_group_that_does_not_follow_sees_the_original_model(tiny: Tiny) -> None:
    loaded = tiny("gpt2")
    feedback = {"preset": "codebook", "feedback": True, "codeword_length": 4, "iterations": 2}
    coded = Group(name="coded", modules=("ffn_in.0",), method="autoencoder", options=feedback, ratio=4.0, unit="bytes")
    first, second, third = groups(("query.0", "key.1", "ffn_out.1"), FOLLOW)
    plain = groups(("key.1",), {})[0]

    def last(*chosen: Group, together: bool = True) -> Tensor:
        calibration = Calibration(loaded, TEXTS, cache_bytes=PLENTY)
        done: list[CompressedGroup] = []
        with calibration.keeping_earlier_groups():
            for group in chosen:
                specs = [spec_of(loaded, name) for name in group.modules]
                with GroupHints(calibration, specs, group.stack, done if together else ()) as hints:
                    done.append(compress_group(loaded.model, loaded.info, group, hints=hints, measure_outputs=False))
        return next(iter(done[-1].reconstructions.values()))

    assert torch.equal(last(first, coded, plain), last(plain))
    assert not torch.equal(last(first, coded, second), last(second))
    assert torch.equal(last(first, coded, plain, third), last(first, coded, groups(("key.1",), {})[0], third))
    assert torch.equal(last(first, plain, coded), last(first, plain, coded))


def test_the_model_is_restored_after_an_exception(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny("bert")
    before = {path: parameter.clone() for path, parameter in loaded.model.named_parameters()}
    fit, calls = SVD.fit, []

    def fails(self: SVD, *arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            named["hints"].use_compressed_predecessors()
            assert any(not torch.equal(before[path], parameter) for path, parameter in loaded.model.named_parameters())
            raise KeyError
        return fit(self, *arguments, **named)

    monkeypatch.setattr(SVD, "fit", fails)
    with pytest.raises(KeyError):
        compressed(loaded, {"preset": "whitened"} | FOLLOW)
    assert all(torch.equal(before[path], parameter) for path, parameter in loaded.model.named_parameters())
