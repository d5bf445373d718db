"""What a person brings: a model, matrices in a file, examples in a table. Uploads stay in the home folder of this machine."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from offcomp.errors import OffcompError
from offcomp.files import home_folder, write_bytes
from offcomp.models.catalogue import FAMILIES as MODEL_FAMILIES
from offcomp.models.catalogue import MODELS, ModelInfo
from offcomp.models.matrix_files import SUFFIXES, keep_upload
from offcomp.plan_tasks import SUFFIXES as TABLES
from offcomp.tasks import Task
from offcomp.text_tables import parse
from offcomp.ui import draft
from offcomp.ui.own_examples import own_tasks
from offcomp.ui.plain import code, plain
from offcomp.ui.roots import ROOTS

MEGABYTES = 50
"""Largest upload, as .streamlit/config.toml says; larger files are given by their path."""
MOST_UNPACKED_BYTES = 200_000_000
"""Of a table that is packed, as its header says."""
LONGEST_NAME = 100
DIGEST_DIGITS = 12
MATRICES_PROBLEM, TABLE, TABLE_PROBLEM = "upload_matrices_problem", "upload_table", "upload_table_problem"
BRING = """**A model of the catalogue** comes with its listing and its spectra:

{catalogue}

**A folder** on this machine with `config.json` and the weights as `.safetensors`, as `save_pretrained` writes it. Type its path
under *Model* above. It must lie below your home folder or the folder where the app was started; folders in the variable
`{roots}` take the place of these two. With the tokenizer's files in it the tasks can be run as well. Pickled weights (`.bin`,
`.pt`) are refused, and so is a model that asks for code of its own.

**A file of matrices**, uploaded below, becomes a model of its own: every matrix in it can be inspected, grouped and compressed.

**A hub id** such as `owner/name`: what is in the local cache is used; anything else is downloaded once you say so, over the
network.

Weights are recognised in the families {families}. In any other the matrices are listed by their path, to be chosen by name.
`offcomp modules MODEL` lists the same on the command line.
"""


def bring_model() -> None:
    """How a model of one's own comes in, and an upload of matrices."""
    catalogue = "\n".join(
        f"- {code(entry.name)}: {plain(f'{entry.description} {entry.licence}.')} {code(entry.install) if entry.install else ''}"
        for entry in MODELS
    )
    families = ", ".join(plain(family.name) for family in MODEL_FAMILIES)
    with st.expander("Bring your own model or matrices"):
        st.markdown(BRING.format(catalogue=catalogue, families=families, roots=ROOTS))
        file = st.file_uploader(
            plain(f"Matrices: {', '.join(SUFFIXES)}, at most {MEGABYTES} MB"),
            [suffix.removeprefix(".") for suffix in SUFFIXES],
            key="upload_matrices",
            max_upload_size=MEGABYTES,
            on_change=_take_matrices,
        )
        _show_problem(MATRICES_PROBLEM, file)


def _show_problem(key: str, file: object) -> None:
    """Why the file in an uploader could not be used."""
    if file is not None and (problem := st.session_state.get(key)):
        st.error(plain(problem), icon=":material/error:")


def _take_matrices() -> None:
    """Keep the file as a model, and make it that of the draft."""
    state, file = st.session_state, st.session_state["upload_matrices"]
    state[MATRICES_PROBLEM] = ""
    if file is None:
        return
    try:
        folder = keep_upload(file.name, file.getvalue(), home_folder())
    except OffcompError as error:
        state[MATRICES_PROBLEM] = f"{error}."
        return
    state["model"] = str(folder)
    draft.forget_modules()
    state["grouping"] = "module"  # of what is not recognised, nothing says what belongs together


@dataclass(frozen=True)
class Table:
    """An uploaded table: where it is kept in the home folder, and its columns. It stays with the draft, on every page."""

    path: Path
    columns: tuple[str, ...]


def bring_examples(info: ModelInfo) -> tuple[Task, ...]:
    """A table of one's own as a task beside the bundled ones; none while it is not complete."""
    table: Table | None = st.session_state.get(TABLE)
    with st.expander("Examples of your own", expanded=table is not None):
        file = st.file_uploader(
            plain(f"A table: {', '.join(TABLES)}, at most {MEGABYTES} MB"),
            [suffix.removeprefix(".") for suffix in TABLES],
            key="upload_examples",
            max_upload_size=MEGABYTES,
            on_change=_take_examples,
            help="One example a row. A column split (train, validation, test) is followed; without one, rows are dealt out.",
        )
        _show_problem(TABLE_PROBLEM, file)
        if table is None:
            return ()
        if file is None:  # an uploader forgets its file when its page is left
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(f"**{plain(table.path.name)}**", width="stretch")
                st.button("Remove", key="upload_remove", icon=":material/close:", on_click=lambda: st.session_state.pop(TABLE))
        return own_tasks(info, table.path)


def _take_examples() -> None:
    """Keep the table in the home folder and its columns in the session, so that it is read once."""
    state, file = st.session_state, st.session_state["upload_examples"]
    state.pop(TABLE, None)
    state[TABLE_PROBLEM] = ""
    if file is None:
        return
    try:
        state[TABLE] = keep_table(file.name, file.getvalue(), home_folder())
    except OffcompError as error:
        state[TABLE_PROBLEM] = f"{error}."


def keep_table(name: str, content: bytes, home: Path) -> Table:
    """Keep a table in this home; the same file has the same place. Raises InputError.

    StorageError is raised where it cannot be written.
    """
    columns = tuple(columns_of(name, content))
    stem, suffix = re.sub(r"[^A-Za-z0-9._+-]+", "-", Path(name).stem).strip(".-"), Path(name).suffix.lower()
    path = home / "uploads" / hashlib.sha256(content).hexdigest()[:DIGEST_DIGITS] / f"{stem[:LONGEST_NAME] or 'table'}{suffix}"
    if not path.is_file():
        write_bytes(path, content)
    return Table(path, columns)


def columns_of(name: str, content: bytes) -> list[str]:
    """Names of the columns of a table, as a task will find them. Raises InputError."""
    return list(parse(name, content).table.column_names)
