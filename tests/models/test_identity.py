"""The identities of models and runs: changing any single input changes the key, and equal inputs give equal keys."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from offcomp.errors import ModelError
from offcomp.evaluation import open_task
from offcomp.files import write_json
from offcomp.models import identity
from offcomp.models.bundled_models import MODELS
from offcomp.models.identity import Identity, file_digest, identify, is_content
from offcomp.models.listing import check_unchanged, known_info, model_info
from offcomp.models.loading import load
from offcomp.models.sources import check_checksum
from offcomp.planning.data.calibration_text import CalibrationText
from offcomp.planning.data.tasks import Task
from offcomp.planning.matrix_view import view_path
from offcomp.planning.merge_survey import Survey, find_survey, save_survey
from offcomp.planning.plan import Group, Plan
from offcomp.planning.spectra import compute, find
from offcomp.runs import inputs as run_inputs
from offcomp.runs.inputs import inputs_of, run_id
from tests import language_models, tiny_models

WEIGHT = "encoder.layer.1.attention.self.query.weight"
GAIN = "encoder.layer.0.output.LayerNorm.weight"
KEYS = ("key.0", "key.1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a tiny sentence encoder: config, weights, tokenizer, special tokens, sentence-transformers modules."""
    made = tiny_models.save(tiny_models.shared("bert_base"), tmp_path / "model")
    write_json(made / "special_tokens_map.json", {"pad_token": "[PAD]", "unk_token": "[UNK]"})
    write_json(made / "sentence_bert_config.json", {"max_seq_length": 16})
    names = [(0, "", "Transformer"), (1, "1_Pooling", "Pooling"), (2, "2_Dense", "Dense")]
    modules = [{"idx": i, "path": path, "type": f"sentence_transformers.models.{kind}"} for i, path, kind in names]
    write_json(made / "modules.json", modules)
    pooling = {"word_embedding_dimension": 24, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    write_json(made / "1_Pooling" / "config.json", pooling)
    dense = {"in_features": 24, "out_features": 8, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}
    write_json(made / "2_Dense" / "config.json", dense)
    generator = torch.Generator().manual_seed(0)
    tensors = {"linear.weight": torch.randn(8, 24, generator=generator), "linear.bias": torch.zeros(8)}
    save_file(tensors, made / "2_Dense" / "model.safetensors", metadata={"format": "pt"})
    return made


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    file = tmp_path / "calibration.txt"
    file.write_text("".join(f"w{n} w{n + 1} w{n + 2}\n" for n in range(2, 40)))
    return file


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """A file of sentence pairs with scores, for a task without training."""
    file = tmp_path / "pairs.csv"
    rows = [f"w{n % 50 + 2} w{n % 50 + 3} w{n % 7 + 30},w{n % 50 + 3} w{n % 9 + 40},{n % 6}" for n in range(2, 102)]
    file.write_text("\n".join(["sentence1,sentence2,score", *rows]) + "\n")
    return file


def edit(file: Path, **changes: Any) -> None:
    """Change fields of a JSON file, but keep its modification time."""
    times = file.stat()
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def overwrite(file: Path, old: str, new: str) -> None:
    """Replace the first occurrence of a text with another of equal length, in place, and keep the modification time."""
    assert len(old) == len(new)
    times, content = file.stat(), file.read_text()
    assert old in content
    with file.open("r+") as stream:
        stream.write(content.replace(old, new, 1))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def change_tensor(file: Path, name: str, place: int) -> None:
    """Add one to a single value of a tensor, in place, and keep the size and modification time of the file."""
    times, tensors = file.stat(), load_file(file)
    tensors[name].view(-1)[place] += 1
    save_file(tensors, file.with_suffix(".new"), metadata={"format": "pt"})
    file.write_bytes(file.with_suffix(".new").read_bytes())
    file.with_suffix(".new").unlink()
    assert file.stat().st_size == times.st_size
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def lower_case(folder: Path) -> None:
    edit(folder / "tokenizer.json", normalizer={"type": "Lowercase"})


WEIGHTS_AND_CONFIG: dict[str, Callable[[Path], None]] = {
    "one weight in the middle": lambda folder: change_tensor(folder / "model.safetensors", WEIGHT, 300),
    "one gain of a LayerNorm": lambda folder: change_tensor(folder / "model.safetensors", GAIN, 11),
    "id2label": lambda folder: edit(folder / "config.json", id2label={"0": "no", "1": "yes"}),
    "activation": lambda folder: edit(folder / "config.json", hidden_act="relu"),
    "number of heads": lambda folder: edit(folder / "config.json", num_attention_heads=2),
    "epsilon": lambda folder: edit(folder / "config.json", layer_norm_eps=1e-3),
    "a field that nobody knows": lambda folder: edit(folder / "config.json", anything="else"),
}
TEXT_FILES: dict[str, Callable[[Path], None]] = {
    "lower case": lower_case,
    "a word of the vocabulary": lambda folder: overwrite(folder / "tokenizer.json", '"w41"', '"x41"'),
    "longest text": lambda folder: edit(folder / "tokenizer_config.json", model_max_length=7),
    "special tokens": lambda folder: edit(folder / "special_tokens_map.json", pad_token="[UNK]"),  # noqa: S106
    "added tokens": lambda folder: write_json(folder / "added_tokens.json", {"new": 60}),
    "generation": lambda folder: write_json(folder / "generation_config.json", {"max_new_tokens": 3}),
    "pooling": lambda folder: edit(
        folder / "1_Pooling" / "config.json", pooling_mode_cls_token=True, pooling_mode_mean_tokens=False
    ),
    "modules": lambda folder: (folder / "modules.json").write_text("[]") and None,
    "longest text of the sentence encoder": lambda folder: edit(folder / "sentence_bert_config.json", max_seq_length=8),
    "prompts": lambda folder: write_json(folder / "config_sentence_transformers.json", {"prompts": {"query": "q: "}}),
    "width of the last layer": lambda folder: edit(folder / "2_Dense" / "config.json", out_features=9),
    "a vocabulary of sentencepiece": lambda folder: (folder / "spm.spm").write_bytes(b"another") and None,
    "a vocabulary of a kind to come": lambda folder: (folder / "Merges.v9").write_bytes(b"another") and None,
    "one weight of the last layer": lambda folder: change_tensor(folder / "2_Dense" / "model.safetensors", "linear.weight", 9),
}


# ------------------------------------------------------------------------------------------------------------------ model


@pytest.mark.parametrize("change", WEIGHTS_AND_CONFIG.values(), ids=WEIGHTS_AND_CONFIG)
def test_weights_and_config_are_part_of_both_identities(folder: Path, change: Callable[[Path], None]) -> None:
    before = identify(folder)
    change(folder)
    after = identify(folder)
    assert after.fingerprint != before.fingerprint and after.reads != before.reads


@pytest.mark.parametrize("change", TEXT_FILES.values(), ids=TEXT_FILES)
def test_text_files_are_part_of_what_is_read(folder: Path, change: Callable[[Path], None]) -> None:
    before = identify(folder)
    change(folder)
    after = identify(folder)
    assert after.fingerprint == before.fingerprint and after.reads != before.reads


def test_every_field_of_the_config_counts(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    seen = {identify(folder)}
    for name in config:
        (folder / "config.json").write_text(json.dumps({**config, name: "another"}))
        seen.add(identify(folder))
    assert len({each.fingerprint for each in seen}) == len(config) + 1


def test_the_same_files_are_the_same_model_wherever_they_lie(folder: Path, tmp_path: Path) -> None:
    before = identify(folder)
    for file in folder.rglob("*"):
        os.utime(file)
    assert identify(folder) == before
    copy = shutil.copytree(folder, tmp_path / "elsewhere" / "copy")
    names = ("README.md", "LICENSE", "LICENSE.txt", ".gitattributes", "trainer_state.json", "architecture.PNG", "modeling_x.py")
    for name in (*names, "pytorch_model.bin", "tf_model.h5", "model.gguf", "model.onnx", "adapter.safetensors"):
        (copy / name).write_text("not read")
    assert identify(copy) == before
    assert all(map(is_content, (before.fingerprint, before.reads)))
    assert not is_content("81f0f49e039f01541a03d832baed745e32f9c9afe7bb4335f437a764f38e6903"), "of a former version"
    assert not is_content("owner/name")


def test_shards_and_their_index_are_part_of_the_identity(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {name: f"model-0000{1 + (index > 5)}-of-00002.safetensors" for index, name in enumerate(tensors)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in files if files[name] == file}, folder / file, metadata={"format": "pt"})
    write_json(folder / "model.safetensors.index.json", {"weight_map": files})
    seen = {identify(folder).fingerprint}
    change_tensor(folder / files[GAIN], GAIN, 3)
    seen.add(identify(folder).fingerprint)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": files})
    seen.add(identify(folder).fingerprint)
    assert len(seen) == 3


@pytest.mark.parametrize(
    "modules", ["{", "{}", "[1]", '[{"path": 3}]', '[{"path": "../.."}]', '[{"path": "/"}]', '[{"path": "./"}]']
)
def test_modules_that_cannot_be_followed_lead_nowhere(folder: Path, modules: str) -> None:
    (folder / "modules.json").write_text(modules)
    before = identify(folder)
    edit(folder / "1_Pooling" / "config.json", pooling_mode_cls_token=True)
    (folder.parent / "outside.json").write_text("{}")
    assert identify(folder) == before


def test_a_model_without_config_or_weights_has_no_identity(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        identify(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights"):
        identify(folder)


def test_a_copy_of_a_bundled_model_is_known_and_a_changed_one_is_not(tmp_path: Path) -> None:
    from offcomp.models.sources import BUNDLED

    copy = shutil.copytree(BUNDLED / "offcomp-gpt", tmp_path / "copy")
    found = known_info(str(copy), tmp_path)
    assert found is not None and (found.model, found.source) == (str(copy), "folder")
    assert find(found, [found.module("query.1")], "rows", tmp_path) is not None
    with (copy / "model.safetensors").open("r+b") as stream:  # in the middle of the file, so that neither end changes
        stream.seek((copy / "model.safetensors").stat().st_size // 2)
        stream.write(b"\x01\x02\x03")
    assert known_info(str(copy), tmp_path) is None
    changed = model_info(str(copy), tmp_path)
    assert find(changed, [changed.module("query.1")], "rows", tmp_path) is None


# ----------------------------------------------------------------------------------------------------------------- hashes


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """The names of the files read for hashing, starting with an empty home and no digests in memory."""
    seen: list[str] = []
    real = identity.hashlib.file_digest

    def counted(stream: Any, name: str) -> Any:
        seen.append(Path(stream.name).name)
        return real(stream, name)

    monkeypatch.setenv("OFFCOMP_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(identity.hashlib, "file_digest", counted)
    monkeypatch.setattr(identity, "SMALL", 100)
    monkeypatch.setattr(identity, "RESOLUTION", -1)  # every later change is assumed to alter the file's times
    monkeypatch.setattr(identity, "RESOLUTION_WITHOUT_FRACTIONS", -1)
    identity._memory.clear()
    yield seen
    identity._memory.clear()


def test_the_second_look_at_a_large_file_reads_nothing(tmp_path: Path, hashed: list[str]) -> None:
    file = tmp_path / "large"
    file.write_bytes(b"x" * 1000)
    first = file_digest(file)
    identity._memory.clear()  # as in another process
    assert file_digest(file) == first and hashed == ["large"]
    file.write_bytes(b"y" * 1000)
    second = file_digest(file)
    assert second != first and hashed == ["large"] * 2
    identity._memory.clear()
    assert file_digest(file) == second and hashed == ["large"] * 2
    moved = file.rename(tmp_path / "moved")
    assert file_digest(moved) == second


def test_a_file_with_the_size_and_time_of_another_one_is_not_taken_for_it(tmp_path: Path, hashed: list[str]) -> None:
    file, other = tmp_path / "large", tmp_path / "other"
    file.write_bytes(b"x" * 1000)
    first, times = file_digest(file), file.stat()
    other.write_bytes(b"y" * 1000)
    other.replace(file)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file_digest(file) != first
    with file.open("r+b") as stream:
        stream.write(b"x" * 1000)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file_digest(file) == first and hashed == ["large"] * 3


def test_what_was_just_written_is_not_remembered(tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A second change within the resolution of the file's times would go unnoticed."""
    monkeypatch.setattr(identity, "RESOLUTION", 10**12)
    monkeypatch.setattr(identity, "RESOLUTION_WITHOUT_FRACTIONS", 10**12)
    file = tmp_path / "large"
    file.write_bytes(b"x" * 1000)
    assert file_digest(file) == file_digest(file)
    assert hashed == ["large"] * 2


@pytest.mark.parametrize("kept", ["", "{", "[]", "[" * 100_000, '{"sha256": 3}', '{"sha256": "' + "0" * 64 + '"}'])
def test_a_damaged_memory_is_an_empty_one(tmp_path: Path, hashed: list[str], kept: str) -> None:
    file = tmp_path / "large"
    file.write_bytes(b"x" * 1000)
    first = file_digest(file)
    (entry,) = (tmp_path / "home" / "digests").iterdir()
    entry.write_text(kept)
    identity._memory.clear()
    assert file_digest(file) == first and hashed == ["large"] * 2


def test_a_home_that_cannot_be_written_costs_only_time(tmp_path: Path, hashed: list[str]) -> None:
    (tmp_path / "home").write_text("in the way")
    file = tmp_path / "large"
    file.write_bytes(b"x" * 1000)
    assert file_digest(file) == file_digest(file)
    assert hashed == ["large"], "this process still knows"


def test_the_memory_is_bounded(tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "MAX_CACHED", 3)
    monkeypatch.setattr(identity, "MAX_IN_MEMORY", 3)
    for number in range(8):
        (tmp_path / f"{number}").write_bytes(bytes([number]) * 1000)
        file_digest(tmp_path / f"{number}")
    assert len(list((tmp_path / "home" / "digests").iterdir())) == 3 and len(identity._memory) <= 3
    assert file_digest(tmp_path / "7") and len(hashed) == 8


def test_the_checksum_of_a_catalogue_model_is_looked_up(hashed: list[str]) -> None:
    from offcomp.models.sources import BUNDLED

    entry = next(entry for entry in MODELS if entry.name == "offcomp-gpt")
    check_checksum(entry, BUNDLED / entry.name)
    identify(BUNDLED / entry.name)
    assert hashed.count("model.safetensors") == 1
    with pytest.raises(ModelError, match="have the checksum"):
        check_checksum(replace(entry, sha256="0" * 64), BUNDLED / entry.name)


# ------------------------------------------------------------------------------------------------------------------- runs


def plan_of(folder: Path, texts: Path, examples: Path) -> Plan:
    group = Group(name="key", modules=KEYS, method="svd", options={"preset": "whitened"}, ratio=2.0)
    task = Task(name="pairs", family="similarity", data=str(examples))
    return Plan(model=str(folder), groups=(group,), tasks=(task,), calibration=CalibrationText(text=str(texts)))


def name_of(plan: Plan) -> str:
    return run_id(plan, inputs_of(plan, identify(Path(plan.model)).reads))


def with_options(plan: Plan, **options: Any) -> Plan:
    (group,) = plan.groups
    return plan.replace(groups=(group.replace(options=group.options | options),))


ASKED: dict[str, Callable[[Plan], Plan]] = {
    "seed": lambda plan: plan.replace(seed=1),
    "option of the method": lambda plan: with_options(plan, preset="asvd"),
    "ratio": lambda plan: plan.replace(groups=(plan.groups[0].replace(ratio=3.0),)),
    "option of the task": lambda plan: plan.replace(tasks=(plan.tasks[0].replace(family="regression"),)),
    "length of the texts": lambda plan: plan.replace(calibration=plan.calibration.replace(max_tokens=9)),
}


@pytest.mark.parametrize("change", (WEIGHTS_AND_CONFIG | TEXT_FILES).values(), ids=WEIGHTS_AND_CONFIG | TEXT_FILES)
def test_another_model_is_another_run(folder: Path, texts: Path, examples: Path, change: Callable[[Path], None]) -> None:
    plan = plan_of(folder, texts, examples)
    before = name_of(plan)
    change(folder)
    assert name_of(plan) != before


@pytest.mark.parametrize("change", ASKED.values(), ids=ASKED)
def test_another_question_is_another_run(folder: Path, texts: Path, examples: Path, change: Callable[[Plan], Plan]) -> None:
    plan = plan_of(folder, texts, examples)
    assert name_of(change(plan)) != name_of(plan)


def test_other_texts_under_the_same_name_are_another_run(folder: Path, texts: Path, examples: Path) -> None:
    """The files keep their names, sizes and modification times."""
    plan = plan_of(folder, texts, examples)
    names = [name_of(plan)]
    for file, old, new in ((texts, "w11", "w55"), (examples, "w12", "w56")):
        overwrite(file, old, new)
        names.append(name_of(plan))
    assert len(set(names)) == 3


def test_calibration_text_counts_only_where_it_is_used(folder: Path, texts: Path, examples: Path) -> None:
    plan = with_options(plan_of(folder, texts, examples), preset="plain")
    before = name_of(plan)
    overwrite(texts, "w11", "w55")
    assert name_of(plan) == before


@pytest.mark.parametrize("package", ["torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy", "scikit-learn"])
def test_other_libraries_make_another_run(
    folder: Path, texts: Path, examples: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, found = plan_of(folder, texts, examples), run_inputs.versions()
    before = name_of(plan)
    monkeypatch.setattr(run_inputs, "versions", lambda: found | {package: "0.0.1"})
    assert name_of(plan) != before


def test_another_version_of_the_results_makes_another_run(
    folder: Path, texts: Path, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(folder, texts, examples)
    before = name_of(plan)
    monkeypatch.setattr(run_inputs, "RESULTS_VERSION", run_inputs.RESULTS_VERSION + 1)
    assert name_of(plan) != before


def test_the_same_inputs_are_the_same_run(folder: Path, texts: Path, examples: Path, tmp_path: Path) -> None:
    plan = plan_of(folder, texts, examples)
    before = name_of(plan)
    for file in (*folder.rglob("*"), texts, examples):
        os.utime(file)
    texts.write_text(texts.read_text())
    assert name_of(plan) == before
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert name_of(plan.replace(model=str(copy))) == before
    assert name_of(Plan.from_json(plan.to_json())) == before


def test_another_revision_of_a_hub_data_set_is_another_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The revision that counts is the one that `datasets` reads offline: the newest of that configuration in its cache."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    plan = Plan(model=str(folder), groups=(), tasks=(Task(name="own", family="similarity", data="hub:Some-One/MyPairs/first"),))

    def fetched(config: str, revision: str, time: int) -> str:
        place = tmp_path / "cache" / "Some-One___my_pairs" / config / "0.0.0" / revision
        write_json(place / "dataset_info.json", {"config_name": config})
        os.utime(place, (time, time))
        return name_of(plan)

    nothing, first = name_of(plan), fetched("first", "a" * 40, 1000)
    assert fetched("second", "b" * 40, 2000) == first != nothing
    assert fetched("first", "c" * 40, 500) == first, "an older copy is not read"
    assert fetched("first", "d" * 40, 3000) not in (nothing, first)


# ----------------------------------------------------------------------------------------------------------------- caches


@pytest.mark.parametrize("change", WEIGHTS_AND_CONFIG.values(), ids=WEIGHTS_AND_CONFIG)
def test_what_is_known_of_the_weights_is_not_taken_for_that_of_others(
    folder: Path, change: Callable[[Path], None], tmp_path: Path
) -> None:
    """Cached module listings, spectra, surveys and matrix views are not reused for changed weights."""
    home = tmp_path / "home"
    info = model_info(str(folder), home)
    assert known_info(str(folder), home) == info
    specs = [info.module("key.0"), info.module("key.1")]
    compute(Plan(model=str(folder), groups=(Group(name="key", modules=KEYS),)), home)
    survey = Survey(info.model, info.fingerprint, 2.0, KEYS, 0.5, (), (), {})
    save_survey(survey, home)
    assert find(info, specs, "rows", home) is not None and find_survey(info, specs, 2.0, home) is not None
    change(folder)
    assert known_info(str(folder), home) is None
    with pytest.raises(ModelError, match="changed while it was in use"):
        check_unchanged(info)
    now = model_info(str(folder), home)
    assert find(now, specs, "rows", home) is None and find_survey(now, specs, 2.0, home) is None
    assert view_path(now, specs[0], home) != view_path(info, specs[0], home)


def test_other_text_files_leave_the_weights_known(folder: Path, tmp_path: Path) -> None:
    info = model_info(str(folder), tmp_path)
    lower_case(folder)
    found = known_info(str(folder), tmp_path)
    assert found == replace(info, reads=identify(folder).reads) != info


CHANGES = WEIGHTS_AND_CONFIG | TEXT_FILES


def test_the_scores_of_the_original_are_those_of_its_files(folder: Path, examples: Path, tmp_path: Path) -> None:
    """After each change, scoring with the old cache equals scoring without one, and the original's cached score is reused."""
    task, cache = Task(name="pairs", family="similarity", data=str(examples)), tmp_path / "cache"

    def score(where: Path, cache: Path | None) -> float:
        return float(open_task(task, load(str(where)), cache=cache).original().value)

    first, seen = score(folder, cache), []
    for number, (name, change) in enumerate(CHANGES.items()):
        if name in ("modules", "width of the last layer"):  # the folder is no longer a complete sentence encoder
            continue
        copy = shutil.copytree(folder, tmp_path / f"copy-{number}")
        change(copy)
        seen.append(score(copy, cache))
        assert seen[-1] == score(copy, None), name
        assert len(list(cache.iterdir())) == 1 + len(seen), name
    assert len({first, *seen}) > len(WEIGHTS_AND_CONFIG) // 2, "the changes change figures at all"
    assert score(folder, cache) == first and len(list(cache.iterdir())) == 1 + len(seen)


@pytest.mark.parametrize("number", range(10))
def test_the_cache_knows_examples_options_and_versions(
    folder: Path, examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    import offcomp.evaluation

    task, loaded, cache = Task(name="pairs", family="similarity", data=str(examples)), load(str(folder)), tmp_path / "cache"
    open_task(task, loaded, cache=cache).prepare()
    open_task(task.replace(name="renamed"), loaded, cache=cache).prepare()
    assert len(list(cache.iterdir())) == 1
    found = offcomp.evaluation.versions()
    if number == 0:
        overwrite(examples, "w12", "w56")
    elif number == 1:
        task = task.replace(family="regression")
    elif number in (6, 7, 8):
        constant = ("PROBE_VERSION", "ANSWERS", "__version__")[number - 6]
        monkeypatch.setattr(offcomp.evaluation, constant, f"{getattr(offcomp.evaluation, constant)}1")
    elif number == 9:
        task = task.replace(family="regression", options={"refit": True})
        open_task(task.replace(options={}), loaded, cache=cache).prepare()
        next(cache.iterdir()).unlink()
    else:
        package = ("torch", "transformers", "tokenizers", "scikit-learn")[number - 2]
        monkeypatch.setattr(offcomp.evaluation, "versions", lambda: found | {package: "0.0.1"})
    open_task(task, loaded, cache=cache).prepare()
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "family", "change"),
    [
        ("gpt2", "causal-lm", lambda folder: edit(folder / "config.json", activation_function="relu")),
        ("gpt2", "causal-lm", lambda folder: edit(folder / "config.json", n_head=2)),
        ("bert", "masked-lm", lower_case),
    ],
    ids=["activation_function", "n_head", "lower case"],
)
def test_a_language_model_is_scored_anew_when_its_config_or_tokenizer_changes(
    tmp_path: Path, name: str, family: str, change: Callable[[Path], None]
) -> None:
    folder = tiny_models.save(tiny_models.shared(name), tmp_path / "model", tokenizer=False)
    specials = language_models.SPECIALS if family == "masked-lm" else {"unk_token": "[UNK]"}
    language_models.syllable_tokenizer(family == "masked-lm", **specials).save_pretrained(folder)
    file = tmp_path / "texts.csv"
    texts = [text.upper() if index % 2 else text for index, text in enumerate(language_models.texts_of(*[9] * 30))]
    file.write_text("\n".join(["text", *texts]) + "\n")
    task = Task(name="own", family=family, data=str(file))

    def score(cache: Path) -> float:
        return float(open_task(task, load(str(folder)), cache=cache).original().value)

    before = score(tmp_path / "cache")
    change(folder)
    after = score(tmp_path / "cache")
    assert after == score(tmp_path / "fresh") != before


def test_a_model_that_changes_while_it_is_loaded_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The config changes after the files have been identified and before loading ends."""
    from offcomp.models import loading

    real = loading._instantiated

    def late(checkpoint: Any, **options: Any) -> Any:
        network = real(checkpoint, **options)
        edit(folder / "config.json", layer_norm_eps=1e-3)
        return network

    monkeypatch.setattr(loading, "_instantiated", late)
    with pytest.raises(ModelError, match="changed while they were being read; try again"):
        load(str(folder))


def test_a_loaded_model_says_what_it_was_read_from(folder: Path) -> None:
    info = load(str(folder)).info
    assert Identity(info.fingerprint, info.reads) == identify(folder)
