"""Sliding windows and places in a line, with a clock that does whatever a clock can do."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantd.domain import Limits, Tenant
from tenantd.errors import RequestsPerMinuteExceeded, TokensPerMinuteExceeded
from tenantd.tenancy.rates import GRAIN_MICROS, WINDOW_MICROS, Leases, Rates, RateState, SlidingWindow

SECOND = 1_000_000
HOUR = 3_600 * SECOND

# How far the clock moves: mostly on, by anything from a microsecond to two minutes; sometimes by hours, either way.
moves = st.one_of(
    st.integers(0, 1000),
    st.integers(0, 2 * SECOND),
    st.integers(0, 2 * WINDOW_MICROS),
    st.sampled_from([-5 * HOUR, -SECOND, -1, GRAIN_MICROS, WINDOW_MICROS - 1, WINDOW_MICROS, 5 * HOUR]),
)


@settings(deadline=None)
@given(limit=st.integers(1, 50), steps=st.lists(st.tuples(moves, st.integers(1, 50)), max_size=60))
def test_no_minute_ever_holds_more_than_the_limit(limit: int, steps: list[tuple[int, int]]) -> None:
    window, clock, passed = SlidingWindow(), 0, 0
    booked: list[tuple[int, int]] = []  # when, by the time that really passed, and how much
    for move, amount in steps:
        clock += move
        passed += max(0, move)
        if amount <= limit and window.wait_micros(amount, limit, clock) == 0:
            window.book(amount, clock)
            booked.append((passed, amount))
    for begin, _ in booked:
        within = sum(amount for when, amount in booked if begin <= when <= begin + WINDOW_MICROS)
        assert within <= limit, f"{within} in the minute from {begin}"


@settings(deadline=None)
@given(
    limit=st.integers(1, 50),
    steps=st.lists(st.tuples(moves, st.integers(1, 80)), max_size=40),
    amount=st.integers(1, 50),
)
def test_the_wait_is_true_and_no_longer_than_it_must_be(limit: int, steps: list[tuple[int, int]], amount: int) -> None:
    """Even when more than the limit is booked, as when it was lowered."""
    window, clock = SlidingWindow(), 0
    for move, booked in steps:
        clock += move
        window.book(booked, clock)
    amount = min(amount, limit)
    wait = window.wait_micros(amount, limit, clock)
    assert 0 <= wait <= WINDOW_MICROS + GRAIN_MICROS
    if wait:
        assert window.wait_micros(amount, limit, clock + wait - 1) == 1
        assert window.wait_micros(amount, limit, clock + wait) == 0
    assert (window.used(clock + wait) + amount) <= limit


@settings(deadline=None)
@given(steps=st.lists(st.tuples(moves, st.integers(1, 50)), max_size=40), later=st.integers(0, 2 * WINDOW_MICROS))
def test_a_window_that_is_told_what_another_counts_counts_the_same(steps: list[tuple[int, int]], later: int) -> None:
    window, clock = SlidingWindow(), 0
    for move, amount in steps:
        clock += move
        window.book(amount, clock)
    told = SlidingWindow()
    for left_micros, amount in window.counting(clock):
        told.recall(amount, WINDOW_MICROS + GRAIN_MICROS - left_micros, 7 * HOUR)
    assert told.used(7 * HOUR + later) == window.used(clock + later)
    assert told.counting(7 * HOUR + later) == window.counting(clock + later)


@settings(deadline=None)
@given(steps=st.lists(st.tuples(moves, st.integers(0, 50)), max_size=40))
def test_the_window_counts_all_of_the_last_minute_and_a_grain_more_at_most(steps: list[tuple[int, int]]) -> None:
    window, clock, passed = SlidingWindow(), 0, 0
    booked: list[tuple[int, int]] = []
    for move, amount in steps:
        clock += move
        passed += max(0, move)
        window.book(amount, clock)
        booked.append((passed, amount))
        least = sum(a for when, a in booked if passed - when <= WINDOW_MICROS)
        most = sum(a for when, a in booked if passed - when <= WINDOW_MICROS + GRAIN_MICROS)
        assert least <= window.used(clock) <= most
    reset = window.reset_micros(clock)
    assert (reset == 0) == (window.used(clock) == 0)
    assert window.used(clock + reset) == 0


def test_a_minute_of_many_bookings_is_kept_as_few_numbers() -> None:
    window = SlidingWindow()
    for tick in range(200_000):
        window.book(1, tick * 1000)
    assert window.used(200 * SECOND) >= 60_000
    assert len(window._grains) <= 1 + WINDOW_MICROS // GRAIN_MICROS


# ---- a tenant's limits -------------------------------------------------------------------------------------------


def tenant(**limits: int) -> Tenant:
    return Tenant(name="acme", limits=Limits(**limits))


def test_a_tenant_without_limits_is_never_refused_and_has_nothing_to_show() -> None:
    rates = Rates()
    for _ in range(1000):
        rates.book_request("acme", 0)
    assert rates.refusal(tenant(), 10**9, 0) is None
    assert rates.states(tenant(), 0) == {}


def test_requests_are_refused_with_the_time_until_the_first_of_them_no_longer_counts() -> None:
    rates, limited = Rates(), tenant(requests_per_minute=2)
    for second in (0, 10):
        assert rates.refusal(limited, 1, second * SECOND) is None
        rates.book_request("acme", second * SECOND)
    refusal = rates.refusal(limited, 1, 20 * SECOND)
    assert isinstance(refusal, RequestsPerMinuteExceeded)
    assert (refusal.http_status, refusal.type, refusal.code) == (
        429,
        "rate_limit_error",
        "requests_per_minute_exceeded",
    )
    assert (refusal.retry_after_ms, refusal.retry_after_s) == (40_100, 41)
    assert rates.refusal(limited, 1, 60 * SECOND) is not None
    assert rates.refusal(limited, 1, 60 * SECOND + 100_000) is None


def test_tokens_are_refused_when_the_prompt_does_not_fit_what_is_left() -> None:
    rates, limited = Rates(), tenant(tokens_per_minute=100)
    rates.book_tokens("acme", 60, 0)
    assert rates.refusal(limited, 40, SECOND) is None
    refusal = rates.refusal(limited, 41, SECOND)
    assert isinstance(refusal, TokensPerMinuteExceeded)
    assert (refusal.http_status, refusal.type, refusal.code) == (429, "rate_limit_error", "tokens_per_minute_exceeded")
    assert refusal.retry_after_ms == 59_100
    assert rates.states(limited, SECOND) == {"tokens": RateState(100, 40, 59_100_000)}


def test_of_two_limits_the_one_that_takes_longer_is_named() -> None:
    rates, limited = Rates(), tenant(requests_per_minute=1, tokens_per_minute=10)
    rates.book_request("acme", 0)
    rates.book_tokens("acme", 10, 30 * SECOND)
    refusal = rates.refusal(limited, 1, 31 * SECOND)
    assert isinstance(refusal, TokensPerMinuteExceeded) and refusal.retry_after_ms == 59_100
    rates.book_request("acme", 40 * SECOND)
    refusal = rates.refusal(limited, 1, 41 * SECOND)
    assert isinstance(refusal, RequestsPerMinuteExceeded) and refusal.retry_after_ms == 59_100


def test_a_limit_set_later_counts_the_minute_before_it_and_a_lowered_one_shows_nothing_left() -> None:
    rates = Rates()
    for _ in range(5):
        rates.book_request("acme", 0)
    assert rates.refusal(tenant(requests_per_minute=5), 1, SECOND) is not None
    assert rates.refusal(tenant(requests_per_minute=6), 1, SECOND) is None
    assert rates.states(tenant(requests_per_minute=3), SECOND)["requests"].remaining == 0


def test_tenants_do_not_count_for_each_other_and_are_forgotten_when_they_are_gone() -> None:
    rates, limited = Rates(), tenant(requests_per_minute=1)
    rates.book_request("globex", 0)
    assert rates.refusal(limited, 1, 0) is None
    rates.book_request("acme", 0)
    rates.keep({"acme"})
    assert rates.refusal(limited, 1, 0) is not None
    rates.keep({"globex"})
    assert rates.refusal(limited, 1, 0) is None


# ---- leases ------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["acme", "globex"]), st.integers(1, 5), st.booleans()), max_size=60), st.data()
)
def test_leases_are_conserved_and_first_come_is_first(steps: list[tuple[str, int, bool]], data: st.DataObject) -> None:
    leases = Leases()
    held: dict[str, deque[tuple[int, int]]] = {"acme": deque(), "globex": deque()}
    for name, places, is_taken in steps:
        if is_taken or not held[name]:
            held[name].append((leases.take(name, places), places))
        else:
            index = data.draw(st.integers(0, len(held[name]) - 1))
            lease, _ = held[name][index]
            del held[name][index]
            leases.release(lease)
            with pytest.raises(KeyError):
                leases.release(lease)
        for tenant_name, line in held.items():
            assert leases.places(tenant_name) == sum(places for _, places in line)
            assert leases.first(tenant_name) == (line[0][0] if line else None)
        assert len(leases) == sum(map(len, held.values()))
        assert leases.total_places == sum(places for line in held.values() for _, places in line)
