"""Prediction of a target text from a source text: the perplexity of an encoder-decoder such as T5 or BART.

The encoder reads the source with the special tokens that the tokenizer adds; the decoder is given the start token, the special
tokens that come before a text, and the correct target up to each token (teacher forcing). The score is exp(mean negative
log-likelihood in nats) over the tokens of the target; special tokens, such as the end of the text, are not scored.

For pairs, the source is `sentence1` and the target `sentence2`. A single text is cut into two halves of equal numbers of
tokens: the first is the source and the second the target (prefix language modelling, Raffel et al. 2020, JMLR 21:140, section
3.2.3). T5 and BART were trained to restore masked spans, not to continue texts, so their perplexities of halves are high, and
only the comparison with the compressed model says something. At most `source_tokens` and `target_tokens` tokens are used, or
fewer if the model has fewer positions.
"""

from __future__ import annotations

from itertools import chain

from offcomp.errors import TaskError
from offcomp.evaluation.base import TaskData, text_columns
from offcomp.evaluation.batches import tokenizer_of
from offcomp.evaluation.token_losses import Row, TokenTask, bare_tokens, special_tokens_around
from offcomp.models.loading import LoadedModel
from offcomp.models.positions import longest_text
from offcomp.models.tokens import check_known


class Seq2SeqLM(TokenTask):
    """See the module docstring. `reference` and `predict` return `loss` (tokens,) in nats and `correct` (tokens,)."""

    def __init__(self, loaded: LoadedModel, data: TaskData):
        tokenizer = tokenizer_of(loaded)
        before, after = special_tokens_around(tokenizer, data.texts)
        settings = dict(data.task.settings)
        lengths = {name: longest_text(loaded.model, settings[name]) - len(before) - len(after) for name in settings}
        if min(lengths.values()) < 1:
            raise TaskError(f"source_tokens and target_tokens must leave room for tokens of the text, not {settings}")
        start = _start_token(loaded)
        rows = []
        columns = [bare_tokens(tokenizer, texts)["input_ids"] for texts in text_columns(data.splits["test"])]
        for index, ids in enumerate(zip(*columns, strict=True)):
            source, target = ids if len(ids) == 2 else _halves(ids[0], sum(lengths.values()))
            source, target = source[: lengths["source_tokens"]], target[: lengths["target_tokens"]]
            if source and target:
                positions = list(range(len(before), len(before) + len(target)))
                rows.append(Row(index, [start, *before, *target[:-1]], positions, target, [*before, *source, *after]))
        check_known(loaded.model, [row.source for row in rows])
        super().__init__(loaded, data, rows, list(chain.from_iterable(row.targets for row in rows)), settings)


def _halves(ids: list[int], limit: int) -> tuple[list[int], list[int]]:
    """The first `limit` tokens, cut into two halves."""
    middle = min(len(ids), limit) // 2
    return ids[:middle], ids[middle : 2 * middle]


def _start_token(loaded: LoadedModel) -> int:
    """The token that the decoder begins with. Raises TaskError if the model has no decoder, or names no such token."""
    config = loaded.model.config
    if not config.is_encoder_decoder:
        raise TaskError(
            f"{loaded.info.model} ({loaded.info.architecture}) is not an encoder-decoder, so it has no target text; "
            "choose a task of a different family"
        )
    for each in (config, loaded.model.generation_config):
        token = getattr(each, "decoder_start_token_id", None)
        if token is not None:
            return int(token)
    raise TaskError(f"{loaded.info.model} names no decoder_start_token_id; add it to config.json")
