"""`export --dense` copies the folder of the model and changes nothing but the values of the compressed weights."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from offcomp.errors import InputError, ModelError
from offcomp.files import closing, take_lock
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.loading import LoadedModel, describe, load
from offcomp.models.weights import read, substituted
from offcomp.numerics.progress import ignore_progress
from offcomp.planning.plan import Group
from offcomp.runs import dense_export
from offcomp.runs.dense_export import files_of
from offcomp.runs.export import export_run, reconstructions
from offcomp.runs.manifest import MANIFEST, Manifest
from offcomp.runs.verify import verify
from tests import tiny_models
from tests.checkpoints import DTYPES, files_in, headers, store_as
from tests.exported import GROUPS, finished_run
from tests.language_models import masked, opened

OWN_FILES = {
    "modules.json": b"[]",
    "sentence_bert_config.json": b'{"max_seq_length": 16}',
    "1_Pooling/config.json": b'{"pooling_mode_cls_token": true}',
    "2_Dense/config.json": b"{}",
    "2_Dense/model.safetensors": bytes(16),
    "README.md": b"# A model of mine\r\n",
    "LICENSE": b"Apache",
    ".gitattributes": b"*.safetensors filter=lfs",
}
STAY_BEHIND = {
    "pytorch_model.bin": b"pickle",
    "2_Dense/pytorch_model.bin": b"pickle",
    "tf_model.h5": b"weights",
    "onnx/model.onnx": b"weights",
    "consolidated.safetensors": bytes(8),
    "offcomp.json": b"{}",
}
FAMILIES = {
    "gpt2": ("query.0", "value.1", "ffn_in.0", "word_embeddings"),  # Conv1D, pieces of a fused weight, a tied head
    "t5_gated": ("word_embeddings", "encoder.query.0", "cross.key.1"),
    "qwen2": ("word_embeddings", "ffn_gate.0"),
    "bert_base": ("query.0", "ffn_out.1"),
    "albert": ("word_embeddings", "query.0"),
}


def put(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def exported(loaded: LoadedModel, place: Path, groups: tuple[Group, ...] = GROUPS) -> Manifest:
    return export_run(finished_run(loaded, place / "run", groups), loaded.info, place / "out", dense=True)


def matrices(place: Path, manifest: Manifest) -> dict[ModuleSpec, torch.Tensor]:
    return {s: part for g in manifest.groups for s, part in reconstructions(place / "out", manifest, g).items()}


def losses(loaded: LoadedModel) -> NDArray[np.float64]:
    """The loss of the model on each masked token of a few texts."""
    return masked(loaded).reference(ignore_progress)["loss"]


@pytest.mark.parametrize("dtypes", ["float32", *DTYPES])
def test_a_dense_export_keeps_every_dtype_and_every_other_file(tmp_path: Path, dtypes: str) -> None:
    folder = tiny_models.save(tiny_models.bert(), tmp_path / "model")
    if dtypes != "float32":
        store_as(folder, DTYPES[dtypes])
    put(folder, OWN_FILES)
    before = files_in(folder)
    put(folder, STAY_BEHIND)
    manifest = exported(load(str(folder)), tmp_path)
    out = tmp_path / "out"
    assert headers(out) == headers(folder)
    after = {name: content for name, content in files_in(out).items() if not name.startswith("groups/") and name != MANIFEST}
    assert set(after) == set(before)
    assert [name for name in before if before[name] != after[name]] == ["model.safetensors"]
    assert sum(map(len, after.values())) == sum(map(len, before.values()))
    assert set(manifest.left_out) == set(STAY_BEHIND)
    old, new = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    compressed = {path for spec in manifest.original.modules for path in (spec.path, *spec.tied)}
    assert {key for key in old if not torch.equal(old[key], new[key])} == compressed & set(old)
    assert [check.holds for check in verify(out)] == [True] * 5


def test_an_export_that_was_killed_leaves_nothing_and_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(str(tiny_models.save(tiny_models.bert(), tmp_path / "model")))
    exported(loaded, tmp_path / "whole")
    run, out = finished_run(loaded, tmp_path / "run", GROUPS), tmp_path / "out"
    pid = os.fork()
    if pid == 0:
        monkeypatch.setattr(dense_export, "_overwrite", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        try:
            export_run(run, loaded.info, out, dense=True)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    unfinished = tmp_path / f".out.{pid}.part"
    assert (unfinished / "model.safetensors").is_file() and not out.exists()
    with closing(os.open(unfinished, os.O_RDONLY)) as file:
        assert take_lock(file)  # as a process that still writes it would
        export_run(run, loaded.info, tmp_path / "out", dense=True)
        assert unfinished.exists()
    shutil.rmtree(out)
    export_run(run, loaded.info, out, dense=True)
    assert not unfinished.exists()
    whole, again = files_in(tmp_path / "whole" / "out"), files_in(out)
    assert whole.keys() == again.keys()
    assert [name for name in whole if whole[name] != again[name]] in ([], [MANIFEST])


@pytest.mark.parametrize("dtypes", DTYPES)
def test_a_dense_export_scores_in_transformers_as_the_run_did(tmp_path: Path, dtypes: str) -> None:
    """Runs evaluate the model with each weight rounded to its stored dtype, so the two are bit-identical."""
    tokenizer = opened(tmp_path, "bert").tokenizer
    folder = store_as(tmp_path / "bert", DTYPES[dtypes])
    loaded = replace(load(str(folder)), tokenizer=tokenizer)
    manifest = exported(loaded, tmp_path)
    with substituted(loaded.model, matrices(tmp_path, manifest)):
        of_the_run, expected = losses(loaded), tiny_models.outputs(loaded.model)
    again = replace(load(str(tmp_path / "out")), tokenizer=tokenizer)
    assert np.array_equal(losses(again), of_the_run)
    assert not np.allclose(losses(loaded), of_the_run)
    assert again.info.modules == loaded.info.modules
    plain = transformers.AutoModelForPreTraining.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    for found, right in zip(tiny_models.outputs(plain), expected, strict=True):
        assert torch.equal(found, right)
    stored = transformers.AutoModel.from_pretrained(tmp_path / "out", dtype="auto")
    assert stored.dtype == transformers.AutoModel.from_pretrained(folder, dtype="auto").dtype


@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_kind_of_weight_is_written_where_its_file_has_it(tmp_path: Path, name: str, dtypes: str) -> None:
    model = tiny_models.TINY[name]()
    model.save_pretrained(tmp_path / "model", max_shard_size="9KB")
    loaded = load(str(store_as(tmp_path / "model", DTYPES[dtypes])))
    groups = tuple(Group(name=module, modules=(module,), ratio=2.0) for module in FAMILIES[name])
    manifest = exported(loaded, tmp_path, groups)
    assert headers(tmp_path / "out") == headers(tmp_path / "model")
    assert len({file for file, _, _ in headers(tmp_path / "out").values()}) > 2
    back = load(str(tmp_path / "out"))
    for spec, matrix in matrices(tmp_path, manifest).items():
        assert torch.equal(read(back.model, spec), matrix)
    assert [check.holds for check in verify(tmp_path / "out")] == [True] * 5


def test_keys_with_and_without_the_prefix_of_the_base_model_are_found(tmp_path: Path) -> None:
    """A task model whose file was saved from the base model, and a base model whose file was saved from a task model."""
    config = tiny_models.bert_base().config
    folder = tiny_models.save(tiny_models.bert_base(), tmp_path / "model")
    config.architectures = ["BertForSequenceClassification"]
    tiny_models.save(tiny_models.bert_classifier(), tmp_path / "classifier")
    config.architectures = ["BertModel"]
    config.save_pretrained(tmp_path / "classifier")
    for place in (folder, tmp_path / "classifier"):
        loaded = load(str(place))
        manifest = exported(loaded, place, (Group(name="key", modules=("key.0", "key.1"), ratio=3.0),))
        assert headers(place / "out") == headers(place)
        for spec, matrix in matrices(place, manifest).items():
            assert torch.equal(read(load(str(place / "out")).model, spec), matrix)


def test_tied_copies_in_a_file_are_both_written(tmp_path: Path) -> None:
    folder = tiny_models.save(tiny_models.gpt2(), tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    loaded = load(str(folder))
    exported(loaded, tmp_path, (Group(name="words", modules=("word_embeddings",), ratio=2.0),))
    new = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(new["lm_head.weight"], new["transformer.wte.weight"])
    assert not torch.equal(new["lm_head.weight"], tensors["lm_head.weight"])
    assert describe(str(tmp_path / "out")).modules == loaded.info.modules


def test_links_inside_are_followed_and_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    cache = tmp_path / "models--me--mine"
    folder = tiny_models.save(tiny_models.bert(), cache / "snapshots" / "1a2b")
    (cache / "blobs").mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        blob = cache / "blobs" / str(number)
        file.rename(blob)
        file.symlink_to(blob)
    exported(load(str(folder)), tmp_path)
    assert not any(file.is_symlink() for file in (tmp_path / "out").rglob("*"))
    assert (tmp_path / "out" / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    (tmp_path / "secret").write_text("mine")
    (folder / "notes.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=r"notes\.txt is a link to .*secret, which is outside the model's folder"):
        exported(load(str(folder)), tmp_path / "again")
    assert not (tmp_path / "again" / "out").exists()


def test_a_linked_folder_is_copied_and_links_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    folder = tiny_models.save(tiny_models.bert(), tmp_path / "model")
    put(folder, {"parts/pooling/config.json": b'{"pooling_mode_cls_token": true}'})
    (folder / "1_Pooling").symlink_to("parts/pooling", target_is_directory=True)
    (folder / "gone.txt").symlink_to(folder / "nowhere.txt")
    (folder / "parts" / "up").symlink_to(folder, target_is_directory=True)
    (folder / "circle").symlink_to("circle")
    manifest = exported(load(str(folder)), tmp_path)
    out = tmp_path / "out"
    assert (out / "1_Pooling" / "config.json").read_bytes() == (folder / "parts" / "pooling" / "config.json").read_bytes()
    assert not (out / "1_Pooling").is_symlink()
    assert set(manifest.left_out) == {"circle", "gone.txt", "parts/up"}


def test_a_model_may_lie_in_a_folder_right_below_the_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The root and its folders have no grandparent. Tests cannot create folders there, so all folders appear to be empty."""
    monkeypatch.setattr(Path, "iterdir", lambda _folder: iter(()))
    assert list(files_of(Path("/"))) == list(files_of(Path("/model"))) == []


def test_a_value_beyond_the_stored_dtype_is_refused(tmp_path: Path) -> None:
    folder = store_as(tiny_models.save(tiny_models.bert(), tmp_path / "model"), DTYPES["float16"])
    loaded = load(str(folder))
    run = finished_run(loaded, tmp_path / "run", (Group(name="key", modules=("key.0",), ratio=2.0, dtype="float32"),))
    file = run.group_file("key")
    with safe_open(file, framework="pt") as content:
        about = content.metadata()
    save_file({name: tensor * 1e4 for name, tensor in load_file(file).items()}, file, metadata=about)
    with pytest.raises(ModelError, match=r"values of the compressed key\.0 overflow F16"):
        export_run(run, loaded.info, tmp_path / "out", dense=True)
    assert not (tmp_path / "out").exists()
