"""Use cases of administration: one transaction each, effective before they return, announced with their actor."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from tenantd.domain import Actor, CacheUse, OwnLimits, Tenant, TenantState
from tenantd.errors import Conflict, InvalidRequest, LedgerUnavailable, NotFound, TenantdError
from tenantd.events import Action, Administered, Event, Events
from tenantd.ledger.ledger import Ledger
from tenantd.tenancy.administration import Administration
from tenantd.tenancy.directory import Directory
from tests.ledger.books import ledger_in

ACTOR = Actor(uid=1000, pid=4711)


class Running:
    """Has a directory, one live request, tenants that are `busy`, and what was announced to it."""

    def __init__(self, ledger: Ledger) -> None:
        self.directory = Directory()
        self.heard: list[Administered] = []
        self.busy: set[str] = set()
        self.is_readable = True
        self.checked: list[str] = []
        self.forgotten: list[int] = []
        self._ledger = ledger

    async def tenants_changed(self) -> None:
        if not self.is_readable:
            raise LedgerUnavailable("cannot read the ledger: it was moved away")
        await self.directory.reload(self._ledger)

    def tenant_removed(self, tenant_id: int | None) -> None:
        self.directory.remove(tenant_id)

    def tenant_forgotten(self, tenant_id: int) -> None:
        self.forgotten.append(tenant_id)

    def tenant_suspended(self, tenant_id: int | None) -> None:
        self.directory.suspend(tenant_id)

    def key_revoked(self, key_id: str) -> None:
        self.directory.revoke(key_id)

    def has_requests(self, tenant: str) -> bool:
        return tenant in self.busy

    def cancel(self, request_id: str) -> bool:
        return request_id == "req_live"

    async def check_system_prompt(self, text: str) -> None:
        self.checked.append(text)
        if text == "too long":
            raise InvalidRequest("system_prompt: too long", param="system_prompt")

    def hear(self, event: Event) -> None:
        assert isinstance(event, Administered)
        self.heard.append(event)


def administer(folder: Path, work: Callable[[Administration, Running], Awaitable[None]]) -> list[Administered]:
    """What was announced."""

    async def main() -> list[Administered]:
        async with ledger_in(folder) as ledger:
            running, events = Running(ledger), Events()
            events.call("test", running.hear)
            await work(Administration(ledger, running, events, slots=4), running)
            return running.heard

    return asyncio.run(main())


def test_a_tenants_life_is_announced_with_what_was_before_and_after(tmp_path: Path) -> None:
    async def work(admin: Administration, running: Running) -> None:
        added, secret = await admin.add_tenant(ACTOR, Tenant(name="acme", weight=2))
        acme = added.after
        assert acme is not None and (added.before, acme.id, acme.weight) == (None, 1, 2.0)
        assert running.directory.key_for(secret) is not None, "it is effective at once"
        changed = await admin.change_tenant(ACTOR, "acme", {"weight": 3.0}, {"max_queued": 5})
        assert changed.before == acme and changed.after is not None
        assert (changed.after.weight, changed.after.own_limits) == (3.0, OwnLimits(max_queued=5))
        assert (await admin.change_tenant(ACTOR, "acme", {}, {})).fields == ()
        suspended = await admin.suspend(ACTOR, "acme")
        assert running.directory.tenants["acme"].state is TenantState.SUSPENDED
        assert (await admin.resume(ACTOR, "acme")).before == suspended.after
        assert await admin.get_tenant("acme") == changed.after == (await admin.list_tenants())[0]
        removed = await admin.remove(ACTOR, "acme")
        assert (removed.before, removed.after) == (changed.after, None)
        assert running.directory.tenants == {} and running.directory.key_for(secret) is None

    heard = administer(tmp_path, work)
    assert [(event.action, event.fields) for event in heard] == [
        (Action.TENANT_ADDED, ()),
        (Action.TENANT_CHANGED, ("weight", "own_limits")),
        (Action.TENANT_CHANGED, ()),
        (Action.TENANT_SUSPENDED, ("state",)),
        (Action.TENANT_RESUMED, ("state",)),
        (Action.TENANT_REMOVED, ()),
    ]
    assert {(event.actor_uid, event.actor_pid, event.tenant, event.tenant_id) for event in heard} == {
        (1000, 4711, "acme", 1)
    }


def test_a_keys_life_is_announced_without_its_secret(tmp_path: Path) -> None:
    secrets = []

    async def work(admin: Administration, running: Running) -> None:
        _, first = await admin.add_tenant(ACTOR, Tenant(name="acme"))
        created, secret = await admin.create_key(ACTOR, "acme", "laptop")
        secrets.extend([first, secret])
        key = created.after
        assert key is not None and (key.label, key.tenant, key.revoked_micros) == ("laptop", "acme", None)
        assert running.directory.has_key(key.id)
        revoked = await admin.revoke_key(ACTOR, key.id)
        assert revoked.before == key and revoked.fields == ("revoked_micros",)
        assert not running.directory.has_key(key.id)
        assert (await admin.revoke_key(ACTOR, key.id)).fields == (), "the second time changes nothing"
        assert revoked.after in await admin.list_keys("acme")
        assert secret not in repr([created, revoked])

    heard = administer(tmp_path, work)
    assert [event.action for event in heard[1:]] == [Action.KEY_CREATED, Action.KEY_REVOKED, Action.KEY_REVOKED]
    assert {event.key_id for event in heard[1:]} == {heard[1].key_id} and heard[1].tenant == "acme"
    assert not any(secret.encode() in msgspec.json.encode(heard) for secret in secrets)


def test_what_is_refused_changes_nothing_and_is_not_announced(tmp_path: Path) -> None:
    async def refused(work: Awaitable[object], kind: type[TenantdError]) -> None:
        with pytest.raises(kind):
            await work

    async def work(admin: Administration, running: Running) -> None:
        await admin.add_tenant(ACTOR, Tenant(name="acme"))
        running.heard.clear()
        before = await admin.list_tenants(), await admin.list_keys("acme")
        await refused(admin.add_tenant(ACTOR, Tenant(name="acme")), Conflict)
        await refused(admin.add_tenant(ACTOR, Tenant(name="b", own_limits=OwnLimits(reserved_slots=5))), Conflict)
        await refused(admin.change_tenant(ACTOR, "acme", {}, {"reserved_slots": 5}), Conflict)
        await refused(admin.change_tenant(ACTOR, "acme", {"weight": -1}, {}), InvalidRequest)
        await refused(admin.change_tenant(ACTOR, "acme", {"adapter": "relative"}, {}), InvalidRequest)
        await refused(admin.create_key(ACTOR, "acme", "x" * 65), InvalidRequest)
        for one in (admin.suspend, admin.resume, admin.remove, admin.revoke_key):
            await refused(one(ACTOR, "nobody"), NotFound)
        await refused(admin.list_keys("nobody"), NotFound)
        with pytest.raises(NotFound):
            admin.cancel_request(ACTOR, "req_gone")
        assert (await admin.list_tenants(), await admin.list_keys("acme")) == before

    assert administer(tmp_path, work) == []


def test_a_cache_that_could_hold_nothing_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            admin = Administration(ledger, Running(ledger), Events(), slots=4, caches=False)
            await admin.add_tenant(ACTOR, Tenant(name="globex", cache=CacheUse.OFF))
            for refused in (
                admin.add_tenant(ACTOR, Tenant(name="acme", cache=CacheUse.ON)),
                admin.change_tenant(ACTOR, "globex", {"cache": CacheUse.ON}, {}),
            ):
                with pytest.raises(InvalidRequest, match=r"set cache\.host_bytes in the configuration") as caught:
                    await refused
                assert caught.value.param == "cache"
            assert [tenant.cache for tenant in await admin.list_tenants()] == [CacheUse.OFF]

    asyncio.run(main())


def test_a_cancelled_request_is_announced(tmp_path: Path) -> None:
    async def work(admin: Administration, _: Running) -> None:
        admin.cancel_request(ACTOR, "req_live")

    (event,) = administer(tmp_path, work)
    assert (event.action, event.request_id, event.actor_uid) == (Action.REQUEST_CANCELLED, "req_live", 1000)


def test_a_tenant_of_a_name_that_was_used_before_starts_afresh(tmp_path: Path) -> None:
    async def work(admin: Administration, running: Running) -> None:
        _, old = await admin.add_tenant(ACTOR, Tenant(name="acme", weight=5))
        await admin.remove(ACTOR, "acme")
        added, new = await admin.add_tenant(ACTOR, Tenant(name="acme"))
        assert added.after is not None and (added.after.id, added.after.weight) == (2, 1.0)
        assert len(await admin.list_keys("acme")) == 1
        found = running.directory.key_for(new)
        assert found is not None and found[0].id == 2
        assert running.directory.key_for(old) is None

    assert [event.tenant_id for event in administer(tmp_path, work)] == [1, 1, 2]


def test_a_suspended_tenant_can_be_renamed_and_is_the_same_tenant(tmp_path: Path) -> None:
    async def work(admin: Administration, running: Running) -> None:
        _, secret = await admin.add_tenant(ACTOR, Tenant(name="acme", weight=5))
        for name in ("globex", "busy"):
            await admin.add_tenant(ACTOR, Tenant(name=name))
            await admin.suspend(ACTOR, name)
        running.busy = {"busy"}
        for name, new_name, kind in (
            ("acme", "acme2", Conflict),  # it is active
            ("globex", "acme", Conflict),  # in use
            ("globex", "A!", InvalidRequest),
            ("busy", "idle", Conflict),
            ("nobody", "new", NotFound),
        ):
            with pytest.raises(kind):
                await admin.rename(ACTOR, name, new_name)
        await admin.suspend(ACTOR, "acme")
        running.heard.clear()
        renamed = await admin.rename(ACTOR, "acme", "acme2")
        assert renamed.fields == ("name",) and renamed.after == running.directory.tenants["acme2"]
        found = running.directory.key_for(secret)
        assert found is not None and (found[0].id, found[0].name) == (1, "acme2")
        assert [key.tenant for key in await admin.list_keys("acme2")] == ["acme2"]
        assert (await admin.add_tenant(ACTOR, Tenant(name="acme")))[0].after is not None, "the name is free"

    renamed, _ = administer(tmp_path, work)
    assert (renamed.action, renamed.tenant, renamed.tenant_id) == (Action.TENANT_RENAMED, "acme2", 1)


def test_a_name_is_not_free_before_the_last_request_of_its_removed_tenant_has_ended(tmp_path: Path) -> None:
    async def work(admin: Administration, running: Running) -> None:
        await admin.add_tenant(ACTOR, Tenant(name="acme"))
        await admin.add_tenant(ACTOR, Tenant(name="globex"))
        await admin.suspend(ACTOR, "globex")
        running.busy = {"acme"}
        with pytest.raises(Conflict, match="already"):
            await admin.add_tenant(ACTOR, Tenant(name="acme"))
        await admin.remove(ACTOR, "acme")
        for taking in (admin.add_tenant(ACTOR, Tenant(name="acme")), admin.rename(ACTOR, "globex", "acme")):
            with pytest.raises(Conflict, match="still ending") as caught:
                await taking
            assert caught.value.retry_after_s == 1
        assert [tenant.name for tenant in await admin.list_tenants()] == ["globex"], "nothing was changed"
        running.busy = set()
        assert (await admin.rename(ACTOR, "globex", "acme")).after is not None

    heard = administer(tmp_path, work)
    assert [event.action for event in heard[3:]] == [Action.TENANT_REMOVED, Action.TENANT_RENAMED]


def test_who_takes_a_name_waits_until_the_removal_before_it_is_in_force(tmp_path: Path) -> None:
    async def work(admin: Administration, running: Running) -> None:
        await admin.add_tenant(ACTOR, Tenant(name="acme"))
        seen: list[list[str]] = []
        asked = running.has_requests

        def has_requests(tenant: str) -> bool:
            seen.append(list(running.directory.tenants))
            return asked(tenant)

        running.has_requests = has_requests  # type: ignore[method-assign]
        removing = asyncio.create_task(admin.remove(ACTOR, "acme"))
        await asyncio.sleep(0)
        added, _ = await admin.add_tenant(ACTOR, Tenant(name="acme"))
        await removing
        assert added.after is not None and seen == [[]]

    administer(tmp_path, work)


def test_what_cannot_be_read_after_its_commit_is_said_to_be_committed(tmp_path: Path) -> None:
    async def work(admin: Administration, running: Running) -> None:
        _, secret = await admin.add_tenant(ACTOR, Tenant(name="acme"))
        running.is_readable = False
        for change, lost in (
            (admin.change_tenant(ACTOR, "acme", {"weight": 3.0}, {}), False),
            (admin.add_tenant(ACTOR, Tenant(name="globex")), True),
            (admin.create_key(ACTOR, "acme", "laptop"), True),
        ):
            with pytest.raises(LedgerUnavailable, match="is committed, and takes effect as soon as") as caught:
                await change
            assert ("create another" in caught.value.message) is lost
        assert [tenant.weight for tenant in await admin.list_tenants()] == [3.0, 1.0]
        await admin.suspend(ACTOR, "acme")
        assert running.directory.tenants["acme"].state is TenantState.SUSPENDED, "it needs no reading"
        await admin.remove(ACTOR, "acme")
        assert running.directory.tenants == {} and running.directory.key_for(secret) is None, "nor does this"

    assert [event.action for event in administer(tmp_path, work)] == [
        Action.TENANT_ADDED,
        Action.TENANT_CHANGED,
        Action.TENANT_ADDED,
        Action.KEY_CREATED,
        Action.TENANT_SUSPENDED,
        Action.TENANT_REMOVED,
    ], "what is committed is announced"


def test_a_system_prompt_is_checked_before_it_is_set_and_announced_by_name_only(tmp_path: Path) -> None:
    async def work(admin: Administration, running: Running) -> None:
        await admin.add_tenant(ACTOR, Tenant(name="acme", system_prompt=" Be kind.\n"))
        for bad in ("too long", "a\0", "a\ud800", "a" * 65_537):
            with pytest.raises(InvalidRequest, match="system_prompt: "):
                await admin.add_tenant(ACTOR, Tenant(name="globex", system_prompt=bad))
            with pytest.raises(InvalidRequest, match="system_prompt: "):
                await admin.change_tenant(ACTOR, "acme", {"system_prompt": bad}, {})
        assert running.checked == ["Be kind.", "too long", "too long"]
        assert running.directory.tenants["acme"].system_prompt == "Be kind.", "what was refused changed nothing"
        changes = {"system_prompt": "", "system_in_completions": True}
        changed = (await admin.change_tenant(ACTOR, "acme", changes, {})).after
        assert changed is not None and (changed.system_prompt, changed.system_in_completions) == ("", True)

    heard = administer(tmp_path, work)
    assert heard[1].fields == ("system_prompt", "system_in_completions")
    assert "kind" not in repr(heard)
