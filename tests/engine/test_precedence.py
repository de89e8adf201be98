"""Whose turn it is within a tenant: what is computed already goes first, but the oldest is not put off for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tenantd.domain import Sampling
from tenantd.engine.jobs import Job, TenantJobs
from tenantd.engine.precedence import MOST_CONSIDERED, MOST_OVERTAKEN, take_next
from tenantd.wire.messages import Submit


def waiting(count: int, cache: int = 1) -> TenantJobs:
    tenant = TenantJobs(cache=cache)
    for number in range(count):
        submit = Submit(request=number, tenant="a", prompt=[0], max_tokens=1, sampling=1)
        tenant.queue.append(Job(submit, Sampling(), [0], 0, 0))
    return tenant


def test_without_a_cache_or_knowledge_it_is_the_oldest() -> None:
    assert take_next(waiting(3, cache=0), lambda job: job.arrival).arrival == 0
    assert take_next(waiting(3), None).arrival == 0


def test_of_equals_it_is_the_oldest_and_one_that_gave_way_goes_on_first() -> None:
    assert take_next(waiting(3), lambda job: 64).arrival == 0
    tenant = waiting(3)
    tenant.queue[0].binding = 7
    assert take_next(tenant, lambda job: job.arrival).arrival == 0


def test_only_the_first_few_are_looked_at() -> None:
    assert take_next(waiting(100), lambda job: job.arrival).arrival == MOST_CONSIDERED - 1


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_nobody_is_overtaken_more_often_than_that_once_it_is_the_oldest(cached: list[int]) -> None:
    tenant = waiting(len(cached))
    overtaken = 0
    for _ in cached:
        oldest = tenant.queue[0]
        taken = take_next(tenant, lambda job: cached[job.arrival])
        overtaken = 0 if taken is oldest else overtaken + 1
        assert overtaken <= MOST_OVERTAKEN
    assert not tenant.queue
