"""The families of tasks: what each needs from the data and the model, and how it is scored. No torch.

The families of a *harness* are those whose tasks come from another library, lm-evaluation-harness or MTEB: it reads the data,
asks the model and computes the scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ONE, PAIR = ("text",), ("sentence1", "sentence2")
LM_EVAL, MTEB = "lm-eval", "mteb"


@dataclass(frozen=True)
class TaskFamily:
    """A kind of task: what it needs from the data and the model, and how it is scored.

    target      the column with the correct answer; "" if the text itself is the target
    metric      name of the metric; only tasks with the same metric share an axis
    inputs      one of these sets of columns must be present
    trains      whether training and validation splits are needed in addition to the test split
    needs       accepted endings of the model's class name (`ForMaskedLM`, ...); empty if any model with hidden states works
    fidelity    whether the outputs are scored by their distance from the original's, which needs no target
    optional    options that stand in the settings only if a task sets them, since they came after the first scores
    harness     the library that reads the data and computes the scores, which is also the name of the extra that installs it;
                "" for the families of offcomp, whose tasks read tables
    """

    name: str
    title: str
    target: str
    metric: str
    inputs: tuple[tuple[str, ...], ...] = (ONE, PAIR)
    trains: bool = False
    needs: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    fidelity: bool = False
    optional: Mapping[str, Any] = field(default_factory=dict)
    harness: str = ""

    @property
    def embeds(self) -> bool:
        """Whether the tasks use sentence embeddings, which are computed as specified in the model's folder."""
        return not self.needs

    @property
    def targets(self) -> list[str]:
        """The target column as a list, which is empty if the family has none."""
        return [self.target] if self.target else []

    @property
    def columns(self) -> list[str]:
        """All columns that a task of this family may read."""
        return [*dict.fromkeys(column for inputs in self.inputs for column in inputs), *self.targets]


CLASSIFIER, MASKED, CAUSAL = ("ForSequenceClassification",), ("ForMaskedLM", "ForPreTraining"), ("ForCausalLM", "LMHeadModel")
ENCODER_DECODER = ("ForConditionalGeneration",)
REFIT = {"refit": False}
POOLED = {"pooling": ""}
MASKS = {"fraction": 0.15, "whole_words": False, "tokens": 128, "seed": 0}
WINDOWS = {"context": 256, "stride": 128}
TARGETS = {"source_tokens": 256, "target_tokens": 256}
POSITIONS = {"positions": 2048}
"""Maximum number of positions to compare; with vocabularies of up to 8,192 tokens, their full distributions fit in 64 MiB."""
FAMILIES = {
    family.name: family
    for family in (
        TaskFamily(
            "head", "Classification with the model's own head", "label", "accuracy", needs=CLASSIFIER, options={"labels": None}
        ),
        TaskFamily("head-regression", "Regression with the model's own head", "score", "spearman", needs=CLASSIFIER),
        TaskFamily(
            "probe",
            "Classification with a probe on sentence embeddings",
            "label",
            "accuracy",
            trains=True,
            options=REFIT,
            optional=POOLED,
        ),
        TaskFamily(
            "regression",
            "Regression with a probe on sentence embeddings",
            "score",
            "spearman",
            trains=True,
            options=REFIT,
            optional=POOLED,
        ),
        TaskFamily(
            "similarity", "Cosine similarity of two sentence embeddings", "score", "spearman", inputs=(PAIR,), optional=POOLED
        ),
        TaskFamily(
            "masked-lm",
            "Masked-token prediction (pseudo-perplexity)",
            "",
            "masked perplexity",
            inputs=(ONE,),
            needs=MASKED,
            options=MASKS,
        ),
        TaskFamily(
            "causal-lm",
            "Next-token prediction (perplexity)",
            "",
            "perplexity",
            inputs=(ONE,),
            needs=CAUSAL,
            options=WINDOWS,
        ),
        TaskFamily(
            "seq2seq-lm",
            "Prediction of a target text from a source text (perplexity)",
            "",
            "target perplexity",
            inputs=(PAIR, ONE),
            needs=ENCODER_DECODER,
            options=TARGETS,
        ),
        TaskFamily(
            "embedding-fidelity",
            "Fidelity of sentence embeddings (no labels needed)",
            "",
            "embedding cosine",
            inputs=(ONE,),
            fidelity=True,
            optional=POOLED,
        ),
        TaskFamily(
            "masked-fidelity",
            "Fidelity of masked-token predictions (no labels needed)",
            "",
            "masked KL",
            inputs=(ONE,),
            needs=MASKED,
            options=MASKS | POSITIONS,
            fidelity=True,
        ),
        TaskFamily(
            "causal-fidelity",
            "Fidelity of next-token predictions (no labels needed)",
            "",
            "next-token KL",
            inputs=(ONE,),
            needs=CAUSAL,
            options=WINDOWS | POSITIONS,
            fidelity=True,
        ),
        TaskFamily(
            "head-fidelity",
            "Fidelity of the model's own head (no labels needed)",
            "",
            "class KL",
            needs=CLASSIFIER,
            fidelity=True,
        ),
        TaskFamily(
            LM_EVAL,
            "Task of lm-evaluation-harness",
            "",
            "lm-eval score",
            inputs=(),
            needs=(*CAUSAL, *ENCODER_DECODER),
            options={"include_path": "", "num_fewshot": None, "limit": None},
            harness=LM_EVAL,
        ),
        TaskFamily(MTEB, "Task of MTEB", "", "mteb score", inputs=(), options={"include_path": ""}, harness=MTEB),
    )
}
"""Name -> family. `EVALUATORS` in `offcomp/evaluation` names the class that implements each."""

OWN_FAMILIES = tuple(name for name, family in FAMILIES.items() if not family.harness)
"""The families whose tasks read tables, such as a user's own."""
