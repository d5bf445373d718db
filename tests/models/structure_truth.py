"""What the structure of a model can tell about its weights, compared with what its family says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from offcomp.models.catalogue import ModuleSpec

Answer = tuple[str, int | None, str]


def expected(specs: Iterable[ModuleSpec]) -> dict[str, set[Answer]]:
    """The right answers (kind, layer, part) for each parameter path: one, or one for each piece of a fused gate and input.

    A fused query, key and value has the one answer `qkv`.
    """
    answers: dict[str, set[Answer]] = defaultdict(set)
    for spec in specs:
        kind = "qkv" if spec.fused and spec.kind in ("query", "key", "value") else spec.kind
        answers[spec.path].add((kind, spec.layer, spec.part))
    return answers
