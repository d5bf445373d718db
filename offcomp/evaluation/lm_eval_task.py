"""Tasks of lm-evaluation-harness: the library asks the model in memory and scores it, and we compare the examples.

The library's own defaults apply: batches of one request, seeds 0 and 1234, and no chat template. So its scores of a dense
export are those of a run, to the last digit. Tasks that execute generated code are refused, since offcomp does not allow it.

The main metric is the first that the task lists; the others are listed as secondary metrics. What can be compared per example
is described in `offcomp.evaluation.harness_comparison`. For a task with multiple choices that is scored by its accuracy, the
examples that changed are flips, with the probabilities of the choices: exp(log-likelihood), divided by their sum.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from offcomp.errors import TaskError
from offcomp.evaluation.base import Arrays, Evaluator, TaskData
from offcomp.evaluation.batches import tokenizer_of
from offcomp.evaluation.comparison import MAX_EXCERPT_LENGTH, change, excerpt, largest
from offcomp.evaluation.harness import as_task_error, check_available, global_generators, harness_data
from offcomp.evaluation.harness_comparison import AGGREGATIONS, as_numbers, compare_items, without_interval
from offcomp.models.loading import LoadedModel
from offcomp.numerics.progress import Report, ignore_progress
from offcomp.planning.data.metrics import LOWER, MAX_METRIC_LENGTH, METRICS
from offcomp.planning.data.scores import Comparison, Flip, Flips, Paired, Score
from offcomp.planning.data.task_families import LM_EVAL
from offcomp.planning.data.tasks import Task

SEEDS = (0, 1234, 1234)
"""Seeds of the generators of Python, numpy and torch, by default."""
FEWSHOT_SEED = 1234
METRICS_MODULE = "lm_eval.api.metrics"
MULTIPLE_CHOICE = "multiple_choice"
MAX_ANSWER_LENGTH = 120  # characters of a generated answer in the list of changes
VALUE, ITEMS, PRESENT, RESPONSES = "value ", "items ", "present ", "responses"
"""Prefixes of the arrays of each metric, and the array with the model's responses."""


def read_lm_eval(task: Task) -> TaskData:
    """Read a task and its documents. Raises TaskError if the library, the task or the data are missing."""
    check_available(task)
    with as_task_error(task, "read"):
        source = _found(task)
        settings = task.settings
        _set_shots(source, settings["num_fewshot"])
        documents = list(islice(iter(source.eval_docs), settings["limit"]))
        texts = [_text(source, document) for document in documents]
        shots = list(source.fewshot_docs()) if source.get_config("num_fewshot") else []
        definition = {name: value for name, value in source.dump_config().items() if name != "metadata"}
        config = source.config
        tested_on = config.test_split or config.validation_split or config.training_split or "test"
        content = [definition, documents, shots]
    return harness_data(task, source, texts, content=content, tested_on=tested_on, release=str(source.VERSION))


def _found(task: Task) -> Any:
    """The library's task object. Raises TaskError if the name is unknown or that of several tasks."""
    from lm_eval.tasks import TaskManager

    name, folder = task.data.partition(":")[2], task.settings["include_path"]
    manager = TaskManager(include_path=folder, include_defaults=False) if folder else None
    if manager is None or name not in manager.all_tasks:
        manager = _own_tasks()
    if name not in manager.all_tasks:
        where = f"neither in {folder} nor in the library" if folder else "unknown to the library; for your own, add its folder"
        raise TaskError(f"task {task.data!r} is {where}; list its tasks with: lm-eval ls tasks")
    if name not in manager.all_subtasks:
        raise TaskError(f"{task.data!r} is a group of tasks, whose scores are separate here; name the tasks themselves")
    return next(iter(manager.load([name])["tasks"].values()))


@lru_cache(maxsize=1)
def _own_tasks() -> Any:
    """The library's index of its own tasks, which takes seconds to read."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _set_shots(source: Any, requested: int | None) -> None:
    """Set the number of few-shot examples as the library does: a task that says 0 keeps 0."""
    own = source.get_config("num_fewshot")
    if requested and own == 0:
        raise TaskError(f"{source.task_name} is defined without examples in its prompts; leave out --num-fewshot {requested}")
    if requested is not None and own != 0:
        source.set_config(key="num_fewshot", value=requested)
    elif own is None:
        source.set_config(key="num_fewshot", value=0)


def _text(source: Any, document: Any) -> str:
    """What the model reads of a document; for a task that scores whole texts, the text."""
    rolling = source.OUTPUT_TYPE == "loglikelihood_rolling"
    text = source.doc_to_target(document) if rolling else source.doc_to_text(document)
    if isinstance(text, int) and source.OUTPUT_TYPE == MULTIPLE_CHOICE:  # the right one of several beginnings of a sentence
        return f"{' | '.join(map(str, source.doc_to_choice(document)))} {source.doc_to_target(document)}"
    return str(text)


class LMEval(Evaluator):
    """See the module docstring.

    `reference` and `predict` return, for each metric, the library's score as `value METRIC`, the values per example as
    `items METRIC` and their documents as `present METRIC`; and the model's `responses` (documents,) as JSON.
    """

    def __init__(self, loaded: LoadedModel, data: TaskData):
        self._loaded, self._data, self._source = loaded, data, data.source
        self._documents = list(islice(iter(self._source.eval_docs), data.task.settings["limit"]))
        tokenizer_of(loaded)

    def details(self) -> dict[str, Any]:
        """The version of the task, and its settings with the number of few-shot examples that applies."""
        shots = self._source.get_config("num_fewshot")
        settings = {**self._data.task.settings, "num_fewshot": shots, "library": f"{LM_EVAL} {version(LM_EVAL)}"}
        return {"version": self._data.release, "settings": settings}

    def reference(self, report: Report = ignore_progress) -> Arrays:
        """Scores and values per example of the current model. Raises TaskError if a response is not finite."""
        with as_task_error(self._data.task, "score"), global_generators(*SEEDS):
            results, samples = self._evaluated()
        report(1.0)
        first = samples[0]["filter"]
        kept = [sample["filtered_resps"] for sample in samples if sample["filter"] == first]
        if not all(np.isfinite(number) for response in kept for number in _numbers(response)):
            raise TaskError(f"{self._loaded.info.model} outputs values that are not finite, so no task can be scored")
        arrays: dict[str, NDArray[Any]] = {RESPONSES: np.array([json.dumps(each, default=str) for each in kept])}
        for key, value in results.items():
            name, _, chosen = key.partition(",")
            if name == "bypass" or name.endswith("_stderr") or not chosen or not _is_finite(value):
                continue
            own = [sample for sample in samples if sample["filter"] == chosen and name in sample]
            items = [sample[name] for sample in own]
            table = as_numbers(items)
            arrays[VALUE + key] = np.array(value, np.float64)
            arrays[ITEMS + key] = np.array([json.dumps(item, default=float) for item in items]) if table is None else table
            arrays[PRESENT + key] = np.array([sample["doc_id"] for sample in own])
        return arrays

    def _evaluated(self) -> tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]:
        """The library's scores of the current model by "METRIC,FILTER", and its samples."""
        from lm_eval.evaluator import evaluate
        from lm_eval.models.huggingface import HFLM

        name = self._source.task_name
        self._source.set_fewshot_seed(seed=FEWSHOT_SEED)
        tokenizer = copy.deepcopy(tokenizer_of(self._loaded))  # the library changes its padding
        model = HFLM(pretrained=self._loaded.model, tokenizer=tokenizer, batch_size=1)
        limit = self._data.task.settings["limit"]
        found = evaluate(model, {"tasks": {name: self._source}}, limit=limit, bootstrap_iters=0, log_samples=True)
        return found["results"][name], found["samples"][name]

    def compare(self, reference: Arrays, predictions: Arrays) -> Score:
        """The library's scores, and what we can say of their difference."""
        keys = [name.removeprefix(VALUE) for name in reference if name.startswith(VALUE)]
        if not keys:
            raise TaskError(f"task {self._data.task.data!r} computes no metric; choose a different task")
        if absent := [key for key in keys if VALUE + key not in predictions]:
            raise TaskError(f"the compressed model's {absent[0]} on {self._data.task.data!r} is not finite; compress it less")
        unchanged = np.array_equal(reference[RESPONSES], predictions[RESPONSES])
        compared: dict[str, Comparison] = {}
        notes = []
        for key in keys:
            compared[key], note = self._of_metric(key, reference, predictions, unchanged=unchanged)
            notes += [note] if note else []
        main, *others = keys
        metric = self._metric(main)
        return Score(
            metric=metric,
            direction=METRICS[metric].direction,
            unchanged=unchanged,
            also={self._metric(key): compared[key] for key in others},
            note=tuple(notes),
            **dict(compared[main]) | self._changes(main, compared[main].paired, reference, predictions),
        )

    def _metric(self, key: str) -> str:
        """Our name of a metric: the library, its name, its filter if it has one, and the direction if lower is better."""
        name, _, chosen = key.partition(",")
        lower = self._source.higher_is_better().get(name, True) is False
        title = re.sub(r"\s+", "_", name if chosen == "none" else key)[:MAX_METRIC_LENGTH]
        return f"{LM_EVAL} {title}{LOWER * lower}"

    def _of_metric(self, key: str, reference: Arrays, predictions: Arrays, *, unchanged: bool) -> tuple[Comparison, str]:
        """Compare the models by one metric. Also returns why there is no interval, as a sentence."""
        function = self._source.aggregation().get(key.partition(",")[0])
        aggregation = getattr(function, "__name__", "mean")
        is_known = function is None or getattr(function, "__module__", "") == METRICS_MODULE
        before, after = (_items(arrays[ITEMS + key]) for arrays in (reference, predictions))
        values = float(reference[VALUE + key]), float(predictions[VALUE + key])
        same = np.array_equal(reference[PRESENT + key], predictions[PRESENT + key])
        compared = None
        if same and before:
            how = aggregation if is_known else ""
            own = None if how in AGGREGATIONS else function
            compared = compare_items(before, after, how, values=values, aggregate=own, unchanged=unchanged)
        if compared is not None:
            return compared, ""
        why = "the examples that it counts differ between the models" if not same else f"it is computed as {aggregation}"
        note = f"{self._data.task.data}: {key.removesuffix(',none')} has no interval, since {why}."
        return without_interval(*values, max(1, len(before))), note

    def _changes(self, key: str, paired: Paired, reference: Arrays, predictions: Arrays) -> dict[str, Any]:
        """The examples that changed: flips for a choice that is right or wrong, otherwise the largest changes of the metric."""
        before, after = (np.asarray(arrays[ITEMS + key]) for arrays in (reference, predictions))
        present = reference[PRESENT + key]
        if not np.array_equal(present, predictions[PRESENT + key]):
            return {}
        if before.ndim == 2 and before.dtype.kind == "f" == after.dtype.kind:
            before, after = before[:, 0], after[:, 0]
        if before.ndim != 1 or before.dtype.kind != "f" or after.dtype.kind != "f":
            return {}
        if self._source.OUTPUT_TYPE == MULTIPLE_CHOICE and key.startswith("acc,"):
            lost, won = ((before > after).nonzero()[0], (before < after).nonzero()[0])
            flips = [flip for i in (*lost, *won) if (flip := self._flip(int(present[i]), reference, predictions))]
            if len(flips) == len(lost) + len(won):
                listed = Flips(right_to_wrong=tuple(flips[: len(lost)]), wrong_to_right=tuple(flips[len(lost) :]))
                same = [self._choice(reference, i) == self._choice(predictions, i) for i in present]
                return {"flips": listed, "paired": paired.model_copy(update={"agreement": float(np.mean(same))})}
        texts = self._data.texts
        answers = [[_answer(text) for text in arrays[RESPONSES]] for arrays in (reference, predictions)]

        def shown(index: int) -> str:
            first, second = answers[0][index], answers[1][index]
            said = f" | original: {first} | compressed: {second}" if first or second else ""
            return excerpt(texts[index])[: MAX_EXCERPT_LENGTH - len(said)] + said

        moved = largest(after - before)
        return {"changes": tuple(change(shown(int(present[i])), None, before[i], after[i]) for i in moved)}

    def _choice(self, arrays: Arrays, index: int) -> int:
        """The most likely choice for document `index`."""
        choices = self._source.doc_to_choice(self._documents[index])
        return int(_probabilities(arrays[RESPONSES][index], len(choices)).argmax())

    def _flip(self, index: int, reference: Arrays, predictions: Arrays) -> Flip | None:
        """The flip of document `index`; None if its choices or its answer are not known."""
        document = self._documents[index]
        choices, label = self._source.doc_to_choice(document), self._source.doc_to_text(document)
        label = label if isinstance(label, int) else self._source.doc_to_target(document)
        label = choices.index(label) if isinstance(label, str) and label in choices else label
        if not isinstance(label, int) or not 0 <= label < len(choices):
            return None
        both = [_probabilities(arrays[RESPONSES][index], len(choices)) for arrays in (reference, predictions)]
        margins = [float(each[label] - np.delete(each, label).max(initial=0.0)) for each in both]
        return Flip(
            text=excerpt(self._data.texts[index]),
            label=str(choices[label]).strip(),
            predicted=str(choices[int(both[1].argmax())]).strip(),
            original_probability=float(both[0][label]),
            compressed_probability=float(both[1][label]),
            original_margin=margins[0],
            compressed_margin=margins[1],
        )


def _items(stored: NDArray[Any]) -> Sequence[Any]:
    """Values per example, as they were before they were stored."""
    return list(stored) if stored.dtype.kind == "f" else [json.loads(text) for text in stored]


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and bool(np.isfinite(value))


def _numbers(response: Any) -> list[float]:
    """All numbers within a response."""
    if isinstance(response, (list, tuple)):
        return [number for each in response for number in _numbers(each)]
    return [float(response)] if isinstance(response, float) else []


def _answer(response: str) -> str:
    """The first generated text in a response; "" if it consists of log-likelihoods."""
    first = json.loads(response)
    while isinstance(first, list) and first:
        first = first[0]
    return first.strip()[:MAX_ANSWER_LENGTH] if isinstance(first, str) else ""


def _probabilities(response: str, choices: int) -> NDArray[np.float64]:
    """Probabilities of the choices (choices,), from their log-likelihoods."""
    return np.asarray(softmax([pair[0] for pair in json.loads(response)[:choices]]))
