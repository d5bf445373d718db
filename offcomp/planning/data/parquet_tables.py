"""Read Parquet tables. A small file can expand to a huge table, so the decompressed size is checked first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offcomp.errors import InputError
from offcomp.planning.data.table_limits import check_cells

if TYPE_CHECKING:
    import pyarrow as pa

LARGEST_CONTENT = 200_000_000
"""Maximum decompressed size of a file, in bytes."""


def read_parquet(content: bytes) -> tuple[pa.Table, list[str]]:
    """The scalar columns, and the names of the nested columns (lists or objects), which are not read.

    Raises InputError if the decompressed size exceeds LARGEST_CONTENT, or a pyarrow error if the file is corrupt.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow.parquet import ParquetFile

    file = ParquetFile(pa.BufferReader(content))
    groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
    _check_bytes(sum(group.total_byte_size for group in groups))
    flat = [column for column in file.schema_arrow if not pa.types.is_nested(column.type)]
    texts = [column.name for column in flat if _is_text(column.type)]
    check_cells(file.metadata.num_rows * len(flat))
    table = ParquetFile(pa.BufferReader(content), read_dictionary=texts).read([column.name for column in flat])
    parts = (part for name in texts for part in table[name].chunks)
    _check_bytes(sum(pc.sum(pc.take(pc.binary_length(part.dictionary), part.indices)).as_py() or 0 for part in parts))
    unpacked = table.cast(pa.schema(flat, file.schema_arrow.metadata))
    return unpacked, [column.name for column in file.schema_arrow if pa.types.is_nested(column.type)]


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return any(of(kind) for of in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary))


def _check_bytes(size: int) -> None:
    if size > LARGEST_CONTENT:
        raise InputError(f"it decompresses to {size / 1e6:.0f} MB; use a subset of at most {LARGEST_CONTENT / 1e6:.0f} MB")
