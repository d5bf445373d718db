"""An export contains exactly the tensors of its run, a manifest that describes them, and a model that transformers loads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from offcomp.errors import InputError, StorageError
from offcomp.files import read_json
from offcomp.methods import METHODS, own_options
from offcomp.methods.base import Method
from offcomp.models.loading import load
from offcomp.models.matrix_files import save_upload
from offcomp.models.weights import read, substituted
from offcomp.planning.plan import Group
from offcomp.results.bundled import bundled_runs
from offcomp.runs.export import export_run, reconstructions
from offcomp.runs.manifest import MANIFEST, read_manifest
from offcomp.runs.store import Run
from offcomp.runs.verify import verify
from tests import tiny_models
from tests.exported import GROUPS, finished_run
from tests.method_contract import VARIANTS
from tests.tiny_models import Tiny

FAMILIES = {
    "gpt2": ("query.0", "value.1", "ffn_in.0"),  # Conv1D, and pieces of a fused weight
    "t5_gated": ("word_embeddings", "encoder.query.0", "cross.key.1"),  # the head is not tied to the embedding
    "qwen2": ("word_embeddings", "ffn_gate.0"),
    "albert": ("word_embeddings", "query.0"),
}
CHEAP = {style_key: options[0] for style_key, options in VARIANTS.items()} | {"residual": {"steps": 5}}


@pytest.fixture(scope="module")
def run(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return finished_run(tiny("bert"), tmp_path_factory.mktemp("run"))


def held(folder: Path) -> list[bool | None]:
    """The outcome of each check of an export, or None if the check was skipped."""
    return [check.holds for check in verify(folder)]


def test_the_stored_tensors_are_those_of_the_run_and_of_the_ledger(tiny: Tiny, run: Run, tmp_path: Path) -> None:
    manifest = export_run(run, tiny("bert").info, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["groups", MANIFEST]
    for group in manifest.groups:
        stored = load_file(tmp_path / "out" / group.file)
        ledger = {entry.name: (list(entry.shape), entry.dtype, entry.bytes) for entry in group.ledger}
        assert ledger == {
            name: (list(t.shape), str(t.dtype).removeprefix("torch."), t.numel() * t.element_size())
            for name, t in stored.items()
        }
        assert sum(entry.bytes for entry in group.ledger) == group.num_bytes == sum(t.nbytes for t in stored.values())
        assert run.group_file(group.name).read_bytes() == (tmp_path / "out" / group.file).read_bytes()
    assert manifest.num_bytes == sum(group.num_bytes for group in manifest.groups)
    assert held(tmp_path / "out") == [True, True, True, True, None]


def test_the_manifest_says_what_was_compressed_and_reads_itself(tiny: Tiny, run: Run, tmp_path: Path) -> None:
    info = tiny("bert").info
    manifest = export_run(run, info, tmp_path / "out")
    document = read_json(tmp_path / "out" / MANIFEST)
    assert document["schema"] == 1
    assert document["plan"] == run.plan.to_dict()
    assert (document["original"]["model"], document["original"]["fingerprint"]) == (info.model, info.fingerprint)
    assert [module["name"] for module in document["original"]["modules"]] == [m for g in GROUPS for m in g.modules]
    assert document["original"]["modules"][2]["tied"] == ["cls.predictions.decoder.weight"]
    assert document["sizes"] == run.result.model.sizes.to_dict()
    assert read_manifest(tmp_path / "out").to_dict() == manifest.to_dict() == document


def test_the_reconstructions_are_those_of_the_run(tiny: Tiny, run: Run, tmp_path: Path) -> None:
    loaded = tiny("bert")
    manifest = export_run(run, loaded.info, tmp_path / "out")
    for group in manifest.groups:
        matrices = reconstructions(tmp_path / "out", manifest, group)
        originals = [read(loaded.model, spec) for spec in matrices]
        difference = sum((exact - part).square().sum() for exact, part in zip(originals, matrices.values(), strict=True))
        energy = sum(exact.square().sum() for exact in originals)
        assert float((difference / energy).sqrt()) == pytest.approx(group.relative_error, rel=1e-5)


def test_a_dense_export_is_a_model_that_transformers_loads(tiny: Tiny, run: Run, tmp_path: Path) -> None:
    loaded = tiny("bert")
    manifest = export_run(run, loaded.info, tmp_path / "out", dense=True)
    there = {path.name for path in (tmp_path / "out").iterdir()}
    assert there == {"config.json", "groups", "model.safetensors", MANIFEST, "tokenizer.json", "tokenizer_config.json"}
    assert set(manifest.files) == {
        file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*.*")
    } - {MANIFEST}
    plain = transformers.AutoModelForPreTraining.from_pretrained(tmp_path / "out").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("w3 w5 nothing").input_ids == loaded.tokenizer("w3 w5 nothing").input_ids  # type: ignore[misc]
    matrices = {spec: part for g in manifest.groups for spec, part in reconstructions(tmp_path / "out", manifest, g).items()}
    with substituted(loaded.model, matrices):
        expected = tiny_models.outputs(loaded.model)
    unlike = tiny_models.outputs(loaded.model)
    for found, right, original in zip(tiny_models.outputs(plain), expected, unlike, strict=True):
        torch.testing.assert_close(found, right)
        assert not torch.allclose(found, original)
    assert plain.get_input_embeddings().weight is plain.get_output_embeddings().weight
    assert held(tmp_path / "out") == [True] * 5


@pytest.mark.parametrize("name", FAMILIES)
def test_a_dense_export_of_every_kind_of_weight_holds(tiny: Tiny, tmp_path: Path, name: str) -> None:
    loaded = tiny(name)
    groups = [Group(name=module, modules=(module,), ratio=2.0) for module in FAMILIES[name]]
    export_run(finished_run(loaded, tmp_path / "run", groups), loaded.info, tmp_path / "out", dense=True)
    assert held(tmp_path / "out") == [True] * 5
    back = load(str(tmp_path / "out"))
    assert back.info.modules == loaded.info.modules


def test_bare_matrices_are_exported_as_well(tmp_path: Path) -> None:
    drawn = np.random.default_rng(3).standard_normal((2, 30, 20)).astype("float32")
    np.savez(tmp_path / "mine.npz", first=drawn[0], second=drawn[1])
    loaded = load(str(save_upload("mine.npz", (tmp_path / "mine.npz").read_bytes(), tmp_path)))
    run = finished_run(loaded, tmp_path / "run", [Group(name="both", modules=("first", "second"))])
    export_run(run, loaded.info, tmp_path / "out", dense=True)
    assert held(tmp_path / "out") == [True] * 5


@pytest.mark.parametrize("method", METHODS, ids=[method.style_key for method in METHODS])
def test_what_any_method_stores_is_exported_and_decoded_again(tiny: Tiny, tmp_path: Path, method: type[Method]) -> None:
    loaded = tiny("bert")
    options = own_options(method) | CHEAP.get(method.style_key, {})
    group = Group(
        name="some",
        modules=("ffn_in.0", "ffn_in.1"),
        method=method.name,
        options=options,
        ratio=2.0,
        unit="bytes",
        dtype="int8",
    )
    manifest = export_run(finished_run(loaded, tmp_path / "run", [group]), loaded.info, tmp_path / "out")
    assert 0 < manifest.groups[0].relative_error < 1
    assert held(tmp_path / "out") == [True, True, True, True, None]


def test_a_group_that_stays_as_it_is_need_not_differ(tiny: Tiny, tmp_path: Path) -> None:
    loaded = tiny("bert")
    run = finished_run(loaded, tmp_path / "run", [Group(name="key", modules=("key.0",), ratio=1.0)])
    manifest = export_run(run, loaded.info, tmp_path / "out", dense=True)
    assert (manifest.groups[0].form, manifest.groups[0].relative_error) == ("dense", 0.0)
    assert held(tmp_path / "out") == [True] * 5


# ------------------------------------------------------------------------------------------------------------ refusals


def test_a_folder_with_something_in_it_is_left_alone(tiny: Tiny, run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for taken in (tmp_path / "mine", tmp_path / "mine" / "letter.txt"):
        with pytest.raises(InputError, match="already exists and is not an empty folder; specify a new or empty folder"):
            export_run(run, tiny("bert").info, taken)
    with pytest.raises(InputError, match=r"cannot write to .*letter.txt/out: Not a directory; specify a folder"):
        export_run(run, tiny("bert").info, tmp_path / "mine" / "letter.txt" / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "letter.txt"]
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_an_empty_folder_and_one_in_a_folder_to_come_are_filled(tiny: Tiny, run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "new" / "below"):
        export_run(run, tiny("bert").info, folder)
        assert held(folder) == [True, True, True, True, None]


def copy_of(run: Run, folder: Path) -> Run:
    """The run with its own copies of the files, which a test may damage."""
    for group in run.plan.groups:
        path = folder / "groups" / f"{group.name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(run.group_file(group.name).read_bytes())
    return replace(run, folder=folder)


def test_a_damaged_run_is_refused_and_nothing_is_left(tiny: Tiny, run: Run, tmp_path: Path) -> None:
    damaged = copy_of(run, tmp_path / "run")
    file = damaged.group_file("words")
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(StorageError, match=r"run 0123456789ab is damaged: group 'words' cannot be read.*--again"):
        export_run(damaged, tiny("bert").info, tmp_path / "place" / "out")
    assert list((tmp_path / "place").iterdir()) == []


def test_a_tensor_that_the_ledger_does_not_know_is_refused(tiny: Tiny, run: Run, tmp_path: Path) -> None:
    damaged = copy_of(run, tmp_path / "run")
    damaged.group_file("key").write_bytes(run.group_file("words").read_bytes())
    with pytest.raises(
        StorageError, match=r"group 'key' stores 'left' as 61 x \d+ float16 in [\d,]+ bytes, but its ledger says"
    ):
        export_run(damaged, tiny("bert").info, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: replace(run, status="failed"), "run 0123456789ab has status failed and no compressed weights"),
        (lambda run: replace(run, plan=run.plan.replace(groups=())), "compresses nothing"),
        (
            lambda run: replace(run, folder=Path("nowhere")),
            "results but no compressed weights; print its plan with 'offcomp show",
        ),
        (lambda _: bundled_runs()[0], "results but no compressed weights"),
    ],
)
def test_a_run_without_weights_is_refused(
    tiny: Tiny, run: Run, tmp_path: Path, change: Callable[[Run], Run], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        export_run(change(run), tiny("bert").info, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_that_has_changed_since_is_refused(tiny: Tiny, run: Run, tmp_path: Path) -> None:
    info = replace(tiny("bert").info, reads="another")
    with pytest.raises(InputError, match="no longer the model that run 0123456789ab compressed"):
        export_run(run, info, tmp_path / "out", dense=True)


def test_whether_a_run_has_weights(run: Run, tmp_path: Path) -> None:
    assert run.has_weights
    assert not any(bundled.has_weights for bundled in bundled_runs())
    assert not replace(run, plan=run.plan.replace(groups=())).has_weights
    partial = copy_of(run, tmp_path / "run")
    partial.group_file("ffn").unlink()
    assert not partial.has_weights
