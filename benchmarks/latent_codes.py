"""How much the decoder of the paper's autoencoder helps if its latents are cheap: `python -m benchmarks.latent_codes`.

The six kinds of linear weights of MiniLM-L6 are six groups, as in `benchmarks.autoencoder_together`; every method uses the
largest size that fits into (bytes in float32) / ratio. All other weights of the model are left unchanged.

    latents       floats, or integers with this number of bits (`latent_bits`)
    decoder       none, linear or nonlinear; all numbers but integer codes are stored in the dtype of the row
    error         relative error over all six groups
    distance      mean cosine distance of the embeddings from those of the original model, on bundled prose
    points        change of the score of the bundled tasks, in points: Spearman correlation (similarity), and accuracy of a
                  linear probe fitted on the original (sentiment, topics)

Autoencoders have a linear encoder, which is not stored. They start at the SVD and are trained with the options FAST, for
`--epochs` epochs and `--refine` final steps on all rows, which see the rounded latents. `--ratios 8` measures only one ratio,
`--only linear` only rows that contain this word, and `--without-tasks` only sizes and errors.
"""

from __future__ import annotations

import argparse
import os
from time import process_time
from typing import Any

from benchmarks.autoencoder_together import KINDS
from offcomp.cli.text import format_table
from offcomp.errors import BudgetTooSmall
from offcomp.evaluation import OpenTask, open_task
from offcomp.methods.autoencoder.method import FAST
from offcomp.models.loading import LoadedModel, load
from offcomp.models.weights import substituted
from offcomp.planning.data.tasks import find_task
from offcomp.planning.plan import Plan, make_groups
from offcomp.planning.sizes import predict
from offcomp.results.runs import overall_error
from offcomp.runs.compress import CompressedGroup, compress_group
from offcomp.runs.together import FitsTogether

FIDELITY, TASKS = "embedding-fidelity", ("similarity", "sentiment", "topics")
Row = tuple[str, str, str, str, dict[str, Any]]


def autoencoder(decoder: str, bits: int, dtype: str) -> Row:
    """A row of the table: name, latents, decoder, storage dtype, options."""
    latents = f"{bits} bits" if bits else dtype
    options = FAST | {"encoder": "linear", "decoder": decoder, "latent_bits": bits}
    return "autoencoder", latents, decoder, dtype, options


ROWS: tuple[Row, ...] = (
    ("svd", "float16", "linear", "float16", {}),
    ("svd", "int8", "linear", "int8", {}),
    *(autoencoder(decoder, bits, "float16") for bits in (0, 4, 2, 3, 8) for decoder in ("nonlinear", "linear")),
    *(autoencoder(decoder, bits, "int8") for bits in (4, 3) for decoder in ("nonlinear", "linear")),
    ("quantization", "all weights", "none", "float16", {}),
    ("autoencoder", "pieces", "codewords", "float16", {"preset": "codebook"}),
)


def measure(loaded: LoadedModel, tasks: dict[str, OpenTask], row: Row, ratio: float) -> dict[str, Any]:
    """Compress the six groups and compare the outputs."""
    method, latents, decoder, dtype, options = row
    found = {"ratio": ratio, "method": options.get("preset", method), "latents": latents, "decoder": decoder, "dtype": dtype}
    started = process_time()
    try:
        groups = compressed(loaded, method, dtype, options, ratio)
    except BudgetTooSmall:
        names = ["sizes", "bytes", "error", *(("distance", *TASKS) if tasks else ()), "processor seconds"]
        return found | dict.fromkeys(names, "")
    seconds = process_time() - started
    found |= {
        "sizes": " ".join(str(group.figures.size) for group in groups),
        "bytes": sum(group.figures.num_bytes for group in groups),
        "error": overall_error([group.figures for group in groups]),
    }
    matrices = {spec: matrix for group in groups for spec, matrix in group.reconstructions.items()}
    with substituted(loaded.model, matrices):
        scores = {name: task.compare() for name, task in tasks.items()}
    if scores:
        found["distance"] = 1 - scores.pop(FIDELITY).compressed.value
    points = {name: 100 * (score.compressed.value - score.original.value) for name, score in scores.items()}
    return found | points | {"processor seconds": seconds}


def compressed(loaded: LoadedModel, method: str, dtype: str, options: dict[str, Any], ratio: float) -> list[CompressedGroup]:
    """One compressed group per kind, all with 384 columns. Raises BudgetTooSmall."""
    specs = [spec for spec in loaded.info.modules if spec.kind in KINDS]
    made = make_groups(specs, "kind", method=method, options=options, ratio=ratio, unit="bytes", dtype=dtype)
    groups = [group.replace(stack="columns" if group.name == "ffn_out" else "rows") for group in made]
    if not (prediction := predict(Plan(model=loaded.info.model, groups=tuple(groups)), loaded.info)).feasible:
        raise BudgetTooSmall(str([group.note for group in prediction.groups]))
    fits = FitsTogether(loaded.model, loaded.info, groups, seed=0)
    return [compress_group(loaded.model, loaded.info, group, fitted=fits.take(group)) for group in groups]


def main() -> None:
    """Print one row after the other, and then the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--ratios", nargs="+", type=float, default=[4.0, 8.0, 12.0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--refine", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--without-tasks", action="store_true")
    asked = parser.parse_args()
    loaded = load("minilm-l6")
    tasks = {name: open_task(find_task(name), loaded) for name in (() if asked.without_tasks else (FIDELITY, *TASKS))}
    for task in tasks.values():
        task.prepare()
    training = {"epochs": asked.epochs, "refine_epochs": asked.refine}
    rows = []
    for ratio in asked.ratios:
        for name, latents, decoder, dtype, options in ROWS:
            if asked.only in f"{options.get('preset', name)} {latents} {decoder} {dtype}":
                trained = options | training if "latent_bits" in options else options
                rows.append(measure(loaded, tasks, (name, latents, decoder, dtype, trained), ratio))
                print(rows[-1], flush=True)
    print(f"load {os.getloadavg()[0]:.1f}\n{format_table(rows)}")


if __name__ == "__main__":
    main()
