"""Free quotas: the first input and output tokens of a tenant in a billing month cost nothing, as many as its price list
says when a request ends.

What a month has given away is counted in the transaction of each row, so that no order of ends, and no row that is
charged anew, gives more. Cached tokens have their own price and are in no quota.
"""

from __future__ import annotations

from sqlite3 import Connection
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from tenantd.domain import Usage
from tenantd.errors import InvalidRequest
from tenantd.ledger.prices import cost_of
from tenantd.ledger.records import PriceList, RequestRecord
from tenantd.ledger.sums import sums
from tenantd.periods import UTC_ZONE, Period, bounds, local_date


class FreeUse(NamedTuple):
    """What a month has given away of a tenant's quota so far."""

    tenant_id: int
    month: str
    prompt_tokens: int
    completion_tokens: int


class Free(NamedTuple):
    """What of a row costs nothing: tokens, and how much less it costs for them. `given` includes it."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    nanos: int = 0
    given: FreeUse | None = None


_GIVEN: Final = "SELECT prompt_tokens, completion_tokens FROM free_uses WHERE tenant_id = ? AND month = ?"
_GIVE: Final = """INSERT INTO free_uses (tenant_id, month, prompt_tokens, completion_tokens) VALUES (?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens RETURNING prompt_tokens, completion_tokens"""
_GIVEN_FROM: Final = """SELECT tenant_id, month, prompt_tokens, completion_tokens FROM free_uses
    WHERE tenant_id IN (SELECT tenant_id FROM budgets) AND month >= ?"""
_KEEP: Final = "UPDATE free_uses SET prompt_tokens = ?, completion_tokens = ? WHERE tenant_id = ? AND month = ?"
_NAMES: Final = ("free_prompt_tokens", "free_completion_tokens")


def month_of(at_micros: int, timezone: ZoneInfo) -> str:
    """The billing month of a moment, such as "2026-11"."""
    return local_date(at_micros, timezone).isoformat()[:7]


def free_part(
    conn: Connection, tenant_id: int, usage: Usage, prices: PriceList, ended_micros: int, timezone: ZoneInfo
) -> Free:
    """What is left of the quota for this usage, which then is used. The amount is exact: the cost of all tokens less
    that of those beyond the quota."""
    if not prices.free_prompt_tokens and not prices.free_completion_tokens:
        return Free()
    month = month_of(ended_micros, timezone)
    prompt_given, completion_given = conn.execute(_GIVEN, (tenant_id, month)).fetchone() or (0, 0)
    prompt_tokens = min(usage.prompt_tokens, max(0, prices.free_prompt_tokens - prompt_given))
    completion_tokens = min(usage.completion_tokens, max(0, prices.free_completion_tokens - completion_given))
    if not prompt_tokens and not completion_tokens:
        return Free()
    [given] = conn.execute(_GIVE, (tenant_id, month, prompt_tokens, completion_tokens)).fetchall()
    charged = msgspec.structs.replace(
        usage,
        prompt_tokens=usage.prompt_tokens - prompt_tokens,
        completion_tokens=usage.completion_tokens - completion_tokens,
    )
    whole, rest = cost_of(usage, prices), cost_of(charged, prices)
    return Free(
        prompt_tokens,
        completion_tokens,
        whole.input_nanos - rest.input_nanos + whole.output_nanos - rest.output_nanos,
        FreeUse(tenant_id, month, *given),
    )


def given_from(conn: Connection, at_micros: int) -> list[FreeUse]:
    """What was given away of the quotas of tenants with budgets in the month of a moment, by UTC, and later."""
    return [FreeUse(*row) for row in conn.execute(_GIVEN_FROM, (month_of(at_micros, UTC_ZONE),)).fetchall()]


def take_back(conn: Connection, row: RequestRecord, timezone: ZoneInfo) -> None:
    """Undo `free_part` for a row that has ended and is still in the sums.

    A month keeps at least what its other rows were given: the row may have been counted in another one, in the time
    zone of that time.
    """
    if row.ended_micros is None or not (row.free_prompt_tokens or row.free_completion_tokens):
        return
    month = month_of(row.ended_micros, timezone)
    given = conn.execute(_GIVEN, (row.tenant_id, month)).fetchone() or (0, 0)
    since_micros, until_micros = bounds(Period.MONTHLY, row.ended_micros, timezone)
    try:
        found = sums(conn, since_micros, until_micros, (), tenant_id=row.tenant_id, only=_NAMES)
    except InvalidRequest:  # rows of it were pruned
        return
    [total] = found.values()
    kept = [
        max(0, min(n, max(n - getattr(row, name), total[name] - getattr(row, name))))
        for n, name in zip(given, _NAMES, strict=True)
    ]
    conn.execute(_KEEP, (*kept, row.tenant_id, month))
