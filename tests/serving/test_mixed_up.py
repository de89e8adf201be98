"""An engine that mixes up two requests: nothing of it is delivered, one request fails, the others go on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tenantd.domain import Breach, FinishReason
from tenantd.errors import EngineFailure
from tenantd.events import BindingBroken, EngineLost, Loss
from tenantd.watching.metrics import Meter
from tests.fleet.scripted_engine import MIXES
from tests.serving.daemon_kit import config, lives, run
from tests.serving.scene import ACME, GLOBEX, SLOW, Scene, expected, read, tokens


@pytest.mark.parametrize("how", MIXES)
def test_an_engine_that_mixes_up_requests_is_replaced_and_nothing_foreign_is_delivered(
    tmp_path: Path, how: str
) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, {"mix": how, "mix_after": 20}, {}) as s:
            meter = Meter(s.service.events)  # listens from now on
            prompts = [[20], [30], [40]]
            streams = [await s.submit(prompt, 60, t) for prompt, t in zip(prompts, (ACME, GLOBEX, ACME), strict=True)]
            results = await asyncio.gather(*map(read, streams))
            [broken] = [event for event in s.heard if isinstance(event, BindingBroken)]
            [victim] = [stream for stream in streams if stream.id == broken.request_id]
            assert victim in streams[:2] and victim.error is not None
            for prompt, stream, deltas in zip(prompts, streams, results, strict=True):
                got = tokens(deltas)
                if stream is victim:
                    assert got == expected(prompt, len(got)) and 0 < len(got) < 60
                    assert isinstance(stream.error, EngineFailure) and "mixed up" in stream.error.message
                    assert s.row(stream).state is FinishReason.FAILED
                    assert s.row(stream).usage.completion_tokens == len(got)
                else:
                    assert got == expected(prompt, 60) and s.row(stream).state is FinishReason.LENGTH
            assert (broken.breach, broken.tenant) == (Breach.ENGINE, victim.tenant)
            assert broken.reported != broken.binding
            [lost] = [event for event in s.heard if isinstance(event, EngineLost)]
            assert lost.reason is Loss.KILLED and s.service.status()["engine_restarts"] == 1
            assert lives(tmp_path) == 2
            assert meter.registry.get_sample_value("tenantd_broken_bindings_total") == 1

    run(scene())


def test_an_engine_that_keeps_mixing_up_requests_fails_one_each_time(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, {"mix": "binding", "mix_after": 1}, settings=config(max_crashes=99)) as s:
            streams = [await s.submit([n], 30) for n in (20, 30, 40)]
            results = await asyncio.gather(*map(read, streams))
            for n, stream, deltas in zip((20, 30, 40), streams, results, strict=True):
                assert tokens(deltas) == expected([n], len(tokens(deltas)))
                assert (stream.error is None) == (len(tokens(deltas)) == 30)
            assert sum(stream.error is None for stream in streams) == 1, "it was alone in the end"

    run(scene())


def test_a_stream_for_somebody_else_is_ended_and_the_engine_replaced(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, SLOW) as s:
            stream, other = await s.submit([1], 400), await s.submit([2], 50, GLOBEX)
            await stream.started()
            s.service.misdirected(stream, "globex")
            await read(stream)
            assert isinstance(stream.error, EngineFailure)
            s.service.misdirected(stream, "globex")  # it has ended: nothing more to end
            assert tokens(await read(other)) == expected([2], 50)
            broken = [event for event in s.heard if isinstance(event, BindingBroken)]
            assert [(event.breach, event.tenant, event.other) for event in broken] == [
                (Breach.CONNECTION, "acme", "globex")
            ] * 2
            assert s.service.supervisor.restarts >= 1

    run(scene())
