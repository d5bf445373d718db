"""Singular values give exact errors, are kept once computed, and are never those of another model; files are never partial."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from offcomp.errors import StorageError
from offcomp.files import home_folder, read_json, write_bytes, write_json
from offcomp.models import loading, weights
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.loading import LoadedModel, load
from offcomp.numerics import grams
from offcomp.numerics import svd as linalg
from offcomp.planning import spectra
from offcomp.planning.grouping import GROUPINGS, STACKS, group_shape
from offcomp.planning.plan import Group, Plan, make_groups, members
from offcomp.planning.sizes import predict_group
from offcomp.planning.spectra import compute, find, missing
from offcomp.planning.spectrum import (
    DENSE,
    OUT_OF_REACH,
    MatrixSpectrum,
    errors_at,
    relative_error,
    spectrum_key,
)
from offcomp.runs.compress import compress_group, stack
from tests import tiny_models
from tests.minilm import minilm_info

NOWHERE = Path("/nonexistent")


@pytest.fixture(scope="module")
def minilm() -> LoadedModel:
    return load("minilm-l6")


INFO = minilm_info()
LAYERS = [spec for spec in INFO.modules if spec.default and spec.layer is not None]


def named(*names: str) -> list[ModuleSpec]:
    return [INFO.module(name) for name in names]


def preset(grouping: str, name: str, how: str = "best", block: int = 2) -> Group:
    """The group of this name that a preset forms from MiniLM's layers."""
    made = {group.name: group for group in make_groups(LAYERS, grouping, stack=how, block=block)}
    return made[name]


# ----------------------------------------------------------------------------------------- accuracy of the bundled spectra

MEASURED = [
    preset("module", "query.2"),
    preset("module", "ffn_out.5"),
    preset("kind", "key"),
    preset("kind", "value", "columns"),
    preset("kind", "attention_output"),
    preset("kind", "attention_output", "rows"),
    preset("kind", "ffn_out"),
    preset("qkv", "qkv.0"),
    preset("qkv", "qkv.5", "columns"),
    preset("blocks", "ffn_in-layers-0-1"),
    preset("blocks", "value-layers-3-5", block=3),
    preset("all", "all"),
]


@pytest.mark.parametrize("group", MEASURED, ids=lambda group: f"{group.name}-{group.stack}")
def test_the_error_from_the_bundled_spectrum_is_that_of_a_real_svd(minilm: LoadedModel, group: Group) -> None:
    spectrum = find(INFO, members(group, INFO), group.stack, NOWHERE)
    assert spectrum is not None
    for ratio in (2.0, 7.5):
        asked = group.replace(ratio=ratio)
        measured = compress_group(minilm.model, minilm.info, asked).figures
        rank = predict_group(asked, INFO).size
        assert rank == measured.size > 0
        assert relative_error([spectrum], [rank]) == pytest.approx(measured.relative_error, abs=1e-5)


@pytest.mark.parametrize("group", MEASURED, ids=lambda group: f"{group.name}-{group.stack}")
def test_a_bundled_spectrum_has_every_singular_value_in_falling_order(group: Group) -> None:
    specs = members(group, INFO)
    spectrum = find(INFO, specs, group.stack, NOWHERE)
    assert spectrum is not None
    assert spectrum.shape == (min(group_shape(specs, group.stack)),) and spectrum.dtype == np.float32
    assert (np.diff(spectrum) <= 0).all() and spectrum[-1] >= 0


def test_the_error_of_several_groups_together_is_that_of_all_their_weights(minilm: LoadedModel) -> None:
    groups = [preset("kind", "key"), preset("kind", "ffn_out"), preset("kind", "value")]
    ranks = [50, None, 20]
    found = [find(INFO, members(group, INFO), group.stack, NOWHERE) for group in groups]
    residual = energy = 0.0
    for group, rank in zip(groups, ranks, strict=True):
        matrix = stack({spec: weights.read(minilm.model, spec) for spec in members(group, INFO)}, group.stack)
        values = torch.linalg.svdvals(matrix.double())
        energy += values.square().sum().item()
        residual += 0.0 if rank is None else values[rank:].square().sum().item()
    assert relative_error([s for s in found if s is not None], ranks) == pytest.approx((residual / energy) ** 0.5, abs=1e-6)


@pytest.mark.parametrize("how", ["best", *STACKS])
@pytest.mark.parametrize("grouping", GROUPINGS)
def test_every_preset_of_the_layers_of_minilm_is_bundled_in_every_stacking_that_fits(grouping: str, how: str) -> None:
    groups = make_groups(LAYERS, grouping, stack=how)
    shapes = {"rows": "cols", "columns": "rows"}  # the side that the members must share
    fitting = [
        group
        for group in groups
        if group.stack == "residual" or len({getattr(spec, shapes[group.stack]) for spec in members(group, INFO)}) == 1
    ]
    assert fitting or grouping == "all"
    assert [group.name for group in fitting if find(INFO, members(group, INFO), group.stack, NOWHERE) is None] == []


@pytest.mark.parametrize(
    ("values", "rank", "error"),
    [([3.0, 4.0], 0, 1.0), ([4.0, 3.0], 1, 0.6), ([4.0, 3.0], 2, 0.0), ([4.0, 3.0], None, 0.0), ([0.0, 0.0], 1, 0.0)],
)
def test_relative_errors_by_hand(values: list[float], rank: int | None, error: float) -> None:
    assert relative_error([np.array(values, dtype=np.float32)], [rank]) == pytest.approx(error)


def test_a_spectrum_without_a_rank_is_refused() -> None:
    with pytest.raises(ValueError, match="argument"):
        relative_error([np.ones(3, dtype=np.float32)], [])


# ---------------------------------------------------------------------------------------------------- names of spectra


@pytest.mark.parametrize("how", STACKS)
def test_the_key_does_not_depend_on_the_order_of_the_members(how: str) -> None:
    specs = named("query.0", "attention_output.3", "value.1")
    assert spectrum_key(specs, how) == spectrum_key(specs[::-1], how)


def test_the_key_of_a_group_of_one_does_not_depend_on_its_turn() -> None:
    assert len({spectrum_key(named("ffn_in.0"), how) for how in STACKS}) == 1
    assert spectrum_key(named("ffn_in.0"), "rows") != spectrum_key(named("ffn_in.1"), "rows")


def test_the_key_tells_by_which_side_members_are_joined() -> None:
    """Stacking by rows and by columns gives different spectra: see the errors 0.583 and 0.500 in test_figures_minilm."""
    keys, outputs = named("key.0", "key.1"), named("attention_output.0", "attention_output.1")
    assert spectrum_key(keys, "rows") == spectrum_key(keys, "residual") != spectrum_key(keys, "columns")
    assert spectrum_key(outputs, "columns") == spectrum_key(outputs, "residual") != spectrum_key(outputs, "rows")
    mixed = named("key.0", "attention_output.0")
    assert len({spectrum_key(mixed, how) for how in STACKS}) == 3


def test_groups_with_other_members_have_other_keys() -> None:
    keys = {spectrum_key(members(group, INFO), group.stack) for group in make_groups(LAYERS, "blocks", stack="rows")}
    assert len(keys) == 18


def test_the_singular_values_agree_where_the_keys_do(minilm: LoadedModel) -> None:
    def values(names: list[str], how: str) -> np.ndarray:
        matrix = stack({spec: weights.read(minilm.model, spec) for spec in named(*names)}, how)
        return linalg.singular_values(matrix).numpy()

    for names, one, other in [
        (["key.0", "key.1"], "rows", "residual"),
        (["attention_output.0", "attention_output.1"], "columns", "residual"),
        (["ffn_in.0"], "rows", "columns"),
    ]:
        np.testing.assert_allclose(values(names, one), values(names[::-1], other), rtol=1e-5, atol=1e-5)
    apart = np.abs(values(["key.0", "key.1"], "rows") - values(["key.0", "key.1"], "columns"))
    assert apart.max() > 0.1


# --------------------------------------------------------------------------------------------------- computed and kept


@dataclass(frozen=True)
class Kept:
    """A tiny model in a folder, a plan for it, and the home folder in which its spectra are kept."""

    loaded: LoadedModel
    plan: Plan
    home: Path

    def files(self) -> list[Path]:
        return sorted((self.home / "spectra").rglob("*.npy"))

    def direct(self, index: int) -> np.ndarray:
        """The singular values of one group, by a direct SVD."""
        group = self.plan.groups[index]
        specs = members(group, self.loaded.info)
        matrix = stack({spec: weights.read(self.loaded.model, spec) for spec in specs}, group.stack)
        return torch.linalg.svdvals(matrix.double()).numpy()


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    folder = tiny_models.save(tiny_models.shared("bert_base"), tmp_path / "model")
    loaded = load(str(folder))
    groups = (
        Group(name="keys", modules=("key.0", "key.1"), stack="rows"),
        Group(name="mix", modules=("query.0", "attention_output.1", "ffn_out.0"), stack="residual"),
    )
    return Kept(loaded, Plan(model=str(folder), groups=groups), tmp_path / "home")


def test_computed_spectra_are_those_of_a_direct_svd_and_are_kept(kept: Kept) -> None:
    assert missing(kept.plan, kept.loaded.info, kept.home) == ["keys", "mix"]
    found = compute(kept.plan, kept.home)
    assert list(found) == ["keys", "mix"]
    for index, spectrum in enumerate(found.values()):
        np.testing.assert_allclose(spectrum, kept.direct(index), rtol=1e-5, atol=1e-5)
    assert len(kept.files()) == 2
    assert missing(kept.plan, kept.loaded.info, kept.home) == []


def test_kept_spectra_are_read_and_not_computed_again(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compute(kept.plan, kept.home)
    other_weights = load(kept.plan.model)
    for parameter in other_weights.model.parameters():
        parameter.zero_()
    monkeypatch.setattr(loading, "load", lambda _model: other_weights)
    monkeypatch.setattr(grams, "spectrum_of_gram", lambda *_: pytest.fail("computed again"))
    second = compute(kept.plan, kept.home)
    assert all(np.array_equal(first[name], second[name]) and first[name].max() > 0 for name in ("keys", "mix"))


def test_only_what_is_missing_is_computed(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    compute(kept.plan.replace(groups=kept.plan.groups[:1]), kept.home)
    assert missing(kept.plan, kept.loaded.info, kept.home) == ["mix"]
    sides: list[int] = []
    real: Callable[[torch.Tensor, int], torch.Tensor] = grams.spectrum_of_gram
    monkeypatch.setattr(grams, "spectrum_of_gram", lambda gram, count: sides.append(len(gram)) or real(gram, count))
    compute(kept.plan, kept.home)
    assert sides == [24]  # the narrow side of the mix, (24 + 24 + 40, 24)


def test_spectra_of_a_changed_checkpoint_are_not_used(kept: Kept) -> None:
    compute(kept.plan, kept.home)
    changed = replace(kept.loaded.info, fingerprint="0" * 64)
    assert missing(kept.plan, changed, kept.home) == ["keys", "mix"]


def test_bundled_spectra_of_another_checkpoint_are_not_used(tmp_path: Path) -> None:
    specs = named("key.0")
    assert find(INFO, specs, "rows", tmp_path) is not None
    assert find(replace(INFO, fingerprint="0" * 64), specs, "rows", tmp_path) is None
    assert find(replace(INFO, model="a copy", source="folder"), specs, "rows", tmp_path) is not None


def test_bundled_groups_are_found_without_a_home(tmp_path: Path) -> None:
    plan = Plan(model="minilm-l6", groups=(preset("kind", "key"), Group(name="odd", modules=("key.0", "value.5", "query.3"))))
    assert missing(plan, INFO, tmp_path) == ["odd"]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: content[:0],
    "cut in the header": lambda content: content[:40],
    "cut in the values": lambda content: content[:-9],
    "zeros": lambda content: bytes(len(content)),
    "text": lambda content: b"not an array" + content[:0],
    "like a zip file": lambda content: b"PK\x03\x04" + content,
    "a pickle": lambda content: b"\x80\x04K\x01." + content[:0],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_computed_again(kept: Kept, damage: str) -> None:
    good = compute(kept.plan, kept.home)
    for path in kept.files():
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert missing(kept.plan, kept.loaded.info, kept.home) == ["keys", "mix"]
    again = compute(kept.plan, kept.home)
    assert all(np.array_equal(good[name], again[name]) for name in good)
    assert missing(kept.plan, kept.loaded.info, kept.home) == []


def test_an_archive_beside_a_model_folder_is_not_taken_for_its_spectra(kept: Kept) -> None:
    """Joining `assets/spectra` with an absolute path gives that path, so FOLDER.npz could be a file of the user."""
    np.savez(f"{kept.plan.model}.npz", features=np.ones(3))
    assert missing(kept.plan, kept.loaded.info, kept.home) == ["keys", "mix"]


def test_a_home_that_cannot_be_written_is_one_sentence(kept: Kept, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"cannot write to .*OFFCOMP_HOME"):
        compute(kept.plan, tmp_path / "file")


def test_finding_reads_the_bundle_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find(INFO, named("key.0"), "rows", tmp_path)
    monkeypatch.setattr(np, "load", lambda *_args, **_options: pytest.fail("read again"))
    assert find(INFO, named("value.0"), "rows", tmp_path) is not None
    assert spectra.BUNDLED.is_dir()


# ------------------------------------------------------------------------------------------- errors at many ratios at once


def matrix_spectrum(group: Group) -> MatrixSpectrum:
    specs = members(group, INFO)
    values = find(INFO, specs, group.stack, NOWHERE)
    assert values is not None
    return MatrixSpectrum(*group_shape(specs, group.stack), values)


@pytest.mark.parametrize(("unit", "dtype"), [("parameters", "float32"), ("bytes", "float16"), ("bytes", "int8")])
def test_ranks_and_errors_at_every_ratio_are_those_of_the_prediction(unit: str, dtype: str) -> None:
    ratios = [1.0, 1.3, 2.0, 4.5, 80.0, 250.0]
    table = errors_at([matrix_spectrum(group) for group in MEASURED], ratios, unit=unit, dtype=dtype)
    for row, group in enumerate(MEASURED):
        spectrum = matrix_spectrum(group).values
        for column, ratio in enumerate(ratios):
            predicted = predict_group(group.replace(ratio=ratio, unit=unit, dtype=dtype), INFO)
            if predicted.form == "infeasible":
                assert table.ranks[row, column] == OUT_OF_REACH and np.isnan(table.relative_errors[row, column])
                continue
            rank = None if predicted.form == "dense" else predicted.size
            assert table.ranks[row, column] == (rank or DENSE)
            assert table.relative_errors[row, column] == pytest.approx(relative_error([spectrum], [rank]), abs=1e-12)
    spectra_of_all = [matrix_spectrum(group).values for group in MEASURED]
    at_two = [int(rank) or None for rank in table.ranks[:, 2]]
    assert table.together[2] == pytest.approx(relative_error(spectra_of_all, at_two), abs=1e-12)
    assert np.isnan(table.together[-1]) == bool((table.ranks[:, -1] == OUT_OF_REACH).any())


def test_squared_errors_start_at_the_squared_norm_and_end_at_zero() -> None:
    spectrum = MatrixSpectrum(5, 2, np.array([4.0, 3.0], dtype=np.float32))
    assert spectrum.squared_errors.tolist() == [25.0, 9.0, 0.0]


def test_a_matrix_of_zeros_has_no_error() -> None:
    table = errors_at([MatrixSpectrum(8, 8, np.zeros(8, dtype=np.float32))], [2.0])
    assert table.relative_errors.tolist() == [[0.0]] and table.together.tolist() == [0.0]


# --------------------------------------------------------------------------------------------------------------- files


def test_a_json_file_comes_back_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "run.json"
    document = {"name": "Ünïcode", "numbers": [1, 2.5, None], "nested": {"yes": True}}
    write_json(path, document)
    assert read_json(path) == document
    write_json(path, [1])
    assert read_json(path) == [1]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"a": 1', b"\xff\xfe\x00", b"[1] [2]"])
def test_a_json_file_that_is_missing_or_broken_is_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    assert read_json(tmp_path / "x.json") is None


def test_a_folder_instead_of_a_json_file_is_none(tmp_path: Path) -> None:
    assert read_json(tmp_path) is None


def test_nan_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"value": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"value": float("nan")})
    assert read_json(tmp_path / "x.json") == {"value": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes(tmp_path / "x", b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device; free some space"):
        write_bytes(tmp_path / "x", b"new and longer")
    assert (tmp_path / "x").read_bytes() == b"old"


def test_a_write_that_fails_leaves_no_part_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError):
        write_bytes(tmp_path / "x", b"content")
    assert list(tmp_path.iterdir()) == []  # a leftover would keep a full disk full


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    write_bytes(path, b"old")
    seen: list[bytes] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(path.read_bytes()) or real(descriptor))
    write_bytes(path, b"new")
    assert seen == [b"old"]
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"OFFCOMP_HOME": "/a/b"}, "/a/b"),
        ({"OFFCOMP_HOME": "~/c", "HOME": "/home/x"}, "/home/x/c"),
        ({"OFFCOMP_HOME": "", "XDG_DATA_HOME": "/data"}, "/data/offcomp"),
        ({"XDG_DATA_HOME": "", "HOME": "/home/x"}, "/home/x/.local/share/offcomp"),
    ],
)
def test_where_the_home_folder_is(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str) -> None:
    for name in ("OFFCOMP_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert home_folder() == Path(expected)
