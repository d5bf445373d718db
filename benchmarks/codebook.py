"""Error, size and time of the codebook for all 36 linear weights of MiniLM-L6 as one group: `python -m benchmarks.codebook`."""

from __future__ import annotations

import time

from offcomp.cli.text import format_table
from offcomp.methods import make_method
from offcomp.models.loading import load
from offcomp.numerics.accounting import STORAGE_DTYPES, Budget
from offcomp.runs.compress import read_stacked

RATIOS = (12.0, 15.5, 30.0)
LINEAR = ("query", "key", "value", "attention_output", "ffn_in", "ffn_out")


def main() -> None:
    """Print the table."""
    loaded = load("minilm-l6")
    specs = [spec for spec in loaded.info.modules if spec.kind in LINEAR]
    matrix = read_stacked(loaded.model, specs, "residual")
    rows = []
    for ratio in RATIOS:
        for dtype in STORAGE_DTYPES:
            started = time.perf_counter()
            method = make_method("autoencoder", {"preset": "codebook"})
            fitted = method.fit(matrix, Budget(int(matrix.nbytes / ratio), "bytes", dtype))
            seconds = time.perf_counter() - started
            error = ((fitted.reconstruct() - matrix).norm() / matrix.norm()).item()
            byte_ratio = matrix.nbytes / fitted.stored.num_bytes
            row = {"asked": ratio, "dtype": dtype, "bytes ratio": byte_ratio, "relative error": error, "seconds": seconds}
            rows.append(row)
    print(format_table(rows))


if __name__ == "__main__":
    main()
