"""Tenants in the ledger's file: functions over a connection, for `Ledger.write` and `Ledger.read`.

A tenant is identified by its id, which is never reused. A removed tenant keeps its row for its past bills, and frees
its name: another tenant may take it.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from sqlite3 import Connection
from typing import Any, Final

import msgspec

from tenantd import clock
from tenantd.domain import TENANT_NAME, BillingDetails, CacheUse, OnAnomaly, OwnLimits, Priority, Tenant, TenantState
from tenantd.errors import Conflict, InvalidRequest, NotFound
from tenantd.ledger.audited import AUDIT_KEY_BYTES
from tenantd.limits import LIMITS
from tenantd.text.excerpt import excerpt
from tenantd.text.system_prompt import checked_system_prompt

MIN_WEIGHT: Final = 1e-6  # usage is divided by it
MAX_WEIGHT: Final = 1_000_000
MAX_UID: Final = 2**32 - 2  # the last 32-bit value means "no user"
MAX_UIDS: Final = 1000
REMOVED: Final = "removed"
MAX_BILLING_CHARACTERS: Final = 500
MOST_COMPARED: Final = 1000  # names that an unknown one is compared with, and
MOST_NAME_COMPARED: Final = 63  # characters of it
MAX_PATH_BYTES: Final = 4095  # linux/limits.h, PATH_MAX with its end
CHANGEABLE: Final = (
    "weight",
    "priority",
    "uids",
    "own_limits",
    "adapter",
    "unbilled",
    "allow_special",
    "system_prompt",
    "system_in_completions",
    "on_anomaly",
    "throttled_micros",
    "billing",
    "cache",
)
_CHANGED: Final = tuple("limits" if name == "own_limits" else name for name in CHANGEABLE)
"""The columns of what is changeable."""
_READ: Final = ("id", "name", "state", "created_micros", *_CHANGED)
_SELECTED: Final = ", ".join(_READ)
_UPDATE: Final = f"UPDATE tenants SET {', '.join(f'{column} = ?' for column in _CHANGED)} WHERE id = ?"


def add_tenant(conn: Connection, tenant: Tenant) -> Tenant:
    """Add a tenant. Returns it with its new id. Raises InvalidRequest, Conflict if the name is in use."""
    tenant = checked(tenant)
    _check_free(conn, tenant.name, f"change it with: tenantctl tenant set {tenant.name}")
    own = (tenant.name, tenant.state.value, tenant.created_micros, *_row(tenant))
    values = (None, *own, secrets.token_bytes(AUDIT_KEY_BYTES))
    places = ", ".join("?" * len(values))
    row = conn.execute(f"INSERT INTO tenants ({_SELECTED}, audit_key) VALUES ({places})", values)
    return msgspec.structs.replace(tenant, id=row.lastrowid)


def _check_free(conn: Connection, name: str, cure: str) -> None:
    query = f"SELECT 1 FROM tenants WHERE name = ? AND state <> '{REMOVED}'"
    if conn.execute(query, (name,)).fetchone() is not None:
        raise Conflict(f"tenant {name!r} already exists; {cure}", param="name")


def get_tenant(conn: Connection, name: str) -> Tenant:
    """The tenant of this name. Raises NotFound, also for a removed tenant."""
    query = f"SELECT {_SELECTED} FROM tenants WHERE name = ? AND state <> '{REMOVED}'"
    row = conn.execute(query, (name,)).fetchone() if TENANT_NAME.fullmatch(name) else None
    if row is None:
        raise unknown_tenant(name, _names(conn), param="name")
    return _tenant(row)


def tenant_meant(conn: Connection, name: str) -> int:
    """Id of the tenant of this name, or of the last removed one. Raises NotFound."""
    query = f"SELECT id FROM tenants WHERE name = ? ORDER BY state = '{REMOVED}', id DESC LIMIT 1"
    row = conn.execute(query, (name,)).fetchone() if TENANT_NAME.fullmatch(name) else None
    if row is None:
        raise unknown_tenant(name, _names(conn), ", not even a removed one", param="tenant")
    return int(row[0])


def unknown_tenant(name: str, names: Iterable[str], more: str = "", *, param: str) -> NotFound:
    """For administrators, because it tells a name that is like this one."""
    meant = get_close_matches(name[:MOST_NAME_COMPARED], itertools.islice(names, MOST_COMPARED), n=1)
    cure = f"did you mean {meant[0]}?" if meant else "to list them: tenantctl tenant list"
    return NotFound(f"no tenant named {excerpt(name, 80)}{more}; {cure}", param=param)


def _names(conn: Connection) -> Iterator[str]:
    return (name for (name,) in conn.execute(f"SELECT name FROM tenants WHERE state <> '{REMOVED}' ORDER BY name"))


def list_tenants(conn: Connection) -> list[Tenant]:
    """All tenants by name, without removed ones."""
    rows = conn.execute(f"SELECT {_SELECTED} FROM tenants WHERE state <> '{REMOVED}' ORDER BY name")
    return [_tenant(row) for row in rows]


def update_tenant(conn: Connection, name: str, **changes: Any) -> Tenant:
    """Change any of `CHANGEABLE`; `own_limits` is replaced as a whole, of `billing` the fields in a dictionary.

    Raises NotFound, InvalidRequest.
    """
    for key in changes:
        if key not in CHANGEABLE:
            raise InvalidRequest(f"{key}: cannot be changed; only {', '.join(CHANGEABLE)} can be", param=key)
    before = get_tenant(conn, name)
    if "billing" in changes:
        changes["billing"] = msgspec.structs.replace(before.billing, **changes["billing"])
    tenant = checked(msgspec.structs.replace(before, **changes))
    conn.execute(_UPDATE, (*_row(tenant), tenant.id))
    return tenant


def set_state(conn: Connection, name: str, state: TenantState) -> Tenant:
    """Suspend or resume. Raises NotFound."""
    tenant = msgspec.structs.replace(get_tenant(conn, name), state=TenantState(state))
    conn.execute("UPDATE tenants SET state = ? WHERE id = ?", (tenant.state.value, tenant.id))
    return tenant


def rename_tenant(conn: Connection, name: str, new_name: str) -> Tenant:
    """Rename a suspended tenant and its keys; rows of the past keep the name they were made under.

    Returns it as it is now. Raises NotFound, InvalidRequest, Conflict: the name is in use, or the tenant is active.
    """
    before = get_tenant(conn, name)
    tenant = checked(msgspec.structs.replace(before, name=new_name))
    if new_name != name:
        _check_free(conn, new_name, "choose another name")
    if before.state is not TenantState.SUSPENDED:
        raise Conflict(f"tenant {name} is active; to rename it, suspend it first", param="name")
    conn.execute("UPDATE tenants SET name = ? WHERE id = ?", (new_name, tenant.id))
    conn.execute("UPDATE keys SET tenant = ? WHERE tenant_id = ?", (new_name, tenant.id))
    return tenant


def remove_tenant(conn: Connection, name: str, now_micros: int | None = None) -> Tenant:
    """Remove a tenant for good and revoke its keys. Its requests stay, its name is free. Returns it as it was. Raises
    NotFound."""
    tenant = get_tenant(conn, name)
    revoked_micros = clock.now_micros() if now_micros is None else now_micros
    conn.execute(
        "UPDATE keys SET revoked_micros = ? WHERE tenant_id = ? AND revoked_micros IS NULL",
        (revoked_micros, tenant.id),
    )
    conn.execute(f"UPDATE tenants SET state = '{REMOVED}' WHERE id = ?", (tenant.id,))
    return tenant


# -- checks


def checked(tenant: Tenant) -> Tenant:
    """The tenant as stored, without duplicate uids and without whitespace around its system prompt.

    Raises InvalidRequest, which names the field.
    """
    if TENANT_NAME.fullmatch(tenant.name) is None:
        raise InvalidRequest(
            "name: must be 1–63 characters of a–z, 0–9, _ and -, starting with a letter or digit "
            f"(got {tenant.name[:80]!r})",
            param="name",
        )
    weight = tenant.weight
    if not _is_number(weight) or not MIN_WEIGHT <= weight <= MAX_WEIGHT:  # NaN fails every comparison
        raise InvalidRequest(f"weight: must be from {MIN_WEIGHT:g} to {MAX_WEIGHT} (got {weight!r})", param="weight")
    if tenant.priority not in tuple(Priority):
        raise InvalidRequest(
            f"priority: must be one of {', '.join(Priority)} (got {tenant.priority!r})", param="priority"
        )
    _check_uids(tenant.uids)
    check_adapter_path(tenant.adapter)
    return msgspec.structs.replace(
        tenant,
        weight=float(weight),
        priority=Priority(tenant.priority),
        uids=tuple(dict.fromkeys(tenant.uids)),
        own_limits=_checked_limits(tenant.own_limits),
        billing=checked_billing(tenant.billing),
        system_prompt=checked_system_prompt(tenant.system_prompt),
    )


def checked_billing(details: BillingDetails) -> BillingDetails:
    """Without whitespace around them. Raises InvalidRequest if one is too long or has more lines than it may."""
    kept = {name: getattr(details, name).strip() for name in BillingDetails.__struct_fields__}
    for name, value in kept.items():
        if len(value) > MAX_BILLING_CHARACTERS:
            raise InvalidRequest(f"billing.{name}: at most {MAX_BILLING_CHARACTERS} characters", param="billing")
        if not (value.replace("\n", "") if name == "address" else value).isprintable():
            lines = "control characters except newlines" if name == "address" else "newlines or control characters"
            raise InvalidRequest(f"billing.{name}: must not contain {lines}", param="billing")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidRequest(f"billing.{name}: must be Unicode text", param="billing") from None
    return BillingDetails(**kept)


def _checked_limits(own: OwnLimits) -> OwnLimits:
    checked = {}
    for name, limit in LIMITS.items():
        value = getattr(own, name)
        try:
            checked[name] = limit.check(value)
        except ValueError as e:
            raise InvalidRequest(f"limits.{name}: {e} (got {value!r})", param="limits") from None
    return OwnLimits(**checked)


def check_reserved_slots(conn: Connection, name: str, slots: int) -> None:
    """After a change that reserves slots for `name`: raises Conflict if all reserves together exceed the slots."""
    reserved = {tenant.name: own_reserve(tenant) for tenant in list_tenants(conn)}
    total = sum(reserved.values())
    if total > slots:
        raise Conflict(
            f"cannot reserve {reserved[name]} slots for {name}: the engine has {slots}, "
            f"{total - reserved[name]} already reserved for others",
            param="limits.reserved_slots",
        )


def own_reserve(tenant: Tenant) -> int:
    """Slots reserved for it."""
    reserved = tenant.own_limits.reserved_slots
    return reserved if isinstance(reserved, int) else 0


def _check_uids(uids: tuple[int, ...]) -> None:
    if len(uids) > MAX_UIDS:
        raise InvalidRequest(f"uids: at most {MAX_UIDS} are allowed (got {len(uids)})", param="uids")
    for uid in uids:
        if not _is_int(uid, MAX_UID):
            raise InvalidRequest(f"uids: must be whole numbers from 0 to {MAX_UID} (got {uid!r})", param="uids")


def check_adapter_path(path: str) -> None:
    """Raises InvalidRequest."""
    if path and not (
        path.startswith("/") and "\0" not in path and len(path.encode("utf-8", "replace")) <= MAX_PATH_BYTES
    ):
        raise InvalidRequest(f"adapter: must be the absolute path of a file (got {path[:80]!r})", param="adapter")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_int(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


# -- rows


def _row(tenant: Tenant) -> tuple[str | float | int | None, ...]:
    """The values of `_CHANGED`."""
    return (
        tenant.weight,
        tenant.priority.value,
        msgspec.json.encode(tenant.uids).decode(),
        msgspec.json.encode(tenant.own_limits).decode(),
        tenant.adapter,
        int(tenant.unbilled),
        int(tenant.allow_special),
        tenant.system_prompt,
        int(tenant.system_in_completions),
        tenant.on_anomaly.value,
        tenant.throttled_micros,
        msgspec.json.encode(tenant.billing).decode(),
        tenant.cache.value,
    )


_uids: Callable[[str], tuple[int, ...]] = msgspec.json.Decoder(tuple[int, ...]).decode
_limits: Callable[[str], OwnLimits] = msgspec.json.Decoder(OwnLimits).decode
_billing: Callable[[str], BillingDetails] = msgspec.json.Decoder(BillingDetails).decode


def _tenant(row: tuple[Any, ...]) -> Tenant:
    has = dict(zip(_READ, row, strict=True))
    return Tenant(
        id=has["id"],
        name=has["name"],
        weight=has["weight"],
        priority=Priority(has["priority"]),
        state=TenantState(has["state"]),
        uids=_uids(has["uids"]),
        own_limits=_limits(has["limits"]),
        adapter=has["adapter"],
        unbilled=bool(has["unbilled"]),
        allow_special=bool(has["allow_special"]),
        system_prompt=has["system_prompt"],
        system_in_completions=bool(has["system_in_completions"]),
        on_anomaly=OnAnomaly(has["on_anomaly"]),
        throttled_micros=has["throttled_micros"],
        billing=_billing(has["billing"]),
        cache=CacheUse(has["cache"]),
        created_micros=has["created_micros"],
    )
