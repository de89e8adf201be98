"""Requests and tokens per minute, and places in a line. Pure, in integers; the clock is an argument.

`now_micros` is a monotonic clock's. Should it go backwards all the same, time stands still here until it goes on;
should it jump ahead, so much time has passed.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tenantd.domain import Tenant
from tenantd.errors import RequestsPerMinuteExceeded, TenantdError, TokensPerMinuteExceeded

WINDOW_MICROS: Final = 60_000_000
GRAIN_MICROS: Final = 100_000
"""What was booked within one grain of time is kept as one number, so a window is at most 601 numbers."""


class SlidingWindow:
    """How much was booked in the last minute.

    A grain counts until all of it is a minute old. So when every booking waited for `wait_micros` to be 0, no
    60 seconds hold more than the limit, wherever they begin.
    """

    def __init__(self) -> None:
        self._grains: deque[list[int]] = deque()  # [the moment it no longer counts, amount], oldest first
        self._sum = 0
        self._now_micros = 0  # time that has passed here since the first reading
        self._clock_micros: int | None = None

    def book(self, amount: int, now_micros: int) -> None:
        """Count it from now on."""
        self._pass_time(now_micros)
        ends_micros = (self._now_micros // GRAIN_MICROS + 1) * GRAIN_MICROS + WINDOW_MICROS
        if self._grains and self._grains[-1][0] == ends_micros:
            self._grains[-1][1] += amount
        elif amount:
            self._grains.append([ends_micros, amount])
        self._sum += amount

    def used(self, now_micros: int) -> int:
        """What counts now."""
        self._pass_time(now_micros)
        return self._sum

    def wait_micros(self, amount: int, limit: int, now_micros: int) -> int:
        """How long until `amount` more is within `limit`, if nothing else is booked meanwhile; 0: it is now."""
        assert amount <= limit, "what is over the limit by itself never fits"
        counting = self.used(now_micros) + amount
        if counting <= limit:
            return 0
        for ends_micros, booked in self._grains:
            counting -= booked
            if counting <= limit:
                return ends_micros - self._now_micros
        raise AssertionError("when nothing counts any more, there is room")

    def reset_micros(self, now_micros: int) -> int:
        """How long until nothing counts any more."""
        self._pass_time(now_micros)
        return self._grains[-1][0] - self._now_micros if self._grains else 0

    def counting(self, now_micros: int) -> list[tuple[int, int]]:
        """What counts now: (microseconds until it no longer does, amount), in that order."""
        self._pass_time(now_micros)
        return [(ends_micros - self._now_micros, amount) for ends_micros, amount in self._grains]

    def recall(self, amount: int, age_micros: int, now_micros: int) -> None:
        """Count what was booked `age_micros` ago, elsewhere. The oldest first, and before anything is booked here."""
        self._pass_time(now_micros)
        left_micros = WINDOW_MICROS + GRAIN_MICROS - age_micros
        if amount and left_micros > 0:
            ends_micros = self._now_micros + left_micros
            assert not self._grains or self._grains[-1][0] <= ends_micros, "the oldest first"
            self._grains.append([ends_micros, amount])
            self._sum += amount

    def _pass_time(self, now_micros: int) -> None:
        if self._clock_micros is not None:
            self._now_micros += max(0, now_micros - self._clock_micros)
        self._clock_micros = now_micros
        while self._grains and self._grains[0][0] <= self._now_micros:
            self._sum -= self._grains.popleft()[1]


class RateState(NamedTuple):
    """One limit as its tenant sees it. `reset_micros`: until all of it is there again."""

    limit: int
    remaining: int
    reset_micros: int


@dataclass(slots=True)
class _Windows:
    requests: SlidingWindow = field(default_factory=SlidingWindow)
    tokens: SlidingWindow = field(default_factory=SlidingWindow)


class Rates:
    """What every tenant has used in the last minute.

    It is kept for tenants without a limit too, so that a limit set later counts the minute before it.
    """

    def __init__(self) -> None:
        self._windows: dict[str, _Windows] = {}

    def book_request(self, tenant: str, now_micros: int) -> None:
        """One was let in."""
        self._of(tenant).requests.book(1, now_micros)

    def book_tokens(self, tenant: str, tokens: int, now_micros: int) -> None:
        """So many were computed of its prompts, or generated."""
        self._of(tenant).tokens.book(tokens, now_micros)

    def recall(self, tenant: str, *, tokens: int, requests: int, age_micros: int, now_micros: int) -> None:
        """What was booked `age_micros` ago, by a daemon before this one. The oldest first, before all else."""
        windows = self._of(tenant)
        windows.tokens.recall(tokens, age_micros, now_micros)
        windows.requests.recall(requests, age_micros, now_micros)

    def tokens_counting(self, now_micros: int) -> dict[str, list[tuple[int, int]]]:
        """Of every tenant that was given any in the last minute: (microseconds until they no longer count, tokens)."""
        counting = {name: windows.tokens.counting(now_micros) for name, windows in self._windows.items()}
        return {name: tokens for name, tokens in counting.items() if tokens}

    def refusal(self, tenant: Tenant, prompt_tokens: int, now_micros: int) -> TenantdError | None:
        """Why one more request with so long a prompt has to wait, and how long; None when it need not.

        The limits must allow it at some time: neither is 0, nor is the prompt over `tokens_per_minute` by itself.
        """
        limits, windows = tenant.limits, self._of(tenant.name)
        for_request = for_tokens = 0
        if limits.requests_per_minute is not None:
            for_request = windows.requests.wait_micros(1, limits.requests_per_minute, now_micros)
        if limits.tokens_per_minute is not None:
            for_tokens = windows.tokens.wait_micros(prompt_tokens, limits.tokens_per_minute, now_micros)
        wait_ms = -(-max(for_request, for_tokens) // 1000)
        if not wait_ms:
            return None
        again = f"try again in {-(-wait_ms // 1000)} s"
        if for_request >= for_tokens:
            return RequestsPerMinuteExceeded(
                f"tenant {tenant.name} reached its limit of {limits.requests_per_minute} requests per minute; {again}",
                retry_after_ms=wait_ms,
            )
        return TokensPerMinuteExceeded(
            f"tenant {tenant.name} has used {windows.tokens.used(now_micros)} of its {limits.tokens_per_minute} tokens "
            f"per minute and the prompt has {prompt_tokens}; {again}",
            retry_after_ms=wait_ms,
        )

    def states(self, tenant: Tenant, now_micros: int) -> dict[str, RateState]:
        """The limits the tenant has, by what they count: "requests", "tokens"."""
        windows = self._of(tenant.name)
        limits = {
            "requests": (tenant.limits.requests_per_minute, windows.requests),
            "tokens": (tenant.limits.tokens_per_minute, windows.tokens),
        }
        return {
            what: RateState(limit, max(0, limit - window.used(now_micros)), window.reset_micros(now_micros))
            for what, (limit, window) in limits.items()
            if limit is not None
        }

    def keep(self, tenants: Collection[str]) -> None:
        """Forget all others."""
        self._windows = {name: windows for name, windows in self._windows.items() if name in tenants}

    def _of(self, tenant: str) -> _Windows:
        return self._windows.setdefault(tenant, _Windows())


class Leases:
    """Places in every tenant's line, in order of arrival. A lease is given back by its number, once, in a `finally`."""

    def __init__(self) -> None:
        self._lines: dict[str, OrderedDict[int, int]] = {}  # the places of each lease
        self._counts: dict[str, int] = {}
        self._tenants: dict[int, str] = {}
        self._number = 0

    def take(self, tenant: str, places: int) -> int:
        """The number of a new lease, behind all others of its tenant."""
        self._number += 1
        self._tenants[self._number] = tenant
        self._lines.setdefault(tenant, OrderedDict())[self._number] = places
        self._counts[tenant] = self._counts.get(tenant, 0) + places
        return self._number

    def release(self, lease: int) -> None:
        """Raises KeyError for one that is not held: a bug."""
        tenant = self._tenants.pop(lease)
        line = self._lines[tenant]
        self._counts[tenant] -= line.pop(lease)
        if not line:
            del self._lines[tenant], self._counts[tenant]

    def first(self, tenant: str) -> int | None:
        """Whose turn it is."""
        line = self._lines.get(tenant)
        return next(iter(line)) if line else None

    def places(self, tenant: str) -> int:
        """Taken by all of its leases."""
        return self._counts.get(tenant, 0)

    @property
    def total_places(self) -> int:
        """Of all tenants."""
        return sum(self._counts.values())

    def __len__(self) -> int:
        return len(self._tenants)
