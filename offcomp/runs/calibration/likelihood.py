"""The log-likelihood that a model assigns to a text; its gradient measures the importance of each weight.

masked language model       log p of a random 15 % of the tokens (fixed seed), which are masked; if there is no mask token, of
                            all tokens, unmasked
causal language model       log p of each next token
encoder-decoder             log p of the same text, token by token, at the decoder
sequence classifier         log p of a label sampled from the model's own output, which gives the true Fisher information
any other model             log density of a sample e + ε from a unit-variance Gaussian around the sentence embedding e, with ε
                            from N(0, 1): its gradient is that of ε·e and again gives the true Fisher information. e is always
                            the mean of the last hidden states over tokens, whatever pooling is configured
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from offcomp.runs.calibration.batches import TokenBatch

MASKED_SHARE = 0.15


class Likelihood:
    """Computes the log-likelihood of each text in a batch. Sampling uses a dedicated, seeded generator."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int) -> None:
        self.model = model
        self.mask_token: int | None = tokenizer.mask_token_id
        self.generator = torch.Generator().manual_seed(seed)
        name = type(model).__name__
        self._of_batch = next((rule for ending, rule in _RULES.items() if name.endswith(ending)), Likelihood.of_embedding)

    def __call__(self, batch: TokenBatch) -> Tensor:
        """Return the log-likelihoods (texts,), with their autograd graph."""
        return self._of_batch(self, batch)

    def of_masked_tokens(self, batch: TokenBatch) -> Tensor:
        """Log-likelihood of masked tokens, sampled from the counted tokens, with at least one per text where possible."""
        tokens = batch.inputs["input_ids"]
        chosen = batch.counted
        inputs = batch.inputs
        if self.mask_token is not None:
            draws = torch.rand(tokens.shape, generator=self.generator).to(tokens.device).masked_fill(~batch.counted, 2.0)
            first = draws == draws.amin(1, keepdim=True)
            chosen = batch.counted & ((draws < MASKED_SHARE) | first)
            inputs = inputs | {"input_ids": torch.where(chosen, self.mask_token, tokens)}
        returned = self.model(**inputs)
        logits = returned.logits if "logits" in returned else returned.prediction_logits
        return _log_probability(logits, tokens, chosen)

    def of_next_tokens(self, batch: TokenBatch) -> Tensor:
        """Log-likelihood of each token except the first, given the preceding tokens."""
        logits = self.model(**batch.inputs).logits[:, :-1]
        return _log_probability(logits, batch.inputs["input_ids"][:, 1:], batch.real[:, 1:])

    def of_decoder(self, batch: TokenBatch) -> Tensor:
        """Log-likelihood of each token at the decoder, given the preceding tokens."""
        return _log_probability(self.model(**batch.inputs).logits, batch.inputs["input_ids"], batch.real)

    def of_drawn_label(self, batch: TokenBatch) -> Tensor:
        """Log-likelihood of a label sampled from the model's output."""
        logits = self.model(**batch.inputs).logits  # (texts, labels)
        if logits.shape[1] == 1:  # regression: Gaussian, as for an embedding
            return (self._normal(logits) * logits).sum(1)
        labels = torch.multinomial(logits.detach().softmax(1).cpu(), 1, generator=self.generator).to(logits.device)
        return logits.log_softmax(1).gather(1, labels)[:, 0]

    def of_embedding(self, batch: TokenBatch) -> Tensor:
        """Log density of a Gaussian around the mean of the last hidden states. Ignores Pooling, Dense and Normalize modules."""
        hidden = self.model(**batch.inputs, output_hidden_states=True)
        last = hidden.last_hidden_state if "last_hidden_state" in hidden else hidden.hidden_states[-1]
        mask = batch.real.unsqueeze(-1).to(last.dtype)
        embedding = (last * mask).sum(1) / mask.sum(1).clamp_min(1)
        return (self._normal(embedding) * embedding).sum(1)

    def _normal(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator).to(like)


def _log_probability(logits: Tensor, tokens: Tensor, chosen: Tensor) -> Tensor:
    """Sum of log p over the chosen tokens of each text (texts,), from logits (texts, tokens, vocabulary)."""
    losses = functional.cross_entropy(logits.transpose(1, 2), tokens, reduction="none")  # (texts, tokens)
    return -(losses * chosen).sum(1)


_RULES = {
    "ElectraForPreTraining": Likelihood.of_embedding,  # its head distinguishes real tokens from replaced tokens
    "ForMaskedLM": Likelihood.of_masked_tokens,
    "ForPreTraining": Likelihood.of_masked_tokens,
    "ForCausalLM": Likelihood.of_next_tokens,
    "LMHeadModel": Likelihood.of_next_tokens,
    "ForConditionalGeneration": Likelihood.of_decoder,
    "ForSequenceClassification": Likelihood.of_drawn_label,
}
"""Suffix of the model's class name -> method that computes the log-likelihood."""
