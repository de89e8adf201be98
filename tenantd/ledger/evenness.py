"""How evenly tenants were served while several of them had work all the time: Jain's index.

Tenants that want little are given little, so only those count that were busy: in a clock hour of UTC (or the part of it
in the period) the times of their requests, from admission to the end, add up to at least that hour. Requests count in
the hour of their end. The index of an hour is that of service divided by weight, and 1 if all busy tenants were given
the same; if one of n got everything, it is 1/n. (Jain, Chiu, Hawe: "A Quantitative Measure of Fairness", 1984.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from sqlite3 import Connection
from typing import Final

import msgspec

from tenantd.ledger.sums import edges, whole_hours
from tenantd.periods import HOUR_MICROS

Service = Callable[[int, int, int], float]
"""How much prompt tokens computed, those cached, and generated tokens count, so that they can be added."""

_TOKENS: Final = "sum(prompt_tokens), sum(cached_tokens), sum(completion_tokens)"
_OF_HOURS: Final = f"""SELECT hour_micros, tenant_id, {_TOKENS} FROM hours
    WHERE hour_micros >= ? AND hour_micros < ? GROUP BY 1, 2 HAVING total(duration_micros) >= {HOUR_MICROS}"""
_OF_ROWS: Final = f"""SELECT ?1, tenant_id, {_TOKENS} FROM requests
    WHERE ended_micros >= ?1 AND ended_micros < ?2 GROUP BY 2 HAVING total(duration_micros) >= ?2 - ?1"""


class Evenness(msgspec.Struct, frozen=True, kw_only=True):
    """The mean index over the time in which at least two tenants were busy; None if there was none. `tenants` of them
    were busy at such a time."""

    index: float | None
    shared_micros: int
    tenants: int


def jain(shares: Sequence[float]) -> float:
    """From 1/n, where one has everything, to 1, where all have the same; 1 if nobody has anything."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def evenness(
    conn: Connection,
    since_micros: int,
    until_micros: int,
    weights: Mapping[int, float],
    service: Service,
) -> Evenness:
    """Of the requests that ended from `since_micros` until before `until_micros`.

    `weights` are by tenant id, those without one have 1.
    """
    first, last = whole_hours(since_micros, until_micros)
    pieces = [(_OF_HOURS, first, last)] if first < last else []
    pieces += [(_OF_ROWS, since, until) for since, until in edges(since_micros, until_micros)]
    lengths = {since: until - since for _, since, until in pieces}
    shares: dict[int, list[float]] = {}
    busy: dict[int, set[int]] = {}
    for query, since, until in pieces:
        for begin_micros, tenant_id, *tokens in conn.execute(query, (since, until)):
            served = service(*tokens) / weights.get(tenant_id, 1.0)
            shares.setdefault(begin_micros, []).append(served)
            busy.setdefault(begin_micros, set()).add(tenant_id)
    shared = {begin: each for begin, each in shares.items() if len(each) > 1}
    # The first whole hour begins where the roll-ups do, which is no edge.
    micros = {begin: HOUR_MICROS if first <= begin < last else lengths[begin] for begin in shared}
    total_micros = sum(micros.values())
    return Evenness(
        index=sum(jain(shared[begin]) * micros[begin] for begin in shared) / total_micros if total_micros else None,
        shared_micros=total_micros,
        tenants=len(set().union(*(busy[begin] for begin in shared))),
    )
