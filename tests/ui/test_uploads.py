"""Uploads: matrices become the draft's model, a table becomes a task, and unusable files result in a one-sentence message."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from offcomp.errors import InputError
from offcomp.models.catalogue import ModelInfo
from offcomp.planning.data.tasks import Task
from offcomp.planning.plan import Plan, validate
from offcomp.runs.store import RunStore
from offcomp.ui import uploads as bring
from offcomp.ui.uploads import columns_of
from tests.pages import home, open_part, opened, step, texts

__all__ = ["home"]  # a fixture


@pytest.fixture
def app(home: Path) -> AppTest:
    """The app on its Start page, with an empty home."""
    return opened(tasks="sentiment")


def matrices() -> bytes:
    content = io.BytesIO()
    np.savez(content, left=np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32), bias=np.zeros(3, np.float32))
    return content.getvalue()


def test_uploaded_matrices_are_the_drafts_model(app: AppTest) -> None:
    step(app, "model")
    app.file_uploader(key="upload_matrices").upload("mine.npz", matrices()).run()
    assert not app.exception
    assert not app.error
    assert "uploads" in app.session_state["model"]
    step(app, "inspect")
    assert any("40 x 30" in box.options[0] for box in app.selectbox)


@pytest.mark.parametrize(("name", "content"), [("bad.npz", b"no archive"), ("bad.safetensors", b"\x00" * 4), ("bad.npy", b"")])
def test_a_bad_file_of_matrices_is_a_sentence_and_the_model_stays(app: AppTest, name: str, content: bytes) -> None:
    step(app, "model")
    app.file_uploader(key="upload_matrices").upload(name, content).run()
    assert not app.exception
    assert name in app.error[0].value
    assert app.session_state["model"] == "minilm-l6"


VERDICTS = b"sentence,verdict\n" + b"".join(b"text %d,%s\n" % (i, (b"good", b"bad")[i % 2]) for i in range(40))


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The submitted plans. They are validated as usual, but no worker is started."""
    plans: list[Plan] = []

    def submit(_store: RunStore, plan: Plan, info: ModelInfo) -> SimpleNamespace:
        validate(Plan.from_dict(plan.to_dict()), info)
        plans.append(plan)
        return SimpleNamespace(id=f"{len(plans):012}")

    monkeypatch.setattr(RunStore, "submit", submit)
    return plans


def tasks_of(app: AppTest) -> AppTest:
    """Go to Compress, open the tasks of the plan, and return the app."""
    return open_part(step(app, "compress"), "tasks")


def columns(app: AppTest) -> dict[str, str]:
    """Return the column of the table that is chosen for each column of the task."""
    return {box.label: box.value for box in app.selectbox if str(box.key).startswith("upload_column_")}


def test_an_uploaded_table_is_a_task_of_the_plan(app: AppTest, submitted: list[Plan]) -> None:
    tasks_of(app).file_uploader(key="upload_examples").upload("verdicts.csv", VERDICTS).run()
    assert not app.exception
    assert not app.error
    assert columns(app) == {"text": "sentence", "label": "verdict"}
    app.button(key="run").click().run()
    assert not app.exception
    name, task = submitted[0].tasks
    assert name == "sentiment" and isinstance(task, Task)
    assert (task.name, task.columns) == ("verdicts", {"text": "sentence", "label": "verdict"})
    assert Path(task.data).read_bytes() == VERDICTS


def reviews(*labels: str, rows: int = 120) -> bytes:
    """Return a CSV table with an id, a text and a class, under names that are not those of a task's columns."""
    lines = [
        f"{1000 + i},The {('soup', 'train', 'coat')[i % 3]} of day {i} was rather odd,{labels[i % len(labels)]}"
        for i in range(rows)
    ]
    return "\n".join(["id,body,stars", *lines]).encode()


def test_an_upload_shows_its_rows_its_classes_and_the_columns_by_content(app: AppTest, submitted: list[Plan]) -> None:
    """Chosen by position, the text and the label would be the columns id and body."""
    tasks_of(app).file_uploader(key="upload_examples").upload("reviews.csv", reviews("good", "bad", "bad")).run()
    assert not app.exception and not app.error
    assert columns(app) == {"text": "body", "label": "stars"}
    assert "120 rows, 2 classes (bad 80, good 40)" in texts(app)
    (shown,) = [table.value for table in app.dataframe if list(table.value.columns) == ["id", "body", "stars"]]
    assert list(shown["id"]) == ["1000", "1001", "1002"]
    app.button(key="run").click().run()
    task = submitted[0].tasks[-1]
    assert isinstance(task, Task) and task.columns == {"text": "body", "label": "stars"}


def test_a_wrong_guess_is_put_right_by_hand(app: AppTest, submitted: list[Plan]) -> None:
    tasks_of(app).file_uploader(key="upload_examples").upload("reviews.csv", reviews("good", "bad")).run()
    app.selectbox(key=next(box.key for box in app.selectbox if str(box.key).startswith("upload_column_probe_label"))).set_value(
        "id"
    ).run()
    assert "120 classes (1000 1, 1001 1, 1002 1, 1003 1, 1004 1 and 115 more)" in texts(app)


def test_columns_that_would_do_as_well_are_left_to_the_person(app: AppTest, submitted: list[Plan]) -> None:
    table = "verdict,country,said\n" + "\n".join(f"{'ab'[i % 2]},{'xyz'[i % 3]},The day {i} was odd" for i in range(60))
    tasks_of(app).file_uploader(key="upload_examples").upload("mine.csv", table.replace("verdict", "kind").encode()).run()
    assert not app.exception
    assert "could read label from several columns of mine.csv (kind, country): choose the columns above." in texts(app)
    assert columns(app) == {"text": None, "label": None}
    for name, value in (("text", "said"), ("label", "kind")):
        key = next(box.key for box in app.selectbox if str(box.key).startswith(f"upload_column_probe_{name}"))
        app.selectbox(key=key).set_value(value).run()
    assert "60 rows, 2 classes (a 30, b 30)" in texts(app)
    app.button(key="run").click().run()
    assert len(submitted[0].tasks) == 2


def test_classes_that_do_not_fit_the_models_head_are_refused_before_run(app: AppTest, submitted: list[Plan]) -> None:
    """The error message does not list all 45 classes."""
    tasks_of(app).selectbox(key="model").set_value("offcomp-bert-sentiment").run()
    table = reviews(*(f"city{number:02}" for number in range(45)), rows=400)
    app.file_uploader(key="upload_examples").upload("reviews.csv", table).run()
    assert not app.exception
    assert app.selectbox(key="upload_family").value == "head"
    (error,) = app.error
    assert "has 2 classes, but the data have 45" in error.value and "and 40 more" in error.value
    assert error.value.count("city") == 5 and texts(app).count("city") <= 20
    app.button(key="run").click().run()
    assert not [task for task in submitted[0].tasks if isinstance(task, Task)]
    tasks_of(app).file_uploader(key="upload_examples").upload("fitting.csv", reviews("negative", "positive")).run()
    assert not app.error
    app.button(key="run").click().run()
    assert [task.family for task in submitted[-1].tasks if isinstance(task, Task)] == ["head"]


def test_an_uploaded_table_stays_until_it_is_removed(app: AppTest, submitted: list[Plan]) -> None:
    tasks_of(app).file_uploader(key="upload_examples").upload("verdicts.csv", VERDICTS).run()
    app.selectbox(key="model").set_value("offcomp-bert").run()
    app.selectbox(key="upload_family").set_value("masked-lm").run()
    step(app, "inspect")
    tasks_of(app)
    assert not app.file_uploader(key="upload_examples").value
    assert "**verdicts.csv**" in texts(app)
    assert app.selectbox(key="upload_family").value == "masked-lm"
    assert columns(app) == {"text": "sentence"}
    app.button(key="run").click().run()
    assert [task.family for task in submitted[-1].tasks if isinstance(task, Task)] == ["masked-lm"]
    app.button(key="upload_remove").click().run()
    assert not columns(app)
    app.button(key="run").click().run()
    assert not [task for task in submitted[-1].tasks if isinstance(task, Task)]


@pytest.mark.parametrize("name", ["sentiment.csv", "_x.csv", "\u00e9.csv", f"{'long' * 60}.csv", "![x](http:).csv"])
def test_a_table_of_any_name_makes_a_task_that_can_be_run(app: AppTest, submitted: list[Plan], name: str) -> None:
    tasks_of(app).file_uploader(key="upload_examples").upload(name, VERDICTS).run()
    app.button(key="run").click().run()
    assert not app.exception and not app.error
    assert len(submitted) == 2


def test_an_upload_is_read_once(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(bring, "columns_of", lambda name, content: read.append(name) or columns_of(name, content))
    tasks_of(app).file_uploader(key="upload_examples").upload("verdicts.csv", VERDICTS).run()
    app.run()
    assert read == ["verdicts.csv"]


def test_a_table_is_left_out_where_the_model_reads_no_text(app: AppTest) -> None:
    step(app, "model")
    app.file_uploader(key="upload_matrices").upload("mine.npz", matrices()).run()
    tasks_of(app).file_uploader(key="upload_examples").upload("verdicts.csv", VERDICTS).run()
    assert "This model does not take text as input, so the table is ignored." in texts(app)


@pytest.mark.parametrize(("page", "key"), [("model", "upload_matrices"), ("compress", "upload_examples")])
def test_a_home_that_cannot_be_written_is_said(app: AppTest, home: Path, page: str, key: str) -> None:
    step(app, page)
    if page == "compress":
        open_part(app, "tasks")
    home.mkdir(exist_ok=True)
    (home / "uploads").write_text("a file in the place of the folder")
    name, content = ("mine.npz", matrices()) if page == "model" else ("verdicts.csv", VERDICTS)
    app.file_uploader(key=key).upload(name, content).run()
    assert not app.exception
    assert "cannot write to" in app.error[0].value


def test_columns_of_parquet_are_those_of_single_values() -> None:
    content = io.BytesIO()
    pd.DataFrame({"text": ["fine"], "words": [["a", "b"]], "label": [1]}).to_parquet(content)
    assert columns_of("a.parquet", content.getvalue()) == ["text", "label"]
    content = io.BytesIO()
    pd.DataFrame({"text": []}).to_parquet(content)
    with pytest.raises(InputError, match="has no row"):
        columns_of("a.parquet", content.getvalue())


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.csv", b"", "cannot be read"),
        ("heading.csv", b"text,label\n", "has no row"),
        ("bad.parquet", b"PAR0", "cannot be read"),
        ("bad.jsonl", b"{text: 1}\n", "cannot be read"),
    ],
)
def test_a_table_that_cannot_be_read_is_a_sentence(name: str, content: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        columns_of(name, content)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"text,label\nfine,1\n"),
        ("a.tsv", b"text\tlabel\nfine\t1\n"),
        ("a.jsonl", b'{"text": "fine", "label": 1}\n'),
        ("caf\xe9.csv", "text,label\ncafé,1\n".encode("cp1252")),
    ],
)
def test_columns_of_a_table(name: str, content: bytes) -> None:
    assert columns_of(name, content) == ["text", "label"]
