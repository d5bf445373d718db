"""Load the examples of a task, clean them, and divide them into disjoint splits.

For task families that train a probe, a source without splits is divided into three (60 % train, 15 % validation, 25 % test,
stratified by class); for all other families, it is used as the test split. If the test split has no public answers, as in GLUE,
the validation split is used for testing and a tenth of the training split for validation. At most LARGEST[split] examples are
used per split. All sampling is seeded.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, disable_progress_bars, load_dataset
from datasets.exceptions import DatasetsError

from offcomp.errors import InputError, TaskError
from offcomp.evaluation.base import TaskData
from offcomp.evaluation.splitting import positions_in_class, sampled, split_in_three
from offcomp.planning.data.row_counts import NOT_LEARNT, OTHER_SPLIT, REPEATED, TOO_MANY, RowCounts
from offcomp.planning.data.task_columns import chosen_columns
from offcomp.planning.data.task_examples import class_names_of, contents, examples_of
from offcomp.planning.data.task_files import SPLITS, TEST, TESTED, TRAIN, VALIDATION, WHOLE, Source, local_source
from offcomp.planning.data.tasks import HUB, Task
from offcomp.planning.data.text_tables import reason

log = logging.getLogger("offcomp")

LARGEST = {TRAIN: 20_000, VALIDATION: 5_000, TEST: 10_000}
SMALLEST = 10  # fewest examples allowed in a required split
TENTH = 0.1


def read(task: Task, seed: int = 0) -> TaskData:
    """Read the examples of a task. Raises TaskError if they are unavailable or unsuitable for the task's family."""
    try:
        return _read(task, seed)
    except InputError as error:  # raised by the file reader, which is independent of tasks
        raise TaskError(str(error)) from None


def _read(task: Task, seed: int) -> TaskData:
    source = local_source(task) or _from_hub(task)
    left_out: Counter[str] = Counter()
    for file in source.files:
        left_out.update(file.left_out)
    num_read = sum(table.num_rows for table in source.tables.values()) + left_out.total()
    columns = chosen_columns(task, contents(source.largest), source.name)
    frames = {split: examples_of(task, source, table, columns, left_out) for split, table in source.tables.items()}
    names = source.class_names.get(columns["label"], []) if task.kind.target == "label" else []
    frames, tested_on = _assigned_splits(task, frames, np.random.default_rng(seed), source.name, left_out)
    inputs = [name for name in map(str, frames[TEST]) if name != task.kind.target]
    frames = _without_repeats(frames, inputs, source.name, left_out)
    if task.kind.target == "label":
        frames, names = _with_class_indices(task, frames, names, source.name, left_out)
    _check_sizes(task, frames, source.name)
    if task.kind.target == "score" and frames[TEST]["score"].nunique() == 1:
        raise TaskError(f"every test example of task {task.name!r} in {source.name} has the same score; use scores that vary")
    splits = _as_datasets(frames, names)
    notes = tuple(note for file in source.files for note in file.notes)
    rows = RowCounts(read=num_read, used=sum(map(len, frames.values())), left_out=dict(+left_out), notes=notes)
    return TaskData(task, splits, _digest(splits, names), tested_on, rows, columns)


def _from_hub(task: Task) -> Source:
    """Load a data set from the hub, downloading it in full if it is not cached."""
    address = task.data.removeprefix(HUB)
    owner, _, rest = address.partition("/")
    name, _, config = rest.partition("/")
    remedy = f"run `offcomp evaluate MODEL --task {task.name}` once with network access, or use a local file or folder"
    if not owner or not name:
        raise TaskError(f"data {task.data!r} of task {task.name!r} must have the form hub:OWNER/NAME or hub:OWNER/NAME/CONFIG")
    disable_progress_bars()
    try:
        dataset = load_dataset(f"{owner}/{name}", config or None)
        tables = {split: part.with_format("arrow")[:] for split, part in dataset.items()}
    except (OSError, ValueError, RuntimeError, ImportError, DatasetsError, pa.ArrowException) as error:
        raise TaskError(f"the data set {address!r} cannot be loaded from the hub: {reason(error)}; {remedy}") from None
    by_split = {split: tables[alias] for split, aliases in SPLITS.items() for alias in aliases if alias in tables}
    if not by_split:
        raise TaskError(f"the data set {address!r} has no train, validation or test split, only {', '.join(tables)}; {remedy}")
    features = next(iter(dataset.values())).features
    names = {column: list(kind.names) for column, kind in features.items() if isinstance(kind, ClassLabel)}
    return Source(address, by_split, names)


def _assigned_splits(
    task: Task, examples: Mapping[str, pd.DataFrame], random: np.random.Generator, origin: str, left_out: Counter[str]
) -> tuple[dict[str, pd.DataFrame], str]:
    """Return the splits that the task needs, limited in size, and the name of the source split used for testing.

    Dropped examples are counted in `left_out`.
    """
    frames = {split: frame for split, frame in examples.items() if len(frame)}
    if not frames:
        raise TaskError(f"task {task.name!r} has no example in {origin} with a value in every column and a public answer")
    tested_on = next(split for split in TESTED if split in frames)
    if len(frames) == 1 and task.kind.trains:
        frames = dict(zip((TEST, VALIDATION, TRAIN), split_in_three(frames[tested_on], random), strict=True))
    elif len(frames) == 1:
        frames = {TEST: frames[tested_on]}
    if TEST not in frames:
        frames[TEST] = frames.pop(VALIDATION)
    if VALIDATION not in frames and TRAIN in frames:
        positions = positions_in_class(frames[TRAIN], random)
        frames |= {VALIDATION: frames[TRAIN][positions < TENTH], TRAIN: frames[TRAIN][positions >= TENTH]}
    if not task.kind.trains:
        left_out[OTHER_SPLIT] += len(frames.pop(TRAIN, ()))
    elif TRAIN not in frames:
        raise TaskError(f"task {task.name!r} needs training data, but {origin} has no {TRAIN} split")
    drawn = {split: sampled(frames[split], LARGEST[split], random) for split in SPLITS if split in frames}
    for split, frame in drawn.items():
        left_out[TOO_MANY] += len(frames[split]) - len(frame)
        if len(frame) < len(frames[split]):
            log.info("%s: using %d of the %d examples in split %s", origin, len(frame), len(frames[split]), split)
    return drawn, TEST if tested_on == WHOLE else tested_on


def _without_repeats(
    frames: dict[str, pd.DataFrame], inputs: list[str], origin: str, left_out: Counter[str]
) -> dict[str, pd.DataFrame]:
    """Remove training examples that also appear in validation or test, and validation examples that also appear in test."""
    kept, seen = {}, pd.Index([])
    for split in (TEST, VALIDATION, TRAIN):
        if split not in frames:
            continue
        columns = [frames[split][column] for column in inputs]
        keys = pd.Series(["\0".join(texts) for texts in zip(*columns, strict=True)], frames[split].index, dtype=object)
        repeated = keys.isin(seen)
        if count := int(repeated.sum()):
            left_out[REPEATED] += count
            log.info("%s: split %s: left out %d examples that also appear in a later split", origin, split, count)
        kept[split] = frames[split][~repeated]
        seen = seen.append(pd.Index(keys))
    return {split: kept[split] for split in SPLITS if split in kept}


def _with_class_indices(
    task: Task, frames: dict[str, pd.DataFrame], published: list[str], origin: str, left_out: Counter[str]
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Convert labels to class indices. Also returns the class names in the training data or, without it, the test data."""
    known = frames[TRAIN if task.kind.trains else TEST]["label"]
    names = class_names_of(published, list(set(known)), trains=task.kind.trains)
    for split in (TRAIN, TEST):
        if split in frames and frames[split]["label"].nunique() == 1:
            only = frames[split]["label"].iloc[0]
            raise TaskError(
                f"task {task.name!r} has only the class {only!r} in the {split} split of {origin}; provide at least two classes"
            )
    if len(names) > max(2, len(known) // 2):
        raise TaskError(f"the label column of {origin} has {len(names)} classes in {len(known)} examples; use another column")
    encoded = {}
    for split, frame in frames.items():
        numbers = frame["label"].map({name: number for number, name in enumerate(names)})
        if lost := int(numbers.isna().sum()):
            left_out[NOT_LEARNT] += lost
            log.warning("%s: split %s: left out %d examples with a class that is not learnt or tested", origin, split, lost)
        encoded[split] = frame[numbers.notna()].assign(label=numbers.dropna().astype("int64"))
    return encoded, names


def _check_sizes(task: Task, frames: Mapping[str, pd.DataFrame], origin: str) -> None:
    for split in (TRAIN, VALIDATION, TEST) if task.kind.trains else (TEST,):
        count = len(frames[split])
        if count < SMALLEST:
            raise TaskError(
                f"after removing duplicates, task {task.name!r} has {count} examples for its {split} split in {origin}, "
                f"but needs at least {SMALLEST}; add more examples"
            )


def _as_datasets(frames: Mapping[str, pd.DataFrame], names: list[str]) -> DatasetDict:
    kinds = {"label": ClassLabel(names=names) if names else None, "score": Value("float64")}
    parts = {}
    for split, frame in frames.items():
        features = Features({name: kinds.get(name, Value("string")) for name in map(str, frame)})
        parts[split] = Dataset.from_dict({column: frame[column].tolist() for column in frame}, features=features)
    return DatasetDict(parts)


def _digest(splits: DatasetDict, names: list[str]) -> str:
    """Hash of the columns, values and classes of all splits, as twelve hexadecimal digits."""
    content = {split: part.to_dict() for split, part in splits.items()}
    return hashlib.sha256(json.dumps([names, content], sort_keys=True).encode()).hexdigest()[:12]
