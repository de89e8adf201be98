"""All live requests, and how many each tenant has."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Iterator
from dataclasses import dataclass

from tenantd.live.streams import LiveStream


@dataclass(slots=True)
class Count:
    """Live requests of a tenant, by whether they have a token yet."""

    waiting: int = 0
    running: int = 0
    waiting_prompt_tokens: int = 0  # of all waiting requests together


class LiveRegistry:
    """All live streams, in order of arrival. Iterates over a copy, so streams may end meanwhile."""

    def __init__(self) -> None:
        self.by_number: dict[int, LiveStream] = {}
        self._counts: dict[str, Count] = {}
        self.bound: frozenset[int] = frozenset()  # numbers of those that have a slot, as the engine last said
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    def __len__(self) -> int:
        return len(self.by_number)

    def __iter__(self) -> Iterator[LiveStream]:
        return iter(list(self.by_number.values()))

    def add(self, stream: LiveStream) -> None:
        """Add a new stream, which waits."""
        assert stream.number not in self.by_number, "a number names one request"
        self.by_number[stream.number] = stream
        count = self._counts.setdefault(stream.tenant, Count())
        count.waiting += 1
        count.waiting_prompt_tokens += stream.prompt_tokens
        self._is_empty.clear()

    def begin(self, stream: LiveStream) -> None:
        """Record a stream's first token."""
        count = self._counts[stream.tenant]
        count.waiting -= 1
        count.waiting_prompt_tokens -= stream.prompt_tokens
        count.running += 1

    def remove(self, stream: LiveStream) -> None:
        """Remove a stream that has ended."""
        del self.by_number[stream.number]
        count = self._counts[stream.tenant]
        if stream.generated:
            count.running -= 1
        else:
            count.waiting -= 1
            count.waiting_prompt_tokens -= stream.prompt_tokens
        assert count.waiting >= 0 and count.running >= 0, "what ends was counted"
        if not count.waiting and not count.running:
            del self._counts[stream.tenant]
        if not self.by_number:
            self._is_empty.set()

    def find(self, request_id: str) -> LiveStream | None:
        """The live stream with this request id."""
        return next((stream for stream in self.by_number.values() if stream.id == request_id), None)

    def count(self, tenant: str) -> Count:
        """The count of one tenant."""
        return self._counts.get(tenant) or Count()

    def total(self) -> Count:
        """The count of all tenants."""
        waiting = sum(count.waiting for count in self._counts.values())
        return Count(waiting, len(self.by_number) - waiting)

    def paused(self) -> dict[str, int]:
        """By tenant, the number of requests with a token but no slot: they gave it up, or lost it in a crash."""
        bound = collections.Counter(
            stream.tenant
            for number in self.bound
            if (stream := self.by_number.get(number)) is not None and stream.generated
        )
        paused = {name: count.running - bound[name] for name, count in self._counts.items()}
        return {name: number for name, number in paused.items() if number}

    def states(self) -> dict[str, str]:
        """By request id: `waiting` (no token yet), `paused` (tokens but no slot) or `running` (tokens and a slot)."""
        return {
            stream.id: "waiting" if not stream.generated else "running" if number in self.bound else "paused"
            for number, stream in self.by_number.items()
        }

    def waiting_tenants(self) -> dict[str, Count]:
        """Tenants with waiting requests."""
        return {name: count for name, count in self._counts.items() if count.waiting}

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
        assert not self.by_number and not self._counts, f"left over: {list(self.by_number)}, {self._counts}"
