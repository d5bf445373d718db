"""Runs as files and worker processes: progress, cancellation, queue, interruption, cache, and storage failures."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from offcomp.errors import InputError, PlanError, RunError, StorageError
from offcomp.files import read_json, write_json
from offcomp.models.catalogue import ModelInfo
from offcomp.models.listing import model_info
from offcomp.planning.plan import Group, Plan
from offcomp.runs import start as run_start
from offcomp.runs.inputs import inputs_of, run_id
from offcomp.runs.store import Run, RunStore
from tests import tiny_models

KEYS = ("key.0", "key.1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny BERT with a tokenizer."""
    return tiny_models.save(tiny_models.bert(), tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    """An empty store. Workers that are still running at the end of the test are killed."""
    made = RunStore(tmp_path / "home")
    yield made
    for run in made.all():
        if not run.ended:
            psutil.Process(read_json(run.folder / "worker.json")["pid"]).kill()


def svd_plan(folder: Path, **changes: object) -> Plan:
    plan = Plan(model=str(folder), groups=(Group(name="key", modules=KEYS, ratio=2.0),))
    return plan.replace(**changes)


def endless_plan(folder: Path, seed: int = 0) -> Plan:
    """A plan with an autoencoder that would train for many minutes."""
    options = {"epochs": 1000, "batch_size": 1}
    group = Group(name="query", modules=("query.0",), method="autoencoder", options=options, ratio=1.5)
    return Plan(model=str(folder), groups=(Group(name="key", modules=KEYS, ratio=2.0), group), tasks=(), seed=seed)


def info_of(folder: Path, store: RunStore) -> ModelInfo:
    return model_info(str(folder), store.home)


def wait_until(store: RunStore, name: str, condition: Callable[[Run], bool], seconds: float = 60) -> Run:
    """Wait until the run meets the condition, and return it. Fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        run = store.get(name)
        if condition(run):
            return run
        time.sleep(0.05)
    raise AssertionError(f"still {run.status} at {run.progress} after {seconds} s: {(run.folder / 'log.txt').read_text()}")


def is_training(run: Run) -> bool:
    return run.progress is not None and run.progress.stage == "compress query" and run.progress.fraction > 0


def test_a_run_ends_with_figures_scores_and_files(folder: Path, store: RunStore) -> None:
    submitted = store.submit(svd_plan(folder), info_of(folder, store))
    run = wait_until(store, submitted.id, lambda r: r.ended)
    assert run.status == "done", run.error
    assert run.result is not None
    (group,) = run.result.groups
    assert group.size > 0
    assert 0 < group.relative_error < 1
    saved = load_file(run.folder / "groups" / "key.safetensors")
    assert sum(t.numel() * t.element_size() for t in saved.values()) == group.num_bytes
    score = run.result.scores["sentiment"]
    assert score.original.n == score.compressed.n >= 200
    assert run.result.model.sizes.whole.parameters_after < info_of(folder, store).num_parameters
    assert run.result.environment.torch == torch.__version__
    assert read_json(run.folder / "progress.json")["fraction"] == pytest.approx(1.0, abs=0.3)
    (store.folder / "half").mkdir()
    (store.folder / "half" / "plan.json").write_text("{")
    assert [r.id for r in store.all()] == [run.id]
    assert [bad.name for bad in store.listing()[1]] == ["half"]
    with pytest.raises(InputError, match=r"run half cannot be read because plan\.json is not valid JSON"):
        store.get("half")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_start, "start_worker", lambda *_, **__: pytest.fail("a worker was started again"))
        assert store.submit(Plan.from_json(svd_plan(folder).to_json()), info_of(folder, store)) == run


def test_the_run_id_tells_plans_and_weights_apart_but_not_folders(folder: Path, tmp_path: Path, store: RunStore) -> None:
    plan, info = svd_plan(folder), info_of(folder, store)
    copy = shutil.copytree(folder, tmp_path / "copy")
    moved = model_info(str(copy), store.home)
    name = run_id(plan, inputs_of(plan, info.reads))
    elsewhere = plan.replace(model=str(copy))
    assert name == run_id(elsewhere, inputs_of(elsewhere, moved.reads))
    others = [
        svd_plan(folder, seed=1),
        svd_plan(folder, tasks=()),
        svd_plan(folder, groups=(Group(name="key", modules=KEYS, ratio=3.0),)),
    ]
    names = {run_id(other, inputs_of(other, info.reads)) for other in others} | {run_id(plan, inputs_of(plan, "other weights"))}
    assert name not in names
    assert len(names) == 4


def test_a_run_at_work_tells_its_progress_and_stops_within_two_seconds_when_cancelled(folder: Path, store: RunStore) -> None:
    run = wait_until(store, store.submit(endless_plan(folder), info_of(folder, store)).id, is_training)
    later = wait_until(store, run.id, lambda r: r.progress is not None and r.progress.fraction > run.progress.fraction)
    assert later.progress.remaining_seconds > 0
    assert later.status == "running"
    with pytest.raises(RunError, match="cancel it before"):
        store.delete(run.id)
    asked = time.monotonic()
    store.cancel(run.id)
    ended = wait_until(store, run.id, lambda r: r.ended, seconds=10)
    assert time.monotonic() - asked < 2
    assert ended.status == "cancelled"
    assert ended.result is not None
    assert [group.name for group in ended.result.groups] == ["key"]
    store.delete(run.id)
    assert store.all() == []


def test_a_killed_worker_leaves_an_interrupted_run_that_can_be_run_again(folder: Path, store: RunStore) -> None:
    plan, info = endless_plan(folder), info_of(folder, store)
    run = wait_until(store, store.submit(plan, info).id, is_training)
    os.kill(read_json(run.folder / "worker.json")["pid"], signal.SIGKILL)
    dead = wait_until(store, run.id, lambda r: r.ended, seconds=5)
    assert dead.status == "interrupted"
    assert "run the plan again" in dead.error
    again = store.submit(plan, info)
    assert again.status in ("queued", "running")
    store.cancel(again.id)
    assert wait_until(store, again.id, lambda r: r.ended, seconds=10).status == "cancelled"


def test_a_killed_server_takes_its_worker_along(folder: Path, store: RunStore) -> None:
    write_json(store.home / "plan.json", endless_plan(folder).to_dict())
    script = (
        "import time; from pathlib import Path; from offcomp.planning.plan import Plan; "
        "from offcomp.runs.store import RunStore; "
        "from offcomp.models.listing import model_info; home = Path(__import__('sys').argv[1]); "
        "plan = Plan.from_json((home / 'plan.json').read_text()); "
        "print(RunStore(home).submit(plan, model_info(plan.model, home)).id, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(store.home)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        run = wait_until(store, server.stdout.readline().strip(), is_training)
        server.kill()
    assert wait_until(store, run.id, lambda r: r.ended, seconds=5).status == "interrupted"


def test_runs_queue_start_in_the_order_of_submission_and_can_be_cancelled(folder: Path, store: RunStore) -> None:
    info = info_of(folder, store)
    first = wait_until(store, store.submit(endless_plan(folder), info).id, is_training)
    second = store.submit(endless_plan(folder, seed=1), info)
    third = store.submit(endless_plan(folder, seed=2), info)
    fourth = store.submit(svd_plan(folder, tasks=()), info)
    time.sleep(1.5)
    assert [store.get(run.id).status for run in (first, second, third, fourth)] == ["running", *3 * ["queued"]]
    store.cancel(second.id)
    assert wait_until(store, second.id, lambda r: r.ended, seconds=5).status == "cancelled"
    assert store.get(first.id).status == "running"
    store.cancel(first.id)
    wait_until(store, third.id, lambda r: r.status == "running")
    assert store.get(fourth.id).status == "queued"
    store.cancel(third.id)
    assert wait_until(store, fourth.id, lambda r: r.ended).status == "done"


def test_weights_that_are_not_finite_make_a_failed_run_with_the_reason(folder: Path, tmp_path: Path, store: RunStore) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    name = next(name for name in tensors if name.endswith("key.weight"))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    run = store.submit(svd_plan(broken), info_of(broken, store))
    ended = wait_until(store, run.id, lambda r: r.ended)
    assert ended.status == "failed"
    assert name in ended.error
    assert "NaN" in ended.error


def test_a_plan_that_cannot_be_met_is_refused_before_anything_starts(folder: Path, store: RunStore) -> None:
    plan = svd_plan(
        folder, groups=(Group(name="key", modules=KEYS, ratio=1e6), Group(name="query", modules=("query.0",), ratio=1e6))
    )
    with pytest.raises(PlanError) as caught:
        store.submit(plan, info_of(folder, store))
    assert len(caught.value.faults) == 2
    assert not store.folder.exists() or store.all() == []


def test_a_folder_that_cannot_be_written_is_one_sentence(folder: Path, tmp_path: Path, store: RunStore) -> None:
    (tmp_path / "a file").write_text("in the way")
    with pytest.raises(StorageError, match=r"a file.*OFFCOMP_HOME"):
        RunStore(tmp_path / "a file" / "home").submit(svd_plan(folder), info_of(folder, store))


def test_a_full_disk_is_told_before_the_start(folder: Path, store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10**6))
    with pytest.raises(StorageError, match="1 MB free but the run needs 21 MB"):
        store.submit(svd_plan(folder), info_of(folder, store))


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
def test_a_disk_that_fills_up_during_a_run_leaves_no_half_written_result(folder: Path, store: RunStore) -> None:
    """To simulate a full disk, the worker cannot write files larger than 2 kB, which is too little for the result."""
    run_folder = store.folder / "full"
    write_json(run_folder / "plan.json", svd_plan(folder, tasks=()).to_dict())
    info_of(folder, store)
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); from offcomp.runs import worker; worker.main(sys.argv[1:])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(run_folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert "File too large; raise the limit on file size" in done.stderr
    assert "Traceback" not in done.stderr
    run = store.get("full")
    assert run.status in ("failed", "interrupted")
    assert not list(run_folder.glob(".run.json*"))


@pytest.mark.parametrize("name", ["", "..", "../runs", "nothing"])
def test_a_run_that_does_not_exist_is_one_sentence(store: RunStore, name: str) -> None:
    with pytest.raises(InputError, match="there is no run"):
        store.get(name)


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="nan"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
