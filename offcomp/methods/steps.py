"""The arithmetic by which a method computes one entry of a reconstruction, step by step, with the numbers filled in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

SHOWN = 4
"""Number of terms of a sum that are listed; the rest are added up."""


class Step(NamedTuple):
    """One line of the arithmetic: what is computed, the numbers it is computed from, and the result, if it is a number.

    The result of the last step is the entry of the reconstruction.
    """

    label: str
    numbers: str
    value: float | None = None


def number(value: float) -> str:
    """Format a number with four significant digits."""
    return f"{value:.4g}"


def numbers(values: Sequence[float], shown: int = 6) -> str:
    """Format a vector, shortened to its first values."""
    more = f", ... ({len(values)} numbers)" if len(values) > shown else ""
    return f"[{', '.join(map(number, values[:shown]))}{more}]"


def terms_of_sum(terms: Sequence[Step], *, largest: bool) -> list[Step]:
    """List the first terms of a sum (or the largest, in order), and add up the others in one step.

    The values of the returned steps have the same sum as those of all terms.
    """
    values = [term.value or 0.0 for term in terms]
    order = sorted(range(len(terms)), key=lambda index: -abs(values[index])) if largest else range(len(terms))
    listed = sorted(order[:SHOWN])
    others = [value for index, value in enumerate(values) if index not in listed]
    rest = [Step("all other terms" if largest else f"terms {SHOWN + 1} to {len(terms)}", "", sum(others))] if others else []
    return [*(terms[index] for index in listed), *rest]
