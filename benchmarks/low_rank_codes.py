"""Does a low-rank part help integers and codes, at equal bytes?

    python -m benchmarks.low_rank_codes --model offcomp-gpt --texts FILE FILE [--data FOLDER] [--out FILE]

Every linear weight is stored on its own, in the requested number of bits per weight, including scales and everything else. The
methods are integers, SVD (8-bit factors), codebook and trellis; all but SVD are measured alone and with a low-rank part that
fills a share of the bytes:

    rank 0.25      the part takes a quarter of a bit per weight
    int2 + rank    integers of fewer bits; the rank fills the bytes

With integers, the low-rank part and the rest are fitted in alternation (`Quantization.rank`); with the codebook, the low-rank
part is fitted first (`CodebookAutoencoder.rank`, factors in float16). The trellis has no such option, so both orders are tried
here: with `SVD first`, the trellis codes the rest of the matrix; with `SVD last`, the SVD approximates the error of the
trellis. Factors have 4 bits.

Calibrated rows use FILE, parquet files of text as in `benchmarks.sts`. Weights are then compressed one after another, each with
the earlier ones in place: integers and codes with feedback, and the SVD and low-rank parts under the whitened metric.

Prints the error of the weights, that of the outputs on held-out text (inputs from the original model), and the difference from
the original on each task with its 95 % interval. FOLDER contains stsb/test.parquet (sentence1, sentence2, score). Rows are
added to the JSON file `--out` one by one, and existing rows are not measured again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.quality import cell, difference
from benchmarks.sts import MAX_TOKENS, read_texts
from offcomp.evaluation import OpenTask, open_task
from offcomp.methods import make_method
from offcomp.methods.base import Hints, Method
from offcomp.methods.hints import Statistics
from offcomp.methods.quantization.low_rank import Metrics, product, stored_factors
from offcomp.methods.quantization.method import FACTOR_BITS, Quantization
from offcomp.methods.svd.group_metrics import group_metrics
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.loading import LoadedModel, load
from offcomp.models.weights import read, substituted
from offcomp.numerics.accounting import Budget, stored_size
from offcomp.numerics.changed_inputs import weight_for_changed_inputs
from offcomp.numerics.reconstruction_error import reconstruction_error
from offcomp.numerics.storage import unpack
from offcomp.planning.data.tasks import Task, find_task
from offcomp.results.frontier import Difference
from offcomp.runs.calibration import Calibration, GroupHints

BITS = (2.35, 3.35, 4.35)
"""Bits per weight: a whole number of bits, one scale and one zero point per row, and a quarter of a bit for the rest."""
SHARE = 0.25
"""Bits per weight for a low-rank part."""
DAMPING = 0.3
TASKS = {
    "minilm-l6": ("similarity", "sentiment", "topics", "embedding-fidelity"),
    "offcomp-gpt": ("causal-prose", "similarity", "sentiment", "topics", "causal-fidelity"),
}
STSB = Task(name="stsb", family="similarity", data="stsb", title="STS-B")
Recipe = Callable[[Tensor, float, Hints | None], tuple[Tensor, int]]
"""(matrix, bits per weight, hints) -> reconstruction and stored bytes."""


class OneMember:
    """Hints for one member of a group. Its statistics and substitutions are those of the group."""

    def __init__(self, group: GroupHints, index: int) -> None:
        self._group, self._index = group, index
        self.heights: tuple[int, ...] = (group.heights[index],)
        self.transposed: tuple[bool, ...] = (False,)
        self.embeddings: tuple[bool, ...] = (False,)
        self.order: tuple[int, ...] = (0,)

    def statistics(self, index: int) -> Statistics:
        """See `Hints`."""
        return self._group.statistics(self._index + index)

    def release(self) -> None:
        """Do nothing: the statistics are released with the group."""

    def use_compressed_predecessors(self, *, keep_original: bool = False, one_by_one: bool = True) -> None:
        """Do nothing: the group does so from the start, and keeps the original model's inputs."""

    def substitute(self, index: int, reconstruction: Tensor) -> None:
        """Do nothing: `reconstructions` substitutes the weights."""


def within(method: Method, matrix: Tensor, bits: float, hints: Hints | None, dtype: str = "float16") -> tuple[Tensor, int]:
    """Compress a matrix at the largest size within these bits per weight."""
    compressed = method.fit(matrix, Budget(int(bits * matrix.numel() / 8), "bytes", dtype), hints=hints)
    return compressed.reconstruct(), compressed.stored.num_bytes


def integers(whole: int, part: str) -> Recipe:
    """Integers of `whole` bits, with scales per row, or with the smallest blocks or the largest rank that fits (`part`)."""

    def recipe(matrix: Tensor, bits: float, hints: Hints | None) -> tuple[Tensor, int]:
        rows, cols = matrix.shape
        candidates: Mapping[str, Sequence[dict[str, Any]]] = {
            "rows": [{}],
            "blocks": [
                {"block": block, "symmetric": symmetric} for block in (*range(16, 256, 8), 0) for symmetric in (False, True)
            ],
            "rank": [{"rank": rank} for rank in range(min(rows, cols) // 2, -1, -1)],
        }
        budget = Budget(int(bits * matrix.numel() / 8), "bytes", "float16")
        for options in candidates[part]:
            method = Quantization(**options, feedback=hints is not None, damping=DAMPING)
            if budget.admits(method.tensor_shapes(rows, cols, whole)):
                exactly = Budget(stored_size(method.tensor_shapes(rows, cols, whole), "float16").num_bytes, "bytes", "float16")
                compressed = method.fit(matrix, exactly, hints=hints)
                assert compressed.size == whole
                return compressed.reconstruct(), compressed.stored.num_bytes
        raise ValueError(f"{whole} bits do not fit {bits} bits per weight")

    return recipe


def svd(matrix: Tensor, bits: float, hints: Hints | None) -> tuple[Tensor, int]:
    """SVD with 8-bit factors, whitened if calibrated."""
    options = {"preset": "whitened", "shrinkage": DAMPING / (1 + DAMPING)} if hints else {}
    return within(make_method("svd", options), matrix, bits, hints, "int8")


def codes(preset: str, share: float = 0.0) -> Recipe:
    """A method with discrete latents and, if `share` is not 0, a low-rank part by its own option `rank` (float16)."""

    def recipe(matrix: Tensor, bits: float, hints: Hints | None) -> tuple[Tensor, int]:
        rows, cols = matrix.shape
        rank = {"rank": int(share * rows * cols / (16 * (rows + cols)))} if share else {}
        method = make_method("autoencoder", {"preset": preset, "feedback": hints is not None, **rank})
        return within(method, matrix, bits, hints)

    return recipe


def trellis_with(order: str, share: float) -> Recipe:
    """A trellis and a low-rank part of `share` bits per weight, which is fitted first or last."""

    def recipe(matrix: Tensor, bits: float, hints: Hints | None) -> tuple[Tensor, int]:
        rows, cols = matrix.shape
        rank = int((share * rows * cols - 32) / (FACTOR_BITS * (rows + cols) + 32))
        metrics: Metrics = (None, None)
        if hints is not None:
            metrics = group_metrics(hints, ("none", "full"), DAMPING / (1 + DAMPING), matrix.device)
        side = stored_size(Quantization(rank=rank).tensor_shapes(rows, cols, 2), "float16").num_bytes
        side -= stored_size(Quantization().tensor_shapes(rows, cols, 2), "float16").num_bytes
        rest = bits - 8 * side / matrix.numel()

        def low_rank(target: Tensor) -> Tensor:
            return product(unpack(stored_factors(target, rank, metrics, "float16")), rows, cols)

        trellis = codes("trellis")
        if order == "first":
            first = low_rank(matrix)
            coded, num_bytes = trellis(matrix - first, rest, hints)
            return first + coded, num_bytes + side
        coded, num_bytes = trellis(matrix, rest, hints)
        return coded + low_rank(_target(matrix, hints) - coded), num_bytes + side

    return recipe


def _target(matrix: Tensor, hints: Hints | None) -> Tensor:
    """What the trellis approximates: with hints, the matrix that reproduces the outputs of the original model."""
    if hints is None:
        return matrix
    statistics = hints.statistics(0)
    assert statistics.column_moment is not None
    assert statistics.cross_moment is not None
    return weight_for_changed_inputs(
        matrix.double(), statistics.column_moment.double(), statistics.cross_moment.double()
    ).float()


def recipes(bits: float) -> Iterator[tuple[str, Recipe]]:
    """The name of each way to store a matrix in this many bits per weight, and its recipe."""
    whole = int(bits)
    yield f"int{whole}, rows (fewer bytes)", integers(whole, "rows")
    yield f"int{whole}, blocks", integers(whole, "blocks")
    yield f"int{whole} + rank", integers(whole, "rank")
    if whole > 2:
        yield f"int{whole - 1} + rank", integers(whole - 1, "rank")
    yield "SVD", svd
    yield "trellis", codes("trellis")
    yield f"trellis, SVD first, rank {SHARE}", trellis_with("first", SHARE)
    yield f"trellis, SVD last, rank {SHARE}", trellis_with("last", SHARE)
    if bits < 4:  # finer codebooks take minutes per matrix
        yield "codebook", codes("codebook")
        yield f"codebook + rank {SHARE}", codes("codebook", SHARE)


def reconstructions(
    loaded: LoadedModel, specs: Sequence[ModuleSpec], recipe: Recipe, bits: float, calibration: Calibration | None
) -> tuple[dict[ModuleSpec, Tensor], int]:
    """The decoded weights, and their stored bytes. With calibration, each weight is fitted with the earlier ones in place."""
    found: dict[ModuleSpec, Tensor] = {}
    total = 0
    if calibration is None:
        for spec in specs:
            found[spec], num_bytes = recipe(read(loaded.model, spec).float(), bits, None)
            total += num_bytes
        return found, total
    exact = {spec: read(loaded.model, spec).float().clone() for spec in specs}
    with GroupHints(calibration, specs, "rows") as hints:
        hints.use_compressed_predecessors(keep_original=True)
        for index, spec in enumerate(specs):
            found[spec], num_bytes = recipe(exact[spec], bits, OneMember(hints, index))
            hints.substitute(index, found[spec])
            total += num_bytes
    return found, total


def measured(
    loaded: LoadedModel, found: Mapping[ModuleSpec, Tensor], calibration: Calibration, tasks: Mapping[str, OpenTask]
) -> dict[str, Any]:
    """Errors of weights and outputs, and scores compared with the original's."""
    specs = list(found)
    errors = reconstruction_error((read(loaded.model, spec), matrix) for spec, matrix in found.items())
    with GroupHints(calibration, specs, "rows") as hints:
        output_error = hints.output_error(found, held_out=True)
    with substituted(loaded.model, found):
        scores = {name: difference(task.compare()) for name, task in tasks.items()}
    return {"weight error": errors.relative_error, "output error": output_error, "scores": scores}


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line per row; differences of scores are bold if their interval excludes 0."""
    names = list(rows[0]["scores"]) if rows else []
    lines = [["stored", "text", "bits", "weight error", "output error", *names]]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        cells = [row["stored"], "yes" if row["calibrated"] else "no", f"{row['bits']:.2f}"]
        cells += [f"{row['weight error']:.3f}", f"{row['output error']:.3f}"]
        lines.append([*cells, *(_cell(row["scores"][name]) for name in names)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(score: Mapping[str, Any]) -> str:
    return f"{score['value']:.3f}" if score["interval"] is None else cell(Difference.from_json(score))


def main() -> None:
    """Measure the missing rows, and print the table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--model", choices=TASKS, default="offcomp-gpt")
    flags.add_argument("--texts", type=Path, nargs="+", required=True, help="parquet files of calibration text")
    flags.add_argument("--num-texts", type=int, default=400)
    flags.add_argument("--data", type=Path, help="folder with a folder for each further task")
    flags.add_argument("--bits", type=float, nargs="*", default=BITS)
    flags.add_argument("--only", nargs="*", default=[""], help="only rows whose name starts with one of these")
    flags.add_argument("--without-text", action="store_true", help="only rows that need no calibration text")
    flags.add_argument("--out", type=Path, help="JSON file that keeps the rows")
    asked = flags.parse_args()
    loaded = load(asked.model)
    specs = [spec for spec in loaded.info.modules if spec.default and spec.layer is not None]
    calibration = Calibration(loaded, read_texts(asked.texts, asked.num_texts), max_tokens=MAX_TOKENS)
    chosen = [find_task(name) for name in TASKS[asked.model]]
    if asked.data:
        chosen.append(STSB.replace(data=str(asked.data / STSB.data)))
    tasks = {task.name: open_task(task, loaded) for task in chosen}
    for name, task in tasks.items():
        task.prepare()
        print(name, task.original().value, flush=True)
    rows: list[dict[str, Any]] = json.loads(asked.out.read_text()) if asked.out and asked.out.is_file() else []
    known = {(row["asked"], row["calibrated"], row["stored"]) for row in rows}
    weights = sum(spec.num_parameters for spec in specs)
    for bits in asked.bits:
        for calibrated in (False,) if asked.without_text else (False, True):
            for name, recipe in recipes(bits):
                if (bits, calibrated, name) in known or not name.startswith(tuple(asked.only)):
                    continue
                started = time.perf_counter()
                found, num_bytes = reconstructions(loaded, specs, recipe, bits, calibration if calibrated else None)
                seconds = time.perf_counter() - started
                row = {"asked": bits, "calibrated": calibrated, "stored": name, "bits": 8 * num_bytes / weights}
                rows.append(row | measured(loaded, found, calibration, tasks) | {"seconds": seconds})
                print(json.dumps(rows[-1]), flush=True)
                if asked.out:
                    asked.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(markdown(rows))


if __name__ == "__main__":
    main()
