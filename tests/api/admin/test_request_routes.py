"""Requests found, shown in every detail, and logged; and what the asker of a route is told of itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.described import DescribedDaemon
from tests.support.daemon import Daemon, wait_until

BILLING = {"input_price_per_million": 10, "output_price_per_million": 20}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon; every test has tenants of its own."""
    with DescribedDaemon(
        tmp_path_factory.mktemp("found"), engine={"fake_step_micros": 2000, "context_tokens": 100_000}, billing=BILLING
    ) as daemon:
        yield daemon


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def complete(daemon: Daemon, key: str, tokens: int = 3) -> str:
    """The id of a request that has ended."""
    body = {"prompt": "Hi", "max_tokens": tokens, "ignore_eos": True}
    answer = daemon.post("/v1/completions", body, headers=bearer(key))
    return str(answer.raise_for_status().headers["x-request-id"])


def ids(daemon: Daemon, **query: Any) -> list[str]:
    answer = daemon.get("/admin/v1/requests", params=query)
    assert answer.status_code == 200, answer.text
    return [row["id"] for row in answer.json()["requests"]]


def test_one_request_is_shown_with_its_key_prices_and_audit_entries(daemon: Daemon) -> None:
    key = daemon.add_tenant("whole")
    found_id = complete(daemon, key)
    path = "/admin/v1/requests/{}"
    entries = lambda: {one["event"] for one in daemon.get(path.format(found_id)).json()["entries"]}  # noqa: E731
    wait_until(lambda: "cleaned_up" in entries(), "the last entry")
    life = daemon.get(path.format(found_id)).json()
    [listed] = daemon.get("/admin/v1/requests", params={"tenant": "whole"}).json()["requests"]
    assert life["request"] == listed and listed["id"] == found_id
    assert entries() >= {"entered", "resources", "response", "cleaned_up"}
    assert all(entry["request_id"] == found_id for entry in life["entries"])
    [own_key] = daemon.get("/admin/v1/tenants/whole/keys").json()["keys"]
    assert life["key"]["id"] == own_key["id"] == listed["key_id"]
    assert (life["prices"]["id"], life["prices"]["output_nanos_per_million"]) == (listed["price_id"], 20 * 10**9)
    assert life["waiting"] is None
    for name in (f"cmpl-{found_id[4:]}", found_id[-8:], found_id[:30], found_id[4:30]):
        assert daemon.get(path.format(name)).json()["request"] == listed, name
    for name in ("req_" + "0" * 32, "ffffffff", "1234567", "x", "%20", "..%2f"):
        assert daemon.get(path.format(name)).status_code == 404, name
    own = daemon.get(f"/v1/requests/{found_id[-8:]}", headers=bearer(key)).json()["request"]
    assert own["id"] == found_id and "uid" not in own


def test_another_tenants_request_is_not_found_by_digits_either(daemon: Daemon) -> None:
    one, other = daemon.add_tenant("digits-one"), daemon.add_tenant("digits-other")
    theirs = complete(daemon, other)
    answers = [daemon.get(f"/v1/requests/{part}", headers=bearer(one)) for part in (theirs[-8:], "0" * 8)]
    assert [answer.status_code for answer in answers] == [404, 404]
    messages = [answer.json()["error"]["message"] for answer in answers]
    assert messages[0].replace(theirs[-8:], "") == messages[1].replace("0" * 8, "")


def test_requests_are_found_by_time_state_and_key(daemon: Daemon) -> None:
    first_key = daemon.add_tenant("found")
    answer = daemon.post("/admin/v1/tenants/found/keys", {"label": "second"}).json()
    first, second, third = complete(daemon, first_key), complete(daemon, answer["secret"]), complete(daemon, first_key)
    rows = {row["id"]: row for row in daemon.get("/admin/v1/requests?tenant=found").json()["requests"]}
    assert list(rows) == [third, second, first]
    at = rows[second]["created_micros"]
    assert ids(daemon, tenant="found", since=at, until=at + 1) == [second]
    assert ids(daemon, tenant="found", since=at + 1) == [third]
    assert ids(daemon, tenant="found", until=at) == [first]
    assert ids(daemon, tenant="found", since="2020-01-01", until="2020-02-01T12:00") == []
    assert ids(daemon, tenant="found", key=answer["key"]["id"]) == ids(daemon, key=answer["key"]["id"]) == [second]
    assert ids(daemon, tenant="found", state="length") == [third, second, first]
    assert ids(daemon, tenant="found", state="failed") == []
    page = daemon.get("/admin/v1/requests", params={"tenant": "found", "limit": 2}).json()
    assert page["next"] == second
    assert ids(daemon, tenant="found", limit=2, after=second) == [first]
    own = daemon.get("/v1/requests", params={"since": at, "state": "length"}, headers=bearer(first_key)).json()
    assert [row["id"] for row in own["requests"]] == [third, second]
    own = daemon.get("/v1/requests", params={"key": answer["key"]["id"][-8:]}, headers=bearer(first_key)).json()
    assert [row["id"] for row in own["requests"]] == [second]
    for bad in ("since=5&until=4", "state=sung", "since=tomorrow", "after=x", f"after=req_{'0' * 32}", "limit=10001"):
        assert daemon.get(f"/admin/v1/requests?{bad}").status_code in (400, 404), bad
        assert daemon.get(f"/v1/requests?{bad}", headers=bearer(first_key)).status_code in (400, 404), bad


def test_live_requests_are_found_by_where_they_are_now(daemon: Daemon) -> None:
    key = daemon.add_tenant("live")
    other = daemon.add_tenant("not-live")
    own = lambda key, state: [  # noqa: E731
        row["id"] for row in daemon.get(f"/v1/requests?state={state}", headers=bearer(key)).json()["requests"]
    ]
    ended = daemon.complete("live", max_tokens=1).headers["x-request-id"]
    stream = daemon.stream("live", max_tokens=90_000, ignore_eos=True).begun(2)
    wait_until(lambda: ids(daemon, tenant="live", state="running") == [stream.request_id], "its row")
    assert ids(daemon, tenant="live", state="waiting") == ids(daemon, tenant="live", state="paused") == []
    assert own(key, "running") == [stream.request_id]
    assert own(key, "waiting") == own(key, "paused") == own(other, "running") == []
    life = daemon.get(f"/admin/v1/requests/{stream.request_id}").json()
    assert (life["request"]["live_state"], life["prices"]) == ("running", None)
    assert daemon.post(f"/admin/v1/requests/{stream.request_id}/cancel").status_code == 200
    stream.join()
    wait_until(lambda: ids(daemon, tenant="live", state="cancelled") == [stream.request_id], "its end")
    assert ids(daemon, tenant="live", state="running") == []
    assert ids(daemon, tenant="live") == [stream.request_id, ended]


def test_each_request_has_a_line_in_the_log_and_none_of_its_text(daemon: Daemon) -> None:
    key = daemon.add_tenant("logged")
    head = daemon.get("/admin/v1/logs").json()["head"]
    found_id = complete(daemon, key)
    lines = lambda **query: daemon.get("/admin/v1/logs", params=query).json()["lines"]  # noqa: E731
    wait_until(lambda: lines(tenant="logged"), "its line")
    [line] = lines(tenant="logged", after=head)
    assert (line["request_id"], line["state"], line["completion_tokens"]) == (found_id, "length", 3)
    assert (
        [line] == lines(tenant="logged", since=line["at_micros"]) != lines(tenant="logged", since=line["at_micros"] + 1)
    )
    wait_until(lambda: f"request id={found_id} tenant=logged" in daemon.log.read_text(), "the same in the log")
    for bad in ("limit=0", "limit=1001", "after=x", "since=x", "after=1&since=1"):
        assert daemon.get(f"/admin/v1/logs?{bad}").status_code == 400, bad
    assert daemon.get("/admin/v1/logs", headers=bearer(key)).status_code == 403


def test_whoever_asks_is_told_what_it_may_act_for(daemon: Daemon) -> None:
    key = daemon.add_tenant("asking")
    own = {"administers": False, "tenants": ["asking"]}
    assert daemon.get("/v1/identity", headers=bearer(key)).json() == own
    assert daemon.get("/v1/identity").json() == {"administers": True, "tenants": []}
    daemon.request("PATCH", "/admin/v1/tenants/asking", json={"uids": [os.geteuid()]})
    assert daemon.get("/v1/identity").json() == {"administers": True, "tenants": ["asking"]}
    daemon.request("PATCH", "/admin/v1/tenants/asking", json={"uids": []})
    admin = daemon.post("/admin/v1/keys", {}).json()["secret"]
    assert daemon.get("/v1/identity", headers=bearer(admin)).json() == {"administers": True, "tenants": []}
    assert daemon.get("/v1/identity", headers=bearer("td_wrong")).status_code == 401
