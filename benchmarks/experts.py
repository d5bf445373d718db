"""Do calibrated methods compress experts better than data-free ones, at equal size?

    python -m benchmarks.experts --train FILE --test FILE [--steps N] [--texts N] [--seeds N] [--by-tokens] [--out FILE]

Trains a small mixture of experts (Mixtral's architecture: 3 layers, 8 experts, of which 2 are used for a token) for a few
minutes on lines of a parquet file with a column `text`. Then compresses its experts alone, each on its own, and measures the
perplexity on lines of the other file. Calibrated methods use lines of the training file that were not trained on, drawn anew
with every seed. "change" is that of the logarithm of the perplexity, with its 95 % interval over texts, averaged over the
draws; "to data-free" is the difference to the data-free row before it. "scarce" counts the matrices of experts that too few
tokens reach.

With --by-tokens, instead: how many tokens does an expert need? Each expert is compressed 2x by SVD under metrics from a growing
number of lines. "median" and "worst" are output errors on the lines of the other file, as multiples of that of plain SVD.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerBase

import offcomp
from benchmarks.follow import lines
from offcomp.cli.text import format_table
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.live import loaded_from
from offcomp.models.loading import LoadedModel
from offcomp.models.weights import substituted
from offcomp.planning.plan import make_groups
from offcomp.runs.calibration import Calibration, GroupHints, experts
from offcomp.runs.compress import compress_group

BATCH, LONGEST, RATE = 24, 48, 3e-3
CACHE = 1 << 28
RATIOS = (2.0, 4.0)
VARIANTS: tuple[tuple[str, str, dict[str, Any], str, bool], ...] = (
    ("SVD", "svd", {}, "parameters", False),
    ("SVD, magnitudes (ASVD)", "svd", {"preset": "asvd"}, "parameters", True),
    ("SVD, whitened", "svd", {"preset": "whitened"}, "parameters", True),
    ("SVD, whitened, shrinkage .1", "svd", {"preset": "whitened", "shrinkage": 0.1}, "parameters", True),
    ("codebook", "codebook", {}, "bytes", False),
    ("codebook, feedback", "codebook", {"feedback": True}, "bytes", True),
)
"""Name, method, options, unit of the ratio, and whether it reads text. Codes are eight times as small as the ratio says."""
Vector = NDArray[np.float64]


def trained(tokenizer: PreTrainedTokenizerBase, texts: list[str], steps: int) -> MixtralForCausalLM:
    """A new model after training for so many steps: AdamW, with a rate that falls linearly to 0."""
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=LONGEST,
        tie_word_embeddings=True,
        output_router_logits=True,  # adds the loss that balances the experts
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = MixtralForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.01)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
        rows = [texts[(step * BATCH + index) % len(texts)] for index in range(BATCH)]
        inputs = tokenizer(rows, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
        labels = inputs["input_ids"].where(inputs["attention_mask"].bool(), -100)
        loss = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss at the last step: {loss.item():.2f}", flush=True)
    return model.eval().requires_grad_(False)


def losses(loaded: LoadedModel, texts: list[str]) -> Vector:
    """The mean loss of a next token, for each text."""
    found = []
    assert loaded.tokenizer is not None
    for start in range(0, len(texts), BATCH):
        rows = texts[start : start + BATCH]
        inputs = loaded.tokenizer(rows, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
        with torch.no_grad():
            logits = loaded.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        labels = inputs["input_ids"].where(inputs["attention_mask"].bool(), -100)[:, 1:]
        each = cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
        found.append(each.sum(1) / (labels != -100).sum(1))
    return torch.cat(found).double().numpy()


def interval(differences: Vector) -> str:
    """A mean over texts with its 95 % interval."""
    return f"{differences.mean():+.4f} ± {1.96 * differences.std(ddof=1) / len(differences) ** 0.5:.4f}"


def by_tokens(loaded: LoadedModel, spare: list[str], tests: list[str]) -> list[dict[str, Any]]:
    """The output error of SVD with each metric, relative to plain SVD, by the number of tokens that reach an expert."""
    experts.MIN_TOKENS = 1
    specs = [spec for spec in loaded.info.modules if experts.is_expert(spec) and spec.layer != 1]
    unseen = Calibration(loaded, tests, special_tokens=True)

    def errors(calibration: Calibration | None, **options: Any) -> tuple[dict[ModuleSpec, float], dict[ModuleSpec, int]]:
        matrices: dict[ModuleSpec, Tensor] = {}
        tokens: dict[ModuleSpec, int] = {}
        for spec in specs:
            (group,) = make_groups([spec], "module", method="svd", options=options, ratio=2.0, unit="parameters")
            hints = GroupHints(calibration, [spec], group.stack) if calibration else None
            done = compress_group(loaded.model, loaded.info, group, hints=hints, measure_outputs=False)
            matrices |= done.reconstructions
            tokens[spec] = hints.statistics(0).num_tokens if hints else 0
        sums = unseen.output_errors(matrices, held_out=False)
        return {spec: (error / exact) ** 0.5 for spec, (error, exact) in sums.items() if exact}, tokens

    plain, _ = errors(None)
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for number in (3, 6, 12, 25, 50, 100, 200):
        for preset in ("asvd", "whitened"):
            text = Calibration(loaded, spare[:number], special_tokens=True, ahead=specs, cache_bytes=CACHE)
            calibrated, tokens = errors(text, preset=preset)
            for spec, error in calibrated.items():
                if spec in plain:
                    found[preset, tokens[spec].bit_length()].append(error / plain[spec])
    return [
        {
            "preset": preset,
            "tokens": f"{2 ** (bits - 1)} to {2**bits - 1}" if bits else "0",
            "experts": len(ratios),
            "median": round(float(np.median(ratios)), 2),
            "worst": round(max(ratios), 2),
        }
        for (preset, bits), ratios in sorted(found.items())
    ]


def main() -> None:
    """Train, compress, measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--by-tokens", action="store_true")
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    tokenizer = offcomp.load("offcomp-gpt").tokenizer
    assert tokenizer is not None
    pool = lines(flags.train, 12000, 0)
    spare, trained_on = pool[:2000], pool[2000:]
    loaded = loaded_from(trained(tokenizer, trained_on, flags.steps), tokenizer)
    tests = lines(flags.test, 400, 1)
    if flags.by_tokens:
        print(format_table(by_tokens(loaded, spare, tests[:200])))
        return
    exact = losses(loaded, tests)
    print(f"perplexity {np.exp(exact.mean()):.1f} on {len(tests)} lines", flush=True)
    rows: list[dict[str, Any]] = []
    for ratio in RATIOS:
        base = exact
        for name, method, options, unit, reads in VARIANTS:
            found, scarce = [], 0
            for seed in range(flags.seeds if reads else 1):
                texts = [spare[index] for index in np.random.default_rng(seed).permutation(len(spare))[: flags.texts]]
                done = offcomp.compress(
                    loaded,
                    "expert_*",
                    method=method,
                    options=options,
                    ratio=ratio if unit == "parameters" else 8 * ratio,
                    unit=unit,
                    calibration=texts if reads else None,
                    progress=False,
                )
                scarce = sum(len(group.figures.calibration.scarce_experts) for group in done if group.figures.calibration)
                with substituted(loaded.model, {s: m for group in done for s, m in group.reconstructions.items()}):
                    found.append(losses(loaded, tests))
            mean = np.mean(found, axis=0)
            base = base if reads else mean
            row = {"method": name, "ratio": ratio, "weight error": round(done.relative_error, 3)}
            row |= {"change": interval(mean - exact), "to data-free": interval(mean - base), "scarce": scarce}
            rows.append(row)
            print(*row.values(), flush=True)
    print(format_table(rows))
    if flags.out:
        flags.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
