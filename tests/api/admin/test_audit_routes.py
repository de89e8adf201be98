"""The routes of the audit trail, on a whole daemon whose answers must be as it describes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.described import DescribedDaemon
from tests.support.daemon import Daemon, wait_until

TRAIL = "/admin/v1/audit"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with DescribedDaemon(tmp_path_factory.mktemp("audit")) as daemon:
        daemon.add_tenant("acme")
        daemon.complete("acme", max_tokens=2)
        wait_until(lambda: read(daemon, event="cleaned_up")["entries"], "the request's end")
        yield daemon


def read(daemon: Daemon, **query: Any) -> Any:
    return daemon.get(TRAIL, params=query).raise_for_status().json()


def numbers(page: Any) -> list[int]:
    return [entry["number"] for entry in page["entries"]]


def test_pages_go_back_from_the_newest_or_on_after_a_number_and_miss_nothing(daemon: Daemon) -> None:
    newest = read(daemon, limit=3)
    head = newest["head"]
    assert numbers(newest) == [head, head - 1, head - 2] and newest["next"] == head - 2
    found, before = numbers(newest), newest["next"]
    while before is not None:
        page = read(daemon, limit=3, before=before)
        found += numbers(page)
        before = page["next"]
    assert found == list(range(head, 0, -1))
    found, after = [], 0
    while after is not None:
        page = read(daemon, limit=4, after=after)
        found += numbers(page)
        after = page["next"]
    assert found[:head] == list(range(1, head + 1))
    assert read(daemon, after=10**9) == {"entries": [], "next": None, "head": page["head"]}


def test_entries_are_those_that_match_every_filter(daemon: Daemon) -> None:
    [entered] = read(daemon, event="entered", tenant="acme")["entries"]
    at, request = entered["at_micros"], entered["request_id"]
    assert read(daemon, event="entered", request=request, since=at, until=at + 1)["entries"] == [entered]
    assert read(daemon, event="entered", since=at + 1)["entries"] == []
    assert read(daemon, event="entered", until=at)["entries"] == []
    assert read(daemon, event="refused", request=request)["entries"] == []


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"after": -1}, "after"),
        ({"before": "9" * 19}, "before"),
        ({"after": 1, "before": 2}, "after"),
        ({"since": "today"}, "since"),
        ({"event": "nothing"}, "event"),
        ({"request": "req_1"}, "request"),
    ],
)
def test_what_cannot_be_looked_for_is_refused(daemon: Daemon, query: dict[str, Any], param: str) -> None:
    answer = daemon.get(TRAIL, params=query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("match", {"tenant": "acme"}, 400, "prompts"),
        ("match", {"tenant": "acme", "prompts": ["x"], "responses": ["x"]}, 400, "prompts"),
        ("match", {"tenant": "acme", "prompts": ["x"] * 5}, 400, "prompts"),
        ("match", {"tenant": "acme", "prompts": [""]}, 400, "prompts[0]"),
        ("match", {"tenant": "nobody", "responses": ["x"]}, 404, "tenant"),
        ("match", {"tenant": "acme", "id": 9, "responses": ["x"]}, 404, "id"),
        ("prune", {"before_micros": 2**60}, 400, "before"),
        ("prune", {"before_micros": -1}, 400, "before_micros"),
        ("prune", {}, 400, "before_micros"),
    ],
)
def test_bad_bodies_are_refused_with_their_field(
    daemon: Daemon, path: str, body: dict[str, Any], status: int, param: str
) -> None:
    answer = daemon.post(f"{TRAIL}/{path}", body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_a_prompt_far_longer_than_any_context_was_never_asked(daemon: Daemon) -> None:
    found = daemon.post(f"{TRAIL}/match", {"tenant": "acme", "prompts": ["x" * 100_000]}).raise_for_status().json()
    assert found == {"tenant": "acme", "tenant_id": 1, "entries": [], "is_complete": True}


def test_nobody_else_reads_it(daemon: Daemon) -> None:
    key = daemon.add_tenant("curious")
    by_key = {"authorization": f"Bearer {key}"}
    assert daemon.get(TRAIL, headers=by_key).status_code == 403
    for path in (f"{TRAIL}/match", f"{TRAIL}/prune", "/admin/v1/tenants/acme/forget"):
        assert daemon.post(path, {}, headers=by_key).status_code == 403
