"""Applies a tenant's limits per minute to its requests, and lets them wait if the tenant is set to queue.

A waiting request is not live yet: it has no row in the ledger and nothing in the engine. A tenant's requests are
admitted one by one in order of arrival; only the first checks the limits, the others wait for the one before them.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from typing import NamedTuple

from tenantd.domain import OnLimit, Tenant
from tenantd.errors import RequestTimeout, TenantdError, TokensPerMinuteExceeded
from tenantd.tenancy.rates import Leases, Rates, RateState

AHEAD_RETRY_S = 1


class Deadline(NamedTuple):
    """When a request with a `timeout_s` must be complete, by the service's clock."""

    timeout_s: float
    at_s: float

    def error(self) -> RequestTimeout:
        return RequestTimeout(f"the request was not complete within its timeout_s of {self.timeout_s:g} s")


class Gate:
    """Keeps the places of waiting requests. `clock_s` is monotonic."""

    def __init__(self, rates: Rates, clock_s: Callable[[], float]) -> None:
        self._rates = rates
        self._clock_s = clock_s
        self._leases = Leases()
        self._woken: dict[int, asyncio.Event] = {}  # of each lease

    def refusal(self, tenant: Tenant, prompt_tokens: int, lease: int | None = None) -> TenantdError | None:
        """Why a request cannot be admitted now: the limits, or requests before it. `lease` is its place, if any."""
        first = self._leases.first(tenant.name)
        refusal = self._rates.refusal(tenant, prompt_tokens, self._now_micros())
        if refusal is None and tenant.limits.on_limit is OnLimit.QUEUE and first not in (None, lease):
            # Each counts as one request, so only tokens can hold back the first one but not this one.
            return TokensPerMinuteExceeded(
                f"earlier requests of tenant {tenant.name} are waiting for its tokens per minute",
                retry_after_s=AHEAD_RETRY_S,
            )
        return refusal

    def book(self, tenant: Tenant) -> None:
        """Count one admitted request. Its tokens are counted as they are computed."""
        self._rates.book_request(tenant.name, self._now_micros())

    def book_tokenless(self, tenant: Tenant) -> None:
        """Count a request without tokens, such as an answer that is given again. It never waits, whatever the tenant's
        requests do. Raises RequestsPerMinuteExceeded."""
        if (refusal := self._rates.refusal(tenant, 0, self._now_micros())) is not None:
            raise refusal
        self.book(tenant)

    async def wait(
        self,
        tenant: Tenant,
        prompt_tokens: int,
        places: int,
        deadline: Deadline | None,
        look_again: Callable[[], Tenant],
    ) -> Tenant:
        """Wait until the request can be admitted, and return the tenant as it is then. The caller must book it at once.

        `look_again` returns the current tenant, or raises if the request may no longer run. Raises the refusal after
        `max_wait_s`, RequestTimeout at the deadline.
        """
        came_s = self._clock_s()
        lease = self._leases.take(tenant.name, places)
        woken = self._woken[lease] = asyncio.Event()
        try:
            while (refusal := self.refusal(tenant, prompt_tokens, lease)) is not None:
                patience_s = self._patience_s(tenant, came_s, deadline)
                if patience_s <= 0 or tenant.limits.on_limit is OnLimit.REJECT:
                    raise refusal
                if self._leases.first(tenant.name) == lease:
                    assert refusal.retry_after_ms is not None, "the first waits for the limits, which end"
                    patience_s = min(patience_s, refusal.retry_after_ms / 1000)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if math.isinf(patience_s) else patience_s):
                        await woken.wait()
                woken.clear()
                tenant = look_again()
            return tenant
        finally:
            del self._woken[lease]
            self._leases.release(lease)
            if (first := self._leases.first(tenant.name)) is not None:
                self._woken[first].set()

    def _patience_s(self, tenant: Tenant, came_s: float, deadline: Deadline | None) -> float:
        """How much longer a request that came at `came_s` may wait. Raises RequestTimeout."""
        now_s = self._clock_s()
        patience_s = math.inf
        if tenant.limits.max_wait_s is not None:
            patience_s = came_s + tenant.limits.max_wait_s - now_s
        if deadline is not None:
            if now_s >= deadline.at_s:
                raise deadline.error()
            patience_s = min(patience_s, deadline.at_s - now_s)
        return patience_s

    def wake(self) -> None:
        """Make all waiting requests check again, because something has changed."""
        for woken in self._woken.values():
            woken.set()

    def waiting(self, tenant: str) -> int:
        """Places taken by requests of one tenant."""
        return self._leases.places(tenant)

    @property
    def total_waiting(self) -> int:
        """Places taken by requests of all tenants."""
        return self._leases.total_places

    def states(self, tenant: Tenant) -> dict[str, RateState]:
        """What is left of the tenant's limits."""
        return self._rates.states(tenant, self._now_micros())

    def idle_check(self) -> None:
        """Invariant while nothing waits: no place is taken. Raises AssertionError."""
        assert not self._leases and not self._woken, f"left over: {len(self._leases)} places"

    def _now_micros(self) -> int:
        return round(self._clock_s() * 1e6)
