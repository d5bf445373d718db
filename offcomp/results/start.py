"""What the Start page shows: one model per task, stored in several sizes by three methods, and how each reads example texts.

`python -m benchmarks.start` writes a file per model to assets/start. Every figure in it comes from an ordinary run, whose plan
is `Lane.plan_at`, and every answer from `runs.live_answers`. Reading the files does not require torch.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from offcomp.errors import InputError
from offcomp.files import assets_folder, changed, read_json
from offcomp.planning.data.scores import Score, ScoreValue
from offcomp.planning.document import Amount, Count, Document, Figure, Items, Line, Name, Positive
from offcomp.planning.json_checks import Malformed
from offcomp.planning.plan import Plan

FOLDER = assets_folder() / "start"
FILES = {
    "similarity": "minilm-l6.json",
    "sentiment": "offcomp-bert-sentiment.json",
    "next": "offcomp-gpt.json",
}
"""What a model does -> its file."""
TITLES = {"similarity": "Find a similar sentence", "sentiment": "Judge a review", "next": "Guess the next word"}
RATIOS = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 30.0)
"""The sizes of the slider; 1 is the original."""
ZERO = 127
"""The value of a picture's cell whose weight is 0."""

Share = Annotated[Figure, Field(ge=-1.01, le=1.01)]


class Answer(Document):
    """What one model says about one text; which field is set depends on what the model does."""

    probabilities: dict[Name, Share] | None = None
    """Probability of each class."""
    continuation: str | None = None
    next: Items[tuple[str, Share]] = ()
    """The likeliest next tokens, with their probabilities."""
    similarities: Items[Share] = ()
    """Cosine similarity with each of the texts."""

    def nearest(self, index: int) -> int:
        """The index of the most similar other text."""
        others = [place for place in range(len(self.similarities)) if place != index]
        return max(others, key=lambda place: self.similarities[place])

    @property
    def label(self) -> tuple[str, float]:
        """The most probable class and its probability."""
        return max((self.probabilities or {}).items(), key=lambda pair: pair[1])


class Step(Document):
    """A model whose weights were compressed by one method to one size."""

    ratio: Amount
    """Requested ratio, in bytes of the compressed weights."""
    run: Name
    """Id of the run."""
    stored: Name | None = None
    """Id of the bundled run in FOLDER, which has the weights but no score; None if there is none."""
    num_bytes: Count
    """Stored bytes of the compressed weights."""
    relative_error: Amount
    num_groups: Positive
    num_whole: Count
    """How many groups are stored whole, since the weights themselves, as int8, take up fewer bytes than the method would."""
    score: Score
    answers: Items[Answer]
    picture: str


class Lane(Document):
    """One method at all sizes that it can reach."""

    style_key: Name
    plan: dict[str, object]
    """The plan of the first size."""
    steps: Items[Step]
    faults: dict[str, Line] = Field(default_factory=dict)
    """Requested ratio, as text -> why this method cannot reach it."""

    def at(self, ratio: float) -> Step | None:
        """The model at a requested ratio, or None if the method cannot reach it."""
        return next((step for step in self.steps if step.ratio == ratio), None)

    def fault_at(self, ratio: float) -> str:
        """Why the method cannot reach a ratio."""
        return self.faults.get(f"{ratio:g}", "not measured")

    def plan_at(self, ratio: float) -> Plan:
        """The plan whose run produced the figures at a ratio."""
        return self._plan.replace(groups=tuple(group.at_ratio(ratio) for group in self._plan.groups))

    @cached_property
    def _plan(self) -> Plan:
        return Plan.from_dict(self.plan)


class Original(Document):
    """The model before compression."""

    num_bytes: Positive
    """Bytes of the weights that the methods compress."""
    score: ScoreValue
    answers: Items[Answer]
    picture: str


class Demo(Document):
    """One model with its example texts.

    The pictures show the first entries of one matrix: rows · cols bytes in base64, from 0 (-`limit` or below) through ZERO (0)
    to 2 · ZERO (`limit` or above).
    """

    model: Name
    task: Name
    texts: Items[Line]
    """All texts; the first `num_chosen` can be chosen."""
    num_chosen: Positive
    module: Name
    rows: Positive
    cols: Positive
    limit: Amount
    original: Original
    lanes: Items[Lane]
    environment: dict[str, object] = Field(default_factory=dict)
    date: Line = ""

    @model_validator(mode="after")
    def _is_complete(self) -> Demo:
        answers = [self.original.answers, *(step.answers for lane in self.lanes for step in lane.steps)]
        if not self.lanes or any(len(each) != self.num_chosen for each in answers) or self.num_chosen > len(self.texts):
            raise Malformed(" does not have an answer for every text")
        return self

    def steps(self, ratio: float) -> Mapping[str, Step | None]:
        """Style key -> the model at this ratio."""
        return {lane.style_key: lane.at(ratio) for lane in self.lanes}

    def cells(self, picture: str) -> NDArray[np.uint8]:
        """A picture as an array (rows, cols)."""
        return np.frombuffer(b64decode(picture), np.uint8).reshape(self.rows, self.cols)


def read_demo(kind: str, folder: Path = FOLDER) -> Demo:
    """The demo of one of FILES. Raises InputError if its file is missing or damaged."""
    file = folder / FILES[kind]
    return _demo(file, changed(file))


@lru_cache(maxsize=8)
def _demo(file: Path, seen: tuple[int, int] | None) -> Demo:
    """Read a demo, cached until its file changes."""
    try:
        if seen is None:
            raise InputError("it is missing")
        demo = Demo.from_json(read_json(file))
        for picture in [demo.original.picture, *(step.picture for lane in demo.lanes for step in lane.steps)]:
            demo.cells(picture)
        for lane in demo.lanes:
            lane.plan_at(RATIOS[1])
    except (Malformed, InputError, ValueError) as error:
        raise InputError(f"the bundled file {file.name} cannot be used ({str(error).strip()}); reinstall offcomp") from None
    return demo
