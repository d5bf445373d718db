"""Unreadable run folders are reported in one line each and do not affect other runs, on the command line and the pages."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offcomp.errors import InputError
from offcomp.planning.document import Amount, Count, Document, Figure, Name, Pair
from offcomp.planning.json_checks import Malformed
from offcomp.results.report import html_report
from offcomp.runs import folders as run_folders
from offcomp.runs.documents import read_result
from offcomp.runs.store import RunStore
from offcomp.ui.escape import plain
from tests.mutated_runs import DEEP, files_of, good_documents, mutated, put
from tests.pages import home, opened, texts

__all__ = ["home"]  # a fixture
COUNT, SEED = 250, 20_231
GOOD = "a00d00000001"

Verb = Callable[..., tuple[int, str, str]]


def one_bad(home: Path, **files: bytes) -> str:
    """Add a valid run to the home, and one whose files have the given contents. Returns the name of the second run."""
    put(home / "runs" / GOOD, files_of(good_documents()[0], 5000.0))
    given = files_of(good_documents()[0], 1000.0, ended="run" in files)
    put(home / "runs" / "bad", given | {f"{name}.json": content for name, content in files.items()})
    return "bad"


CASES: dict[str, tuple[dict[str, bytes], str]] = {
    "a list as worker": ({"worker": b"[[]]"}, "worker.json: it is [[]]; it must be a JSON object"),
    "a negative process": ({"worker": b'{"pid": -1, "started": 0, "submitted": 0}'}, "worker.json: pid is -1"),
    "a text as process": ({"worker": b'{"pid": "x", "submitted": 0}'}, "worker.json: pid is 'x'"),
    "no time": ({"worker": b'{"pid": 5}'}, "worker.json: submitted is missing"),
    "a time that no calendar has": ({"worker": b'{"pid": 5, "submitted": 1e18}'}, "worker.json: submitted is 1e+18"),
    "a deep result": ({"run": b"[" * DEEP}, "run.json nests lists or objects too deeply"),
    "a deep field": ({"run": b'{"x": ' * 300 + b"1" + b"}" * 300}, "run.json: status is missing"),
    "half a result": ({"run": b'{"status": "do'}, "run.json is not valid JSON"),
    "no result": ({"run": b"{}"}, "run.json: status is missing"),
    "bytes": ({"run": b"\xff\xfe\x00"}, "run.json is not valid JSON"),
    "infinity": ({"worker": b'{"pid": 5, "submitted": 1e400}'}, "worker.json: submitted is inf; it must be a number"),
    "no number": ({"run": b'{"status": NaN}'}, "run.json is not valid JSON (NaN is not a finite number)"),
    "a plan of nothing": ({"plan": b"[]"}, "plan.json: it is []; it must be a JSON object"),
    "a plan without model": ({"plan": b"{}"}, "plan.json: plan lacks the field 'model'"),
    "a name of two lines": (
        {"worker": b'{"submitted": 0, "host": "a\\nb"}'},
        "worker.json: host is 'a\\nb', which contains a line",
    ),
    "a list as inputs": ({"inputs": b"[]"}, "inputs.json: it is []; it must be a JSON object"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_folder_is_named_in_one_line_and_hides_no_other(offcomp: Verb, home: Path, tmp_path: Path, case: str) -> None:
    files, reason = CASES[case]
    name = one_bad(home, **files)
    for flags in ((), ("--json",)):
        status, out, err = offcomp("runs", *flags)
        assert status == 0 and GOOD in out and name not in out
        assert err.startswith(f"not listed: bad cannot be read because {reason}") and err.count("\n") == 1
    assert [row["run"] for row in json.loads(offcomp("runs", "--json")[1])] == [GOOD]
    for verb in (("show", name), ("cancel", name), ("compare", name), ("export", name, str(tmp_path / "out"))):
        status, out, err = offcomp(*verb)
        assert (status, out) == (2, "") and err.startswith(f"offcomp: run bad cannot be read because {reason}"), verb
        assert err.count("\n") == 1
    with pytest.raises(InputError, match="run bad cannot be read"):
        RunStore().delete(name)


@pytest.mark.parametrize(
    "content", [b"[]", b'{"stage": "x", "fraction": "half"}', b'{"stage": "x", "fraction": 1e400}', b"NaN"]
)
def test_progress_that_cannot_be_read_is_no_progress(home: Path, content: bytes) -> None:
    name = one_bad(home, progress=content)
    assert RunStore().get(name).progress is None


def test_the_runs_page_and_the_chip_of_every_page_stand_bad_folders(home: Path) -> None:
    one_bad(home, worker=b"[[]]")
    app = opened("runs")
    reason = plain("worker.json: it is [[]]; it must be a JSON object")
    assert f"1 folder cannot be read and is left out: bad ({reason})." in texts(app)
    assert f"run {GOOD}" in texts(app)
    opened("compress")


def test_a_result_whose_worker_file_is_lost_or_bad_is_a_result(home: Path) -> None:
    name = one_bad(home, worker=b"[[]]", run=files_of(good_documents()[0], 0.0)["run.json"])
    run = RunStore().get(name)
    assert run.status == "done" and run.submitted > 1.7e9, "the time of its start"


@pytest.mark.parametrize("file", ["run.json", "plan.json", "worker.json", "inputs.json"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "large"])
def test_what_is_no_file_or_too_large_is_not_read(home: Path, file: str, kind: str) -> None:
    name = one_bad(home)
    place = home / "runs" / name / file
    place.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "device":
        place.symlink_to("/dev/zero")
    elif kind == "folder":
        place.mkdir()
    else:
        with place.open("wb") as stream:
            stream.truncate(51_000_000)
    said = "is 51 MB; the limit is 50 MB" if kind == "large" else "is a folder, a pipe or a device, not a regular file"
    (run,), (bad,) = RunStore().listing()
    assert (run.id, bad.name, bad.reason) == (GOOD, name, f"{file} {said}")


def test_a_result_that_could_not_be_opened_once_is_read_the_next_time(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = one_bad(home, run=files_of(good_documents()[0], 1000.0)["run.json"])
    with monkeypatch.context() as patch:
        patch.setattr(run_folders.documents, "read_result", missing)
        assert len(RunStore().listing()[1]) == 2
    assert RunStore().get(name).status == "done" and RunStore().listing()[1] == []


def missing(folder: Path) -> None:
    raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(folder / "run.json"))


def test_a_folder_that_is_removed_while_it_is_read_is_no_bad_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = one_bad(home, run=files_of(good_documents()[0], 1000.0)["run.json"])

    def removed(folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        missing(folder)

    monkeypatch.setattr(run_folders.documents, "read_result", removed)
    with pytest.raises(InputError, match="run bad has just been removed"):
        RunStore().get(name)
    assert RunStore().listing() == ([], [])


def test_250_mutated_folders_raise_nothing_and_hide_nothing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offcomp: Verb
) -> None:
    read = []
    for index, files in enumerate(mutated(COUNT, SEED)):
        name, own = f"{index:012x}", tmp_path / "homes" / str(index)
        put(own / "runs" / name, files)
        put(own / "runs" / GOOD, files_of(good_documents()[0], 5000.0))
        (home / "runs").mkdir(parents=True, exist_ok=True)
        (home / "runs" / name).symlink_to(own / "runs" / name)
        with monkeypatch.context() as patch:
            patch.setenv("OFFCOMP_HOME", str(own))
            status, out, err = offcomp("runs", *(["--json"] if index % 2 else []))
            assert status == 0 and GOOD in out and (name in out) != (name in err), (index, files)
            read += [own / "runs" / name] if name in out else []
            for verb in (("show", name), ("show", "--json", name), ("cancel", name), ("compare", name)):
                status, out, err = offcomp(*verb)
                assert (status == 0 or err.count("\n") == 1) and "Traceback" not in err, (index, verb, err)
            status, _, err = offcomp("export", name, str(own / "out"))
            assert status in (1, 2) and err.count("\n") == 1, (index, err)
    assert COUNT // 10 < len(read) < COUNT * 6 // 10, "changes that matter and changes that do not"
    put(home / "runs" / GOOD, files_of(good_documents()[2], 5000.0))
    runs, bad = RunStore().listing()
    assert len(runs) == len(read) + 1 and len(bad) == COUNT - len(read)
    assert html_report([run for run in runs if run.status == "done"])
    app = opened("runs")
    assert f"run {GOOD}" in texts(app) and f"{len(bad)} folders cannot be read and are left out" in texts(app)


class Example(Document):
    """A document with every kind of field."""

    name: str
    sizes: Pair[Amount]
    note: str | None = None
    count: Count = 0


class Named(Document):
    """A document with an object whose keys are arbitrary names."""

    scores: dict[Name, Figure]


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"name": "a", "sizes": [1, 2]}, ""),
        ({"name": "a", "sizes": [1, 2], "note": None, "other": {"x": [1]}}, ""),
        ([], "it is []; it must be a JSON object"),
        ({"sizes": []}, "name is missing"),
        ({"name": 1, "sizes": [1, 2]}, "name is 1; it must be a string"),
        ({"name": "a", "sizes": [1]}, "sizes is [1]; it must be a list of length 2"),
        ({"name": "a", "sizes": [1, -2]}, "sizes[1] is -2; it must be a number, 0 or greater"),
        ({"name": "a", "sizes": [1, True]}, "sizes[1] is True; it must be a number, 0 or greater"),
        ({"name": "a", "sizes": [1, 2], "count": 1.0}, "count is 1.0; it must be a whole number, 0 or greater"),
        (
            {"name": "a", "sizes": [1, 2], "other": [[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]},
            "other nests lists or objects too deeply",
        ),
    ],
)
def test_checks_say_what_is_wrong_and_where(value: Any, fault: str) -> None:
    if not fault:
        assert Example.from_json(value).to_dict() == value
        return
    with pytest.raises(Malformed) as caught:
        Example.from_json(value)
    assert str(caught.value).startswith(fault)


@pytest.mark.parametrize("name", ["", " ", "two\nlines", "\x1b[2J", "\u202etxt", "\ud800", "x" * 1001])
def test_a_name_that_cannot_be_shown_in_a_line_is_refused(name: str) -> None:
    with pytest.raises(Malformed, match="a name must be one line of at most 1000 visible characters") as caught:
        Named.from_json({"scores": {"good": 1, name: 1}})
    assert str(caught.value).startswith("scores contains the name '") and str(caught.value).isprintable()
    Named.from_json({"scores": {"good": 1, "x" * 200: 1, "with a space, and \u00fc": 1}})
    with pytest.raises(Malformed, match=r"scores\.good is 'x'; it must be a number"):
        Named.from_json({"scores": {"good": "x"}})


def test_what_a_run_writes_passes_as_do_runs_that_come_with_offcomp(tmp_path: Path) -> None:
    for index, document in enumerate(good_documents()):
        put(tmp_path / str(index), files_of(document, 1.0))
        assert read_result(tmp_path / str(index))[1].to_dict() == document
