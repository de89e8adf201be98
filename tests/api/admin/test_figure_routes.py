"""The routes of figures, on a whole daemon with its own ledger."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.api.described import DescribedDaemon

ZONE = "Asia/Kolkata"
PRICES = {"input_price_per_million": "1", "output_price_per_million": "2"}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DescribedDaemon]:
    billing = {"timezone": ZONE, **PRICES}
    with DescribedDaemon(
        tmp_path_factory.mktemp("figures"), model={"name": "tiny"}, billing=billing, limits={"requests_per_minute": 60}
    ) as daemon:
        for name in ("acme", "globex"):
            daemon.add_tenant(name, weight=3)
        key = daemon.add_tenant("keyed")
        headers = {"authorization": f"Bearer {key}"}
        for tokens in (3, 4):
            body = {"prompt": "Hi", "max_tokens": tokens, "ignore_eos": True}
            assert daemon.post("/v1/completions", body, headers=headers).status_code == 200
        assert daemon.complete("acme", max_tokens=5, ignore_eos=True).status_code == 200
        assert daemon.complete("acme", "x" * 5000).status_code == 400
        yield daemon


@pytest.fixture(scope="module")
def around() -> dict[str, str]:
    """The days around now, whatever day or month ends meanwhile."""
    today = datetime.now(ZoneInfo(ZONE)).date()
    since, until = (today + timedelta(days=days) for days in (-1, 3))
    return {"since": since.isoformat(), "until": until.isoformat()}


def get(daemon: DescribedDaemon, path: str, **query: Any) -> Any:
    return daemon.get(f"/admin/v1/{path}", params=query).raise_for_status().json()


def test_stats_have_every_tenant_and_how_it_stands(daemon: DescribedDaemon) -> None:
    answer = get(daemon, "stats")
    assert answer["until_micros"] - answer["since_micros"] == 3_600_000_000 and answer["is_exact"]
    by_name = {tenant["tenant"]: tenant for tenant in answer["tenants"]}
    assert list(by_name) == ["acme", "globex", "keyed"]
    acme, globex, keyed = by_name.values()
    assert (acme["requests"], acme["completion_tokens"], acme["requests_last_minute"]) == (1, 5, 1)
    assert (acme["weight"], acme["limits"]["requests_per_minute"], acme["tokens_last_minute"]) == (3.0, 60, None)
    assert acme["refused"] == {"context_length_exceeded": 1} and keyed["refused"] == {}
    assert acme["p50_duration_micros"] == acme["p99_duration_micros"] == acme["average_duration_micros"]
    assert (globex["requests"], globex["p99_duration_micros"], globex["error_rate"]) == (0, None, 0.0)
    assert (keyed["requests"], keyed["completion_tokens"]) == (2, 7)
    assert acme["engine_share"] + keyed["engine_share"] == pytest.approx(1)
    assert answer["total"]["requests"] == 3
    [alone] = get(daemon, "stats", tenant="acme", window="24h")["tenants"]
    assert alone["engine_share"] == acme["engine_share"] and alone["requests"] == 1


def test_a_removed_tenant_keeps_its_figures(daemon: DescribedDaemon) -> None:
    daemon.add_tenant("leaving")
    daemon.complete("leaving", max_tokens=2, ignore_eos=True)
    daemon.request("DELETE", "/admin/v1/tenants/leaving")
    [left] = get(daemon, "stats", tenant="leaving")["tenants"]
    assert (left["requests"], left["is_removed"], left["limits"]) == (1, True, None)
    daemon.add_tenant("leaving")
    same = [each for each in get(daemon, "stats")["tenants"] if each["tenant"] == "leaving"]
    assert [(each["requests"], each["is_removed"]) for each in same] == [(1, True), (0, False)]


def test_usage_by_anything_adds_up_to_the_same(daemon: DescribedDaemon, around: dict[str, str]) -> None:
    whole = get(daemon, "usage", tenant="keyed", **around)["tenants"][0]
    for by in ("day", "hour", "tenant", "key", "model", "adapter"):
        answer = get(daemon, f"usage/{by}", tenant="keyed", **around)
        assert (answer["by"], answer["timezone"]) == (by, ZONE)
        for field in ("requests", "prompt_tokens", "completion_tokens", "engine_micros", "cost_nanos"):
            assert sum(group[field] for group in answer["groups"]) == whole[field]
    day, *_ = get(daemon, "usage/day", tenant="keyed", **around)["groups"]
    assert day["until_micros"] - day["since_micros"] == 86_400_000_000, "from midnight to midnight"
    [group] = get(daemon, "usage/key", tenant="keyed", **around)["groups"]
    [key] = get(daemon, "tenants/keyed/keys")["keys"]
    assert (group["name"], group["label"], group["tenant"]) == (key["id"], key["label"], "keyed")
    assert group["list_nanos"] == group["cost_nanos"] == group["prompt_tokens"] * 1000 + 7 * 2000
    assert get(daemon, "usage/model", **around)["groups"][0]["name"] == "tiny"
    assert get(daemon, "usage/hour", **around)["groups"][0]["name"].endswith(":00+05:30")


def test_dates_are_those_of_the_billing_time_zone(daemon: DescribedDaemon) -> None:
    answer = get(daemon, "usage", since="2026-03-01", until="2026-03-02")
    assert answer["since_micros"] == 1_772_303_400_000_000  # 18:30 UTC on the day before
    assert answer["until_micros"] - answer["since_micros"] == 86_400_000_000
    yesterday, today = (get(daemon, "usage", since=day)["since_micros"] for day in ("yesterday", "today"))
    assert today - yesterday in (86_400_000_000, 2 * 86_400_000_000), "the latter if it was midnight in between"
    assert today % 86_400_000_000 == 66_600_000_000, "18:30 UTC"
    at = get(daemon, "usage", since="2026-03-01T14:30", until="2026-03-02 00:00:01.5")
    assert at["since_micros"] - answer["since_micros"] == 14.5 * 3_600_000_000
    assert at["until_micros"] - answer["until_micros"] == 1_500_000
    assert get(daemon, "stats", since="2026-03-01", until="2026-03-02")["total"]["requests"] == 0
    assert get(daemon, "stats", month="this")["until_micros"] <= time.time() * 1e6, "not in the future"
    ahead = get(daemon, "stats", since=str(int(time.time() * 1e6) + 10**12))
    assert ahead["total"]["requests"] == 0 and ahead["total"]["output_tokens_per_s"] == 0


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("usage/year", "by"),
        ("usage?since=2026-02-31", "since"),
        ("usage/day?until=now", "until"),
        ("usage/day?month=2026-13", "month"),
        ("usage?month=this&since=0", "month"),
        ("stats?window=1y", "window"),
        ("stats?window=0h", "window"),
        ("stats?window=-1h", "window"),
        ("stats?window=9999999999s", "window"),
        ("stats?window=1h&month=this", "window"),
        ("stats?window=1h&since=0", "window"),
        ("stats?month=this&until=0", "month"),
        ("stats?since=1e3", "since"),
        ("usage?since=2&until=1", "since"),
        ("usage/hour?since=2025-01-01&until=2026-01-01", "since"),
        ("usage?since=2026-02-31T10:00", "since"),
    ],
)
def test_what_is_no_period_is_refused(daemon: DescribedDaemon, path: str, param: str) -> None:
    answer = daemon.get(f"/admin/v1/{path}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_window_longer_than_time_is_all_of_it(daemon: DescribedDaemon) -> None:
    assert get(daemon, "stats", window="999999999w")["since_micros"] == 0


@pytest.mark.parametrize("path", ["stats", "usage/day", "usage"])
def test_an_unknown_tenant_is_none(daemon: DescribedDaemon, path: str) -> None:
    answer = daemon.get(f"/admin/v1/{path}?tenant=nobody")
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "tenant")
