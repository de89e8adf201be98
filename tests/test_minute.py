"""The sliding minute, with a clock that does whatever a clock can do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.minute import FINE_GRAIN_MICROS, GRAIN_MICROS, WINDOW_MICROS, SlidingWindow, TokenWindow

SECOND = 1_000_000
HOUR = 3_600 * SECOND

# How far the clock moves: mostly on, by anything from a microsecond to two minutes; sometimes by hours, either way.
moves = st.one_of(
    st.integers(0, 1000),
    st.integers(0, 2 * SECOND),
    st.integers(0, 2 * WINDOW_MICROS),
    st.sampled_from(
        [-5 * HOUR, -SECOND, -1, FINE_GRAIN_MICROS, GRAIN_MICROS, WINDOW_MICROS - 1, WINDOW_MICROS, 5 * HOUR]
    ),
)
grains = st.sampled_from([FINE_GRAIN_MICROS, GRAIN_MICROS])


@given(grain=grains, limit=st.integers(1, 50), steps=st.lists(st.tuples(moves, st.integers(1, 50)), max_size=60))
def test_no_minute_ever_holds_more_than_the_limit(grain: int, limit: int, steps: list[tuple[int, int]]) -> None:
    window, clock, passed = SlidingWindow(grain), 0, 0
    booked: list[tuple[int, int]] = []  # when, by the time that really passed, and how much
    for move, amount in steps:
        clock += move
        passed += max(0, move)
        if amount <= limit and window.wait_micros(amount, limit, clock) == 0:
            window.book(amount, clock)
            booked.append((passed, amount))
    for begin, _ in booked:
        within = sum(amount for when, amount in booked if begin <= when < begin + WINDOW_MICROS)
        assert within <= limit, f"{within} in the minute from {begin}"


@given(
    grain=grains,
    limit=st.integers(1, 50),
    steps=st.lists(st.tuples(moves, st.integers(1, 80)), max_size=40),
    amount=st.integers(1, 50),
)
def test_the_wait_is_true_and_no_longer_than_it_must_be(
    grain: int, limit: int, steps: list[tuple[int, int]], amount: int
) -> None:
    """Even when more than the limit is booked, as when it was lowered."""
    window, clock = SlidingWindow(grain), 0
    for move, booked in steps:
        clock += move
        window.book(booked, clock)
    amount = min(amount, limit)
    wait = window.wait_micros(amount, limit, clock)
    assert 0 <= wait <= WINDOW_MICROS
    if wait:
        assert window.wait_micros(amount, limit, clock + wait - 1) == 1
        assert window.wait_micros(amount, limit, clock + wait) == 0
    assert (window.used(clock + wait) + amount) <= limit


@given(
    grain=grains,
    steps=st.lists(st.tuples(moves, st.integers(1, 50)), max_size=40),
    later=st.integers(0, 2 * WINDOW_MICROS),
)
def test_a_window_that_is_told_what_another_counts_counts_the_same(
    grain: int, steps: list[tuple[int, int]], later: int
) -> None:
    window, clock = SlidingWindow(grain), 0
    for move, amount in steps:
        clock += move
        window.book(amount, clock)
    told = SlidingWindow(grain)
    told.recall(window.counting(clock), 7 * HOUR)
    assert told.used(7 * HOUR + later) == window.used(clock + later)
    assert told.counting(7 * HOUR + later) == window.counting(clock + later)


@given(grain=grains, steps=st.lists(st.tuples(moves, st.integers(0, 50)), max_size=40))
def test_the_window_counts_all_of_the_last_minute_and_a_grain_more_at_most(
    grain: int, steps: list[tuple[int, int]]
) -> None:
    window, clock, passed = SlidingWindow(grain), 0, 0
    booked: list[tuple[int, int]] = []
    for move, amount in steps:
        clock += move
        passed += max(0, move)
        window.book(amount, clock)
        booked.append((passed, amount))
        least = sum(a for when, a in booked if passed - when < WINDOW_MICROS)
        most = sum(a for when, a in booked if passed - when < WINDOW_MICROS + grain)
        assert least <= window.used(clock) <= most
    reset = window.reset_micros(clock)
    assert (reset == 0) == (window.used(clock) == 0)
    assert window.used(clock + reset) == 0


@pytest.mark.parametrize("grain", [FINE_GRAIN_MICROS, GRAIN_MICROS])
def test_a_minute_of_many_bookings_is_kept_as_few_numbers(grain: int) -> None:
    window = SlidingWindow(grain)
    for tick in range(400_000):
        window.book(1, tick * 500)
    assert window.used(200 * SECOND) >= 120_000
    assert len(window._grains) <= 1 + WINDOW_MICROS // grain


# ---- the engine's tokens -----------------------------------------------------------------------------------------


def test_tokens_count_without_a_limit_too_and_a_limit_set_later_counts_them() -> None:
    window = TokenWindow()
    window.give(7, 10.0)
    assert (window.allowance(11.0), window.next_s(11.0)) == (None, None)
    window.limit_tokens = 5
    assert window.allowance(11.0) == 0
    window.limit_tokens = 9
    assert window.allowance(11.0) == 2


def test_a_window_that_is_full_has_room_at_the_moment_it_names() -> None:
    window = TokenWindow(5)
    window.give(3, 10.0004)
    window.give(2, 20.0)
    room_s = window.next_s(30.0)
    assert room_s == pytest.approx(70.0004)
    assert window.allowance(room_s - 1e-5) == 0
    assert window.allowance(room_s) == 3
    assert window.next_s(room_s) is None


def test_without_any_tokens_allowed_there_is_no_moment_to_wait_for() -> None:
    window = TokenWindow(0)
    window.recall([(5_000_000, 3)], 100.0)
    assert (window.allowance(100.0), window.next_s(100.0)) == (0, None)
