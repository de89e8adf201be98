"""What must hold between budgets and free quotas, what is counted of them, and the requests that they count."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from sqlite3 import Connection
from typing import Final

from tenantd.errors import InvalidRequest
from tenantd.ledger.prices import MAX_INTEGER
from tenantd.ledger.spending import Budget, all_budgets, used_in
from tenantd.periods import HOUR_MICROS, UTC_ZONE, Period, in_words

_USES: Final = """SELECT since_micros, used, topped_up, (SELECT coalesce(sum(amount), 0) FROM budget_topups AS topup
    WHERE topup.budget_id = budget_uses.budget_id AND topup.since_micros = budget_uses.since_micros)
    FROM budget_uses WHERE budget_id = ? ORDER BY since_micros"""
_FREE: Final = """SELECT tenant_id, sum(prompt_tokens), sum(completion_tokens) FROM free_uses GROUP BY tenant_id"""
_FREE_ROWS: Final = """SELECT tenant_id, sum(free_prompt_tokens), sum(free_completion_tokens) FROM requests
    GROUP BY tenant_id HAVING sum(free_prompt_tokens) + sum(free_completion_tokens) > 0"""
END_OF_TIME: Final = 2**62
SHORTEST_MICROS: Final = {
    Period.DAILY: 23 * HOUR_MICROS,
    Period.WEEKLY: (7 * 24 - 1) * HOUR_MICROS,
    Period.MONTHLY: (28 * 24 - 1) * HOUR_MICROS,
}
"""When clocks are set forward."""


def broken_budgets(conn: Connection, on_progress: Callable[[int, int], None]) -> Iterator[tuple[int, str]]:
    """For each period of a budget 1, and what is wrong with it, "" if nothing.

    A period lasts until the next one in which something was used. Left out are those whose rows were pruned, and those
    around a change of the time zone, which overlap; but if the current one is among them, one has to hold.
    """
    for budget in all_budgets(conn):
        uses = conn.execute(_USES, (budget.id,)).fetchall()
        overlapping = _overlapping([use[0] for use in uses], SHORTEST_MICROS[budget.period])
        if (newest := _newest(conn, budget, uses, overlapping)) is not None:
            yield 1, newest
        for (since, used, topped_up, amounts), following in pairwise([*uses, (END_OF_TIME,)]):
            if since in overlapping:
                continue
            whose = _words(budget, since)
            try:
                counted = min(used_in(conn, budget, since, following[0]), MAX_INTEGER)
            except InvalidRequest:
                continue
            yield 1, "" if counted == used else f"{whose}: {used} used, but its requests say {counted}"
            if topped_up != amounts:
                yield 0, f"{whose}: topped up by {topped_up}, but its top-ups say {amounts}"


def _newest(
    conn: Connection, budget: Budget, uses: list[tuple[int, int, int, int]], overlapping: set[int]
) -> str | None:
    """What is wrong with all of the newest periods, if they overlap: one is that of the present time zone."""
    wrong: str | None = None
    for since, used, *_ in reversed(uses):
        if since not in overlapping:
            break
        try:
            counted = min(used_in(conn, budget, since, END_OF_TIME), MAX_INTEGER)
        except InvalidRequest:
            return None
        if counted == used:
            return ""
        wrong = wrong or f"{_words(budget, since)}: {used} used, but its requests say {counted}"
    return wrong


def _words(budget: Budget, since_micros: int) -> str:
    whose = f"{budget.period.value} {budget.unit.value} budget {budget.id} of tenant {budget.tenant_id}"
    return f"{whose}, period from {in_words(since_micros, UTC_ZONE)}"


def _overlapping(begins: list[int], shortest_micros: int) -> set[int]:
    """Periods that begin too soon after one another, and those before them."""
    found: set[int] = set()
    for number, (one, other) in enumerate(pairwise(begins)):
        if other - one < shortest_micros:
            found |= {one, other, begins[max(0, number - 1)]}
    return found


def broken_quotas(conn: Connection, on_progress: Callable[[int, int], None]) -> Iterator[tuple[int, str]]:
    """For each tenant with a free quota 1, and what is wrong with it. Of rows that were pruned nothing is known."""
    counted, used = ({key: tuple(more) for key, *more in conn.execute(query)} for query in (_FREE, _FREE_ROWS))
    may_lack = conn.execute("SELECT 1 FROM row_prunings LIMIT 1").fetchone() is not None
    for tenant_id in sorted(counted.keys() | used.keys()):
        kept, rows = counted.get(tenant_id, (0, 0)), used.get(tenant_id, (0, 0))
        holds = all(a >= b for a, b in zip(kept, rows, strict=True)) if may_lack else kept == rows
        what = f"{kept[0]} and {kept[1]} used, but its requests say {rows[0]} and {rows[1]}"
        yield 1, "" if holds else f"free tokens of tenant {tenant_id}: {what}"
