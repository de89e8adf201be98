"""Requests and tokens per minute, and places in a queue. Pure, in integers; `now_micros` is from a monotonic clock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from tenantd.domain import Tenant
from tenantd.errors import RequestsPerMinuteExceeded, TenantdError, TokensPerMinuteExceeded
from tenantd.minute import GRAIN_MICROS, WINDOW_MICROS, SlidingWindow


class RateState(NamedTuple):
    """One limit as its tenant sees it. `reset_micros`: time until all of it is available again."""

    limit: int
    remaining: int
    reset_micros: int


@dataclass(slots=True)
class _Windows:
    requests: SlidingWindow = field(default_factory=SlidingWindow)
    tokens: SlidingWindow = field(default_factory=SlidingWindow)


class Rates:
    """What every tenant has used in the last minute.

    Also kept for tenants without a limit, so that a limit set later includes the last minute.
    """

    def __init__(self) -> None:
        self._windows: dict[str, _Windows] = {}

    def book_request(self, tenant: str, now_micros: int) -> None:
        """Count an admitted request."""
        self._of(tenant).requests.book(1, now_micros)

    def book_tokens(self, tenant: str, tokens: int, now_micros: int) -> None:
        """Count tokens of its prompts that were computed, or tokens generated."""
        self._of(tenant).tokens.book(tokens, now_micros)

    def recall(self, tenant: str, *, tokens: int, requests: int, age_micros: int, now_micros: int) -> None:
        """Count what an earlier daemon booked `age_micros` ago. Oldest first, before anything else."""
        windows = self._of(tenant)
        left_micros = WINDOW_MICROS - max(0, age_micros - GRAIN_MICROS)  # the row may be that much older
        windows.tokens.recall([(left_micros, tokens)], now_micros)
        windows.requests.recall([(left_micros, requests)], now_micros)

    def tokens_counting(self, now_micros: int) -> dict[str, list[tuple[int, int]]]:
        """By tenant, the tokens of the last minute: (microseconds until they expire, tokens)."""
        counting = {name: windows.tokens.counting(now_micros) for name, windows in self._windows.items()}
        return {name: tokens for name, tokens in counting.items() if tokens}

    def refusal(self, tenant: Tenant, prompt_tokens: int, now_micros: int) -> TenantdError | None:
        """Why, and how long, one more request with a prompt of this length must wait; None if it need not.

        The limits must allow it eventually: neither is 0, and the prompt is within `tokens_per_minute`.
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
                f"tenant {tenant.name} reached its limit of {limits.requests_per_minute} "
                f"request{'' if limits.requests_per_minute == 1 else 's'} per minute; {again}",
                retry_after_ms=wait_ms,
            )
        return TokensPerMinuteExceeded(
            f"tenant {tenant.name} has used {windows.tokens.used(now_micros)} of its {limits.tokens_per_minute} tokens "
            f"per minute and the prompt has {prompt_tokens}; {again}",
            retry_after_ms=wait_ms,
        )

    def states(self, tenant: Tenant, now_micros: int) -> dict[str, RateState]:
        """The tenant's limits, by what they count: "requests", "tokens"."""
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
        """Forget all other tenants."""
        self._windows = {name: windows for name, windows in self._windows.items() if name in tenants}

    def rename(self, tenant: str, new_name: str) -> None:
        """It is called otherwise from now on; its last minute goes with it."""
        if (windows := self._windows.pop(tenant, None)) is not None:
            self._windows[new_name] = windows

    def forget(self, tenant: str) -> None:
        """Forget a removed tenant; another may get its name."""
        self._windows.pop(tenant, None)

    def _of(self, tenant: str) -> _Windows:
        return self._windows.setdefault(tenant, _Windows())


class Leases:
    """Places in every tenant's queue, in order of arrival. Release each lease by its number, once, in a `finally`."""

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
        """The lease whose turn it is."""
        line = self._lines.get(tenant)
        return next(iter(line)) if line else None

    def places(self, tenant: str) -> int:
        """Places taken by all leases of a tenant."""
        return self._counts.get(tenant, 0)

    @property
    def total_places(self) -> int:
        """Places taken by all tenants."""
        return sum(self._counts.values())

    def __len__(self) -> int:
        return len(self._tenants)
