"""Compressing the groups of a plan, saving them to files, and substituting the results into the model."""

from __future__ import annotations

import json
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from offcomp.errors import BudgetTooSmall, ModelError, StorageError
from offcomp.methods import make_method
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.loading import LoadedModel
from offcomp.models.weights import read, substituted
from offcomp.numerics.accounting import STORAGE_DTYPES, budget_for_ratio
from offcomp.planning.plan import Group, members
from offcomp.planning.sizes import original_size
from offcomp.runs.compress import CompressedGroup, compress_group, load_group, save_group, stack, unstack
from offcomp.runs.result import GroupResult
from tests import tiny_models
from tests.tiny_models import Tiny

MODULES = {
    "rows": ("query.0", "key.0", "value.1", "ffn_in.1"),
    "columns": ("attention_output.0", "ffn_out.1", "attention_output.1"),
    "residual": ("word_embeddings", "key.1", "attention_output.1", "ffn_in.0", "ffn_out.1"),
}
AUTOENCODER: dict[str, Any] = {"epochs": 2, "batch_size": 32}
FAMILIES = ("bert", "gpt2", "llama")


def matrices_of(loaded: LoadedModel, *names: str) -> dict[ModuleSpec, Tensor]:
    return {spec: read(loaded.model, spec) for spec in (loaded.info.module(name) for name in names)}


def svd(loaded: LoadedModel, *modules: str, how: str = "rows", **fields: Any) -> CompressedGroup:
    return compress_group(loaded.model, loaded.info, Group(**{"name": "some", "modules": modules, "stack": how, **fields}))


def bits_of(loaded: LoadedModel) -> dict[str, Tensor]:
    return {path: parameter.clone() for path, parameter in loaded.model.named_parameters()}


# ---------------------------------------------------------------------------------------------------------- stackings


@pytest.mark.parametrize("how", MODULES)
@pytest.mark.parametrize("name", FAMILIES)
def test_unstacking_what_was_stacked_gives_every_member_back(tiny: Tiny, name: str, how: str) -> None:
    originals = matrices_of(tiny(name), *MODULES[how])
    stacked = stack(originals, how)
    assert stacked.shape[1] == 24
    back = unstack(stacked, list(originals), how)
    assert list(back) == list(originals)
    for spec, matrix in originals.items():
        assert back[spec].shape == matrix.shape == spec.shape
        assert torch.equal(back[spec], matrix)


def test_members_lie_one_above_the_other_in_their_order(tiny: Tiny) -> None:
    originals = matrices_of(tiny("bert"), *MODULES["residual"])
    stacked = stack(originals, "residual")
    embeddings, key, attention_output, ffn_in, ffn_out = originals.values()
    assert torch.equal(stacked, torch.cat([embeddings, key, attention_output.T, ffn_in, ffn_out.T]))


def test_stacking_by_columns_turns_every_member(tiny: Tiny) -> None:
    first, second = (originals := matrices_of(tiny("bert"), "ffn_out.0", "attention_output.0")).values()
    assert torch.equal(stack(originals, "columns"), torch.cat([first.T, second.T]))


@pytest.mark.parametrize("how", ["rows", "columns"])
def test_a_group_of_one_is_compressed_like_the_matrix_alone(tiny: Tiny, how: str) -> None:
    loaded = tiny("bert")
    (original,) = matrices_of(loaded, "ffn_in.0").values()
    group = svd(loaded, "ffn_in.0", how=how, ratio=2.0)
    matrix = original.T if how == "columns" else original
    budget = budget_for_ratio(original_size([loaded.info.module("ffn_in.0")]), 2.0, "parameters", "float32")
    alone = make_method("svd", {}).fit(matrix, budget)
    assert alone.size == group.figures.size > 0
    expected = alone.reconstruct().T if how == "columns" else alone.reconstruct()
    torch.testing.assert_close(group.reconstructions[loaded.info.module("ffn_in.0")], expected, rtol=0, atol=1e-6)


def test_turning_a_group_of_one_changes_no_error_of_svd(tiny: Tiny) -> None:
    errors = [svd(tiny("bert"), "ffn_in.0", how=how, ratio=2.0).figures.relative_error for how in ("rows", "columns")]
    assert errors[0] == pytest.approx(errors[1], rel=1e-5)


@pytest.mark.parametrize("how", MODULES)
def test_the_order_of_the_members_changes_no_error_of_svd(tiny: Tiny, how: str) -> None:
    loaded = tiny("llama")
    there, back = (svd(loaded, *modules, how=how, ratio=3.0).figures for modules in (MODULES[how], MODULES[how][::-1]))
    assert there.relative_error == pytest.approx(back.relative_error, rel=1e-5)
    for name, errors in there.module_errors.items():
        assert errors.to_dict() == pytest.approx(back.module_errors[name].to_dict(), rel=1e-3)
    assert list(back.module_errors) == list(MODULES[how])[::-1]


def test_each_member_gets_its_own_part_back(tiny: Tiny) -> None:
    """At full rank, the reconstructions equal the originals, so swapped members would be noticed."""
    loaded = tiny("bert")
    group = svd(loaded, *MODULES["residual"], how="residual", ratio=1.0)
    for spec, matrix in group.reconstructions.items():
        assert torch.equal(matrix, read(loaded.model, spec))


def test_the_error_of_a_group_is_that_of_its_members_together(tiny: Tiny) -> None:
    loaded = tiny("bert")
    group = svd(loaded, *MODULES["residual"], how="residual", ratio=3.0)
    originals = matrices_of(loaded, *MODULES["residual"])
    gap = sum((originals[spec] - matrix).double().square().sum().item() for spec, matrix in group.reconstructions.items())
    energy = sum(matrix.double().square().sum().item() for matrix in originals.values())
    entries = sum(matrix.numel() for matrix in originals.values())
    assert 0.1 < group.figures.relative_error < 1
    assert group.figures.relative_error == pytest.approx(sqrt(gap / energy), rel=1e-6)
    assert group.figures.rmse == pytest.approx(sqrt(gap / entries), rel=1e-6)
    assert group.figures.module_errors.keys() == set(MODULES["residual"])


def test_the_error_of_svd_is_the_tail_of_the_spectrum_of_the_stack(tiny: Tiny) -> None:
    loaded = tiny("gpt2")
    group = svd(loaded, *MODULES["columns"], how="columns", ratio=3.0)
    values = torch.linalg.svdvals(stack(matrices_of(loaded, *MODULES["columns"]), "columns").double())
    tail = values[group.figures.size :].norm() / values.norm()
    assert group.figures.relative_error == pytest.approx(tail.item(), rel=1e-5)


# ------------------------------------------------------------------------------------------------------- the run's figures


def test_the_figures_hold_what_a_run_reports_and_are_json(tiny: Tiny) -> None:
    loaded = tiny("bert")
    asked = Group(
        name="ae",
        modules=MODULES["rows"],
        stack="rows",
        method="autoencoder",
        options=AUTOENCODER,
        ratio=3.0,
        unit="bytes",
        dtype="float16",
    )
    figures = compress_group(loaded.model, loaded.info, asked, seed=4).figures
    contract = "name modules stack method requested_ratio compression_ratio num_parameters num_bytes original_parameters "
    contract += "original_bytes relative_error rmse mae cosine_distance seconds"
    assert set(contract.split()) <= figures.model_fields_set
    document = figures.to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert GroupResult.from_json(document) == figures
    assert (figures.name, figures.modules, figures.unit, figures.dtype) == (
        "ae",
        asked.modules,
        "bytes",
        "float16",
    )
    assert figures.options["epochs"] == 2 and figures.options["encoder"] == "nonlinear"
    assert len(figures.history) == 2
    assert figures.parameter_ratio == figures.original_parameters / figures.num_parameters
    assert figures.byte_ratio == figures.compression_ratio == figures.original_bytes / figures.num_bytes


def test_the_seed_decides_an_autoencoder(tiny: Tiny) -> None:
    loaded = tiny("bert")
    asked = Group(name="ae", modules=MODULES["rows"], method="autoencoder", options=AUTOENCODER, ratio=3.0)
    first, again, other = (compress_group(loaded.model, loaded.info, asked, seed=seed) for seed in (0, 0, 1))
    assert first.figures.relative_error == again.figures.relative_error != other.figures.relative_error


def test_progress_is_passed_on_and_may_stop_the_fit(tiny: Tiny) -> None:
    loaded = tiny("bert")
    asked = Group(name="ae", modules=MODULES["rows"], method="autoencoder", options=AUTOENCODER, ratio=3.0)
    seen: list[float] = []
    compress_group(loaded.model, loaded.info, asked, report=seen.append)
    assert seen[-1] == 1.0 and seen == sorted(seen)

    def stop(_fraction: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress_group(loaded.model, loaded.info, asked, report=stop)


@pytest.mark.parametrize(("method", "options"), [("svd", {}), ("autoencoder", AUTOENCODER)])
@pytest.mark.parametrize("name", FAMILIES)
def test_compressing_leaves_the_model_bit_identical(tiny: Tiny, name: str, method: str, options: dict[str, Any]) -> None:
    loaded = tiny(name)
    before = bits_of(loaded)
    logits = tiny_models.outputs(loaded.model)
    for how, modules in MODULES.items():
        for ratio in (1.0, 3.0):
            group = compress_group(
                loaded.model,
                loaded.info,
                Group(name="some", modules=modules, stack=how, method=method, options=options, ratio=ratio),
            )
            for matrix in group.reconstructions.values():
                matrix.zero_()  # this would change the model if the result shared its memory
    after = dict(loaded.model.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(bits, after[path]) for path, bits in before.items())
    assert all(torch.equal(old, new) for old, new in zip(logits, tiny_models.outputs(loaded.model), strict=True))


def test_a_budget_that_is_too_small_is_said(tiny: Tiny) -> None:
    with pytest.raises(BudgetTooSmall, match=r"rank 1 of a \(24, 24\) matrix needs 48 parameters, but the budget is 5"):
        svd(tiny("bert"), "key.0", ratio=100.0)


def test_a_group_of_another_model_is_refused(tiny: Tiny) -> None:
    loaded = tiny("bert")
    with pytest.raises(ModelError, match=r"no module 'key\.9'"):
        svd(loaded, "key.0", "key.9")
    wrong = replace(loaded.info, modules=tuple(replace(spec, rows=spec.rows + 1) for spec in loaded.info.modules))
    with pytest.raises(ModelError, match="does not match"):
        compress_group(loaded.model, wrong, Group(name="some", modules=("key.0",)))


# ------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
@pytest.mark.parametrize(
    ("method", "options"), [("svd", {}), ("autoencoder", AUTOENCODER), ("autoencoder", {"epochs": 1, "decoder": "linear"})]
)
@pytest.mark.parametrize("ratio", [1.0, 5.0])
def test_a_saved_group_decodes_to_the_same_matrix(
    *, tiny: Tiny, tmp_path: Path, method: str, options: dict[str, Any], dtype: str, ratio: float
) -> None:
    loaded = tiny("gpt2")
    asked = Group(
        name="some.group-1",
        modules=MODULES["residual"],
        stack="residual",
        method=method,
        options=options,
        ratio=ratio,
        unit="bytes",
        dtype=dtype,
    )
    group = compress_group(loaded.model, loaded.info, asked)
    path = save_group(group, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "some.group-1.safetensors"
    manifest, compressed = load_group(path)
    assert torch.equal(compressed.reconstruct(), group.compressed.reconstruct())
    assert {name: tensor.dtype for name, tensor in compressed.tensors.items()} == {
        name: tensor.dtype for name, tensor in group.compressed.tensors.items()
    }
    assert {key: manifest[key] for key in ("name", "method", "stack", "modules")} == {
        "name": asked.name,
        "method": method,
        "stack": "residual",
        "modules": list(asked.modules),
    }
    parts = unstack(compressed.reconstruct(), members(asked, loaded.info), manifest["stack"])
    assert all(torch.equal(parts[spec], matrix) for spec, matrix in group.reconstructions.items())
    payload = sum(tensor.nbytes for tensor in load_file(path).values())
    assert payload == group.figures.num_bytes == compressed.stored.num_bytes


def test_only_the_factors_are_in_the_file_and_not_the_matrix(tiny: Tiny, tmp_path: Path) -> None:
    path = save_group(svd(tiny("bert"), *MODULES["rows"], ratio=4.0), tmp_path)
    assert {name: tuple(tensor.shape) for name, tensor in load_file(path).items()} == {"left": (112, 4), "right": (4, 24)}


def test_a_ledger_that_does_not_fit_the_file_is_an_error(tiny: Tiny, tmp_path: Path) -> None:
    group = svd(tiny("bert"), "key.0", ratio=2.0)
    for step in (1, -1):
        claimed = replace(group, figures=group.figures.model_copy(update={"num_bytes": group.figures.num_bytes + step}))
        with pytest.raises(StorageError, match=r"contains \d+ bytes of tensors, but its ledger says \d+"):
            save_group(claimed, tmp_path)


def test_a_folder_that_cannot_be_made_is_one_sentence(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        save_group(svd(tiny("bert"), "key.0", ratio=2.0), tmp_path / "file" / "groups")


# ------------------------------------------------------------------------------------------------ back into the model


@pytest.mark.parametrize("how", MODULES)
@pytest.mark.parametrize("name", FAMILIES)
def test_compressed_weights_change_the_outputs_and_go_again(tiny: Tiny, name: str, how: str) -> None:
    loaded = tiny(name)
    before, bits = tiny_models.outputs(loaded.model), bits_of(loaded)
    group = svd(loaded, *MODULES[how], how=how, ratio=4.0)
    with substituted(loaded.model, group.reconstructions):
        for spec, matrix in group.reconstructions.items():
            assert torch.equal(read(loaded.model, spec), matrix)
        assert (before[0] - tiny_models.outputs(loaded.model)[0]).abs().max() > 1e-3
    assert all(torch.equal(bits[path], parameter) for path, parameter in loaded.model.named_parameters())


def test_a_ratio_of_one_changes_no_output(tiny: Tiny) -> None:
    loaded = tiny("bert")
    before = tiny_models.outputs(loaded.model)
    group = svd(loaded, *MODULES["residual"], how="residual", ratio=1.0)
    with substituted(loaded.model, group.reconstructions):
        after = tiny_models.outputs(loaded.model)
    assert group.figures.relative_error == 0
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_a_smaller_ratio_keeps_the_outputs_closer(tiny: Tiny) -> None:
    loaded = tiny("bert")
    before = tiny_models.outputs(loaded.model)[0]
    gaps = []
    for ratio in (1.1, 2.0, 8.0):
        with substituted(loaded.model, svd(loaded, *MODULES["residual"], how="residual", ratio=ratio).reconstructions):
            gaps.append((tiny_models.outputs(loaded.model)[0] - before).norm().item())
    assert 0 < gaps[0] < gaps[1] < gaps[2]
