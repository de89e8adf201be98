"""Sums over the requests that ended in a period: of whole hours from the roll-ups, of its edges from the rows.

Fast for any period, so that one snapshot is enough. Percentiles read whole days of UTC, too, because an hour with few
requests has about as many counts of times as requests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from sqlite3 import Connection, OperationalError
from typing import Any, Final

from tenantd.ledger.buckets import bucket_of, percentile
from tenantd.ledger.prices import MAX_INTEGER, AmountTooLarge
from tenantd.ledger.rollups import COUNTS, DURATION, FIRST_TOKEN, SUMS
from tenantd.ledger.rows_kept import missing_hours, need_rows
from tenantd.periods import DAY_MICROS, HOUR_MICROS

EXACT_MICROS: Final = HOUR_MICROS
"""Percentiles over a period up to this long are exact: they come from the rows."""

_COUNTED: Final = {
    "requests": "count(*)",
    "completed": "count(*) FILTER (WHERE state IN ('stop', 'length'))",
    "cancelled": "count(*) FILTER (WHERE state = 'cancelled')",
    "disconnected": "count(*) FILTER (WHERE state = 'disconnected')",
    "failed": "count(*) FILTER (WHERE state = 'failed')",
    "interrupted": "count(*) FILTER (WHERE state = 'interrupted')",
    "measured": "count(duration_micros)",
    "started": "count(first_token_micros)",
}
FROM_ROWS: Final = ", ".join(
    [*(f"{_COUNTED[name]} AS {name}" for name in COUNTS), *(f"coalesce(sum({name}), 0) AS {name}" for name in SUMS)]
)
_ALL: Final = (*COUNTS, *SUMS)
_HOUR: Final = f"ended_micros - ended_micros % {HOUR_MICROS}"
ROW_KEYS: Final = {"key_id": "coalesce(key_id, '')", "hour_micros": _HOUR}
"""How rows say what hours have in a column of this name; the others have the same name."""

Key = tuple[Any, ...]


def sums(
    conn: Connection,
    since_micros: int,
    until_micros: int,
    by: Sequence[str],
    *,
    tenant_id: int | None = None,
    key_id: str | None = None,
    billed: bool = False,
    invoiced: bool = False,
    only: Sequence[str] = _ALL,
) -> dict[Key, dict[str, int]]:
    """The sums of COUNTS and SUMS over the requests that ended from `since_micros` until before `until_micros`.

    Grouped by these of `rollups.KEYS`, in this order. `tenant_id` and `key_id` select; `billed` leaves out those that
    appear on no invoice, and `invoiced` adds up those that are billed in the period instead of those that ended in it.
    `only` some sums are faster. Raises AmountTooLarge, and InvalidRequest if the period begins or ends within an hour
    whose rows were pruned.
    """
    where, values = _selected(tenant_id, key_id, billed=billed or invoiced)
    at_end = "AND billed_micros = 0 " if invoiced else ""
    found: dict[Key, dict[str, int]] = {}
    first, last = whole_hours(since_micros, until_micros)
    of_hours = []
    if first < last:
        of_hours.append((f"hour_micros >= :since AND hour_micros < :until {at_end}{where}", first, last))
    if invoiced:
        period = "billed_micros > 0 AND billed_micros >= :since AND billed_micros < :until "
        of_hours.append((period + _by_time(where), since_micros, until_micros))
    keys = ", ".join(by) or "1"
    added = ", ".join(f"sum({name}) AS {name}" for name in only)
    for conditions, since, until in of_hours:
        query = f"SELECT {keys}, {added} FROM hours WHERE {conditions} GROUP BY {keys}"
        _add(conn, query, {**values, "since": since, "until": until}, len(by), found, only)
    keys = ", ".join(ROW_KEYS.get(name, name) for name in by) or "1"
    added = ", ".join(f"{_COUNTED.get(name) or f'coalesce(sum({name}), 0)'} AS {name}" for name in only)
    for since, until in edges(since_micros, until_micros):
        need_rows(conn, since, until)
        query = f"""SELECT {keys}, {added} FROM requests
            WHERE ended_micros >= :since AND ended_micros < :until {_of_rows(at_end + where)}
            GROUP BY {keys}"""
        _add(conn, query, {**values, "since": since, "until": until}, len(by), found, only)
    return found


class Percentiles:
    """Durations and times to the first token over a period, by tenant or over all.

    Exact if the period is an hour or less and not pruned, else within buckets.RELATIVE_ERROR.
    """

    def __init__(self, conn: Connection, since_micros: int, until_micros: int, *, tenant_id: int | None = None) -> None:
        self.is_exact = until_micros - since_micros <= EXACT_MICROS and not any(
            True for _ in missing_hours(conn, since_micros, until_micros)
        )
        self._values: dict[tuple[int, str], list[int]] = {}
        self._counts: dict[tuple[int, str], Counter[int]] = {}
        where, values = _selected(tenant_id, None, billed=False)
        periods = [(since_micros, until_micros)] if self.is_exact else edges(since_micros, until_micros)
        for table, begin, since, until in () if self.is_exact else _of_latencies(since_micros, until_micros):
            query = f"""SELECT tenant_id, metric, bucket, sum(requests) FROM {table}
                WHERE {begin} >= :since AND {begin} < :until {where} GROUP BY 1, 2, 3"""
            for number, metric, bucket, requests in conn.execute(query, {**values, "since": since, "until": until}):
                self._counts.setdefault((number, metric), Counter())[bucket] += requests
        for since, until in periods:
            need_rows(conn, since, until)
            query = f"""SELECT tenant_id, duration_micros, first_token_micros FROM requests
                WHERE ended_micros >= :since AND ended_micros < :until {_of_rows(where)}"""
            for number, duration, first_token in conn.execute(query, {**values, "since": since, "until": until}):
                for metric, micros in ((DURATION, duration), (FIRST_TOKEN, first_token)):
                    if micros is not None:
                        self._note(number, metric, micros)
        for measured in self._values.values():
            measured.sort()

    def _note(self, tenant_id: int, metric: str, micros: int) -> None:
        if self.is_exact:
            self._values.setdefault((tenant_id, metric), []).append(micros)
        else:
            self._counts.setdefault((tenant_id, metric), Counter())[bucket_of(micros)] += 1

    def of(self, tenant_id: int | None, metric: str, percent: int) -> int | None:
        """By nearest rank, in microseconds; None if nothing was measured. `tenant_id` None is all tenants together."""
        if self.is_exact:
            measured = self._values.get((tenant_id, metric), []) if tenant_id is not None else self._all(metric)
            return measured[(len(measured) * percent + 99) // 100 - 1] if measured else None
        if tenant_id is not None:
            return percentile(self._counts.get((tenant_id, metric), {}), percent)
        together: Counter[int] = Counter()
        for (_, which), counts in self._counts.items():
            if which == metric:
                together.update(counts)
        return percentile(together, percent)

    def _all(self, metric: str) -> list[int]:
        return sorted(micros for (_, which), each in self._values.items() if which == metric for micros in each)


def _selected(tenant_id: int | None, key_id: str | None, *, billed: bool) -> tuple[str, dict[str, Any]]:
    """Conditions that begin with AND, and the values of their parameters."""
    conditions = [
        condition
        for condition, is_wanted in (
            ("tenant_id = :tenant_id", tenant_id is not None),
            ("key_id = :key", key_id is not None),
            ("NOT unbilled", billed),
        )
        if is_wanted
    ]
    return "".join(f"AND {each} " for each in conditions), {"tenant_id": tenant_id, "key": key_id}


def _of_rows(where: str) -> str:
    """The conditions for rows."""
    where = where.replace("billed_micros = 0", "billed_micros IS NULL")
    return _by_time(where.replace("key_id", ROW_KEYS["key_id"]))


def _by_time(where: str) -> str:
    """Without the plus, SQLite would read all that there is of a tenant instead of what is of a period."""
    return where.replace("AND tenant_id", "AND +tenant_id")


def whole_hours(since_micros: int, until_micros: int) -> tuple[int, int]:
    """From the beginning of the first whole hour to the end of the last one."""
    return _whole(since_micros, until_micros, HOUR_MICROS)


def edges(since_micros: int, until_micros: int, length_micros: int = HOUR_MICROS) -> Iterator[tuple[int, int]]:
    """What is not in whole hours, or in whole periods of another length."""
    first, last = _whole(since_micros, until_micros, length_micros)
    if first >= last:
        yield since_micros, until_micros
        return
    if since_micros < first:
        yield since_micros, first
    if last < until_micros:
        yield last, until_micros


def _whole(since_micros: int, until_micros: int, length_micros: int) -> tuple[int, int]:
    return -(-since_micros // length_micros) * length_micros, until_micros // length_micros * length_micros


def _of_latencies(since_micros: int, until_micros: int) -> Iterator[tuple[str, str, int, int]]:
    """Table, column and bounds of the whole days and hours."""
    first, last = whole_hours(since_micros, until_micros)
    if first >= last:
        return
    first_day, last_day = _whole(first, last, DAY_MICROS)
    if first_day < last_day:
        yield "latency_days", "day_micros", first_day, last_day
    for since, until in edges(first, last, DAY_MICROS):
        yield "latencies", "hour_micros", since, until


def _add(
    conn: Connection,
    query: str,
    values: dict[str, Any],
    keys: int,
    found: dict[Key, dict[str, int]],
    names: Sequence[str],
) -> None:
    try:
        rows = conn.execute(query, values).fetchall()
    except OperationalError as e:
        if "integer overflow" not in str(e):
            raise
        raise too_large() from e
    skipped = keys or 1
    for row in rows:
        total = found.setdefault(row[:keys], dict.fromkeys(names, 0))
        for name, value in zip(names, row[skipped:], strict=True):
            total[name] += value or 0
            if total[name] >= MAX_INTEGER:
                raise too_large()


def billed_nanos(total: Mapping[str, int]) -> int:
    """What is billed for sums of billed requests."""
    listed = total["input_nanos"] + total["cached_nanos"] + total["output_nanos"] + total["engine_nanos"]
    return listed - total["free_nanos"] - total["waived_nanos"]


def too_large() -> AmountTooLarge:
    """That a sum does not fit."""
    return AmountTooLarge("the sum over this period does not fit 64 bits; choose a shorter period")
