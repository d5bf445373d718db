"""Time and memory for a random matrix of the size of an FFN weight of Llama-7B: `python -m benchmarks.large_matrix`.

Each method runs in its own process. Extra memory is the peak memory of the process minus its peak before the fit, which
includes the matrix.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch

from offcomp.cli.text import format_table
from offcomp.methods import make_method
from offcomp.numerics.accounting import Budget

ROWS, COLS = 4096, 11008
CASES: tuple[tuple[str, dict[str, Any], float], ...] = (
    ("svd", {}, 4.0),
    ("autoencoder", {"preset": "codebook"}, 15.5),
    ("quantization", {}, 7.0),
)


def peak() -> int:
    """Peak memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(number: int) -> dict[str, object]:
    """Fit one case in this process."""
    name, options, ratio = CASES[number]
    matrix = torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(0))
    before = peak()
    started = time.perf_counter()
    fitted = make_method(name, options).fit(matrix, Budget(int(matrix.nbytes / ratio), "bytes"))
    seconds, held = time.perf_counter() - started, peak() - before
    error = ((fitted.reconstruct() - matrix).norm() / matrix.norm()).item()
    return {
        "method": options.get("preset", name),
        "bytes ratio": matrix.nbytes / fitted.stored.num_bytes,
        "relative error": error,
        "seconds": seconds,
        "extra memory / matrix": held / matrix.nbytes,
    }


def main() -> None:
    """Print the table."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--case", type=int)
    asked = flags.parse_args()
    if asked.case is not None:
        print(json.dumps(measure(asked.case)))
        return
    command = [sys.executable, "-m", "benchmarks.large_matrix", "--case"]
    outputs = [subprocess.run([*command, str(n)], check=True, capture_output=True).stdout for n in range(len(CASES))]
    print(f"{ROWS} x {COLS}, float32, {ROWS * COLS * 4 / 1e6:.0f} MB")
    print(format_table([json.loads(output) for output in outputs]))


if __name__ == "__main__":
    main()
