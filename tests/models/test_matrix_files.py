"""Matrix files of users are read, with unsuitable arrays skipped and reported, or refused; plans on them can be run."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save as save_arrays
from safetensors.torch import save as save_tensors

from offcomp.errors import InputError, ModelError, PlanError
from offcomp.models import matrix_files
from offcomp.models.loading import load
from offcomp.models.matrix_files import read_matrices, save_upload
from offcomp.models.sources import check_folder
from offcomp.models.weights import read
from offcomp.planning.plan import Group, Plan, validate
from offcomp.runs.compress import compress_group
from tests import tiny_models
from tests.cli.test_main import Command

QUERY = "bert.encoder.layer.{}.attention.self.query.weight"
Arrays = dict[str, NDArray[Any]]


def values(rows: int, cols: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(rows, cols)).astype(np.float32)


def npz(arrays: Arrays) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def npy(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_everything_that_is_no_matrix_is_named_and_left_out() -> None:
    spoiled = values(4, 3)
    spoiled[0, 0] = np.nan
    arrays: Arrays = {
        "good": values(4, 3),
        "bias": values(1, 3)[0],
        "stack": np.ones((2, 3, 4), np.float32),
        "row": values(1, 3),
        "ids": np.ones((3, 3), np.int64),
        "spoiled": spoiled,
        "huge": np.full((2, 2), 1e300),
        "objects": np.array([[{}, {}], [{}, {}]], dtype=object),
    }
    found = read_matrices("w.npz", npz(arrays))
    assert {name: (m.rows, m.cols, m.dtype) for name, m in found.matrices.items()} == {"good": (4, 3, "F32")}
    assert found.skipped == {
        "bias": "has 1 dimension, not 2",
        "stack": "has 3 dimensions, not 2",
        "row": "is 1 x 3, too small to compress",
        "ids": "is stored as int64, not as floating-point numbers",
        "spoiled": "has 1 value that is not finite in float32 (NaN, infinite or too large)",
        "huge": "has 4 values that are not finite in float32 (NaN, infinite or too large)",
        "objects": "is stored as pickled objects, not as floating-point numbers",
    }


@pytest.mark.parametrize("how", ["npz", "npy", "safetensors", "by columns", "big-endian", "float64"])
def test_values_survive_every_file(how: str, tmp_path: Path) -> None:
    matrix = values(5, 3)
    name, content = {
        "npz": ("w.npz", npz({"w": matrix})),
        "npy": ("w.npy", npy(matrix)),
        "safetensors": ("w.SAFETENSORS", save_arrays({"w": matrix})),
        "by columns": ("w.npy", npy(np.asfortranarray(matrix))),
        "big-endian": ("w.npy", npy(matrix.astype(">f4"))),
        "float64": ("w.npz", npz({"w": matrix.astype(np.float64)})),
    }[how]
    loaded = load(str(save_upload(name, content, tmp_path)))
    (spec,) = loaded.info.modules
    assert (spec.name, spec.kind, loaded.info.dtype, loaded.info.family) == ("w", "other", "float32", None)
    assert np.array_equal(read(loaded.model, spec).numpy(), matrix)


def test_small_number_formats_stay_small(tmp_path: Path) -> None:
    matrix = torch.from_numpy(values(6, 4))
    folder = save_upload("w.safetensors", save_tensors({"w": matrix.bfloat16(), "v": matrix.bfloat16()}), tmp_path)
    loaded = load(str(folder))
    assert (loaded.info.dtype, loaded.info.num_bytes) == ("bfloat16", 2 * 2 * 24)
    assert torch.equal(read(loaded.model, loaded.info.modules[0]), matrix.bfloat16().float())
    broken = torch.tensor([[1.0, float("inf")], [1.0, 1.0]]).bfloat16()
    with pytest.raises(InputError, match=r"contains no matrix that can be compressed: w has 1 value that is not finite"):
        read_matrices("w.safetensors", save_tensors({"w": broken}))


def test_names_of_a_known_family_are_recognised(tmp_path: Path) -> None:
    arrays: Arrays = {QUERY.format(layer): values(4, 4, layer) for layer in (0, 3)} | {"my weights,~;": values(4, 4)}
    folder = save_upload("some/where/w.npz", npz(arrays | {"bias": np.ones(3)}), tmp_path)
    info = load(str(folder)).info
    assert [(m.name, m.kind, m.layer) for m in info.modules] == [
        ("query.0", "query", 0),
        ("query.3", "query", 3),
        ("my-weights", "other", None),
    ]
    assert info.num_layers == 4
    config = check_folder(folder)
    assert (config["file"], config["left_out"]) == ("w.npz", ["bias has 1 dimension, not 2"])


def test_the_weights_of_a_whole_model_are_those_of_the_model(tmp_path: Path) -> None:
    folder = tiny_models.save(tiny_models.bert(), tmp_path / "bert")
    original, own = load(str(folder)), save_upload("b.safetensors", (folder / "model.safetensors").read_bytes(), tmp_path)
    uploaded = load(str(own))
    for spec in (spec for spec in original.info.modules if spec.default):
        assert torch.equal(read(uploaded.model, uploaded.info.module(spec.name)), read(original.model, spec))


def test_a_plan_compresses_it_and_no_task_fits(tmp_path: Path) -> None:
    folder = save_upload("w.npz", npz({"w": values(12, 8)}), tmp_path)
    loaded = load(str(folder))
    group = Group(name="w", modules=("w",), ratio=2.0)
    validate(Plan(model=str(folder), groups=(group,), tasks=()), loaded.info)
    result = compress_group(loaded.model, loaded.info, group)
    singular = np.linalg.svd(values(12, 8).astype(np.float64), compute_uv=False)
    rank = result.figures.size
    assert rank * (12 + 8) <= 48
    assert result.figures.relative_error == pytest.approx(np.sqrt((singular[rank:] ** 2).sum() / (singular**2).sum()))
    with pytest.raises(PlanError, match="needs a model that reads text, but this one is only a set of matrices"):
        validate(Plan(model=str(folder), groups=(group,), tasks=("sentiment",)), loaded.info)


def test_a_plan_of_the_command_line_asks_for_no_task(offcomp: Command, tmp_path: Path) -> None:
    folder = save_upload("w.npz", npz({"w": values(12, 8)}), tmp_path)
    plan = json.loads(offcomp("plan", str(folder), "--modules", "w", "--json")[1])
    assert (plan["tasks"], plan["groups"][0]["modules"]) == ([], ["w"])


def lying_npz() -> bytes:
    """The bytes of an npz file whose only member declares more data than it contains."""
    header = npy(np.ones((2, 2), np.float32))[:-16].replace(b"(2, 2)", b"(9, 9)")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("w.npy", header + bytes(16))
    return stream.getvalue()


def damaged_lzma() -> bytes:
    """The bytes of an LZMA-compressed npz file, a kind that numpy reads like any other, with one byte changed."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("w.npy", npy(values(4, 3)))
    content = bytearray(stream.getvalue())
    content[content.index(b"w.npy") + len("w.npy") + 4] = 0xFF  # the first byte of the LZMA filter's properties
    return bytes(content)


BAD_FILES = {
    "not a supported matrix file; supported extensions are .safetensors, .npz, .npy": ("w.bin", b"x"),
    "is not a complete safetensors file": ("w.safetensors", save_arrays({"w": values(4, 3)})[:-5]),
    "is not a valid npz file": ("w.npz", b"PK not really"),
    "'w' in 'w.npy' is not an array of numbers": ("w.npy", b"\x93NUMPY nonsense"),
    "'v' in 'v.npy' is not an array of numbers": ("v.npy", npy(values(4, 3)).replace(b"(4, 3)", b"(4, 3 ")),
    "'lzma.npz' is not a valid npz file": ("lzma.npz", damaged_lzma()),
    "'w' in 'w.npz' is truncated": ("w.npz", lying_npz()),
    "contains no matrix that can be compressed: it is empty": ("w.npz", npz({})),
    "contains no matrix that can be compressed: w has 1 dimension, not 2": ("w.npy", npy(np.ones(3))),
    "w is stored as pickled objects": ("w.npy", npy(np.array([[{}, {}]] * 2, dtype=object))),
}


@pytest.mark.parametrize("said", BAD_FILES)
def test_what_cannot_be_read_is_said_in_a_sentence(said: str, tmp_path: Path) -> None:
    name, content = BAD_FILES[said]
    with pytest.raises(InputError) as caught:
        save_upload(name, content, tmp_path)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "uploads").exists()


def test_limits_hold_before_anything_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = npz({"w": np.zeros((500, 500))})
    monkeypatch.setattr(matrix_files, "MAX_BYTES", 100_000)
    assert len(zeros) < 100_000
    with pytest.raises(InputError, match="unpacks to 2 MB of matrices; at most 0 MB is supported"):
        read_matrices("w.npz", zeros)
    with pytest.raises(InputError, match="unpacks to 0 MB of matrices; at most 0 MB"):
        read_matrices("w.npy", npy(np.ones((160, 80))))


def test_a_config_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = save_upload("w.npz", npz({"w": values(4, 3), "v": values(4, 3)}), tmp_path)
    config = check_folder(folder)
    for change in (
        {"matrices": [config["matrices"][0]] * 2},
        {"matrices": "no list"},
        {"matrices": [{"name": "w", "rows": -1, "cols": 3}]},
        {"matrices": [{"name": name, "rows": 10**6, "cols": 10**6} for name in ("w", "v")]},
        {"names_of": "gpt2", "matrices": [{"name": "h.0.attn.c_attn", "rows": 6, "cols": 3}]},
        {"matrices": [config["matrices"][0], {"name": "v", "rows": 5, "cols": 3}]},
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ModelError):
            load(str(folder))
