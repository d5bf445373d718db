"""Forks of the resident give the same results as new processes, and the resident survives any failure of a fork."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import transformers

from offcomp.errors import InputError, StorageError
from offcomp.files import read_json
from offcomp.planning.plan import Group
from offcomp.runs import resident
from offcomp.runs import start as run_start
from offcomp.runs.store import Run
from tests import tiny_models
from tests.runs.test_starts import failing
from tests.runs.test_store import endless_plan, is_training, svd_plan, wait_until
from tests.trial_store import Trial, folder, pid_of

__all__ = ["folder"]  # fixture
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="residents exist on Linux only")
PROCESS = "offcomp.runs.resident_process"
TIMES = ("seconds", "started", "timings", "attempt")


@pytest.fixture
def store(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trial]:
    """An empty store for this test only, with its own resident, which is killed at the end."""
    monkeypatch.delenv(resident.RESIDENT_VARIABLE, raising=False)
    made = Trial(tmp_path / "home", folder)
    yield made
    for process in residents(made):
        for child in process.children():
            child.kill()
        process.kill()
        process.wait(10)


def residents(store: Trial) -> list[psutil.Process]:
    """The live resident processes of a store."""
    children = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in children if PROCESS in child.cmdline() and str(store.home) in child.cmdline()]


def finished(store: Trial, run: Run) -> Run:
    return wait_until(store, run.id, lambda r: r.ended)


def content(run: Run) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (run.folder / "groups").iterdir()}


def without_times(value: Any) -> Any:
    """A JSON value without the fields that differ between two runs of the same plan."""
    if isinstance(value, dict):
        return {name: without_times(item) for name, item in value.items() if name not in TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def until(condition: Any, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --------------------------------------------------------------------------------------------------------------- equality


def test_a_resident_and_a_process_of_its_own_give_the_same_bytes(
    store: Trial, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whitened = Group(name="value", modules=("value.0",), options={"preset": "whitened"}, ratio=2.0)
    autoencoder = Group(name="ffn", modules=("ffn_in.0",), method="autoencoder", options={"epochs": 3}, ratio=2.0)
    plan = svd_plan(folder, groups=(*svd_plan(folder).groups, whitened, autoencoder))
    other = Trial(tmp_path / "other", folder)
    first = finished(store, store.submit(plan, store.info))
    second = finished(store, store.submit(plan, store.info, again=True))
    monkeypatch.setenv(resident.RESIDENT_VARIABLE, "0")
    cold = finished(other, other.submit(plan, other.info))
    assert [run.status for run in (first, second, cold)] == ["done"] * 3, (first.error, second.error, cold.error)
    assert content(first).keys() == {"key.safetensors", "value.safetensors", "ffn.safetensors"}
    assert content(first) == content(second) == content(cold)
    results = [without_times(json.loads(json.dumps(run.result.to_dict()))) for run in (first, second, cold) if run.result]
    assert results[0] == results[1] == results[2]
    assert not residents(other)


def test_the_next_run_starts_in_a_fork_and_loads_nothing(store: Trial) -> None:
    first = finished(store, store.start())
    (process,) = residents(store)
    second = finished(store, store.submit(store.plan.replace(seed=1), store.info))
    assert residents(store) == [process]
    assert process.pid not in (pid_of(first.folder), pid_of(second.folder))
    assert first.result and second.result
    assert second.result.timings["load the model"] < 1.0 < first.result.timings["load the model"]
    assert second.result.timings["total"] < first.result.timings["total"]


THREADS = """
import os, signal, sys
from pathlib import Path
from offcomp.runs.resident_loader import Loader
loader = Loader(Path(sys.argv[1]), sys.argv[2])
loader.start()
loader.join()
assert loader.loaded is not None
assert not Path(f"/proc/self/task/{loader.native_id}").exists()
def fork(threads):
    import torch
    signal.alarm(100)  # ends a fork that hangs
    torch.set_num_threads(threads)
    matrix = torch.ones(1200, 1200)
    for _ in range(20):
        matrix @ matrix
    used = []
    for task in Path("/proc/self/task").iterdir():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        used.append(int(fields[11]) + int(fields[12]))
    os._exit(sum(ticks > 5 for ticks in used))
for threads in (2, 1, 2):
    pid = os.fork()
    if pid == 0:
        fork(threads)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_fork_computes_with_as_many_threads_as_usual(store: Trial, folder: Path) -> None:
    command = [sys.executable, "-c", THREADS, str(store.home), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["2", "1", "2"], done.stderr


# ------------------------------------------------------------------------------------------------------- ends of all kinds


def test_a_killed_fork_is_explained_and_harms_no_other_run(store: Trial, folder: Path) -> None:
    expected = content(finished(store, store.start()))
    (process,) = residents(store)
    for number, cause in ((signal.SIGKILL, "the machine ran out of memory: choose fewer"), (signal.SIGSEGV, "by SIGSEGV; run")):
        run = wait_until(store, store.submit(endless_plan(folder), store.info).id, is_training)
        os.kill(pid_of(run.folder), number)
        ended = wait_until(store, run.id, lambda r: r.ended, seconds=5)
        assert ended.status == "interrupted" and cause in ended.error
        assert content(finished(store, store.start(again=True))) == expected
    assert residents(store) == [process]


def test_a_fork_without_memory_fails_with_a_sentence(store: Trial, tmp_path: Path) -> None:
    """Forks inherit the memory limit that is set on the resident; a copy of the embeddings, 29 MB, exceeds it."""
    config = transformers.BertConfig(**tiny_models.BERT_SIZES | {"vocab_size": 300_000})
    large = Trial(store.home, tiny_models.save(tiny_models._built("BertModel", config), tmp_path / "large"))
    expected = content(finished(store, large.start()))
    (process,) = residents(store)
    limits = resource.prlimit(process.pid, resource.RLIMIT_AS)
    resource.prlimit(process.pid, resource.RLIMIT_AS, (process.memory_info().vms + 20_000_000, limits[1]))
    group = Group(name="words", modules=("word_embeddings",), ratio=2.0)
    run = finished(store, large.submit(large.plan.replace(groups=(group,)), large.info))
    assert run.status == "failed"
    assert run.error.startswith("The machine ran out of memory during the stage 'compress words'")
    resource.prlimit(process.pid, resource.RLIMIT_AS, limits)
    assert content(finished(store, large.start(again=True))) == expected


SHORT = """
import resource, sys
from pathlib import Path
import numpy, psutil, torch
from offcomp.runs import worker
allocate = {
    "torch": lambda: torch.empty(10**9),
    "numpy": lambda: numpy.empty(10**9),
    "python": lambda: bytearray(10**9),
    "bad_alloc": lambda: torch.zeros(1).expand(10**9).clone(),
}[sys.argv[2]]
def work(run, preloaded):
    limit = psutil.Process().memory_info().vms + 100_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    run.begin({})
    run.enter("compress key")
    allocate()
worker.work = work
worker.main(sys.argv[1:2])
"""


@pytest.mark.parametrize("library", ["torch", "numpy", "python", "bad_alloc"])
def test_whatever_library_lacks_memory_the_run_says_so(store: Trial, folder: Path, library: str) -> None:
    run_folder = store.folder / "short"
    run_folder.mkdir(parents=True)
    (run_folder / "plan.json").write_text(store.plan.to_json())
    subprocess.run([sys.executable, "-c", SHORT, str(run_folder), library], check=False, timeout=120, capture_output=True)
    run = store.get("short")
    assert run.status == "failed"
    assert run.error.startswith("The machine ran out of memory during the stage 'compress key' (")
    assert run.error.endswith("choose fewer modules or a smaller batch, or close other programs.")


def test_a_run_that_waits_for_the_model_can_be_cancelled_and_removed(store: Trial) -> None:
    cancelled, removed, kept = (store.submit(store.plan.replace(seed=seed), store.info) for seed in range(3))
    store.cancel(cancelled.id)
    shutil.rmtree(removed.folder)
    (process,) = residents(store)
    ended = wait_until(store, cancelled.id, lambda r: r.ended)
    assert (ended.status, ended.result.timings["total"] < 20) == ("cancelled", True)
    assert store.get(kept.id).status in ("queued", "running")
    assert finished(store, kept).status == "done"
    assert not removed.folder.exists() and residents(store) == [process]


def test_the_first_run_shows_that_the_model_is_being_loaded(store: Trial) -> None:
    first = store.start()
    second = store.submit(store.plan.replace(seed=1), store.info)
    loading = wait_until(store, first.id, lambda r: r.progress is not None and r.progress.stage == "load the model")
    assert loading.status == "running" and loading.progress.remaining_seconds > 0
    assert store.get(second.id).status == "queued"
    assert finished(store, second).status == finished(store, first).status == "done"


def test_a_start_that_is_undone_leaves_no_fork(store: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished(store, store.start())
    (process,) = residents(store)
    for ready in (True, False):
        if not ready:
            process.kill()
            process.wait(10)
        with monkeypatch.context() as patch:
            patch.setattr(run_start, "_move_into_place", failing(28)(run_start._move_into_place))
            with pytest.raises(StorageError, match="No space left"):
                store.start(again=True)
        assert store.get(run.id) == run and store.entries == {run.id}
        (process,) = residents(store)
        assert not process.children()
    assert finished(store, store.start(again=True)).status == "done"


# ------------------------------------------------------------------------------------------------------ life of a resident


def test_a_dead_resident_is_replaced(store: Trial) -> None:
    finished(store, store.start())
    (process,) = residents(store)
    process.kill()
    process.wait(10)
    assert finished(store, store.start(again=True)).status == "done"
    (other,) = residents(store)
    assert other != process


def test_an_idle_resident_leaves_and_no_run_is_lost(store: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are submitted before, around and after the time at which the resident exits."""
    monkeypatch.setenv(resident.IDLE_VARIABLE, "0.5")
    for seed, pause in enumerate((0.1, 0.5, 1.5)):
        run = store.submit(store.plan.replace(seed=seed), store.info)
        assert wait_until(store, run.id, lambda r: r.ended, seconds=180).status == "done"
        time.sleep(pause)
    until(lambda: not residents(store))


@pytest.mark.parametrize("value", ["", "soon", "-1", "nan", "1e9"])
def test_an_idle_time_that_is_none_is_told(store: Trial, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(resident.IDLE_VARIABLE, value)
    with pytest.raises(InputError, match=f"OFFCOMP_IDLE_SECONDS is '{value}'; set it to the number of seconds"):
        store.start()
    assert store.entries == set()


def test_another_model_has_another_resident_and_the_first_leaves_when_it_is_done(
    store: Trial, folder: Path, tmp_path: Path
) -> None:
    run = wait_until(store, store.submit(endless_plan(folder), store.info).id, is_training)
    (process,) = residents(store)
    other = Trial(store.home, tiny_models.save(tiny_models.bert_base(), tmp_path / "other"))
    waiting = other.start()
    assert len(residents(store)) == 2
    assert store.get(run.id).status == "running"
    store.cancel(run.id)
    assert finished(store, waiting).status == "done"
    process.wait(10)
    assert len(residents(store)) == 1


def test_a_model_that_changed_meanwhile_is_not_used(store: Trial, tmp_path: Path) -> None:
    """The resident has loaded the weights from before the change; a later run uses the changed model."""
    copy = Path(shutil.copytree(store.plan.model, tmp_path / "copy"))
    before = Trial(store.home, copy)
    first = finished(before, before.start())
    tiny_models.save(tiny_models.bert_classifier(), copy)
    after = Trial(store.home, copy)
    second = finished(after, after.start())
    assert first.status == second.status == "done"
    assert first.id != second.id and after.info.reads == second.result.model.reads


def test_many_threads_may_submit_at_once(store: Trial) -> None:
    found: list[Run] = []

    def submit(seed: int) -> None:
        found.append(store.submit(store.plan.replace(seed=seed), store.info))

    threads = [threading.Thread(target=submit, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(residents(store)) == 1
    assert {finished(store, run).status for run in found} == {"done"} and len({run.id for run in found}) == 8


LEAKING = """
import subprocess, sys, time
from pathlib import Path
from offcomp.models.listing import model_info
from offcomp.planning.plan import Plan
from offcomp.runs import resident
from offcomp.runs.store import RunStore
home = Path(sys.argv[1])
plan = Plan.from_json((home / "plan.json").read_text())
RunStore(home).submit(plan, model_info(plan.model, home))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False)
print(resident._current.process.pid, child.pid, flush=True)
time.sleep(600)
"""


def test_a_resident_ends_with_its_parent_whatever_other_children_live_on(store: Trial, folder: Path) -> None:
    (store.home / "plan.json").write_text(endless_plan(folder).to_json())
    command = [sys.executable, "-c", LEAKING, str(store.home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pid, other = map(int, parent.stdout.readline().split())
        (run,) = store.all()
        wait_until(store, run.id, is_training)
        process = psutil.Process(pid)
        (fork,) = process.children()
        parent.kill()
        psutil.wait_procs([process, fork], timeout=5)
        assert not process.is_running() and not fork.is_running()
        assert store.get(run.id).status == "interrupted"
        os.kill(other, signal.SIGKILL)


# ---------------------------------------------------------------------------------------------------- attempts and heartbeats


def test_attempts_are_counted(store: Trial) -> None:
    for attempt in (1, 2, 3):
        run = finished(store, store.start(again=True))
        assert run.result.attempt == attempt == read_json(run.folder / "worker.json")["attempt"]
    former = read_json(run.folder / "worker.json")
    del former["attempt"]
    (run.folder / "worker.json").write_text(json.dumps(former))
    assert finished(store, store.start(again=True)).result.attempt == 2, "a run of an earlier version counts as the first"


def test_a_worker_writes_nothing_once_a_later_attempt_has_its_folder(store: Trial, folder: Path) -> None:
    run = wait_until(store, store.submit(endless_plan(folder), store.info).id, is_training)
    (process,) = residents(store)
    record = read_json(run.folder / "worker.json")
    (run.folder / "worker.json").write_text(json.dumps(record | {"attempt": 2}))
    until(lambda: not process.children())
    assert not (run.folder / "run.json").exists()


def test_a_run_without_a_sign_of_life_says_so(store: Trial, folder: Path) -> None:
    run = wait_until(store, store.submit(endless_plan(folder), store.info).id, is_training)
    heartbeat = run.folder / "heartbeat"
    assert time.time() - heartbeat.stat().st_mtime < 30
    assert store.get(run.id).status_text == "running"
    worker = psutil.Process(pid_of(run.folder))
    worker.suspend()
    long_ago = time.time() - 300
    os.utime(heartbeat, (long_ago, long_ago))
    assert store.get(run.id).status_text == "running, no sign of life for 5 min"
    record = read_json(run.folder / "worker.json")
    (run.folder / "worker.json").write_text(json.dumps(record | {"host": "elsewhere", "boot": "", "machine": ""}))
    assert store.get(run.id).status_text == "running on elsewhere, no sign of life for 5 min"
    worker.kill()


def test_the_queue_does_not_count(store: Trial, folder: Path) -> None:
    long = wait_until(store, store.submit(endless_plan(folder), store.info).id, is_training)
    began = time.time()
    queued = store.start()
    time.sleep(3)
    store.cancel(long.id)
    run = finished(store, queued)
    assert run.status == "done" and run.result.timings["total"] < time.time() - began - 2.5
