"""The measured times of passes, as a line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.engine.speeds import Line


def learned(*passes: tuple[int, int], is_flat: bool = False) -> Line:
    line = Line(is_flat=is_flat)
    for size, micros in passes:
        line.learn(size, micros)
    return line


def test_nothing_is_known_at_first() -> None:
    line = Line()
    assert not line.is_known
    assert line.micros(10) == line.typical(10) == 0
    assert line.size(10) == float("inf")


def test_one_size_is_taken_for_proportional_or_for_flat() -> None:
    assert learned((10, 1000)).micros(20) == pytest.approx(2000)
    assert learned((10, 1000), is_flat=True).micros(20) == pytest.approx(1000)


def test_two_sizes_tell_what_a_pass_costs_whatever_its_size() -> None:
    line = learned(*[(16, 1160), (128, 2280)] * 10)
    assert line.micros(64) == pytest.approx(1640, rel=0.02)
    assert line.size(1640) == pytest.approx(64, rel=0.05)
    assert line.typical(1720) == pytest.approx(72, rel=0.05)


def test_what_is_latest_counts_most() -> None:
    line = learned(*[(16, 160), (64, 640)] * 50, *[(16, 320), (64, 1280)] * 50)
    assert line.micros(32) == pytest.approx(640, rel=0.05)


def test_one_slow_pass_is_soon_forgotten() -> None:
    line = learned(*[(16, 160), (64, 640)] * 20, (16, 10**9), *[(16, 160), (64, 640)] * 20)
    assert line.micros(64) == pytest.approx(640, rel=0.1)


@given(st.lists(st.tuples(st.integers(1, 8192), st.integers(0, 10**8)), min_size=1, max_size=40), st.booleans())
def test_times_are_never_negative_and_never_fall_with_size(passes: list[tuple[int, int]], is_flat: bool) -> None:
    line = learned(*passes, is_flat=is_flat)
    times = [line.micros(size) for size in (0, 1, 16, 100, 10_000)]
    assert times[0] >= 0 and times == sorted(times)
    assert line.size(0) >= 0 and line.typical(1000) >= 0
