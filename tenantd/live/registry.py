"""The live requests of one replica, and how many each tenant has."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tenantd.live.streams import LiveStream


@dataclass(slots=True)
class Count:
    """Live requests of a tenant, by whether they have a token yet."""

    waiting: int = 0
    running: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.waiting + other.waiting, self.running + other.running)


class LiveRegistry:
    """The one owner of live streams, in order of arrival; others only refer to them.

    Iterates over a copy, so streams may end meanwhile.
    """

    def __init__(self) -> None:
        self.by_number: dict[int, LiveStream] = {}
        self._by_id: dict[str, LiveStream] = {}
        self._by_tenant: dict[str, dict[int, LiveStream]] = {}  # none is empty
        self._counts: dict[str, Count] = {}
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    def __len__(self) -> int:
        return len(self.by_number)

    def __iter__(self) -> Iterator[LiveStream]:
        return iter(list(self.by_number.values()))

    def add(self, stream: LiveStream) -> None:
        """Add a new stream, which waits."""
        assert stream.number not in self.by_number, "a number names one request"
        self.by_number[stream.number] = self._by_id[stream.id] = stream
        self._by_tenant.setdefault(stream.tenant, {})[stream.number] = stream
        count = self._counts.setdefault(stream.tenant, Count())
        count.waiting += 1
        self._is_empty.clear()

    def begin(self, stream: LiveStream) -> None:
        """Record a stream's first token."""
        count = self._counts[stream.tenant]
        count.waiting -= 1
        count.running += 1

    def book_energy(self, energy: Mapping[int, int]) -> None:
        """Add what was measured, in millijoules by number. What is that of streams that have ended is nobody's."""
        for number, millijoules in energy.items():
            if (stream := self.by_number.get(number)) is not None:
                stream.energy_millijoules += millijoules

    def remove(self, stream: LiveStream) -> None:
        """Remove a stream that has ended."""
        del self.by_number[stream.number], self._by_id[stream.id]
        count = self._counts[stream.tenant]
        if stream.generated:
            count.running -= 1
        else:
            count.waiting -= 1
            assert count.waiting >= 0 and count.running >= 0, "what ends was counted"
        if not count.waiting and not count.running:
            del self._counts[stream.tenant]
        del self._by_tenant[stream.tenant][stream.number]
        if not self._by_tenant[stream.tenant]:
            del self._by_tenant[stream.tenant]
        if not self.by_number:
            self._is_empty.set()

    def find(self, request_id: str) -> LiveStream | None:
        """The live stream with this request id."""
        return self._by_id.get(request_id)

    def of(self, tenant: str) -> list[LiveStream]:
        """The live streams of one tenant, in order of arrival."""
        return list(self._by_tenant.get(tenant, {}).values())

    def together(self, stream: LiveStream) -> list[LiveStream]:
        """The live streams of the client's request that `stream` is of, in order of arrival."""
        return [one for one in self if one.sampling is stream.sampling]

    def count(self, tenant: str) -> Count:
        """The count of one tenant."""
        return self._counts.get(tenant) or Count()

    def total(self) -> Count:
        """The count of all tenants."""
        waiting = sum(count.waiting for count in self._counts.values())
        return Count(waiting, len(self.by_number) - waiting)

    def waiting_tenants(self) -> dict[str, int]:
        """Tenants with waiting requests, and how many."""
        return {name: count.waiting for name, count in self._counts.items() if count.waiting}

    def running_tenants(self) -> dict[str, int]:
        """Tenants with requests that have a token, and how many."""
        return {name: count.running for name, count in self._counts.items() if count.running}

    def oldest_s(self) -> float:
        """Age of the oldest request in seconds; 0 if there is none."""
        for stream in self.by_number.values():
            return stream.age_s
        return 0.0

    async def wait_until_empty(self, timeout_s: float) -> bool:
        """Wait for at most `timeout_s`. False if requests are left."""
        if self.by_number:
            try:
                await asyncio.wait_for(self._is_empty.wait(), timeout_s)
            except TimeoutError:
                return False
        return True

    def check_empty(self) -> None:
        """Invariant: nothing is live, so nothing is counted."""
        assert not self.by_number and not self._by_id and not self._counts and not self._by_tenant, (
            f"left over: {list(self.by_number)}, {list(self._by_id)}, {self._counts}, {list(self._by_tenant)}"
        )
