"""Where waiting requests stand."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.domain import Tenant
from tenantd.serving.positions import Line, Positions, position
from tests.support.daemon import Daemon, Stream, wait_until


@given(
    known=st.lists(st.sampled_from("abcd"), max_size=20),
    more=st.dictionaries(st.sampled_from("abcd"), st.integers(0, 9)),
)
def test_positions_are_those_of_one_line_in_which_the_known_keep_their_order(
    known: list[str], more: dict[str, int]
) -> None:
    lines = {}
    for name in "abcd":
        places = [place for place, tenant in enumerate(known) if tenant == name]
        apart = max(1, round((places[-1] + 1) / len(places))) if places else 4
        lines[name] = Line(places, len(places) + more.get(name, 0), apart)
    everybody = sorted(
        (line.place(index), name, index) for name, line in lines.items() for index in range(line.waiting)
    )
    for place, name, index in everybody:
        others = [line for other, line in lines.items() if other != name]
        before = sum(1 for at, other, _ in everybody if at < place and other != name)
        assert position(lines[name], index, others) == before + index + 1
        assert index == 0 or place > lines[name].place(index - 1), "a tenant's own stay in their order"
    for place, name in enumerate(known):
        assert place in lines[name].known, "what the engine said holds"


def test_what_the_daemon_holds_of_two_tenants_is_expected_to_take_turns_as_in_the_engine() -> None:
    often, seldom = Line([0, 1, 3, 4], 8, apart=1), Line([2, 5], 8, apart=3)
    assert [often.place(index) for index in range(4, 8)] == [5, 6, 7, 8]
    assert [seldom.place(index) for index in range(2, 8)] == [8, 11, 14, 17, 20, 23]


class Ended:
    """Stands in for a request; only the view of the queue has ever held it."""

    number, tenant, queue_position = 1, "acme", 0


def test_a_request_is_not_kept_for_an_order_that_the_engine_never_tells() -> None:
    nothing = SimpleNamespace(running=0, waiting=0)
    live = SimpleNamespace(count=lambda tenant: nothing, waiting_tenants=dict, by_number={})
    replica: Any = SimpleNamespace(live=live, supervisor=SimpleNamespace(info=None), bound=(), order=())
    positions = Positions(replica, time.monotonic)
    stream: Any = Ended()
    positions.assign(Tenant(name="acme"), [stream])
    assert stream.queue_position == 1
    kept = weakref.ref(stream)
    del stream
    assert kept() is None


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Daemon]:
    """Two slots, taken for longer than any test lasts, and room for nobody else."""
    with Daemon(tmp_path, engine={"slots": 2, "fake_step_micros": 50_000}, scheduler={"policy": "fifo"}) as daemon:
        daemon.add_tenant("acme")
        daemon.add_tenant("globex")
        for _ in range(2):
            daemon.stream("acme", max_tokens=3000, ignore_eos=True).begun()
        yield daemon


def waiting(daemon: Daemon, tenant: str, count: int) -> list[Stream]:
    """So many requests that wait, one after the other."""
    before = daemon.status()["waiting"]
    streams = []
    for n in range(before + 1, before + count + 1):
        streams.append(daemon.stream(tenant, max_tokens=3, ignore_eos=True))
        wait_until(lambda n=n: daemon.status()["waiting"] == n, "a request to wait")
    return streams


def test_the_status_lists_what_waits_in_order_and_each_tenant_sees_its_own(busy: Daemon) -> None:
    waiting(busy, "globex", 1)
    waiting(busy, "acme", 2)
    queue = busy.status()["queue"]
    assert [(entry["tenant"], entry["position"]) for entry in queue] == [("globex", 1), ("acme", 2), ("acme", 3)]
    for entry in queue:
        low_ms, likely_ms, high_ms = (entry[f"estimated_wait_{name}ms"] for name in ("low_", "", "high_"))
        assert entry["waited_ms"] >= 0 and 0 <= low_ms <= likely_ms <= high_ms and likely_ms > 0
    own = busy.get("/v1/queue", headers={"X-Tenant": "globex"}).json()["waiting"]
    assert [entry["id"] for entry in own] == [queue[0]["id"]]


def test_an_answer_says_where_its_request_stood_when_it_came(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"slots": 1, "fake_step_micros": 5000}) as daemon:
        daemon.add_tenant("acme")
        assert daemon.complete("acme", max_tokens=1).headers["x-queue-position"] == "0"
        first = daemon.stream("acme", max_tokens=4000, ignore_eos=True).begun()
        second, third = waiting(daemon, "acme", 2)
        first.begun(first.tokens + 500)  # the engine has told where the third stands, which was only guessed
        daemon.post(f"/admin/v1/requests/{first.request_id}/cancel").raise_for_status()
        for stream in (first, second, third):
            stream.join()
        assert [s.headers["x-queue-position"] for s in (first, second, third)] == ["0", "1", "2"]


def test_a_needy_tenant_stands_before_a_noisy_one(tmp_path: Path) -> None:
    with Daemon(
        tmp_path, engine={"slots": 1, "fake_step_micros": 20_000}, scheduler={"min_run_tokens": 2000}
    ) as daemon:
        daemon.add_tenant("noisy")
        daemon.add_tenant("quiet")
        daemon.stream("noisy", max_tokens=3000, ignore_eos=True).begun(60)  # its usage has been told by now
        waiting(daemon, "noisy", 3)
        waiting(daemon, "quiet", 1)
        in_order = ["quiet", "noisy", "noisy", "noisy"]
        wait_until(lambda: [entry["tenant"] for entry in daemon.status()["queue"]] == in_order, "the engine's order")


def test_a_tenant_that_used_more_than_those_that_wait_stands_behind_them(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "engine": {"slots": 1, "fake_step_micros": 20_000},
        "scheduler": {"min_run_tokens": 2000, "burst_credit": 0},
    }
    with Daemon(tmp_path, **settings) as daemon:
        daemon.add_tenant("fresh")
        daemon.add_tenant("spent")
        assert daemon.complete("spent", max_tokens=150, ignore_eos=True).status_code == 200
        daemon.stream("spent", max_tokens=3000, ignore_eos=True).begun(60)
        waiting(daemon, "spent", 1)
        waiting(daemon, "fresh", 2)
        in_order = ["fresh", "fresh", "spent"]
        wait_until(lambda: [entry["tenant"] for entry in daemon.status()["queue"]] == in_order, "the engine's order")
