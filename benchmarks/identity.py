"""Time what it takes to know a model by all its bytes: `python -m benchmarks.identity [--gigabytes 4]`.

The first look hashes, the second one takes a stat, also in another process. Of minilm-l6 and of a model folder whose weights
are zeros of the size asked for, made in a temporary folder and removed afterwards. Files are in the page cache where they fit.
Of each look, seconds of the clock and of the processor: on a busy machine the first are more.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from offcomp.models.sources import resolve

LIMITS = {"minilm-l6": 0.5, "large": 15.0}
SECOND_LOOK = 0.05
LOOK = """
import sys, time
from pathlib import Path
from offcomp.models.identity import identify
folder = Path(sys.argv[1])
started = time.perf_counter(), time.process_time()
identify(folder)
print(time.perf_counter() - started[0], time.process_time() - started[1])
"""
CHUNK = 1 << 24
GIGABYTE = 10**9


def made(folder: Path, config: Path, size: int) -> Path:
    """A model folder with one tensor of `size` bytes."""
    folder.mkdir()
    shutil.copy(config, folder)
    header = json.dumps({"weight": {"dtype": "F16", "shape": [size // 2], "data_offsets": [0, size]}}).encode()
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        for start in range(0, size, CHUNK):
            stream.write(bytes(min(CHUNK, size - start)))
        stream.flush()
        os.fsync(stream.fileno())
    return folder


def seconds(folder: Path, home: Path) -> tuple[list[float], list[float]]:
    """Of the first look at a model that this home has not seen, and of the first one of the next process."""
    looks = []
    for _ in range(2):
        environment = os.environ | {"OFFCOMP_HOME": str(home)}
        command = [sys.executable, "-c", LOOK, str(folder)]
        told = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
        looks.append([float(number) for number in told.split()])
    return looks[0], looks[1]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    size = 2 * int(parser.parse_args().gigabytes * GIGABYTE / 2)
    minilm = resolve("minilm-l6").folder
    assert minilm is not None
    with TemporaryDirectory() as place:
        large = made(Path(place) / "large", minilm / "config.json", size)
        print(f"{'model':10} {'bytes':>15} {'first look (processor)':>24} {'second look (processor)':>25}   limits")
        for name, folder in (("minilm-l6", minilm), ("large", large)):
            first, second = seconds(folder, Path(place) / "home")
            weights = (folder / "model.safetensors").stat().st_size
            times = " ".join(f"{wall:12.3f} s ({processor:6.3f} s)" for wall, processor in (first, second))
            kept = first[0] <= LIMITS[name] and second[0] <= SECOND_LOOK
            print(f"{name:10} {weights:15,} {times}   {LIMITS[name]} s, {SECOND_LOOK} s {'kept' if kept else 'NOT KEPT'}")


if __name__ == "__main__":
    main()
