"""Run folders with one randomly corrupted file each: missing fields, values of the wrong type, truncation, deep nesting."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from offcomp.files import read_json
from offcomp.results import bundled
from tests.made_runs import made_group, made_run, made_score, made_value_score

Files = dict[str, bytes]
WRONG: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**70, -0.5, 1e308, "", "x", "\ud800", "<b>", "../../x", [], [[]], {}, {"x": {}}),
    *([1, 2], [None], {"value": None}, float("nan"), float("inf"), "9" * 400),
)
DEEP = 100_000


def good_documents() -> list[dict[str, Any]]:
    """Return valid results with every kind of score and all fields that tables and charts read."""
    rows = {"read": 10, "used": 9, "left_out": {"empty": 1}, "notes": ["a note"]}
    about = {"rows": rows, "cut": {"texts": 1, "of": 9, "tokens": 8}, "note": ["a note"], "title": "Own", "embedding": "mean"}
    groups = [
        made_group("query", 0.5, calibration={"rows": rows, "cut": None}, unit="parameters", dtype="float32"),
        made_group("key", 0.25, method="quantization", original_dtypes="float32", requested_ratio=2.0, bytes_in_own_dtype=80),
    ]
    also = {"f1": {key: value for key, value in made_score(["a"], []).items() if key in ("original", "compressed", "paired")}}
    words = {"opening": "It", "original": " is", "compressed": " was", "same_tokens": 0, "tokens": 1}
    others = {
        "similar": made_value_score("spearman", 0.8, 0.7, **about),
        "next": made_value_score("perplexity", 10.0, 12.0, continuations=[words]),
    }
    made = made_run("made", groups, made_score(["lost"], ["won"]) | {"also": also} | about, others=others).result
    assert made is not None
    return [*(read_json(bundled.FOLDER / file) for file in bundled.FILES), made.to_dict()]


def files_of(document: dict[str, Any], submitted: float, *, ended: bool = True) -> Files:
    """Return the files of a run with this result, or, unless `ended`, of a run that was interrupted before it had a result."""
    worker = {"host": "", "pid": 7, "started": 5.0, "submitted": submitted}
    documents = {
        "plan.json": document["plan"],
        "worker.json": {name: value for name, value in worker.items() if name != "host"},
        "progress.json": {"stage": "compress query", "fraction": 0.5, "remaining_seconds": 3.0, "elapsed_seconds": 3.0},
        "inputs.json": {"model": "2-" + "0" * 62, "calibration": "", "tasks": {"sentiment": ["2", {}]}},
    } | ({"run.json": document} if ended else {})
    return {name: json.dumps(value).encode() for name, value in documents.items()}


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value inside a JSON value, starting with the empty path of the value itself."""
    yield at
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*at, key))


def changed_document(document: Any, chance: random.Random) -> Any:
    """Return a copy of a JSON value in which one of the values inside it is deleted or replaced."""
    changed = copy.deepcopy(document)
    *above, last = chance.choice([place for place in places(changed) if place])
    parent = changed
    for key in above:
        parent = parent[key]
    if chance.random() < 0.4:
        del parent[last]
    else:
        parent[last] = chance.choice(WRONG)
    return changed


def changed_content(content: bytes, chance: random.Random) -> bytes:
    """Return the content of a file, corrupted as by a faulty disk, a different version or a malicious user."""
    kind = chance.random()
    if kind < 0.75:
        return json.dumps(changed_document(json.loads(content), chance)).encode()
    return chance.choice(
        [
            b"",
            content[: chance.randrange(len(content))],
            chance.randbytes(100),
            b"[" * DEEP + b"]" * DEEP,
            b'{"x":' * 500 + b"1" + b"}" * 500,
            content.replace(b"}", b', "x": ' + b"[" * 300 + b"]" * 300 + b"}", 1),
            json.dumps(chance.choice(WRONG)).encode(),
            b"\xff\xfe" + content,
            content.replace(b"0.", b"1e400", 1),
            content.replace(b"5", b"NaN", 1),
        ]
    )


def mutated(count: int, seed: int) -> Iterator[Files]:
    """Yield the files of `count` runs, each with one corrupted file, which in more than half of the runs is run.json."""
    chance, documents = random.Random(seed), good_documents()
    for index in range(count):
        ended = chance.random() < 0.75
        files = files_of(chance.choice(documents), 1000.0 + index, ended=ended)
        name = "run.json" if ended and chance.random() < 0.7 else chance.choice(sorted(files))
        yield files | {name: changed_content(files[name], chance)}


def put(folder: Path, files: Files) -> None:
    """Create the folder of a run and write these files to it."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
