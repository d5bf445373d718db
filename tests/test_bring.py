"""Uploads: matrices become the draft's model, a table becomes a task, and what cannot be used is said in a sentence."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from offcomp.errors import InputError
from offcomp.ui.bring import columns_of

ROOT = Path(__file__).parents[1]


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setenv("OFFCOMP_HOME", str(tmp_path / "home"))
    st.cache_data.clear()
    st.cache_resource.clear()
    return AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()


def matrices() -> bytes:
    content = io.BytesIO()
    np.savez(content, left=np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32), bias=np.zeros(3, np.float32))
    return content.getvalue()


def test_uploaded_matrices_are_the_drafts_model(app: AppTest) -> None:
    app.switch_page("pages/model.py").run()
    app.file_uploader(key="upload_matrices").upload("mine.npz", matrices()).run()
    assert not app.exception
    assert not app.error
    assert "uploads" in app.session_state["model"]
    app.switch_page("pages/inspect.py").run()
    assert not app.exception
    assert any("40 x 30" in box.options[0] for box in app.selectbox)


@pytest.mark.parametrize(("name", "content"), [("bad.npz", b"no archive"), ("bad.safetensors", b"\x00" * 4), ("bad.npy", b"")])
def test_a_bad_file_of_matrices_is_a_sentence_and_the_model_stays(app: AppTest, name: str, content: bytes) -> None:
    app.switch_page("pages/model.py").run()
    app.file_uploader(key="upload_matrices").upload(name, content).run()
    assert not app.exception
    assert name in app.error[0].value
    assert app.session_state["model"] == "minilm-l6"


def test_an_uploaded_table_is_a_task_of_the_plan(app: AppTest) -> None:
    app.switch_page("pages/compress.py").run()
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
