"""The reader of tables and texts returns what was written, and reports every row that it omits."""

from __future__ import annotations

import csv
import io
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from offcomp.errors import InputError, OffcompError, TaskError
from offcomp.evaluation.base import TaskData
from offcomp.evaluation.data import read
from offcomp.models.catalogue import ModelInfo
from offcomp.planning.data.calibration_text import CalibrationText
from offcomp.planning.data.head_labels import label_order
from offcomp.planning.data.row_counts import RowCounts, Truncation, calibration_reading, cut_text, reading_text, rows_text
from offcomp.planning.data.task_check import head_of_model, task_fault
from offcomp.planning.data.tasks import Task
from offcomp.planning.data.text_tables import RAGGED, TextTable, class_names, parse, read_table
from offcomp.runs.result import CalibrationResult
from tests.planning.data.test_task_check import classifier

LABELS = ("negative", "positive")
WORDS = ("the", "soup", "was", "cold", "and", "a", "waiter", "smiled", "again", "Größe", "café", "“nice”", "I'm", "50%")


def reviews(n: int = 400) -> list[list[str]]:
    """Rows, each with a text and one of two classes. All texts are different, and none needs quoting in any format."""
    return [[f"This is review {i} of a place that we saw", LABELS[i % 2]] for i in range(n)]


def joined(rows: Sequence[Sequence[str]], delimiter: str = ",", heading: Sequence[str] = ("text", "label")) -> bytes:
    """The contents of a file with these rows, without quoting."""
    return "".join(delimiter.join(row) + "\n" for row in [heading, *rows]).encode()


def written(rows: Sequence[Sequence[str]], heading: Sequence[str], **style: object) -> str:
    """The text of a file with these rows, quoted by Python's csv module as in RFC 4180."""
    file = io.StringIO(newline="")
    csv.writer(file, **style).writerows([heading, *rows])  # type: ignore[arg-type]
    return file.getvalue()


def cells_of(table: TextTable) -> list[list[str]]:
    columns = [column.to_pylist() for column in table.table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def refused(name: str, content: bytes) -> str:
    with pytest.raises(InputError) as raised:
        parse(name, content)
    message = str(raised.value)
    assert "\n" not in message and name in message
    return message


# ---------------------------------------------------------------------------------------------------- quotation marks


def test_a_tsv_has_no_quoting_and_keeps_every_row_that_begins_with_a_mark() -> None:
    rows = reviews()
    for place in (21, 181, 261, 301):
        rows[place][0] = f'"{rows[place][0]}'
    found = parse("reviews.tsv", joined(rows, "\t"))
    assert (found.rows_read, found.notes, found.left_out) == (400, (), {})
    assert cells_of(found) == rows


def test_one_mark_in_a_tsv_is_a_character() -> None:
    rows = reviews()
    rows[200][0] = f'"{rows[200][0]}'
    assert cells_of(parse("one_quote.tsv", joined(rows, "\t"))) == rows


def test_two_marks_that_open_rows_far_apart_swallow_none() -> None:
    rows = [[label, text] for text, label in reviews()]
    for place in (20, 380):
        rows[place][1] = f'"{rows[place][1]}'
    found = parse("two_quotes.csv", joined(rows, heading=("label", "text")))
    assert cells_of(found) == rows
    assert "2 rows, starting with row 21" in found.notes[0]


@pytest.mark.parametrize("text_first", [True, False])
def test_a_mark_that_another_row_closes_swallows_none(text_first: bool) -> None:
    rows = reviews()
    rows[20][0], rows[22][0] = f'"{rows[20][0]}', f'{rows[22][0]}"'
    rows = rows if text_first else [row[::-1] for row in rows]
    found = parse("mine.csv", joined(rows))
    assert cells_of(found) == rows
    assert "starting with row 21" in found.notes[0]


def test_a_mark_that_cannot_be_a_character_is_refused_by_its_row() -> None:
    rows = reviews()
    rows[20][0] = '"Slow, dear and cold'
    assert "row 21 (line 22) has an opening quotation mark" in refused("mine.csv", joined(rows))
    rows[24][0] = 'Slow, dear and cold"'
    assert "row 21 (line 22) has an opening quotation mark" in refused("mine.csv", joined(rows))


def test_lines_of_a_quoted_cell_are_no_rows_even_with_as_many_delimiters() -> None:
    rows = reviews()
    rows[3][0] = "First line\nSecond, line\nThird, line"
    rows[7][0] = 'A "word" in marks,\r\nand another line'
    assert cells_of(parse("mine.csv", written(rows, ("text", "label")).encode())) == rows
    transposed = [row[::-1] for row in rows]
    assert cells_of(parse("mine.csv", written(transposed, ("label", "text")).encode())) == transposed


def test_where_nothing_tells_rows_from_lines_the_row_is_named() -> None:
    lines = [drawn_text(random.Random(i), several_lines=False).replace('"', "").replace(",", "") for i in range(60)]
    lines[9], lines[30] = f'"{lines[9]}', f'{lines[30]}"'
    message = refused("mine.csv", "\n".join(["text", *lines]).encode())
    assert "row 10 (line 11) has an opening quotation mark that is closed 21 lines later" in message and ".jsonl" in message


def test_a_tsv_that_can_only_be_quoted_is_read_so_and_this_is_said() -> None:
    rows = [[f'{text}\tand "more"\nof it', label] for text, label in reviews(40)]
    for style in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        found = parse("mine.tsv", written(rows, ("text", "label"), delimiter="\t", quoting=style).encode())
        assert cells_of(found) == rows
        assert found.notes == ("quotation marks are interpreted as in a .csv",)


# ------------------------------------------------------------------------------------- delimiters, cells, encodings


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_delimiter_of_a_csv_is_found(delimiter: str, end: str) -> None:
    rows = [[f"{text}, quite so; and | more\tof it", label] for text, label in reviews(50)]
    content = written(rows, ("text", "label"), delimiter=delimiter, lineterminator=end)
    found = parse("mine.csv", content.encode())
    assert cells_of(found) == rows
    assert cells_of(parse("mine.csv", f"sep={delimiter}{end}{content}".encode())) == rows


def test_semicolons_in_the_place_of_commas_are_read(tmp_path: Path) -> None:
    rows = [[f"{text}, warm, dear and loud", label] for text, label in reviews()]
    (tmp_path / "semicolon.csv").write_bytes(joined(rows, ";"))
    found = read(Task(name="mine", family="head", data=str(tmp_path / "semicolon.csv")))
    assert found.rows == RowCounts(read=400, used=400, left_out={})
    assert list(found.splits["test"]["text"]) == [text for text, _ in rows]


def test_scores_with_a_decimal_comma_are_numbers(tmp_path: Path) -> None:
    rows = [[f"one {i}", f"two {i}", f"{i % 5},{i % 4}"] for i in range(200)]
    path = tmp_path / "decimal_comma.csv"
    path.write_bytes(joined(rows, ";", ("sentence1", "sentence2", "score")))
    found = read(Task(name="mine", family="similarity", data=str(path)))
    assert list(found.splits["test"]["score"]) == [float(f"{i % 5}.{i % 4}") for i in range(200)]
    assert found.rows == RowCounts(read=200, used=200, left_out={})
    rows[5][2] = "1.5"
    path.write_bytes(joined(rows, ";", ("sentence1", "sentence2", "score")))
    with pytest.raises(OffcompError, match="values that are not finite numbers, such as '0,0'"):
        read(Task(name="mine", family="similarity", data=str(path)))


def test_a_comma_that_may_stand_between_thousands_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "thousands.csv"
    path.write_bytes(
        joined([[f"a {i}", f"b {i}", ("950", "1,200")[i % 2]] for i in range(40)], ";", ("sentence1", "sentence2", "score"))
    )
    with pytest.raises(OffcompError, match="'1,200' could be a decimal or a thousands separator"):
        read(Task(name="mine", family="similarity", data=str(path)))


def test_names_of_nothing_are_classes_and_text(tmp_path: Path) -> None:
    rows = [[text, ("NA", "null")[i % 2]] for i, (text, _) in enumerate(reviews())]
    rows[5][0] = "None"
    (tmp_path / "na_class.csv").write_bytes(joined(rows))
    found = read(Task(name="mine", family="head", data=str(tmp_path / "na_class.csv")))
    assert found.splits["test"].features["label"].names == ["NA", "null"]
    assert "None" in found.splits["test"]["text"] and found.rows == RowCounts(read=400, used=400, left_out={})


def test_windows_1252_is_read_and_said() -> None:
    rows = [[f"{text} café “nice”", label] for text, label in reviews()]
    found = parse("cp1252.csv", joined(rows).decode().encode("cp1252"))
    assert cells_of(found) == rows
    assert found.notes == ("it is not UTF-8, so it is read as Windows-1252",)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_mark_at_the_start_says_the_encoding_and_is_no_text(encoding: str) -> None:
    rows = [[f"{text} Größe 日本", label] for text, label in reviews(20)]
    for name, delimiter in (("mine.csv", ","), ("mine.tsv", "\t")):
        found = parse(name, joined(rows, delimiter).decode().encode(encoding))
        assert (cells_of(found), found.table.column_names, found.notes) == (rows, ["text", "label"], ())


BAD_BYTES = {
    "cut off": ("größe,positive".encode()[:3], "ends in the middle of a character"),
    "one damaged character": (
        "größe,a\ncafé,b\nna\xefve,c\n".encode().replace("\xef".encode(), b"\xc3"),
        "line 4 contains a damaged",
    ),
    "neither": (b"\x81\xff,b\n", "neither UTF-8 nor Windows-1252"),
    "no mark": ("a,b\n".encode("utf-16-le"), "contains null bytes"),
    "half a character": (b"\xff\xfea\0b", "has a UTF-16 byte order mark"),
}


@pytest.mark.parametrize("case", BAD_BYTES)
def test_bytes_that_are_no_text_are_one_sentence(case: str) -> None:
    content, expected = BAD_BYTES[case]
    start = b"" if content.startswith(b"\xff\xfe") else b"text,label\n"
    assert expected in refused("mine.csv", start + content)


def test_rows_of_another_length_are_counted_or_refused_by_row() -> None:
    rows = reviews()
    rows[10], rows[20], rows[30] = ["no class"], [*rows[20], "too", "much"], [*rows[30], "", ""]
    found = parse("mine.csv", joined(rows))
    assert (found.rows_read, found.table.num_rows, found.left_out) == (400, 398, {RAGGED: 2})
    assert cells_of(found)[28] == reviews()[30]
    message = refused("mine.csv", joined([[f"{text}, warm, dear and loud", label] for text, label in reviews()]))
    assert "row 1 (line 2) has 4 cells but the header has 2" in message and "delimiter is ','" in message


def test_lines_of_json_name_the_line_that_is_none() -> None:
    assert "line 3 is not valid JSON" in refused("mine.jsonl", b'{"text": "a"}\n\n{"text": \n')
    assert "line 1 is not a JSON object" in refused("mine.jsonl", b'["a"]\n')
    assert "column 'label' contains values of different types" in refused("mine.jsonl", b'{"label": 1}\n{"label": "x"}\n')
    assert "cannot be read as a .jsonl table" in refused("mine.jsonl", b"[" * 100_000)
    found = parse("mine.jsonl", b'{"text": "NA"}\r\n{"label": 2.5, "text": "None"}\r\n')
    assert cells_of(found) == [["NA", None], ["None", 2.5]]


def test_a_file_without_rows_or_with_too_many_columns_is_one_sentence(tmp_path: Path) -> None:
    assert "is empty" in refused("mine.csv", b"\n\n")
    assert "has no rows" in refused("mine.tsv", b"text\tlabel\n")
    assert "has 3,000 columns, but the limit is 2,000" in refused("mine.csv", b",".join([b"a"] * 3000))
    with pytest.raises(InputError, match=r"supported extensions: \.csv, \.tsv, \.jsonl, \.parquet"):
        read_table(tmp_path / "mine.txt")
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "lost.csv")


def test_classes_are_named_only_by_what_says_so() -> None:
    table = parse("mine.csv", joined(reviews(3))).table
    assert class_names(table) == {}
    for metadata in ({"huggingface": "{"}, {"huggingface": '{"info": []}'}, {"huggingface": "3"}):
        assert class_names(table.replace_schema_metadata(metadata)) == {}
    about = '{"info": {"features": {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}, "text": {"_type": "Value"}}}}'
    assert class_names(table.replace_schema_metadata({"huggingface": about})) == {"label": ["no", "yes"]}


def test_a_hundred_thousand_rows_are_read_in_seconds() -> None:
    content = written([[f'text {i}, with "marks" in it', LABELS[i % 2]] for i in range(100_000)], ("text", "label")).encode()
    began = time.process_time()
    assert parse("mine.csv", content).rows_read == 100_000
    assert time.process_time() - began < 6


# ------------------------------------------------------------------------------------------------------- calibration


def texts_of(folder: Path, name: str, content: bytes, **fields: object) -> tuple[list[str], RowCounts]:
    (folder / name).write_bytes(content)
    found = CalibrationText(text=str(folder / name), **fields).read(0)  # type: ignore[arg-type]
    return found.texts, found.rows


def test_calibration_texts_that_begin_with_marks_stay_as_many(tmp_path: Path) -> None:
    texts = [('"' if i % 20 == 1 else "") + f"text {i}" for i in range(60)]
    for name, content in (
        ("a.txt", "\n".join(texts)),
        ("a.tsv", "\n".join(["text", *texts])),
        ("a.csv", "\n".join(["text", *texts])),
    ):
        found, rows = texts_of(tmp_path, name, content.encode())
        assert found == texts
        assert (rows.read, rows.used, rows.left_out) == (60, 60, {})


def test_calibration_keeps_the_names_of_nothing(tmp_path: Path) -> None:
    texts = ["NA", "null", "None", "nan", "a word"]
    for name, content in (("a.csv", "\n".join(["text", *texts])), ("a.txt", "\n".join(texts))):
        assert texts_of(tmp_path, name, content.encode())[0] == texts


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("suffix", [".txt", ".csv", ".tsv"])
def test_calibration_text_in_the_usual_encodings(tmp_path: Path, encoding: str, suffix: str) -> None:
    texts = [f"Größe – café {i}" for i in range(9)]
    content = "\n".join(texts if suffix == ".txt" else ["text", *texts]) + "\n"
    found, rows = texts_of(tmp_path, f"a{suffix}", content.encode(encoding))
    assert found == texts
    assert bool(rows.notes) == (encoding == "cp1252")


def test_what_calibration_leaves_out_is_counted(tmp_path: Path) -> None:
    found, rows = texts_of(tmp_path, "a.txt", b"one\n\n  \ntwo\nthree\n", num_texts=2)
    assert (len(found), rows) == (2, RowCounts(read=5, used=2, left_out={"empty": 2, "not drawn": 1}))
    _, rows = texts_of(tmp_path, "a.jsonl", b'{"text": "one"}\n{"text": null}\n{"other": "x"}\n')
    assert rows == RowCounts(read=3, used=1, left_out={"empty": 2})
    bundled = CalibrationText(num_texts=100).read(0).rows
    assert bundled.used == 100 and bundled.read == bundled.used + sum(bundled.left_out.values())


# ------------------------------------------------------------------------------------------------- counts and words


def test_rows_of_a_task_add_up_by_reason(tmp_path: Path) -> None:
    rows = [[text, label, ("train", "validation", "test")[i % 3]] for i, (text, label) in enumerate(reviews(120))]
    rows[0][0], rows[1][1] = "", " "  # empty
    rows[3][0] = rows[5][0]  # a training text that is repeated in the test split
    rows[9][1] = rows[11][1] = "unheard of"
    rows[11][2] = "train"
    rows[9][2] = "test"
    rows[11][1] = LABELS[0]
    rows[12] = ["ragged"]
    (tmp_path / "mine.csv").write_bytes(joined(rows, heading=("text", "label", "split")))
    found = read(Task(name="mine", family="probe", data=str(tmp_path / "mine.csv")))
    assert found.rows is not None
    assert found.rows.left_out == {
        RAGGED: 1,
        "empty": 2,
        "repeated in a later split": 1,
        "of a class that is not learnt or tested": 1,
    }
    assert (found.rows.read, found.rows.used) == (120, 115)
    assert sum(len(part) for part in found.splits.values()) == 115
    tested = read(Task(name="mine", family="masked-lm", data=str(tmp_path / "mine.csv")))
    assert tested.rows is not None and tested.rows.left_out["in a split that is not used"] > 30
    assert tested.rows.read == tested.rows.used + sum(tested.rows.left_out.values()) == 120


def test_a_class_that_a_head_is_not_tested_on_is_not_said_to_lack_training(tmp_path: Path) -> None:
    rows = [[text, label, ("validation", "test")[i // 2 % 2]] for i, (text, label) in enumerate(reviews(80))]
    rows[0][1] = "unheard of"
    (tmp_path / "mine.csv").write_bytes(joined(rows, heading=("text", "label", "split")))
    found = read(Task(name="mine", family="head", data=str(tmp_path / "mine.csv")))
    assert found.rows is not None and found.rows.left_out == {"of a class that is not learnt or tested": 1}


def test_the_sentence_of_what_was_read() -> None:
    assert rows_text(RowCounts(read=300, used=298, left_out={"empty": 2})) == "300 rows read, 298 used: 2 empty"
    assert rows_text(RowCounts(read=1, used=1, left_out={})) == "1 row read, all used"
    noted = RowCounts(read=2, used=2, left_out={}, notes=("it is so",))
    assert rows_text(noted, "text") == "2 texts read, all used; it is so"
    cut = Truncation(texts=40, of=40, tokens=126)
    assert cut_text(cut) == "40 of 40 texts truncated to 126 tokens"
    unknown = CalibrationResult()
    assert cut_text(Truncation(texts=0, of=40, tokens=126)) == cut_text(None) == rows_text(None) == reading_text(unknown) == ""
    score = CalibrationResult(rows=RowCounts(read=40, used=40, left_out={}), cut=cut)
    assert reading_text(score) == "40 rows read, all used; 40 of 40 texts truncated to 126 tokens"
    known = CalibrationResult(rows=RowCounts(read=60, used=60, left_out={}))
    assert calibration_reading([None, known]) == "60 texts read, all used" and calibration_reading([None]) == ""
    known = known.model_copy(update={"cut": Truncation(texts=12, of=60, tokens=128)})
    assert calibration_reading([None, known]) == "60 texts read, all used; 12 of 60 texts truncated to 128 tokens"


# ------------------------------------------------------------------------------------------- as written, and damaged


def drawn_text(draw: random.Random, *, several_lines: bool = True) -> str:
    """Random words, mixed with characters and words that a reader might misinterpret."""
    odd = ['"', '""', ",", ";", "|", "'", "NA", "null", *(["\n", "\r\n", "\t"] if several_lines else [])]
    return " ".join(draw.choice(WORDS if draw.random() < 0.8 else odd) for _ in range(draw.randint(1, 12)))


@pytest.mark.parametrize("seed", range(60))
def test_what_a_correct_writer_wrote_is_what_is_read(seed: int) -> None:
    draw = random.Random(seed)
    width = draw.randint(2, 4)
    heading = ["text", "label", "other", "more"][:width]
    tab = seed % 3 == 0
    rows = [
        [drawn_text(draw, several_lines=not tab), draw.choice(LABELS), *(f"{draw.random():.3f}" for _ in range(width - 2))]
        for _ in range(draw.randint(20, 80))
    ]
    if tab:
        assert cells_of(parse("mine.tsv", joined([[c.replace('""', '"') for c in r] for r in rows], "\t", heading))) == [
            [c.replace('""', '"') for c in r] for r in rows
        ]
        return
    style = {
        "delimiter": draw.choice(",;|\t"),
        "quoting": draw.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
        "lineterminator": draw.choice(["\n", "\r\n"]),
    }
    content = written(rows, heading, **style).encode(draw.choice(["utf-8", "utf-8-sig", "utf-16"]))
    found = parse("mine.csv", content)
    assert cells_of(found) == rows
    assert (found.notes, found.left_out) == ((), {})


@dataclass
class Made:
    """A file, and the number of rows that were written to it."""

    name: str
    content: bytes
    rows: int


Mutation = Callable[[random.Random, list[str]], None]


def single(draw: random.Random, lines: list[str]) -> int:
    """The index of a random row that occupies a single line, so that changing the line changes only this row."""
    return draw.choice([place for place, line in enumerate(lines) if place and "\n" not in line])


def stray_marks(draw: random.Random, lines: list[str]) -> None:
    for _ in range(draw.randint(1, 4)):
        place = single(draw, lines)
        lines[place] = draw.choice(['"' + lines[place], lines[place] + '"', lines[place].replace(" ", ' "', 1)])


def lost_mark(draw: random.Random, lines: list[str]) -> None:
    place = single(draw, lines)
    lines[place] = lines[place].replace('"', "", 1)


def ragged(draw: random.Random, lines: list[str]) -> None:
    for _ in range(draw.randint(1, 3)):
        place = single(draw, lines)
        lines[place] = draw.choice([lines[place].strip('"').split(" ")[0], lines[place] + lines[place]])


def blank(draw: random.Random, lines: list[str]) -> None:
    for _ in range(3):
        place = single(draw, lines)
        lines[place] = "".join(c for c in lines[place] if c in ",;|\t")


def very_long(draw: random.Random, lines: list[str]) -> None:
    place = single(draw, lines)
    lines[place] = lines[place].replace(" ", " w" * 50_000 + " ", 1)


def two_names(_: random.Random, lines: list[str]) -> None:
    lines[0] = lines[0].replace("label", "text")


def nothing(_: random.Random, __: list[str]) -> None:
    pass


MUTATIONS: tuple[Mutation, ...] = (nothing, stray_marks, stray_marks, lost_mark, ragged, blank, very_long, two_names)


def nul(draw: random.Random, content: bytes) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + b"\0" + content[place:]


def cut_off(draw: random.Random, content: bytes) -> bytes:
    """The content truncated within its last row, so that part of this row remains."""
    last = content.rstrip(b"\n").rfind(b"\n") + 1
    return content[: draw.randint(last + 1, len(content))]


def damaged_character(_: random.Random, content: bytes) -> bytes:
    return content.replace("ö".encode(), b"\xc3", 1)


def without_rows(draw: random.Random, content: bytes) -> bytes:
    heading = content.split(b"\n")[0]
    return draw.choice([b"", heading if heading.startswith(b"text") else b"", b"\xef\xbb\xbf", b"\n\n"])


def whole(_: random.Random, content: bytes) -> bytes:
    return content


def made_file(seed: int) -> Made:
    """A table or a list of texts with a known number of rows, written correctly or damaged."""
    draw = random.Random(seed)
    suffix = draw.choice([".csv", ".csv", ".csv", ".tsv", ".jsonl", ".txt"])
    delimiter = {".csv": draw.choice(",;|\t"), ".tsv": "\t"}.get(suffix, "")
    num_rows = draw.randint(60, 160)
    plain = [drawn_text(draw, several_lines=False).replace(delimiter or "\0", " ").replace('"', "") for _ in range(num_rows)]
    rows = [[f"{i} {text}", draw.choice(LABELS)] for i, text in enumerate(plain)]
    heading = ["text", "label"]
    if delimiter and draw.random() < 0.3:
        heading.append("split")
        rows = [[*row, draw.choice(("train", "training", "dev", "test"))] for row in rows]
    if suffix == ".csv" and draw.random() < 0.4:  # correctly quoted, with some cells of several lines
        for row in draw.sample(rows, 4):
            row[0] += draw.choice(["\nand more", ' "so"\nand\nso', f"{delimiter} yes"])
        lines = [written([], row, delimiter=delimiter, lineterminator="\n").removesuffix("\n") for row in rows]
    elif suffix == ".jsonl":
        more: dict[str, object] = {"meta": {"x": 1}} if draw.random() < 0.5 else {}
        lines = [json.dumps({"text": text, "label": label, **more}, ensure_ascii=False) for text, label in rows]
    else:
        lines = [delimiter.join(row) if delimiter else row[0] for row in rows]
    if delimiter:
        lines.insert(0, delimiter.join(heading))
    mutation = draw.choice(MUTATIONS)
    mutation(draw, lines)
    end = draw.choice(["\n", "\r\n"]) if not any("\n" in line for line in lines) else "\n"
    damage = draw.choice([*[whole] * 8, nul, cut_off, damaged_character, without_rows])
    encoding = draw.choice(["utf-8", "utf-8-sig", "utf-16", "cp1252"]) if damage is whole else "utf-8"
    content = damage(draw, "".join(line + end for line in lines).encode(encoding, "replace"))
    return Made(f"made{suffix}", content, num_rows)


TRAINED_ON = 150  # rows of the training file, if the table is a file of a folder


def asked_of(made: Made, folder: Path, seed: int) -> tuple[Task, int]:
    """A head or probe task on the table, alone or as the test file of a folder, and the number of rows in all its files."""
    family = ("head", "probe")[seed % 2]
    path, rows = folder / made.name, made.rows
    if seed % 3 == 0:
        path = folder / str(seed) / f"{('test', 'testing')[seed // 3 % 2]}{path.suffix}"
        path.parent.mkdir()
        others = reviews(TRAINED_ON)
        (path.parent / "train.jsonl").write_text("\n".join(json.dumps({"text": t, "label": label}) for t, label in others))
        rows += TRAINED_ON
    path.write_bytes(made.content)
    return Task(name="mine", family=family, data=str(path.parent if seed % 3 == 0 else path)), rows


def examples_of(task: Task) -> TaskData | None:
    """The examples as a run reads them, or None if they are refused with a one-line message."""
    try:
        return read(task)
    except OffcompError as error:
        assert str(error) and "\n" not in str(error)
        return None


def fits(task: Task, examples: TaskData, info: ModelInfo) -> bool:
    """Return whether the model's own head has the classes of the examples, or the task does not use the head."""
    head = head_of_model(info)
    try:
        if task.family == "head" and head is not None:
            label_order(head, examples.splits["test"].features["label"].names)
    except TaskError:
        return False
    return True


def counts_of_texts(made: Made, folder: Path) -> tuple[int, RowCounts] | None:
    try:
        (folder / made.name).write_bytes(made.content)
        texts = CalibrationText(text=str(folder / made.name), num_texts=10_000).read(0)
    except OffcompError as error:
        assert str(error) and "\n" not in str(error)
        return None
    return len(texts.texts), texts.rows


def test_two_hundred_damaged_files_lose_no_row_unsaid(tmp_path: Path) -> None:
    used: Counter[str] = Counter()
    info = classifier(tmp_path / "model", *LABELS)
    for seed in range(200):
        made = made_file(seed)
        found, num_rows = counts_of_texts(made, tmp_path) if made.name.endswith(".txt") else None, made.rows
        kind = "texts"
        if not made.name.endswith(".txt"):
            task, num_rows = asked_of(made, tmp_path, seed)
            examples, fault = examples_of(task), task_fault(task, info)
            if examples is not None and fits(task, examples, info):
                assert fault is None, seed  # a task that a run can score is never refused beforehand
            if examples is not None and examples.rows is not None:
                found = sum(map(len, examples.splits.values())), examples.rows
            kind = f"{task.family} of a {'folder' if num_rows > made.rows else 'file'}"
        if found is not None:
            count, rows = found
            assert rows.read == num_rows == rows.used + sum(rows.left_out.values()), (seed, rows)
            assert rows.used == count, seed
            used[kind] += 1
    assert used.total() > 90 and min(used.values()) >= 5 and len(used) == 5  # the others are refused


def test_damaged_tables_calibrate_with_every_row_or_are_refused(tmp_path: Path) -> None:
    for seed in range(200, 300):
        made = made_file(seed)
        (tmp_path / made.name).write_bytes(made.content)
        try:
            found = CalibrationText(text=str(tmp_path / made.name), num_texts=10_000).read(0)
        except OffcompError as error:
            assert str(error) and "\n" not in str(error)
            continue
        rows = found.rows
        assert rows.read == made.rows == len(found.texts) + sum(rows.left_out.values()), (seed, rows)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("marks", [1, 2])
def test_byte_order_marks_are_no_part_of_the_first_name(encoding: str, marks: int) -> None:
    content = ("\ufeff" * marks + "text,label\nfine,1\n").encode(encoding)
    assert parse("mine.csv", content).table.column_names == ["text", "label"]
