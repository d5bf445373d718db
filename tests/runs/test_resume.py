"""An interrupted run continues with the first group that it had not finished, and gives the same bytes as one that was not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offcomp.errors import RunError
from offcomp.files import read_json, write_json
from offcomp.models.listing import model_info
from offcomp.planning.plan import Group, Plan
from offcomp.runs import compress_groups as compress_module
from offcomp.runs import resume
from offcomp.runs import start as run_start
from offcomp.runs import worker as worker_module
from offcomp.runs.resume import FINISHED, finished_groups, take_over_groups
from offcomp.runs.worker_process import Worker
from tests import tiny_models
from tests.runs.test_resident import without_times
from tests.runs.test_store import wait_until
from tests.trial_store import Trial, folder, store

__all__ = ["folder", "store"]

FOLLOW: dict[str, Any] = {"options": {"follow": True}, "ratio": 1.5}
TRAINED: dict[str, Any] = {"method": "autoencoder", "options": {"epochs": 3}, "ratio": 3.0}
SVD = tuple(Group(name=f"{kind}", modules=(f"{kind}.0", f"{kind}.1"), ratio=2.0) for kind in ("query", "key", "value"))
PLANS: dict[str, tuple[Group, ...]] = {
    "svd": SVD,
    "follow": tuple(
        Group(name=f"g{n}", modules=(name,), **FOLLOW) for n, name in enumerate(("value.1", "query.0", "ffn_in.0"))
    ),
    "fitted together": (
        *(Group(name=kind, modules=(f"{kind}.0",), **TRAINED) for kind in ("query", "key")),
        Group(name="ffn", modules=("ffn_in.0",), method="autoencoder", options={"epochs": 2}, ratio=3.0),
        Group(name="value", modules=("value.1",), **TRAINED),
    ),
}


class Stopped(BaseException):
    """The end of the process, at a moment that a test chooses."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_models.save(tiny_models.bert(), tmp_path / "tiny")


def attempt(folder: Path, plan: Plan) -> Worker:
    """Work on a run in this process, as an attempt that may follow an earlier one in the same folder."""
    if not (folder / "plan.json").exists():
        write_json(folder / "plan.json", plan.to_dict())
    worker = Worker(folder)
    worker_module.work(worker)
    return worker


def stop(monkeypatch: pytest.MonkeyPatch, name: str, calls: int, *, before: bool) -> None:
    """End the process before or after `name` (of `compress_groups`) was called this many times."""
    real: Callable[..., Any] = getattr(compress_module, name)
    left = [calls]

    def call(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if before and not left[0]:
            raise Stopped
        found = real(*arguments, **options)
        if not left[0]:
            raise Stopped
        return found

    monkeypatch.setattr(compress_module, name, call)


def compressed_by(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the groups that are compressed from now on."""
    names: list[str] = []
    real = compress_module.compress_group

    def call(source: Any, info: Any, group: Group, **options: Any) -> Any:
        names.append(group.name)
        return real(source, info, group, **options)

    monkeypatch.setattr(compress_module, "compress_group", call)
    return names


def tensors(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / "groups").iterdir()}


def figures(worker: Worker) -> Any:
    return without_times(json.loads(json.dumps([group.to_dict() for group in worker.groups])))


@pytest.mark.parametrize(("name", "finished"), [("svd", 2), ("follow", 1), ("follow", 2), ("fitted together", 2)])
def test_what_was_finished_is_not_computed_again(
    name: str, finished: int, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(model=str(model), groups=PLANS[name], tasks=())
    check_resumed(plan, finished, tmp_path, monkeypatch)


def test_a_model_that_is_offloaded_follows_what_was_finished(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "SMALL_SHARE", 0.0)
    check_resumed(Plan(model=str(model), groups=PLANS["follow"], tasks=()), 2, tmp_path, monkeypatch)


def check_resumed(plan: Plan, finished: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop a run after this many groups, continue it, and compare it with one that was not stopped."""
    order = [plan.groups[number].name for number in plan.compression_order(model_info(plan.model))]
    whole = attempt(tmp_path / "whole" / "runs" / "one", plan)
    run = tmp_path / "runs" / "one"
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop(patch, "record_group", finished, before=False)
        attempt(run, plan)
    again = compressed_by(monkeypatch)
    resumed = attempt(run, plan)
    is_one_fit = plan.groups == PLANS["fitted together"]
    assert again == (order if is_one_fit else order[finished:])
    assert tensors(run) == tensors(whole.folder)
    assert figures(resumed) == figures(whole)
    assert list(resumed.timings) == list(whole.timings)
    assert (run / "frames.jsonl").read_bytes() == (whole.folder / "frames.jsonl").read_bytes()


@pytest.mark.parametrize(("step", "before"), [("save_group", True), ("save_group", False), ("record_group", True)])
def test_a_group_counts_once_its_figures_are_stored(
    step: str, before: bool, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(model=str(model), groups=SVD, tasks=())
    whole = attempt(tmp_path / "whole" / "runs" / "one", plan)
    run = tmp_path / "runs" / "one"
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop(patch, step, 2, before=before)
        attempt(run, plan)
    again = compressed_by(monkeypatch)
    assert figures(attempt(run, plan)) == figures(whole)
    assert again == ["key", "value"]
    assert tensors(run) == tensors(whole.folder)


@pytest.mark.parametrize("damage", ["tensors", "figures", "no tensors"])
def test_damaged_groups_and_those_after_them_are_computed_again(
    damage: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(model=str(model), groups=SVD, tasks=())
    run = tmp_path / "runs" / "one"
    whole = figures(attempt(run, plan))
    expected, stored = tensors(run), run / "groups" / "key.safetensors"
    if damage == "tensors":
        stored.write_bytes(stored.read_bytes()[:-1] + b"x")
    elif damage == "figures":
        record = run / FINISHED / "key.json"
        record.write_bytes(record.read_bytes()[:-20])
    else:
        stored.unlink()
    again = compressed_by(monkeypatch)
    assert figures(attempt(run, plan)) == whole
    assert again == ["key", "value"]
    assert tensors(run) == expected


def test_sets_of_groups_that_overlap_are_finished_only_as_a_whole(model: Path, tmp_path: Path) -> None:
    """Of the order a, b, c, d, the groups a and c are fitted together, and so are b and d; d is missing."""
    groups = tuple(
        Group(name=name, modules=(module,), **TRAINED)
        for name, module in zip("abcd", ("query.0", "ffn_in.0", "key.0", "ffn_in.1"), strict=True)
    )
    plan, info = Plan(model=str(model), groups=groups, tasks=()), model_info(str(model))
    run = tmp_path / "runs" / "one"
    attempt(run, plan)
    assert len(finished_groups(run, groups, info, outputs_measured=True)) == 4
    (run / FINISHED / "d.json").unlink()
    assert finished_groups(run, groups, info, outputs_measured=True) == []


def test_groups_are_not_used_again_once_an_input_has_changed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = compress_module.compress_groups

    def change_afterwards(*arguments: Any) -> Any:
        saved = real(*arguments)
        (model / "tokenizer_config.json").write_text('{"model_max_length": 5}')
        return saved

    monkeypatch.setattr(compress_module, "compress_groups", change_afterwards)
    run = tmp_path / "runs" / "one"
    with pytest.raises(RunError, match="the model files changed after the run was submitted"):
        attempt(run, Plan(model=str(model), groups=SVD, tasks=()))
    assert tensors(run) and not (run / FINISHED).exists()


def test_files_are_copied_where_there_are_no_hard_links(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(model=str(model), groups=SVD, tasks=())
    run, linked, copied = (tmp_path / name / "runs" / "one" for name in ("run", "linked", "copied"))
    attempt(run, plan)
    linked.mkdir(parents=True)
    take_over_groups(run, linked)
    assert all((linked / "groups" / name).samefile(run / "groups" / name) for name in tensors(run))

    def link(*_: Any) -> None:
        raise OSError

    monkeypatch.setattr(resume.os, "link", link)
    copied.mkdir(parents=True)
    take_over_groups(run, copied)
    assert tensors(copied) == tensors(linked) == tensors(run)
    again = compressed_by(monkeypatch)
    attempt(copied, plan)
    assert again == []


KILLED = """
import os, signal, sys
from offcomp import files
from offcomp.runs import compress_groups, worker
moment, calls = sys.argv[2], 0
def kill_at(name, wrapped):
    def call(*arguments, **options):
        global calls
        calls += name == moment
        if calls == 2 and moment == "saving":
            files.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # the file has only its temporary name
        if calls == 2 and moment == "recording":
            os.kill(os.getpid(), signal.SIGKILL)
        return wrapped(*arguments, **options)
    return call
compress_groups.save_group = kill_at("saving", compress_groups.save_group)
compress_groups.record_group = kill_at("recording", compress_groups.record_group)
worker.main(sys.argv[1:2])
"""


@pytest.mark.parametrize("moment", ["saving", "recording"])
def test_a_killed_run_continues_when_its_plan_is_submitted_again(
    moment: str, store: Trial, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is killed while it writes the second group, or between that group and its figures."""
    monkeypatch.setenv("OFFCOMP_RESIDENT", "0")
    plan = Plan(model=str(folder), groups=SVD, tasks=())
    real = subprocess.Popen

    def popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        killed = "pass_fds" in options
        return real([sys.executable, "-P", "-c", KILLED, command[-1], moment] if killed else command, **options)

    with monkeypatch.context() as patch:
        patch.setattr(run_start.subprocess, "Popen", popen)
        run = store.submit(plan, store.info)
        run = wait_until(store, run.id, lambda r: r.ended, seconds=300)
    assert run.status == "interrupted"
    kept = read_json(run.folder / FINISHED / "query.json")
    first = (run.folder / "groups" / "query.safetensors").stat().st_ino
    parts = list((run.folder / "groups").glob(".*.part"))
    assert len(parts) == (moment == "saving")
    resumed = wait_until(store, store.submit(plan, store.info).id, lambda r: r.ended, seconds=300)
    assert (resumed.id, resumed.status) == (run.id, "done"), resumed.error
    assert resumed.result is not None
    assert (resumed.folder / "groups" / "query.safetensors").stat().st_ino == first
    assert resumed.result.groups[0].seconds == kept["figures"]["seconds"]
    other = Trial(tmp_path / "other", folder)
    whole = wait_until(other, other.submit(plan, other.info).id, lambda r: r.ended, seconds=300)
    assert whole.result is not None
    assert tensors(resumed.folder) == tensors(whole.folder)
    results = [without_times(run.result.to_dict()) for run in (resumed, whole) if run.result]
    assert json.dumps(results[0]) == json.dumps(results[1])
    wait_until(store, run.id, lambda r: not (r.folder / FINISHED).exists())


def test_running_again_starts_from_the_beginning(store: Trial, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFCOMP_RESIDENT", "0")
    done = wait_until(store, store.start().id, lambda r: r.ended, seconds=300)
    file = done.folder / "groups" / "key.safetensors"
    first = file.stat().st_ino
    kept = done.folder.parent / "kept"
    shutil.copytree(done.folder, kept)  # the same file system, so that the inode of the former file stays in use
    again = wait_until(store, store.start(again=True).id, lambda r: r.ended, seconds=300)
    assert again.status == "done" and file.stat().st_ino != first
