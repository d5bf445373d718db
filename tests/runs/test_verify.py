"""Each check of an export finds the kind of damage that it is meant to find."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from offcomp.errors import InputError
from offcomp.files import read_json
from offcomp.models.loading import load
from offcomp.planning.plan import Group
from offcomp.runs.export import export_run
from offcomp.runs.manifest import MANIFEST, file_entry, ledger_faults, read_manifest
from offcomp.runs.verify import file_faults, total_faults, verify
from tests import tiny_models
from tests.exported import finished_run

NAMES = ("files", "ledger", "decoding", "errors", "dense model")
WEIGHTS = "model.safetensors"
KEY = "groups/key.safetensors"
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny BERT with tied embeddings."""
    return tiny_models.save(tiny_models.shared("bert"), tmp_path_factory.mktemp("original") / "bert")


@pytest.fixture(scope="module")
def sound(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An intact dense export, which passes all checks."""
    place, loaded = tmp_path_factory.mktemp("export"), load(str(original))
    export_run(finished_run(loaded, place / "run"), loaded.info, place / "out", dense=True)
    return place / "out"


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A copy of the intact export, which the test may damage."""
    return shutil.copytree(sound, tmp_path / "out")


def faults(folder: Path, given: str | None = None) -> dict[str, list[str]]:
    """The faults found by each check that fails."""
    return {check.name: check.faults for check in verify(folder, given) if check.faults}


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest."""
    document = read_json(folder / MANIFEST)
    change(document)
    (folder / MANIFEST).write_text(json.dumps(document))


def mark_again(folder: Path, name: str) -> None:
    """Update the checksum of a file, so that damage to the file can be found only from its contents."""
    edit(folder, lambda manifest: manifest["files"].update({name: file_entry(folder / name).to_dict()}))


def rewrite(folder: Path, name: str, change: Callable[[dict[str, Tensor]], None], **about: Any) -> None:
    """Change the tensors of a file, and optionally the metadata of a group's file, and update its checksum."""
    with safe_open(folder / name, framework="pt") as file:
        said = dict(file.metadata() or {})
    tensors = load_file(folder / name)
    change(tensors)
    if about:
        said["offcomp"] = json.dumps(json.loads(said["offcomp"]) | about)
    save_file(tensors, folder / name, metadata=said)
    mark_again(folder, name)


def put(folder: Path, path: str, change: Callable[[Tensor], Tensor]) -> None:
    """Change one tensor of the dense model."""
    rewrite(folder, WEIGHTS, lambda tensors: tensors.update({path: change(tensors[path]).contiguous()}))


def test_everything_holds_in_a_sound_export(sound: Path) -> None:
    checks = verify(sound)
    assert tuple(check.name for check in checks) == NAMES
    assert [check.holds for check in checks] == [True] * 5


def test_every_digit_of_a_checksum_and_every_byte_of_a_size_counts(sound: Path) -> None:
    manifest = read_manifest(sound)
    for name, mark in manifest.files.items():
        digits = mark.sha256
        others = [
            {"sha256": digits[:place] + ("1" if digit == "0" else "0") + digits[place + 1 :]}
            for place, digit in enumerate(digits)
        ]
        for other in [
            *others,
            {"sha256": digits[:-1]},
            {"sha256": ""},
            {"bytes": mark.bytes + 1},
            {"bytes": mark.bytes - 1},
        ]:
            changed = manifest.replace(files={**manifest.files, name: mark.replace(**other)})
            assert [*file_faults(sound, changed)] == [name], other


def test_every_field_of_the_ledger_and_every_total_counts(sound: Path) -> None:
    manifest = read_manifest(sound)
    for total in ("num_parameters", "num_bytes"):
        for step in (1, -1):
            assert total_faults(manifest.replace(**{total: getattr(manifest, total) + step})), (total, step)
    for group in manifest.groups:
        for place, entry in enumerate(group.ledger):
            for other in ({"dtype": "float64"}, {"bytes": entry.bytes + 1}, {"shape": (*entry.shape, 1)}, {"name": "x"}):
                ledger = (*group.ledger[:place], entry.model_copy(update=other), *group.ledger[place + 1 :])
                found = ledger_faults(sound, group.replace(ledger=ledger))
                assert any(repr(entry.name) in fault for fault in found), other


def flip_a_byte(folder: Path, name: str = KEY) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-7] ^= 16
    (folder / name).write_bytes(bytes(content))


def cut_off(folder: Path) -> None:
    (folder / KEY).write_bytes((folder / KEY).read_bytes()[:-4])


def drop_a_tensor(folder: Path) -> None:
    rewrite(folder, KEY, lambda tensors: tensors.pop("right"))


def add_a_tensor(folder: Path) -> None:
    rewrite(folder, KEY, lambda tensors: tensors.update({"more": torch.zeros(3)}))


def turn_a_tensor(folder: Path) -> None:
    rewrite(folder, KEY, lambda tensors: tensors.update({"left": tensors["left"].T.contiguous()}))


def cut_off_with_its_checksum(folder: Path) -> None:
    cut_off(folder)
    mark_again(folder, KEY)


def change_bytes_of_a_group(folder: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["groups"][0]["num_bytes"] -= 4
        manifest["num_bytes"] -= 4

    edit(folder, change)


def change_the_total(folder: Path) -> None:
    edit(folder, lambda manifest: manifest.update({"num_bytes": 12}))


def change_the_parameters(folder: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["groups"][2]["num_parameters"] -= 100
        manifest["num_parameters"] -= 100

    edit(folder, change)


def store_nan(folder: Path) -> None:
    rewrite(folder, KEY, lambda tensors: tensors["left"].view(-1)[5:6].fill_(torch.nan))


def change_the_shape(folder: Path) -> None:
    edit(folder, lambda manifest: manifest["groups"][0].update({"rows": 49}))
    rewrite(folder, KEY, lambda _: None, rows=49)


def change_the_form(folder: Path) -> None:
    rewrite(folder, KEY, lambda _: None, form="dense")


def use_an_unknown_form(folder: Path) -> None:
    edit(folder, lambda manifest: manifest["groups"][0].update({"form": "magic"}))
    rewrite(folder, KEY, lambda _: None, form="magic")


def store_other_factors(folder: Path) -> None:
    rewrite(folder, KEY, lambda tensors: tensors["left"].mul_(1.1))


def change_the_error(folder: Path) -> None:
    edit(folder, lambda manifest: manifest["groups"][1].update({"relative_error": 0.01}))


def drop_the_config(folder: Path) -> None:
    (folder / "config.json").unlink()


DAMAGE: dict[Change, dict[str, str]] = {
    flip_a_byte: {"files": f"{KEY} has been modified"},
    cut_off: {"files": f"{KEY} has 1772 bytes, not 1776", "ledger": "group 'key' cannot be read"},
    drop_a_tensor: {"ledger": "group 'key' lacks the tensor 'right', which its ledger lists"},
    add_a_tensor: {"ledger": "group 'key' stores the tensor 'more', which its ledger does not list"},
    turn_a_tensor: {"ledger": "group 'key' stores 'left' as 5 x 48 float32 in 960 bytes, but its ledger says 48 x 5 float32"},
    cut_off_with_its_checksum: {"ledger": "truncated or damaged"},
    change_bytes_of_a_group: {"ledger": "group 'key' claims 1,436 bytes, but the tensors in its ledger add up to 1,440"},
    change_the_total: {"ledger": "the total num_bytes is 12, but the groups add up to"},
    change_the_parameters: {"decoding": "group 'ffn' cannot be decoded: it stores"},
    store_nan: {"decoding": "of its values are not finite"},
    change_the_shape: {"decoding": "group 'key' cannot be decoded: it decodes to a matrix of shape (48, 24), not (49, 24)"},
    change_the_form: {"decoding": "form is 'dense' in its file, but 'low_rank' in the manifest"},
    use_an_unknown_form: {"decoding": "needs the decoder 'magic', which this version of offcomp lacks"},
    store_other_factors: {
        "errors": "group 'key' has a relative error of",
        "dense model": "key.0 does not match the stored matrix",
    },
    change_the_error: {"errors": "but the manifest says 0.01"},
    drop_the_config: {"files": "config.json cannot be read: No such file", "dense model": "has no 'config.json'"},
}


@pytest.mark.parametrize("damage", DAMAGE, ids=[damage.__name__ for damage in DAMAGE])
def test_damage_is_found_by_its_check_alone(folder: Path, damage: Change) -> None:
    damage(folder)
    found = faults(folder)
    assert set(found) == set(DAMAGE[damage])
    for check, said in DAMAGE[damage].items():
        assert said in found[check][0]


def test_what_was_looked_at_is_said(folder: Path) -> None:
    flip_a_byte(folder)
    checks = {check.name: check for check in verify(folder)}
    assert checks["errors"].scope == "relative error of 2 of 3 groups against the original"
    assert (checks["errors"].holds, checks["dense model"].holds) == (True, True)
    shutil.rmtree(folder / "groups")
    checks = {check.name: check for check in verify(folder)}
    assert [check.holds for check in checks.values()] == [False, False, None, None, True]
    assert checks["decoding"].skip_reason == "no group could be decoded"


def leave_a_weight_unchanged(folder: Path, path: str = "bert.encoder.layer.1.attention.self.key.weight") -> None:
    put(folder, path, lambda _: tiny_models.shared("bert").get_parameter(path))


def leave_the_embeddings_unchanged(folder: Path) -> None:
    leave_a_weight_unchanged(folder, "bert.embeddings.word_embeddings.weight")


def change_a_bias(folder: Path) -> None:
    put(folder, "bert.encoder.layer.0.intermediate.dense.bias", lambda bias: bias + 1e-7)


def change_a_weight_that_no_group_has(folder: Path) -> None:
    put(folder, "bert.encoder.layer.0.attention.self.query.weight", lambda weight: weight * (1 + 1e-6))


def transpose_a_weight(folder: Path) -> None:
    put(folder, "bert.encoder.layer.0.attention.self.key.weight", lambda weight: weight.T)


def untie_the_head(folder: Path) -> None:
    words, head = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
    rewrite(folder, WEIGHTS, lambda tensors: tensors.update({head: tensors[words] + 1}))


def drop_a_weight(folder: Path) -> None:
    rewrite(folder, WEIGHTS, lambda tensors: tensors.pop("bert.encoder.layer.0.attention.self.key.weight"))


def store_a_weight_that_is_not_finite(folder: Path) -> None:
    put(folder, "bert.pooler.dense.bias", lambda bias: bias * torch.inf)


UNLIKE: dict[Change, str] = {
    leave_a_weight_unchanged: "key.1 is still the original matrix, not the compressed one",
    leave_the_embeddings_unchanged: "word_embeddings is still the original matrix, not the compressed one",
    transpose_a_weight: "key.0 does not match the stored matrix",
    change_a_bias: "bert.encoder.layer.0.intermediate.dense.bias differs from the original although no group compresses it",
    change_a_weight_that_no_group_has: "self.query.weight differs from the original although no group compresses it",
    untie_the_head: "cls.predictions.decoder.weight differs from word_embeddings, although the two weights are tied",
    drop_a_weight: "missing keys bert.encoder.layer.0.attention.self.key.weight",
    store_a_weight_that_is_not_finite: "values that are NaN or infinite",
}


@pytest.mark.parametrize("change", UNLIKE, ids=[change.__name__ for change in UNLIKE])
def test_a_dense_model_that_is_not_the_compressed_one_is_found(folder: Path, change: Change) -> None:
    change(folder)
    found = faults(folder)
    assert set(found) == {"dense model"}
    assert len(found["dense model"]) == 1
    assert UNLIKE[change] in found["dense model"][0]


def test_a_flipped_byte_of_the_whole_model_is_found_twice(folder: Path) -> None:
    flip_a_byte(folder, WEIGHTS)
    assert set(faults(folder)) == {"files", "dense model"}


def test_a_piece_of_a_fused_weight_that_no_group_has_must_stay(tmp_path: Path) -> None:
    loaded = load(str(tiny_models.save(tiny_models.gpt2(), tmp_path / "gpt2")))
    run = finished_run(loaded, tmp_path / "run", [Group(name="query", modules=("query.0",), ratio=2.0)])
    export_run(run, loaded.info, tmp_path / "out", dense=True)
    assert faults(tmp_path / "out") == {}

    def change(weight: Tensor) -> Tensor:
        weight[:, 30] += 0.01  # query, key and value have 24 adjacent columns each
        return weight

    put(tmp_path / "out", "transformer.h.0.attn.c_attn.weight", change)
    (fault,) = faults(tmp_path / "out")["dense model"]
    assert fault.startswith("transformer.h.0.attn.c_attn.weight differs from the original although")


# ------------------------------------------------------------------------------------------------- the original elsewhere


def test_without_the_original_the_rest_is_checked(folder: Path, original: Path, tmp_path: Path) -> None:
    edit(folder, lambda manifest: manifest["original"].update({"model": str(tmp_path / "gone")}))
    checks = {check.name: check for check in verify(folder)}
    assert [check.holds for check in checks.values()] == [True, True, True, None, True]
    assert checks["errors"].skip_reason.endswith("specify the original with --original")
    assert [check.holds for check in verify(folder, str(original))] == [True] * 5
    transpose_a_weight(folder)
    untie_the_head(folder)
    assert len(faults(folder)["dense model"]) == 2


def test_an_original_that_has_changed_is_not_measured_against(folder: Path, tmp_path: Path) -> None:
    other = str(tiny_models.save(tiny_models.bert_base(), tmp_path / "other"))
    edit(folder, lambda manifest: manifest["original"].update({"model": other}))
    (errors,) = (check for check in verify(folder) if check.name == "errors")
    assert "is not the model that was compressed" in errors.skip_reason
    for given, said in ((other, "is not the model that was compressed"), ("no-such-model", "no-such-model")):
        with pytest.raises(InputError, match=said):
            verify(folder, given)


# ---------------------------------------------------------------------------------------------------- what is no export


def outside(manifest: dict[str, Any]) -> None:
    manifest["files"]["../secret"] = {"bytes": 1, "sha256": ""}


NO_MANIFEST: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "newer": (lambda m: m.update(schema=2), "its schema is 2, but this version reads only schema 1"),
    "field missing": (lambda m: m.pop("groups"), "lacks the field 'groups'"),
    "no list of groups": (lambda m: m.update(groups=5), "has groups 5; it must be a list of groups"),
    "field unknown": (lambda m: m.update(extra=1), "unknown field 'extra'"),
    "groups of another plan": (lambda m: m["groups"].reverse(), "its groups do not match those of its plan"),
    "wrong type": (lambda m: m["groups"][0].update(num_bytes="many"), "num_bytes 'many'; it must be a whole number"),
    "ledger": (lambda m: m["groups"][0]["ledger"][0].pop("shape"), "it must be a list of tensors"),
    "module": (lambda m: m["original"]["modules"].pop(0), "no module 'key.0'"),
    "shape of a module": (lambda m: m["original"]["modules"][0].update(rows="a"), "it must be a model listing"),
    "file outside": (outside, "lists the file '../secret', which is outside the folder"),
    "group outside": (lambda m: m["groups"][0].update(file="/etc/passwd"), "lists the file '/etc/passwd'"),
}


@pytest.mark.parametrize("case", NO_MANIFEST)
def test_a_manifest_that_cannot_be_used_is_bad_input(folder: Path, case: str) -> None:
    change, said = NO_MANIFEST[case]
    edit(folder, change)
    with pytest.raises(InputError, match="is not a valid export manifest") as refused:
        verify(folder)
    assert said in str(refused.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_a_manifest_that_is_none_is_bad_input(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)
    with pytest.raises(InputError, match="is not a valid export manifest"):
        verify(folder)


def test_a_folder_that_is_none_or_has_no_manifest_is_bad_input(original: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no folder .*gone; specify a folder written by 'offcomp export'"):
        verify(tmp_path / "gone")
    with pytest.raises(InputError, match=r"has no offcomp\.json; specify a folder"):
        verify(original)
