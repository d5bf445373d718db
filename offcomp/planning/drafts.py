"""The first draft for a model: what to compress, and which tasks show clearly what compression costs. No torch.

A first draft should lead to a clear answer. Labels alone rarely give one: on 360 labelled sentences, a few changed predictions
are within noise. Every draft therefore includes the fidelity of the model's own outputs, whose intervals are narrow enough to
tell the compressed model from the original and two methods from each other (`python -m benchmarks.first_drafts` measures this).
"""

from __future__ import annotations

from dataclasses import dataclass

from offcomp.methods import method_of_style_key, own_options
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.planning.data.task_check import task_fault
from offcomp.planning.data.tasks import find_task, usual_tasks
from offcomp.planning.plan import Plan, make_groups

FIRST_KINDS = (("query", "key"), ("query_down", "query_up", "kv_down", "kv_up"), ("qkv",), ("ssm_in", "ssm_out"))
"""The kinds that a first draft compresses: the first of these that the model has."""
METHODS = ("svd", "autoencoder")
RATIO = 3.0
LABELLED = {"embedding-fidelity": "similarity", "head-fidelity": "sentiment-head"}
"""Fidelity task -> the labelled task shown beside it."""
FIDELITY = ("causal-fidelity", "masked-fidelity", "head-fidelity", "embedding-fidelity")
"""The fidelity tasks, starting with those that use the model's own head."""


@dataclass(frozen=True)
class Draft:
    """What to compress, how, and what to measure.

    kinds       the kinds of matrices to compress; empty for all
    grouping    a preset of `offcomp.planning.grouping.GROUPINGS`
    methods     style keys of the methods to compare
    ratio       requested compression ratio, in parameters
    tasks       names of bundled tasks that the model supports
    """

    kinds: tuple[str, ...]
    grouping: str
    methods: tuple[str, ...]
    ratio: float
    tasks: tuple[str, ...]

    def modules(self, info: ModelInfo) -> tuple[ModuleSpec, ...]:
        """The matrices to compress, in the order of the model."""
        return tuple(spec for spec in info.modules if not self.kinds or (spec.default and spec.kind in self.kinds))

    def plans(self, info: ModelInfo) -> tuple[Plan, ...]:
        """One plan per method."""
        chosen = [method_of_style_key(style_key) for style_key in self.methods]
        return tuple(
            Plan(
                model=info.model,
                groups=make_groups(
                    self.modules(info), self.grouping, method=method.name, options=own_options(method), ratio=self.ratio
                ),
                tasks=self.tasks,
            )
            for method in chosen
        )


def first_draft(info: ModelInfo) -> Draft:
    """The draft that a model starts with: its queries and keys, grouped by kind, at 3x with SVD and with an autoencoder.

    A model without queries and keys starts with the next of FIRST_KINDS. A model whose matrices are not recognised, or that is
    only a set of matrices, starts with all of them, each compressed separately.
    """
    known = {spec.kind for spec in info.modules if spec.default}
    kinds = next((kinds for each in FIRST_KINDS if (kinds := tuple(kind for kind in each if kind in known))), ())
    return Draft(kinds, "kind" if kinds else "module", METHODS, RATIO, default_tasks(info))


def default_tasks(info: ModelInfo) -> tuple[str, ...]:
    """The tasks that a model of this class starts with: the fidelity of its main output, and a quick labelled task.

    A model with a head that predicts tokens or classes is judged by that head, and any other model by its sentence embeddings.
    Empty if the model does not read text.
    """
    supported = usual_tasks(info.architecture, info.reads_text)
    fidelity = next((name for name in FIDELITY if _fits(name, supported, info)), None)
    if fidelity is None:
        return ()
    labelled = LABELLED.get(fidelity, "")
    return (fidelity, labelled) if _fits(labelled, supported, info) else (fidelity,)


def _fits(task: str, supported: tuple[str, ...], info: ModelInfo) -> bool:
    """Whether a task is among the supported ones and nothing in the model's config rules it out."""
    return task in supported and task_fault(find_task(task), info) is None
