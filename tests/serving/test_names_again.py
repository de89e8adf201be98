"""A name that another tenant has by now, and changes that are committed but cannot be read."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tenantd.domain import Limits, Tenant, TenantState
from tenantd.errors import LedgerUnavailable, TenantSuspended
from tenantd.events import Events
from tenantd.serving import changes
from tenantd.watching.metrics import Meter
from tests.serving.daemon_kit import run, until
from tests.serving.scene import Scene, read

LIMITS = Limits(requests_per_minute=100, tokens_per_minute=1000)
OLD, NEW = Tenant(id=1, name="acme", limits=LIMITS), Tenant(id=2, name="acme", limits=LIMITS)


def test_a_tenant_has_requests_until_the_last_is_settled(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, tenants=(OLD,)) as s:
            s.ledger.settle_gate.clear()
            stream = await s.submit([1], 3, OLD)
            assert s.service.changes.has_requests("acme") and not s.service.changes.has_requests("globex")
            await stream.finished
            assert not s.service.status()["running"] and s.service.changes.has_requests("acme")
            s.ledger.settle_gate.set()
            await until(lambda: not s.service.changes.has_requests("acme"))

    run(scene())


def test_what_is_booked_after_a_removal_does_not_count_for_the_next_tenant_of_the_name(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, tenants=(OLD,)) as s:
            await read(await s.submit([1], 3, OLD))
            s.service.changes.tenant_removed(OLD.id)
            s.service._rates.book_tokens("acme", 7, s.service._gate._now_micros())  # as a late step does
            s.directory.next_tenants = {"acme": NEW}
            await s.service.changes.tenants_changed()
            assert s.service.rates(NEW)["tokens"].remaining == 1000
            await read(await s.submit([1], 3, NEW))
            await s.service.changes.tenants_changed()
            assert s.service.rates(NEW)["tokens"].remaining == 996, "its own stays"

    run(scene())


def test_a_change_that_overtakes_another_does_not_make_it_forget_the_new_tenant(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, tenants=(OLD,)) as s:
            shown, go_on = s.directory.reload, asyncio.Event()

            async def overtaken(ledger: Any) -> dict[str, Tenant]:
                await go_on.wait()
                return s.directory.tenants

            s.directory.reload = overtaken  # type: ignore[method-assign]
            first = asyncio.create_task(s.service.changes.tenants_changed())
            await asyncio.sleep(0)
            s.directory.reload = shown  # type: ignore[method-assign]
            s.directory.next_tenants = {"acme": NEW}
            await s.service.changes.tenants_changed()
            await read(await s.submit([1], 3, NEW))
            go_on.set()
            await first
            assert s.service.rates(NEW)["requests"].remaining == 99

    run(scene())


def test_what_cannot_be_read_is_read_as_soon_as_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(changes, "RELOAD_INTERVAL_S", 0.01)

    async def scene() -> None:
        async with Scene(tmp_path, tenants=(OLD,)) as s:
            shown, tried = s.directory.reload, []

            async def broken(ledger: Any) -> dict[str, Tenant]:
                tried.append(ledger)
                raise LedgerUnavailable("cannot read the ledger")

            s.directory.reload = broken  # type: ignore[method-assign]
            s.directory.next_tenants = {"acme": NEW}
            for _ in range(2):
                with pytest.raises(LedgerUnavailable):
                    await s.service.changes.tenants_changed()
            await until(lambda: len(tried) > 5)
            assert s.directory.tenants == {"acme": OLD}
            s.directory.reload = shown  # type: ignore[method-assign]
            await until(lambda: s.directory.tenants == {"acme": NEW})
            assert caplog.text.count("trying again every second") == caplog.text.count("are in force") == 1
            s.directory.reload = broken  # type: ignore[method-assign]
            with pytest.raises(LedgerUnavailable):
                await s.service.changes.tenants_changed()  # and a stop ends that, too

    run(scene())


def test_a_suspension_refuses_requests_without_a_reading(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, tenants=(OLD,)) as s:
            s.service.changes.tenant_suspended(OLD.id)
            assert s.directory.tenants["acme"].state is TenantState.SUSPENDED
            with pytest.raises(TenantSuspended):
                await s.submit([1], 3, OLD)

    run(scene())


def test_metrics_of_a_name_begin_anew_even_if_nobody_saw_it_free_and_others_go_on(tmp_path: Path) -> None:
    events = Events()
    meter = Meter(events)
    globex, labels = Tenant(id=3, name="globex"), {"state": "length"}

    def counted(tenant: str) -> float | None:
        return meter.registry.get_sample_value("tenantd_requests_total", {**labels, "tenant": tenant})

    async def scene() -> None:
        meter.keep(["acme", "globex"])
        async with Scene(tmp_path, tenants=(OLD, globex), on_tenants=meter.keep) as s:
            s.service.events.call("meter", meter.hear)
            for tenant in (OLD, globex):
                await read(await s.submit([1], 3, tenant))
            assert counted("acme") == counted("globex") == 1
            s.directory.next_tenants = {"acme": NEW, "globex": globex}
            await s.service.changes.tenants_changed()
            assert (counted("acme"), counted("globex")) == (None, 1)
            await read(await s.submit([1], 3, NEW))
            assert counted("acme") == 1, "it is counted from now on"

    run(scene())
