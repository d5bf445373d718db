"""Answer questions about texts that a user types, with the original model and the compressed model of a finished run.

Questions about matrices are answered by `live_matrices`. A question about texts is a JSON object:

    {"kind": "texts", "run": RUN_ID or null, "texts": [1 to 8 texts of at most 500 characters]}

It may also have "home": FOLDER, the home folder of the run if that is not the resident's; "compare": false, to ask the
compressed model alone; and "threads": N, to be answered by N threads, so that several questions can be answered at once.

The answer is {"kind": KIND, "model": NAME, "run": RUN_ID or null, "texts": [one object per text]}. KIND depends on what the
model does. Each object has the fields below; `compressed` is present only if the question names a run, and `original` unless
only the compressed model is asked:

    next-words     {"text", original: {"continuation", "next": [[token, probability], ... 5]}, compressed: ...}
    masked-words   {"text" (with its masks), original: {"masks": [[[token, probability], ... 5], ... one per mask]}, ...}
    classes        {"text", original: {"probabilities": {class: probability}}, ...}
    embeddings     {"text", "cosine"}: cosine similarity between the original model's and the compressed model's embeddings;
                   null unless both are asked. The answer also has the key "similarities": {"original": matrix,
                   "compressed": matrix}, with the similarity of every pair of texts.

If a question cannot be answered, the answer is {"error": SENTENCE, "input": whether the question is at fault}.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.special import expit, softmax
from torch import Tensor

from offcomp.errors import InputError, OffcompError, RunError
from offcomp.evaluation.batches import batches, tokenizer_of
from offcomp.evaluation.embeddings import embed
from offcomp.evaluation.head import described_head, head_outputs
from offcomp.evaluation.token_losses import bare_tokens, logits_at, special_tokens_around
from offcomp.models.checkpoint import LIBRARY_FAULTS
from offcomp.models.held_layers import in_float32
from offcomp.models.listing import check_unchanged, model_info
from offcomp.models.loading import LoadedModel, load
from offcomp.models.offloading import StoredMatrices
from offcomp.models.positions import longest_text
from offcomp.models.tokens import check_known
from offcomp.models.weights import replace
from offcomp.numerics.progress import ignore_progress
from offcomp.planning.data.tasks import fitting_families
from offcomp.planning.plan import members
from offcomp.runs import live_matrices
from offcomp.runs.compress import SavedGroup
from offcomp.runs.corrections import stored_corrections
from offcomp.runs.resident import ABOUT_A_MATRIX
from offcomp.runs.store import RunStore

MAX_TEXTS, LONGEST = 8, 500
NEW_TOKENS, BEST = 24, 5
UNLIMITED = 1 << 16
"""Context length assumed for a model without a limit."""
NEXT_WORDS, MASKED_WORDS, CLASSES, EMBEDDINGS = "next-words", "masked-words", "classes", "embeddings"
KINDS = {"causal-lm": NEXT_WORDS, "masked-lm": MASKED_WORDS, "head": CLASSES}
"""Task family that only some models support -> the kind of answers that these models give."""
Answers = list[dict[str, Any]]


def write_answer(pipe: int, question: Mapping[str, Any], loaded: LoadedModel | None, model: str, home: Path) -> None:
    """Answer a question, and write the answer to a pipe as JSON.

    loaded    the model if it is in memory; its weights may be overwritten
    """
    try:
        found = answer(question, loaded or _needed(question, model), home)
    except OffcompError as error:
        found = {"error": str(error), "input": isinstance(error, InputError)}
    except MemoryError:
        found = {
            "error": "the machine ran out of memory; close other programs, or try fewer texts or a smaller matrix",
            "input": False,
        }
    except LIBRARY_FAULTS as error:
        found = {"error": f"{model} cannot process this question ({error}); try another one", "input": False}
    content = json.dumps(found, allow_nan=False).encode()
    while content:
        content = content[os.write(pipe, content) :]


def _needed(question: Mapping[str, Any], model: str) -> LoadedModel | StoredMatrices:
    """What a question needs to know about a model that is not in memory. Raises ModelError."""
    return StoredMatrices(model) if question.get("kind") in ABOUT_A_MATRIX else load(model)


def answer(question: Mapping[str, Any], model: LoadedModel | StoredMatrices, home: Path) -> dict[str, Any]:
    """Answer a question; see the module docstring. The compressed weights stay in the model. Texts need a loaded one.

    Raises InputError, ModelError, RunError and StorageError.
    """
    if question.get("kind") in ABOUT_A_MATRIX:
        info = model.info if isinstance(model, LoadedModel) else model_info(model.checkpoint.source.model, home)
        check_unchanged(info)
        return live_matrices.answer(question, model, info, RunStore(home))
    loaded = model if isinstance(model, LoadedModel) else load(model.checkpoint.source.model)
    in_float32(loaded.model)
    texts = _checked_texts(question)
    check_unchanged(loaded.info)
    home = Path(question.get("home") or home)
    kind = kind_of(loaded)
    run = question.get("run")
    compares = run is None or question.get("compare") is not False
    if kind == EMBEDDINGS:
        return _compare_embeddings(loaded, texts, run, home, compares=compares)
    reader: Callable[[LoadedModel, Sequence[str]], Answers] = {
        NEXT_WORDS: continue_texts,
        MASKED_WORDS: fill_masks,
        CLASSES: classify,
    }[kind]
    if kind == MASKED_WORDS:
        texts = [with_mask(loaded, text) for text in texts]
    answers: Answers = [{"text": text} for text in texts]
    if compares:
        answers = [one | {"original": found} for one, found in zip(answers, reader(loaded, texts), strict=True)]
    if run is not None:
        substitute(loaded, run, home)
        answers = [one | {"compressed": found} for one, found in zip(answers, reader(loaded, texts), strict=True)]
    return _framed(kind, loaded, run, answers)


def _framed(kind: str, loaded: LoadedModel, run: str | None, answers: Answers) -> dict[str, Any]:
    return {"kind": kind, "model": loaded.info.model, "run": run, "texts": answers}


def _checked_texts(question: Mapping[str, Any]) -> list[str]:
    texts = question.get("texts")
    if question.get("kind") != "texts" or not isinstance(texts, list) or not 1 <= len(texts) <= MAX_TEXTS:
        raise InputError(f"a question must have the kind 'texts' and 1 to {MAX_TEXTS} texts")
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{str(text)[:40]!r} contains no text; type a sentence")
        if len(text) > LONGEST:
            raise InputError(f"the text {text[:40]!r} is longer than {LONGEST} characters; shorten it")
    return texts


def kind_of(loaded: LoadedModel) -> str:
    """The kind of answers that a model gives."""
    fitting = fitting_families(loaded.info.architecture)
    return next((kind for family, kind in KINDS.items() if family in fitting), EMBEDDINGS)


def substitute(loaded: LoadedModel, name: str, home: Path) -> None:
    """Replace a model's weights with those that a run stored. Raises InputError, RunError and StorageError."""
    run = live_matrices.stored_run(loaded.info, name, RunStore(home))
    for group in run.plan.groups:
        saved = SavedGroup(run.group_file(group.name), tuple(members(group, loaded.info)), group.stack)
        replace(loaded.model, saved.reconstructions)
    replace(loaded.model, {}, stored_corrections(run))


def continue_texts(loaded: LoadedModel, texts: Sequence[str]) -> Answers:
    """The greedy continuation of each text by a causal language model, and the likeliest next tokens."""
    tokenizer = tokenizer_of(loaded)
    before, _ = special_tokens_around(tokenizer, texts)
    most = longest_text(loaded.model, UNLIMITED)
    answers = []
    for text in texts:
        ids = [*before, *bare_tokens(tokenizer, text)["input_ids"]]
        _check_length(ids, most - 1)
        check_known(loaded.model, [ids])
        read = torch.tensor([ids])
        likeliest: list[list[Any]] = []
        for _ in range(min(NEW_TOKENS, most - len(ids))):
            logits = _logits(loaded, read, torch.tensor([read.shape[1] - 1]))[0]
            likeliest = likeliest or _best(loaded, logits)
            read = torch.cat([read, logits.argmax().view(1, 1)], dim=1)
            if int(read[0, -1]) == tokenizer.eos_token_id:
                break
        opening = str(tokenizer.decode(ids, skip_special_tokens=True))
        whole = str(tokenizer.decode(read[0].tolist(), skip_special_tokens=True))
        answers.append({"continuation": whole.removeprefix(opening), "next": likeliest})
    return answers


def with_mask(loaded: LoadedModel, text: str) -> str:
    """The text, with its last word replaced by the mask token unless the text already contains one.

    `[MASK]` stands for the mask token of any tokenizer. Raises RunError if the tokenizer has none.
    """
    mask = tokenizer_of(loaded).mask_token
    if mask is None:
        raise RunError(f"the tokenizer of {loaded.info.model} has no mask token; choose another model")
    text = text.replace("[MASK]", mask)
    if mask in text:
        return text
    bare = text.rstrip()
    end = bare.rstrip(".,;:!?\"')")
    return f"{end[: len(end) - len((end.split() or [''])[-1])]}{mask}{bare[len(end) :]}"


def fill_masks(loaded: LoadedModel, texts: Sequence[str]) -> Answers:
    """The likeliest tokens at each mask of each text."""
    tokenizer = tokenizer_of(loaded)
    before, after = special_tokens_around(tokenizer, texts)
    answers = []
    for text in texts:
        ids = [*before, *bare_tokens(tokenizer, text)["input_ids"], *after]
        _check_length(ids, longest_text(loaded.model, UNLIMITED))
        check_known(loaded.model, [ids])
        masks = [index for index, token in enumerate(ids) if token == tokenizer.mask_token_id]
        logits = _logits(loaded, torch.tensor([ids]), torch.tensor(masks, dtype=torch.long))
        answers.append({"masks": [_best(loaded, row) for row in logits]})
    return answers


def classify(loaded: LoadedModel, texts: Sequence[str]) -> Answers:
    """The probability of each class of a model's head for each text, by softmax or, for a multi-label head, by sigmoid."""
    head = described_head(loaded)
    outputs = head_outputs(loaded, batches(loaded, list(texts)), len(head.names), ignore_progress)
    probabilities = expit(outputs) if head.multi_label else softmax(outputs, axis=1)
    return [{"probabilities": dict(zip(head.names, map(float, row), strict=True))} for row in probabilities]


def _compare_embeddings(
    loaded: LoadedModel, texts: Sequence[str], run: str | None, home: Path, *, compares: bool
) -> dict[str, Any]:
    """Cosine similarities of the embeddings of texts, before and after compression."""
    directions = {"original": _directions(loaded, texts)} if compares else {}
    if run is not None:
        substitute(loaded, run, home)
        directions["compressed"] = _directions(loaded, texts)
    similarities = {which: (each @ each.T).tolist() for which, each in directions.items()}
    cosines: list[float | None] = [None] * len(texts)
    if len(directions) > 1:
        cosines = (directions["original"] * directions["compressed"]).sum(1).tolist()
    answers = [{"text": text, "cosine": cosine} for text, cosine in zip(texts, cosines, strict=True)]
    return _framed(EMBEDDINGS, loaded, run, answers) | {"similarities": similarities}


def _directions(loaded: LoadedModel, texts: Sequence[str]) -> Tensor:
    """Embeddings of unit length (texts, features)."""
    return torch.nn.functional.normalize(torch.from_numpy(embed(loaded, list(texts))).double(), dim=1)


def _check_length(ids: Sequence[int], most: int) -> None:
    if not 0 < len(ids) <= most:
        raise InputError(f"a text has {len(ids)} tokens, but the model reads 1 to {most} at once; shorten it")


def _logits(loaded: LoadedModel, ids: Tensor, positions: Tensor) -> Tensor:
    """Logits (positions, vocabulary) at some positions of one text, whose tokens are `ids` (1, tokens)."""
    is_target = torch.zeros_like(ids, dtype=torch.bool)
    is_target[0, positions] = True
    with torch.inference_mode():
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        logits = logits_at(loaded.model, inputs, is_target, gathers=False)
    if not logits.isfinite().all():
        raise RunError(f"{loaded.info.model} outputs values that are not finite; choose a run with a smaller ratio")
    return logits


def _best(loaded: LoadedModel, logits: Tensor) -> list[list[Any]]:
    """The likeliest tokens as text, each with its probability."""
    found = torch.topk(logits.double().softmax(-1), min(BEST, logits.numel()))
    tokenizer = tokenizer_of(loaded)
    return [[str(tokenizer.decode([token])), share] for share, token in zip(*map(Tensor.tolist, found), strict=True)]
