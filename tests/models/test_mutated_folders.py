"""Each of 110 model folders, with one mutation each, is scored, or refused with one sentence.

There is no traceback, no hang, and no memory allocated for a size that a file only claims. Mutations are drawn from a seed. A
failure is reported with the number of the folder, its model, and the mutation.
"""

from __future__ import annotations

import json
import resource
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from offcomp.cli import main as cli
from tests import language_models, tiny_models

SEED = 20
NUMBER = 110
SECONDS = 20
GIGABYTES = 1.5
PROGRESS = ("reading ", "scoring ", "left out: ")
Mutation = tuple[str, Callable[[Path, np.random.Generator], str]]

ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 3, 7, 61, 10**6, 10**12, 10**400, 0.5, -2.5, float("nan"), float("inf"), 1e308),
    *("", "7", "text", "../..", "/etc/passwd", "\u0000", "a\nb", [], [1], ["x"], {}, {"x": 1}, [[[[[[[[[[1]]]]]]]]]]),
)
"""Odd JSON values, which replace valid ones."""


class Hung(BaseException):
    """A folder took longer than `SECONDS`. It is not an Exception, so that no handler in between can catch it."""


@contextmanager
def limited() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def pick(generator: np.random.Generator, options: Any) -> Any:
    return options[int(generator.integers(len(options)))]


def odd_json(file: str) -> Mutation:
    """Replace or remove one value of a JSON file, at any depth, or add an unexpected key."""

    def mutate(folder: Path, generator: np.random.Generator) -> str:
        path = pick(generator, sorted(folder.rglob(file)))
        document = json.loads(path.read_text(encoding="utf-8"))
        places = list(all_places(document))
        holder, key = pick(generator, places)
        value = pick(generator, ODD)
        action = pick(generator, ("set", "set", "set", "drop", "add"))
        if action == "drop":
            del holder[key]
        elif action == "add" and isinstance(holder, dict):
            holder[pick(generator, ("unknown", "tie_word_embeddings", "auto_map", "quantization_config", "dtype"))] = value
        else:
            holder[key] = value
        path.write_text(json.dumps(document), encoding="utf-8")
        return f"{action} {key} {value!r:.60}"

    return f"value in {file}", mutate


def all_places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Yield a list or object and an index or key in it, for every value in nested JSON."""
    for key, value in document.items() if isinstance(document, dict) else enumerate(document):
        yield document, key
        if isinstance(value, dict | list):
            yield from all_places(value)


def odd_bytes(file: str) -> Mutation:
    """Damage a file: truncate, extend, empty, replace or remove it, overwrite or insert bytes, or put a folder in its place."""

    def mutate(folder: Path, generator: np.random.Generator) -> str:
        path = pick(generator, sorted(folder.rglob(file)))
        content = path.read_bytes()
        place = int(generator.integers(len(content)))
        action = pick(generator, ("cut", "tail", "flip", "flip", "insert", "empty", "list", "gone", "folder"))
        changed = {
            "cut": content[:place],
            "tail": content + b"tail",
            "flip": content[:place] + generator.bytes(4) + content[place + 4 :],
            "insert": content[:place] + generator.bytes(3) + content[place:],
            "empty": b"",
            "list": b'[{"a": [1]}, null]',
        }
        path.unlink()
        if action == "folder":
            path.mkdir()
        elif action != "gone":
            path.write_bytes(changed[action])
        return f"{action} at {place}"

    return f"bytes of {file}", mutate


def odd_header(folder: Path, generator: np.random.Generator) -> str:
    """Falsify or duplicate one entry in the header of a safetensors file, or falsify the length of the header."""
    file = pick(generator, sorted(folder.rglob("model.safetensors")))
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, payload = json.loads(content[8 : 8 + length]), content[8 + length :]
    key = pick(generator, [name for name in header if name != "__metadata__"])
    entry = header[key]
    start, end = entry["data_offsets"]
    changes: dict[str, Any] = {
        "dtype": ("I8", "U8", "F64", "F16", "F8_E4M3", "X9", "I64", 5, None),
        "shape": ([], [0], [10**9, 10**9], [-1, 4], entry["shape"][::-1], [end - start], "x", [1.5], [10**400]),
        "data_offsets": ([0, 0], [end, start], [start, end + 8], [-8, 8], [0, 10**18], [start], "ab", [start + 4, end]),
    }
    action = pick(generator, (*changes, "twice", "length", "metadata", "entry"))
    if action in changes:
        entry[action] = pick(generator, changes[action])
    elif action == "metadata":
        header["__metadata__"] = pick(generator, ODD)
    elif action == "entry":
        header[key] = pick(generator, ODD)
    text = json.dumps(header)
    if action == "twice":
        text = text[:-1] + f", {json.dumps(key)}: {json.dumps(entry)}}}"
    told = pick(generator, (0, 7, 2**40, 2**63, len(text) + 9)) if action == "length" else len(text)
    file.write_bytes(told.to_bytes(8, "little") + text.encode() + payload)
    return f"{action} of {key}"


def odd_tensors(folder: Path, generator: np.random.Generator) -> str:
    """Change the values, shape, dtype or name of one tensor, add one, or remove one or all; the file stays valid."""
    file = pick(generator, sorted(folder.rglob("model.safetensors")))
    tensors = load_file(file)
    key = pick(generator, sorted(tensors))
    value = tensors.pop(key)
    action = pick(generator, ("nan", "inf", "turned", "longer", "int8", "float64", "float16", "gone", "renamed", "more", "all"))
    made: dict[str, Callable[[], dict[str, Any]]] = {
        "nan": lambda: {key: np.where(np.arange(value.size).reshape(value.shape) == 0, np.nan, value).astype(np.float32)},
        "inf": lambda: {key: np.full_like(value, np.inf)},
        "turned": lambda: {key: np.ascontiguousarray(value.T)},
        "longer": lambda: {key: np.concatenate([value, value])},
        "int8": lambda: {key: value.astype(np.int8)},
        "float64": lambda: {key: value.astype(np.float64)},
        "float16": lambda: {key: value.astype(np.float16)},
        "gone": dict,
        "renamed": lambda: {pick(generator, ("", "x" * 3000, "a\nb", f"module.{key}", f"_orig_mod.{key}")): value},
        "more": lambda: {key: value, "more": np.zeros((500, 500), np.float32)},
        "all": dict,
    }
    changed = {} if action == "all" else {**tensors, **made[action]()}
    save_file(changed, file, {"format": "pt"})
    return f"{action} {key}"


def odd_modules(folder: Path, generator: np.random.Generator) -> str:
    """Change the list of modules in a sentence-transformers folder, or remove the folder of one."""
    file = folder / "modules.json"
    modules = json.loads(file.read_text())
    action = pick(generator, ("type", "path", "order", "twice", "huge", "no list", "gone", "first", "entry"))
    if action == "type":
        pick(generator, modules)["type"] = pick(
            generator, ("evil.Module", "", 5, "sentence_transformers.models.CNN", "os.system")
        )
    elif action == "path":
        pick(generator, modules)["path"] = pick(generator, ("../..", "/etc", "nowhere", "", 5, None, "a\u0000b", "1_Pooling"))
    elif action == "order":
        modules.reverse()
    elif action == "twice":
        modules.append(dict(pick(generator, modules)))
    elif action == "huge":
        modules = modules * 5000
    elif action == "first":
        modules = modules[1:]
    elif action == "entry":
        modules[int(generator.integers(len(modules)))] = pick(generator, ODD)
    elif action == "gone":
        shutil.rmtree(folder / pick(generator, ("1_Pooling", "2_Dense")))
    file.write_text(json.dumps(pick(generator, ODD) if action == "no list" else modules))
    return action


ANYWHERE: tuple[Mutation, ...] = (
    *(odd_json("config.json"),) * 4,
    odd_json("tokenizer_config.json"),
    odd_json("tokenizer.json"),
    *(odd_bytes(file) for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")),
    *(("header of model.safetensors", odd_header),) * 3,
    *(("tensors", odd_tensors),) * 2,
)
SENTENCE: tuple[Mutation, ...] = (
    *(("modules.json", odd_modules),) * 5,
    *(odd_json("modules.json"), odd_bytes("modules.json"), odd_json("sentence_bert_config.json")),
    *ANYWHERE,
)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Intact folders of a BERT with a head, a GPT-2 and a sentence encoder, by name."""
    root = tmp_path_factory.mktemp("originals")
    for name, framed in (("bert_classifier", True), ("gpt2", False), ("bert_base", True)):
        tiny_models.save(tiny_models.shared(name), root / name, tokenizer=False)
        specials = language_models.SPECIALS if framed else {"unk_token": "[UNK]"}
        language_models.syllable_tokenizer(framed, **specials).save_pretrained(root / name)
    folder, width = root / "bert_base", tiny_models.HIDDEN
    for part in ("1_Pooling", "2_Dense"):
        (folder / part).mkdir()
    named = [("", "models.Transformer"), ("1_Pooling", "models.Pooling"), ("2_Dense", "models.Dense")]
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.{kind}"}
        for index, (path, kind) in enumerate(named)
    ]
    pooling = {"word_embedding_dimension": width, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    dense = {"in_features": width, "out_features": 8, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "2_Dense" / "config.json").write_text(json.dumps(dense))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16, "do_lower_case": False}))
    generator = np.random.default_rng(0)
    weights = {"linear.weight": generator.normal(size=(8, width)), "linear.bias": generator.normal(size=8)}
    save_file({key: value.astype(np.float32) for key, value in weights.items()}, folder / "2_Dense" / "model.safetensors")
    return {name: root / name for name in ("bert_classifier", "gpt2", "bert_base")}


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, ...]]:
    """The command-line flags of a small task that each original supports."""
    root = tmp_path_factory.mktemp("questions")
    texts = language_models.texts_of(*range(3, 18), *range(3, 18))
    lines = {
        "labels.csv": ["text,label", *(f"{text},{index % 5}" for index, text in enumerate(texts))],
        "texts.csv": ["text", *texts],
        "pairs.csv": ["sentence1,sentence2,score", *(f"{a},{b},{len(a) % 4}" for a, b in zip(texts, texts[::-1], strict=True))],
    }
    for name, content in lines.items():
        (root / name).write_text("\n".join(content) + "\n")
    tasks = {
        "bert_classifier": ("labels.csv", "head"),
        "gpt2": ("texts.csv", "causal-lm"),
        "bert_base": ("pairs.csv", "similarity"),
    }
    return {name: ("--data", str(root / file), "--family", family) for name, (file, family) in tasks.items()}


def outcome(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command line. Returns an empty string if it succeeds or refuses with one sentence, else what happened."""
    try:
        with limited():
            cli.main(arguments)
        status: Any = 0
    except SystemExit as end:
        status = end.code or 0
    except Hung:
        return f"took more than {SECONDS} seconds"
    except BaseException:  # noqa: BLE001  # a panic of the tokenizers library is not an Exception
        return traceback.format_exc(limit=-4)
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(PROGRESS)]
    if status == 0 and not said:
        return ""
    if status == 2 and len(said) == 1 and said[0].startswith("offcomp: ") and len(said[0]) < 1500:
        return ""
    return f"exit {status}, stderr {said[:4]}"


def test_the_originals_are_scored(
    originals: dict[str, Path],
    questions: dict[str, tuple[str, ...]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The originals are accepted, so that any refusal below is due to the mutation."""
    for name, folder in originals.items():
        cli.main(["evaluate", str(folder), *questions[name], "--json"])
        (score,) = json.loads(capsys.readouterr().out)["scores"].values()
        assert score["n"] >= 10


@pytest.mark.timeout(300)
def test_mutated_folders_are_scored_or_refused_with_one_sentence(
    originals: dict[str, Path],
    questions: dict[str, tuple[str, ...]],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OFFCOMP_HOME", str(tmp_path / "home"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    faults = []
    for number in range(NUMBER):
        generator = np.random.default_rng([SEED, number])
        name = ("bert_base", "bert_classifier", "bert_base", "gpt2")[number % 4]
        folder = tmp_path / f"{number}"
        shutil.copytree(originals[name], folder)
        kinds = SENTENCE if name == "bert_base" else ANYWHERE
        kind, mutate = kinds[number // 2 % len(kinds)]
        done = mutate(folder, generator)
        for verb in (("modules", str(folder)), ("evaluate", str(folder), *questions[name])):
            fault = outcome(capsys, *verb)
            if fault:
                faults.append(f"{number} {name}, {kind}, {done}, {verb[0]}: {fault}")
        shutil.rmtree(folder)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # kilobytes
    assert not faults, "\n\n".join(faults)
    assert grown < GIGABYTES * 10**6
