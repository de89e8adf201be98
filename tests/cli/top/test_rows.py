"""What is computed from samples: rates, shares, times, and why somebody is slow."""

from __future__ import annotations

from typing import Any

import pytest

from tenantctl.top.entitlements import entitlements
from tenantctl.top.live_rows import Row, view
from tenantctl.top.slow_reasons import reasons
from tests.cli.top.samples import DAEMON, budget, busy, ended, rate, request, sample, tenant, waiting


def rows(samples: list[Any]) -> dict[str, Row]:
    return {row.name: row for row in view(samples).rows}


def test_rates_and_shares_are_those_since_an_earlier_sample() -> None:
    found = view(busy())
    by_name = {row.name: row for row in found.rows}
    assert (by_name["acme"].output_per_s, by_name["acme"].input_per_s) == (300.0, 80.0)
    assert by_name["globex"].output_per_s == 140.0 and by_name["hooli"].output_per_s == 0.0
    assert by_name["acme"].share == pytest.approx(3400 / 6000) and by_name["stopped"].share == 0.0
    assert (found.engine.output_per_s, found.engine.busy, found.engine.step_ms) == (490.0, 0.8, 10.0)
    assert dict(found.totals) == {"running": 8, "paused": 2, "waiting": 7}


def test_one_sample_has_no_rates_and_a_daemon_that_started_again_has_none_since_before() -> None:
    earlier, later = busy()
    assert rows([later])["acme"].output_per_s is None and view([later]).engine.busy is None
    again = sample(106.0, tenant("acme", engine_micros=10, completion_tokens=4))
    assert rows([earlier, later, again])["acme"].output_per_s is None
    last = sample(107.0, tenant("acme", engine_micros=20, completion_tokens=10))
    assert rows([earlier, later, again, last])["acme"].output_per_s == 6.0


def test_rates_are_over_some_seconds_and_a_newcomer_has_none() -> None:
    samples = [sample(float(n), tenant("acme", completion_tokens=n * n)) for n in range(20)]
    assert rows(samples)["acme"].output_per_s == (19 * 19 - 14 * 14) / 5
    samples.append(sample(20.0, tenant("acme", completion_tokens=400), tenant("new", completion_tokens=9)))
    assert rows(samples)["new"].output_per_s is None


def test_times_to_the_first_token_are_of_requests_that_ended_and_that_run() -> None:
    found = rows(busy())
    assert (found["acme"].first_p50_micros, found["acme"].first_p99_micros) == (200_000, 900_000)
    assert (found["globex"].first_p50_micros, found["globex"].first_p99_micros) == (51_000, 100_000)
    assert found["hooli"].first_p50_micros is None


def test_limits_and_budgets_shown_are_the_ones_nearest_to_their_ends() -> None:
    full = tenant(
        "acme",
        running=1,
        waiting=1,
        limits={"max_concurrent": 4, "requests_per_minute": 10, "max_queued": 256},
        rates={"requests": rate(10, 4)},
        budgets=[budget(1, 10), budget(9, 10, unit="money"), budget(0, 0, key_id="key_1")],
    )
    [row] = view([sample(1.0, full)]).rows
    assert row.limit is not None and (row.limit.what, row.limit.used, row.limit.fraction) == (
        "requests per minute",
        6,
        0.6,
    )
    assert row.budget is not None and row.budget["key_id"] == "key_1"
    [row] = view([sample(1.0, tenant("acme", waiting=250))]).rows
    assert row.limit is not None and row.limit.what == "max queued"


@pytest.mark.parametrize(
    ("tenants", "expected"),
    [
        ([tenant("a", waiting=99), tenant("b", waiting=99)], {"a": 0.5, "b": 0.5}),
        ([tenant("a", waiting=99, full_weight=3.0), tenant("b", waiting=99)], {"a": 0.75, "b": 0.25}),
        ([tenant("a", running=1), tenant("b", waiting=99)], {"a": 0.125, "b": 0.875}),
        ([tenant("a", waiting=99, limits={"reserved_slots": 6}), tenant("b", waiting=99)], {"a": 0.75, "b": 0.25}),
        ([tenant("a", waiting=99, limits={"max_concurrent": 2}), tenant("b", waiting=99)], {"a": 0.25, "b": 0.75}),
        ([tenant("a", running=1), tenant("b")], {"a": 1.0}),
        ([tenant("a", waiting=3, held=3), tenant("b", running=2)], {"b": 1.0}),
        ([tenant("a")], {}),
    ],
)
def test_tenants_with_work_are_entitled_to_slots_by_weight(
    tenants: list[dict[str, Any]], expected: dict[str, float]
) -> None:
    assert entitlements(tenants, slots=8) == pytest.approx(expected)


QUEUED = waiting("req_1", "acme", 12, 90_000)
REASONS: list[tuple[dict[str, Any], dict[str, Any], list[str], str]] = [
    ({}, {}, [], ""),
    ({"running": 2}, {}, [], ""),
    ({"state": "suspended"}, {}, ["suspended"], "refused"),
    ({"budgets": [budget(10, 10)]}, {}, ["budget"], "monthly tokens budget is used up"),
    ({"budgets": [budget(10, 10, key_id="key_1")]}, {}, ["budget"], "of key key_1"),
    ({"waiting": 1}, {"state": "loading", "progress": 0.4}, ["engine", "queue"], "loading (40%)"),
    ({"waiting": 1}, {"state": "checking"}, ["check", "queue"], "is checking its isolation"),
    ({"waiting": 1}, {"requests_paused": True}, ["ledger", "queue"], "cannot be written"),
    ({"running": 1, "throttled": True}, {}, ["throttled"], "an eighth"),
    (
        {"waiting": 3, "held": 3, "limits": {"requests_per_minute": 6}, "rates": {"requests": rate(6, 0)}},
        {},
        ["limit"],
        "3 requests held back by the limit: 6 requests per minute",
    ),
    (
        {"running": 1, "waiting": 2, "limits": {"max_concurrent": 1}},
        {},
        ["concurrent", "queue"],
        "limit of 1 request at once; 2 more",
    ),
    (
        {"paused": 1, "limits": {"tokens_per_minute": 600}, "rates": {"tokens": rate(600, 10)}},
        {},
        ["pacing", "paused"],
        "600 tokens per minute",
    ),
    ({"running": 1, "rates": {"tokens": rate(600, 60)}}, {}, [], ""),
    ({"running": 1, "paused": 2}, {}, ["paused"], "2 requests paused for tenants that have had less"),
    ({"running": 1, "waiting": 2}, {}, ["queue"], "the next is 12th in the queue, 45 s-3 min to go"),
    ({"running": 1}, {"adapters_running": 3}, ["adapters"], "every 3rd pass"),
    ({"waiting": 1, "computing_prompts": 1}, {}, ["prompt"], "1 prompt being computed"),
]


@pytest.mark.parametrize(("told", "daemon", "codes", "words"), REASONS)
def test_why_a_tenant_is_slow(told: dict[str, Any], daemon: dict[str, Any], codes: list[str], words: str) -> None:
    requests = [request("req_0", "other"), QUEUED, waiting("req_2", "other", 1)]
    found = reasons(tenant("acme", **told), {**DAEMON, **daemon}, requests)
    assert [reason.code for reason in found] == codes
    assert not found or words in found[0].whole
    assert all(len(reason.short) <= 20 and reason.whole.endswith(".") for reason in found)


def test_a_tenant_that_looks_at_itself_has_rates_and_no_shares() -> None:
    one = {"engine_micros": 1}
    samples = [
        sample(n, tenant("acme", **one, completion_tokens=n), is_whole=False, daemon={"engine": None}) for n in (1, 2)
    ]
    [row] = view(samples).rows
    assert (row.output_per_s, row.share, row.entitled) == (1.0, None, None)
    assert view(samples).engine.step_ms is None
    assert rows([sample(1.0, tenant("acme"), ended=[ended("req_1", "acme")])])["acme"].first_p50_micros == 200_000
