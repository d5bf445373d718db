"""Storage sizes of tensors, and storage budgets.

This module does not import torch, because that would slow down the app's pages.

To say which tensors it stores, a method declares `Shapes`: name -> shape. Together with a storage dtype, the shapes determine a
layout: name -> shape and dtype. The predicted size and the ledger of a compressed group are both computed from
`storage_layout`, so they agree.

    float32, bfloat16, float16    every tensor in that dtype
    int8                          matrices as int8 codes with one float32 scale per row (`NAME.scale`); vectors stay float32

Integers (`Codes`: indices, masks, quantized entries) are bit-packed into bytes, regardless of the storage dtype. Each integer
counts as one stored parameter, so packing saves bytes but never parameters.
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
    """`count` integers of `bits` bits each, packed without gaps into a uint8 tensor (`numerics.bits`)."""

    count: int
    bits: int

    @property
    def shape(self) -> Shape:
        """The shape of the packed tensor."""
        return ((self.count * self.bits + 7) // 8,)


@dataclass(frozen=True)
class CodedBytes:
    """`count` integers in an entropy code of `num_bytes` bytes, stored as a uint8 tensor."""

    count: int
    num_bytes: int

    @property
    def shape(self) -> Shape:
        """The shape of the stored tensor."""
        return (self.num_bytes,)


Shapes = Mapping[str, Shape | Codes | CodedBytes]

BYTES_PER_ELEMENT = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1}
STORAGE_DTYPES = ("float32", "bfloat16", "float16", "int8")
STORED = "stored"
"""In a plan, this value means the dtype of the checkpoint's tensors; `storage_dtype` resolves it."""
DTYPE_CHOICES = (STORED, *STORAGE_DTYPES)
UNITS = ("parameters", "bytes")
SCALE_SUFFIX = ".scale"


@dataclass(frozen=True)
class Size:
    """A storage size in bytes and in parameters; every stored value is a parameter, including codes, scales and norms."""

    num_parameters: int
    num_bytes: int

    def in_unit(self, unit: str) -> int:
        """The size in the given unit, "parameters" or "bytes"."""
        return self.num_parameters if unit == "parameters" else self.num_bytes

    def __add__(self, other: Size) -> Size:
        return Size(self.num_parameters + other.num_parameters, self.num_bytes + other.num_bytes)

    def __sub__(self, other: Size) -> Size:
        return Size(self.num_parameters - other.num_parameters, self.num_bytes - other.num_bytes)


@dataclass(frozen=True)
class Budget:
    """Storage budget of a compressed matrix: a `limit` in `unit`, with tensors stored in `dtype`.

    Ranks and latent widths are rounded down to a multiple of `multiple`.
    """

    limit: int
    unit: str = "parameters"
    dtype: str = "float32"
    multiple: int = 1

    def admits(self, shapes: Shapes) -> bool:
        """Whether tensors with the given shapes fit the budget when stored in `dtype`."""
        return stored_size(shapes, self.dtype).in_unit(self.unit) <= self.limit


def storage_dtype(asked: str, own: Iterable[str]) -> str:
    """Resolve the storage dtype requested in a plan, given the dtypes of the tensors to compress.

    "stored" means the common dtype of these tensors. If their dtypes differ, "stored" means float32, the narrowest dtype that
    can represent every value, since neither bfloat16 nor float16 covers the other.
    """
    if asked != STORED:
        return asked
    different = set(own)
    return different.pop() if len(different) == 1 else "float32"


def storage_layout(shapes: Shapes, dtype: str) -> dict[str, tuple[Shape, str]]:
    """Name -> (shape, dtype) of every tensor that is actually written to disk."""
    layout: dict[str, tuple[Shape, str]] = {}
    for name, shape in shapes.items():
        if isinstance(shape, Codes | CodedBytes):
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
    """Number of parameters and bytes of tensors with the given shapes when stored in `dtype`."""
    layout = storage_layout(shapes, dtype)
    counts = code_counts(shapes)
    return Size(
        num_parameters=sum(counts.get(name, prod(shape)) for name, (shape, _) in layout.items()),
        num_bytes=sum(prod(shape) * BYTES_PER_ELEMENT[stored] for shape, stored in layout.values()),
    )


def code_counts(shapes: Shapes) -> dict[str, int]:
    """The number of integers in each packed tensor."""
    return {name: shape.count for name, shape in shapes.items() if isinstance(shape, Codes | CodedBytes)}


def budget_for_ratio(original: Size, ratio: float | int, unit: str, dtype: str, multiple: int = 1) -> Budget:
    """The budget for a requested compression ratio: floor(original / ratio).

    The ratio is treated as the exact decimal number that the user typed, so 1100 / 1.1 is 1000, not 999.
    """
    return Budget(int(original.in_unit(unit) / Fraction(str(ratio))), unit, dtype, multiple)


def largest_size_within(budget: Budget, shapes_of: Callable[[int], Shapes], sizes: range) -> int | None:
    """The largest of `sizes` whose tensors fit the budget, or None if none do. Assumes that larger sizes need more storage."""
    fitting = bisect_left(sizes, True, key=lambda size: not budget.admits(shapes_of(size)))
    return sizes[fitting - 1] if fitting else None
