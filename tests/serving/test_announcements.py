"""What the service announces of requests and engines. In test_service.py every scene checks the order of events."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

from tenantd.domain import FinishReason, Usage
from tenantd.events import (
    Admitted,
    CleanedUp,
    EngineLost,
    EngineStarted,
    Event,
    FirstToken,
    Loss,
    PathKind,
    Settled,
    Started,
)
from tests.fleet.scripted_engine import REFUSED
from tests.serving.daemon_kit import config, run, until
from tests.serving.scene import ACME, Scene, read
from tests.support.hearing.lives import check_lives


def of_kind(heard: list[Event], kind: type[Event]) -> list[Any]:
    return [event for event in heard if isinstance(event, kind)]


def test_a_request_is_announced_from_its_admission_until_nothing_is_left_of_it(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path) as s:
            stream = await s.submit([1, 2, 3])
            await read(stream)
        [admitted] = of_kind(s.heard, Admitted)
        assert (admitted.request_id, admitted.tenant, admitted.key_id) == (stream.id, "acme", None)
        assert (admitted.path, admitted.prompt_tokens, admitted.max_tokens) == (PathKind.COMPLETION, 3, 10)
        assert (admitted.choice, admitted.logprobs, admitted.logit_biases) == (0, None, 0)
        [started], [first] = of_kind(s.heard, Started), of_kind(s.heard, FirstToken)
        [settled] = of_kind(s.heard, Settled)
        assert started.waited_micros > 0 and 0 < first.after_micros == settled.first_token_micros
        assert settled.usage == Usage(prompt_tokens=3, completion_tokens=10, engine_micros=1000)
        assert (settled.state, settled.cause, settled.has_row) == (FinishReason.LENGTH, None, True)
        assert settled.duration_micros == stream.duration_micros
        [life] = check_lives(s.heard).values()
        assert life == [Admitted, Started, FirstToken, Settled, CleanedUp]

    run(scene())


def test_nothing_has_a_request_any_more_when_it_is_announced_as_cleaned_up(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path) as s:
            looked: list[bool] = []

            def look(event: Event) -> None:
                if isinstance(event, CleanedUp):
                    s.service.idle_check()
                    looked.append(s.service.status()["running"] == 0)

            s.service.events.call("look", look)
            await read(await s.submit([1, 2, 3]))
            await asyncio.sleep(0)
            assert looked == [True], s.service.events.accounts()

    run(scene())


def test_a_request_that_ends_in_the_queue_never_starts(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, settings=config(restart_delay_s=2)) as s:
            s.service.supervisor.kill()
            await until(lambda: of_kind(s.heard, EngineLost))
            stream = await s.submit([1])
            assert s.service.changes.cancel(stream.id)
            await read(stream)
        [life] = check_lives(s.heard).values()
        assert life == [Admitted, Settled, CleanedUp]
        assert of_kind(s.heard, Settled)[0].state is FinishReason.CANCELLED

    run(scene())


def test_a_request_without_a_row_is_settled_as_nobodys(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path) as s:
            s.ledger.admit_error = cast(Any, OSError("disk full"))
            stream = await s.submit([1, 2, 3])
            await stream.finished
            s.ledger.admit_error = None
        [settled] = of_kind(s.heard, Settled)
        assert (settled.has_row, settled.usage, settled.state) == (False, Usage(), FinishReason.FAILED)
        assert settled.cause == "ledger_unavailable"
        assert check_lives(s.heard)[stream.id][-1] is CleanedUp

    run(scene())


def test_what_the_engine_refuses_ends_with_its_cause(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path) as s:
            stream = await s.submit([REFUSED])
            await read(stream)
        [settled] = of_kind(s.heard, Settled)
        assert (settled.state, settled.cause) == (FinishReason.FAILED, "invalid_request")

    run(scene())


def test_engines_are_announced_as_they_start_and_when_they_are_lost(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, {"after_tokens": 3, "then": "abort"}, {}) as s:
            stream = await s.submit([1, 2, 3], tenant=ACME)
            await read(stream)
            assert stream.finish_reason is FinishReason.LENGTH
            pid = s.service.supervisor.pid
        first, second = of_kind(s.heard, EngineStarted)
        assert (first.restarts, second.restarts, second.pid) == (0, 1, pid)
        assert first.slots > 0 and first.context_tokens > 0 and first.pid != pid
        [lost] = of_kind(s.heard, EngineLost)
        assert (lost.reason, lost.status, lost.live) == (Loss.SIGNAL, -6, 1)
        [life] = check_lives(s.heard).values()
        assert life == [Admitted, Started, FirstToken, Settled, CleanedUp], "a second engine is no second start"

    run(scene())
