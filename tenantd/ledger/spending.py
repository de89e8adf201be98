"""Budgets: what each of them has used in its period, counted in the transaction of each row.

So no bill passes one, whatever prices or engine time do meanwhile: what is beyond is waived. Tokens are held back
before they are generated (`tenantd.tenancy.budgets`), and are only counted here. A row counts in the period of its end,
and in the budgets of its key and of those that its key was rotated to.
"""

from __future__ import annotations

from collections.abc import Iterable
from sqlite3 import Connection
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from tenantd.domain import BudgetUnit, Usage
from tenantd.errors import InvalidRequest
from tenantd.ledger.prices import MAX_INTEGER, AmountTooLarge, Cost
from tenantd.ledger.quotas import FreeUse
from tenantd.ledger.records import Customer, RequestRecord
from tenantd.ledger.sums import billed_nanos, sums, whole_hours
from tenantd.periods import Period, bounds


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant, or one of its keys, may use in each period. `key_id` is "" for all keys together.

    `amount` is in the unit of `BudgetUnit`. `warn` has percentages, the lowest first.
    """

    id: int
    tenant_id: int
    key_id: str = ""
    period: Period
    unit: BudgetUnit
    amount: int
    warn: tuple[int, ...] = ()
    set_micros: int = 0


class Use(NamedTuple):
    """What was used of a budget in the period that began at `since_micros`, and what was added to its amount.

    `warned` is the highest level announced, in percent. `level` is one that was reached just now. `free` is what the
    tenant's quota has given away by then, if the row that was counted got some of it.
    """

    budget: Budget
    since_micros: int
    used: int
    topped_up: int
    warned: int
    level: int | None = None
    free: FreeUse | None = None

    @property
    def cap(self) -> int:
        """All that may be used in the period."""
        return self.budget.amount + self.topped_up


_COLUMNS: Final = ", ".join(Budget.__struct_fields__)
_HEIRS: Final = """WITH RECURSIVE heirs (id) AS (SELECT ?2 UNION
    SELECT replaced_by FROM keys JOIN heirs USING (id) WHERE replaced_by IS NOT NULL)"""
_COUNTING: Final = f"""{_HEIRS} SELECT {_COLUMNS} FROM budgets
    WHERE tenant_id = ?1 AND (key_id = '' OR key_id IN (SELECT id FROM heirs)) ORDER BY id"""
_FORMER: Final = """WITH RECURSIVE former (id) AS (SELECT ? UNION
    SELECT keys.id FROM keys JOIN former ON keys.replaced_by = former.id) SELECT id FROM former"""
_USE: Final = "SELECT used, topped_up, warned FROM budget_uses WHERE budget_id = ? AND since_micros = ?"
_ADD: Final = f"""INSERT INTO budget_uses (budget_id, since_micros, used) VALUES (?, ?, ?)
    ON CONFLICT DO UPDATE SET used = min(used + excluded.used, {MAX_INTEGER}) RETURNING used, topped_up, warned"""
_RECOUNT: Final = "UPDATE budget_uses SET used = ? WHERE budget_id = ? AND since_micros = ?"
_TAKE: Final = "UPDATE budget_uses SET used = max(0, used - ?) WHERE budget_id = ? AND since_micros = ?"
_WARNED: Final = "UPDATE budget_uses SET warned = ? WHERE budget_id = ? AND since_micros = ?"
_STILL_WARNED: Final = f"""{_WARNED} AND topped_up = ?
    AND EXISTS (SELECT 1 FROM budgets WHERE id = budget_id AND set_micros = ?)"""


def spend(
    conn: Connection,
    customer: Customer,
    usage: Usage,
    cost: Cost,
    free_nanos: int,
    ended_micros: int,
    timezone: ZoneInfo,
    uses: list[Use] | None = None,
) -> int:
    """Count a request in its budgets. Returns how much of its cost is waived because it is beyond one, in nanos.

    `free_nanos` of its cost are in a free quota. The new uses, with the levels that they reach, are appended to `uses`;
    without it, levels are left for the next request.
    """
    budgets = [
        budget
        for budget in counting(conn, customer.tenant_id, customer.key_id)
        if budget.unit is not BudgetUnit.MONEY or not customer.unbilled
    ]
    if not budgets:
        return 0
    before = [begin_use(conn, budget, ended_micros, timezone) for budget in budgets]
    waived_nanos = _waived(before, usage, cost, free_nanos)
    billed_nanos = 0 if customer.unbilled else _total(cost) - free_nanos - waived_nanos
    for budget, since_micros, *_ in before:
        amount = _counted(budget.unit, usage.tokens, billed_nanos, usage.engine_micros)
        row = conn.execute(_ADD, (budget.id, since_micros, min(amount, MAX_INTEGER))).fetchall()[0]
        if uses is not None:
            uses.append(_with_level(conn, Use(budget, since_micros, *row)))
    return 0 if customer.unbilled else waived_nanos


def unspend(conn: Connection, row: RequestRecord, timezone: ZoneInfo) -> None:
    """Undo `spend` for a row that has ended."""
    assert row.ended_micros is not None, "it has ended"
    for budget in counting(conn, row.tenant_id, row.key_id):
        since_micros = bounds(budget.period, row.ended_micros, timezone).since_micros
        tokens = row.prompt_tokens + row.cached_tokens + row.completion_tokens
        amount = _counted(budget.unit, tokens, row.cost_nanos, row.engine_micros)
        conn.execute(_TAKE, (min(amount, MAX_INTEGER), budget.id, since_micros))


def begin_use(conn: Connection, budget: Budget, now_micros: int, timezone: ZoneInfo) -> Use:
    """What was used in the period of a moment. If nothing is counted of it yet, count what ended in it before.

    The budget may be new, or its periods may be those of another time zone. Nothing else begins the count of a period.
    """
    since_micros, until_micros = bounds(budget.period, now_micros, timezone)
    row = conn.execute(_USE, (budget.id, since_micros)).fetchone()
    if row is None:
        used = _used_since(conn, budget, since_micros, until_micros)
        row = conn.execute(_ADD, (budget.id, since_micros, used)).fetchall()[0]
    return Use(budget, since_micros, *row)


def begin_uses(conn: Connection, budgets: Iterable[Budget], now_micros: int, timezone: ZoneInfo) -> list[Use]:
    """Like `begin_use`, for those of some budgets that are not removed meanwhile, whatever was counted before: what
    ended while periods were those of another time zone was not."""
    uses = []
    for budget in budgets:
        if conn.execute("SELECT 1 FROM budgets WHERE id = ?", (budget.id,)).fetchone() is None:
            continue
        since_micros, until_micros = bounds(budget.period, now_micros, timezone)
        used = _used_since(conn, budget, since_micros, until_micros)
        conn.execute(_ADD, (budget.id, since_micros, 0)).fetchall()
        conn.execute(_RECOUNT, (used, budget.id, since_micros))
        uses.append(begin_use(conn, budget, now_micros, timezone))
    return uses


def _used_since(conn: Connection, budget: Budget, since_micros: int, until_micros: int) -> int:
    """`used_in`, as a count has it. Where the rows of the period's first hour are pruned, from the next hour."""
    try:
        return min(used_in(conn, budget, since_micros, until_micros), MAX_INTEGER)
    except AmountTooLarge:
        return MAX_INTEGER
    except InvalidRequest:
        whole = whole_hours(since_micros, until_micros)
        return min(used_in(conn, budget, *whole), MAX_INTEGER)


def used_in(conn: Connection, budget: Budget, since_micros: int, until_micros: int) -> int:
    """What the requests say that ended from `since_micros` until before `until_micros`, whatever was counted."""
    keys: list[str | None] = [None]
    if budget.key_id:
        keys = [key_id for (key_id,) in conn.execute(_FORMER, (budget.key_id,))]
    return sum(_used_before(conn, budget, key_id, since_micros, until_micros) for key_id in keys)


def mark_warned(conn: Connection, use: Use, level: int, timezone: ZoneInfo) -> None:
    """Record that a level was announced, unless the budget was changed since."""
    begin_use(conn, use.budget, use.since_micros, timezone)
    conn.execute(_STILL_WARNED, (level, use.budget.id, use.since_micros, use.topped_up, use.budget.set_micros))


def counting(conn: Connection, tenant_id: int, key_id: str | None) -> list[Budget]:
    """The budgets that a request of this key counts in. None is no key."""
    if conn.execute("SELECT 1 FROM budgets WHERE tenant_id = ?", (tenant_id,)).fetchone() is None:
        return []
    return [_budget(row) for row in conn.execute(_COUNTING, (tenant_id, key_id or "")).fetchall()]


def all_budgets(conn: Connection) -> list[Budget]:
    """The budgets of all tenants."""
    return [_budget(row) for row in conn.execute(f"SELECT {_COLUMNS} FROM budgets ORDER BY id").fetchall()]


def uses_from(conn: Connection, since_micros: int) -> list[Use]:
    """What was used in periods that began at this moment or later."""
    budgets = {budget.id: budget for budget in all_budgets(conn)}
    rows = conn.execute(
        "SELECT budget_id, since_micros, used, topped_up, warned FROM budget_uses WHERE since_micros >= ?",
        (since_micros,),
    ).fetchall()
    return [Use(budgets[number], *rest) for number, *rest in rows if number in budgets]


def heirs(conn: Connection) -> dict[str, list[str]]:
    """By key that was rotated, the keys in whose budgets it counts: itself, and those that replaced it."""
    nexts = dict(conn.execute("SELECT id, replaced_by FROM keys WHERE replaced_by IS NOT NULL").fetchall())
    found = {}
    for key_id in nexts:
        found[key_id] = [key_id]
        while (after := nexts.get(found[key_id][-1])) is not None and after not in found[key_id]:
            found[key_id].append(after)
    return found


def _waived(before: list[Use], usage: Usage, cost: Cost, free_nanos: int) -> int:
    """What is beyond the room that budgets have left: engine time in money, and then money."""
    rooms: dict[BudgetUnit, int] = {}
    for use in before:
        room = max(0, use.cap - use.used)
        rooms[use.budget.unit] = min(room, rooms.get(use.budget.unit, room))
    waived_nanos = 0
    within_micros = rooms.get(BudgetUnit.ENGINE, usage.engine_micros)
    if within_micros < usage.engine_micros:
        waived_nanos = cost.engine_nanos - cost.engine_nanos * within_micros // usage.engine_micros
    payable_nanos = _total(cost) - free_nanos - waived_nanos
    return waived_nanos + max(0, payable_nanos - rooms.get(BudgetUnit.MONEY, payable_nanos))


def _used_before(conn: Connection, budget: Budget, key_id: str | None, since_micros: int, until_micros: int) -> int:
    is_money = budget.unit is BudgetUnit.MONEY
    found = sums(conn, since_micros, until_micros, (), tenant_id=budget.tenant_id, key_id=key_id, billed=is_money)
    total = 0
    for each in found.values():
        tokens = each["prompt_tokens"] + each["cached_tokens"] + each["completion_tokens"]
        total += _counted(budget.unit, tokens, billed_nanos(each), each["engine_micros"])
    return total


def _counted(unit: BudgetUnit, tokens: int, billed_nanos: int, engine_micros: int) -> int:
    return {BudgetUnit.MONEY: billed_nanos, BudgetUnit.TOKENS: tokens, BudgetUnit.ENGINE: engine_micros}[unit]


def _total(cost: Cost) -> int:
    return cost.input_nanos + cost.cached_nanos + cost.output_nanos + cost.engine_nanos


def _with_level(conn: Connection, use: Use) -> Use:
    """The use with the level that it has reached, which is then recorded."""
    reached = max((level for level in use.budget.warn if use.used * 100 >= level * use.cap), default=0)
    if not use.used or reached <= use.warned:
        return use
    conn.execute(_WARNED, (reached, use.budget.id, use.since_micros))
    return use._replace(warned=reached, level=reached)


def _budget(row: tuple[Any, ...]) -> Budget:
    fields = dict(zip(Budget.__struct_fields__, row, strict=True))
    warn = tuple(sorted(int(level) for level in fields["warn"].split(",") if level))
    return Budget(**{**fields, "period": Period(fields["period"]), "unit": BudgetUnit(fields["unit"]), "warn": warn})
