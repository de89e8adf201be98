"""What tenants' requests were given since the daemon started. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import Final

from tenantd.domain import Usage
from tenantd.live.streams import LiveStream

NOTHING: Final = Usage()


class Served:
    """By tenant's id, so that nothing is left for the next tenant of a name. Requests that are live are added up when
    somebody asks, so that no step has to count for it."""

    def __init__(self) -> None:
        self._ended: dict[int | None, Usage] = {}

    def ended(self, stream: LiveStream) -> None:
        """A request has left."""
        self._ended[stream.tenant_id] = _sum(self._ended.get(stream.tenant_id, NOTHING), stream.usage)

    def keep(self, tenant_ids: Set[int | None]) -> None:
        """Forget all other tenants, which were removed."""
        for gone in self._ended.keys() - tenant_ids:
            del self._ended[gone]

    def of(self, tenant_id: int | None, live: Iterable[LiveStream]) -> Usage:
        """Of one tenant, whose live requests these are."""
        total = self._ended.get(tenant_id, NOTHING)
        for stream in live:
            total = _sum(total, stream.usage)
        return total

    def totals(self, live: Iterable[LiveStream]) -> dict[int | None, Usage]:
        """Of requests that have ended, and of those that are live."""
        totals = dict(self._ended)
        for stream in live:
            if stream.engine_micros or stream.cached_tokens:
                totals[stream.tenant_id] = _sum(totals.get(stream.tenant_id, NOTHING), stream.usage)
        return totals


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(
        prompt_tokens=one.prompt_tokens + other.prompt_tokens,
        completion_tokens=one.completion_tokens + other.completion_tokens,
        engine_micros=one.engine_micros + other.engine_micros,
        cached_tokens=one.cached_tokens + other.cached_tokens,
        energy_millijoules=one.energy_millijoules + other.energy_millijoules,
    )
