"""The directory: what the request path is told."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tenantd.domain import CacheUse, Limits, OnLimit, OwnLimits, Tenant, TenantState
from tenantd.errors import LedgerUnavailable
from tenantd.ledger.ledger import Lane
from tenantd.serving.policies import shares
from tenantd.tenancy import keys
from tenantd.tenancy import tenants as store
from tenantd.tenancy.directory import Directory, Snapshot
from tenantd.tenancy.key_ends import KeyEnds
from tests.ledger.books import ledger_in


def two_tenants(conn: sqlite3.Connection) -> tuple[str, str]:
    """A key of each."""
    store.add_tenant(conn, Tenant(name="acme", uids=(1000, 1001)))
    store.add_tenant(conn, Tenant(name="globex", uids=(1001,)))
    return keys.create_key(conn, "acme", "")[1], keys.create_key(conn, "globex", "")[1]


def tenant_with(directory: Directory, secret: str) -> Tenant | None:
    found = directory.key_for(secret)
    return None if found is None else found[0]


def test_keys_and_users_lead_to_their_tenants(tmp_path: Path) -> None:
    async def main() -> None:
        directory = Directory()
        async with ledger_in(tmp_path) as ledger:
            acme, globex = await ledger.write(two_tenants)
            assert tenant_with(directory, acme) is None and directory.tenants == {}
            await directory.reload(ledger)
        found = directory.key_for(acme)
        assert found is not None and found[0] is directory.tenants["acme"] and found[1].startswith("key_")
        assert tenant_with(directory, globex) is directory.tenants["globex"]
        assert [tenant.name for tenant in directory.by_uid(1001)] == ["acme", "globex"]
        assert [tenant.name for tenant in directory.by_uid(1000)] == ["acme"]
        assert directory.by_uid(0) == []
        for stranger in (keys.new_secret(), acme[:-1], acme + "0", acme.lower(), "", "\ud800", "td_" + "é" * 39):
            assert tenant_with(directory, stranger) is None

    asyncio.run(main())


def test_changes_hold_after_the_next_reload(tmp_path: Path) -> None:
    async def main() -> None:
        directory = Directory()
        async with ledger_in(tmp_path) as ledger:
            acme, globex = await ledger.write(two_tenants)
            await directory.reload(ledger)
            await ledger.write(lambda conn: store.remove_tenant(conn, "acme"))
            await ledger.write(lambda conn: store.set_state(conn, "globex", TenantState.SUSPENDED))
            await directory.reload(ledger)
            assert tenant_with(directory, acme) is None and "acme" not in directory.tenants
            suspended = tenant_with(directory, globex)
            assert suspended is not None and suspended.state is TenantState.SUSPENDED
            assert directory.by_uid(1000) == []

            found = directory.key_for(globex)
            assert found is not None
            await ledger.write(lambda conn: keys.revoke_key(conn, found[1]))
            await directory.reload(ledger)
            assert tenant_with(directory, globex) is None and "globex" in directory.tenants

    asyncio.run(main())


def test_defaults_hold_for_whoever_has_no_limit_of_its_own_and_change_at_once(tmp_path: Path) -> None:
    own = OwnLimits(requests_per_minute="none", max_concurrent=3, on_limit=OnLimit.REJECT)

    async def main() -> None:
        directory = Directory(Limits(requests_per_minute=5, on_limit=OnLimit.QUEUE))
        async with ledger_in(tmp_path) as ledger:
            acme, globex = await ledger.write(two_tenants)
            await ledger.write(lambda conn: store.update_tenant(conn, "globex", own_limits=own))
            await directory.reload(ledger)

        def limits(key: str) -> Limits:
            found = tenant_with(directory, key)
            assert found is not None and found is directory.tenants[found.name]
            assert found in directory.by_uid(1001)
            return found.limits

        assert limits(acme) == Limits(requests_per_minute=5, on_limit=OnLimit.QUEUE)
        assert limits(globex) == Limits(max_concurrent=3)
        directory.use_defaults(Limits(requests_per_minute=7, max_concurrent=1, tokens_per_minute=90))
        assert limits(acme) == Limits(requests_per_minute=7, max_concurrent=1, tokens_per_minute=90)
        assert limits(globex) == Limits(max_concurrent=3, tokens_per_minute=90)

    asyncio.run(main())


def test_who_has_a_cache_is_its_own_setting_or_that_of_all_which_changes_at_once(tmp_path: Path) -> None:
    def on(own: CacheUse) -> bool:
        return own is not CacheUse.OFF

    async def main() -> None:
        directory = Directory()
        async with ledger_in(tmp_path) as ledger:
            await ledger.write(two_tenants)
            await directory.reload(ledger)
            for acme, globex, caches, has in (
                (CacheUse.DEFAULT, CacheUse.ON, None, [False, True]),
                (CacheUse.DEFAULT, CacheUse.OFF, on, [True, False]),
                (CacheUse.ON, CacheUse.DEFAULT, on, [True, True]),
            ):
                if caches is not None:
                    directory.use_defaults(Limits(), caches)
                await ledger.write(lambda conn, use=acme: store.update_tenant(conn, "acme", cache=use))
                await ledger.write(lambda conn, use=globex: store.update_tenant(conn, "globex", cache=use))
                await directory.reload(ledger)
                tenants = [directory.tenants[name] for name in ("acme", "globex")]
                assert [tenant.is_cached for tenant in tenants] == has
                assert [policy.cache for policy in shares(tenants, 4)] == [
                    tenant.id if tenant.is_cached else 0 for tenant in tenants
                ]

    asyncio.run(main())


def test_defaults_that_change_during_a_reading_hold_after_it(tmp_path: Path) -> None:
    async def main() -> None:
        directory = Directory(Limits(max_queued=1))
        async with ledger_in(tmp_path) as ledger:
            acme, _ = await ledger.write(two_tenants)
            reading = asyncio.create_task(directory.reload(ledger))
            await asyncio.sleep(0)
            directory.use_defaults(Limits(max_queued=2))
            await reading
        found = tenant_with(directory, acme)
        assert found is not None and found.limits == Limits(max_queued=2)

    asyncio.run(main())


def only(tenant: Tenant) -> Snapshot:
    """What a ledger with this tenant and no key holds."""
    return Snapshot([tenant], {}, {}, KeyEnds(lambda: 0, lambda: 0.0), {})


def test_a_reading_that_is_overtaken_is_not_shown(tmp_path: Path) -> None:
    class Slow:
        """A ledger whose first reading comes back last."""

        def __init__(self) -> None:
            self.readings: list[Any] = [only(Tenant(name="old")), only(Tenant(name="new"))]
            self.second_done = asyncio.Event()

        async def read(self, work: Any, lane: Lane) -> Any:
            reading = self.readings.pop(0)
            if self.readings:
                await self.second_done.wait()
            return reading

    async def main() -> None:
        directory, ledger = Directory(), Slow()
        first = asyncio.create_task(directory.reload(ledger))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        await directory.reload(ledger)  # type: ignore[arg-type]
        ledger.second_done.set()
        await first
        assert list(directory.tenants) == ["new"]

    asyncio.run(main())


class Late:
    """The ledger, whose reading comes back when it is told to."""

    def __init__(self, ledger: Any) -> None:
        self.ledger = ledger
        self.has_read, self.go_on = asyncio.Event(), asyncio.Event()

    async def read(self, *arguments: Any, **options: Any) -> Any:
        reading = await self.ledger.read(*arguments, **options)
        self.has_read.set()
        await self.go_on.wait()
        return reading


def test_a_revoked_key_is_gone_at_once_and_no_older_reading_brings_it_back(tmp_path: Path) -> None:
    async def main() -> None:
        directory = Directory()
        async with ledger_in(tmp_path) as ledger:
            acme, globex = await ledger.write(two_tenants)
            await directory.reload(ledger)
            found = directory.key_for(acme)
            assert found is not None and directory.has_key(found[1])
            late = Late(ledger)
            reading = asyncio.create_task(directory.reload(late))  # type: ignore[arg-type]
            await late.has_read.wait()
            await ledger.write(lambda conn: keys.revoke_key(conn, found[1]))
            directory.revoke(found[1])
            assert directory.key_for(acme) is None and not directory.has_key(found[1])
            late.go_on.set()
            await reading
            assert directory.key_for(acme) is None and not directory.has_key(found[1])
            assert tenant_with(directory, globex) is directory.tenants["globex"]

    asyncio.run(main())


def test_a_ledger_that_cannot_be_read_leaves_the_old_picture(tmp_path: Path) -> None:
    async def main() -> None:
        directory = Directory()
        async with ledger_in(tmp_path) as ledger:
            acme, _ = await ledger.write(two_tenants)
            await directory.reload(ledger)
            ledger.path.rename(tmp_path / "gone.db")
            with pytest.raises(LedgerUnavailable):
                await directory.reload(ledger)
            assert tenant_with(directory, acme) is directory.tenants["acme"]

    asyncio.run(main())


def test_a_tenant_is_stopped_at_once_and_no_older_reading_brings_it_back(tmp_path: Path) -> None:
    async def main() -> None:
        directory = Directory()
        async with ledger_in(tmp_path) as ledger:
            acme, globex = await ledger.write(two_tenants)
            await directory.reload(ledger)
            before = directory.tenants
            late = Late(ledger)
            reading = asyncio.create_task(directory.reload(late))  # type: ignore[arg-type]
            await late.has_read.wait()
            removed = await ledger.write(lambda conn: store.remove_tenant(conn, "acme"))
            directory.remove(removed.id)
            suspended = await ledger.write(lambda conn: store.set_state(conn, "globex", TenantState.SUSPENDED))
            directory.suspend(suspended.id)
            for _ in range(2):
                assert tenant_with(directory, acme) is None
                assert list(directory.tenants.values()) == [suspended] == directory.by_uid(1001)
                assert tenant_with(directory, globex) == suspended
                late.go_on.set()
                shown = await reading
            assert shown is not before and list(shown.values()) == [suspended], "it read once more"

    asyncio.run(main())
