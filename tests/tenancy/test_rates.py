"""Limits per minute, and places in a line."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.domain import Limits, Tenant
from tenantd.errors import RequestsPerMinuteExceeded, TokensPerMinuteExceeded
from tenantd.tenancy.rates import Leases, Rates, RateState

SECOND = 1_000_000

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
    assert (refusal.retry_after_ms, refusal.retry_after_s) == (40_000, 40)
    assert rates.refusal(limited, 1, 60 * SECOND - 1) is not None
    assert rates.refusal(limited, 1, 60 * SECOND) is None


def test_tokens_are_refused_when_the_prompt_does_not_fit_what_is_left() -> None:
    rates, limited = Rates(), tenant(tokens_per_minute=100)
    rates.book_tokens("acme", 60, 0)
    assert rates.refusal(limited, 40, SECOND) is None
    refusal = rates.refusal(limited, 41, SECOND)
    assert isinstance(refusal, TokensPerMinuteExceeded)
    assert (refusal.http_status, refusal.type, refusal.code) == (429, "rate_limit_error", "tokens_per_minute_exceeded")
    assert refusal.retry_after_ms == 59_000
    assert rates.states(limited, SECOND) == {"tokens": RateState(100, 40, 59_000_000)}


def test_of_two_limits_the_one_that_takes_longer_is_named() -> None:
    rates, limited = Rates(), tenant(requests_per_minute=1, tokens_per_minute=10)
    rates.book_request("acme", 0)
    rates.book_tokens("acme", 10, 30 * SECOND)
    refusal = rates.refusal(limited, 1, 31 * SECOND)
    assert isinstance(refusal, TokensPerMinuteExceeded) and refusal.retry_after_ms == 59_000
    rates.book_request("acme", 40 * SECOND)
    refusal = rates.refusal(limited, 1, 41 * SECOND)
    assert isinstance(refusal, RequestsPerMinuteExceeded) and refusal.retry_after_ms == 59_000


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
