"""Measure how long it takes to identify a model by all of its bytes: `python -m benchmarks.identity [--gigabytes 4]`.

The first time, all files are hashed; after that, even in a different process, a stat of each file is enough. Both are measured
for minilm-l6 and for a temporary model folder of the requested size, whose weights are zeros. Files are in the
page cache if they fit. Each measurement consists of wall-clock and processor seconds, which differ on a busy machine.
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
    """Create a model folder with one tensor of `size` bytes."""
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
    """[wall-clock, processor] seconds to identify a model that is new to this home, and again in a different process."""
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
        print(f"{'model':10} {'bytes':>15} {'first time (processor)':>24} {'second time (processor)':>25}   limits")
        for name, folder in (("minilm-l6", minilm), ("large", large)):
            first, second = seconds(folder, Path(place) / "home")
            weights = (folder / "model.safetensors").stat().st_size
            times = " ".join(f"{wall:12.3f} s ({processor:6.3f} s)" for wall, processor in (first, second))
            kept = first[0] <= LIMITS[name] and second[0] <= SECOND_LOOK
            print(f"{name:10} {weights:15,} {times}   {LIMITS[name]} s, {SECOND_LOOK} s {'met' if kept else 'NOT MET'}")


if __name__ == "__main__":
    main()
