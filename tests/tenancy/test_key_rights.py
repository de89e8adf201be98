"""What keys may do, when they end, and how one replaces another: in the ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tenantd.domain import Scope, Tenant
from tenantd.errors import Conflict, InvalidRequest
from tenantd.tenancy import keys
from tenantd.tenancy import tenants as store
from tests.ledger.books import memory_ledger

NOW = 1_800_000_000_000_000
DAY = 86_400 * 1_000_000
HOUR = 3600 * 1_000_000


@pytest.fixture
def conn() -> Iterator[sqlite3.Connection]:
    with closing(memory_ledger()) as conn:
        store.add_tenant(conn, Tenant(name="acme"))
        yield conn


def test_a_key_of_a_tenant_has_the_scopes_it_was_made_with(conn: sqlite3.Connection) -> None:
    for asked, has in (
        (None, ("run", "read")),
        ([Scope.READ], ("read",)),
        ([Scope.READ, Scope.RUN, Scope.READ], ("run", "read")),
    ):
        info, secret = keys.create_key(conn, "acme", "", NOW, scopes=asked)
        assert info.scopes == has and keys.get_key(conn, info.id) == info
        assert keys.live_keys(conn, NOW)[keys.hash_secret(secret)].scopes == set(has)


def test_a_key_without_a_tenant_administers_and_is_listed_on_its_own(conn: sqlite3.Connection) -> None:
    info, secret = keys.create_key(conn, None, "ci", NOW)
    assert (info.tenant, info.scopes) == (None, (Scope.ADMIN,))
    assert keys.list_keys(conn, None) == [info] and keys.list_keys(conn, 1) == []
    assert keys.live_keys(conn, NOW)[keys.hash_secret(secret)].tenant is None
    store.remove_tenant(conn, "acme", NOW)
    assert keys.list_keys(conn, None) == [info], "it is nobody's"


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"scopes": [Scope.ADMIN]}, "scopes"),
        ({"scopes": [Scope.RUN, Scope.ADMIN]}, "scopes"),
        ({"scopes": []}, "scopes"),
        ({"expires_micros": NOW}, "expires_micros"),
        ({"expires_micros": 0}, "expires_micros"),
        ({"expires_micros": NOW + 101 * 365 * DAY}, "expires_micros"),
        ({"expires_micros": 2**63 - 1}, "expires_micros"),
    ],
)
def test_a_key_that_cannot_be_is_not_made(conn: sqlite3.Connection, wrong: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        keys.create_key(conn, "acme", "", NOW, **wrong)
    assert refused.value.param == param
    assert keys.list_keys(conn, 1) == []


def test_a_rotated_key_leaves_its_rights_to_another_and_ends_soon(conn: sqlite3.Connection) -> None:
    old, old_secret = keys.create_key(conn, "acme", "ci", NOW, scopes=[Scope.RUN], expires_micros=NOW + 90 * DAY)
    later = NOW + 80 * DAY
    before, after, new, secret = keys.rotate_key(conn, old.id, HOUR, later)
    assert before == old
    assert (after.expires_micros, after.revoked_micros, after.replaced_by) == (later + HOUR, None, new.id)
    assert (new.tenant, new.label, new.scopes, new.created_micros) == ("acme", "ci", (Scope.RUN,), later)
    assert new.expires_micros == later + 90 * DAY, "it lasts as long as the first was meant to"
    assert keys.list_keys(conn, 1) == [after, new]
    live = keys.live_keys(conn, later)
    assert live[keys.hash_secret(old_secret)].id == old.id and live[keys.hash_secret(secret)].id == new.id


def test_a_grace_does_not_prolong_a_key_and_none_ends_it_at_once(conn: sqlite3.Connection) -> None:
    short, _ = keys.create_key(conn, "acme", "", NOW, expires_micros=NOW + HOUR)
    assert keys.rotate_key(conn, short.id, DAY, NOW).after.expires_micros == NOW + HOUR
    endless, _ = keys.create_key(conn, "acme", "", NOW)
    rotation = keys.rotate_key(conn, endless.id, 0, NOW + 5)
    assert (rotation.after.revoked_micros, rotation.new.expires_micros) == (NOW + 5, None)
    assert keys.rotate_key(conn, rotation.new.id, HOUR, NOW + 6, NOW + DAY).new.expires_micros == NOW + DAY


def test_a_key_that_administers_is_rotated_too(conn: sqlite3.Connection) -> None:
    old, _ = keys.create_key(conn, None, "ci", NOW)
    new = keys.rotate_key(conn, old.id, HOUR, NOW).new
    assert (new.tenant, new.label, new.scopes) == (None, "ci", (Scope.ADMIN,))


def test_what_has_ended_or_was_rotated_is_not_rotated(conn: sqlite3.Connection) -> None:
    revoked, _ = keys.create_key(conn, "acme", "", NOW)
    keys.revoke_key(conn, revoked.id, NOW)
    expired, _ = keys.create_key(conn, None, "", NOW, expires_micros=NOW + 1)
    rotated, _ = keys.create_key(conn, "acme", "", NOW)
    new = keys.rotate_key(conn, rotated.id, HOUR, NOW).new
    for key, said in (
        (revoked, "was revoked; to create another, run: tenantctl key create acme"),
        (expired, "has expired; to create another, run: tenantctl key create --admin"),
        (rotated, f"was already rotated, to {new.id}"),
    ):
        with pytest.raises(Conflict, match=said):
            keys.rotate_key(conn, key.id, HOUR, NOW + 1)
    assert len(keys.list_keys(conn, 1)) == 3 and len(keys.list_keys(conn, None)) == 1, "nothing was made"


def test_a_tenant_that_is_removed_during_the_grace_takes_both_keys_along(conn: sqlite3.Connection) -> None:
    old, _ = keys.create_key(conn, "acme", "ci", NOW)
    rotation = keys.rotate_key(conn, old.id, HOUR, NOW)
    store.remove_tenant(conn, "acme", NOW + 1)
    assert keys.live_keys(conn, NOW + 2) == {}
    assert {key.revoked_micros for key in keys.list_keys(conn, 1)} == {NOW + 1}
    store.add_tenant(conn, Tenant(name="acme"))
    again, _ = keys.create_key(conn, "acme", "ci", NOW + 3)
    assert keys.list_keys(conn, 2) == [again], "a label that was used before brings nothing back"
    with pytest.raises(Conflict, match="was revoked"):
        keys.rotate_key(conn, rotation.new.id, HOUR, NOW + 4)


def test_a_key_that_ended_long_ago_is_not_loaded_any_more(conn: sqlite3.Connection) -> None:
    info, secret = keys.create_key(conn, "acme", "", NOW, expires_micros=NOW + DAY)
    assert keys.live_keys(conn, NOW + 2 * DAY)[keys.hash_secret(secret)].id == info.id, "the clock may be wrong"
    assert keys.live_keys(conn, NOW + 9 * DAY) == {}


def test_uses_are_recorded_as_they_are_told(conn: sqlite3.Connection) -> None:
    first, secret = keys.create_key(conn, "acme", "", NOW)
    other, _ = keys.create_key(conn, "acme", "", NOW)
    keys.note_uses(conn, {first.id: NOW + 5, "key_gone": 3})
    assert keys.get_key(conn, first.id).last_used_micros == NOW + 5
    assert keys.get_key(conn, other.id).last_used_micros is None
    assert keys.live_keys(conn, NOW)[keys.hash_secret(secret)].is_used
    keys.note_uses(conn, {first.id: 7})
    assert keys.get_key(conn, first.id).last_used_micros == 7, "the clock was set back, and that is the last use"
