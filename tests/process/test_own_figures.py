"""What a tenant sees of itself, and that it is nothing of others."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx
import pytest

from tenantd.request_ids import new_request_id
from tests.support.daemon import Daemon, wait_until

UNKNOWN = new_request_id()
NUMBERS = itertools.count()


class Tenant(NamedTuple):
    daemon: Daemon
    name: str
    key: str

    def get(self, path: str, key: str | None = None) -> httpx.Response:
        return self.daemon.get(path, headers={"authorization": f"Bearer {key or self.key}"})

    def json(self, path: str) -> Any:
        return self.get(path).raise_for_status().json()

    def cancel(self, request_id: str) -> httpx.Response:
        return self.daemon.post(f"/v1/requests/{request_id}/cancel", headers={"authorization": f"Bearer {self.key}"})

    def reader(self) -> str:
        """A key of it that only reads."""
        answer = self.daemon.post(f"/admin/v1/tenants/{self.name}/keys", {"scopes": ["read"]})
        return str(answer.raise_for_status().json()["secret"])

    def complete(self, tokens: int) -> str:
        """The id of a request that has ended."""
        answer = self.daemon.complete(self.name, max_tokens=tokens, ignore_eos=True)
        return str(answer.raise_for_status().headers["x-request-id"])


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    billing = {"input_price_per_million": 10, "output_price_per_million": 20}
    with Daemon(tmp_path_factory.mktemp("own"), engine={"fake_step_micros": 10_000}, billing=billing) as daemon:
        yield daemon


@pytest.fixture
def tenants(daemon: Daemon) -> tuple[Tenant, Tenant]:
    """Two of their own for each test."""
    stem = f"t{next(NUMBERS)}"
    one, other = (Tenant(daemon, name, daemon.add_tenant(name)) for name in (stem, f"{stem}-other"))
    return one, other


def test_usage_and_invoice_are_its_own_and_agree_with_the_administrators(tenants: tuple[Tenant, Tenant]) -> None:
    one, other = tenants
    nothing = one.json("/v1/usage")["total"]
    assert (nothing["requests"], nothing["cost_nanos"], nothing["p99_duration_micros"]) == (0, 0, None)
    assert one.json("/v1/invoices/this")["invoice"]["total_nanos"] == 0
    for tokens in (5, 7):
        one.complete(tokens)
    other.complete(100)
    mine = one.json("/v1/usage")
    [theirs] = one.daemon.get(f"/admin/v1/usage?tenant={one.name}").json()["tenants"]
    assert mine["total"] == {name: value for name, value in theirs.items() if name not in ("tenant", "tenant_id")}
    assert (mine["total"]["requests"], mine["total"]["completion_tokens"]) == (2, 12)
    for by in ("day", "hour", "key", "model"):
        grouped = one.json(f"/v1/usage/{by}")
        groups = grouped["groups"]  # two where a new day or hour has just begun
        assert grouped["by"] == by and not any({"tenant", "tenant_id"} & group.keys() for group in groups)
        for name in ("requests", "prompt_tokens", "completion_tokens", "engine_micros", "cost_nanos"):
            assert sum(group[name] for group in groups) == mine["total"][name], (by, name)
    for by in ("tenant", "adapter", "x", "hour?since=0"):
        assert one.get(f"/v1/usage/{by}").status_code == 400, by
    invoice = one.json("/v1/invoices/this")
    assert invoice["open"] and invoice["invoice"]["tenant"] == one.name
    assert invoice["invoice"]["total_nanos"] == mine["total"]["cost_nanos"] > 0
    assert "audit_head" not in invoice
    seen = one.get("/v1/usage").text + one.get("/v1/invoices/this").text + one.get("/v1/requests").text
    assert other.name not in seen + one.get("/v1/limits").text
    assert one.get("/v1/invoices/2026-13").status_code == one.get("/v1/invoices/9000-01").status_code == 400
    assert one.get("/v1/usage?month=this&since=0").status_code == 400
    assert one.json(f"/v1/usage?since=0&until={time.time_ns() // 1000 - 3_600_000_000}")["total"]["requests"] == 0


def test_requests_are_its_own_page_by_page(tenants: tuple[Tenant, Tenant]) -> None:
    one, other = tenants
    ids = [one.complete(tokens) for tokens in (1, 2, 3, 4, 5)]
    foreign = other.complete(1)
    found, after = [], ""
    while after is not None:
        page = one.json(f"/v1/requests?limit=2{after and f'&after={after}'}")
        found += page["requests"]
        after = page["next"]
    assert [row["id"] for row in found] == ids[::-1]
    assert [row["completion_tokens"] for row in found] == [5, 4, 3, 2, 1]
    answer_id = "cmpl-" + ids[0].removeprefix("req_")
    assert one.json(f"/v1/requests/{ids[0]}") == one.json(f"/v1/requests/{answer_id}") == {"request": found[-1]}
    assert not {"uid", "tenant", "tenant_id", "adapter", "price_id"} & found[0].keys()
    for bad in ("limit=0", "limit=201", "limit=x", f"after={foreign}", f"after={UNKNOWN}", "after=x"):
        assert one.get(f"/v1/requests?{bad}").status_code in (400, 404), bad
    same = [one.get(f"/v1/requests?after={each}") for each in (foreign, UNKNOWN)]
    assert same[0].content == same[1].content


def answers_alike(one: Tenant, theirs: str, path: str, method: str = "GET") -> None:
    """The answer for another's request is that for one that never was, byte for byte."""
    with one.daemon.client() as client:
        answers = [
            client.request(method, path.format(each), headers={"authorization": f"Bearer {one.key}"})
            for each in (theirs, UNKNOWN)
        ]
    assert [answer.status_code for answer in answers] == [404] * 2
    assert answers[0].content == answers[1].content
    different = {"date", "x-request-id"}
    assert len({tuple((k, v) for k, v in a.headers.items() if k not in different) for a in answers}) == 1


def test_anothers_request_is_as_one_that_never_was(tenants: tuple[Tenant, Tenant]) -> None:
    one, other = tenants
    ended = other.complete(1)
    running = other.daemon.stream(other.name, max_tokens=4000, ignore_eos=True).begun(2)
    for theirs in (ended, running.request_id):
        answers_alike(one, theirs, "/v1/requests/{}")
        answers_alike(one, theirs, "/v1/requests/{}/cancel", "POST")
    assert other.json(f"/v1/requests/{running.request_id}")["request"]["live_state"] == "running", "nothing ended it"
    assert other.cancel(running.request_id).json() == {"cancelled": running.request_id}
    assert running.join().error["code"] == "cancelled"


def test_the_time_of_an_answer_does_not_tell_either(tenants: tuple[Tenant, Tenant]) -> None:
    one, other = tenants
    theirs = [other.complete(1) for _ in range(4)]
    times: dict[str, list[float]] = {"theirs": [], "unknown": []}
    with one.daemon.client() as client:
        for round_ in range(150):
            asked = {"theirs": theirs[round_ % 4], "unknown": new_request_id()}
            for kind in sorted(asked, reverse=bool(round_ % 2)):
                began_s = time.perf_counter()
                client.get(f"/v1/requests/{asked[kind]}", headers={"authorization": f"Bearer {one.key}"})
                times[kind].append(time.perf_counter() - began_s)
    medians = {kind: statistics.median(found) for kind, found in times.items()}
    noise = statistics.median(abs(each - medians["unknown"]) for each in times["unknown"])
    assert abs(medians["theirs"] - medians["unknown"]) < max(noise, 0.0005), medians


def test_a_tenant_cancels_what_runs_and_what_waits_and_is_billed_for_what_it_got(
    tenants: tuple[Tenant, Tenant],
) -> None:
    one, _ = tenants
    running = one.daemon.stream(one.name, max_tokens=4000, ignore_eos=True).begun(10)
    reader = one.reader()
    headers = {"authorization": f"Bearer {reader}"}
    refused = one.daemon.post(f"/v1/requests/{running.request_id}/cancel", headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    assert one.get(f"/v1/requests/{running.request_id}", reader).status_code == 200
    assert one.cancel("cmpl-" + running.request_id.removeprefix("req_")).status_code == 200
    error = running.join().error
    assert error is not None and error["message"] == "the tenant cancelled the request"

    def ended() -> dict[str, Any] | None:
        row: dict[str, Any] = one.json(f"/v1/requests/{running.request_id}")["request"]
        return row if row["state"] == "cancelled" else None

    row = wait_until(ended, "its end")
    assert row["completion_tokens"] >= 10 and row["cost_nanos"] > 0 and row["live_state"] is None
    assert one.cancel(running.request_id).status_code == 404, "it has ended"


def test_limits_say_what_is_in_force_and_what_is_left(tenants: tuple[Tenant, Tenant]) -> None:
    one, _ = tenants
    limits = {"requests_per_minute": 10, "max_concurrent": 3}
    one.daemon.request("PATCH", f"/admin/v1/tenants/{one.name}", json={"limits": limits}).raise_for_status()
    one.complete(1)
    running = one.daemon.stream(one.name, max_tokens=4000, ignore_eos=True).begun(2)
    found = one.json("/v1/limits")
    assert (found["tenant"], found["state"], found["running"], found["waiting"]) == (one.name, "active", 1, 0)
    assert found["limits"]["max_concurrent"] == 3 and found["limits"]["tokens_per_minute"] is None
    assert found["rates"]["requests"]["remaining"] == 8 and found["rates"]["tokens"] is None
    assert found["budgets"] == []
    budget = {"budgets": [{"period": "daily", "unit": "tokens", "amount": 5000}]}
    one.daemon.request("PATCH", f"/admin/v1/tenants/{one.name}/budgets", json=budget).raise_for_status()
    [shown] = one.json("/v1/limits")["budgets"]
    assert (shown["period"], shown["unit"], shown["amount"], shown["key_id"]) == ("daily", "tokens", 5000, None)
    assert 0 < shown["left"] == 5000 - shown["used"] - shown["reserved"] < 5000 and shown["used"] > 0
    one.cancel(running.request_id)
    running.join()


def test_a_suspended_tenant_may_look_and_a_removed_one_may_not(tenants: tuple[Tenant, Tenant]) -> None:
    one, _ = tenants
    request_id = one.complete(1)
    one.daemon.post(f"/admin/v1/tenants/{one.name}/suspend").raise_for_status()
    paths = ("/v1/usage", "/v1/limits", "/v1/requests", f"/v1/requests/{request_id}", "/v1/invoices/this")
    paths += ("/v1/history",)
    assert [one.get(path).status_code for path in paths] == [200] * 6
    assert one.json("/v1/limits")["state"] == "suspended"
    one.daemon.request("DELETE", f"/admin/v1/tenants/{one.name}").raise_for_status()
    assert [one.get(path).status_code for path in paths] == [401] * 6


def test_a_flood_of_one_tenant_delays_no_other_and_no_administrator(tenants: tuple[Tenant, Tenant]) -> None:
    one, other = tenants
    one.complete(1)

    def flood(_: int) -> int:
        with one.daemon.client() as client:
            headers = {"authorization": f"Bearer {one.key}"}
            return sum(client.get("/v1/usage?since=0", headers=headers).status_code == 429 for _ in range(20))

    with ThreadPoolExecutor(40) as threads:
        refused = threads.map(flood, range(40))
        for _ in range(10):
            assert other.get("/v1/usage?since=0").status_code == 200
            assert one.daemon.get("/admin/v1/usage?since=0").status_code == 200
        assert sum(refused) > 0, "more than a few of one tenant do not wait"
