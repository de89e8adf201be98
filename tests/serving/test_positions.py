"""Where waiting requests stand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.serving.positions import Line, position
from tests.support.daemon import Daemon, Stream, wait_until

lines = st.lists(
    st.builds(Line, usage=st.integers(0, 500), cost=st.integers(1, 200), waiting=st.integers(0, 8)),
    min_size=1,
    max_size=5,
)


@given(lines=lines)
def test_positions_are_those_of_serving_the_least_usage_first(lines: list[Line]) -> None:
    usage, left, served = [line.usage for line in lines], [line.waiting for line in lines], [0] * len(lines)
    place = 0
    while any(left):
        least = min(usage[i] for i in range(len(lines)) if left[i])
        nexts = [i for i in range(len(lines)) if left[i] and usage[i] == least]
        for i in nexts:  # whoever is level shares a place: nobody can say who of them will be first
            others = [line for j, line in enumerate(lines) if j != i]
            assert position(lines[i], served[i], others) == place + 1
        for i in nexts:
            usage[i] += lines[i].cost
            left[i] -= 1
            served[i] += 1
        place += len(nexts)


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
    assert all(entry["waited_ms"] >= 0 and entry["estimated_wait_ms"] > 0 for entry in queue)
    own = busy.get("/v1/queue", headers={"X-Tenant": "globex"}).json()["waiting"]
    assert [entry["id"] for entry in own] == [queue[0]["id"]]


def test_an_answer_says_where_its_request_stood_when_it_came(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"slots": 1, "fake_step_micros": 5000}) as daemon:
        daemon.add_tenant("acme")
        assert daemon.complete("acme", max_tokens=1).headers["x-queue-position"] == "0"
        first = daemon.stream("acme", max_tokens=100, ignore_eos=True).begun()
        second, third = waiting(daemon, "acme", 2)
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
        assert [entry["tenant"] for entry in daemon.status()["queue"]] == ["quiet", "noisy", "noisy", "noisy"]
