"""The worker's checks of its results find the faults planted here."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import offcomp.models.weights
import offcomp.runs.slots
from offcomp.errors import InputError, ModelError, RunError
from offcomp.evaluation import OpenTask, open_task
from offcomp.files import write_json
from offcomp.methods.svd.method import SVD
from offcomp.models.loading import LoadedModel, load
from offcomp.planning.data.scores import Score
from offcomp.planning.data.tasks import find_task
from offcomp.planning.plan import Group, Plan
from offcomp.runs import worker as worker_module
from offcomp.runs.compress import CompressedGroup, check_finite, compress_group
from offcomp.runs.slots import slot
from offcomp.runs.worker import Worker, _evaluate
from tests import tiny_models
from tests.checkpoints import DTYPES, store_as
from tests.evaluation.test_probe import saved

GROUP = Group(name="key", modules=("key.0", "key.1"), ratio=4.0)


class Run:
    """A tiny model with one compressed group and a task, in the state in which the worker evaluates them."""

    def __init__(self, folder: Path):
        self.loaded: LoadedModel = saved(folder, "bert_base")
        self.task: OpenTask = open_task(find_task("sentiment"), self.loaded)
        self.task.prepare()
        self.group: CompressedGroup = compress_group(self.loaded.model, self.loaded.info, GROUP)
        run = folder / "runs" / "one"
        run.mkdir(parents=True)
        write_json(run / "plan.json", Plan(model=self.loaded.info.model, groups=(GROUP,)).to_dict())
        self.worker = Worker(run)
        self.worker.groups = [self.group.figures]

    def evaluate(self) -> dict[str, Score]:
        """The score of each task."""
        return _evaluate(self.worker, self.loaded, [self.task], [self.group])


def test_compressed_weights_reach_the_answers(tmp_path: Path) -> None:
    assert Run(tmp_path).evaluate()["sentiment"].unchanged is False


def test_a_model_that_was_not_really_changed_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault: the reconstructions are never written to the model."""
    run = Run(tmp_path)
    monkeypatch.setattr(offcomp.models.weights, "replace", lambda _model, _matrices: None)
    with pytest.raises(RunError, match=r"bit-identical.*choose modules"):
        run.evaluate()


def test_weights_that_the_model_does_not_read_fail_the_run(tmp_path: Path) -> None:
    """The fault: the layer computes with a copy of its weight, as if its module had been swapped."""
    run = Run(tmp_path)
    for layer in range(2):
        key = run.loaded.model.get_submodule(f"encoder.layer.{layer}.attention.self.key")
        kept = key.weight.clone()
        key.forward = lambda x, kept=kept, bias=key.bias: torch.nn.functional.linear(x, kept, bias)
    with pytest.raises(RunError, match="does not use these weights"):
        run.evaluate()


def test_a_group_stored_without_loss_may_leave_the_answers_as_they_are(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.group = compress_group(run.loaded.model, run.loaded.info, GROUP.replace(ratio=1.0))
    run.worker.groups = [run.group.figures]
    assert run.evaluate()["sentiment"].unchanged is True


def test_a_reconstruction_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    broken = {name: torch.full_like(part, float("nan")) for name, part in run.group.compressed.tensors.items()}
    run.group = replace(run.group, compressed=replace(run.group.compressed, tensors=broken))
    with pytest.raises(ModelError, match="not finite"):
        run.evaluate()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.EACCES, os.strerror(errno.EACCES), "/models/w"),
            "cannot access /models/w: Permission denied; make sure it is accessible",
        ),
        (
            OSError(errno.EIO, os.strerror(errno.EIO), b"/models/w"),
            "cannot access /models/w: Input/output error; make sure it is",
        ),
        (
            OSError(errno.EACCES, os.strerror(errno.EACCES), "HERE/x"),
            "cannot write to HERE: Permission denied; set OFFCOMP_HOME",
        ),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "cannot write to HERE: No space left on device; free some space"),
        (OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY)), "cannot write to HERE: Directory not empty."),
        (OSError("no tokenizer can be made"), "no tokenizer can be made. See the run's log.txt"),
    ],
)
def test_a_run_that_the_system_keeps_from_a_file_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, said: str
) -> None:
    here = str(tmp_path.resolve() / "home" / "runs" / "one")
    if isinstance(error.filename, str):
        error.filename = error.filename.replace("HERE", here)
    write_json(Path(here) / "plan.json", Plan(model="tiny", groups=(GROUP,)).to_dict())
    ended: list[str] = []

    def work(*_: Any) -> None:
        raise error

    monkeypatch.setattr(worker_module, "work", work)
    monkeypatch.setattr(worker_module.signal, "signal", lambda *_: None)
    monkeypatch.setattr(worker_module.logging, "raiseExceptions", True)  # set here so that monkeypatch restores it
    monkeypatch.setattr(worker_module.os, "nice", lambda _: None)
    monkeypatch.setattr(Worker, "watch", lambda *_: None)
    monkeypatch.setattr(Worker, "finish", lambda _worker, _status, error="": ended.append(error))
    worker_module.main([here])
    assert len(ended) == 1 and ended[0].startswith(said.replace("HERE", here))
    assert ("OFFCOMP_HOME" in ended[0]) == (error.errno == errno.ENOSPC or "HERE: Perm" in said)


@pytest.mark.parametrize("value", ["0", "-1", "", "two", "1.5", "1000"])
def test_a_number_of_slots_that_is_none_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    write_json(run / "plan.json", Plan(model="tiny", groups=(GROUP,)).to_dict())
    monkeypatch.setenv("OFFCOMP_SLOTS", value)
    monkeypatch.setattr(offcomp.runs.slots.time, "sleep", lambda _: pytest.fail("it waits"))
    with (
        pytest.raises(InputError, match=f"OFFCOMP_SLOTS is '{value}'; set it to the number of concurrent runs"),
        slot(Worker(run)),
    ):
        pytest.fail("it works")
    monkeypatch.setenv("OFFCOMP_SLOTS", " 2 ")
    with slot(Worker(run)):
        pass


@pytest.mark.parametrize(("factor", "said"), [(1e6, "overflow float16"), (float("nan"), "lower the learning rate")])
def test_values_beyond_the_checkpoints_dtype_are_told_from_those_that_came_out_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float, said: str
) -> None:
    folder = store_as(tiny_models.save(tiny_models.shared("bert_base"), tmp_path / "model"), DTYPES["float16"])
    loaded = load(str(folder))
    group = GROUP.replace(dtype="float32")
    check_finite(compress_group(loaded.model, loaded.info, group))
    fit = SVD.fit

    def wrong(*arguments: Any, **options: Any) -> Any:
        found = fit(*arguments, **options)
        return replace(found, tensors={name: part * factor for name, part in found.tensors.items()})

    monkeypatch.setattr(SVD, "fit", wrong)
    with pytest.raises(RunError, match=said):
        check_finite(compress_group(loaded.model, loaded.info, group))


def test_a_model_that_stays_in_memory_and_one_that_is_offloaded_give_the_same_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(tiny_models.save(tiny_models.bert(), tmp_path / "tiny"))
    whitened = Group(name="key", modules=("key.0", "key.1"), options={"preset": "whitened"}, ratio=2.0)
    feedback = {"preset": "codebook", "feedback": True, "codeword_length": 4, "iterations": 2}
    coded = Group(name="query", modules=("query.0", "query.1"), method="autoencoder", options=feedback, ratio=4.0, unit="bytes")
    fisher = Group(name="value", modules=("value.0",), options={"preset": "fwsvd_rows"}, ratio=2.0)
    plan = Plan(model=model, groups=(whitened, coded, fisher, Group(name="ffn", modules=("ffn_in.0",), ratio=2.0)), tasks=())
    found = []
    for share in (0.25, 0.0):
        monkeypatch.setattr(worker_module, "SMALL_SHARE", share)
        folder = tmp_path / str(share) / "runs" / "one"
        write_json(folder / "plan.json", plan.to_dict())
        worker = Worker(folder)
        worker_module.work(worker)
        found.append([group.model_copy(update={"seconds": 0.0}) for group in worker.groups])
    assert found[0] == found[1]
    assert all(group.output_error > 0 for group in found[0])
    assert [group.calibration is not None for group in found[0]] == [True, True, True, False]
