"""Queue positions: how many requests should get their first token before a waiting one, and how long that should take.

The engine tells the order of what it holds, once a second at most. Requests that have begun or ended since are left out
of it. Those that it does not say, since they are new or wait in the daemon, stand behind those of their own tenant, as
far apart as these are; of a tenant that has none in it, the first stands with the first, and tenants take turns.
"""

from __future__ import annotations

import heapq
import itertools
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple
from weakref import WeakSet

from tenantd.domain import Tenant
from tenantd.fleet.replica import Replica
from tenantd.fleet.throughput import MOST_S
from tenantd.live.streams import LiveStream
from tenantd.serving.accuracy import Wait
from tenantd.serving.waits import Waits
from tenantd.wire.messages import Step

GUESSED_WITHIN: Final = 3.0
"""Until the engine has foreseen something for a tenant, a wait may be this many times as long or short."""


class Line(NamedTuple):
    """One tenant's requests without a token, `waiting` in all: the first at `known` places, the others `apart`."""

    known: list[int]  # from 0, the lowest first
    waiting: int
    apart: int  # at least 1

    def place(self, index: int) -> int:
        """Of the request that `index` others of its own tenant precede."""
        if index < len(self.known):
            return self.known[index]
        return self._last + (index + 1 - len(self.known)) * self.apart

    def before(self, place: int) -> int:
        """How many of them stand before a place."""
        known = bisect_left(self.known, place)
        if known < len(self.known):
            return known
        return known + min(self.waiting - known, max(0, (place - self._last - 1) // self.apart))

    @property
    def _last(self) -> int:
        return self.known[-1] if self.known else -self.apart


def position(line: Line, index: int, others: Iterable[Line]) -> int:
    """Of the request that `index` others of its own tenant precede; 1 is the next to get a token."""
    place = line.place(index)
    return index + 1 + sum(other.before(place) for other in others)


class Positions:
    """The view of everything that waits. Owns nothing but what it has guessed."""

    def __init__(self, replica: Replica, clock_s: Callable[[], float]) -> None:
        self._replica = replica
        self._clock_s = clock_s
        self.waits = Waits()
        self._guessed = WeakSet[LiveStream]()  # of tenants that had nothing in the engine's order; until the next
        replica.on_order = self._correct

    def assign(self, tenant: Tenant, streams: Sequence[LiveStream]) -> None:
        """Say of requests that come now where they stand, before they run; 0: a slot is free for it."""
        live, info, most = self._replica.live, self._replica.supervisor.info, tenant.limits.max_concurrent
        count = live.count(tenant.name)
        free = 0 if info is None else info.slots - len(live)
        if most is not None:
            free = min(free, most - count.running - count.waiting)
        waiting = streams[min(max(0, free), len(streams)) :]
        if not waiting:
            return
        lines = self._lines()
        own = lines.pop(tenant.name, None) or Line([], 0, len(lines) + 1)
        for index, stream in enumerate(waiting, count.waiting + len(streams) - len(waiting)):
            stream.queue_position = position(own, index, lines.values())
        if not own.known:
            self._guessed.update(waiting)

    def _correct(self, step: Step | None) -> None:
        """The engine has told an order and how long it will take, and knows better; or it is gone."""
        waiting = (stream for stream in self._replica.live if not stream.generated)
        self.waits.foresee(None if step is None else step.outlook, waiting, self._clock_s())
        guessed, self._guessed = self._guessed, WeakSet[LiveStream]()
        if guessed:
            at = {stream.number: at for at, stream in enumerate(self._known(), 1)}
            for stream in guessed:
                stream.queue_position = at.get(stream.number, stream.queue_position)

    def waiting(self, tenant: str | None, most: int) -> list[dict[str, Any]]:
        """The first requests without a token, of one tenant or of all, in the order in which they should get one."""
        now_s, oldest_s = self._clock_s(), self._replica.live.oldest_s()
        newer: Counter[str] = Counter()  # requests by tenant of which nothing is foreseen
        entries = []
        for at, stream in itertools.islice(self._positions(tenant), most):
            wait = self.waits.of(stream, newer[stream.tenant], now_s)
            if wait is None:
                wait = self._guess(at, now_s, oldest_s)
            newer[stream.tenant] += not self.waits.is_foreseen(stream)
            entries.append(
                {
                    "id": stream.id,
                    "client_request_id": stream.client_id,
                    "tenant": stream.tenant,
                    "position": at,
                    "waited_ms": round(stream.age_s * 1000),
                    "estimated_wait_ms": round(wait.likely_s * 1000),
                    "estimated_wait_low_ms": round(wait.low_s * 1000),
                    "estimated_wait_high_ms": round(wait.high_s * 1000),
                }
            )
        return entries

    def _guess(self, place: int, now_s: float, oldest_s: float) -> Wait:
        """By how fast requests have been ending. Before any have, each takes as long as the oldest so far, as many at a
        time as there are slots, and a wait may be long, whatever the guess."""
        throughput, info = self._replica.throughput, self._replica.supervisor.info
        guess_s = throughput.places_s(now_s, place, oldest_s)
        if throughput.is_known:
            return Wait(guess_s, guess_s / GUESSED_WITHIN, guess_s * GUESSED_WITHIN)
        guess_s *= math.ceil(place / (1 if info is None else info.slots))
        return Wait(guess_s, guess_s / GUESSED_WITHIN, max(MOST_S, guess_s * GUESSED_WITHIN))

    def _positions(self, tenant: str | None) -> Iterator[tuple[int, LiveStream]]:
        """By position."""
        lines, known = self._lines(), self._known()
        ordered = {stream.number for stream in known}
        queues: dict[str, list[LiveStream]] = {name: [] for name in lines}
        live = self._replica.live if tenant is None else self._replica.live.of(tenant)
        for stream in (*known, *(s for s in live if s.number not in ordered and not s.generated)):
            queues[stream.tenant].append(stream)
        if tenant is not None:
            others = [line for name, line in lines.items() if name != tenant]
            yield from ((position(lines[tenant], i, others), s) for i, s in enumerate(queues.get(tenant, ())))
            return
        nexts = [(line.place(0), queues[name][0].number, name, 0) for name, line in lines.items()]
        heapq.heapify(nexts)
        for at in itertools.count(1):
            if not nexts:
                return
            _, _, name, index = nexts[0]
            yield at, queues[name][index]
            if (index := index + 1) < len(queues[name]):
                heapq.heapreplace(nexts, (lines[name].place(index), queues[name][index].number, name, index))
            else:
                heapq.heappop(nexts)

    def _known(self) -> list[LiveStream]:
        """Those without a token that have a slot, or whose order the engine has told."""
        live = self._replica.live.by_number
        numbers = dict.fromkeys((*sorted(self._replica.bound), *self._replica.order))
        return [stream for n in numbers if (stream := live.get(n)) is not None and not stream.generated]

    def _lines(self) -> dict[str, Line]:
        places: dict[str, list[int]] = {}
        for place, stream in enumerate(self._known()):
            places.setdefault(stream.tenant, []).append(place)
        waiting = self._replica.live.waiting_tenants()
        lines = {}
        for name, count in waiting.items():
            known = places.get(name, [])
            apart = max(1, round((known[-1] + 1) / len(known))) if known else len(waiting)
            lines[name] = Line(known, count, apart)
        return lines
