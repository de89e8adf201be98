"""Figures of tenants over a window, and how evenly they were served."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.domain import FinishReason, Usage
from tenantd.ledger.evenness import Evenness, evenness, jain
from tenantd.ledger.prices import AmountTooLarge
from tenantd.ledger.window import KnownTenant, window_figures
from tests.ledger.many_rows import BASE, HOUR, Made, ended_in, ledger_with, many, periods, total
from tests.support.examples import examples

KNOWN = {
    1: KnownTenant(tenant_id=1, name="acme", weight=2.0),
    2: KnownTenant(tenant_id=2, name="globex", weight=1.0),
    9: KnownTenant(tenant_id=9, name="gone", weight=1.0, is_removed=True),
    10: KnownTenant(tenant_id=10, name="idle", weight=1.0),
}


def tokens_served(prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> float:
    return prompt_tokens + 0.1 * cached_tokens + 2.0 * completion_tokens


def row(
    tenant: str = "acme", *, ended: int = HOUR // 2, duration: int = HOUR, output: int = 10, **more: object
) -> Made:
    usage = Usage(prompt_tokens=10, completion_tokens=output, engine_micros=1000)
    made = Made(tenant, None, "tiny", "", False, FinishReason.STOP, "", usage, ended, duration, None)
    return made._replace(**more)  # type: ignore[arg-type]


@examples(60)
@given(rows=many, period=periods)
def test_figures_are_those_of_the_rows(rows: list[Made], period: list[int]) -> None:
    since, until = (BASE + moment for moment in period)
    with ledger_with(rows) as (conn, records):
        found = window_figures(conn, since, until, KNOWN, tokens_served)
        [alone] = window_figures(conn, since, until, KNOWN, tokens_served, 1).tenants
    own = ended_in(records, since, until)
    names = {each.tenant for each in own}
    assert [each.tenant for each in found.tenants] == sorted({"acme", "globex", "idle"} | names)
    engine_micros = total(own, "engine_micros")
    for each in found.tenants:
        mine = [one for one in own if one.tenant == each.tenant]
        assert each.requests == len(mine) and each.cost_nanos == sum(one.cost_nanos for one in mine)
        for name in ("failed", "interrupted", "cached_tokens", "completion_tokens", "engine_micros"):
            assert getattr(each, name) == total(mine, name)
        assert each.causes == Counter(one.cause for one in mine if one.cause)
        assert each.error_rate * len(mine) == pytest.approx(total(mine, "failed") + total(mine, "interrupted"))
        assert each.engine_share == (each.engine_micros / engine_micros if engine_micros else None)
        measured = [one.duration_micros for one in mine if one.duration_micros is not None]
        if measured:
            assert each.average_duration_micros == pytest.approx(sum(measured) / len(measured), abs=0.51)
        if until > since:
            per_s = total(mine, "completion_tokens") / ((until - since) / 1e6)
            assert each.output_tokens_per_s == pytest.approx(per_s)
    assert alone == next(each for each in found.tenants if each.tenant == "acme")
    for name in ("requests", "failed", "prompt_tokens", "cost_nanos"):
        assert getattr(found.total, name) == sum(getattr(each, name) for each in found.tenants)


def test_a_removed_tenant_is_shown_if_it_used_something() -> None:
    with ledger_with([row("acme")]) as (conn, _):
        for number, shown in ((9, ["acme", "globex", "gone", "idle"]), (1, ["acme", "globex", "idle"])):
            conn.execute("UPDATE hours SET tenant_id = ?", (number,))
            found = window_figures(conn, BASE, BASE + HOUR, KNOWN, tokens_served)
            assert [each.tenant for each in found.tenants] == shown
            assert [each.is_removed for each in found.tenants] == [name == "gone" for name in shown]


def test_a_window_without_length_has_no_speed() -> None:
    with ledger_with([row()]) as (conn, _):
        found = window_figures(conn, BASE, BASE, KNOWN, tokens_served)
    assert found.total.requests == 0 and found.total.output_tokens_per_s == 0
    assert found.tenants[0].engine_share is None and found.tenants[0].p99_duration_micros is None


def test_sums_beyond_64_bits_are_refused() -> None:
    big = row(usage=Usage(engine_micros=2**62, prompt_tokens=0))  # type: ignore[call-arg]
    with ledger_with([big, big._replace(tenant="globex")]) as (conn, _), pytest.raises(AmountTooLarge):
        window_figures(conn, BASE, BASE + HOUR, KNOWN, tokens_served)


# -- evenness


def even(rows: Sequence[Made], weights: dict[int, float] | None = None, until: int = 3 * HOUR) -> Evenness:
    with ledger_with(rows) as (conn, _):
        return evenness(conn, BASE, BASE + until, weights or {}, tokens_served)


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=9))
def test_jains_index_is_from_one_nth_to_one(shares: list[float]) -> None:
    assert 1 / len(shares) - 1e-9 <= jain(shares) <= 1 + 1e-9


def test_jains_index_of_known_shares() -> None:
    assert jain([3, 3, 3]) == 1 and jain([5, 0, 0, 0]) == 0.25
    assert jain([1, 2]) == pytest.approx(0.9) and jain([0, 0]) == 1


def test_tenants_that_had_work_all_the_time_are_compared_by_weight() -> None:
    acme, globex = row(output=195), row("globex", output=95)
    assert even([acme, globex], {1: 2.0, 2: 1.0}) == Evenness(index=1.0, shared_micros=HOUR, tenants=2)
    unequal = even([acme, globex])
    assert unequal.index == jain([400, 200])


def test_who_is_not_busy_does_not_count() -> None:
    assert even([row(), row("globex", duration=HOUR - 1)]) == Evenness(index=None, shared_micros=0, tenants=0)
    assert even([row(), row("globex", ended=HOUR + 1)]).index is None, "not in the same hour"
    assert even([]) == Evenness(index=None, shared_micros=0, tenants=0)


def test_the_index_is_the_mean_over_the_hours_and_parts_of_hours_that_were_shared() -> None:
    early = [row(), row("globex", output=25)]
    late = [row(ended=HOUR + 5), row("initech", ended=HOUR + 5)]
    found = even([*early, *late], until=HOUR * 3 // 2)
    assert found.tenants == 3 and found.shared_micros == HOUR * 3 // 2
    assert found.index == pytest.approx((jain([30, 60]) * 2 + 1.0) / 3)
