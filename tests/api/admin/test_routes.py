"""The administration routes, on a whole daemon with its own ledger."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tenantd.limits import LIMITS
from tests.api.described import DescribedDaemon
from tests.support.daemon import Daemon, wait_until

TENANT = {
    "weight": 1.0,
    "priority": "standard",
    "state": "active",
    "uids": [],
    "adapter": "",
    "unbilled": False,
    "allow_special": False,
    "system_prompt": "",
    "system_in_completions": False,
    "on_anomaly": "log",
    "cache": "default",
    "effective_cache": False,
    "throttled_micros": None,
    "billing": {"name": "", "address": "", "email": "", "tax_id": "", "reference": ""},
    "limits": dict.fromkeys(LIMITS),
    "effective_limits": {**dict.fromkeys(LIMITS), "max_queued": 256, "on_limit": "reject"},
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon; every test has tenants of its own."""
    engine = {"fake_step_micros": 1000, "context_tokens": 110_000}
    with DescribedDaemon(tmp_path_factory.mktemp("admin"), model={"name": "tiny"}, engine=engine) as daemon:
        yield daemon


def ask_with(daemon: Daemon, key: str, **body: Any) -> httpx.Response:
    return daemon.post("/v1/completions", {"prompt": "Hi", **body}, headers={"authorization": f"Bearer {key}"})


def listed(tenant: dict[str, Any]) -> dict[str, Any]:
    """A tenant as the list shows it."""
    size = len(tenant["system_prompt"].encode())
    return {**{name: tenant[name] for name in tenant if name != "system_prompt"}, "system_prompt_bytes": size}


def error(answer: httpx.Response) -> tuple[int, str, str | None]:
    found = answer.json()["error"]
    return answer.status_code, found["code"], found["param"]


def test_a_tenant_is_added_with_a_key_that_works(daemon: Daemon) -> None:
    answer = daemon.post("/admin/v1/tenants", {"name": "added"})
    assert answer.status_code == 201
    tenant = answer.json()["tenant"]
    assert tenant.pop("created_micros") > 1_700_000_000_000_000
    assert tenant.pop("id") > 0
    assert tenant == {"name": "added", **TENANT}
    assert ask_with(daemon, answer.json()["key"]).status_code == 200


def test_a_tenant_has_the_settings_it_is_added_with(daemon: Daemon) -> None:
    settings = {"weight": 2.5, "priority": "high", "uids": [1001, 7], "limits": {"max_concurrent": 2}}
    tenant = daemon.post("/admin/v1/tenants", {"name": "settings", **settings}).json()["tenant"]
    assert (tenant["weight"], tenant["priority"], sorted(tenant["uids"])) == (2.5, "high", [7, 1001])
    assert tenant["limits"]["max_concurrent"] == 2
    assert daemon.get("/admin/v1/tenants/settings").json()["tenant"] == tenant
    assert listed(tenant) in daemon.get("/admin/v1/tenants").json()["tenants"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": "Bad Name"}, "name"),
        ({"name": ""}, "name"),
        ({}, "name"),
        ({"name": "x", "weight": 0}, "weight"),
        ({"name": "x", "weight": -1}, "weight"),
        ({"name": "x", "weight": 1e9}, "weight"),
        ({"name": "x", "weight": 5e-324}, "weight"),
        ({"name": "x", "weight": "2"}, "weight"),
        ({"name": "x", "priority": "urgent"}, "priority"),
        ({"name": "x", "uids": [-1]}, "uids[0]"),
        ({"name": "x", "limits": {"max_concurrent": -1}}, "limits.max_concurrent"),
        ({"name": "x", "limits": {"max_concurent": 1}}, "limits.max_concurent"),
        ({"name": "x", "limits": {"tokens_per_minute": 1.5}}, "limits.tokens_per_minute"),
        ({"name": "x", "limits": {"on_limit": "drop"}}, "limits.on_limit"),
        ({"name": "x", "limits": {"max_wait_s": -1}}, "limits.max_wait_s"),
        ({"name": "x", "limits": {"max_queued": "default"}}, "limits.max_queued"),
        ({"name": "x", "limits": {"max_queued": True}}, "limits.max_queued"),
        ({"name": "x", "limits": {"on_limit": "none"}}, "limits.on_limit"),
        ({"name": "x", "unbilled": "yes"}, "unbilled"),
        ({"name": "x", "wieght": 2}, "wieght"),
    ],
)
def test_a_bad_tenant_is_refused_with_its_field(daemon: Daemon, body: dict[str, Any], param: str) -> None:
    assert error(daemon.post("/admin/v1/tenants", body)) == (400, "invalid_request", param)


def test_a_name_is_given_once(daemon: Daemon) -> None:
    daemon.add_tenant("once")
    assert error(daemon.post("/admin/v1/tenants", {"name": "once"}))[:2] == (409, "conflict")


def test_only_what_is_named_changes_and_null_takes_the_default(daemon: Daemon) -> None:
    daemon.add_tenant("changing", weight=3.0, limits={"max_queued": 5, "max_concurrent": 2})
    url = "/admin/v1/tenants/changing"
    changed = daemon.request("PATCH", url, json={"limits": {"max_queued": None}, "priority": "low"}).json()["tenant"]
    assert (changed["weight"], changed["priority"]) == (3.0, "low")
    assert (changed["limits"]["max_queued"], changed["limits"]["max_concurrent"]) == (None, 2)
    assert (changed["effective_limits"]["max_queued"], changed["effective_limits"]["max_concurrent"]) == (256, 2)
    assert daemon.get(url).json()["tenant"] == changed


def test_limits_per_minute_hold_from_the_next_request_and_null_takes_the_default(daemon: Daemon) -> None:
    key = daemon.add_tenant("limited", limits={"requests_per_minute": 1, "on_limit": "queue", "max_wait_s": 0})
    url = "/admin/v1/tenants/limited"
    assert ask_with(daemon, key).headers["x-ratelimit-remaining-requests"] == "0"
    assert error(ask_with(daemon, key))[:2] == (429, "requests_per_minute_exceeded")
    limits = {"requests_per_minute": 0, "on_limit": None, "max_wait_s": None, "tokens_per_minute": 50}
    changed = daemon.request("PATCH", url, json={"limits": limits}).json()["tenant"]
    assert changed["limits"] == {**TENANT["limits"], **limits}  # type: ignore[dict-item]
    assert changed["effective_limits"]["on_limit"] == "reject"
    assert error(ask_with(daemon, key))[:2] == (403, "forbidden")
    daemon.request("PATCH", url, json={"limits": {"requests_per_minute": None}})
    assert error(ask_with(daemon, key, prompt="x" * 60)) == (400, "prompt_exceeds_tokens_per_minute", "prompt")
    assert ask_with(daemon, key).headers["x-ratelimit-limit-tokens"] == "50"


def test_a_lifted_limit_is_no_limit_and_null_the_default_again(daemon: Daemon) -> None:
    tenant = daemon.post("/admin/v1/tenants", {"name": "lifted", "limits": {"max_queued": "none"}}).json()["tenant"]
    assert (tenant["limits"]["max_queued"], tenant["effective_limits"]["max_queued"]) == ("none", None)
    url = "/admin/v1/tenants/lifted"
    tenant = daemon.request("PATCH", url, json={"limits": {"max_queued": None}}).json()["tenant"]
    assert (tenant["limits"]["max_queued"], tenant["effective_limits"]["max_queued"]) == (None, 256)
    assert listed(tenant) in daemon.get("/admin/v1/tenants").json()["tenants"]
    assert daemon.post(f"{url}/suspend").json()["tenant"]["effective_limits"]["max_queued"] == 256


def test_requests_of_an_unbilled_tenant_are_counted_and_on_no_invoice(daemon: Daemon) -> None:
    key = daemon.post("/admin/v1/tenants", {"name": "free", "unbilled": True}).json()["key"]
    ask_with(daemon, key, max_tokens=3, ignore_eos=True)
    params = {"tenant": "free"}
    assert daemon.get("/admin/v1/invoices/this", params=params).json()["tenants"] == []
    [usage] = daemon.get("/admin/v1/usage", params=params).json()["tenants"]
    assert (usage["requests"], usage["completion_tokens"], usage["cost_nanos"]) == (1, 3, 0)
    changed = daemon.request("PATCH", "/admin/v1/tenants/free", json={"unbilled": False}).json()["tenant"]
    assert changed["unbilled"] is False
    ask_with(daemon, key, max_tokens=5, ignore_eos=True)
    [bill] = daemon.get("/admin/v1/invoices/this", params=params).json()["tenants"]
    assert (bill["requests"], bill["completion_tokens"]) == (1, 5)
    assert [r["unbilled"] for r in daemon.get("/admin/v1/requests", params=params).json()["requests"]] == [False, True]


def test_no_more_slots_are_reserved_than_there_are(daemon: Daemon) -> None:
    daemon.add_tenant("reserved", limits={"reserved_slots": 3})
    answer = daemon.post("/admin/v1/tenants", {"name": "greedy", "limits": {"reserved_slots": 2}})
    assert error(answer) == (409, "conflict", "limits.reserved_slots")
    assert "cannot reserve 2 slots for greedy: the engine has 4, 3 already reserved for others" in answer.text
    assert daemon.get("/admin/v1/tenants/greedy").status_code == 404
    url = "/admin/v1/tenants/reserved"
    assert daemon.request("PATCH", url, json={"limits": {"reserved_slots": 5}}).status_code == 409
    assert daemon.get(url).json()["tenant"]["limits"]["reserved_slots"] == 3
    assert daemon.request("PATCH", url, json={"limits": {"reserved_slots": None}}).status_code == 200


def test_a_suspended_tenant_is_refused_until_it_is_resumed(daemon: Daemon) -> None:
    key = daemon.add_tenant("paused")
    assert daemon.post("/admin/v1/tenants/paused/suspend").json()["tenant"]["state"] == "suspended"
    assert error(ask_with(daemon, key))[:2] == (403, "tenant_suspended")
    assert daemon.post("/admin/v1/tenants/paused/resume").json()["tenant"]["state"] == "active"
    assert ask_with(daemon, key).status_code == 200


def test_a_removed_tenant_and_its_keys_are_gone(daemon: Daemon) -> None:
    key = daemon.add_tenant("leaving")
    assert daemon.request("DELETE", "/admin/v1/tenants/leaving").json() == {"removed": "leaving"}
    assert ask_with(daemon, key).status_code == 401
    assert daemon.get("/admin/v1/tenants/leaving").status_code == 404


def test_a_removed_tenant_still_has_its_invoice(daemon: Daemon) -> None:
    ask_with(daemon, daemon.add_tenant("was-here"), max_tokens=2, ignore_eos=True)
    daemon.request("DELETE", "/admin/v1/tenants/was-here")
    invoice = daemon.get("/admin/v1/invoices/this", params={"tenant": "was-here"}).json()
    assert invoice["tenants"][0]["completion_tokens"] == 2


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/admin/v1/tenants/nobody"),
        ("PATCH", "/admin/v1/tenants/nobody"),
        ("DELETE", "/admin/v1/tenants/nobody"),
        ("POST", "/admin/v1/tenants/nobody/suspend"),
        ("GET", "/admin/v1/tenants/nobody/keys"),
        ("POST", "/admin/v1/tenants/nobody/keys"),
        ("DELETE", "/admin/v1/keys/nothing"),
        ("POST", "/admin/v1/requests/req_none/cancel"),
        ("POST", f"/admin/v1/requests/{'req_' + 32 * '0'}/cancel"),
        ("GET", "/admin/v1/usage?tenant=nobody"),
        ("GET", "/admin/v1/requests?tenant=nobody"),
        ("GET", "/admin/v1/invoices/this?tenant=nobody"),
    ],
)
def test_what_is_not_there_is_404(daemon: Daemon, method: str, path: str) -> None:
    assert error(daemon.request(method, path, json={}))[:2] == (404, "not_found")


def test_keys_are_created_listed_without_their_secret_and_revoked(daemon: Daemon) -> None:
    daemon.add_tenant("keyed")
    created = daemon.post("/admin/v1/tenants/keyed/keys", {"label": "laptop"})
    assert created.status_code == 201
    info, secret = created.json()["key"], created.json()["secret"]
    assert (info["tenant"], info["label"], info["revoked_micros"]) == ("keyed", "laptop", None)
    assert secret.startswith(info["prefix"]) and len(secret) > len(info["prefix"]) + 20
    listing = daemon.get("/admin/v1/tenants/keyed/keys")
    assert info in listing.json()["keys"] and secret not in listing.text
    assert ask_with(daemon, secret).status_code == 200
    revoked = daemon.request("DELETE", f"/admin/v1/keys/{info['id']}").json()["key"]
    assert revoked["revoked_micros"] is not None
    assert ask_with(daemon, secret).status_code == 401


def test_usage_requests_and_invoice_agree_with_what_was_received(daemon: Daemon) -> None:
    key = daemon.add_tenant("billed")
    usages = [ask_with(daemon, key, max_tokens=n, ignore_eos=True).json()["usage"] for n in (3, 5)]
    prompt = sum(usage["prompt_tokens"] for usage in usages)
    completion = sum(usage["completion_tokens"] for usage in usages)
    assert completion == 8

    [row] = daemon.get("/admin/v1/usage", params={"tenant": "billed"}).json()["tenants"]
    assert (row["requests"], row["prompt_tokens"], row["completion_tokens"]) == (2, prompt, completion)

    requests = daemon.get("/admin/v1/requests", params={"tenant": "billed"}).json()["requests"]
    assert sorted(r["completion_tokens"] for r in requests) == [3, 5]

    invoice = daemon.get("/admin/v1/invoices/this", params={"tenant": "billed"}).json()
    assert invoice["open"] is True
    [tenant] = invoice["tenants"]
    assert (tenant["requests"], tenant["prompt_tokens"], tenant["completion_tokens"]) == (2, prompt, completion)
    assert tenant["total_nanos"] == sum(r["cost_nanos"] for r in requests) == row["cost_nanos"]
    assert tenant["total_nanos"] == sum(line["amount_nanos"] for line in tenant["lines"])
    assert invoice["total_nanos"] == tenant["total_nanos"]


def test_a_period_can_be_a_month_or_from_one_moment_to_another(daemon: Daemon) -> None:
    ask_with(daemon, daemon.add_tenant("period"))
    params = {"tenant": "period", "since": "0", "until": "1"}
    assert daemon.get("/admin/v1/usage", params=params).json()["tenants"] == []
    since = {"tenant": "period", "since": "0"}
    assert daemon.get("/admin/v1/usage", params=since).json()["tenants"][0]["requests"] == 1


@pytest.mark.parametrize(
    "path",
    [
        "/admin/v1/usage?month=soon",
        "/admin/v1/usage?since=tomorrow",
        "/admin/v1/usage?month=this&since=0",
        "/admin/v1/requests?limit=0",
        "/admin/v1/requests?limit=many",
        "/admin/v1/invoices/2026-13",
    ],
)
def test_a_bad_period_is_refused(daemon: Daemon, path: str) -> None:
    assert daemon.get(path).status_code == 400


def test_a_month_to_come_has_no_invoice(daemon: Daemon) -> None:
    refused = daemon.get("/admin/v1/invoices/9998-01")
    assert error(refused) == (400, "invalid_request", "month")
    assert "9998-01 has not started" in refused.json()["error"]["message"]
    assert daemon.get("/admin/v1/invoices/1999-12").json()["tenants"] == []


def test_status_has_what_the_command_line_shows(daemon: Daemon) -> None:
    daemon.add_tenant("seen")
    status = daemon.status()
    assert (status["state"], status["progress"], status["reason"]) == ("ready", 1.0, "")
    assert status["socket"] == str(daemon.socket)
    assert status["state_dir"] == str(daemon.folder / "state")
    assert status["pid"] == (daemon.process.pid if daemon.process else None)
    assert status["uptime_s"] > 0
    assert status["engine"]["slots"] == 4
    assert (status["ledger"]["healthy"], status["ledger"]["trouble"]) == (True, "")
    assert (status["engine_restarts"], status["running"], status["waiting"]) == (0, 0, 0)
    assert status["paused"] == 0
    [seen] = [t for t in status["tenants"] if t["name"] == "seen"]
    assert seen == {
        "name": "seen",
        "state": "active",
        "weight": 1.0,
        "throttled": False,
        "priority": "standard",
        "running": 0,
        "paused": 0,
        "waiting": 0,
        "max_queued": 256,
        "usage": 0.0,
        "cache_bytes": None,
        "budget_used_percent": None,
    }


def test_a_running_request_is_cancelled_and_billed_for_what_came(daemon: Daemon) -> None:
    daemon.add_tenant("cancelled")
    stream = daemon.stream("cancelled", max_tokens=100_000, ignore_eos=True, n=1).begun(5)
    assert daemon.post(f"/admin/v1/requests/{stream.request_id}/cancel").json() == {"cancelled": stream.request_id}
    stream.join()
    assert stream.error is not None and stream.error["code"] == "cancelled" and not stream.done
    [row] = daemon.get("/admin/v1/requests", params={"tenant": "cancelled"}).json()["requests"]
    assert row["state"] == "cancelled" and row["completion_tokens"] >= stream.tokens


def test_metrics_are_there(daemon: Daemon) -> None:
    answer = daemon.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "tenantd_ready 1.0" in answer.text


def test_a_client_that_left_is_billed_for_what_came(daemon: Daemon) -> None:
    daemon.add_tenant("left")
    body = {"prompt": "Hi", "stream": True, "max_tokens": 100_000, "ignore_eos": True}
    headers = {"x-tenant": "left"}
    with daemon.client() as client, client.stream("POST", "/v1/completions", json=body, headers=headers) as answer:
        next(answer.iter_raw())

    def ended() -> dict[str, Any] | None:
        [row] = daemon.get("/admin/v1/requests", params={"tenant": "left"}).json()["requests"]
        return None if row["state"] == "running" else dict(row)

    row = wait_until(ended, "the request to end")
    assert row["state"] == "disconnected"
    assert 0 < row["completion_tokens"] < 100_000
    assert row["cost_nanos"] > 0


def test_only_a_tenant_that_was_allowed_to_may_spell_special_tokens_and_no_chat(daemon: Daemon) -> None:
    key = daemon.post("/admin/v1/tenants", {"name": "fim"}).json()["key"]
    refused = ask_with(daemon, key, parse_special=True)
    assert error(refused) == (403, "forbidden", "parse_special")
    assert "tenantctl tenant set fim --allow-special" in refused.json()["error"]["message"]
    assert ask_with(daemon, key, parse_special=False).status_code == 200
    changed = daemon.request("PATCH", "/admin/v1/tenants/fim", json={"allow_special": True}).json()["tenant"]
    assert changed["allow_special"] is True
    assert ask_with(daemon, key, parse_special=True).status_code == 200
    assert daemon.request("PATCH", "/admin/v1/tenants/fim", json={"allow_special": "yes"}).status_code == 400
    daemon.request("PATCH", "/admin/v1/tenants/fim", json={"allow_special": False})
    assert ask_with(daemon, key, parse_special=True).status_code == 403


def test_a_daemon_measures_how_late_its_event_loop_is(daemon: Daemon) -> None:
    def count() -> float:
        [line] = [n for n in daemon.get("/metrics").text.splitlines() if n.startswith("tenantd_loop_lag_seconds_count")]
        return float(line.split()[1])

    before = count()
    wait_until(lambda: count() > before, "one more measurement")


def test_a_row_says_whose_it_is_and_with_which_key_and_user_it_came(daemon: Daemon) -> None:
    added = daemon.post("/admin/v1/tenants", {"name": "whose"}).json()
    (key,) = daemon.get("/admin/v1/tenants/whose/keys").json()["keys"]
    ask_with(daemon, added["key"])
    daemon.post("/v1/completions", {"prompt": "Hi"}, headers={"x-tenant": "whose"})
    without, with_key = daemon.get("/admin/v1/requests?tenant=whose").json()["requests"]
    assert (with_key["key_id"], without["key_id"]) == (key["id"], None)
    assert {row["uid"] for row in (with_key, without)} == {os.getuid()}
    assert {row["tenant_id"] for row in (with_key, without)} == {added["tenant"]["id"]}


def test_the_name_of_a_removed_tenant_is_free_and_its_bills_are_its_own(daemon: Daemon) -> None:
    first = daemon.post("/admin/v1/tenants", {"name": "again", "limits": {"requests_per_minute": 1}}).json()
    assert ask_with(daemon, first["key"]).status_code == 200
    assert ask_with(daemon, first["key"]).status_code == 429
    daemon.request("DELETE", "/admin/v1/tenants/again")
    assert len(daemon.get("/admin/v1/requests?tenant=again").json()["requests"]) == 1, "the last that had the name"
    second = daemon.post("/admin/v1/tenants", {"name": "again", "limits": {"requests_per_minute": 1}}).json()
    assert second["tenant"]["id"] > first["tenant"]["id"]
    assert ask_with(daemon, first["key"]).status_code == 401
    assert daemon.get("/admin/v1/requests?tenant=again").json()["requests"] == []
    assert daemon.get("/admin/v1/usage?tenant=again").json()["tenants"] == []
    assert ask_with(daemon, second["key"]).status_code == 200, "its minute is its own, too"
    (bill,) = daemon.get("/admin/v1/invoices/this?tenant=again").json()["tenants"]
    assert (bill["tenant_id"], bill["requests"]) == (second["tenant"]["id"], 1)
    both = [one for one in daemon.get("/admin/v1/usage").json()["tenants"] if one["tenant"] == "again"]
    assert [one["tenant_id"] for one in both] == [first["tenant"]["id"], second["tenant"]["id"]]


def test_a_renamed_tenant_keeps_its_id_its_key_its_minute_and_its_bill(daemon: Daemon) -> None:
    added = daemon.post("/admin/v1/tenants", {"name": "before", "limits": {"requests_per_minute": 1}}).json()
    assert ask_with(daemon, added["key"]).status_code == 200
    route = "/admin/v1/tenants/before/rename"
    assert error(daemon.post(route, {"name": "after"})) == (409, "conflict", "name")
    daemon.post("/admin/v1/tenants/before/suspend")
    after = daemon.post(route, {"name": "after"}).json()["tenant"]
    assert (after["id"], after["name"], after["state"]) == (added["tenant"]["id"], "after", "suspended")
    daemon.post("/admin/v1/tenants/after/resume")
    assert ask_with(daemon, added["key"]).status_code == 429, "its last minute went with it"
    daemon.request("PATCH", "/admin/v1/tenants/after", json={"limits": {"requests_per_minute": None}})
    assert ask_with(daemon, added["key"]).status_code == 200
    rows = daemon.get("/admin/v1/requests?tenant=after").json()["requests"]
    assert [(row["tenant"], row["tenant_id"]) for row in rows] == [("after", after["id"]), ("before", after["id"])]
    (bill,) = daemon.get("/admin/v1/invoices/this?tenant=after").json()["tenants"]
    assert (bill["tenant"], bill["requests"]) == ("after", 2)
    assert daemon.get("/admin/v1/requests?tenant=before").status_code == 404
