from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantctl.bench.arrivals import Rate, even_arrivals, in_turn, on_off, phased, poisson_arrivals, ramp, steady
from tests.support.examples import examples

RATES = st.one_of(
    st.floats(0.1, 50).map(steady),
    st.tuples(st.floats(0, 20), st.floats(0.1, 20)).map(lambda r: ramp(*r)),
    st.tuples(st.floats(0.1, 20), st.integers(1, 12)).map(lambda r: on_off(*r)),
    st.lists(st.just(0.0) | st.floats(0.1, 20), min_size=1, max_size=5).filter(any).map(lambda r: phased(*r)),
)


def integral(rate: Rate, begin: float, end: float, steps: int = 4000) -> float:
    """Of the rate over a part of a run of one second, by midpoints."""
    width = (end - begin) / steps
    return sum(rate.at(begin + (i + 0.5) * width) for i in range(steps)) * width


@examples(60)
@given(RATES, st.floats(1, 60), st.floats(0.2, 3), st.integers())
def test_even_arrivals_are_as_many_as_the_rate_says(rate: Rate, duration_s: float, scale: float, seed: int) -> None:
    times = list(even_arrivals(rate, duration_s, random.Random(seed), scale))
    assert times == sorted(times)
    assert all(0 <= t <= duration_s for t in times)
    assert abs(len(times) - rate.mean * duration_s * scale) <= 1


@examples(40)
@given(RATES, st.integers(0, 2**32))
def test_between_two_even_arrivals_lies_one_expected_request(rate: Rate, seed: int) -> None:
    times = list(even_arrivals(rate, 10, random.Random(seed)))
    for before, after in list(pairwise(times))[:3]:
        assert integral(rate, before / 10, after / 10) * 10 == pytest.approx(1, rel=0.02)


@examples(25)
@given(RATES, st.integers(0, 2**32))
def test_poisson_arrivals_are_about_as_many_as_the_rate_says(rate: Rate, seed: int) -> None:
    duration_s = 2000 / rate.mean
    count = len(list(poisson_arrivals(rate, duration_s, random.Random(seed))))
    assert abs(count - 2000) < 6 * math.sqrt(2000)


def test_gaps_of_poisson_arrivals_vary_as_much_as_they_are_long() -> None:
    times = list(poisson_arrivals(steady(10), 1000, random.Random(4)))
    gaps = [b - a for a, b in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((g - mean) ** 2 for g in gaps) / len(gaps))
    assert mean == pytest.approx(0.1, rel=0.05)
    assert deviation == pytest.approx(mean, rel=0.05)


@pytest.mark.parametrize("arrivals", [even_arrivals, poisson_arrivals])
def test_a_seed_gives_the_same_arrivals_again(arrivals: object) -> None:
    assert callable(arrivals)
    first, again, other = (list(arrivals(ramp(1, 9), 20, random.Random(s))) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_nothing_arrives_while_a_rate_is_off() -> None:
    times = list(even_arrivals(on_off(10, phases=4), 40, random.Random(1)))
    assert all(int(t // 10) % 2 == 0 for t in times)
    assert len(times) == pytest.approx(200, abs=1)


def test_a_ramp_begins_slow_and_ends_fast() -> None:
    times = list(even_arrivals(ramp(0, 10), 10, random.Random(1)))
    assert sum(t < 5 for t in times) == pytest.approx(12.5, abs=1.5)
    assert sum(t >= 5 for t in times) == pytest.approx(37.5, abs=1.5)


def test_rates_in_turn_each_take_an_equal_part() -> None:
    rate = in_turn(on_off(6, 3), steady(2), steady(1))
    assert [rate.at(x) for x in (0.05, 0.15, 0.3, 0.5, 0.9)] == [6, 0, 6, 2, 1]
    assert rate.mean == pytest.approx((4 + 2 + 1) / 3)
