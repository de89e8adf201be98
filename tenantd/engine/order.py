"""Predicts the order in which waiting requests will be bound, for clients to see. Pure.

Applies the scheduler's own comparison repeatedly, as if slots became free one after another: of the running
requests, those with the least left end first, and each bound request uses what a request is expected to use.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from tenantd.engine.jobs import Job, TenantJobs
from tenantd.engine.sharing import Sharing

EXPECTED_OUTPUT_TOKENS: Final = 128
"""Assumed length of an answer; most end long before their `max_tokens`."""


def binding_order(
    sharing: Sharing, tenants: Mapping[str, TenantJobs], active: Collection[Job], now_s: float, most: int
) -> list[int]:
    """The first `most` waiting requests. Those held back by a limit of their tenant come last, by arrival."""
    trial = _Trial(sharing, tenants, active, now_s)
    order = trial.bind(most)
    if len(order) < most:
        bound = set(order)
        held = (job.arrival for tenant in tenants.values() for job in tenant.queue if job.arrival not in bound)
        order += heapq.nsmallest(most - len(order), held)
    return order


def _expected_left(job: Job) -> int:
    """How many more tokens it is expected to generate."""
    return max(1, min(EXPECTED_OUTPUT_TOKENS, job.submit.max_tokens) - job.generated)


class _Trial:
    """The simulated state: which requests are next, how many slots a tenant has, how tenants compare."""

    def __init__(
        self, sharing: Sharing, tenants: Mapping[str, TenantJobs], active: Iterable[Job], now_s: float
    ) -> None:
        self._sharing = sharing
        self._tenants = tenants
        running = sorted(active, key=_expected_left)
        self._ending = deque(job.submit.tenant for job in running)
        self._standing = sharing.standing(running, now_s)
        self._slots = {name: tenant.active for name, tenant in tenants.items()}
        paced = {name for name, tenant in tenants.items() if tenant.window.allowance(now_s) == 0}
        self._queues = {name: iter(t.queue) for name, t in tenants.items() if t.queue and name not in paced}
        self._heads = {name: next(queue) for name, queue in self._queues.items()}
        self._backs = {name for name in self._heads if tenants[name].is_back and not tenants[name].active}
        self._versions = dict.fromkeys(self._heads, 0)
        self._heap: list[tuple[tuple[float, ...], int, str]] = []
        for name in self._heads:
            self._look_at(name)

    def bind(self, most: int) -> list[int]:
        """Yields the next requests, until none is left that may be bound."""
        order: list[int] = []
        while len(order) < most and (self._ending or self._heap):
            if self._ending:
                ended = self._ending.popleft()
                self._slots[ended] -= 1
                self._look_at(ended)
            if (name := self._neediest()) is not None:
                order.append(self._heads[name].arrival)
                self._bind_next(name)
        return order

    def _neediest(self) -> str | None:
        while self._heap:
            _, version, name = heapq.heappop(self._heap)
            if version == self._versions[name]:
                return name
        return None

    def _bind_next(self, name: str) -> None:
        cost = self._sharing.cost(self._heads[name], _expected_left(self._heads[name]))
        if name in self._backs:  # its credit only applies to the first slot
            self._backs.discard(name)
            cost += self._sharing.burst_credit
        self._standing.give(name, cost / self._tenants[name].weight)
        self._slots[name] += 1
        self._ending.append(name)
        if (head := next(self._queues[name], None)) is None:
            del self._heads[name]
        else:
            self._heads[name] = head
        self._look_at(name)

    def _look_at(self, name: str) -> None:
        """Forget what was computed about a tenant, after a change."""
        if name not in self._versions:
            return
        self._versions[name] += 1
        tenant, slots = self._tenants[name], self._slots[name]
        if (head := self._heads.get(name)) is not None and tenant.has_place(slots):
            key = self._sharing.need(name, slots, head, self._standing)
            heapq.heappush(self._heap, (key, self._versions[name], name))
