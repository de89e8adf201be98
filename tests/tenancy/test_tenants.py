"""Tenants in the table: added, changed, suspended, removed."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import msgspec
import pytest

from tenantd.domain import Limits, OnLimit, OwnLimits, Priority, Tenant, TenantState
from tenantd.errors import Conflict, InvalidRequest, NotFound
from tenantd.ledger.reports import recent_requests
from tenantd.ledger.requests import insert_request
from tenantd.tenancy import keys
from tenantd.tenancy import tenants as store
from tests.ledger.books import admission, memory_ledger

ACME = Tenant(
    id=1,
    name="acme",
    weight=2.5,
    priority=Priority.HIGH,
    uids=(0, 1000, store.MAX_UID),
    own_limits=OwnLimits(max_concurrent=4, max_queued=0, requests_per_minute=0, on_limit=OnLimit.QUEUE, max_wait_s=30),
    adapter="/adapters/acme.gguf",
    created_micros=7,
)


@pytest.fixture
def conn() -> Iterator[sqlite3.Connection]:
    with closing(memory_ledger()) as conn:
        yield conn


def test_a_tenant_is_read_back_as_it_was_added(conn: sqlite3.Connection) -> None:
    store.add_tenant(conn, ACME)
    store.add_tenant(conn, Tenant(name="0-globex_", uids=(5, 5)))
    assert store.get_tenant(conn, "acme") == ACME
    assert [(tenant.name, tenant.uids) for tenant in store.list_tenants(conn)] == [
        ("0-globex_", (5,)),
        ("acme", ACME.uids),
    ]


def test_a_name_is_had_once(conn: sqlite3.Connection) -> None:
    store.add_tenant(conn, ACME)
    with pytest.raises(Conflict, match="already"):
        store.add_tenant(conn, ACME)


@pytest.mark.parametrize(
    ("param", "changes"),
    [
        *[("name", {"name": name}) for name in ("", "Acme", "-acme", "a" * 64, "acme\n", "a/b", "a b", "\ud800")],
        *[("weight", {"weight": w}) for w in (0, 5e-324, -1, math.nan, math.inf, -math.inf, 1_000_001, True, "2")],
        ("priority", {"priority": "urgent"}),
        *[("adapter", {"adapter": path}) for path in ("lora.gguf", "/a\0b", "/" + "a" * 4096)],
        *[("uids", {"uids": uids}) for uids in ((-1,), (2**32 - 1,), (1.0,), (True,), tuple(range(1001)))],
        *[("limits", {"own_limits": OwnLimits(max_queued=n)}) for n in (-1, 2**31 + 1, 1.5, True, "some")],  # type: ignore[arg-type]
        *[("limits", {"own_limits": OwnLimits(tokens_per_minute=n)}) for n in (-1, 2**31 + 1, 0.5)],  # type: ignore[arg-type]
        *[("limits", {"own_limits": OwnLimits(on_limit=how)}) for how in ("drop", "none", 1)],  # type: ignore[arg-type]
    ],
)
def test_what_is_out_of_bounds_is_refused_by_its_name(
    conn: sqlite3.Connection, param: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        store.add_tenant(conn, Tenant(**{"name": "acme", **changes}))
    assert refused.value.param == param
    assert store.list_tenants(conn) == []
    if param != "name":
        store.add_tenant(conn, ACME)
        with pytest.raises(InvalidRequest):
            store.update_tenant(conn, "acme", **changes)
        assert store.get_tenant(conn, "acme") == ACME


def test_a_bad_limit_is_told_what_zero_and_null_mean(conn: sqlite3.Connection) -> None:
    says = r'limits.requests_per_minute: must be .* from 0 to 2147483648, "none" for no limit, or null for the default'
    with pytest.raises(InvalidRequest, match=says):
        store.add_tenant(conn, Tenant(name="acme", own_limits=OwnLimits(requests_per_minute=-5)))


def test_a_tenant_of_an_earlier_version_has_the_limits_it_had_and_no_others(conn: sqlite3.Connection) -> None:
    store.add_tenant(conn, ACME)
    conn.execute("UPDATE tenants SET limits = ?", ('{"max_concurrent":4,"max_queued":null}',))
    assert store.get_tenant(conn, "acme").own_limits == OwnLimits(max_concurrent=4)


def test_a_lifted_limit_is_told_from_one_that_takes_the_default(conn: sqlite3.Connection) -> None:
    own = OwnLimits(max_queued="none", tokens_per_minute=0)
    store.add_tenant(conn, Tenant(name="acme", own_limits=own, unbilled=True, allow_special=True))
    acme = store.get_tenant(conn, "acme")
    assert (acme.own_limits, acme.unbilled) == (own, True)
    assert own.over(Limits(max_queued=5, tokens_per_minute=5, max_wait_s=5)) == Limits(
        tokens_per_minute=0, max_wait_s=5
    )
    assert store.update_tenant(conn, "acme", unbilled=False) == msgspec.structs.replace(acme, unbilled=False)
    assert not store.get_tenant(conn, "acme").unbilled and store.get_tenant(conn, "acme").allow_special
    assert not store.update_tenant(conn, "acme", allow_special=False).allow_special
    assert not store.get_tenant(conn, "acme").allow_special


def test_more_slots_than_there_are_cannot_be_reserved(conn: sqlite3.Connection) -> None:
    for name, slots in (("acme", 3), ("globex", 2), ("initech", None), ("umbrella", "none")):
        store.add_tenant(conn, Tenant(name=name, own_limits=OwnLimits(reserved_slots=slots)))
        store.check_reserved_slots(conn, name, 5)
    store.set_state(conn, "globex", TenantState.SUSPENDED)
    store.update_tenant(conn, "acme", own_limits=OwnLimits(reserved_slots=4))
    says = r"cannot reserve 4 slots for acme: the engine has 5, 2 already reserved for others"
    with pytest.raises(Conflict, match=says) as refused:
        store.check_reserved_slots(conn, "acme", 5)
    assert refused.value.param == "limits.reserved_slots"
    store.remove_tenant(conn, "globex")
    store.check_reserved_slots(conn, "acme", 5)


def test_only_what_is_named_changes(conn: sqlite3.Connection) -> None:
    store.add_tenant(conn, ACME)
    changed = store.update_tenant(conn, "acme", weight=3, own_limits=OwnLimits(max_context_tokens=2**31))
    assert changed == store.get_tenant(conn, "acme")
    assert (changed.weight, changed.own_limits, changed.uids) == (3.0, OwnLimits(max_context_tokens=2**31), ACME.uids)
    assert store.update_tenant(conn, "acme", uids=(), priority=Priority.LOW).priority is Priority.LOW
    for key in ("state", "created_micros", "colour"):
        with pytest.raises(InvalidRequest, match="cannot be changed"):
            store.update_tenant(conn, "acme", **{key: "x"})


def test_suspending_changes_the_state_only(conn: sqlite3.Connection) -> None:
    store.add_tenant(conn, ACME)
    suspended = store.set_state(conn, "acme", TenantState.SUSPENDED)
    assert suspended.state is TenantState.SUSPENDED
    assert store.get_tenant(conn, "acme") == suspended
    assert store.set_state(conn, "acme", TenantState.ACTIVE) == ACME


def test_a_removed_tenant_is_gone_its_requests_stay_and_its_name_is_free(conn: sqlite3.Connection) -> None:
    store.add_tenant(conn, ACME)
    store.add_tenant(conn, Tenant(name="globex"))
    kept, _ = keys.create_key(conn, "globex", "")
    revoked, _ = keys.create_key(conn, "acme", "")
    insert_request(conn, admission("r1"))
    store.remove_tenant(conn, "acme", now_micros=99)
    assert [tenant.name for tenant in store.list_tenants(conn)] == ["globex"]
    assert store.tenant_meant(conn, "acme") == 1
    assert [row.tenant for row in recent_requests(conn, 1, 10)] == ["acme"]
    assert [key.revoked_micros for key in keys.list_keys(conn, 1)] == [99]
    assert [key.id for key in keys.live_keys(conn).values()] == [kept.id]
    assert revoked.id != kept.id
    again = store.add_tenant(conn, ACME)
    assert (again.id, store.tenant_meant(conn, "acme")) == (3, 3), "an id is given once"
    assert keys.list_keys(conn, 3) == recent_requests(conn, 3, 10) == []
    with pytest.raises(Conflict, match="tenant 'acme' already exists"):
        store.add_tenant(conn, ACME)


def test_a_tenant_that_is_not_there_cannot_be_used(conn: sqlite3.Connection) -> None:
    store.add_tenant(conn, ACME)
    store.remove_tenant(conn, "acme")
    for name in ("acme", "nobody", "\ud800", ""):
        for use in (
            lambda name=name: store.get_tenant(conn, name),
            lambda name=name: store.update_tenant(conn, name, weight=2),
            lambda name=name: store.set_state(conn, name, TenantState.ACTIVE),
            lambda name=name: store.remove_tenant(conn, name),
            lambda name=name: keys.create_key(conn, name, ""),
        ):
            with pytest.raises(NotFound):
                use()
