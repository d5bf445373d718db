"""Faults of model folders made by others are reported at once, in one sentence that includes the remedy."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from offcomp.cli import main as cli
from offcomp.errors import InputError, ModelError
from offcomp.models import hub
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.loading import describe, load
from offcomp.models.matrix_files import save_upload
from offcomp.models.sources import resolve
from offcomp.models.weights import list_modules
from tests import tiny_models


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a BERT with its tokenizer, saved for this test, which may damage it."""
    return tiny_models.save(tiny_models.shared("bert_base"), tmp_path / "bert")


@pytest.fixture
def causal(tmp_path: Path) -> Path:
    """The folder of a GPT-2 whose head is tied to its embedding and therefore not stored."""
    return tiny_models.save(tiny_models.shared("gpt2"), tmp_path / "gpt2")


def edit_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def edit_weights(folder: Path, **changes: torch.Tensor) -> None:
    save_file({**load_file(folder / "model.safetensors"), **changes}, folder / "model.safetensors", {"format": "pt"})


def rename_weights(folder: Path, before: str, after: str) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({key.replace(before, after, 1): value for key, value in weights.items()}, folder / "model.safetensors")


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    """Run the command line. Returns its exit status and its lines on stderr."""
    try:
        cli.main(arguments)
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    return status, capsys.readouterr().err.splitlines()


def parts(modules: Sequence[ModuleSpec]) -> list[tuple[str, str, tuple[int, int], tuple[str, ...]]]:
    """The name, path, shape and tied paths of each module; the dtypes of the stored tensors are omitted."""
    return [(spec.name, spec.path, spec.shape, spec.tied) for spec in modules]


EMBEDDING, HEAD = "transformer.wte.weight", "lm_head.weight"


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("as_well", [torch.float16, torch.bfloat16, torch.float32])
def test_a_head_stored_as_a_copy_in_another_dtype_is_one_module(
    causal: Path, stored: torch.dtype, as_well: torch.dtype
) -> None:
    embedding = load_file(causal / "model.safetensors")[EMBEDDING].bfloat16().half()  # exact in all three dtypes
    edit_weights(causal, **{EMBEDDING: embedding.to(stored), HEAD: embedding.to(as_well).clone()})
    info, loaded = describe(str(causal)), load(str(causal))
    assert info == loaded.info and parts(info.modules) == parts(list_modules(loaded.model))
    assert info.num_parameters == sum(parameter.numel() for parameter in tiny_models.shared("gpt2").parameters())
    assert info.module("word_embeddings").tied == (HEAD,)


def test_a_zero_with_another_sign_is_the_same_value(causal: Path) -> None:
    embedding = load_file(causal / "model.safetensors")[EMBEDDING]
    embedding[3, 4] = 0.0
    head = embedding.clone()
    head[3, 4] = -0.0
    edit_weights(causal, **{EMBEDDING: embedding, HEAD: head})
    assert parts(describe(str(causal)).modules) == parts(list_modules(load(str(causal)).model))
    assert HEAD not in {spec.path for spec in describe(str(causal)).modules}


def test_a_head_of_other_values_stays_a_module_of_its_own(causal: Path) -> None:
    embedding = load_file(causal / "model.safetensors")[EMBEDDING]
    head = embedding.clone()
    head[-1, -1] += 1
    edit_weights(causal, **{EMBEDDING: embedding.half(), HEAD: head})
    info, loaded = describe(str(causal)), load(str(causal))
    assert parts(info.modules) == parts(list_modules(loaded.model)) and HEAD in {spec.path for spec in info.modules}
    tied = sum(parameter.numel() for parameter in tiny_models.shared("gpt2").parameters())
    assert info.num_parameters == tied + head.numel()


def test_a_config_that_unties_keeps_equal_values_apart(causal: Path) -> None:
    edit_json(causal / "config.json", tie_word_embeddings=False)
    edit_weights(causal, **{HEAD: load_file(causal / "model.safetensors")[EMBEDDING].clone()})
    info, loaded = describe(str(causal)), load(str(causal))
    assert parts(info.modules) == parts(list_modules(loaded.model)) and HEAD in {spec.path for spec in info.modules}


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.int8, "int8"),
        (torch.uint8, "uint8"),
        (torch.bool, "bool"),
        (torch.float8_e4m3fn, "float8"),
        (torch.int64, "int64"),
    ],
)
def test_one_weight_of_a_quantised_type_is_refused(folder: Path, dtype: torch.dtype, name: str) -> None:
    key = "encoder.layer.1.attention.self.query.weight"
    edit_weights(folder, **{key: load_file(folder / "model.safetensors")[key].to(dtype)})
    for verb in (describe, load):
        with pytest.raises(ModelError, match=f"'{key}' .* the unquantised model, .* how to interpret these {name} weights"):
            verb(str(folder))


def test_a_bias_of_a_quantised_type_is_refused(folder: Path) -> None:
    edit_weights(folder, **{"pooler.dense.bias": torch.ones(tiny_models.HIDDEN, dtype=torch.int8)})
    with pytest.raises(ModelError, match=r"'pooler\.dense\.bias' .* no config describes how to interpret these int8 weights"):
        describe(str(folder))


def test_buffers_of_whole_numbers_are_harmless(folder: Path, causal: Path) -> None:
    edit_weights(folder, **{"embeddings.position_ids": torch.arange(tiny_models.POSITIONS)[None]})
    edit_weights(causal, **{"transformer.h.0.attn.bias": torch.ones(1, 1, 9, 9, dtype=torch.uint8).tril()})
    assert load(str(folder)).info.dtype == load(str(causal)).info.dtype == "float32"


def test_float64_weights_are_told_how_to_become_float32(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({key: value.double() for key, value in weights.items()}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"stored as F64, .*; save the model in float32: `model\.float\(\)\.save_pretrained"):
        describe(str(folder))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_its_own_is_refused_with_the_remedy(folder: Path, file: str) -> None:
    edit_json(folder / file, auto_map={"AutoModel": "modeling.Own"})
    with pytest.raises(ModelError, match=rf"'{file}' has the key 'auto_map', which requests custom code; .* remove the key"):
        describe(str(folder))


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module.", "model.", "module._orig_mod.", "0.auto_model."])
def test_names_of_a_wrapped_model_are_refused_with_what_to_take_off(folder: Path, wrapper: str) -> None:
    rename_weights(folder, "", wrapper)
    for verb in (describe, load):
        with pytest.raises(
            ModelError, match=rf"have '{wrapper}' in their names \('{wrapper}.*; .*rename the weights: `from safetensors"
        ):
            verb(str(folder))


def test_the_remedy_for_wrapped_names_works(folder: Path) -> None:
    """The command that the error message suggests repairs the folder."""
    rename_weights(folder, "", "_orig_mod.")
    with pytest.raises(ModelError) as caught:
        describe(str(folder))
    remedy = str(caught.value).split("`")[1]
    subprocess.run([sys.executable, "-c", f"f = {str(folder / 'model.safetensors')!r}\n{remedy}"], check=True, timeout=120)
    assert describe(str(folder)).modules == list_modules(tiny_models.shared("bert_base"))


def test_a_part_that_was_compiled_alone(folder: Path) -> None:
    rename_weights(folder, "encoder.", "encoder._orig_mod.")
    with pytest.raises(ModelError, match=r"have '_orig_mod\.' in their names .* torch\.compile"):
        describe(str(folder))


def test_names_with_and_without_the_base_model_are_read(tmp_path: Path) -> None:
    """The prefix that transformers itself adds or removes is not treated as a wrapper."""
    for name, before, after in (("bert_classifier", "bert.", ""), ("bert_base", "", "bert.")):
        folder = tiny_models.save(tiny_models.shared(name), tmp_path / name)
        rename_weights(folder, before, after)
        assert describe(str(folder)).modules == list_modules(tiny_models.shared(name))


@pytest.mark.parametrize("own_config", [None, {"__version__": {"sentence_transformers": "0.3.0"}}])
def test_an_old_sentence_transformers_folder_names_the_remedy(folder: Path, tmp_path: Path, own_config: Any) -> None:
    old = tmp_path / "old"
    old.mkdir()
    folder.rename(old / "0_Transformer")
    (old / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "0_Transformer", "type": "x.Transformer"}]))
    if own_config:
        (old / "config.json").write_text(json.dumps(own_config))
    with pytest.raises(ModelError, match=r"old sentence-transformers layout, .*save_pretrained\('NEW'\).*0_Transformer'"):
        describe(str(old))
    assert describe(str(old / "0_Transformer")).model_type == "bert"


def test_a_folder_above_the_model_names_the_one_below(folder: Path) -> None:
    with pytest.raises(ModelError, match=rf"has no 'config\.json'; .*, such as '{folder}'\."):
        describe(str(folder.parent))


def test_an_adapter_names_its_base_model(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/base"}))
    with pytest.raises(ModelError, match=r"contains an adapter, .* base model \('owner/base'\) with peft's `merge_and_unload`"):
        describe(str(folder))


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("pytorch_model.bin", r"are pickled \('pytorch_model\.bin'\), .*; convert them with `save_pretrained`"),
        ("tf_model.h5", r"are in Keras format \('tf_model\.h5'\)"),
        ("model-q4.gguf", r"are in GGUF format"),
        ("pytorch_model.safetensors", r"are in 'pytorch_model\.safetensors', but 'model\.safetensors' is expected; rename"),
    ],
)
def test_weights_in_another_file_are_told_by_name(folder: Path, file: str, sentence: str) -> None:
    (folder / "model.safetensors").rename(folder / file)
    with pytest.raises(ModelError, match=sentence):
        describe(str(folder))


@pytest.mark.parametrize("name", ["query.0", "encoder.ffn_in.11", "cross.value.2", "word_embeddings", "pooler"])
def test_the_name_of_a_module_is_no_model(name: str) -> None:
    with pytest.raises(InputError, match=f"'{name}' is the name of a module, not of a model; specify a catalogue name"):
        resolve(name)


def test_a_plan_whose_model_is_a_module_is_answered_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"model": "query.0", "groups": [{"name": "a", "modules": ["query.0"]}]}))
    started = time.monotonic()
    status, lines = command(capsys, "predict", str(plan))
    assert time.monotonic() - started < 1
    assert status == 2 and len(lines) == 1 and "'query.0' is the name of a module" in lines[0]


def told_by_a_process(name: str, **environment: str) -> tuple[float, str]:
    """Ask for the modules of a model that does not exist, in a new process. Returns the seconds taken and its stderr."""
    code = (
        "import sys, time; from offcomp.cli import main as cli; started = time.monotonic()\n"
        f"try: cli.main(['modules', {name!r}])\n"
        "except SystemExit as end: print(end.code, time.monotonic() - started)\n"
        "assert 'torch' not in sys.modules"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=True, timeout=60
    )
    status, seconds = finished.stdout.split()
    assert status == "2"
    return float(seconds), finished.stderr


@pytest.fixture
def mute_hub() -> Iterator[str]:
    """The address of a hub that accepts connections and never responds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for each in held:
            each.close()


ONLINE = {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}


def test_a_hub_that_never_answers_is_given_up_within_seconds(mute_hub: str, tmp_path: Path) -> None:
    seconds, said = told_by_a_process("owner/name", HF_ENDPOINT=mute_hub, HF_HOME=str(tmp_path), **ONLINE)
    assert seconds < hub.FIRST_ANSWER_SECONDS + 3
    assert "'owner/name' is neither a catalogue name nor" in said and "cannot be downloaded from the hub (ReadTimeout)" in said


def test_a_hub_without_a_route_is_told_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # nothing listens on this port once the block ends
        port = server.getsockname()[1]
    seconds, said = told_by_a_process("some-name", HF_ENDPOINT=f"http://127.0.0.1:{port}", HF_HOME=str(tmp_path), **ONLINE)
    assert seconds < 3
    assert said.count("\n") == 1 and "a hub id has the form 'owner/name'" in said


def test_without_a_hub_by_choice_a_name_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"'some-name' is neither a catalogue name .* 'owner/name'\) and unset HF_HUB_OFFLINE"):
        hub.snapshot("some-name")


@pytest.fixture
def unknown(tmp_path: Path) -> str:
    """The folder of matrices whose names tell neither kinds nor layers."""
    content = io.BytesIO()
    np.savez(content, left=np.ones((4, 3), np.float32), right=np.ones((5, 3), np.float32))
    return str(save_upload("odd.npz", content.getvalue(), tmp_path))


def test_groups_by_kinds_that_are_not_known_are_refused(unknown: str, capsys: pytest.CaptureFixture[str]) -> None:
    for grouping in ("qkv", "blocks"):
        status, lines = command(capsys, "plan", unknown, "--kinds", "other", "--group", grouping)
        assert status == 2 and len(lines) == 1
        assert f"--group {grouping} needs kinds and layers" in lines[0] and "select modules with --modules" in lines[0]
    assert command(capsys, "plan", unknown, "--modules", "left", "--group", "module")[0] == 0


@pytest.mark.parametrize("verb", ["plan", "suggest"])
def test_where_no_kind_is_known_the_family_is_said_to_be_unknown(
    verb: str, unknown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, lines = command(capsys, verb, unknown)
    assert status == 2 and len(lines) == 1
    assert "family is unknown (model type 'offcomp_matrices'), so select modules by path (--modules)" in lines[0]


def test_a_plan_that_names_kinds_of_an_unknown_family(unknown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"model": unknown, "tasks": [], "groups": [{"name": "a", "modules": ["query.0"]}]}))
    status, lines = command(capsys, "allocate", str(plan), "--total-ratio", "2")
    assert status == 2 and "does not have (its family is unknown" in lines[0]
    status, lines = command(capsys, "plan", unknown, "--modules", "query.0")
    assert status == 2 and "'query.0' matches no module" in lines[0] and "(family unknown" in lines[0]


@pytest.mark.parametrize("changes", [{"return_dict": False}, {"chunk_size_feed_forward": 7}])
def test_a_config_that_fails_only_when_the_model_runs_is_one_sentence(
    changes: dict[str, Any], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_json(folder / "config.json", **changes)
    data = tmp_path / "pairs.csv"
    data.write_text("sentence1,sentence2,score\n" + "".join(f"w{n} w7,w{n + 1} w5,{n % 3}\n" for n in range(3, 40)))
    status, lines = command(capsys, "evaluate", str(folder), "--data", str(data), "--family", "similarity")
    assert status == 2 and "does not run on" in lines[-1], lines
    original = tiny_models.save(tiny_models.shared("bert_base"), tmp_path / "original")
    compared = ("--original", str(original), "--data", str(data), "--family", "similarity")
    status, lines = command(capsys, "evaluate", str(folder), *compared)
    assert status == 2 and f"does not run on {folder}" in lines[-1], lines


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"hidden_dropout_prob": float("nan")}, "sets hidden_dropout_prob to nan; it must be a number from 0 to 1"),
        ({"attention_probs_dropout_prob": -0.5}, "sets attention_probs_dropout_prob to -0.5; it must be a number from 0 to 1"),
        ({"layer_norm_eps": float("inf")}, "sets layer_norm_eps to inf; it must be a finite number"),
        ({"num_hidden_layers": 900}, "num_hidden_layers to 900, but the files contain 39 tensors, fewer than one per layer"),
    ],
)
def test_a_config_with_impossible_numbers_names_them(folder: Path, changes: dict[str, Any], sentence: str) -> None:
    edit_json(folder / "config.json", **changes)
    with pytest.raises(ModelError, match=sentence):
        describe(str(folder))


DAMAGED: dict[str, tuple[str, Any]] = {
    "cut off": ("tokenizer.json", lambda text: text[:300]),
    "empty": ("tokenizer.json", lambda _: ""),
    "no object": ("tokenizer.json", lambda _: "[]"),
    "unknown model": ("tokenizer.json", lambda text: text.replace("WordLevel", "Nope")),
    "no vocabulary": ("tokenizer.json", lambda text: json.dumps({**json.loads(text), "model": {"type": "WordLevel"}})),
    "a vocabulary without the unknown token": (
        "tokenizer.json",
        lambda text: text.replace('"[UNK]": 1', '"gone": 1').replace('"id": 1', '"id": 60'),
    ),
    "a bad expression": (
        "tokenizer.json",
        lambda text: json.dumps(
            {
                **json.loads(text),
                "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Removed", "invert": False},
            }
        ),
    ),
    "length a text": ("tokenizer_config.json", lambda text: json.dumps({**json.loads(text), "model_max_length": "512"})),
    "length negative": ("tokenizer_config.json", lambda text: json.dumps({**json.loads(text), "model_max_length": -1})),
    "class a number": ("tokenizer_config.json", lambda text: json.dumps({**json.loads(text), "tokenizer_class": 5})),
    "config no object": ("tokenizer_config.json", lambda _: "[]"),
    "special tokens no object": ("special_tokens_map.json", lambda _: "[1]"),
    "added tokens no object": ("added_tokens.json", lambda _: "[1]"),
}


@pytest.mark.parametrize("case", [*DAMAGED, "too large a number"])
def test_a_damaged_tokenizer_is_one_sentence(
    case: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, damage = DAMAGED.get(case, ("tokenizer.json", lambda text: text.replace('"w7": 7', '"w7": 900000')))
    file = folder / name
    file.write_text(damage(file.read_text() if file.is_file() else ""))
    data = tmp_path / "pairs.csv"
    data.write_text("sentence1,sentence2,score\n" + "".join(f"w{n} w7 heard,w{n + 1} w5,{n % 3}\n" for n in range(3, 40)))
    status, lines = command(capsys, "evaluate", str(folder), "--data", str(data), "--family", "similarity")
    told = [line for line in lines if not line.startswith(("reading ", "scoring "))]
    assert status == 2 and len(told) == 1 and told[0].startswith("offcomp: "), lines
    assert any(word in told[0] for word in ("tokenizer", "token", "special_tokens_map"))


@pytest.mark.parametrize("length", [10**30, 1e30, 16, None])
def test_lengths_that_transformers_writes_are_read(folder: Path, length: Any) -> None:
    edit_json(folder / "tokenizer_config.json", model_max_length=length)
    tokenizer = load(str(folder)).tokenizer
    assert tokenizer is not None and tokenizer("w3 w4")["input_ids"] == [3, 4]


def test_a_tokenizer_class_that_does_not_exist_is_read_as_its_file_says(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", tokenizer_class="NoSuchTokenizer")
    tokenizer = load(str(folder)).tokenizer
    assert tokenizer is not None and tokenizer("w3 w4 unheard")["input_ids"] == [3, 4, 1]


def test_a_name_with_line_breaks_stays_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_weights(folder, **{"a\nb\x1b[31m.weight": torch.ones(3, dtype=torch.int8)})
    status, lines = command(capsys, "modules", str(folder))
    assert status == 2 and len(lines) == 1 and "\x1b" not in lines[0]


def test_the_command_line_gives_the_same_remedies(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Computing the identity of a model also reads its files, but must not be the step that reports the fault."""
    parent = tmp_path / "parent"
    parent.mkdir()
    folder.rename(parent / "inner")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/base"}))
    save_file({"lora.weight": torch.ones(2, 2)}, adapter / "adapter_model.safetensors")
    for given, named in ((parent, "inner"), (adapter, "merge_and_unload")):
        with pytest.raises(SystemExit) as ended:
            cli.main(["modules", str(given)])
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert named in line
