"""The service over a scripted engine and a ledger in memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tenantd.domain import FinishReason, Limits, Priority, Tenant, TenantState, Usage
from tenantd.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    QueueFull,
    RequestCancelled,
    TenantSuspended,
)
from tenantd.live.generation import Generation
from tenantd.wire.messages import Finish, Progress, Step
from tests.fleet.scripted_engine import REFUSED
from tests.serving.daemon_kit import run, until
from tests.serving.scene import ACME, GLOBEX, SLOW, Scene, expected, read, tokens


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
        async with Scene(tmp_path, SLOW) as s:
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


def test_the_clients_own_id_is_there_as_soon_as_the_request_can_be_seen(tmp_path: Path) -> None:
    seen: list[str] = []

    async def scene() -> None:
        async with Scene(tmp_path) as s:
            generation = Generation(kind="completion", prompt=[1], max_tokens=2, client_id="mine")
            [stream] = await s.service.submit_all(ACME, [generation])
            seen.extend(shown["client_request_id"] for shown in s.service.queue())
            await read(stream)

    run(scene())
    assert seen and set(seen) == {"mine"}


def test_an_administrator_ends_a_request_by_its_id(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, SLOW) as s:
            stream = await s.submit([1], 400)
            await stream.started()
            await stream.take()
            assert s.service.changes.cancel(stream.id) and not s.service.changes.cancel("req_none")
            await read(stream)
            assert stream.finish_reason is FinishReason.CANCELLED and isinstance(stream.error, RequestCancelled)
            assert s.row(stream).state is FinishReason.CANCELLED
            assert not s.service.changes.cancel(stream.id), "it has ended"

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


def test_shares_reach_each_engine_and_follow_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "tenantd.engine.output")

    async def scene() -> None:
        async with Scene(tmp_path) as s:
            await until(lambda: "share acme 16.0 None" in caplog.text and "share globex 1.0 3" in caplog.text)
            s.directory.next_tenants["acme"] = Tenant(name="acme", weight=5.0, priority=Priority.LOW)
            await s.service.changes.tenants_changed()
            await until(lambda: "share acme 0.625 None" in caplog.text)
            caplog.clear()
            s.service.supervisor.kill()
            await until(lambda: "share acme 0.625 None" in caplog.text and "share globex 1.0 3" in caplog.text)

    run(scene())


def test_requests_of_a_removed_tenant_are_ended_and_those_of_a_suspended_one_finish(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, SLOW) as s:
            gone, stays = await s.submit([1], 400, GLOBEX), await s.submit([2], 50)
            await gone.started()
            s.directory.next_tenants = {"acme": Tenant(name="acme", state=TenantState.SUSPENDED)}
            await s.service.changes.tenants_changed()
            await read(gone)
            assert s.row(gone).state is FinishReason.CANCELLED and isinstance(gone.error, RequestCancelled)
            assert tokens(await read(stays)) == expected([2], 50)

    run(scene())


def test_engine_time_of_a_request_that_has_ended_here_already_is_nobodys(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path) as s:
            late = Step(
                number=1,
                busy_micros=30,
                unbilled_micros=10,
                progress=[Progress(99, 1, 0, 65, 20)],
                finishes=[Finish(99, 1, FinishReason.STOP)],
                running=0,
                waiting=0,
            )
            s.service._replica.on_step(late)
            s.service.idle_check()
            assert s.service.status()["engine_unbilled_micros"] == 30

    run(scene())


def test_status_counts_what_runs_and_who_waits(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, SLOW) as s:
            stream = await s.submit([1], 100)
            before = s.service.status()
            assert (before["waiting"], before["running"]) == (1, 0)
            await stream.started()
            status = s.service.status()
            acme = status["tenants"][0]
            assert (status["state"], status["waiting"], status["running"]) == ("ready", 0, 1)
            assert (acme["name"], acme["running"], acme["waiting"], acme["priority"]) == ("acme", 1, 0, "high")
            assert 0 < acme["usage"] <= 3.0 and status["engine"]["model"] == "scripted"
            is_well = {"healthy": True, "trouble": "", "wal_bytes": 0, "requests_paused": False, "anchor": None}
            assert status["ledger"] == is_well
            pid = status["engine_pid"]
            assert os.path.exists(f"/proc/{pid}")
            await read(stream)

    run(scene())
