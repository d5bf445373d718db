"""Small tasks of lm-evaluation-harness and MTEB on local files, and models that can do them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests import tiny_models
from tests.language_models import SYLLABLES, syllable_tokenizer

LIMIT = 40  # documents
CHOICES = """
task: offcomp_choice
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}, train: {data}}}
test_split: test
training_split: train
fewshot_split: train
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_target: label
doc_to_choice: choices
metric_list:
  - metric: acc
  - metric: acc_norm
metadata:
  version: 2.5
"""
WHOLE = """
include: offcomp_choice.yaml
task: offcomp_whole
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: word_perplexity
  - metric: byte_perplexity
  - metric: bits_per_byte
"""
ANSWER = """
include: offcomp_choice.yaml
task: offcomp_answer
output_type: generate_until
generation_kwargs: {until: ["."], max_gen_toks: 3}
metric_list:
  - metric: exact_match
  - metric: !function own.length
    aggregation: !function own.longest
    higher_is_better: true
"""
OWN = """
def length(references, predictions, **options):
    return len(predictions[0])


def longest(items):
    return max(len(str(item)) for item in items)
"""


def words(generator: np.random.Generator, count: int) -> str:
    return " ".join("".join(generator.choice(SYLLABLES, int(generator.integers(1, 3)))) for _ in range(count))


def lm_eval_tasks(folder: Path) -> Path:
    """Write three tasks on one table, and return the folder."""
    generator = np.random.default_rng(3)
    documents = [
        {"text": words(generator, 4), "choices": [words(generator, 1) for _ in range(3)], "label": int(generator.integers(3))}
        for _ in range(LIMIT)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "documents.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    (folder / "offcomp_choice.yaml").write_text(CHOICES.format(data=data))
    (folder / "offcomp_whole.yaml").write_text(WHOLE)
    (folder / "offcomp_answer.yaml").write_text(ANSWER)
    (folder / "own.py").write_text(OWN)
    return folder


def mteb_tables(folder: Path, rows: int = 60) -> Path:
    """Write the tables of a similarity and of a classification task of MTEB, and return the folder."""
    generator = np.random.default_rng(4)
    pairs = [
        {"sentence1": words(generator, 4), "sentence2": words(generator, 4), "score": float(generator.random() * 5)}
        for _ in range(rows)
    ]
    classes = [{"text": words(generator, 4), "label": int(generator.integers(3))} for _ in range(rows)]
    for name, split, table in (
        ("STSBenchmark", "test", pairs),
        ("Banking77Classification", "train", classes),
        ("Banking77Classification", "test", classes[::-1]),
    ):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    return folder


def model_folder(name: str, folder: Path) -> Path:
    """Save a tiny model with a tokenizer of syllables."""
    saved = tiny_models.save(tiny_models.shared(name), folder, tokenizer=False)
    tokenizer = syllable_tokenizer(name.startswith("bert"), unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")  # noqa: S106
    tokenizer.model_max_length = tiny_models.POSITIONS - 2
    if not name.startswith("bert"):
        tokenizer.bos_token = tokenizer.eos_token = "[SEP]"  # noqa: S105
    tokenizer.save_pretrained(saved)
    return saved
