"""Queue positions: how many requests should get their first token before a waiting one, and how long that should take.

An estimate, since the engine decides anew with every step. It orders as the engine does: tenants by usage for their
weight, each request that waits counted with what it will likely use, a tenant's own in the order they came.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from tenantd import costs
from tenantd.domain import Tenant
from tenantd.fleet.replica import Replica
from tenantd.live.registry import Count
from tenantd.live.streams import LiveStream
from tenantd.wire.settings import Settings

EXPECTED_OUTPUT_TOKENS: Final = 128
"""Assumed length of an answer; most end long before their `max_tokens`."""


class Line(NamedTuple):
    """One tenant's requests without a token. `usage`, and the `cost` of one of them (above 0), are by weight."""

    usage: float
    cost: float
    waiting: int

    def before(self, usage: float) -> int:
        """How many of them come before a request of another tenant that counts with `usage`."""
        return min(self.waiting, max(0, math.ceil((usage - self.usage) / self.cost)))


def position(line: Line, place: int, others: Iterable[Line]) -> int:
    """Of the request that `place` others of its own tenant precede; 1 is the next to get a token."""
    usage = line.usage + place * line.cost
    return place + 1 + sum(other.before(usage) for other in others)


class Positions:
    """Computes the positions of waiting requests. Owns no state."""

    def __init__(
        self,
        replica: Replica,
        scheduler: Settings,
        tenants: Callable[[], Mapping[str, Tenant]],
        clock_s: Callable[[], float],
    ) -> None:
        """`tenants` is called each time, because tenants change."""
        self._replica = replica
        self._scheduler = scheduler
        self._tenants = tenants
        self._clock_s = clock_s

    def next_positions(self, tenant: Tenant, prompt_tokens: Sequence[int]) -> list[int]:
        """Positions of new requests of this tenant, with prompts of these lengths. 0 means that a slot is free."""
        live, info, most = self._replica.live, self._replica.supervisor.info, tenant.limits.max_concurrent
        count = live.count(tenant.name)
        free = 0 if info is None else info.slots - len(live)
        if most is not None:
            free = min(free, most - count.running - count.waiting)
        requests = len(prompt_tokens)
        free = min(max(0, free), requests)
        if self._scheduler.policy == "fifo":
            first = live.total().waiting + 1
            return [0] * free + list(range(first + free, first + requests))
        lines = self._lines()
        lines.pop(tenant.name, None)
        waiting, waiting_tokens = count.waiting + requests, count.waiting_prompt_tokens + sum(prompt_tokens)
        own = self._line(tenant, Count(waiting, count.running, waiting_tokens))
        places = range(count.waiting + free, count.waiting + requests)
        return [0] * free + [position(own, place, lines.values()) for place in places]

    def waiting(self, tenant: str | None, most: int) -> list[dict[str, Any]]:
        """The first requests without a token, of one tenant or of all, in the order in which they should get one."""
        now_s, oldest_s = self._clock_s(), self._replica.live.oldest_s()
        return [
            {
                "id": stream.id,
                "client_request_id": stream.client_id,
                "tenant": stream.tenant,
                "position": at,
                "waited_ms": round(stream.age_s * 1000),
                "estimated_wait_ms": round(self._replica.throughput.places_s(now_s, at, oldest_s) * 1000),
            }
            for at, stream in itertools.islice(self._positions(tenant), most)
        ]

    def _positions(self, tenant: str | None) -> Iterator[tuple[int, LiveStream]]:
        """By position."""
        lines = self._lines()
        waiting = [s for s in self._replica.live if not s.generated and s.tenant in lines]
        if self._scheduler.policy == "fifo":
            yield from ((at, s) for at, s in enumerate(waiting, 1) if tenant in (None, s.tenant))
            return
        queues: dict[str, list[LiveStream]] = {}
        for stream in waiting:
            queues.setdefault(stream.tenant, []).append(stream)
        if tenant is not None:
            others = [line for name, line in lines.items() if name != tenant]
            yield from ((position(lines[tenant], i, others), s) for i, s in enumerate(queues.get(tenant, ())))
            return
        nexts = [(lines[name].usage, name, 0) for name in queues]  # like the engine: least usage first
        heapq.heapify(nexts)
        for at in itertools.count(1):
            if not nexts:
                return
            usage, name, place = nexts[0]
            yield at, queues[name][place]
            if place + 1 < len(queues[name]):
                heapq.heapreplace(nexts, (usage + lines[name].cost, name, place + 1))
            else:
                heapq.heappop(nexts)

    def _lines(self) -> dict[str, Line]:
        tenants = self._tenants()
        waiting = self._replica.live.waiting_tenants()
        return {name: self._line(tenants[name], count) for name, count in waiting.items() if name in tenants}

    def _line(self, tenant: Tenant, count: Count) -> Line:
        scheduler = self._scheduler
        usage = self._replica.board.usage(tenant.name, self._clock_s(), scheduler.half_life_s)
        prompt_tokens = count.waiting_prompt_tokens / max(1, count.waiting)
        cost = costs.of_tokens(scheduler, prompt_tokens, EXPECTED_OUTPUT_TOKENS)
        return Line(usage, cost / costs.full_weight(tenant), count.waiting)
