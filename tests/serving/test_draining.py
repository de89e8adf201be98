"""Draining and stopping: what runs finishes or is ended, and all of it is settled."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tenantd.domain import FinishReason
from tenantd.errors import (
    Draining,
    RequestCancelled,
)
from tests.serving.daemon_kit import run
from tests.serving.scene import SLOW, Scene, expected, read, tokens


def test_draining_takes_nothing_new_and_lets_what_runs_finish(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path) as s:
            stream = await s.submit([1], 100)
            draining = asyncio.create_task(s.service.drain(30))
            await asyncio.sleep(0)
            assert s.service.status()["state"] == "draining"
            with pytest.raises(Draining):
                await s.submit([2])
            assert tokens(await read(stream)) == expected([1], 100)
            await draining
            s.service.idle_check()

    run(scene())


def test_draining_cancels_what_does_not_finish_in_time_and_bills_it(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, SLOW) as s:
            stream = await s.submit([1], 500)
            await stream.started()
            await s.service.drain(0)
            row = s.row(stream)
            assert row.state is FinishReason.CANCELLED and "shutting down" in row.error
            assert 0 < row.usage.completion_tokens < 500
            await read(stream)
            assert isinstance(stream.error, RequestCancelled)

    run(scene())


def test_draining_with_a_hung_engine_does_not_wait_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantd.serving.service.STOP_TIMEOUT_S", 0.1)

    async def scene() -> None:
        async with Scene(tmp_path, {"after_tokens": 1, "then": "hang"}) as s:
            stream = await s.submit([1], 500)
            await stream.started()
            async with asyncio.timeout(15):
                await s.service.drain(0)
            assert s.row(stream).state is FinishReason.CANCELLED

    run(scene())


def test_stopping_without_draining_settles_everything(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, SLOW) as s:
            streams = [await s.submit([n], 500) for n in range(1, 5)]
            await streams[0].started()
            await s.service.stop()
            assert {s.row(stream).state for stream in streams} == {FinishReason.CANCELLED}

    run(scene())


def test_stopping_with_a_stuck_ledger_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantd.serving.service.SETTLE_GRACE_S", 0.1)

    async def scene() -> None:
        s = Scene(tmp_path)
        async with s:
            s.ledger.settle_gate.clear()
            await (await s.submit([1])).started()
            async with asyncio.timeout(60):
                await s.service.stop()
            s.ledger.admissions.clear()  # what the ledger holds it writes itself as it closes

    run(scene())
