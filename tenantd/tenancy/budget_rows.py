"""Budgets in the ledger's file: functions over a connection that read, set, top up and remove them.

What is used of them is counted elsewhere (`tenantd.ledger.spending`). A budget of a key that has ended, or of a tenant
that was removed, is not shown any more; it stays, because their last requests still count in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from sqlite3 import Connection
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from tenantd.domain import BudgetUnit, Tenant
from tenantd.errors import Conflict, InvalidRequest, NotFound
from tenantd.ledger.spending import Budget, Use, begin_use, mark_warned
from tenantd.periods import Period, bounds
from tenantd.tenancy.key_parts import key_meant
from tenantd.text.excerpt import excerpt

MOST_AMOUNT: Final = 10**18
"""Of a budget, and of all that is added to it in a period: a billion units of the currency."""
DEFAULT_WARN: Final = (80, 100)
MOST_REASON_CHARACTERS: Final = 200
PERIODS: Final = tuple(Period)
UNITS: Final = tuple(BudgetUnit)


class TopUp(msgspec.Struct, frozen=True, kw_only=True):
    """What was added to a budget for one period, by whom and why."""

    amount: int
    reason: str
    actor: str
    at_micros: int


class BudgetInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A budget and its current period. `amount`, `topped_up` and `used` are in its unit: nano-units of money, tokens,
    or microseconds of engine time. `key_id` is None for all keys together."""

    id: int
    tenant: str
    tenant_id: int
    key_id: str | None
    period: Period
    unit: BudgetUnit
    amount: int
    topped_up: int
    used: int
    warn: tuple[int, ...]
    since_micros: int
    resets_micros: int
    set_micros: int
    topups: tuple[TopUp, ...] = ()

    @property
    def cap(self) -> int:
        """All that may be used in this period."""
        return self.amount + self.topped_up


class Wanted(NamedTuple):
    """What a budget should be; None removes it."""

    period: Period
    unit: BudgetUnit
    amount: int | None


class Changed(NamedTuple):
    """A budget before and after a change; None: there was or is none. `level` is one that it has reached by it."""

    before: BudgetInfo | None
    after: BudgetInfo | None
    level: int | None = None


_OF_LIVE: Final = """FROM budgets AS b JOIN tenants AS t ON t.id = b.tenant_id
    LEFT JOIN budget_uses AS u ON u.budget_id = b.id
    AND u.since_micros = CASE b.period WHEN 'daily' THEN :daily WHEN 'weekly' THEN :weekly ELSE :monthly END
    WHERE t.state <> 'removed' AND (b.key_id = '' OR EXISTS (SELECT 1 FROM keys AS k WHERE k.id = b.key_id
        AND k.revoked_micros IS NULL AND (k.expires_micros IS NULL OR k.expires_micros > :now)))"""
_SELECT: Final = f"""SELECT b.id, t.name, b.tenant_id, b.key_id, b.period, b.unit, b.amount, coalesce(u.topped_up, 0),
    coalesce(u.used, 0), b.warn, b.set_micros {_OF_LIVE} AND (:tenant_id IS NULL OR b.tenant_id = :tenant_id)"""
_TOPUPS: Final = """SELECT budget_id, since_micros, amount, reason, actor, at_micros FROM budget_topups
    WHERE since_micros >= ? ORDER BY number"""
_SET: Final = """INSERT INTO budgets (tenant_id, key_id, period, unit, amount, warn, set_micros)
    VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (tenant_id, key_id, period, unit)
    DO UPDATE SET amount = excluded.amount, warn = excluded.warn, set_micros = excluded.set_micros"""
_ADD: Final = "UPDATE budget_uses SET topped_up = topped_up + ? WHERE budget_id = ? AND since_micros = ?"
_NOTE: Final = """INSERT INTO budget_topups (budget_id, since_micros, amount, reason, actor, at_micros)
    VALUES (?, ?, ?, ?, ?, ?)"""


def list_budgets(
    conn: Connection, now_micros: int, timezone: ZoneInfo, tenant_id: int | None = None
) -> list[BudgetInfo]:
    """The budgets of all tenants, or of one: by tenant, its own before those of its keys, by period and unit."""
    periods = {period: bounds(period, now_micros, timezone) for period in PERIODS}
    since = {period.value: found.since_micros for period, found in periods.items()}
    rows = conn.execute(_SELECT, {**since, "now": now_micros, "tenant_id": tenant_id}).fetchall()
    added: dict[tuple[int, int], list[TopUp]] = {}
    if rows:
        for number, began, amount, reason, actor, at_micros in conn.execute(_TOPUPS, (min(since.values()),)):
            topup = TopUp(amount=amount, reason=reason, actor=actor, at_micros=at_micros)
            added.setdefault((number, began), []).append(topup)
    found = [
        BudgetInfo(
            id=number,
            tenant=name,
            tenant_id=owner,
            key_id=key_id or None,
            period=(period := Period(period_name)),
            unit=BudgetUnit(unit),
            amount=amount,
            topped_up=topped_up,
            used=used,
            warn=levels_of(warn),
            since_micros=periods[period].since_micros,
            resets_micros=periods[period].until_micros,
            set_micros=set_micros,
            topups=tuple(added.get((number, periods[period].since_micros), ())),
        )
        for number, name, owner, key_id, period_name, unit, amount, topped_up, used, warn, set_micros in rows
    ]
    return sorted(found, key=_place)


def set_budget(
    conn: Connection,
    tenant: Tenant,
    key_id: str | None,
    wanted: Wanted,
    warn: tuple[int, ...] | None,
    now_micros: int,
    timezone: ZoneInfo,
) -> Changed:
    """Set, change or remove one budget. `warn` None keeps its levels. What was used before in its period counts."""
    before = find_budget(conn, tenant, key_id, wanted.period, wanted.unit, now_micros, timezone)
    if wanted.amount is None:
        if before is not None:
            conn.execute("DELETE FROM budgets WHERE id = ?", (before.id,))
        return Changed(before, None)
    levels = warn if warn is not None else DEFAULT_WARN if before is None else before.warn
    _check_amount(wanted.amount, "amount", least=0)
    written = ",".join(map(str, levels))
    place = (tenant.id, key_id or "", wanted.period.value, wanted.unit.value)
    conn.execute(_SET, (*place, wanted.amount, written, now_micros))
    return _begun(conn, tenant, before, place, now_micros, timezone)


def top_up(
    conn: Connection, before: BudgetInfo, amount: int, reason: str, actor: str, now_micros: int, timezone: ZoneInfo
) -> Changed:
    """Add to a budget in its current period. Raises InvalidRequest."""
    _check_amount(amount, "amount", least=1)
    _check_amount(before.topped_up + amount, "amount", least=1)
    if len(reason) > MOST_REASON_CHARACTERS or not reason.isprintable():
        raise InvalidRequest(f"reason: may have at most {MOST_REASON_CHARACTERS} printable characters", param="reason")
    begin_use(conn, _budget(before), now_micros, timezone)
    conn.execute(_ADD, (amount, before.id, before.since_micros))
    conn.execute(_NOTE, (before.id, before.since_micros, amount, reason, actor, now_micros))
    tenant = Tenant(id=before.tenant_id, name=before.tenant)
    place = (before.tenant_id, before.key_id or "", before.period.value, before.unit.value)
    return _begun(conn, tenant, before, place, now_micros, timezone)


def find_budget(
    conn: Connection,
    tenant: Tenant,
    key_id: str | None,
    period: Period,
    unit: BudgetUnit,
    now_micros: int,
    timezone: ZoneInfo,
) -> BudgetInfo | None:
    """The budget of a tenant, or of one of its keys, with this period and unit."""
    for one in list_budgets(conn, now_micros, timezone, tenant.id):
        if (one.key_id, one.period, one.unit) == (key_id, period, unit):
            return one
    return None


def check_key(conn: Connection, tenant: Tenant, text: str, now_micros: int) -> str:
    """The id of a key, by its id or a part of it. Raises NotFound if the tenant has no such key, Conflict if the key
    has ended or was rotated."""
    key_id = key_meant(conn, text)
    row = conn.execute(
        "SELECT revoked_micros, expires_micros, replaced_by FROM keys WHERE id = ? AND tenant_id = ?",
        (key_id, tenant.id),
    ).fetchone()
    if row is None:
        raise NotFound(
            f"tenant {tenant.name} has no key {excerpt(key_id, 40)}; to list its keys: "
            f"tenantctl key list {tenant.name}",
            param="key_id",
        )
    revoked_micros, expires_micros, replaced_by = row
    if replaced_by is not None:
        raise Conflict(f"key {key_id} was rotated, and its budgets now belong to {replaced_by}", param="key_id")
    if revoked_micros is not None or (expires_micros is not None and expires_micros <= now_micros):
        raise Conflict(f"key {key_id} has ended; its budgets ended with it", param="key_id")
    return key_id


def inherit_budgets(conn: Connection, old_key_id: str, new_key_id: str) -> None:
    """Give the budgets of a key that is rotated to the new one, with what was used of them. The old one still counts in
    them while it lasts."""
    conn.execute("UPDATE budgets SET key_id = ? WHERE key_id = ?", (new_key_id, old_key_id))


def levels_of(text: str) -> tuple[int, ...]:
    """Levels as a row has them, in percent, the lowest first."""
    return tuple(sorted(int(level) for level in text.split(",") if level))


def checked_levels(levels: Sequence[int]) -> tuple[int, ...]:
    """Raises InvalidRequest for levels that are not percentages, or are there twice."""
    if any(isinstance(level, bool) or not 1 <= level <= 100 for level in levels):
        raise InvalidRequest("warn: levels are percentages from 1 to 100", param="warn")
    if len(set(levels)) < len(levels):
        raise InvalidRequest("warn: each level may be given only once", param="warn")
    return tuple(sorted(levels))


def _begun(
    conn: Connection,
    tenant: Tenant,
    before: BudgetInfo | None,
    place: tuple[int | None, str, str, str],
    now_micros: int,
    timezone: ZoneInfo,
) -> Changed:
    """What a budget is after a change, and the level that its use has reached by it.

    Levels that it is below now can be reached again.
    """
    _, key_id, period, unit = place
    after = find_budget(conn, tenant, key_id or None, Period(period), BudgetUnit(unit), now_micros, timezone)
    assert after is not None, "it was just written"
    use = begin_use(conn, _budget(after), now_micros, timezone)
    level = level_of(use)
    mark_warned(conn, use, level, timezone)
    after = msgspec.structs.replace(after, used=use.used, topped_up=use.topped_up)
    return Changed(before, after, level if level > use.warned else None)


def level_of(use: Use) -> int:
    """The highest of its levels that a use has reached; 0 if none."""
    return max((level for level in use.budget.warn if use.used and use.used * 100 >= level * use.cap), default=0)


def _budget(info: BudgetInfo) -> Budget:
    return Budget(
        id=info.id,
        tenant_id=info.tenant_id,
        key_id=info.key_id or "",
        period=info.period,
        unit=info.unit,
        amount=info.amount,
        warn=info.warn,
        set_micros=info.set_micros,
    )


def _check_amount(amount: int, name: str, *, least: int) -> None:
    if isinstance(amount, bool) or not isinstance(amount, int) or amount < least:
        raise InvalidRequest(f"{name}: must be {'0 or more' if least == 0 else 'more than 0'}", param=name)
    if amount > MOST_AMOUNT:
        raise InvalidRequest(f"{name}: may be at most {MOST_AMOUNT}", param=name)


def _place(one: BudgetInfo) -> tuple[str, str, int, int]:
    return one.tenant, one.key_id or "", PERIODS.index(one.period), UNITS.index(one.unit)
