from __future__ import annotations

import pytest

from tenantctl.bench.arrivals import Rate
from tenantctl.bench.load import rate_scale
from tenantctl.bench.suites import SUITES, VTC_CAPACITY, Closed, Open, Shape, Suite
from tenantd.domain import TENANT_NAME

ALL = pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: suite.name)


@ALL
def test_a_suite_can_be_run(suite: Suite) -> None:
    assert suite.about
    assert suite.duration_s > 0
    names = [t.name for t in suite.tenants]
    assert names and len(set(names)) == len(names)
    for tenant in suite.tenants:
        assert TENANT_NAME.fullmatch(f"bench-{tenant.name}-abcdef")
        assert tenant.weight > 0
        assert tenant.shape.prompt_tokens > 0 and tenant.shape.output_tokens > 0
        assert _sends_something(tenant.load)
        assert tenant.also is None or _sends_something(tenant.also)
    assert not suite.newcomer or suite.newcomer in names


def _sends_something(load: Closed | Open) -> bool:
    if isinstance(load, Open):
        return _is_whole(load.rate) and load.rate.mean > 0
    edges = [edge for span in load.on for edge in span]
    return load.clients > 0 and edges == sorted(edges) and edges[0] >= 0 and edges[-1] <= 1


def _is_whole(rate: Rate) -> bool:
    ends = [0.0, *(s.end for s in rate.segments)]
    begins = [*(s.begin for s in rate.segments), 1.0]
    return begins == pytest.approx(ends) and all(s.rate_at_begin >= 0 and s.rate_at_end >= 0 for s in rate.segments)


def demand(suite: Suite) -> dict[str, float]:
    """Service per second that each tenant asks for, next to the capacity the rates are for."""
    return {
        t.name: t.load.rate.mean * t.shape.service / VTC_CAPACITY for t in suite.tenants if isinstance(t.load, Open)
    }


@pytest.mark.parametrize("suite", [s for s in SUITES.values() if s.calibrated], ids=lambda suite: suite.name)
def test_a_calibrated_suite_asks_for_about_all_there_is_or_more(suite: Suite) -> None:
    assert len(demand(suite)) == len(suite.tenants)
    assert sum(demand(suite).values()) > 0.85


def test_tenants_over_their_share_are_so_at_the_papers_capacity() -> None:
    assert min(demand(SUITES["vtc-overload"]).values()) > 1 / 2
    assert min(demand(SUITES["vtc-multi"]).values()) > 1 / 8
    weighted = demand(SUITES["vtc-weighted"])
    assert all(weighted[f"tenant-{w}"] > w / 10 for w in (1, 2, 3, 4))
    proportional = demand(SUITES["vtc-proportional"])
    assert proportional["tenant-1"] < 1 / 3 and proportional["tenant-2"] < 1 / 3 < proportional["tenant-3"]


def test_the_noisy_neighbour_is_the_same_alone_and_not() -> None:
    assert SUITES["flood"].tenants == (*SUITES["solo"].tenants, *SUITES["flood-alone"].tenants)
    assert SUITES["long-prompts"].tenants == (*SUITES["solo"].tenants, *SUITES["long-alone"].tenants)


def test_lengths_are_scaled_and_rates_make_up_for_it() -> None:
    suite = SUITES["vtc-overload"].with_lengths(0.25)
    assert {t.shape for t in suite.tenants} == {Shape(64, 64)}
    assert suite.context_tokens == 128
    assert rate_scale(VTC_CAPACITY, 1.0) == 1
    assert rate_scale(2 * VTC_CAPACITY, 0.25) == 8
    assert Shape(3, 1).scaled(0.01) == Shape(1, 1)


def test_the_newcomer_comes_after_the_first_tenants_pause_began_and_before_it_asks_again() -> None:
    first, newcomer = SUITES["newcomer"].tenants
    assert first.shape == SUITES["solo"].tenants[0].shape, "its waits are compared to those of solo"
    assert isinstance(first.load, Closed) and isinstance(newcomer.load, Closed) and first.also is not None
    [alone], [again], [flood] = first.load.on, first.also.on, newcomer.load.on
    assert alone[1] < flood[0] < again[0] < flood[0] + 0.01
    assert (first.load.clients, first.also.clients, newcomer.load.clients) == (8, 1, 32)


def test_the_burst_tenant_is_on_half_of_the_time() -> None:
    [steady, burst] = SUITES["on-off"].tenants
    assert isinstance(steady.load, Closed) and isinstance(burst.load, Closed)
    assert steady.load.on == ((0, 1),)
    assert sum(end - begin for begin, end in burst.load.on) == 0.5
