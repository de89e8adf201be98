"""Logarithmic buckets for percentiles of times, as in DDSketch (Masson et al., VLDB 2019). Pure.

Bucket i counts the values in (GAMMA^(i-1), GAMMA^i], in microseconds, and stands for a value within it that is at most
RELATIVE_ERROR away from each of them. Buckets of several hours or tenants add up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

RELATIVE_ERROR: Final = 0.02
GAMMA: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GAMMA: Final = math.log(GAMMA)


def bucket_of(micros: int) -> int:
    """The bucket of a time; times below one microsecond are in the first."""
    return math.ceil(math.log(micros) / _LOG_GAMMA) if micros > 1 else 0


def value_of(bucket: int) -> int:
    """The time that a bucket stands for, in microseconds."""
    return round(2 * GAMMA**bucket / (GAMMA + 1))


def percentile(counts: Mapping[int, int], percent: int) -> int | None:
    """By nearest rank, in microseconds; None if nothing was counted. `counts` is by bucket."""
    total = sum(counts.values())
    rank = (total * percent + 99) // 100
    for bucket in sorted(counts):
        rank -= counts[bucket]
        if rank <= 0 and total:
            return value_of(bucket)
    return None
