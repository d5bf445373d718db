"""Examples of tasks from all kinds of sources: columns, splits, labels, omitted rows, and refused files."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest

from offcomp.errors import TaskError
from offcomp.evaluation import data
from offcomp.evaluation.base import TaskData
from offcomp.evaluation.data import read
from offcomp.planning.data.tasks import Task, find_task

ROOT = Path(__file__).parents[3]


def classes(n: int = 100, names: Sequence[Any] = ("bad", "good"), prefix: str = "text") -> pd.DataFrame:
    """`n` different texts, labelled with each class in turn."""
    return pd.DataFrame({"text": [f"{prefix} {i}" for i in range(n)], "label": [names[i % len(names)] for i in range(n)]})


def pairs(n: int = 40) -> pd.DataFrame:
    columns = {"sentence1": [f"one {i}" for i in range(n)], "sentence2": [f"two {i}" for i in range(n)]}
    return pd.DataFrame(columns | {"score": [i / 8 for i in range(n)]})


def write(table: pd.DataFrame, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


def task(source: Path | str, family: str = "probe", **more: Any) -> Task:
    return Task(name="mine", family=family, data=str(source), **more)


def sizes(found: TaskData) -> dict[str, int]:
    return {split: len(part) for split, part in found.splits.items()}


def refused(source: Path | str, family: str = "probe", **more: Any) -> str:
    with pytest.raises(TaskError) as error:
        read(task(source, family, **more))
    message = str(error.value)
    assert "\n" not in message and "Traceback" not in message
    return message


# ---------------------------------------------------------------------------------------------------------------- sources


@pytest.mark.parametrize("name", ["sentiment", "topics", "masked-prose", "causal-prose", "sentiment-head"])
def test_bundled_tasks_are_read_with_their_own_splits(name: str) -> None:
    known = find_task(name)
    table = pd.read_csv(ROOT / "assets" / "tasks" / f"{known.data.removeprefix('bundled:')}.csv")
    found = read(known)
    assert found.tested_on == "test"
    assert list(found.splits["test"]["text"]) == table[table["split"] == "test"]["text"].tolist()
    assert ("train" in found.splits) is known.kind.trains
    if known.kind.target:
        assert found.splits["test"].features["label"].names == sorted(table["label"].unique())
        names = found.splits["test"].features["label"].int2str(list(found.splits["test"]["label"]))
        assert names == table[table["split"] == "test"]["label"].tolist()


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_kind_of_file_gives_the_same_examples(tmp_path: Path, suffix: str) -> None:
    table = classes().assign(text=lambda t: t["text"] + ', "quoted",\tand\nNA ü')
    found = read(task(write(table, tmp_path / f"mine{suffix}")))
    assert found.digest == read(task(write(table, tmp_path / "other.parquet"))).digest
    texts = {text for part in found.splits.values() for text in part["text"]}
    assert texts == set(table["text"])


@pytest.mark.parametrize("validation", ["validation", "valid", "dev"])
def test_a_folder_has_a_file_a_split(tmp_path: Path, validation: str) -> None:
    for name, suffix in (("train", ".csv"), (validation, ".jsonl"), ("test", ".parquet")):
        write(classes(20, prefix=name), tmp_path / f"{name}{suffix}")
    found = read(task(tmp_path))
    assert sizes(found) == {"train": 20, "validation": 20, "test": 20} and found.tested_on == "test"
    assert found.splits["validation"]["text"][0] == f"{validation} 0"


def test_a_folder_without_a_training_split_does_for_a_language_model(tmp_path: Path) -> None:
    for name in ("validation", "test"):
        write(classes(20, prefix=name)[["text"]], tmp_path / f"{name}.parquet")
    assert sizes(read(task(tmp_path, "causal-lm"))) == {"validation": 20, "test": 20}
    write(classes(20, prefix="validation"), tmp_path / "validation.parquet")
    write(classes(20, prefix="test"), tmp_path / "test.parquet")
    assert "no train split" in refused(tmp_path)


def test_a_column_split_decides(tmp_path: Path) -> None:
    table = classes(60).assign(split=["Train", "dev", "test"] * 20)
    found = read(task(write(table, tmp_path / "mine.csv")))
    assert sizes(found) == {"train": 20, "validation": 20, "test": 20}
    assert list(found.splits["test"]["text"]) == table["text"][2::3].tolist()
    message = refused(write(table.assign(split="holdout"), tmp_path / "mine.csv"))
    assert "'holdout'" in message and "train, validation, test" in message


def hub(monkeypatch: pytest.MonkeyPatch, splits: dict[str, dict[str, list[Any]]], **kinds: Any) -> None:
    """Replace the hub with one that has a single data set."""

    def load(path: str, config: str | None) -> datasets.DatasetDict:
        assert (path, config) == ("owner/name", "config")
        parts = {}
        for split, columns in splits.items():
            features = {name: kinds.get(name, datasets.Value("string")) for name in columns}
            parts[split] = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        return datasets.DatasetDict(parts)

    monkeypatch.setattr(data, "load_dataset", load)


def of_glue(n: int, prefix: str, label: int | None = None) -> dict[str, list[Any]]:
    labels = [i % 2 if label is None else label for i in range(n)]
    return {"sentence": [f"{prefix} {i}" for i in range(n)], "label": labels, "idx": [str(i) for i in range(n)]}


@pytest.mark.parametrize("family", ["probe", "head"])
def test_without_public_answers_the_validation_split_is_tested_on(monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    splits = {"train": of_glue(200, "train"), "validation": of_glue(40, "validation"), "test": of_glue(30, "test", -1)}
    hub(monkeypatch, splits, label=datasets.ClassLabel(names=["not_it", "it"]))
    found = read(task("hub:owner/name/config", family))
    assert found.tested_on == "validation"
    assert list(found.splits["test"]["text"]) == splits["validation"]["sentence"]
    assert found.splits["test"].features["label"].names == ["not_it", "it"]  # in the order of the hub
    assert list(found.splits["test"]["label"]) == splits["validation"]["label"]
    assert len(found.splits["validation"]) == pytest.approx(20, abs=2)
    assert set(found.splits["validation"]["text"]) <= set(splits["train"]["sentence"])
    if family == "probe":
        assert not set(found.splits["validation"]["text"]) & set(found.splits["train"]["text"])


def test_names_of_classes_in_a_parquet_file_are_kept(tmp_path: Path) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "maybe"])})
    table = classes(100, names=(0, 1))
    datasets.Dataset.from_dict(table.to_dict("list"), features=features).to_parquet(tmp_path / "mine.parquet")
    assert read(task(tmp_path / "mine.parquet")).splits["test"].features["label"].names == ["no", "maybe"]


def test_a_hub_that_cannot_be_reached_is_one_sentence() -> None:
    message = refused("hub:nobody/offcomp-has-no-such-set/config")
    assert "'nobody/offcomp-has-no-such-set/config'" in message and "local file or folder" in message
    assert "hub:OWNER/NAME" in refused("hub:glue")


@pytest.mark.parametrize(
    "error", [RuntimeError("scripts are no longer supported"), ValueError("no config\nChoose one"), OSError()]
)
def test_what_a_hub_says_becomes_the_reason(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(data, "load_dataset", fail)
    said = str(error).splitlines()[0] if str(error) else "OSError"
    assert said in refused("hub:owner/name")


# ----------------------------------------------------------------------------------------------------------------- splits


def test_a_file_without_splits_is_cut_alike_in_every_class(tmp_path: Path) -> None:
    found = read(task(write(classes(400, names=("a", "a", "a", "b")), tmp_path / "mine.csv")))
    assert found.tested_on == "test"
    for split, share in (("train", 240), ("validation", 60), ("test", 100)):
        labels = np.array(found.splits[split]["label"])
        assert len(labels) == pytest.approx(share, abs=2)
        assert (labels == 1).mean() == pytest.approx(0.25, abs=0.03)


def test_many_classes_of_few_examples_are_cut_in_about_the_same_shares(tmp_path: Path) -> None:
    found = read(task(write(classes(600, names=[f"c{i}" for i in range(100)]), tmp_path / "mine.csv")))
    assert sizes(found)["test"] == pytest.approx(150, abs=25)
    assert len(found.splits["train"].features["label"].names) == 100


def test_a_class_that_is_not_trained_on_is_not_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(classes(200, names=("b", "c"), prefix="train"), tmp_path / "train.csv")
    write(classes(60, names=("a", "b", "c"), prefix="test"), tmp_path / "test.csv")
    found = read(task(tmp_path))
    assert found.splits["test"].features["label"].names == ["b", "c"]
    assert list(found.splits["test"]["label"]) == [0, 1] * 20
    assert "split test: left out" in caplog.text and "out 20 examples" in caplog.text


def test_families_that_do_not_train_test_on_everything(tmp_path: Path) -> None:
    assert sizes(read(task(write(pairs(), tmp_path / "mine.csv"), "similarity"))) == {"test": 40}
    assert sizes(read(task(write(classes(), tmp_path / "mine.csv"), "masked-lm"))) == {"test": 100}


def test_the_seed_decides_and_nothing_else(tmp_path: Path) -> None:
    mine = task(write(classes(), tmp_path / "mine.csv"))
    first, again, other = read(mine, 0), read(mine, 0), read(mine, 1)
    assert first.digest == again.digest != other.digest
    assert re.fullmatch("[0-9a-f]{12}", first.digest)
    assert {split: part.to_dict() for split, part in first.splits.items()} == {
        split: part.to_dict() for split, part in again.splits.items()
    }


def test_the_digest_stands_for_texts_labels_and_names(tmp_path: Path) -> None:
    table = classes()
    digests = {
        read(task(write(changed, tmp_path / "mine.csv"), "head")).digest
        for changed in (table, table.replace("text 7", "text 7!"), table.replace("good", "fine"), table[:99])
    }
    assert len(digests) == 4


def test_splits_share_no_example(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(pd.concat([classes(30, prefix="a"), classes(5, prefix="b"), classes(3, prefix="c")]), tmp_path / "train.csv")
    write(pd.concat([classes(20, prefix="b"), classes(2, prefix="c")]), tmp_path / "validation.csv")
    write(classes(20, prefix="c"), tmp_path / "test.csv")
    with caplog.at_level(logging.INFO, "offcomp"):
        found = read(task(tmp_path))
    assert sizes(found) == {"train": 30, "validation": 20, "test": 20}
    assert "split train: left out 8 examples that also appear in a later split" in caplog.text


def test_more_examples_than_are_used_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "LARGEST", {"train": 50, "validation": 12, "test": 20})
    mine = task(write(classes(400), tmp_path / "mine.csv"))
    found = read(mine)
    assert sizes(found) == {"train": 50, "validation": 12, "test": 20}
    places = [int(text.split()[1]) for text in found.splits["test"]["text"]]
    assert places == sorted(places) and max(places) > 200
    assert read(mine, 1).digest != found.digest


# ---------------------------------------------------------------------------------------------------------------- columns


def test_columns_are_taken_as_the_task_says(tmp_path: Path) -> None:
    table = classes().rename(columns={"text": "body", "label": "stars"}).assign(text="not this")
    found = read(task(write(table, tmp_path / "mine.csv"), columns={"text": "body", "label": "stars"}))
    assert set(found.splits["test"].column_names) == {"text", "label"}
    assert found.splits["test"]["text"][0].startswith("text ")


@pytest.mark.parametrize("names", [{"text": "sentence", "label": "labels"}, {"text": "Text", "label": "LABEL"}])
def test_obvious_names_are_guessed(tmp_path: Path, names: dict[str, str]) -> None:
    assert read(task(write(classes().rename(columns=names), tmp_path / "mine.csv"))).splits["test"].num_rows


def test_a_pair_is_found_by_its_names_and_mapping_one_of_two_decides(tmp_path: Path) -> None:
    both = pairs().assign(label=["x", "y"] * 20, text="z")
    path = write(both, tmp_path / "mine.csv")
    assert "needs the columns" in refused(path, "head")
    found = read(task(path, "head", columns={"sentence1": "sentence2", "sentence2": "sentence1"}))
    assert found.splits["test"]["sentence1"][0] == "two 0"


def test_wrong_columns_are_listed_with_the_way_out(tmp_path: Path) -> None:
    path = write(classes(prefix="").rename(columns={"text": "body"}), tmp_path / "mine.csv")
    message = refused(path)
    assert "body, label" in message and '"columns"' in message and '{"text": "body"}' in message
    assert "'missing'" in refused(path, columns={"text": "missing"}) and "body, label" in refused(path, columns={"text": "no"})
    assert "maps 'body', but the columns of a probe task are text" in refused(path, columns={"body": "text"})
    ambiguous = classes().rename(columns={"text": "sentence"}).assign(Text=classes(prefix="other")["text"])
    assert "could read text from several columns of mine.csv (sentence, Text)" in refused(
        write(ambiguous, tmp_path / "mine.csv")
    )


# ----------------------------------------------------------------------------------------------------- labels and scores


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (("b", "a", "C"), ["C", "a", "b"]),
        ((2, 10, 1), ["1", "2", "10"]),
        (("2", "10", "1"), ["1", "2", "10"]),
        ((2.0, 10.0, 1.0), ["1", "2", "10"]),
        ((-1, 0, 1), ["-1", "0", "1"]),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_labels_of_any_type_become_classes(tmp_path: Path, values: tuple[Any, ...], names: list[str], suffix: str) -> None:
    table = classes(60, names=values)
    test = read(task(write(table, tmp_path / f"mine{suffix}"), "head")).splits["test"]
    assert test.features["label"].names == names
    expected = [names.index(str(value).removesuffix(".0")) for value in table["label"]]
    assert list(test["label"]) == expected


def test_true_and_false_are_classes(tmp_path: Path) -> None:
    test = read(task(write(classes(60, names=(True, False)), tmp_path / "mine.parquet"), "head")).splits["test"]
    assert [name.lower() for name in test.features["label"].names] == ["false", "true"]
    assert list(test["label"])[:2] == [1, 0]


def test_measured_values_are_no_classes(tmp_path: Path) -> None:
    assert "2.5" in refused(write(classes(names=(1, 2.5)), tmp_path / "mine.csv"))
    assert "100 classes in 100 examples" in refused(
        write(classes(names=[f"n{i}" for i in range(100)]), tmp_path / "mine.csv"), "head"
    )


@pytest.mark.parametrize("family", ["probe", "head"])
def test_one_class_alone_is_refused(tmp_path: Path, family: str) -> None:
    assert "only the class 'good'" in refused(write(classes(names=("good",)), tmp_path / "mine.csv"), family)


@pytest.mark.parametrize("bad", ["high", "inf", "nan?"])
def test_scores_are_finite_numbers(tmp_path: Path, bad: str) -> None:
    table = pairs().astype({"score": "object"})
    table.loc[3, "score"] = bad
    assert f"'{bad}'" in refused(write(table, tmp_path / "mine.csv"), "similarity")
    assert list(read(task(write(pairs(), tmp_path / "mine.csv"), "similarity")).splits["test"]["score"])[:3] == [0, 0.125, 0.25]


def test_scores_that_do_not_vary_are_refused(tmp_path: Path) -> None:
    assert "same score" in refused(write(pairs().assign(score=1.0), tmp_path / "mine.csv"), "similarity")


# ------------------------------------------------------------------------------------------------------------ bad files


def test_rows_without_content_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = pd.concat([classes(40), pd.DataFrame({"text": ["", "  ", None, "x"], "label": ["good", "bad", "good", None]})])
    for suffix in (".csv", ".jsonl", ".parquet"):
        with caplog.at_level(logging.INFO, "offcomp"):
            assert sizes(read(task(write(table, tmp_path / f"mine{suffix}"), "head"))) == {"test": 40}
        assert "4 of 44 rows" in caplog.text
        caplog.clear()


def test_words_that_look_like_nothing_are_text(tmp_path: Path) -> None:
    table = classes(40).assign(label=["NA", "null"] * 20)
    assert read(task(write(table, tmp_path / "mine.csv"), "head")).splits["test"].features["label"].names == ["NA", "null"]


@pytest.mark.parametrize("family", ["probe", "head", "masked-lm"])
def test_too_few_examples_are_refused(tmp_path: Path, family: str) -> None:
    message = refused(write(classes(9), tmp_path / "mine.csv"), family)
    assert re.search(r"has \d examples for its (train|validation|test) split in mine.csv.* needs at least 10", message)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_text_in_the_usual_encodings(tmp_path: Path, encoding: str, suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    rows = classes(20, prefix="Grüße – café")
    body = rows.to_csv(index=False) if suffix == ".csv" else "\n".join(map(json.dumps, rows.to_dict("records")))
    if suffix == ".jsonl":
        body = body.encode().decode("unicode_escape")
    (tmp_path / f"mine{suffix}").write_bytes(body.encode(encoding))
    with caplog.at_level(logging.INFO, "offcomp"):
        test = read(task(tmp_path / f"mine{suffix}", "head")).splits["test"]
    assert test["text"][0] == "Grüße – café 0" and test.column_names == ["text", "label"]
    assert caplog.text.count("Windows-1252") == (encoding == "cp1252")


BROKEN = {
    "empty.csv": (b"", "cannot be read"),
    "names-only.csv": (b"text,label\n", "no rows"),
    "uneven.csv": (b"text,label\na,b\nc,d,e\n", "cannot be read as a .csv table"),
    "no-encoding.csv": (b"text,label\n\x81\xff,b\n", "neither UTF-8 nor Windows-1252"),
    "binary.csv": (bytes(range(256)) * 20, "contains null bytes"),
    "picture.parquet": (b"\x89PNG\r\n" * 50, "cannot be read as a .parquet table"),
    "array.jsonl": (b'[{"text": "a", "label": 1}]', "cannot be read as a .jsonl table"),
    "mixed.jsonl": (b'{"text": "a", "label": 1}\n{"text": "b", "label": "x"}', "cannot be read as a .jsonl table"),
    "nested.jsonl": (b'{"text": ["a"], "label": 1}\n' * 20, "contains neither text nor numbers"),
    "twice.csv": (b"text,text,label\n" + b"a,b,c\n" * 20, "2 columns named 'text'"),
    "page.html": (b"<html>", "supported extensions: .csv, .tsv, .jsonl, .parquet"),
    "prose.csv": (b"Once upon a time\nthere was a fox\n", "needs the columns text and label"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_table_is_one_sentence(tmp_path: Path, name: str) -> None:
    content, expected = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    message = refused(tmp_path / name)
    assert expected in message and name in message


def test_places_without_data_are_one_sentence(tmp_path: Path) -> None:
    assert "no file named train, validation or test" in refused(tmp_path)
    assert "does not exist" in refused(tmp_path / "nothing.csv")
    assert "does not exist" in refused("https://example.org/data.csv")
    assert "does not exist" in refused("bundled:nothing")
    write(classes(), tmp_path / "test.csv")
    write(classes(), tmp_path / "test.jsonl")
    assert "both test.csv and test.jsonl" in refused(tmp_path)


def test_naming_tasks_loads_no_heavy_package() -> None:
    heavy = "{'torch', 'datasets', 'transformers', 'pandas'}"
    code = f"import sys, offcomp.planning.data.tasks; print(*sorted({heavy} & set(sys.modules)))"
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    assert child.stdout.split() == []
