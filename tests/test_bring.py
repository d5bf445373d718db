"""Uploads: matrices become the draft's model, a table becomes a task, and what cannot be used is said in a sentence."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from offcomp.errors import InputError
from offcomp.ui.bring import columns_of
from tests.pages import home, opened, step

__all__ = ["home"]  # a fixture


@pytest.fixture
def app(home: Path) -> AppTest:
    """The app with an empty home, at its Start page."""
    return opened()


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


def test_an_uploaded_table_is_a_task_of_the_plan(app: AppTest) -> None:
    step(app, "compress")
    table = b"sentence,verdict\n" + b"".join(b"text %d,%s\n" % (i, (b"good", b"bad")[i % 2]) for i in range(40))
    app.file_uploader(key="upload_examples").upload("verdicts.csv", table).run()
    assert not app.exception
    assert not app.error
    assert app.selectbox(key="upload_column_text_verdicts.csv").value == "sentence"
    assert app.selectbox(key="upload_column_label_verdicts.csv").value == "verdict"


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
