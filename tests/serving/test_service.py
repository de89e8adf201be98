"""The service over a scripted engine and a ledger in memory."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from tenantd.config import Config
from tenantd.domain import FinishReason, Limits, Priority, Tenant, TenantState, Usage
from tenantd.errors import (
    ContextLengthExceeded,
    Draining,
    EngineUnavailable,
    InvalidRequest,
    LedgerUnavailable,
    QueueFull,
    RequestCancelled,
    TenantSuspended,
)
from tenantd.events import Event, Settled
from tenantd.live.generation import Generation
from tenantd.live.streams import Delta, LiveStream
from tenantd.serving.service import Service
from tenantd.text.vocabulary import ByteVocabulary
from tenantd.wire.messages import Finish, Progress, Step
from tests.fleet.scripted_engine import POISON, REFUSED, token_at
from tests.serving.daemon_kit import config, is_gone, lives, run, scripted, until
from tests.serving.memory_ledger import MemoryDirectory, MemoryLedger
from tests.support.hearing.lives import check_lives

ACME = Tenant(name="acme", weight=2.0, priority=Priority.HIGH)
GLOBEX = Tenant(name="globex", limits=Limits(max_concurrent=3))


class Scene:
    """A started service with a ready engine; at the end everything is settled and nothing is left over."""

    def __init__(
        self,
        folder: Path,
        *script: dict[str, Any],
        settings: Config | None = None,
        tenants: tuple[Tenant, ...] = (ACME, GLOBEX),
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ledger = MemoryLedger()
        self.heard: list[Event] = []
        self.directory = MemoryDirectory(*tenants)
        self.service = Service(
            settings or config(),
            cast(Any, self.ledger),
            cast(Any, self.directory),
            ByteVocabulary(),
            cast(Any, None),
            command=scripted(folder, *script),
            clock_s=clock_s,
            slowest_restart_s=0.05,
        )
        self.service.events.call("test", self.heard.append)

    async def __aenter__(self) -> Scene:
        await self.service.start()
        await self.service.supervisor.wait_ready()
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        pid = self.service.supervisor.pid
        await self.service.stop()
        assert pid is None or is_gone(pid)
        if kind is None:
            self.service.idle_check()
            assert self.ledger.settlements.keys() == self.ledger.admissions.keys(), "every row is settled"
            check_lives(self.heard)
            settled = {event.request_id for event in self.heard if isinstance(event, Settled) and event.has_row}
            assert settled == self.ledger.settlements.keys(), "every settlement is announced"

    async def submit(
        self, prompt: list[int], max_tokens: int | None = 10, tenant: Tenant = ACME, stops: tuple[str, ...] = ()
    ) -> LiveStream:
        return await self.service.submit(
            tenant, Generation(kind="completion", prompt=prompt, max_tokens=max_tokens, stops=stops)
        )

    def row(self, stream: LiveStream) -> Any:
        return self.ledger.settlements[stream.id]


async def read(stream: LiveStream) -> list[Delta]:
    deltas: list[Delta] = []
    while new := await stream.take():
        deltas += new
    return deltas


def tokens(deltas: list[Delta]) -> list[int]:
    return [delta.token for delta in deltas if delta.token >= 0]


def expected(prompt: list[int], count: int) -> list[int]:
    return [token_at(prompt, i) for i in range(count)]


def test_a_request_runs_is_delivered_and_settled_with_what_it_used(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path) as s:
            stream = await s.submit([1, 2, 3])
            await stream.started()
            deltas = await read(stream)
            assert tokens(deltas) == expected([1, 2, 3], 10)
            assert "".join(d.text for d in deltas).encode() == bytes(expected([1, 2, 3], 10))
            assert (stream.finish_reason, stream.error) == (FinishReason.LENGTH, None)
            admission, row = s.ledger.admissions[stream.id], s.row(stream)
            assert (admission.tenant, admission.kind, admission.prompt_length_tokens) == ("acme", "completion", 3)
            assert (admission.max_tokens, admission.created_micros) == (10, stream.created_micros)
            assert row.usage == Usage(prompt_tokens=3, completion_tokens=10, engine_micros=1000) == stream.usage
            assert row.state is FinishReason.LENGTH and row.error == ""
            assert 0 < row.first_token_micros <= row.duration_micros

    run(scene())


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


def test_a_stop_string_ends_the_request_before_it_and_bills_the_token_that_completed_it(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path) as s:
            whole = bytes(expected([1, 2], 400)).decode()
            stop = whole[5:8]
            end = whole.index(stop) + 3
            stream = await s.submit([1, 2], 400, stops=(stop,))
            deltas = await read(stream)
            assert "".join(d.text for d in deltas) == whole[: end - 3]
            assert stream.finish_reason is FinishReason.STOP and stream.error is None
            assert s.row(stream).usage.completion_tokens == end
            assert s.row(stream).state is FinishReason.STOP

    run(scene())


def test_an_abandoned_request_stops_decoding_and_is_billed_for_what_came(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path) as s:
            stream = await s.submit([1], 400)
            await stream.started()
            stream.abandon()
            stream.abandon()
            await until(lambda: stream.id in s.ledger.settlements)
            row = s.row(stream)
            assert row.state is FinishReason.DISCONNECTED and 0 < row.usage.completion_tokens < 400
            stream.abandon()
            assert stream.finish_reason is FinishReason.DISCONNECTED

    run(scene())


def test_an_administrator_ends_a_request_by_its_id(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path) as s:
            stream = await s.submit([1], 400)
            await stream.started()
            await stream.take()
            assert s.service.cancel(stream.id) and not s.service.cancel("req_none")
            await read(stream)
            assert stream.finish_reason is FinishReason.CANCELLED and isinstance(stream.error, RequestCancelled)
            assert s.row(stream).state is FinishReason.CANCELLED
            assert not s.service.cancel(stream.id), "it has ended"

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


def test_what_the_engine_refuses_is_the_requests_own_fault(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path) as s:
            stream = await s.submit([REFUSED, 1])
            with pytest.raises(InvalidRequest, match="refused"):
                await stream.started()
            assert (s.row(stream).state, s.row(stream).error) == (FinishReason.FAILED, "refused")
            assert s.row(stream).usage == Usage()

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
            with pytest.raises(EngineUnavailable, match=r"crashed 3 times in a row .* GGML_ASSERT"):
                await poison.started()
            assert s.row(poison).state is FinishReason.FAILED and "GGML_ASSERT" in s.row(poison).error
            assert s.service.status()["engine_restarts"] == 3

    run(scene())


def test_suspects_are_tried_one_by_one_and_one_that_waits_for_its_turn_can_be_ended(tmp_path: Path) -> None:
    async def scene() -> None:
        crash = {"on_submit": "abort"}
        async with Scene(tmp_path, crash, crash, {"on_submit": "hang"}, {}, settings=config(max_crashes=9)) as s:
            first, second, third = [await s.submit([n], 50) for n in (1, 2, 3)]
            await until(lambda: lives(tmp_path) == 3 and first.is_in_engine)
            assert not second.is_in_engine and not third.is_in_engine
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
        async with Scene(tmp_path, lost, *[crash] * 4, {}, settings=config(reload_timeout_s=0.1)) as s:
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
            await until(lambda: stream.finished.done() if ends else len(stream.generated) > 2)
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


def test_what_is_wrong_with_a_request_is_said_before_anything_starts(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path) as s:
            with pytest.raises(ContextLengthExceeded, match=r"512 tokens.* 512 tokens"):
                await s.submit([1] * 512)
            with pytest.raises(InvalidRequest):
                await s.submit([])
            with pytest.raises(InvalidRequest):
                await s.submit([1], 0)
            suspended = s.directory.tenants["acme"] = Tenant(name="acme", state=TenantState.SUSPENDED)
            with pytest.raises(TenantSuspended):
                await s.submit([1], tenant=suspended)
            assert not s.ledger.admissions

    run(scene())


def test_output_is_cut_to_the_room_left_in_the_context(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path) as s:
            stream = await s.submit([1] * 508, 100)
            assert len(tokens(await read(stream))) == 4 and stream.finish_reason is FinishReason.LENGTH

    run(scene())


def test_a_full_queue_is_refused_with_a_time_to_come_back(tmp_path: Path) -> None:
    async def scene() -> None:
        limited = Tenant(name="globex", limits=Limits(max_queued=1))
        async with Scene(tmp_path, tenants=(ACME, limited)) as s:
            streams = [await s.submit([n], 400, limited) for n in range(1, 6)]
            with pytest.raises(QueueFull, match="globex already has 5 requests waiting") as e:
                await s.submit([1], tenant=limited)
            assert e.value.retry_after_s is not None and 1 <= e.value.retry_after_s <= 60
            await (await s.submit([1], 1)).started()  # another tenant is not refused
            for stream in streams:
                stream.abandon()
            await until(lambda: not s.service.status()["waiting"] and not s.service.status()["running"])
            assert tokens(await read(await s.submit([9], 2, limited))) == expected([9], 2)

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


def test_shares_reach_each_engine_and_follow_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "tenantd.engine.output")

    async def scene() -> None:
        async with Scene(tmp_path) as s:
            await until(lambda: "share acme 16.0 None" in caplog.text and "share globex 1.0 3" in caplog.text)
            s.directory.next_tenants["acme"] = Tenant(name="acme", weight=5.0, priority=Priority.LOW)
            await s.service.tenants_changed()
            await until(lambda: "share acme 0.625 None" in caplog.text)
            caplog.clear()
            s.service.supervisor.kill()
            await until(lambda: "share acme 0.625 None" in caplog.text and "share globex 1.0 3" in caplog.text)

    run(scene())


def test_requests_of_a_removed_tenant_are_ended_and_those_of_a_suspended_one_finish(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path) as s:
            gone, stays = await s.submit([1], 400, GLOBEX), await s.submit([2], 50)
            await gone.started()
            s.directory.next_tenants = {"acme": Tenant(name="acme", state=TenantState.SUSPENDED)}
            await s.service.tenants_changed()
            await read(gone)
            assert s.row(gone).state is FinishReason.CANCELLED and isinstance(gone.error, RequestCancelled)
            assert tokens(await read(stays)) == expected([2], 50)

    run(scene())


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
        async with Scene(tmp_path) as s:
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
            async with asyncio.timeout(6):
                await s.service.drain(0)
            assert s.row(stream).state is FinishReason.CANCELLED

    run(scene())


def test_stopping_without_draining_settles_everything(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path) as s:
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
            async with asyncio.timeout(5):
                await s.service.stop()
            s.ledger.admissions.clear()  # what the ledger holds it writes itself as it closes

    run(scene())


def test_engine_time_of_a_request_that_has_ended_here_already_is_nobodys(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path) as s:
            late = Step(
                number=1,
                busy_micros=30,
                unbilled_micros=10,
                progress=[Progress(99, 0, 65, 20)],
                finishes=[Finish(99, FinishReason.STOP)],
                running=0,
                waiting=0,
            )
            s.service._replica.on_step(late)
            s.service.idle_check()
            assert s.service.status()["engine_unbilled_micros"] == 30

    run(scene())


def test_status_counts_what_runs_and_who_waits(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path) as s:
            stream = await s.submit([1], 500)
            before = s.service.status()
            assert (before["waiting"], before["running"]) == (1, 0)
            await stream.started()
            status = s.service.status()
            acme = status["tenants"][0]
            assert (status["state"], status["waiting"], status["running"]) == ("ready", 0, 1)
            assert (acme["name"], acme["running"], acme["waiting"], acme["priority"]) == ("acme", 1, 0, "high")
            assert 0 < acme["usage"] <= 3.0 and status["engine"]["model"] == "scripted"
            assert status["ledger"] == {"healthy": True, "trouble": "", "wal_bytes": 0, "requests_paused": False}
            pid = status["engine_pid"]
            assert os.path.exists(f"/proc/{pid}")
            await read(stream)

    run(scene())
