"""What was used in a period, by day, hour, tenant, key, model or adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from sqlite3 import Connection
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from tenantd.errors import InvalidRequest
from tenantd.ledger.prices import MAX_INTEGER
from tenantd.ledger.reports import cost_nanos, name_before
from tenantd.ledger.rollups import ENDS, USED
from tenantd.ledger.sums import Key, sums, too_large
from tenantd.periods import HOUR_MICROS, Period, Span, bounds, days, hours, local_date, midnight_micros

MOST_HOURS: Final = 100 * 24
MOST_OFF_HOURS: Final = 32 * 24
"""Where the hours of a time zone are not those of UTC, so that each request is read instead of the sums of its hour."""
_FIRST_AND_LAST: Final = "SELECT (SELECT min(hour_micros) FROM hours), (SELECT max(hour_micros) FROM hours)"
AMOUNTS: Final = ("input_nanos", "cached_nanos", "output_nanos", "engine_nanos")
_SHOWN: Final = ("requests", *ENDS, *USED, *AMOUNTS, "free_nanos", "waived_nanos")


class Grouping(StrEnum):
    """What a report has a row for."""

    DAY = "day"
    HOUR = "hour"
    TENANT = "tenant"
    KEY = "key"
    MODEL = "model"
    ADAPTER = "adapter"


class UsageGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that ended in a period. Unbilled requests count, but cost nothing.

    `name` is that of a day ("2026-11-29") or an hour ("2026-11-29T14:00+01:00") in the billing time zone, of a tenant
    or a model, the id of a key, or the path of an adapter; "" is no key or no adapter. Days and hours have bounds, cut
    to the period, and tenants and keys have a tenant. `label` is that of a key. What is billed, `cost_nanos`, is
    `list_nanos` less `free_nanos` (free quotas) and `waived_nanos` (beyond budgets).
    """

    name: str
    since_micros: int | None = None
    until_micros: int | None = None
    tenant: str | None = None
    tenant_id: int | None = None
    label: str | None = None
    requests: int
    completed: int
    cancelled: int
    disconnected: int
    failed: int
    interrupted: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    engine_micros: int
    energy_millijoules: int
    list_nanos: int
    free_nanos: int
    waived_nanos: int
    cost_nanos: int


def usage_by(
    conn: Connection,
    grouping: Grouping,
    since_micros: int,
    until_micros: int,
    timezone: ZoneInfo,
    tenant_id: int | None = None,
    key_id: str | None = None,
) -> list[UsageGroup]:
    """The groups with requests that ended from `since_micros` until before `until_micros`, days and hours oldest first,
    the others by name. `tenant_id` and `key_id` select. Raises AmountTooLarge, InvalidRequest for too many hours."""

    def totals(since: int, until: int, by: Sequence[str]) -> dict[Key, _Total]:
        found: dict[Key, _Total] = {}
        parts = sums(conn, since, until, (*by, "unbilled"), tenant_id=tenant_id, key_id=key_id, only=_SHOWN)
        for (*key, unbilled), part in parts.items():
            found.setdefault(tuple(key), _Total()).add(part, is_billed=not unbilled)
        return found

    if grouping in (Grouping.DAY, Grouping.HOUR):
        spans = _spans(conn, grouping, since_micros, until_micros, timezone)
        return [
            total.group(name=span.name, since_micros=span.since_micros, until_micros=span.until_micros)
            for span in spans
            for total in totals(span.since_micros, span.until_micros, ()).values()
            if total.requests
        ]
    by, names = _NAMED[grouping]
    groups = [
        total.group(**names(conn, key, until_micros))
        for key, total in totals(since_micros, until_micros, by).items()
        if total.requests
    ]
    return sorted(groups, key=lambda group: (group.name, group.tenant or "", group.tenant_id or 0))


def _spans(
    conn: Connection, grouping: Grouping, since_micros: int, until_micros: int, timezone: ZoneInfo
) -> Iterator[Span]:
    """The days or hours of the part of the period in which requests ended."""
    first, last = conn.execute(_FIRST_AND_LAST).fetchone()
    if first is None:
        return iter(())
    if grouping is Grouping.HOUR:
        _check_hours(max(since_micros, first), min(until_micros, last + HOUR_MICROS), timezone)
    first_day, last_day = (bounds(Period.DAILY, micros, timezone) for micros in (first, last + HOUR_MICROS - 1))
    since_micros = max(since_micros, first_day.since_micros)  # whole days, whichever hours of them were used
    until_micros = min(until_micros, last_day.until_micros)
    if grouping is Grouping.DAY:
        return days(since_micros, until_micros, timezone)
    return hours(since_micros, until_micros, timezone)


def _check_hours(since_micros: int, until_micros: int, timezone: ZoneInfo) -> None:
    """Raises InvalidRequest if they are too many."""
    is_off = any(
        midnight_micros(local_date(micros, timezone), timezone) % HOUR_MICROS for micros in (since_micros, until_micros)
    )
    most = MOST_OFF_HOURS if is_off else MOST_HOURS
    if until_micros - since_micros > most * HOUR_MICROS:
        where = f" in {timezone}, whose hours are not those of UTC" if is_off else ""
        raise InvalidRequest(
            f"a report by hour covers at most {most // 24} days{where}; choose a shorter period", param="since"
        )


def _tenant(conn: Connection, key: Key, until_micros: int) -> dict[str, Any]:
    name = name_before(conn, key[0], until_micros)
    return {"name": name, "tenant": name, "tenant_id": key[0]}


def _key(conn: Connection, key: Key, until_micros: int) -> dict[str, Any]:
    found = conn.execute("SELECT label FROM keys WHERE id = ?", (key[1],)).fetchone()
    return {**_tenant(conn, key, until_micros), "name": key[1], "label": None if found is None else found[0]}


def _plain(conn: Connection, key: Key, until_micros: int) -> dict[str, Any]:
    return {"name": key[0]}


_NAMED: Final[dict[Grouping, tuple[tuple[str, ...], Callable[[Connection, Key, int], dict[str, Any]]]]] = {
    Grouping.TENANT: (("tenant_id",), _tenant),
    Grouping.KEY: (("tenant_id", "key_id"), _key),
    Grouping.MODEL: (("model",), _plain),
    Grouping.ADAPTER: (("adapter",), _plain),
}
"""The columns that tell groups apart, and what a group is called."""


class _Total:
    """The sums of a group: of all its requests, and of those that are billed."""

    def __init__(self) -> None:
        self._all = dict.fromkeys(_SHOWN, 0)
        self._billed = dict(self._all)

    def add(self, part: dict[str, int], *, is_billed: bool) -> None:
        for total in (self._all, self._billed) if is_billed else (self._all,):
            for name, value in part.items():
                total[name] += value
                if total[name] > MAX_INTEGER:
                    raise too_large()

    @property
    def requests(self) -> int:
        return self._all["requests"]

    def group(self, **names: Any) -> UsageGroup:
        """Raises AmountTooLarge."""
        cost = cost_nanos(self._billed)
        counts: dict[str, Any] = {name: self._all[name] for name in ("requests", *ENDS, *USED)}
        return UsageGroup(
            **names,
            **counts,
            list_nanos=sum(self._billed[name] for name in AMOUNTS),
            free_nanos=self._billed["free_nanos"],
            waived_nanos=self._billed["waived_nanos"],
            cost_nanos=cost,
        )
