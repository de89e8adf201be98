"""Keys that administer, and keys that are rotated, as use cases: effective at once, announced, and in the trail."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tenantd import clock
from tenantd.domain import Actor, Scope, Tenant
from tenantd.errors import Conflict, InvalidRequest, LedgerUnavailable, NotFound
from tenantd.events import Action
from tenantd.tenancy.administration import Administration
from tests.tenancy.test_administration import Running, administer

ACTOR = Actor(uid=1000, pid=4711, key_id="key_of_the_actor")
HOUR = 3600 * 1_000_000


def test_a_key_that_administers_belongs_to_no_tenant_and_outlives_them(tmp_path: Path) -> None:
    async def work(admin: Administration, running: Running) -> None:
        await admin.add_tenant(ACTOR, Tenant(name="acme"))
        created, secret = await admin.create_key(ACTOR, None, "deploy")
        key = created.after
        assert key is not None and (key.tenant, key.scopes) == (None, (Scope.ADMIN,))
        assert await admin.list_keys(None) == [key] and len(await admin.list_keys("acme")) == 1
        await admin.remove(ACTOR, "acme")
        found = running.directory.key_for(secret)
        assert found is not None and (found.tenant, found.scopes) == (None, {Scope.ADMIN})
        await admin.revoke_key(ACTOR, key.id)
        assert running.directory.key_for(secret) is None

    heard = administer(tmp_path, work)
    assert [(event.action, event.tenant) for event in heard] == [
        (Action.TENANT_ADDED, "acme"),
        (Action.KEY_CREATED, None),
        (Action.TENANT_REMOVED, "acme"),
        (Action.KEY_REVOKED, None),
    ]
    assert {event.actor_key_id for event in heard} == {"key_of_the_actor"}, "who acts is the key"


def test_both_keys_work_during_the_grace_and_the_old_one_ends_after_it(tmp_path: Path) -> None:
    secrets = []

    async def work(admin: Administration, running: Running) -> None:
        await admin.add_tenant(ACTOR, Tenant(name="acme"))
        created, old_secret = await admin.create_key(ACTOR, "acme", "ci", scopes=[Scope.READ])
        assert created.after is not None
        old, new, secret = await admin.rotate_key(ACTOR, created.after.id, HOUR)
        secrets.append(secret)
        assert new.before is None and new.after is not None and old.after is not None
        assert old.fields == ("expires_micros", "replaced_by") and old.after.replaced_by == new.after.id
        assert (new.after.label, new.after.scopes) == ("ci", (Scope.READ,))
        for each in (old_secret, secret):
            assert running.directory.key_for(each) is not None
        now_micros = clock.now_micros()
        assert old.after.expires_micros is not None and old.after.expires_micros <= now_micros + HOUR
        with pytest.raises(Conflict, match="already rotated"):
            await admin.rotate_key(ACTOR, created.after.id, HOUR)
        await admin.remove(ACTOR, "acme")
        for each in (old_secret, secret):
            assert running.directory.key_for(each) is None

    heard = administer(tmp_path, work)
    assert [event.action for event in heard[2:4]] == [Action.KEY_CREATED, Action.KEY_ROTATED]
    assert heard[3].key_id == heard[1].key_id != heard[2].key_id
    assert not any(secret.encode() in msgspec.json.encode(heard) for secret in secrets)


def test_a_key_rotated_without_grace_is_gone_even_if_nothing_can_be_read(tmp_path: Path) -> None:
    async def work(admin: Administration, running: Running) -> None:
        _, secret = await admin.create_key(ACTOR, None, "")
        [key] = await admin.list_keys(None)
        running.is_readable = False
        with pytest.raises(LedgerUnavailable, match="create another"):
            await admin.rotate_key(ACTOR, key.id, 0)
        assert running.directory.key_for(secret) is None

    assert [event.action for event in administer(tmp_path, work)][-1] is Action.KEY_ROTATED, "it is committed"


def test_what_cannot_be_rotated_or_made_changes_nothing_and_is_not_announced(tmp_path: Path) -> None:
    async def work(admin: Administration, running: Running) -> None:
        await admin.add_tenant(ACTOR, Tenant(name="acme"))
        [key] = await admin.list_keys("acme")
        await admin.revoke_key(ACTOR, key.id)
        running.heard.clear()
        for refused, kind in (
            (admin.rotate_key(ACTOR, key.id, HOUR), Conflict),
            (admin.rotate_key(ACTOR, "key_unknown", HOUR), NotFound),
            (admin.create_key(ACTOR, "acme", "", expires_micros=5), InvalidRequest),
            (admin.create_key(ACTOR, "acme", "", scopes=[Scope.ADMIN]), InvalidRequest),
            (admin.create_key(ACTOR, "nobody", ""), NotFound),
        ):
            with pytest.raises(kind):
                await refused  # type: ignore[misc]
        assert len(await admin.list_keys("acme")) == 1

    assert administer(tmp_path, work) == []
