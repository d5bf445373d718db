"""McNemar's exact test of two models that answered the same examples. Integers only, so that a page can ask at once."""

from __future__ import annotations


def mcnemar_p(right_to_wrong: int, wrong_to_right: int) -> float:
    """Exact two-sided probability of so uneven a split if both directions were equally likely; 1 where nothing flipped."""
    discordant, fewer = right_to_wrong + wrong_to_right, min(right_to_wrong, wrong_to_right)
    ways = tail = 1  # to choose k of them, and to choose at most k
    for k in range(fewer):
        ways = ways * (discordant - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**discordant)
