"""What becomes of requests when the engine ends, and of those that end it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tenantd.domain import FinishReason, Usage
from tenantd.errors import (
    EngineUnavailable,
)
from tenantd.live.phases import Phase
from tests.fleet.scripted_engine import POISON
from tests.serving.daemon_kit import config, lives, run, until
from tests.serving.scene import ACME, GLOBEX, Scene, expected, read, tokens


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_streams_go_on_through_crashes_each_with_one_row_and_nothing_billed_twice(tmp_path: Path, loop: str) -> None:
    async def scene() -> None:
        crash = [{"after_tokens": n, "then": how} for n, how in ((30, "sigkill"), (50, "garbage"), (70, "abort"))]
        async with Scene(tmp_path, *crash, {}) as s:
            prompts = [[n, n + 1, n + 2] for n in range(10, 26)]
            streams = [await s.submit(p, 40, ACME if p[0] % 2 else GLOBEX) for p in prompts]
            results = await asyncio.gather(*map(read, streams))
            for prompt, stream, deltas in zip(prompts, streams, results, strict=True):
                assert tokens(deltas) == expected(prompt, 40)
                assert s.row(stream).usage.prompt_tokens == 3
                assert s.row(stream).usage.completion_tokens == 40
                assert s.row(stream).state is FinishReason.LENGTH
            assert len(s.ledger.admissions) == 16 and s.service.status()["engine_restarts"] == 3
        assert lives(tmp_path) == 4

    run(scene(), loop)


def test_new_requests_are_taken_between_two_engines_and_wait(tmp_path: Path) -> None:
    async def scene() -> None:
        settings = config(restart_delay_s=0.3)
        async with Scene(tmp_path, {"after_tokens": 2, "then": "abort"}, {}, settings=settings) as s:
            first = await s.submit([1])
            await until(lambda: s.service.status()["state"] == "restarting")
            assert "signal 6" in s.service.status()["reason"]
            second = await s.submit([2])
            assert tokens(await read(first)) == expected([1], 10)
            assert tokens(await read(second)) == expected([2], 10)

    run(scene())


def test_requests_that_were_to_end_do_so_when_the_engine_dies_first(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, {"after_tokens": 5, "then": "hang"}, {}) as s:
            left, other = await s.submit([1], 400), await s.submit([2])
            await until(lambda: len(left.generated) + len(other.generated) >= 5)
            left.abandon()
            s.service.supervisor.kill("for the test")
            assert tokens(await read(other)) == expected([2], 10)
            assert s.row(left).state is FinishReason.DISCONNECTED

    run(scene())


@pytest.mark.parametrize("position", [0, 1, 3])
def test_a_request_that_kills_the_engine_each_time_is_failed_and_the_others_go_on(
    tmp_path: Path, position: int
) -> None:
    async def scene() -> None:
        async with Scene(tmp_path) as s:
            prompts = [[1], [2], [3]]
            prompts.insert(position, [POISON, 1])
            streams = [await s.submit(prompt, 300) for prompt in prompts]
            poison = streams.pop(position)
            results = await asyncio.gather(*map(read, streams))
            assert [tokens(deltas) for deltas in results] == [expected([n], 300) for n in (1, 2, 3)]
            with pytest.raises(EngineUnavailable, match=r"crashed 3 times in a row .*: killed by signal 6$"):
                await poison.started()
            assert s.row(poison).state is FinishReason.FAILED and "signal 6" in s.row(poison).error
            assert s.service.status()["engine_restarts"] == 3

    run(scene())


def test_suspects_are_tried_one_by_one_and_one_that_waits_for_its_turn_can_be_ended(tmp_path: Path) -> None:
    async def scene() -> None:
        crash = {"on_submit": "abort"}
        async with Scene(tmp_path, crash, crash, {"on_submit": "hang"}, {}, settings=config(max_crashes=9)) as s:
            first, second, third = [await s.submit([n], 50) for n in (1, 2, 3)]
            await until(lambda: lives(tmp_path) == 3 and first.phase is Phase.IN_ENGINE)
            assert second.phase is third.phase is Phase.WAITING
            second.abandon()
            await until(lambda: second.id in s.ledger.settlements)
            s.service.supervisor.kill()
            assert tokens(await read(third)) == expected([3], 50)
            assert tokens(await read(first)) == expected([1], 50)
            assert s.row(second).usage == Usage()

    run(scene())


def test_an_engine_that_keeps_failing_to_start_fails_requests_until_it_runs_again(tmp_path: Path) -> None:
    async def scene() -> None:
        lost, crash = {"after_tokens": 3, "then": "abort"}, {"start": "9"}
        async with Scene(tmp_path, lost, *[crash] * 8, {}, settings=config(reload_timeout_s=0.1)) as s:
            stream = await s.submit([1])
            await stream.started()
            await read(stream)
            assert isinstance(stream.error, EngineUnavailable) and "exited with status 9" in stream.error.message
            assert stream.error.http_status == 503 and s.row(stream).state is FinishReason.FAILED
            with pytest.raises(EngineUnavailable, match="exited with status 9") as e:
                await s.submit([2])
            assert e.value.retry_after_s
            await s.service.supervisor.wait_ready()
            assert tokens(await read(await s.submit([2]))) == expected([2], 10)

    run(scene())


def test_a_bad_model_refuses_requests_for_good(tmp_path: Path) -> None:
    async def scene() -> None:
        s = Scene(tmp_path, {"start": "load_failed"})
        await s.service.start()
        with pytest.raises(EngineUnavailable, match="model is loading"):
            await s.submit([1])
        await until(lambda: s.service.supervisor.is_hopeless)
        with pytest.raises(EngineUnavailable, match="not a GGUF") as e:
            await s.submit([1])
        assert e.value.retry_after_s is None
        await s.service.stop()

    run(scene())
