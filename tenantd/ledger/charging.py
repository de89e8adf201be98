"""What an ended request is charged: the prices of its tenant at its end, its free quota, and the budgets it counts in.

Called in the transaction of its row, by the ledger's only writer, so that neither quota nor budget is given away twice.
"""

from __future__ import annotations

from sqlite3 import Connection
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from tenantd.domain import Usage
from tenantd.ledger.prices import Cost, cost_of, prices_at
from tenantd.ledger.quotas import Free, free_part, take_back
from tenantd.ledger.records import Customer, RequestRecord
from tenantd.ledger.spending import Use, spend, unspend

_INVOICED: Final = """SELECT max(until_micros) FROM invoices
    WHERE tenant_id = ?1 AND since_micros <= ?2 AND until_micros > ?2"""


class Charge(NamedTuple):
    """The amounts of a row. What is billed is their sum less `free.nanos` and `waived_nanos`."""

    price_id: int
    cost: Cost
    free: Free
    waived_nanos: int


def charge(
    conn: Connection,
    customer: Customer,
    usage: Usage,
    ended_micros: int,
    timezone: ZoneInfo,
    uses: list[Use] | None = None,
) -> Charge:
    """At the prices in force at `ended_micros`. What it uses of budgets is appended to `uses`.

    Raises AmountTooLarge.
    """
    prices = prices_at(conn, ended_micros, customer.tenant_id)
    cost = cost_of(usage, prices)
    free = Free()
    if not customer.unbilled:  # what nobody pays for uses up no quota
        free = free_part(conn, customer.tenant_id, usage, prices, ended_micros, timezone)
    waived_nanos = spend(conn, customer, usage, cost, free.nanos, ended_micros, timezone, uses)
    if uses is not None and free.given is not None:
        uses[:] = [use._replace(free=free.given) for use in uses]
    return Charge(prices.id, cost, free, waived_nanos)


def give_back(conn: Connection, row: RequestRecord, timezone: ZoneInfo) -> None:
    """Undo what `charge` counted for a row that will be charged anew. Call it while the row is still in the sums.

    If the time zone of billing was changed since, the row may have been counted in another month or period. Then what
    it counted there stays, and the present one keeps what its other rows have: rather too little is left than too much.
    """
    take_back(conn, row, timezone)
    unspend(conn, row, timezone)


def is_invoiced(conn: Connection, row: RequestRecord) -> bool:
    """Whether a row that has ended is on a finalised invoice, or would be if it were billed."""
    at_micros = row.ended_micros if row.billed_micros is None else row.billed_micros
    return at_micros is not None and billed_later(conn, row.tenant_id, at_micros) is not None


def billed_later(conn: Connection, tenant_id: int, ended_micros: int) -> int | None:
    """When a request that ended then and is settled now is billed, if a finalised invoice has that moment: at the end
    of its month, or of the months after it that are finalised too. None if it is billed at its end.

    Only the month is another one. Prices, budgets, free quotas and statistics are those of the true end.
    """
    at_micros = ended_micros
    while (until_micros := conn.execute(_INVOICED, (tenant_id, at_micros)).fetchone()[0]) is not None:
        at_micros = until_micros
    return None if at_micros == ended_micros else at_micros


def billed_until(conn: Connection, tenant_id: int) -> int:
    """The end of the last month that a tenant has a finalised invoice of; 0 without one."""
    (until_micros,) = conn.execute(
        "SELECT coalesce(max(until_micros), 0) FROM invoices WHERE tenant_id = ?", (tenant_id,)
    ).fetchone()
    return int(until_micros)
