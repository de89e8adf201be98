"""What must hold of every row of a request, and between rows and the sums of their hours and days.

Reads in pieces with a snapshot each, in which a row and its sums agree, so the daemon may write meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from sqlite3 import Connection, OperationalError
from typing import Any, Final

from tenantd.domain import RUNNING, FinishReason, Usage
from tenantd.ledger.buckets import bucket_of
from tenantd.ledger.pieces import let_go
from tenantd.ledger.prices import MAX_INTEGER, AmountTooLarge, all_prices, cost_of
from tenantd.ledger.rollups import COUNTS, KEYS, SUMS, hour_of
from tenantd.ledger.rows_kept import Pruned
from tenantd.ledger.sums import FROM_ROWS
from tenantd.periods import DAY_MICROS, EPOCH, HOUR_MICROS, UTC_ZONE, in_words

PIECE_ROWS: Final = 20_000
_COST: Final = "(input_nanos + cached_nanos + output_nanos + engine_nanos)"
_STATES: Final = ", ".join(f"'{state}'" for state in (RUNNING, *(reason.value for reason in FinishReason)))
_RULES: Final = {
    "has a state that tenantd does not know": f"state NOT IN ({_STATES})",
    "is running, but has an end": "state = 'running' AND ended_micros IS NOT NULL",
    "has ended, but has no price list or no end time": "state <> 'running' AND (price_id + ended_micros) IS NULL",
    "ended before it was created": "ended_micros < created_micros",
    "did not end when its times say": """ended_micros >= created_micros AND
        ended_micros <> coalesce(created_micros + duration_micros, interrupted_micros, created_micros)""",
    "is billed before it ended": "billed_micros <= ended_micros",
    "has negative amounts": """min(cached_tokens, kv_token_micros, swaps, cached_nanos, free_nanos, waived_nanos,
        energy_millijoules) < 0""",
    "is free or waived beyond its cost": f"free_nanos + waived_nanos > {_COST}",
    "has the price list of another tenant": """price_id IN (SELECT id FROM prices AS other WHERE
        other.tenant_id <> requests.tenant_id)""",
}
_BROKEN: Final = ", ".join(f"sum({rule})" for rule in _RULES.values())
_COUNT: Final = f"SELECT count(*), max(number), {_BROKEN} FROM requests WHERE number BETWEEN ? AND ?"
_EXAMPLE: Final = "SELECT id FROM requests WHERE number BETWEEN ? AND ? AND {rule} ORDER BY number LIMIT 1"
# Rounded half up, as `cost_of` does; a product that does not fit is looked at again by that.
_AMISS: Final = f"""SELECT requests.id, price_id, {", ".join(Usage.__struct_fields__)},
    input_nanos, cached_nanos, output_nanos, engine_nanos FROM requests JOIN prices ON prices.id = price_id
    WHERE number BETWEEN ? AND ? AND (
    input_nanos <> (2 * prompt_tokens * input_nanos_per_million + 1000000) / 2000000
    OR cached_nanos <> (2 * cached_tokens * cached_nanos_per_million + 1000000) / 2000000
    OR output_nanos <> (2 * completion_tokens * output_nanos_per_million + 1000000) / 2000000
    OR engine_nanos <> (2 * engine_micros * engine_hour_nanos + 3600000000) / 7200000000)"""
_KEY: Final = KEYS[1:]
_ROW_KEY: Final = "tenant_id, coalesce(key_id, ''), model, adapter, price_id, unbilled, coalesce(billed_micros, 0)"
_VALUES: Final = (*COUNTS, *SUMS)
_HOUR_OF_ROWS: Final = f"""SELECT {_ROW_KEY}, {FROM_ROWS} FROM requests
    WHERE ended_micros >= ? AND ended_micros < ? GROUP BY 1, 2, 3, 4, 5, 6, 7"""
_HOUR: Final = f"SELECT {', '.join((*_KEY, *_VALUES))} FROM hours WHERE hour_micros = ?"
_TIMES_OF_ROWS: Final = """SELECT tenant_id, '{metric}', bucket_of({metric}_micros), count(*) FROM requests
    WHERE ended_micros >= ? AND ended_micros < ? AND {metric}_micros IS NOT NULL GROUP BY 1, 3"""
_TIMES: Final = "SELECT tenant_id, metric, bucket, requests FROM latencies WHERE hour_micros = ? AND requests <> 0"
_CAUSES_OF_ROWS: Final = """SELECT tenant_id, cause, count(*) FROM requests
    WHERE ended_micros >= ? AND ended_micros < ? AND cause <> '' GROUP BY 1, 2"""
_CAUSES: Final = "SELECT tenant_id, cause, requests FROM causes WHERE hour_micros = ? AND requests <> 0"
_NEXT: Final = """SELECT min(hour) FROM (SELECT min(ended_micros) AS hour FROM requests WHERE ended_micros >= ?1
    UNION ALL SELECT min(hour_micros) FROM hours WHERE hour_micros >= ?1
    UNION ALL SELECT min(hour_micros) FROM latencies WHERE hour_micros >= ?1
    UNION ALL SELECT min(hour_micros) FROM causes WHERE hour_micros >= ?1)"""
_NEXT_DAY: Final = """SELECT min(micros) FROM (SELECT min(hour_micros) AS micros FROM latencies WHERE hour_micros >= ?1
    UNION ALL SELECT min(day_micros) FROM latency_days WHERE day_micros >= ?1)"""
_DAY: Final = """SELECT tenant_id, sum(of_hours), sum(of_day) FROM (
    SELECT tenant_id, metric, bucket, requests AS of_hours, 0 AS of_day FROM latencies
        WHERE hour_micros >= :day AND hour_micros < :next
    UNION ALL SELECT tenant_id, metric, bucket, 0, requests FROM latency_days
        WHERE day_micros >= :day AND day_micros < :next)
    GROUP BY tenant_id, metric, bucket HAVING sum(of_hours) <> sum(of_day) LIMIT 3"""
Sums = dict[tuple[Any, ...], tuple[int, ...]]
Progress = Callable[[int, int], None]


def broken_rows(conn: Connection, on_progress: Progress) -> Iterator[tuple[int, str, str]]:
    """How many rows were looked at, what is wrong with one, "" if nothing, and which rule it breaks."""
    prices = all_prices(conn)
    (last,) = conn.execute("SELECT coalesce(max(number), 0) FROM requests").fetchone()
    first = 0
    while (row := conn.execute("SELECT min(number) FROM requests WHERE number > ?", (first,)).fetchone())[
        0
    ] is not None:
        piece = (row[0], row[0] + PIECE_ROWS - 1)
        count, newest, *broken = conn.execute(_COUNT, piece).fetchone()
        yield count, "", ""
        for (what, rule), times in zip(_RULES.items(), broken, strict=True):
            if times:
                (example,) = conn.execute(_EXAMPLE.format(rule=rule), piece).fetchone()
                more = f" (and {times - 1} more)" if times > 1 else ""
                yield 0, f"request {example}{more} {what}", what
        for request_id, price_id, *used in conn.execute(_AMISS, piece).fetchall():
            usage = Usage(**dict(zip(Usage.__struct_fields__, used, strict=False)))
            if wrong := _wrong_cost(usage, prices.get(price_id), tuple(used[len(Usage.__struct_fields__) :])):
                yield 0, f"request {request_id} {wrong}", "amounts"
        first = newest
        on_progress(newest, max(last, newest))
        let_go(conn)


def _wrong_cost(usage: Usage, prices: Any, amounts: tuple[int, ...]) -> str:
    if prices is None:
        return ""  # a broken reference, which is found as such
    try:
        cost = cost_of(usage, prices)
    except AmountTooLarge:
        return "costs more than fits"
    right = (cost.input_nanos, cost.cached_nanos, cost.output_nanos, cost.engine_nanos)
    return (
        "" if right == amounts else f"has the amounts {list(amounts)}, but price list {prices.id} gives {list(right)}"
    )


def broken_hours(conn: Connection, on_progress: Progress) -> Iterator[tuple[int, str]]:
    """For each hour 1, and what differs between its rows and its sums, "" if nothing."""
    conn.create_function("bucket_of", 1, bucket_of, deterministic=True)
    since, first = 0, None
    (last,) = conn.execute("SELECT max(ended_micros) FROM requests").fetchone()
    while (found := conn.execute(_NEXT, (since,)).fetchone()[0]) is not None:
        hour = hour_of(found)
        since = hour + HOUR_MICROS
        first = hour if first is None else first
        pruned = Pruned(conn)
        differing = sorted(_differing(conn, hour, may_lack=pruned.lacks(hour)))
        at = in_words(hour, UTC_ZONE)
        yield 1, f"hour {at}: {'; '.join(differing[:3])}" if differing else ""
        on_progress(since - first, max((last or 0) - first, since - first))
        let_go(conn)


def broken_days(conn: Connection) -> Iterator[str]:
    """What differs between the times of each day and those of its hours."""
    since = 0
    while (found := conn.execute(_NEXT_DAY, (since,)).fetchone()[0]) is not None:
        day = found - found % DAY_MICROS
        since = day + DAY_MICROS
        differing = [
            f"times of tenant {tenant_id}: {of_hours} in its hours, {of_day} kept"
            for tenant_id, of_hours, of_day in conn.execute(_DAY, {"day": day, "next": since})
        ]
        if differing:
            yield f"day {EPOCH + timedelta(microseconds=day):%Y-%m-%d} (UTC): {'; '.join(differing)}"
        let_go(conn)


def _differing(conn: Connection, hour: int, *, may_lack: bool) -> Iterator[str]:
    bounds = (hour, hour + HOUR_MICROS)
    for what, of_rows, of_hour, names in (
        ("sums", _of_rows(conn, bounds), _read(conn, _HOUR, (hour,), len(_KEY)), _VALUES),
        ("times", _times_of_rows(conn, bounds), _read(conn, _TIMES, (hour,), 3), ("requests",)),
        ("causes", _read(conn, _CAUSES_OF_ROWS, bounds, 2), _read(conn, _CAUSES, (hour,), 2), ("requests",)),
    ):
        nothing = (0,) * len(names)
        for key in of_rows.keys() | of_hour.keys():
            rows, sums = of_rows.get(key, nothing), of_hour.get(key, nothing)
            for name, from_rows, kept in zip(names, rows, sums, strict=True):
                if from_rows > kept or (from_rows < kept and not may_lack):
                    yield f"{what} of tenant {key[0]}, {name}: {from_rows} in rows, {kept} kept"


def _of_rows(conn: Connection, bounds: tuple[int, int]) -> Sums:
    try:
        return _read(conn, _HOUR_OF_ROWS, bounds, len(_KEY))
    except OperationalError as e:
        if "integer overflow" not in str(e):
            raise
    found: Sums = {}
    by_row = _HOUR_OF_ROWS.replace("GROUP BY 1, 2, 3, 4, 5, 6, 7", "GROUP BY number")
    for row in conn.execute(by_row, bounds):
        key, values = row[: len(_KEY)], row[len(_KEY) :]
        found[key] = tuple(
            min(a + b, MAX_INTEGER) for a, b in zip(found.get(key, (0,) * len(values)), values, strict=True)
        )
    return found


def _times_of_rows(conn: Connection, bounds: tuple[int, int]) -> Sums:
    found: Sums = {}
    for metric in ("duration", "first_token"):
        found |= _read(conn, _TIMES_OF_ROWS.format(metric=metric), bounds, 3)
    return found


def _read(conn: Connection, query: str, values: tuple[int, ...], keys: int) -> Sums:
    return {tuple(row[:keys]): tuple(row[keys:]) for row in conn.execute(query, values).fetchall()}
