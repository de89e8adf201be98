from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tenantd.errors import Draining, InvalidRequest, QueueFull
from tenantd.text.pool import TextPool
from tests.serving.daemon_kit import run


@contextmanager
def open_pool(**settings: int) -> Iterator[TextPool]:
    pool = TextPool(**settings)
    try:
        yield pool
    finally:
        pool.close()


class Held:
    """Work that is held up until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.go.wait(120)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.002)


def test_work_runs_in_another_thread_and_its_result_and_error_come_back() -> None:
    def refuse() -> None:
        raise InvalidRequest("no")

    async def main() -> None:
        assert await pool.run("acme", threading.get_ident) != threading.get_ident()
        with pytest.raises(InvalidRequest, match="no"):
            await pool.run("acme", refuse)

    with open_pool() as pool:
        run(main())


def test_tenants_take_turns_and_each_ones_work_stays_in_order() -> None:
    order: list[str] = []

    async def main() -> None:
        first = Held()
        jobs = [asyncio.ensure_future(pool.run("zero", first))]
        await until(first.begun.is_set)
        for name in ("a1", "a2", "a3", "a4", "b1", "b2", "c1"):
            jobs.append(asyncio.ensure_future(pool.run(name[0], lambda name=name: order.append(name))))
        await asyncio.sleep(0)
        first.go.set()
        await asyncio.gather(*jobs)

    with open_pool(threads=1) as pool:
        run(main())
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


def test_a_tenant_with_endless_work_leaves_a_thread_to_the_others() -> None:
    async def main() -> None:
        endless = [Held() for _ in range(5)]
        jobs = [asyncio.ensure_future(pool.run("acme", work)) for work in endless]
        await until(endless[0].begun.is_set)
        assert await asyncio.wait_for(pool.run("globex", lambda: "done"), 60) == "done"
        assert [work.begun.is_set() for work in endless] == [True, False, False, False, False]
        for work in endless:
            work.go.set()
        await asyncio.gather(*jobs)

    with open_pool(threads=2) as pool:
        run(main())


def test_work_whose_client_has_gone_never_runs() -> None:
    ran: list[str] = []

    async def main() -> None:
        first = Held()
        running = asyncio.ensure_future(pool.run("acme", first))
        await until(first.begun.is_set)
        waiting = asyncio.ensure_future(pool.run("acme", lambda: ran.append("gone")))
        after = asyncio.ensure_future(pool.run("acme", lambda: ran.append("stayed")))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        first.go.set()
        await asyncio.gather(running, after)

    with open_pool() as pool:
        run(main())
    assert ran == ["stayed"]


def test_too_much_waiting_work_is_refused_for_its_own_tenant_only() -> None:
    async def main() -> None:
        first = Held()
        jobs = [asyncio.ensure_future(pool.run("acme", first, 1000))]
        await until(first.begun.is_set)
        jobs += [asyncio.ensure_future(pool.run("acme", lambda: None, 60)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull, match="2 requests waiting") as e:
            await pool.run("acme", lambda: None, 1)
        assert e.value.retry_after_s == 1
        jobs.append(asyncio.ensure_future(pool.run("acme", lambda: None)))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await pool.run("acme", lambda: None)
        assert await pool.run("globex", lambda: "done", 10_000) == "done"
        first.go.set()
        await asyncio.gather(*jobs)

    with open_pool(most_waiting=3, most_waiting_bytes=120) as pool:
        run(main())


def test_closing_waits_for_what_runs_and_refuses_what_waits() -> None:
    async def main() -> None:
        first = Held()
        running = asyncio.ensure_future(pool.run("acme", first))
        await until(first.begun.is_set)
        waiting = asyncio.ensure_future(pool.run("acme", lambda: None))
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(asyncio.to_thread(pool.close))
        with pytest.raises(Draining):
            await waiting
        assert not closing.done()
        first.go.set()
        await asyncio.gather(running, closing)
        with pytest.raises(Draining):
            await pool.run("acme", lambda: None)

    with open_pool() as pool:
        run(main())
