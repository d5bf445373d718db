"""What is stored, and how much of it fits a budget. Integers only: no torch, so that a page can ask at once.

A method states the tensors it stores as `Shapes`: name -> shape. A storage dtype turns these into a layout: name -> shape
and dtype. Both the prediction of a size and the ledger of a finished group go through `storage_layout`, so they agree.

    float32, bfloat16, float16    every tensor in that dtype
    int8                          matrices as int8 codes, one float32 scale a row (`NAME.scale`); vectors stay float32

Whole numbers (`Codes`: indices, masks, quantized entries) are packed without gaps into bytes, whatever the storage dtype. Each
of them counts as one stored parameter, so that packing saves bytes and never parameters.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import prod

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Codes:
    """`count` whole numbers of `bits` each, packed without gaps into a uint8 tensor (`numerics.bits`)."""

    count: int
    bits: int

    @property
    def shape(self) -> Shape:
        """The shape of the packed tensor."""
        return ((self.count * self.bits + 7) // 8,)


Shapes = Mapping[str, Shape | Codes]

BYTES_PER_ELEMENT = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1}
STORAGE_DTYPES = ("float32", "bfloat16", "float16", "int8")
STORED = "stored"
"""What a plan says for the dtype of the checkpoint's own tensors; `storage_dtype` tells which that is."""
DTYPE_CHOICES = (STORED, *STORAGE_DTYPES)
UNITS = ("parameters", "bytes")
SCALE_SUFFIX = ".scale"


@dataclass(frozen=True)
class Size:
    """How much is stored: numbers of any kind (codes, scales and norms count), and their bytes."""

    num_parameters: int
    num_bytes: int

    def in_unit(self, unit: str) -> int:
        """The size in "parameters" or in "bytes"."""
        return self.num_parameters if unit == "parameters" else self.num_bytes

    def __add__(self, other: Size) -> Size:
        return Size(self.num_parameters + other.num_parameters, self.num_bytes + other.num_bytes)

    def __sub__(self, other: Size) -> Size:
        return Size(self.num_parameters - other.num_parameters, self.num_bytes - other.num_bytes)


@dataclass(frozen=True)
class Budget:
    """The most that a compressed matrix may store: `limit` in `unit`, with tensors kept in `dtype`."""

    limit: int
    unit: str = "parameters"
    dtype: str = "float32"

    def admits(self, shapes: Shapes) -> bool:
        """Whether these tensors, stored in `dtype`, stay within the limit."""
        return stored_size(shapes, self.dtype).in_unit(self.unit) <= self.limit


def storage_dtype(asked: str, own: Iterable[str]) -> str:
    """The storage dtype that a plan asks for, given the dtypes of the tensors that are compressed.

    "stored" is the dtype that all of them have, or else the narrowest that holds the values of each: float32, since neither
    bfloat16 nor float16 holds all of the other's.
    """
    if asked != STORED:
        return asked
    different = set(own)
    return different.pop() if len(different) == 1 else "float32"


def storage_layout(shapes: Shapes, dtype: str) -> dict[str, tuple[Shape, str]]:
    """Name -> (shape, dtype) of every tensor that is really written to disk."""
    layout: dict[str, tuple[Shape, str]] = {}
    for name, shape in shapes.items():
        if isinstance(shape, Codes):
            layout[name] = (shape.shape, "uint8")
        elif dtype != "int8":
            layout[name] = (shape, dtype)
        else:
            is_matrix = len(shape) == 2
            layout[name] = (shape, "int8" if is_matrix else "float32")
            if is_matrix:
                layout[name + SCALE_SUFFIX] = (shape[:1], "float32")
    return layout


def stored_size(shapes: Shapes, dtype: str) -> Size:
    """Parameters and bytes of the tensors `shapes` when stored in `dtype`."""
    layout = storage_layout(shapes, dtype)
    counts = code_counts(shapes)
    return Size(
        num_parameters=sum(counts.get(name, prod(shape)) for name, (shape, _) in layout.items()),
        num_bytes=sum(prod(shape) * BYTES_PER_ELEMENT[stored] for shape, stored in layout.values()),
    )


def code_counts(shapes: Shapes) -> dict[str, int]:
    """How many whole numbers each packed tensor holds."""
    return {name: shape.count for name, shape in shapes.items() if isinstance(shape, Codes)}


def budget_for_ratio(original: Size, ratio: float, unit: str, dtype: str) -> Budget:
    """The budget of a requested compression ratio: floor(original / ratio).

    The ratio is read as the decimal number that was typed, so that 1100 / 1.1 is 1000 and not 999.
    """
    return Budget(int(original.in_unit(unit) / Fraction(str(ratio))), unit, dtype)


def largest_size_within(budget: Budget, shapes_of: Callable[[int], Shapes], sizes: range) -> int | None:
    """The largest of `sizes` (ranks, latent widths) whose tensors fit, given that larger ones store more; else None."""
    fitting = bisect_left(sizes, True, key=lambda size: not budget.admits(shapes_of(size)))
    return sizes[fitting - 1] if fitting else None
