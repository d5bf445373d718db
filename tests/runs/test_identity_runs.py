"""Runs, exports and reports never present figures of a different model, and runs in progress on other hosts are respected."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from offcomp.cli import main as cli
from offcomp.errors import InputError, ModelError, RunError
from offcomp.evaluation import open_task
from offcomp.files import read_json, write_json
from offcomp.models.catalogue import ModelInfo
from offcomp.models.listing import model_info
from offcomp.models.loading import load
from offcomp.planning.data.calibration_text import CalibrationText
from offcomp.planning.data.tasks import Task
from offcomp.planning.plan import Group, Plan
from offcomp.planning.spectra import compute
from offcomp.results.bundled import bundled_runs
from offcomp.results.paired import same_test
from offcomp.results.report import html_report
from offcomp.runs import claims, slots
from offcomp.runs import start as run_start
from offcomp.runs import worker as worker_module
from offcomp.runs.claims import Claim, Host, claim, foreign_host
from offcomp.runs.export import export_run
from offcomp.runs.manifest import MANIFEST
from offcomp.runs.store import Run, RunStore
from offcomp.runs.verify import verify
from tests import tiny_models
from tests.evaluation.test_probe import WORDS, word_tokenizer
from tests.made_runs import put_in_home
from tests.models.test_identity import change_tensor, edit, overwrite

QUERY = "encoder.layer.1.attention.self.query.weight"
GROUP = Group(name="query", modules=("query.0", "query.1"), ratio=2.0)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    """A store whose runs are carried out in this process, before `submit` returns."""
    monkeypatch.setenv("OFFCOMP_HOME", str(tmp_path / "home"))
    return worked_at_once(RunStore(tmp_path / "home"), monkeypatch)


def worked_at_once(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object] = lambda: None
) -> RunStore:
    """Replace the workers of the store: this process carries out each run before `submit` returns. Returns the store."""
    submit = RunStore.submit

    def submit_and_work(store: RunStore, plan: Plan, info: ModelInfo, *, again: bool = False) -> Run:
        run = submit(store, plan, info, again=again)
        if run.status == "interrupted":
            at_once(run.folder, meanwhile)
        return store.get(run.id)

    monkeypatch.setattr(run_start, "start_worker", lambda *_, **__: subprocess.Popen(["true"]))
    monkeypatch.setattr(RunStore, "submit", submit_and_work)
    return store


def at_once(folder: Path, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Carry out a run in this process, calling `meanwhile` before its inputs are checked for the last time."""
    worker = worker_module.Worker(folder)
    with pytest.MonkeyPatch.context() as patch:
        real = worker_module._evaluate
        patch.setattr(worker_module, "_evaluate", lambda *args: (real(*args), meanwhile())[0])
        try:
            result = worker.result("done", outcome=worker_module.work(worker))
        except RunError as error:
            result = worker.result("failed", str(error))
    write_json(folder / "run.json", result.to_dict())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tiny_models.save(tiny_models.shared("bert_base"), tmp_path / "model", tokenizer=False)
    word_tokenizer(pad_token="<end>", unk_token="[UNK]").save_pretrained(made)  # noqa: S106
    return made


@pytest.fixture
def pairs(tmp_path: Path) -> Task:
    """A similarity task: 60 pairs of sentences with scores from 0 to 5."""
    file = tmp_path / "pairs.csv"
    rows = [f"{WORDS[n % 40]} {WORDS[n % 11]} {WORDS[n % 7]},{WORDS[n % 13]} {WORDS[n % 7]},{n % 6}" for n in range(60)]
    file.write_text("\n".join(["sentence1,sentence2,score", *rows]) + "\n")
    return Task(name="pairs", family="similarity", data=str(file))


def run_of(store: RunStore, plan: Plan) -> Run:
    run = store.submit(plan, model_info(plan.model, store.home))
    assert run.ended
    return run


def figures_of(run: Run) -> tuple[float, float]:
    """The relative error of the group, and the score of the original."""
    assert run.result is not None and run.status == "done", run.error
    return run.result.groups[0].relative_error, run.result.scores["pairs"].original.value


def change_three_weights(folder: Path) -> None:
    """Change three values in the middle of the file of weights, whose size and modification time stay the same."""
    for name, place in ((QUERY, 30), (QUERY, 31), (QUERY.replace("query", "key"), 5)):
        for _ in range(4):
            change_tensor(folder / "model.safetensors", name, place)


# ------------------------------------------------------------------------------------------------------------ other files


def test_a_copy_with_three_other_weights_has_its_own_run_and_spectra(
    folder: Path, pairs: Task, store: RunStore, tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    change_three_weights(copy)
    first, second = (run_of(store, Plan(model=str(where), groups=(GROUP,), tasks=(pairs,))) for where in (folder, copy))
    fresh = run_of(RunStore(tmp_path / "fresh"), Plan(model=str(copy), groups=(GROUP,), tasks=(pairs,)))
    assert first.id != second.id == fresh.id
    assert figures_of(second) == figures_of(fresh)
    assert all(ours != theirs for ours, theirs in zip(figures_of(first), figures_of(second), strict=True))
    spectra = [compute(Plan(model=str(where), groups=(GROUP,)), store.home)["query"] for where in (folder, copy)]
    assert abs(spectra[0] - spectra[1]).max() > 0.1
    assert not same_test(first, second, "pairs")


def test_a_model_overwritten_in_place_is_another_one(folder: Path, pairs: Task, store: RunStore, tmp_path: Path) -> None:
    plan = Plan(model=str(folder), groups=(GROUP,), tasks=(pairs,))
    first = run_of(store, plan)
    assert run_of(store, plan) == first
    export_run(first, model_info(str(folder), store.home), tmp_path / "good", dense=True)
    change_three_weights(folder)
    second = run_of(store, plan)
    assert second.id != first.id and figures_of(second) != figures_of(first)
    for dense in (False, True):
        with pytest.raises(InputError, match=rf"no longer the model that run {first.id} compressed: .* run the plan again"):
            export_run(first, model_info(str(folder), store.home), tmp_path / "out", dense=dense)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ModelError, match="not the model that was compressed"):
        verify(tmp_path / "good", str(folder))
    export_run(second, model_info(str(folder), store.home), tmp_path / "out", dense=True)
    assert all(check.holds for check in verify(tmp_path / "out", str(folder)))


def test_a_run_goes_by_the_name_under_which_its_model_was_asked_for_last(
    folder: Path, pairs: Task, store: RunStore, tmp_path: Path
) -> None:
    """The first run was on a copy; once that is deleted, the same plan on the other folder can be exported."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    first = run_of(store, Plan(model=str(copy), groups=(GROUP,), tasks=(pairs,)))
    shutil.rmtree(copy)
    again = run_of(store, Plan(model=str(folder), groups=(GROUP,), tasks=(pairs,)))
    assert again == store.get(first.id) and again.id == first.id
    assert again.plan.model == str(folder) and again.plan.groups == first.plan.groups
    assert again.result is not None and first.result is not None
    assert again.result.plan["model"] == again.result.model.name == str(folder)
    assert again.result.groups == first.result.groups
    export_run(again, model_info(again.plan.model, store.home), tmp_path / "out")


def test_an_export_of_a_run_whose_tokenizer_has_changed_is_refused(
    folder: Path, pairs: Task, store: RunStore, tmp_path: Path
) -> None:
    run = run_of(store, Plan(model=str(folder), groups=(GROUP,), tasks=(pairs,)))
    edit(folder / "tokenizer.json", normalizer={"type": "Lowercase"})
    with pytest.raises(InputError, match="no longer the model"):
        export_run(run, model_info(str(folder), store.home), tmp_path / "out")


def test_a_model_that_changes_while_it_is_exported_leaves_no_export(
    folder: Path, pairs: Task, store: RunStore, tmp_path: Path
) -> None:
    """The model is changed after its description has been read and before it is exported."""
    run = run_of(store, Plan(model=str(folder), groups=(GROUP,), tasks=(pairs,)))
    before = model_info(str(folder), store.home)
    change_three_weights(folder)
    with pytest.raises(ModelError, match="changed while it was in use"):
        export_run(run, before, tmp_path / "out", dense=True)
    assert not (tmp_path / "out").exists()


def test_calibration_text_rewritten_under_its_name_is_read_again(
    folder: Path, pairs: Task, store: RunStore, tmp_path: Path
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"{WORDS[n]} {WORDS[n + 1]} {WORDS[n + 2]}\n" for n in range(20)))
    group = GROUP.replace(options={"preset": "whitened"})
    plan = Plan(model=str(folder), groups=(group,), tasks=(pairs,), calibration=CalibrationText(text=str(texts)))
    first = run_of(store, plan)
    times = texts.stat()
    texts.write_text("".join(f"{WORDS[n + 20]} {WORDS[n + 21]} {WORDS[n + 22]}\n" for n in range(20))[: times.st_size])
    os.utime(texts, ns=(times.st_atime_ns, times.st_mtime_ns))
    second = run_of(store, plan)
    fresh = run_of(RunStore(tmp_path / "fresh"), plan)
    assert first.id != second.id == fresh.id
    assert figures_of(first)[0] != figures_of(second)[0] == figures_of(fresh)[0]


def test_names_of_classes_set_in_the_config_count_when_the_task_is_scored_again(tmp_path: Path) -> None:
    """The order of the head's classes differs from that of the table; the config states it only for the second score."""
    folder = tiny_models.save(tiny_models.shared("bert_classifier"), tmp_path / "model", tokenizer=False)
    word_tokenizer(pad_token="<end>", unk_token="[UNK]").save_pretrained(folder)  # noqa: S106
    texts = [f"{WORDS[n % 40]} {WORDS[n % 11]} {WORDS[(3 * n) % 17]}" for n in range(60)]
    loaded = load(str(folder))
    inputs = loaded.tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    predicted = loaded.model(**inputs).logits.argmax(1).tolist()
    names = ["a", "b", "c", "d", "e"]
    transposed = [*names[1:], names[0]]
    classes = [*names, *(transposed[number] for number in predicted[5:])]
    table = tmp_path / "own.csv"
    table.write_text("\n".join(["text,label", *map(",".join, zip(texts, classes, strict=True))]) + "\n")
    task, cache = Task(name="own", family="head", data=str(table)), tmp_path / "cache"

    def score(labels: list[str], cache: Path) -> float:
        edit(folder / "config.json", id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)})
        return float(open_task(task, load(str(folder)), cache=cache).original().value)

    wrong, right = score(names, cache), score(transposed, cache)
    assert right == score(transposed, tmp_path / "fresh") > 0.9
    assert wrong == score(names, tmp_path / "fresh") < 0.5
    assert score(transposed, cache) == right


def test_a_copy_with_another_config_does_not_lend_its_score(folder: Path, pairs: Task, tmp_path: Path) -> None:
    copy, cache = shutil.copytree(folder, tmp_path / "copy"), tmp_path / "cache"
    edit(copy / "config.json", num_attention_heads=1)

    def score(where: Path, cache: Path) -> float:
        return float(open_task(pairs, load(str(where)), cache=cache).original().value)

    other, own = score(copy, cache), score(folder, cache)
    assert own == score(folder, tmp_path / "fresh") != other


@pytest.mark.parametrize("what", ["weights", "tokenizer", "calibration", "examples", "gone"])
def test_a_run_whose_inputs_change_while_it_works_fails_with_a_sentence(
    folder: Path, pairs: Task, store: RunStore, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    texts = folder.with_name("texts.txt")
    texts.write_text("".join(f"{word}\n" for word in WORDS))
    changes: dict[str, tuple[Callable[[], object], str]] = {
        "weights": (lambda: replaced(folder / "model.safetensors"), "the model files"),
        "tokenizer": (lambda: edit(folder / "tokenizer_config.json", model_max_length=5), "the model files"),
        "calibration": (lambda: overwrite(texts, "w11", "w55"), "the calibration text"),
        "examples": (lambda: overwrite(Path(pairs.data), "w11", "w55"), "the task examples"),
        "gone": (lambda: folder.rename(folder.with_name("elsewhere")), "the model files"),
    }
    change, named = changes[what]
    monkeypatch.undo()
    monkeypatch.setenv("OFFCOMP_HOME", str(store.home))
    worked_at_once(store, monkeypatch, change)
    group = GROUP.replace(options={"preset": "whitened"})
    run = run_of(store, Plan(model=str(folder), groups=(group,), tasks=(pairs,), calibration=CalibrationText(text=str(texts))))
    assert run.status == "failed"
    assert run.error == f"{named} changed after the run was submitted, so the results are not valid; run the plan again"
    assert run.result is not None and not run.result.groups and not run.result.scores


def replaced(file: Path) -> None:
    """Replace a file of weights, which may be mapped into memory, with a different file."""
    tensors = load_file(file)
    tensors[QUERY] = tensors[QUERY] + 1
    save_file(tensors, file.with_suffix(".new"), metadata={"format": "pt"})
    file.with_suffix(".new").replace(file)


def test_a_model_that_changes_between_listing_and_start_fails(folder: Path, pairs: Task, store: RunStore) -> None:
    info = model_info(str(folder), store.home)
    change_three_weights(folder)
    run = store.submit(Plan(model=str(folder), groups=(GROUP,), tasks=(pairs,)), info)
    assert run.status == "failed" and run.error.startswith("the model files changed")


def test_a_run_says_what_it_read(folder: Path, pairs: Task, store: RunStore) -> None:
    run, info = run_of(store, Plan(model=str(folder), groups=(GROUP,), tasks=(pairs,))), model_info(str(folder), store.home)
    assert run.result is not None
    assert run.result.inputs.model == run.result.model.reads == info.reads
    assert set(run.result.inputs.tasks["pairs"][1]) == {"pairs.csv"}
    assert run.result.inputs.environment["torch"] == run.result.environment.torch
    assert not run.of_a_sample


# ----------------------------------------------------------------------------------------------------------- earlier runs


OLD = "81f0f49e039f01541a03d832baed745e32f9c9afe7bb4335f437a764f38e6903"


def former(document: dict[str, Any]) -> dict[str, Any]:
    """This run.json as an earlier version would have written it."""
    model = {name: value for name, value in document["model"].items() if name != "reads"} | {"fingerprint": OLD}
    return {name: value for name, value in document.items() if name != "inputs"} | {"model": model}


def test_former_runs_are_listed_and_say_how_they_know_their_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OFFCOMP_HOME", str(tmp_path))
    old, now = bundled_runs()
    assert old.result is not None and now.result is not None
    put_in_home(tmp_path, former(old.result.to_dict()), "0" * 12, submitted=1.0)
    put_in_home(tmp_path, former(now.result.to_dict()), "1" * 12, submitted=2.0)
    put_in_home(tmp_path, now.result.to_dict(), "2" * 12, submitted=3.0)
    second, first_old, other_old = RunStore(tmp_path).all()
    assert [run.of_a_sample for run in (second, first_old, other_old)] == [False, True, True]
    assert same_test(first_old, other_old, "sentiment") and not same_test(first_old, second, "sentiment")
    cli.main(["show", "1" * 12])
    assert (
        "its model is identified by a sample of its weights, as in earlier versions, rather than by all of them"
        in capsys.readouterr().out
    )
    cli.main(["show", "2" * 12])
    assert "sample" not in capsys.readouterr().out
    cli.main(["runs"])
    listed = capsys.readouterr().out
    assert "identity 'sample': the model is identified by a sample of its weights" in listed
    cli.main(["runs", "--json"])
    assert [row["identity"] for row in json.loads(capsys.readouterr().out)] == ["", "sample", "sample"]
    page = html_report([first_old, second])
    assert page.count("identified by a sample of its weights") == 2  # once for the run, and once for its omission from a chart
    with pytest.raises(InputError, match="no compressed weights"):
        export_run(first_old, model_info("minilm-l6", tmp_path), tmp_path / "out")


def test_a_former_run_is_not_exported_and_answers_no_plan(folder: Path, pairs: Task, store: RunStore, tmp_path: Path) -> None:
    plan = Plan(model=str(folder), groups=(GROUP,), tasks=(pairs,))
    run = run_of(store, plan)
    assert run.result is not None
    exported = export_run(run, model_info(str(folder), store.home), tmp_path / "good")
    write_json(run.folder / "run.json", former(run.result.to_dict()))
    old = store.get(run.id)
    with pytest.raises(InputError, match=r"identified .* by a sample of its weights.* run the plan again"):
        export_run(old, model_info(str(folder), store.home), tmp_path / "out")
    manifest = read_json(tmp_path / "good" / MANIFEST)
    original = {name: value for name, value in manifest["original"].items() if name != "reads"} | {"fingerprint": OLD}
    write_json(tmp_path / "good" / MANIFEST, manifest | {"original": original})
    checks = {check.name: check for check in verify(tmp_path / "good", str(folder))}
    assert exported.original.reads and checks["errors"].holds
    assert "which the manifest identifies by a sample of its weights" in checks["errors"].scope


# ------------------------------------------------------------------------------------------------------------------ hosts


def claimed(store: RunStore, plan: Plan, worker: dict[str, Any]) -> Run:
    """A run whose folder shows it in progress with this worker."""
    folder = store.submit(plan, model_info(plan.model, store.home)).folder
    (folder / "run.json").unlink()
    write_json(folder / "worker.json", worker | {"submitted": 5.0})
    write_json(folder / "progress.json", {"stage": "compress query", "fraction": 0.5})
    return store.get(folder.name)


ELSEWHERE: tuple[dict[str, Any], ...] = (
    {"host": "other-machine", "pid": 999_999_999, "started": 1.0},
    {"host": "other-machine", "pid": os.getpid(), "started": 1.0, "machine": "0" * 32, "boot": "another"},
    {"host": socket.gethostname(), "pid": 999_999_999, "started": 1.0, "machine": "0" * 32},
)


@pytest.mark.parametrize("worker", ELSEWHERE, ids=["host", "host and boot", "machine of that name"])
def test_a_run_at_work_on_another_host_is_left_to_it(
    folder: Path, pairs: Task, store: RunStore, worker: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan(model=str(folder), groups=(GROUP,), tasks=(pairs,))
    run = claimed(store, plan, worker)
    assert (run.status, run.host, run.ended) == ("running", worker["host"], False)
    for again in (False, True):
        with pytest.raises(
            RunError, match=f"is in progress on {worker['host']}, which shares this runs folder; wait for the run"
        ):
            store.submit(plan, model_info(plan.model, store.home), again=again)
    with pytest.raises(RunError, match=f"is in progress on {worker['host']}"):
        store.delete(run.id)
    assert read_json(run.folder / "worker.json")["pid"] == worker["pid"] and (run.folder / "groups").is_dir()
    cli.main(["show", run.id])
    assert f"run {run.id}: running on {worker['host']}" in capsys.readouterr().out
    cli.main(["runs"])
    assert worker["host"] in capsys.readouterr().out
    store.cancel(run.id)
    assert (run.folder / "cancel").exists(), "its worker looks for this file, wherever it is"


def test_a_run_that_another_host_has_ended_is_a_run_like_others(folder: Path, pairs: Task, store: RunStore) -> None:
    plan = Plan(model=str(folder), groups=(GROUP,), tasks=(pairs,))
    run = run_of(store, plan)
    write_json(run.folder / "worker.json", ELSEWHERE[0] | {"submitted": 5.0})
    assert run_of(store, plan).status == "done" and not store.get(run.id).host
    store.delete(run.id)
    assert not run.folder.exists()


def test_a_waiting_run_of_another_host_holds_up_nobody(folder: Path, pairs: Task, store: RunStore) -> None:
    waiting = claimed(store, Plan(model=str(folder), groups=(GROUP,), tasks=(pairs,)), ELSEWHERE[0])
    write_json(waiting.folder / "progress.json", {"stage": "queued", "fraction": 0.0})
    assert store.get(waiting.id).status == "queued"
    assert not slots.is_preceded(store, "mine")


def own_claim(**changes: Any) -> Claim:
    """The claim of this process, with changed fields."""
    return Claim.from_json(claim(os.getpid()).to_dict() | changes)


def test_claims_of_this_host_are_no_sign_of_life(folder: Path, pairs: Task, store: RunStore) -> None:
    own = claim(os.getpid())
    assert not foreign_host(own) and not foreign_host(own_claim(boot="the one before"))
    assert set(claims.this_host().to_dict()) == {"host", "machine", "boot"}
    assert claimed(store, Plan(model=str(folder), groups=(GROUP,), tasks=(pairs,)), own.to_dict()).status == "interrupted"


@pytest.mark.parametrize(
    "change",
    [{"host": "former-name"}, {"host": "0123456789ab", "machine": "0" * 32, "processes": "pid:[1]"}],
    ids=["renamed", "container"],
)
def test_a_host_of_another_name_on_the_same_boot_is_this_host(change: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """After a host is renamed or a container recreated, the lock alone shows whether a worker is alive."""
    here = {"host": "here", "machine": "1" * 32, "boot": "this one"}
    monkeypatch.setattr(claims, "this_host", lambda: Host(**here))
    assert not foreign_host(own_claim(**change))
    assert foreign_host(own_claim(**change, boot="another"))
    here["boot"] = ""
    assert foreign_host(own_claim(**change)), "a system that does not tell its boot"
