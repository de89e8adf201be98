"""A tenant's limits in the service: refused, or held back and let in one by one. The clock is the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tenantd.domain import FinishReason, Limits, OnLimit, Tenant, TenantState
from tenantd.errors import (
    Draining,
    Forbidden,
    PromptOverTokensPerMinute,
    QueueFull,
    RequestCancelled,
    RequestsPerMinuteExceeded,
    RequestTimeout,
    TenantSuspended,
    TokensPerMinuteExceeded,
)
from tenantd.live.generation import Generation
from tenantd.live.phases import Phase
from tenantd.live.streams import LiveStream
from tenantd.tenancy.rates import RateState
from tests.serving.daemon_kit import run, until
from tests.serving.scene import Scene, expected, read, tokens


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class LimitedScene(Scene):
    """One tenant, acme, with limits that can be changed."""

    def __init__(self, folder: Path, *script: dict[str, Any], **limits: Any) -> None:
        self.clock = Clock()
        self.acme = Tenant(name="acme", limits=Limits(**limits))
        super().__init__(folder, *script, tenants=(self.acme,), clock_s=self.clock)

    async def ask(self, prompt: int = 1, answer: int = 1, n: int = 1, timeout_s: float | None = None) -> LiveStream:
        """A request with so many tokens; it has a number of its own in the prompt."""
        generation = Generation(kind="completion", prompt=[1] * prompt, max_tokens=answer)
        return (await self.service.submit_all(self.acme, [generation] * n, timeout_s))[0]

    async def done(self, **request: int) -> LiveStream:
        """A request, and its answer."""
        stream = await self.ask(**request)
        await read(stream)
        return stream

    async def wait(self, seconds: float) -> None:
        """So much later; who waits looks again."""
        self.clock.now_s += seconds
        await self.service.changes.tenants_changed()
        for _ in range(20):
            await asyncio.sleep(0)

    async def change(self, tenant: Tenant | None = None, **limits: Any) -> None:
        self.acme = tenant or Tenant(name="acme", limits=Limits(**limits))
        self.directory.next_tenants = {"acme": self.acme}
        await self.wait(0)

    async def remove(self) -> None:
        self.directory.next_tenants = {}
        await self.wait(0)

    async def held(self, count: int, **request: Any) -> list[asyncio.Task[LiveStream]]:
        """Requests that wait, in this order."""
        tasks = []
        for _ in range(count):
            tasks.append(asyncio.create_task(self.ask(**request)))
            for _ in range(5):
                await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)
        assert self.service.status()["waiting"] == len(tasks)
        return tasks


QUEUE = {"requests_per_minute": 1, "on_limit": OnLimit.QUEUE}


async def refused(work: Coroutine[Any, Any, Any], error: type[Exception], match: str | None = None) -> Any:
    with pytest.raises(error, match=match) as raised:
        await work
    return raised.value


# ---- refused -----------------------------------------------------------------------------------------------------


def test_a_request_too_many_is_refused_and_let_in_after_exactly_the_time_it_was_told(tmp_path: Path) -> None:
    async def scene() -> None:
        async with LimitedScene(tmp_path, requests_per_minute=2) as s:
            await s.done()
            await s.wait(20)
            await s.done()
            refusal = await refused(
                s.ask(), RequestsPerMinuteExceeded, "acme reached its limit of 2 requests per minute"
            )
            assert 40_000 <= refusal.retry_after_ms <= 40_000
            await s.wait(refusal.retry_after_ms / 1000 - 0.001)
            assert (await refused(s.ask(), RequestsPerMinuteExceeded)).retry_after_ms == 1
            await s.wait(0.001)
            await s.done()
            assert len(s.ledger.admissions) == 3

    run(scene())


def test_tokens_count_as_they_are_delivered_and_the_wait_is_for_the_prompt_to_fit(tmp_path: Path) -> None:
    async def scene() -> None:
        async with LimitedScene(tmp_path, tokens_per_minute=20) as s:
            await s.done(prompt=5, answer=5)
            await s.wait(30)
            await s.done(prompt=4, answer=4)
            assert s.service.rates(s.acme)["tokens"][:2] == (20, 2)
            await s.done(prompt=2, answer=1)  # a stream that runs over the limit is the engine's to slow down
            refusal = await refused(s.ask(), TokensPerMinuteExceeded, "has used 21 of its 20 tokens per minute")
            assert 30_000 <= refusal.retry_after_ms <= 30_100
            await s.wait(refusal.retry_after_ms / 1000)
            await s.done(prompt=9)

    run(scene())


def test_a_prompt_over_the_tokens_of_a_minute_is_refused_for_good(tmp_path: Path) -> None:
    async def scene() -> None:
        async with LimitedScene(tmp_path, tokens_per_minute=20) as s:
            await refused(s.ask(prompt=21), PromptOverTokensPerMinute, "has 21 tokens")
            await refused(s.ask(prompt=7, n=3), PromptOverTokensPerMinute, "has 21 tokens")
            await s.done(prompt=20)

    run(scene())


@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute", "max_concurrent"])
def test_a_limit_of_zero_allows_nothing_and_says_so(tmp_path: Path, name: str) -> None:
    async def scene() -> None:
        async with LimitedScene(tmp_path, **{name: 0}) as s:
            await refused(s.ask(), Forbidden, f"its {name} is 0")

    run(scene())


def test_several_answers_to_one_request_count_once_and_start_together_or_not_at_all(tmp_path: Path) -> None:
    async def scene() -> None:
        async with LimitedScene(tmp_path, requests_per_minute=1, max_queued=0) as s:
            await refused(s.ask(n=5), QueueFull)
            assert not s.ledger.admissions and s.service.rates(s.acme)["requests"].remaining == 1
            await s.done(n=4)
            assert s.service.rates(s.acme) == {"requests": RateState(1, 0, 60_000_000)}
            await refused(s.ask(), RequestsPerMinuteExceeded)
            await until(lambda: len(s.ledger.settlements) == 4)

    run(scene())


def test_what_is_wrong_with_a_request_is_said_before_it_counts(tmp_path: Path) -> None:
    async def scene() -> None:
        async with LimitedScene(tmp_path, requests_per_minute=1, max_tokens_per_request=3) as s:
            await refused(s.ask(answer=4), Exception, "at most 3")
            await s.done()

    run(scene())


# ---- held back ---------------------------------------------------------------------------------------------------


def test_requests_that_wait_are_let_in_one_by_one_in_their_order(tmp_path: Path) -> None:
    async def scene() -> None:
        async with LimitedScene(tmp_path, **QUEUE) as s:
            await s.done()
            tasks = await s.held(3)
            assert s.service.status()["tenants"][0]["waiting"] == 3
            await s.wait(59.9)
            assert [task.done() for task in tasks] == [False, False, False]
            for count in range(1, 4):
                await s.wait(60)
                assert [task.done() for task in tasks] == [n < count for n in range(3)]
                assert tokens(await read(tasks[count - 1].result())) == expected([1], 1)

    run(scene())


def test_a_request_does_not_overtake_one_that_waits_for_more_tokens(tmp_path: Path) -> None:
    async def scene() -> None:
        async with LimitedScene(tmp_path, tokens_per_minute=10, on_limit=OnLimit.QUEUE, max_wait_s=90) as s:
            await s.done(prompt=5)
            large, small = *await s.held(1, prompt=9), asyncio.create_task(s.ask())
            await s.wait(1)
            assert not small.done() and s.service.status()["waiting"] == 2
            await s.wait(60)
            await read(await large)
            await read(await small)
            assert list(s.ledger.admissions)[1:] == [large.result().id, small.result().id]

    run(scene())


def test_who_was_only_behind_another_is_let_in_as_soon_as_that_one_leaves(tmp_path: Path) -> None:
    async def scene() -> None:
        async with LimitedScene(tmp_path, tokens_per_minute=10, on_limit=OnLimit.QUEUE) as s:
            await s.done(prompt=5)
            [large] = await s.held(1, prompt=9)
            small = asyncio.create_task(s.ask())
            await until(lambda: s.service.status()["waiting"] == 2)
            large.cancel()
            async with asyncio.timeout(30):
                await read(await small)

    run(scene())


def test_those_who_wait_take_the_tenants_places_in_the_queue(tmp_path: Path) -> None:
    async def scene() -> None:
        async with LimitedScene(tmp_path, **QUEUE, max_queued=2) as s:
            await s.done()
            first, second = await s.held(2)
            error = await refused(s.ask(), QueueFull, "already has 2 requests waiting, and .* requests? per minute")
            assert error.retry_after_ms == 60_000
            first.cancel()
            await asyncio.wait({first})
            third = asyncio.create_task(s.ask())
            await s.wait(60)
            assert second.done() and not third.done(), "who leaves loses the place and holds nobody up"
            await s.wait(60)
            await read(await second)
            await read(await third)

    run(scene())


def test_after_its_longest_wait_a_request_is_refused_with_the_time_that_is_left(tmp_path: Path) -> None:
    async def scene() -> None:
        async with LimitedScene(tmp_path, **QUEUE, max_wait_s=20) as s:
            await s.done()
            first, second = await s.held(2)
            await s.wait(19.9)
            assert not first.done() and not second.done()
            await s.wait(0.1)
            for task in (first, second):
                assert (await refused(task, RequestsPerMinuteExceeded)).retry_after_ms == 40_000
            await s.wait(40.1)
            await s.done()

    run(scene())


def test_a_longest_wait_of_zero_does_not_wait(tmp_path: Path) -> None:
    async def scene() -> None:
        async with LimitedScene(tmp_path, **QUEUE, max_wait_s=0) as s:
            await s.done()
            await refused(s.ask(), RequestsPerMinuteExceeded)

    run(scene())


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda s: s.change(requests_per_minute=1), RequestsPerMinuteExceeded),
        (lambda s: s.change(**{**QUEUE, "requests_per_minute": 0}), Forbidden),
        (lambda s: s.change(Tenant(name="acme", state=TenantState.SUSPENDED)), TenantSuspended),
        (lambda s: s.remove(), RequestCancelled),
        (lambda s: s.service.drain(0), Draining),
    ],
    ids=["refuses now", "allows none", "suspended", "gone", "draining"],
)
def test_what_changes_holds_for_those_who_wait(
    tmp_path: Path, change: Callable[[LimitedScene], Coroutine[Any, Any, None]], error: type[Exception]
) -> None:
    async def scene() -> None:
        async with LimitedScene(tmp_path, **QUEUE) as s:
            await s.done()
            tasks = await s.held(2)
            await change(s)
            for task in tasks:
                await refused(task, error)

    run(scene())


def test_a_higher_limit_lets_in_who_waits(tmp_path: Path) -> None:
    async def scene() -> None:
        async with LimitedScene(tmp_path, **QUEUE) as s:
            await s.done()
            first, second = await s.held(2)
            await s.change(**{**QUEUE, "requests_per_minute": 2})
            assert first.done() and not second.done()
            await s.change()
            await read(await first)
            await read(await second)

    run(scene())


# ---- deadlines ---------------------------------------------------------------------------------------------------


def test_a_deadline_covers_the_wait(tmp_path: Path) -> None:
    async def scene() -> None:
        async with LimitedScene(tmp_path, **QUEUE, max_wait_s=50) as s:
            await s.done()
            [task] = await s.held(1, timeout_s=30.0)
            await s.wait(30)
            error = await refused(task, RequestTimeout, "within its timeout_s of 30 s")
            assert (error.http_status, error.code) == (408, "request_timeout")
            assert len(s.ledger.admissions) == 1

    run(scene())


def test_a_deadline_ends_the_wait_by_itself(tmp_path: Path) -> None:
    async def scene() -> None:
        acme = Tenant(name="acme", limits=Limits(requests_per_minute=1, on_limit=OnLimit.QUEUE))
        async with Scene(tmp_path, tenants=(acme,)) as s:  # by the real clock
            generation = Generation(kind="completion", prompt=[1], max_tokens=1)
            await read(await s.service.submit(acme, generation))
            async with asyncio.timeout(30):
                await refused(s.service.submit_all(acme, [generation], 0.05), RequestTimeout)

    run(scene())


def test_what_is_not_complete_at_its_deadline_ends_and_is_billed_for_what_came(tmp_path: Path) -> None:
    async def scene() -> None:
        async with LimitedScene(tmp_path, {"after_tokens": 5, "then": "hang"}, {}) as s:
            stream = await s.ask(answer=400, timeout_s=5)
            await stream.started()
            await until(lambda: stream.phase is Phase.DECIDED)
            s.service.supervisor.kill("for the test")
            assert tokens(await read(stream)) == expected([1], 5)
            assert isinstance(stream.error, RequestTimeout)
            row = s.row(stream)
            assert (row.state, row.usage.completion_tokens) == (FinishReason.CANCELLED, 5)
            assert "timeout_s of 5 s" in row.error

    run(scene())


def test_a_deadline_before_the_first_token_is_an_answer_of_its_own(tmp_path: Path) -> None:
    async def scene() -> None:
        async with LimitedScene(tmp_path, {"on_submit": "hang"}, {}) as s:
            stream = await s.ask(timeout_s=0.05)
            await until(lambda: stream.phase is Phase.DECIDED)
            s.service.supervisor.kill("for the test")
            await refused(stream.started(), RequestTimeout)

    run(scene())


def test_a_request_that_is_complete_in_time_knows_nothing_of_its_deadline(tmp_path: Path) -> None:
    async def scene() -> None:
        async with LimitedScene(tmp_path) as s:
            stream = await s.ask(answer=10, timeout_s=30.0)
            assert tokens(await read(stream)) == expected([1], 10)
            assert (stream.error, stream.phase) == (None, Phase.SETTLED)

    run(scene())


# ---- the engine is told ------------------------------------------------------------------------------------------


def test_slots_and_tokens_per_minute_are_told_to_the_engine(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "tenantd.engine.output")

    async def scene() -> None:
        async with LimitedScene(tmp_path, reserved_slots=2, max_concurrent=3, tokens_per_minute=600) as s:
            await until(lambda: "share acme 1.0 3 2 600" in caplog.text)
            await s.change()
            await until(lambda: "share acme 1.0 None 0 None" in caplog.text)

    run(scene())
