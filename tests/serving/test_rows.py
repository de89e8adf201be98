"""Rows in the ledger: before the first token, while it runs, and when they cannot be written."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tenantd.domain import FinishReason, Usage
from tenantd.errors import (
    LedgerUnavailable,
)
from tests.serving.daemon_kit import config, run, until
from tests.serving.scene import Scene, expected, read, tokens


def test_nothing_is_delivered_before_the_row_is_durable_though_the_engine_works_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenantd.serving.standstill.INTERVAL_S", 0.01)

    async def scene() -> None:
        async with Scene(tmp_path) as s:
            s.ledger.admit_gate.clear()
            stream = await s.submit([1], 500)
            starting = asyncio.create_task(stream.started())
            await until(lambda: len(stream.generated) >= 10)
            await asyncio.sleep(0.05)
            assert not starting.done() and not s.ledger.admissions and not s.ledger.checkpoints
            s.ledger.admit_gate.set()
            await starting
            assert tokens(await read(stream)) == expected([1], 500)

    run(scene())


def test_a_request_that_cannot_be_recorded_is_refused_and_not_run(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path) as s:
            s.ledger.admit_error = LedgerUnavailable("disk full")
            stream = await s.submit([1], 400)
            with pytest.raises(LedgerUnavailable, match="disk full"):
                await stream.started()
            await until(lambda: s.service.status()["running"] + s.service.status()["waiting"] == 0)
            assert not s.ledger.admissions
            s.ledger.healthy, s.ledger.trouble = False, "disk full"
            with pytest.raises(LedgerUnavailable, match="disk full"):
                await s.submit([1])

    run(scene())


@pytest.mark.parametrize("ends", [False, True])
def test_a_row_that_is_admitted_too_late_is_settled_as_failed_and_costs_nothing(tmp_path: Path, ends: bool) -> None:
    async def scene() -> None:
        settings = config().model_copy(update={"ledger": config().ledger.model_copy(update={"settle_timeout_s": 0.05})})
        async with Scene(tmp_path, settings=settings) as s:
            s.ledger.admit_gate.clear()
            stream = await s.submit([1], 5 if ends else 400)
            await until(
                lambda: stream.finished.done() if ends else len(stream.generated) > 2 or stream.error is not None
            )
            with pytest.raises(LedgerUnavailable, match=r"within 0\.05 s"):
                await stream.started()
            s.ledger.admit_gate.set()
            await until(lambda: stream.id in s.ledger.settlements)
            assert s.row(stream).state is FinishReason.FAILED
            assert s.row(stream).usage == Usage() and "record the request" in s.row(stream).error
            status = s.service.status()
            assert status["engine_unbilled_micros"] == status["engine_busy_micros"] > 0

    run(scene())


def test_an_answer_that_cannot_be_settled_in_time_ends_with_an_error_and_is_settled_later(tmp_path: Path) -> None:
    async def scene() -> None:
        settings = config().model_copy(update={"ledger": config().ledger.model_copy(update={"settle_timeout_s": 0.05})})
        async with Scene(tmp_path, settings=settings) as s:
            s.ledger.settle_gate.clear()
            s.ledger.trouble = "database is locked"
            stream = await s.submit([1])
            await stream.started()
            assert tokens(await read(stream)) == expected([1], 10)
            assert isinstance(stream.error, LedgerUnavailable) and "database is locked" in stream.error.message
            assert not s.ledger.settlements
            s.ledger.settle_gate.set()
            await until(lambda: s.ledger.settlements)
            assert s.row(stream).state is FinishReason.LENGTH and s.row(stream).error == ""

    run(scene())


def test_usage_is_checkpointed_while_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantd.serving.standstill.INTERVAL_S", 0.02)

    async def scene() -> None:
        async with Scene(tmp_path, {"after_tokens": 20, "then": "hang"}, {}) as s:
            stream = await s.submit([1], 400)
            await until(lambda: len(stream.generated) == 20)
            await until(lambda: s.ledger.checkpoints and s.ledger.checkpoints[-1] == {stream.id: stream.usage})
            count = len(s.ledger.checkpoints)
            await asyncio.sleep(0.1)
            assert len(s.ledger.checkpoints) == count, "what has not changed is not written again"
            stream.abandon()
            s.service.supervisor.kill()
            await read(stream)

    run(scene())
