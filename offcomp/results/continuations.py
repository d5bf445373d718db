"""Tables and summaries of how the original and the compressed model continue the same prompts.

Scores of next-token prediction tasks include `continuations`, except in runs made by earlier versions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile

import pandas as pd

from offcomp.planning.data.scores import Continuation, Score
from offcomp.results.runs import method_title, result_of, scored_tasks
from offcomp.results.scores import metric_of
from offcomp.runs.store import Run

COLUMNS = ("run", "name", "task", "opening", "original", "compressed", "same_tokens", "tokens")
NOT_RECORDED = "{} was measured before offcomp recorded continuations. Run its plan again to see what both models generate."


def continues_prompts(score: Score) -> bool:
    """Whether models scored on this task can continue a prompt."""
    return metric_of(score).name == "perplexity"


def continuation_table(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per run, task and prompt: both continuations, and how many of their leading tokens match."""
    rows = [
        entry.to_dict() | {"run": run.id, "name": name, "task": task}
        for run, name, task, score in scored_tasks(runs)
        for entry in score.continuations
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def of_task(run: Run, task: str) -> tuple[Continuation, ...]:
    """The continuations that a run recorded for a task, each with its prompt."""
    return result_of(run).scores[task].continuations


def side_by_side(runs: Sequence[Run], task: str) -> list[tuple[Continuation, ...]]:
    """The continuations of all runs, for each prompt that the runs have in common."""
    by_prompt = [{(entry.opening, entry.original): entry for entry in of_task(run, task)} for run in runs]
    shared = [key for key in by_prompt[0] if all(key in entries for entries in by_prompt)]
    return [tuple(entries[key] for entries in by_prompt) for key in shared]


def first_difference(original: str, compressed: str) -> int:
    """Start index of the first differing word in the compressed model's text; the length of the text if no word differs."""
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(original, compressed, strict=False)))
    within_a_word = any(text[shared : shared + 1].isalnum() for text in (original, compressed))
    return len(re.sub(r"\w+$", "", compressed[:shared])) if within_a_word else shared


def continuation_answer(runs: Sequence[Run], names: Mapping[str, str], task: str) -> str:
    """Summarise in one sentence how many tokens match before the first difference, and how many continuations are identical.

    runs    one or two runs that continued the same prompts
    names   name of each run in the comparison, by run id
    """
    columns = list(zip(*side_by_side(runs, task), strict=True))
    total, count = columns[0][0].tokens, len(columns[0])
    titles = [method_title(runs[0])] if len(runs) == 1 else [names[run.id] for run in runs]
    means = [sum(entry.same_tokens for entry in column) / count for column in columns]
    identical = [sum(entry.same_tokens == entry.tokens for entry in column) for column in columns]
    text = f"On average, {titles[0]} matches the original for the first {means[0]:.1f} of {total} tokens"
    if len(runs) > 1:
        return (
            f"{text}, {titles[1]} for {means[1]:.1f}; {identical[0]} and {identical[1]} of {count} continuations are identical."
        )
    return f"{text}; {identical[0] or 'none'} of {count} continuations {'are' if identical[0] > 1 else 'is'} identical."


def agreement_text(entry: Continuation) -> str:
    """Phrase stating how many leading tokens the compressed model shares with the original."""
    same, total = entry.same_tokens, entry.tokens
    if same == total:
        return f"all {total} tokens the same"
    return f"first {same} of {total} tokens the same" if same else "differs from the first token onwards"
