"""McNemar's test agrees with SciPy and with cases calculated by hand."""

from __future__ import annotations

import pytest
import scipy.stats

from offcomp.numerics.paired_tests import mcnemar_p


def test_mcnemar_by_hand() -> None:
    assert mcnemar_p(0, 0) == 1
    assert mcnemar_p(5, 5) == 1
    assert mcnemar_p(0, 5) == mcnemar_p(5, 0) == pytest.approx(2 / 32)
    assert mcnemar_p(3000, 2000) < 1e-40


@pytest.mark.parametrize(
    ("lost", "won"), [(0, 0), (0, 1), (5, 5), (0, 9), (12, 3), (3, 12), (70, 41), (300, 200), (10_100, 9_900)]
)
def test_mcnemar_is_the_binomial_test_of_scipy(lost: int, won: int) -> None:
    p = mcnemar_p(lost, won)
    assert 0 <= p <= 1
    assert p == pytest.approx(scipy.stats.binomtest(won, lost + won).pvalue if lost + won else 1)
