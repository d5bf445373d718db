"""Read the calibration text and sample texts from it. No torch.

A file contains one text per line (.txt), or a table with a text column (.csv, .tsv, .jsonl, .parquet).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from offcomp.errors import InputError
from offcomp.files import assets_folder, path_of
from offcomp.planning.data.row_counts import EMPTY, NOT_DRAWN, OTHER_SPLIT, RowCounts
from offcomp.planning.data.text_tables import TEXT_SUFFIXES as SUFFIXES
from offcomp.planning.data.text_tables import column_text, read_table
from offcomp.planning.document import Flag, MustBe
from offcomp.planning.json_fields import JsonModel, Text, one_of, whole

if TYPE_CHECKING:
    import pandas as pd

BUNDLED = "bundled"
BUNDLED_FILE = assets_folder() / "tasks" / "sentiment.csv"
WEIGHTINGS = ("output", "equal")
MAX_TEXT_LENGTH = 20_000  # characters; no model reads more


class CalibrationText(JsonModel):
    """Where the calibration text comes from, and how much of it is used."""

    noun = "calibration"

    text: Annotated[Text, MustBe("'bundled' or a file")] = BUNDLED
    """"bundled" (the training split of the bundled sentiment task) or a local file."""
    column: Annotated[str, MustBe("the name of a column")] = ""
    """The table column to read; "" selects the column named "text", or else the only column that contains words."""
    num_texts: Annotated[int, whole(1, 100_000)] = 256
    """Number of texts to draw, using the plan's seed."""
    max_tokens: Annotated[int, whole(3, 8192)] = 128
    """Maximum number of tokens per text; longer texts are truncated."""
    special_tokens: Flag = False
    """Whether to include the special tokens that the tokenizer adds, such as [CLS].

    Some have activations so large that they outweigh all other tokens.
    """
    weighting: Annotated[str, one_of(WEIGHTINGS)] = "output"
    """How tokens are weighted.

    "output": by 1 / ‖output of the module‖², as the following normalisation layer does; "equal": equally, as in the papers.
    """

    def fault(self) -> str | None:
        """Check the file without reading it. Returns a sentence that describes the fault, or None if no fault is found."""
        if self.text == BUNDLED:
            return None
        try:
            path = path_of(self.text)
        except InputError as error:
            return f"calibration text {error}."
        if path.suffix.lower() not in SUFFIXES:
            return (
                f"calibration text {self.text!r} must be 'bundled' or a file with one of the extensions {', '.join(SUFFIXES)}."
            )
        if not path.is_file():
            return f"calibration text {self.text!r} does not exist; specify the path of a file, or 'bundled'."
        return None

    def read(self, seed: int) -> CalibrationTexts:
        """Draw up to `num_texts` texts at random and return them in their original order. Raises InputError."""
        import numpy as np

        available, num_read, left_out, notes = self._all()
        texts = [text for text in available if text.strip()]
        if not texts:
            raise InputError(f"calibration text {self.text!r} contains no text; specify a file with at least one line of text")
        drawn = np.random.default_rng(seed).permutation(len(texts))[: self.num_texts]
        used = [texts[index] for index in sorted(drawn.tolist())]
        if cut := sum(len(text) > MAX_TEXT_LENGTH for text in used):
            notes = (*notes, f"{cut:,} {'text' if cut == 1 else 'texts'} truncated to {MAX_TEXT_LENGTH:,} characters")
        left_out = left_out | {EMPTY: len(available) - len(texts), NOT_DRAWN: len(texts) - len(drawn)}
        left_out = {why: count for why, count in left_out.items() if count}
        rows = RowCounts(read=num_read, used=len(drawn), left_out=left_out, notes=notes)
        return CalibrationTexts([text[:MAX_TEXT_LENGTH] for text in used], rows)

    def _all(self) -> tuple[list[str], int, dict[str, int], tuple[str, ...]]:
        """The text of every row ("" if missing), the number of rows read, the number left out by reason, and any notes."""
        if self.text == BUNDLED:
            table = read_table(BUNDLED_FILE).table.to_pandas()
            available = table[table["split"] == "train"]["text"]
            return list(available), len(table), {OTHER_SPLIT: len(table) - len(available)}, ()
        if fault := self.fault():
            raise InputError(fault.removesuffix("."))
        name = f"calibration text {self.text!r}"
        read = read_table(path_of(self.text), SUFFIXES)
        texts = column_text(read.table, self._column_of(read.table.to_pandas(), name), name)
        return list(texts.fillna("")), read.rows_read, dict(read.left_out), read.notes

    def _column_of(self, table: pd.DataFrame, name: str) -> str:
        """The name of the column that contains the texts; error messages refer to the table as `name`."""
        columns = [str(column) for column in table.columns]
        textual = [column for index, column in enumerate(columns) if _holds_words(table.iloc[:, index])]
        usual = ["text"] if "text" in columns else textual
        candidates = [self.column] if self.column else usual
        if len(candidates) == 1 and candidates[0] in columns:
            return candidates[0]
        fault = f"has no column {self.column!r}" if self.column else "has several columns that could contain the texts"
        raise InputError(f"{name} {fault}; choose one of {', '.join(columns)}")


@dataclass(frozen=True)
class CalibrationTexts:
    """The calibration texts, and how many rows were read, used and left out."""

    texts: list[str]
    rows: RowCounts


def _holds_words(values: pd.Series) -> bool:
    """Whether a column contains any text that is not a number."""
    import pandas as pd

    texts = values[values.map(lambda value: isinstance(value, str) and value.strip() != "")].astype("str")
    return bool(pd.to_numeric(texts, errors="coerce").isna().any())


def digest(texts: Sequence[str]) -> str:
    """A 12-digit hexadecimal hash that identifies these texts in the results of a run."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
