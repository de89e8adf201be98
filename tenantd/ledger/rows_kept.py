"""Which rows of ended requests are still there after `tenantctl ledger prune`.

Hours are of UTC. Where a local day begins in the middle of one, its rows are kept, so that days and months still add
up. A report that begins or ends in the middle of any other hour would need rows that are gone, and is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from sqlite3 import Connection
from zoneinfo import ZoneInfo

from tenantd.errors import InvalidRequest
from tenantd.ledger.rollups import hour_of
from tenantd.periods import EPOCH, HOUR_MICROS, local_date, midnight_micros


def is_cut(hour_micros: int, timezone: ZoneInfo) -> bool:
    """Whether a local day begins within this hour, after its beginning."""
    begins = midnight_micros(local_date(hour_micros + HOUR_MICROS - 1, timezone), timezone)
    return hour_micros < begins < hour_micros + HOUR_MICROS


class Pruned:
    """What was pruned, as of one snapshot."""

    def __init__(self, conn: Connection) -> None:
        rows = conn.execute("SELECT timezone, max(until_micros) FROM row_prunings GROUP BY timezone").fetchall()
        self._untils = [(ZoneInfo(timezone), until_micros) for timezone, until_micros in rows]
        self.until_micros = max((until_micros for _, until_micros in self._untils), default=0)

    def lacks(self, hour_micros: int) -> bool:
        """Whether rows of this hour were, or may have been, deleted."""
        return any(until > hour_micros and not is_cut(hour_micros, timezone) for timezone, until in self._untils)


def need_rows(conn: Connection, since_micros: int, until_micros: int) -> None:
    """Raises InvalidRequest if rows of requests that ended from `since_micros` until before `until_micros` are gone."""
    for hour in missing_hours(conn, since_micros, until_micros):
        first, last = (EPOCH + timedelta(microseconds=micros) for micros in (hour, hour + HOUR_MICROS))
        raise InvalidRequest(
            f"the requests of that period were pruned, and only the sums of whole hours are left: begin or end at "
            f"{first:%Y-%m-%dT%H:%MZ} or {last:%Y-%m-%dT%H:%MZ}"
        )


def missing_hours(conn: Connection, since_micros: int, until_micros: int) -> Iterator[int]:
    """The hours from which rows are gone, of a period that is not long."""
    pruned = Pruned(conn)
    hour = hour_of(since_micros)
    while hour < min(until_micros, pruned.until_micros):
        was_used = conn.execute("SELECT 1 FROM hours WHERE hour_micros = ? LIMIT 1", (hour,)).fetchone()
        if was_used and pruned.lacks(hour):
            yield hour
        hour += HOUR_MICROS
