"""What the daemon tells of this moment, to administrators and to tenants."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.described import DescribedDaemon
from tests.support.daemon import wait_until

LONG = {"max_tokens": 50_000, "ignore_eos": True}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DescribedDaemon]:
    folder: Path = tmp_path_factory.mktemp("live")
    with DescribedDaemon(folder, engine={"slots": 2, "context_tokens": 100_000, "fake_step_micros": 2000}) as daemon:
        yield daemon


def live(daemon: DescribedDaemon, **query: str) -> dict[str, Any]:
    answer: dict[str, Any] = daemon.get("/admin/v1/live", params=query).raise_for_status().json()
    return answer


def one(told: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(tenant for tenant in told["tenants"] if tenant["name"] == name)
    return found


def test_tokens_are_counted_while_they_are_generated_and_stay_counted(daemon: DescribedDaemon) -> None:
    daemon.add_tenant("counted")
    assert daemon.complete("counted", "12345678", max_tokens=10, ignore_eos=True).status_code == 200
    ended = one(live(daemon), "counted")
    assert (ended["prompt_tokens"], ended["completion_tokens"]) == (9, 10)
    assert ended["service"] == 29 and ended["engine_micros"] > 0 and not ended["running"]
    stream = daemon.stream("counted", "1234", **LONG).begun(5)
    told = wait_until(lambda: (t := live(daemon))["running"] and t, "a running request")
    now, [request] = one(told, "counted"), told["requests"]
    assert (now["running"], now["waiting"], now["prompt_tokens"]) == (1, 0, 14)
    assert now["completion_tokens"] >= 15 and told["steps"] >= 5 and told["engine_busy_micros"] > 0
    assert (request["id"], request["tenant"], request["state"]) == (stream.request_id, "counted", "running")
    assert (request["prompt_tokens"], request["has_slot"], request["max_tokens"]) == (5, True, 50_000)
    assert request["first_token_micros"] > 0 and request["completion_tokens"] >= 5
    assert daemon.post(f"/admin/v1/requests/{stream.request_id}/cancel").status_code == 200
    stream.join()
    last = one(live(daemon), "counted")
    assert last["completion_tokens"] >= now["completion_tokens"] and not last["running"]


def test_who_waits_is_told_with_its_place_and_who_is_limited_with_what_is_left(daemon: DescribedDaemon) -> None:
    limits = {"max_concurrent": 1, "requests_per_minute": 3, "on_limit": "queue"}
    key = daemon.add_tenant("limited", limits=limits)
    daemon.add_tenant("beside")
    streams = [daemon.stream("limited", f"{n}", **LONG) for n in range(4)]
    by_key = {"authorization": f"Bearer {key}"}

    def is_full() -> Any:
        told = live(daemon, tenant="limited")
        now = one(told, "limited")
        return (now["running"], now["waiting"], now["held"]) == (1, 3, 1) and told

    told = wait_until(is_full, "one to run, two to wait for it, and one to be held")
    now = one(told, "limited")
    assert now["rates"]["requests"]["remaining"] == 0 and now["rates"]["tokens"] is None
    assert now["limits"]["max_concurrent"] == 1
    assert [each["state"] for each in told["requests"]] == ["running", "waiting", "waiting"]
    assert [each["position"] for each in told["requests"]] == [None, 1, 2]
    assert not live(daemon, tenant="beside")["requests"]

    own = daemon.get("/v1/live", headers=by_key).raise_for_status().json()
    assert own["state"] == "ready" and own["tenant"]["name"] == "limited" and own["tenant"]["held"] == 1
    assert [each["id"] for each in own["requests"]] == [each["id"] for each in told["requests"]]
    assert not {"usage", "service", "full_weight", "adapter"} & own["tenant"].keys(), "those depend on others"
    assert daemon.get("/admin/v1/live", headers=by_key).status_code == 403
    assert daemon.request("DELETE", "/admin/v1/tenants/limited").status_code == 200
    for stream in streams:
        stream.join()
    assert "limited" not in {tenant["name"] for tenant in live(daemon)["tenants"]}
