"""What a person brings: a model, matrices in a file, examples in a table. Uploads stay in the home folder of this machine."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path

import pandas as pd
import streamlit as st

from offcomp.errors import InputError
from offcomp.files import home_folder, write_bytes
from offcomp.models.catalogue import FAMILIES as MODEL_FAMILIES
from offcomp.models.catalogue import MODELS, ModelInfo
from offcomp.models.matrix_files import SUFFIXES, keep_upload
from offcomp.tasks import FAMILIES, Task, TaskFamily, unfit
from offcomp.ui import draft
from offcomp.ui.frame import told

MEGABYTES = 50
"""Largest upload, as .streamlit/config.toml says; larger files are given by their path."""
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
ROWS_LOOKED_AT = 50
BRING = """**A model of the catalogue** comes with its listing and its spectra:

{catalogue}

**A folder** on this machine with `config.json` and the weights as `.safetensors`, as `save_pretrained` writes it. Type its path
under *Model* above. With the tokenizer's files in it the tasks can be run as well. Pickled weights (`.bin`, `.pt`) are refused,
and so is a model that asks for code of its own.

**A file of matrices**, uploaded below, becomes a model of its own: every matrix in it can be inspected, grouped and compressed.

**A hub id** such as `owner/name`: what is in the local cache is used; anything else is downloaded, and needs a network.

Weights are recognised in the families {families}. In any other the matrices are listed by their path, to be chosen by name.
`offcomp modules MODEL` lists the same on the command line.
"""


def bring_model() -> None:
    """How a model of one's own comes in, and an upload of matrices."""
    catalogue = "\n".join(
        f"- `{entry.name}`: {entry.description} {entry.licence}.{_install(entry.install)}" for entry in MODELS
    )
    families = ", ".join(family.name for family in MODEL_FAMILIES)
    with st.expander("Bring your own model or matrices"):
        st.markdown(BRING.format(catalogue=catalogue, families=families))
        st.file_uploader(
            f"Matrices: {', '.join(SUFFIXES)}, at most {MEGABYTES} MB",
            [suffix.removeprefix(".") for suffix in SUFFIXES],
            key="upload_matrices",
            max_upload_size=MEGABYTES,
            on_change=_take_matrices,
        )
        if problem := st.session_state.pop("upload_problem", ""):
            st.error(problem, icon=":material/error:")


def _install(command: str) -> str:
    return f" `{command}`" if command else ""


def _take_matrices() -> None:
    """Keep the file as a model, and make it that of the draft."""
    file = st.session_state["upload_matrices"]
    if file is None:
        return
    try:
        folder = keep_upload(file.name, file.getvalue(), home_folder())
    except InputError as error:
        st.session_state["upload_problem"] = f"{error}."
        return
    st.session_state["model"] = str(folder)
    draft.forget_modules()
    st.session_state["grouping"] = "module"  # of what is not recognised, nothing says what belongs together


def bring_examples(info: ModelInfo) -> tuple[Task, ...]:
    """A table of one's own as a task beside the bundled ones; none while it is not complete."""
    with st.expander("Examples of your own"):
        file = st.file_uploader(
            f"A table: {', '.join(TABLES)}, at most {MEGABYTES} MB",
            [suffix.removeprefix(".") for suffix in TABLES],
            key="upload_examples",
            max_upload_size=MEGABYTES,
            help="One example a row. A column split (train, validation, test) is followed; without one, rows are dealt out.",
        )
        if file is None:
            return ()
        with told():
            return _asked_task(info, file.name, file.getvalue())
    return ()


def _asked_task(info: ModelInfo, name: str, content: bytes) -> tuple[Task, ...]:
    """The task that is made of a table. Raises InputError where it cannot be read."""
    columns = columns_of(name, content)
    fitting = [family for family in FAMILIES.values() if unfit(Task("x", family.name, name), info.architecture) is None]
    family = st.selectbox("What the model does", fitting, format_func=lambda family: family.title, key="upload_family")
    if family is None:
        return ()
    pair = len(family.inputs) > 1 and st.toggle("Two texts an example", key="upload_pair")
    wanted = [*family.inputs[-1 if pair else 0], *([family.target] if family.target else [])]
    chosen = {}
    with st.container(horizontal=True):
        for place, column in enumerate(wanted):
            usual = columns.index(column) if column in columns else min(place, len(columns) - 1)
            chosen[column] = str(st.selectbox(column, columns, usual, key=f"upload_column_{column}_{name}"))
    if len(set(chosen.values())) < len(chosen):
        st.warning(f"One column serves as {' and '.join(chosen)}; choose a column for each.")
        return ()
    return (_kept_task(name, content, family, chosen),)


def columns_of(name: str, content: bytes) -> list[str]:
    """Names of the columns of a table. Raises InputError."""
    suffix = Path(name).suffix.lower()
    try:
        if suffix == ".parquet":
            table = pd.read_parquet(io.BytesIO(content))
        elif suffix == ".jsonl":
            table = pd.read_json(io.BytesIO(content), lines=True, nrows=ROWS_LOOKED_AT)
        else:
            separator = "\t" if suffix == ".tsv" else ","
            table = pd.read_csv(io.BytesIO(content), sep=separator, nrows=ROWS_LOOKED_AT, encoding_errors="replace")
    except (ValueError, OSError) as error:  # what pandas and pyarrow raise descends from these
        raise InputError(f"{name!r} cannot be read as {suffix} ({str(error).splitlines()[0][:200]}); check the file") from None
    if table.empty:
        raise InputError(f"{name!r} has no row; give a table with a heading and one example a row")
    return [str(column) for column in table.columns]


def _kept_task(name: str, content: bytes, family: TaskFamily, columns: dict[str, str]) -> Task:
    """The table in the home folder, as a task with this mapping."""
    path = home_folder() / "uploads" / hashlib.sha256(content).hexdigest()[:12] / _plain(name)
    if not path.is_file():
        write_bytes(path, content)
    renamed = {column: named for column, named in columns.items() if column != named}
    return Task(_plain(Path(name).stem)[:40], family.name, str(path), Path(name).stem[:60], renamed, source="Uploaded")


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).name).strip(".-") or "table"
