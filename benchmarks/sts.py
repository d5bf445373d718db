"""How well MiniLM-L6 still predicts sentence similarity when the WHOLE model is stored in fewer bytes.

    python -m benchmarks.sts --data FOLDER [--texts FILE ...]

FOLDER contains the STS benchmark as test.parquet and validation.parquet (sentence1, sentence2, score). FILE is calibration
text, a parquet file with a column `sentence` or `text`; without it, rows that need text are left out. Scores are Spearman
correlations of cosine similarity with the human score, with 95 % bootstrap intervals of the paired difference from the
original. That embeddings tolerate coarser codes than linear weights was found on the validation split.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from benchmarks.shannon import at_limit
from offcomp.cli.text import format_table
from offcomp.evaluation.embeddings import embed
from offcomp.methods.autoencoder.method import Autoencoder
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.models.loading import LoadedModel, load
from offcomp.models.weights import substituted
from offcomp.numerics.accounting import Size
from offcomp.planning.grouping import best_stack, one_per_kind
from offcomp.planning.model_sizes import model_sizes
from offcomp.planning.plan import Group, members
from offcomp.planning.sizes import original_size
from offcomp.runs.calibration import Calibration, GroupHints
from offcomp.runs.compress import CompressedGroup, compress_group

MODEL = "minilm-l6"
LINEAR = ("query", "key", "value", "attention_output", "ffn_in", "ffn_out")
RESAMPLES = 2000
CODEBOOK = {"preset": "codebook"}
TRELLIS = {"preset": "trellis"}
PAPER = {"preset": "banaei2023"}
FEEDBACK = {"feedback": True}
MAX_TOKENS = 64
CACHE_BYTES = 1 << 30


@dataclass(frozen=True)
class Case:
    """A row of the table: how each part of the model is stored. Parts without a group are not changed.

    With `limit_bits` (bits per weight of each part) there are no groups: the weights have the error of `benchmarks.shannon`.
    """

    name: str
    series: str
    groups: tuple[Group, ...] = ()
    limit_bits: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Sentences:
    """One split: pairs of sentences with human scores."""

    first: list[str]
    second: list[str]
    scores: NDArray[np.float64]

    @staticmethod
    def read(path: Path) -> Sentences:
        """Read a split."""
        table = pd.read_parquet(path)
        return Sentences(list(table["sentence1"]), list(table["sentence2"]), table["score"].to_numpy(float))

    def similarities(self, loaded: LoadedModel) -> NDArray[np.float64]:
        """Cosine similarity of each pair."""
        vectors = embed(loaded, [*self.first, *self.second]).astype(float)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return (vectors[: len(self.first)] * vectors[len(self.first) :]).sum(1)


def spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Spearman's correlation: Pearson's correlation of the ranks."""
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def interval(human: NDArray[np.float64], first: NDArray[np.float64], second: NDArray[np.float64]) -> tuple[float, float]:
    """95 % bootstrap interval of spearman(human, first) - spearman(human, second), on the same resampled pairs."""
    random = np.random.default_rng(0)
    draws = [random.integers(0, len(human), len(human)) for _ in range(RESAMPLES)]
    differences = [spearman(human[d], first[d]) - spearman(human[d], second[d]) for d in draws]
    low, high = np.quantile(differences, [0.025, 0.975])
    return float(low), float(high)


def parts(info: ModelInfo) -> dict[str, tuple[tuple[str, ...], str]]:
    """Name -> (modules, stacking) of the parts of the model, each of which is stored as one group."""
    linear = tuple(spec.name for spec in info.modules if spec.kind in LINEAR)
    return {
        "linear": (linear, "residual"),
        "embeddings": (("word_embeddings",), "rows"),
        "positions": (("embeddings.position_embeddings",), "rows"),
        "pooler": (("pooler",), "rows"),
    }


def coded(info: ModelInfo, steps: dict[str, float], options: dict[str, Any]) -> tuple[Group, ...]:
    """One group of codes per part, at the ratio in `steps` (times fewer bytes). FEEDBACK is used for the linear part alone."""
    without = {name: value for name, value in options.items() if name not in FEEDBACK}
    return tuple(
        Group(
            name=name,
            modules=parts(info)[name][0],
            stack=parts(info)[name][1],
            method="autoencoder",
            options=options if name == "linear" else without,
            ratio=ratio,
            unit="bytes",
            dtype="float16",
        )
        for name, ratio in (SMALL_PARTS | steps).items()
    )


def separate(info: ModelInfo, names: Sequence[str], method: str, ratio: float, dtype: str, **options: Any) -> tuple[Group, ...]:
    """Each matrix of some parts as its own group, all at the same ratio in bytes."""
    modules = [module for name in names for module in parts(info)[name][0]]
    return tuple(
        Group(
            name=module, modules=(module,), stack="rows", method=method, options=options, ratio=ratio, unit="bytes", dtype=dtype
        )
        for module in modules
    )


SMALL_PARTS = {"positions": 7.8, "pooler": 12.7}
SPLITS = {
    16.4: {"embeddings": 24.7, "linear": 12.6},
    17.5: {"embeddings": 30.9, "linear": 12.6},
    20.0: {"embeddings": 30.9, "linear": 15.7},
}
"""Whole-model ratio -> ratio of each part. Word embeddings tolerate coarse codes better than linear weights do."""
TRELLIS_BITS = {8: 2.95, 12: 1.9, 16: 1.21, 20: 0.77, 24: 0.6, 30: 0.5}
"""Whole-model ratio -> bits per word-embedding weight. Linear weights take up what is left."""
TRELLIS_SMALL = {"positions": 2.5, "pooler": 0.9}
EVERYTHING = ("embeddings", "linear", "positions", "pooler")


def cases(info: ModelInfo, with_text: bool) -> Iterator[Case]:
    """All rows of the table."""
    yield Case("original", "original")
    for ratio in (1.25, 1.5, 2.0):
        yield Case(f"SVD, linear weights alone at {ratio}x", "svd", separate(info, ["linear"], "svd", ratio, "float32"))
    for dtype, ratios in (("float32", (2.0, 4.0, 16.0)), ("float16", (2.5, 4.0, 16.0)), ("int8", (5.0, 8.0, 16.0))):
        for ratio in ratios:
            groups = separate(info, EVERYTHING, "svd", ratio, dtype)
            yield Case(f"SVD, whole model at {ratio}x, {dtype}", "svd", groups)
    for bits, ratio in ((8, 3.7), (4, 7.3), (3, 9.5)):
        groups = separate(info, EVERYTHING, "quantization", ratio, "float16")
        yield Case(f"int{bits}, row by row", "quantization", groups)
    for total, steps in SPLITS.items():
        yield Case(f"codebook, data-free, {total:g}x", "codebook", coded(info, steps, CODEBOOK))
        if with_text:
            yield Case(f"codebook, calibrated, {total:g}x", "codebook", coded(info, steps, CODEBOOK | FEEDBACK))
    for times in TRELLIS_BITS:
        steps = {name: 32 / bits for name, bits in trellis_bits(info, times).items()}
        yield Case(f"trellis, data-free, {times}x", "trellis", coded(info, steps, TRELLIS))
        if with_text:
            yield Case(f"trellis, calibrated, {times}x", "trellis", coded(info, steps, TRELLIS | FEEDBACK))
    yield from _limits(info)
    yield from _of_the_paper(info)
    for ratio in (2.0, 3.0, 5.0):
        for preset in ("plain", "direction"):
            yield Case(f"query and key at {ratio:g}x parameters, {preset} SVD", "direction", _query_key(info, preset, ratio))


def _limits(info: ModelInfo) -> Iterator[Case]:
    """Shannon's limit at the sizes of the trellis, with its bits for each part."""
    for times in TRELLIS_BITS:
        yield Case(f"Shannon's limit, {times}x", "limit", limit_bits=trellis_bits(info, times))


def _of_the_paper(info: ModelInfo) -> Iterator[Case]:
    """The paper's autoencoder with one group per kind; positions and the pooler, which are small, are stored by SVD."""
    kinds = one_per_kind([spec for spec in info.modules if spec.kind in (*LINEAR, "word_embeddings")])
    for how, options in (("", PAPER), (", fast options", PAPER | Autoencoder.fast_options)):
        for ratio in (5.0, 16.0):
            groups = separate(info, ["positions", "pooler"], "svd", ratio, "int8") + tuple(
                Group(
                    name=name,
                    modules=tuple(spec.name for spec in specs),
                    stack=best_stack(specs),
                    method="autoencoder",
                    options=options,
                    ratio=ratio,
                    unit="bytes",
                    dtype="int8",
                )
                for name, specs in kinds
            )
            yield Case(f"paper's autoencoder{how}, whole model at {ratio}x, int8", "autoencoder", groups)


def _query_key(info: ModelInfo, preset: str, ratio: float) -> tuple[Group, ...]:
    chosen = [spec.name for spec in info.modules if spec.kind in ("query", "key")]
    return tuple(
        Group(
            name=name, modules=(name,), stack="rows", method="svd", options={"preset": preset}, ratio=ratio, unit="parameters"
        )
        for name in chosen
    )


def trellis_bits(info: ModelInfo, times: float) -> dict[str, float]:
    """Bits per weight of each part at which the whole model takes `times` fewer bytes."""
    bits = TRELLIS_SMALL | {"embeddings": TRELLIS_BITS[round(times)]}
    specs = {spec.name: spec for spec in info.modules}
    numbers = {name: sum(specs[module].num_parameters for module in modules) for name, (modules, _) in parts(info).items()}
    unchanged = info.num_parameters - sum(numbers.values())
    left = 32 * info.num_parameters / times - 32 * unchanged - sum(rate * numbers[name] for name, rate in bits.items())
    return bits | {"linear": left / numbers["linear"]}


@contextmanager
def stored(loaded: LoadedModel, case: Case, texts: Sequence[str]) -> Iterator[dict[str, float]]:
    """Compress a case for the duration of the block; yields sizes and seconds. Feedback accounts for earlier groups."""
    started = time.perf_counter()
    matrices, sizes = _at_limit(loaded, case.limit_bits)
    ordered = sorted(case.groups, key=lambda group: group.options.get("feedback", False))
    earlier: list[CompressedGroup] = []
    for group in ordered:
        with hints_for(loaded, group, texts, earlier) as hints:
            done = compress_group(loaded.model, loaded.info, group, hints=hints)
        earlier.append(done)
        matrices |= done.reconstructions
        sizes.append((original_size(done.members), done.compressed.stored))
    seconds = time.perf_counter() - started
    whole = model_sizes(sizes, loaded.info).whole
    with substituted(loaded.model, matrices):
        yield {"bytes": whole.bytes_after, "ratio": whole.byte_ratio, "seconds": seconds}


def _at_limit(loaded: LoadedModel, bits: Mapping[str, float]) -> tuple[dict[ModuleSpec, Tensor], list[tuple[Size, Size]]]:
    """Weights with the error of an ideal code of these bits per weight of each part, and the sizes before and after."""
    specs = {spec.name: spec for spec in loaded.info.modules}
    matrices: dict[ModuleSpec, Tensor] = {}
    sizes = []
    for seed, (name, rate) in enumerate(bits.items()):
        modules, how = parts(loaded.info)[name]
        chosen = [specs[module] for module in modules]
        before = original_size(chosen)
        matrices |= at_limit(loaded, chosen, how, rate, seed)
        sizes.append((before, Size(before.num_parameters, round(rate * before.num_parameters / 8))))
    return matrices, sizes


def hints_for(
    loaded: LoadedModel, group: Group, texts: Sequence[str], earlier: Sequence[CompressedGroup]
) -> AbstractContextManager[GroupHints | None]:
    """Calibration hints, if the group needs them."""
    if not group.options.get("feedback"):
        return nullcontext()
    calibration = Calibration(loaded, texts, max_tokens=MAX_TOKENS, cache_bytes=CACHE_BYTES)
    return GroupHints(calibration, members(group, loaded.info), group.stack, earlier)


def read_texts(files: Sequence[Path], number: int, draw: int = 0) -> list[str]:
    """`number` texts in total, equally many per file, drawn with seed `draw`. A text is a line of more than 40 characters."""
    texts: list[str] = []
    for file in files:
        table = pd.read_parquet(file)
        column = table["sentence" if "sentence" in table else "text"].str.split("\n").explode()
        texts += list(column[column.str.len() > 40].sample(number // len(files), random_state=draw))
    return texts


def main() -> None:
    """Print the table, and write it as JSON if requested."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--data", type=Path, required=True, help="folder with test.parquet of the STS benchmark")
    flags.add_argument("--split", default="test", choices=("test", "validation"))
    flags.add_argument("--texts", type=Path, nargs="*", default=[], help="parquet files of calibration text")
    flags.add_argument("--num-texts", type=int, default=400)
    flags.add_argument("--only", nargs="*", default=[""], help="only rows whose name contains one of these")
    flags.add_argument("--out", type=Path, help="also write the rows to this JSON file")
    asked = flags.parse_args()
    loaded = load(MODEL)
    sentences = Sentences.read(asked.data / f"{asked.split}.parquet")
    texts = read_texts(asked.texts, asked.num_texts)
    original = sentences.similarities(loaded)
    rows: list[dict[str, Any]] = []
    measured = {}
    for case in cases(loaded.info, bool(texts)):
        if not any(part in case.name for part in asked.only):
            continue
        with stored(loaded, case, texts) as sizes:
            similarities = sentences.similarities(loaded)
        measured[case.name] = similarities
        low, high = interval(sentences.scores, similarities, original)
        score = spearman(similarities, sentences.scores)
        rows.append({"stored": case.name, "series": case.series, "spearman": score, "low": low, "high": high} | sizes)
        print(json.dumps(rows[-1]), flush=True)
    print(format_table(rows))
    for name, similarities in measured.items():
        plain = measured.get(name.replace("direction", "plain"), similarities)
        if plain is not similarities:
            low, high = interval(sentences.scores, similarities, plain)
            difference = spearman(similarities, sentences.scores) - spearman(plain, sentences.scores)
            print(f"{name} minus plain: {difference:+.4f} (95 % interval {low:+.4f} to {high:+.4f})")
    if asked.out:
        asked.out.write_text(json.dumps({"split": asked.split, "pairs": len(sentences.scores), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
