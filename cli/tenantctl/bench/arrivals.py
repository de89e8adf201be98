"""When requests arrive: a rate as a function of time, and the resulting arrival times.

Times within a run are fractions of its length, from 0 to 1, so that a suite means the same at any duration.
"""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """A linear piece of a rate. Rates are requests per second."""

    begin: float
    end: float
    rate_at_begin: float
    rate_at_end: float

    def at(self, moment: float) -> float:
        """The rate at a moment within the segment."""
        part = (moment - self.begin) / (self.end - self.begin)
        return self.rate_at_begin + (self.rate_at_end - self.rate_at_begin) * part

    @property
    def area(self) -> float:
        """Requests times fraction of the run: requests, for a run of one second."""
        return (self.rate_at_begin + self.rate_at_end) / 2 * (self.end - self.begin)

    def reach(self, area: float) -> float:
        """The moment up to which this much of the area lies. The rate must not be 0 throughout."""
        slope = (self.rate_at_end - self.rate_at_begin) / (self.end - self.begin)
        root = math.sqrt(max(0.0, self.rate_at_begin**2 + 2 * slope * area))
        return min(self.end, self.begin + 2 * area / (self.rate_at_begin + root))


@dataclass(frozen=True)
class Rate:
    """Consecutive segments from 0 to 1."""

    segments: tuple[Segment, ...]

    def at(self, moment: float) -> float:
        """Requests per second at a fraction of the run."""
        i = bisect.bisect_right([s.begin for s in self.segments], moment) - 1
        return self.segments[i].at(moment)

    @property
    def mean(self) -> float:
        """Requests per second over the whole run."""
        return sum(s.area for s in self.segments)

    def times(self, expected: Iterator[float], duration_s: float) -> Iterator[float]:
        """The seconds at which the expected number of requests reaches each number of an increasing series."""
        areas = [s.area * duration_s for s in self.segments]
        ends = list(itertools.accumulate(areas))
        for count in expected:
            i = bisect.bisect_right(ends, count)
            if i == len(ends):
                return
            before = ends[i] - areas[i]
            yield self.segments[i].reach((count - before) / duration_s) * duration_s


def steady(rate: float) -> Rate:
    """A constant rate."""
    return Rate((Segment(0, 1, rate, rate),))


def ramp(first: float, last: float) -> Rate:
    """A rate that changes linearly."""
    return Rate((Segment(0, 1, first, last),))


def on_off(rate: float, phases: int = 10) -> Rate:
    """`phases` phases of equal length, alternately on and off, starting with on."""
    return phased(*(rate if i % 2 == 0 else 0.0 for i in range(phases)))


def phased(*rates: float) -> Rate:
    """One rate after another, each for an equal part of the time."""
    n = len(rates)
    return Rate(tuple(Segment(i / n, (i + 1) / n, rate, rate) for i, rate in enumerate(rates)))


def in_turn(*rates: Rate) -> Rate:
    """Whole runs one after another, each compressed into an equal part of the time."""
    n = len(rates)
    return Rate(
        tuple(
            Segment((i + s.begin) / n, (i + s.end) / n, s.rate_at_begin, s.rate_at_end)
            for i, rate in enumerate(rates)
            for s in rate.segments
        )
    )


def even_arrivals(rate: Rate, duration_s: float, rng: random.Random, scale: float = 1.0) -> Iterator[float]:
    """Evenly spaced arrivals at the rate times `scale`; only the first one is random."""
    phase = rng.random()
    return rate.times(((phase + i) / scale for i in itertools.count()), duration_s)


def poisson_arrivals(rate: Rate, duration_s: float, rng: random.Random, scale: float = 1.0) -> Iterator[float]:
    """A Poisson process with the rate times `scale`."""
    gaps = (rng.expovariate(1.0) / scale for _ in itertools.count())
    return rate.times(itertools.accumulate(gaps), duration_s)
