"""Files that would unpack to more than the app's process may hold are refused from their headers, with one sentence.

Each file is read in a separate process, whose peak memory is measured.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

READ = """
import json, os, resource, sys
from pathlib import Path
from offcomp.errors import InputError
from offcomp.models.matrix_files import read_matrices
from offcomp.ui.uploads import columns_of

for path in map(Path, sys.argv[1:]):
    if os.fork():
        os.wait()
        continue
    content = path.read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        (read_matrices if path.suffix in (".npy", ".npz", ".safetensors") else columns_of)(path.name, content)
        said = "read"
    except InputError as error:
        said = str(error)
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps([path.name, taken // 1024, said]), flush=True)
    os._exit(0)
"""
MAX_MEGABYTES = 100


def npy_header(shape: str, dtype: str = "<f4") -> bytes:
    """An npy document that consists of its header alone."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def packed(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


def long_header() -> bytes:
    """An npy document whose header is 300 MB long, as it declares."""
    return b"\x93NUMPY\x02\x00" + (300_000_000).to_bytes(4, "little") + b" " * 300_000_000


def parquet() -> bytes:
    stream = io.BytesIO()
    pd.DataFrame({"text": [f"{i} " + 600 * "x" for i in range(400_000)]}).to_parquet(stream, compression="zstd")
    return stream.getvalue()


def shared_text() -> bytes:
    """300 rows of the same text of a megabyte, which parquet stores only once, so that the file is small."""
    stream = io.BytesIO()
    pd.DataFrame({"text": 300 * ["x" * 1_000_000]}).to_parquet(stream, compression="zstd")
    return stream.getvalue()


def understated() -> bytes:
    """An npz file whose directory declares 40 kB for a member of 400 MB."""
    array = npy_header("(100, 100)") + np.zeros((100, 100), np.float32).tobytes()
    content = bytearray(packed(w=array + bytes(400_000_000)))
    for mark, at in ((b"PK\x03\x04", 14), (b"PK\x01\x02", 16)):  # checksum, compressed size, size
        start = content.index(mark) + at
        content[start : start + 4] = zlib.crc32(array).to_bytes(4, "little")
        content[start + 8 : start + 12] = len(array).to_bytes(4, "little")
    return bytes(content)


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "no_rows.npy": (lambda: npy_header("(0, 9223372036854775808)"), "is 0 x 9223372036854775808, too small"),
    "no_end.npy": (lambda: npy_header("(9223372036854775808, 9223372036854775808)"), "is truncated"),
    "bomb.npz": (lambda: packed(w=npy_header("(11000, 11000)") + bytes(484_000_000)), "unpacks to 484 MB of matrices"),
    "vectors.npz": (lambda: packed(w=npy_header("(121000000,)") + bytes(484_000_000)), "has 1 dimension, not 2"),
    "header.npz": (lambda: packed(w=long_header()), "is not an array of numbers"),
    "many.npz": (lambda: packed(**{f"w{i}": b"" for i in range(11_000)}), "more than 10,000 arrays"),
    "header.safetensors": (lambda: (40_000_000).to_bytes(8, "little") + b"[" * 40_000_000, "truncated or too long"),
    "wide.csv": (
        lambda: b",".join(b"c%d" % i for i in range(100_000)) + b"\n" + 20 * (b"1," * 99_999 + b"1\n"),
        "100,000 columns",
    ),
    "empty_lines.csv": (lambda: b"a\n" + 40_000_000 * b"\n", "more than 6,000,000 cells"),
    "commas.csv": (lambda: b"a,b\n" + 40_000_000 * b",", "more than 6,000,000 cells"),
    "lines.tsv": (lambda: b"a\tb\n" + 10_000_000 * b"x\ty\n", "more than 6,000,000 cells"),
    "brackets.jsonl": (lambda: b'{"a": [' + 10_000_000 * b"[]," + b"[]]}\n", "more than 6,000,000 cells"),
    "keys.jsonl": (lambda: b"".join(b'{"k%d": 1}\n' % i for i in range(5_000)), "5,000 columns"),
    "text.parquet": (parquet, "MB; use a subset of at most 200 MB"),
    "one_text.parquet": (shared_text, "it decompresses to 300 MB; use a subset of at most 200 MB"),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """File -> the peak memory used to read it, in megabytes, and the message. Each file is read in a fork of one process."""
    folder = tmp_path_factory.mktemp("files")
    fine = packed(w=npy_header("(1000, 1000)") + np.ones((1000, 1000), np.float32).tobytes())
    contents = {"fine.npz": lambda: fine, "understated.npz": understated} | {name: make for name, (make, _) in FILES.items()}
    for name, make in contents.items():
        (folder / name).write_bytes(make())
    command = [sys.executable, "-c", READ, *(str(folder / name) for name in contents)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shutil.rmtree(folder)
    return {name: (megabytes, said) for name, megabytes, said in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_refused_by_its_headers(name: str, found: dict[str, tuple[int, str]]) -> None:
    megabytes, said = found[name]
    assert FILES[name][1] in said
    assert name in said
    assert megabytes < MAX_MEGABYTES


def test_no_more_is_unpacked_than_an_archive_says(found: dict[str, tuple[int, str]]) -> None:
    assert found["understated.npz"][0] < MAX_MEGABYTES


def test_matrices_below_the_limit_are_read(found: dict[str, tuple[int, str]]) -> None:
    megabytes, said = found["fine.npz"]
    assert said == "read"
    assert megabytes > 0  # the measurement detects used memory
