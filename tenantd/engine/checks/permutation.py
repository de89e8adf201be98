"""Whether paired measurements differ: a permutation test that a few outliers cannot decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

PERMUTATIONS: Final = 20_000
_AT_ONCE: Final = 1000


def p_value(differences: Sequence[float], seed: int) -> float:
    """How likely differences at least as far to one side are, if either sign is equally likely for each.

    Two-sided. The statistic is the sum of signed ranks (Wilcoxon's), so that only the order of the differences counts
    and not their size; its distribution comes from `PERMUTATIONS` random assignments of signs. At least
    1 / (PERMUTATIONS + 1).
    """
    values = np.asarray(differences, np.float64)
    values = values[values != 0]
    if not len(values):
        return 1.0
    ranks = _ranks(np.abs(values))
    observed = abs(float((np.sign(values) * ranks).sum()))
    random = np.random.default_rng(seed)
    as_far = 0
    for _ in range(PERMUTATIONS // _AT_ONCE):
        signs = random.integers(0, 2, (_AT_ONCE, len(ranks)), np.int8) * 2.0 - 1.0
        as_far += int((np.abs(signs @ ranks) >= observed - 1e-9).sum())
    return (as_far + 1) / (PERMUTATIONS + 1)


def _ranks(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """1 for the smallest; equal values share the mean of their ranks."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: np.ndarray[tuple[int], np.dtype[np.float64]] = last - (counts - 1) / 2
    return means[which]
