"""Use your own models, matrix files and tables of examples. Uploads stay in the home folder on this machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from offcomp.errors import OffcompError
from offcomp.files import home_folder, write_bytes
from offcomp.models.bundled_models import MODELS
from offcomp.models.catalogue import ModelInfo
from offcomp.models.families import FAMILIES as MODEL_FAMILIES
from offcomp.models.matrix_files import SUFFIXES, save_upload
from offcomp.planning.data.calibration_text import BUNDLED, WEIGHTINGS, CalibrationText
from offcomp.planning.data.calibration_text import SUFFIXES as TEXT_FILES
from offcomp.planning.data.task_fields import SUFFIXES as TABLES
from offcomp.planning.data.tasks import Task
from offcomp.planning.data.text_tables import parse
from offcomp.ui import draft
from offcomp.ui.escape import code, plain
from offcomp.ui.lab.own_examples import own_tasks
from offcomp.ui.model_roots import ROOTS

MEGABYTES = 50
"""Maximum upload size in MB, the same as in .streamlit/config.toml. Larger files must be specified by path."""
MAX_NAME_LENGTH = 100
DIGEST_DIGITS = 12
MATRICES, EXAMPLES, TABLE, TEXT = "upload_matrices", "upload_examples", "upload_table", "upload_text"
CALIBRATION = "calibration"
"""Session state key of the calibration text."""
TABLE_HELP = (
    "One example per row. A column named split assigns rows to train, validation or test; otherwise, the split is automatic."
)
BRING = """**A catalogue model** comes with its module list and its spectra:

{catalogue}

**A folder** on this machine with `config.json` and `.safetensors` weights, as written by `save_pretrained`: type its path
under *Model* above. It must be inside your home folder or the folder where the app was started; folders listed in the
environment variable `{roots}` replace these two. If the folder includes the tokenizer files, the model can also be scored.
Pickled weights (`.bin`, `.pt`) and models that require custom code are rejected.

**A file that contains matrices**, uploaded below, is treated as a model: each matrix can be inspected, grouped and compressed.

**A hub id** such as `owner/name`: a copy in the local cache is used if available; otherwise, the model is downloaded after you
confirm.

Weights of these families are recognised: {families}. In other models, matrices are listed by path and chosen by name.
`offcomp modules MODEL` prints the same list on the command line.
"""


def bring_model() -> None:
    """Explain how to use your own model and show an uploader for matrices."""
    catalogue = "\n".join(
        f"- {code(entry.name)}: {plain(f'{entry.description} {entry.licence}.')} {code(entry.install) if entry.install else ''}"
        for entry in MODELS
    )
    families = ", ".join(plain(family.name) for family in MODEL_FAMILIES)
    with st.expander("Bring your own model or matrices"):
        st.markdown(BRING.format(catalogue=catalogue, families=families, roots=ROOTS))
        _upload(MATRICES, "Matrices", SUFFIXES, _use_matrices)


def _upload(
    key: str, content: str, suffixes: Sequence[str], use: Callable[[UploadedFile | None], None], description: str = ""
) -> UploadedFile | None:
    """Show an uploader. `use` is called with each new file, or with None on removal; any error is shown below the uploader."""
    file = st.file_uploader(
        plain(f"{content}: {', '.join(suffixes)}, at most {MEGABYTES} MB"),
        [suffix.removeprefix(".") for suffix in suffixes],
        key=key,
        max_upload_size=MEGABYTES,
        on_change=_take,
        args=(key, use),
        help=plain(description) or None,
    )
    if file is not None and (problem := st.session_state.get(f"{key}_problem")):
        st.error(plain(problem), icon=":material/error:")
    return file


def _take(key: str, use: Callable[[UploadedFile | None], None]) -> None:
    state = st.session_state
    state[f"{key}_problem"] = ""
    try:
        use(state[key])
    except OffcompError as error:
        state[f"{key}_problem"] = f"{error}."


def _use_matrices(file: UploadedFile | None) -> None:
    """Store the file as a model and use that model in the draft."""
    if file is None:
        return
    st.session_state["model"] = str(save_upload(file.name, file.getvalue(), home_folder()))
    draft.forget_modules()
    st.session_state["grouping"] = "module"  # it is unknown which unrecognised matrices belong together


def _use_table(file: UploadedFile | None) -> None:
    """Store the table in the home folder and its path in the session, so the table is checked only once."""
    st.session_state.pop(TABLE, None)
    if file is not None:
        st.session_state[TABLE] = keep_table(file.name, file.getvalue(), home_folder())


def bring_examples(info: ModelInfo) -> tuple[Task, ...]:
    """Return the task made from an uploaded table, or an empty tuple while the task is incomplete.

    The table belongs to the draft and persists across pages.
    """
    table: Path | None = st.session_state.get(TABLE)
    file = _upload(EXAMPLES, "Your own examples", TABLES, _use_table, TABLE_HELP)
    if table is None:
        return ()
    if file is None:  # an uploader loses its file when the user leaves the page
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{plain(table.name)}**", width="stretch")
            st.button("Remove", key="upload_remove", icon=":material/close:", on_click=st.session_state.pop, args=(TABLE,))
    return own_tasks(info, table)


def bring_calibration_text() -> None:
    """Let the user choose the text that calibrated methods see: the bundled sentences, or an uploaded file."""
    state = st.session_state
    current: CalibrationText = state.get(CALIBRATION, CalibrationText())
    own = current.text if current.text != BUNDLED else ""
    st.caption(plain(f"Now: {Path(own).name}." if own else "Now: the training sentences of the bundled sentiment task."))
    _upload(TEXT, "A file with one text per line, or a table", TEXT_FILES, _use_text)
    if own:
        st.button("Use the bundled sentences", key="calibration_bundled", on_click=_calibrate, args=({"text": BUNDLED},))
    count = st.number_input("Texts", 1, 100_000, current.num_texts, key="calibration_count", persist_state="session")
    weighting = st.segmented_control(
        "Token weights",
        WEIGHTINGS,
        default=current.weighting,
        required=True,
        key="calibration_weighting",
        persist_state="session",
        help=(
            "output: each token is weighted by 1 / (squared norm of the module's output), since the normalisation "
            "that follows equalises the tokens; equal: all tokens have the same weight."
        ),
    )
    _calibrate({"num_texts": int(count), "weighting": str(weighting)})


def _use_text(file: UploadedFile | None) -> None:
    if file is None:
        return
    path = _kept(file.name, file.getvalue(), home_folder())
    text = CalibrationText(text=str(path))
    text.read(seed=0)  # a file that cannot be used is refused here
    _calibrate({"text": str(path)})


def _calibrate(changes: dict[str, Any]) -> None:
    current: CalibrationText = st.session_state.get(CALIBRATION, CalibrationText())
    st.session_state[CALIBRATION] = current.replace(**changes)


def keep_table(name: str, content: bytes, home: Path) -> Path:
    """Store a table in the home folder; the same file always gets the same path.

    Raises InputError if the table cannot be read, and StorageError if it cannot be written.
    """
    columns_of(name, content)
    return _kept(name, content, home)


def _kept(name: str, content: bytes, home: Path) -> Path:
    """Store an uploaded file in the home folder; the same file always gets the same path. Raises StorageError."""
    stem, suffix = re.sub(r"[^A-Za-z0-9._+-]+", "-", Path(name).stem).strip(".-"), Path(name).suffix.lower()
    path = (
        home / "uploads" / hashlib.sha256(content).hexdigest()[:DIGEST_DIGITS] / f"{stem[:MAX_NAME_LENGTH] or 'table'}{suffix}"
    )
    if not path.is_file():
        write_bytes(path, content)
    return path


def columns_of(name: str, content: bytes) -> list[str]:
    """Return the column names of a table, as a task will see them. Raises InputError if the table cannot be read."""
    return list(parse(name, content).table.column_names)
