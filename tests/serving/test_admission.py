"""What a request may ask for."""

from __future__ import annotations

import pytest

from tenantd.domain import Limits, Tenant
from tenantd.errors import (
    ContextLengthExceeded,
    Forbidden,
    InvalidRequest,
    MaxTokensPerRequestExceeded,
    PromptOverTokensPerMinute,
)
from tenantd.fleet.throughput import Throughput
from tenantd.live.registry import Count
from tenantd.serving.admission import (
    ALLOW_NONE_AT_ZERO,
    changed_hands,
    check_allowed,
    check_prompt,
    full_queue,
    may_wait,
    output_tokens,
    renamed,
)


def allowed(prompt_tokens: int, asked: int | None, **limits: int) -> int:
    tenant = Tenant(name="acme", limits=Limits(**limits))
    return output_tokens(tenant, prompt_tokens, asked, context_tokens=100, default_tokens=40)


def test_what_is_asked_for_is_given_when_there_is_room() -> None:
    assert allowed(10, 30) == 30
    assert allowed(10, None) == 40


def test_output_is_cut_to_the_room_the_prompt_leaves() -> None:
    assert allowed(90, 30) == 10
    assert allowed(99, None) == 1


def test_a_prompt_that_fills_the_context_is_refused_with_both_numbers() -> None:
    with pytest.raises(ContextLengthExceeded, match=r"length is 100 tokens\. .* 100 tokens\.") as e:
        allowed(100, 1)
    assert (e.value.http_status, e.value.param) == (400, "prompt")


def test_a_tenants_own_context_limit_counts_when_it_is_lower() -> None:
    assert allowed(10, 30, max_context_tokens=20) == 10
    assert allowed(10, 30, max_context_tokens=500) == 30
    with pytest.raises(ContextLengthExceeded, match="length is 20 tokens for tenant acme"):
        allowed(20, 1, max_context_tokens=20)


def test_a_tenants_output_limit_is_its_default_and_its_bound() -> None:
    assert allowed(10, None, max_tokens_per_request=7) == 7
    assert allowed(10, 7, max_tokens_per_request=7) == 7
    with pytest.raises(MaxTokensPerRequestExceeded, match="at most 7") as e:
        allowed(10, 8, max_tokens_per_request=7)
    assert (e.value.param, e.value.code) == ("max_tokens", "max_tokens_per_request_exceeded")


@pytest.mark.parametrize("asked", [0, -1])
def test_no_output_is_no_request(asked: int) -> None:
    with pytest.raises(InvalidRequest, match="at least 1"):
        allowed(10, asked)


def test_an_output_limit_of_zero_allows_nothing() -> None:
    with pytest.raises(InvalidRequest, match="at most 0"):
        allowed(10, None, max_tokens_per_request=0)


def test_an_empty_prompt_is_no_request() -> None:
    with pytest.raises(InvalidRequest, match="must not be empty"):
        check_prompt([])
    check_prompt([0])


def queue(
    *,
    waiting: int,
    running: int = 0,
    others: int = 0,
    max_queued: int | None = 2,
    held: int = 0,
    more: int = 1,
    is_held: bool = False,
    **limits: int,
) -> bool:
    return may_wait(
        Tenant(name="acme", limits=Limits(max_queued=max_queued, **limits)),
        waiting=waiting,
        running=running,
        others=others,
        slots=4,
        held=held,
        more=more,
        is_held=is_held,
    )


def test_free_slots_and_places_in_the_queue_add_up() -> None:
    assert queue(waiting=5)
    assert not queue(waiting=6)
    assert queue(waiting=1, running=4)
    assert not queue(waiting=2, running=4)
    assert not queue(waiting=2, others=9)


def test_a_queue_of_none_still_lets_in_what_finds_a_free_slot() -> None:
    assert queue(waiting=3, max_queued=0)
    assert not queue(waiting=4, max_queued=0)
    assert queue(waiting=0, others=3, max_queued=0)
    assert not queue(waiting=0, others=4, max_queued=0)


def test_a_queue_without_a_limit_takes_them_all() -> None:
    assert queue(waiting=10_000_000, running=4, max_queued=None)


def test_slots_over_a_tenants_concurrency_are_not_free_for_it() -> None:
    assert queue(waiting=1, max_queued=0, max_concurrent=2)
    assert not queue(waiting=2, max_queued=0, max_concurrent=2)
    assert not queue(waiting=1, running=1, max_queued=0, max_concurrent=2)


def test_a_tenant_that_may_run_nothing_is_told_so_instead_of_waiting_for_ever() -> None:
    for name in ("max_concurrent", "requests_per_minute", "tokens_per_minute"):
        with pytest.raises(Forbidden, match=f"its {name} is 0"):
            check_allowed(Tenant(name="acme", limits=Limits(**{name: 0})), 1)


def test_a_prompt_that_never_fits_a_minute_is_refused_with_both_numbers() -> None:
    tenant = Tenant(name="acme", limits=Limits(tokens_per_minute=50))
    check_allowed(tenant, 50)
    with pytest.raises(PromptOverTokensPerMinute, match=r"has 51 tokens, .* acme may use only 50 per minute") as e:
        check_allowed(tenant, 51)
    assert (e.value.http_status, e.value.code) == (400, "prompt_exceeds_tokens_per_minute")


def test_who_waits_for_the_rate_limits_takes_a_place_in_the_queue_and_no_slot() -> None:
    assert queue(waiting=0, held=1, is_held=True)
    assert not queue(waiting=0, held=2, is_held=True)
    assert not queue(waiting=5, held=1, is_held=True)
    assert queue(waiting=2, held=2)
    assert not queue(waiting=4, held=2)


def test_several_requests_at_once_find_places_together_or_not_at_all() -> None:
    assert queue(waiting=0, more=6)
    assert not queue(waiting=0, more=7)
    assert not queue(waiting=0, more=3, is_held=True)


def test_the_wait_follows_the_rate_at_which_requests_end() -> None:
    pace = Throughput()
    for second in range(10):
        pace.ended(100.0 + 3 * second)
    assert pace.wait_s(130.0, 1, 0.0) == 3
    assert pace.wait_s(130.0, 4, 0.0) == 12, "the next place may go to any tenant that waits"


def test_the_wait_grows_while_nothing_ends_and_stays_within_its_bounds() -> None:
    pace = Throughput()
    pace.ended(0.0)
    pace.ended(0.001)
    assert pace.wait_s(0.001, 1, 0.0) == 1
    assert pace.wait_s(20.0, 1, 0.0) == 10
    assert pace.wait_s(10_000.0, 1, 0.0) == 60


def test_without_an_end_yet_the_oldest_request_is_the_measure() -> None:
    assert Throughput().wait_s(5.0, 3, 7.2) == 8


@pytest.mark.parametrize("limit", ALLOW_NONE_AT_ZERO)
def test_a_limit_of_zero_allows_none_and_says_so(limit: str) -> None:
    with pytest.raises(Forbidden, match=f"may not run requests: its {limit} is 0"):
        check_allowed(Tenant(name="acme", limits=Limits(**{limit: 0})), 5)


def test_one_token_per_minute_is_not_enough_for_anything() -> None:
    with pytest.raises(Forbidden, match="tokens_per_minute is 1"):
        check_allowed(Tenant(name="acme", limits=Limits(tokens_per_minute=1)), 1)


def test_a_full_queue_says_whether_it_is_the_tenants_own_requests_that_fill_it() -> None:
    acme = Tenant(name="acme", limits=Limits(max_concurrent=2, max_queued=0))
    own = full_queue(acme, Count(running=2), 0)
    assert (own.code, own.http_status) == ("max_concurrent_exceeded", 429)
    assert "already runs its maximum of 2 requests" in own.message and "max_queued is 0" in own.message
    assert "has no queue (max_queued is 0)" in full_queue(acme, Count(running=1, waiting=1), 0).message
    queued = Tenant(name="acme", limits=Limits(max_concurrent=2, max_queued=4))
    others = full_queue(queued, Count(running=1, waiting=3), 1, retry_after_s=5)
    assert (others.code, others.retry_after_s) == ("queue_full", 5)
    assert "already has 4 requests waiting" in others.message
    many = full_queue(Tenant(name="acme", limits=Limits(max_queued=256)), Count(), 0, more=1024)
    assert "may have 256 requests waiting, but sent 1024 at once" in many.message


def test_the_time_in_which_nothing_ran_says_nothing_of_the_pace() -> None:
    pace = Throughput()
    for now_s in (1.0, 2.0, 3.0):
        pace.ended(now_s)
    assert pace.places_s(4.0, 5, 0.5) == 5.0
    pace.forget()
    assert pace.places_s(3600.0, 5, 0.5) == 0.5


def test_a_tenant_is_told_by_its_id_from_another_that_has_its_name_by_now() -> None:
    before = {name: Tenant(id=number, name=name) for number, name in enumerate(("kept", "again", "old", "left"), 1)}
    after = {name: Tenant(id=number, name=name) for number, name in ((1, "kept"), (5, "again"), (3, "new"), (6, "old"))}
    assert changed_hands(before, after) == ["again", "old", "left", "new"]
    assert renamed(before, after) == [("old", "new")]
    assert changed_hands(before, before) == renamed(before, before) == []
