"""Limits the memory for request bodies: a total limit, and a fair share of it for each owner.

Memory is granted before a body's bytes are read and returned when nothing refers to them any more. Until it is granted,
the client's data stays in the kernel's buffer. An owner is a tenant, or a Unix user if the tenant is not known.

One owner can hold at most half, so that there is room for a second one. When memory runs out, the owner with the most
must return some: its newest unfinished body is refused. No owner loses a body to one that would then hold more, so an
owner within its equal share is never refused because of others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from tenantd.config import ServerConfig
from tenantd.errors import BodyMemoryFull, TooManyBodyBytes

MOST_WAITING: Final = 16
"""Bodies of one owner that may wait for memory. Each can buffer a few hundred kilobytes before it is paused."""
ALWAYS_BYTES: Final = 1 << 20
"""Memory that an owner always gets at once, however much others hold."""
RETRY_S: Final = 1


class Lease:
    """Memory granted to one body. `refusal` is set if it is revoked before the body is complete."""

    def __init__(self, budget: BodyBudget, owner: str, on_refused: Callable[[], None]) -> None:
        """`on_refused` is called once, when `refusal` is set."""
        self.owner = owner
        self.held_bytes = 0
        self.refusal: BodyMemoryFull | None = None
        self.on_refused = on_refused
        self.is_widened = False
        self._budget = budget

    async def grow(self, more_bytes: int, timeout_s: float) -> None:
        """Get `more_bytes`. Waits until the owner's own bodies, or complete bodies of others, return enough memory.

        Raises TooManyBodyBytes if too many of the owner's bodies already wait, or after `timeout_s`.
        """
        await self._budget.grow(self, more_bytes, timeout_s)

    def complete(self) -> None:
        """Mark the body as complete; from now on it cannot be refused."""
        self._budget.complete(self)

    async def have_widened(self, timeout_s: float) -> None:
        """Wait for this body's turn to be decoded into wide characters. Raises TooManyBodyBytes after `timeout_s`."""
        await self._budget.widen(self, timeout_s)

    def give_back(self) -> None:
        """Return the memory, because nothing refers to the body any more. Safe to call twice."""
        self._budget.give_back(self)


class _Waiting(NamedTuple):
    lease: Lease
    more_bytes: int
    granted: asyncio.Future[None]


class _Account:
    """One owner's leases."""

    def __init__(self) -> None:
        self.held_bytes = 0
        self.unfinished: dict[Lease, None] = {}  # oldest first
        self.waiting: deque[_Waiting] = deque()

    @property
    def is_empty(self) -> bool:
        return not (self.held_bytes or self.unfinished or self.waiting)


class BodyBudget:
    """Enforces the limits. Call it only in the event loop."""

    def __init__(self, settings: Callable[[], ServerConfig]) -> None:
        """`settings` is called each time, because `body_bytes_total` can be reloaded."""
        self._settings = settings
        self._accounts: dict[str, _Account] = {}
        self._widening = asyncio.Lock()
        self.held_bytes = 0

    @property
    def total_bytes(self) -> int:
        """Limit for all bodies together: as configured, but at least one body of the maximum size."""
        server = self._settings()
        return max(server.body_bytes_total, server.max_body_bytes)

    @property
    def share_bytes(self) -> int:
        """Limit for one owner."""
        return max(self.total_bytes // 2, self._settings().max_body_bytes)

    @property
    def most_bytes(self) -> int:
        """What an owner that holds nothing gets, now or later."""
        return max(self.share_bytes, ALWAYS_BYTES)

    def check_waiting(self, owner: str) -> None:
        """Refuse to begin what will need memory, while much of its owner already waits. Raises TooManyBodyBytes."""
        if (account := self._accounts.get(owner)) is not None and len(account.waiting) >= MOST_WAITING // 2:
            raise self._too_many(owner)

    def lease(self, owner: str, on_refused: Callable[[], None]) -> Lease:
        """A lease of 0 bytes for a body that is about to be read."""
        return Lease(self, owner, on_refused)

    async def grow(self, lease: Lease, more_bytes: int, timeout_s: float) -> None:
        """See Lease.grow."""
        account = self._accounts.setdefault(lease.owner, _Account())
        if not account.waiting and self._has_room(lease, more_bytes):
            self._grant(lease, more_bytes)
            return
        if len(account.waiting) >= MOST_WAITING:
            raise self._too_many(lease.owner)
        entry = _Waiting(lease, more_bytes, asyncio.get_running_loop().create_future())
        account.waiting.append(entry)
        try:
            async with asyncio.timeout(timeout_s):
                await entry.granted
        except BaseException as e:
            if entry in account.waiting:
                account.waiting.remove(entry)
            self.give_back(lease)
            raise self._too_many(lease.owner) if isinstance(e, TimeoutError) else e from None

    def complete(self, lease: Lease) -> None:
        """See Lease.complete."""
        if (account := self._accounts.get(lease.owner)) is not None:
            account.unfinished.pop(lease, None)

    async def widen(self, lease: Lease, timeout_s: float) -> None:
        """See Lease.have_widened."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._widening.acquire()
        except TimeoutError:
            raise self._too_many(lease.owner) from None
        lease.is_widened = True

    def give_back(self, lease: Lease) -> None:
        """See Lease.give_back."""
        if lease.is_widened:
            lease.is_widened = False
            self._widening.release()
        if lease.held_bytes:
            self._take_back(lease)
            self._serve_waiting()
        self._forget_if_empty(lease.owner)

    def _has_room(self, lease: Lease, more_bytes: int) -> bool:
        """Whether `more_bytes` fit now. To make room, refuses unfinished bodies of owners that hold more than this one
        would."""
        wanted = self._accounts[lease.owner].held_bytes + more_bytes
        if wanted <= ALWAYS_BYTES:
            return True
        if wanted > self.share_bytes:
            return False
        while self.held_bytes + more_bytes > self.total_bytes:
            richer = [
                account for account in self._accounts.values() if account.unfinished and account.held_bytes > wanted
            ]
            if not richer:
                return False
            self._refuse(next(reversed(max(richer, key=lambda account: account.held_bytes).unfinished)))
        return True

    def _grant(self, lease: Lease, more_bytes: int) -> None:
        account = self._accounts[lease.owner]
        account.unfinished.setdefault(lease)
        account.held_bytes += more_bytes
        lease.held_bytes += more_bytes
        self.held_bytes += more_bytes

    def _refuse(self, lease: Lease) -> None:
        self._take_back(lease)
        lease.refusal = BodyMemoryFull(
            "the memory for request bodies (server.body_bytes_total) is needed for other tenants; "
            "send fewer or smaller requests at a time",
            retry_after_s=RETRY_S,
        )
        lease.on_refused()

    def _take_back(self, lease: Lease) -> None:
        account = self._accounts[lease.owner]
        account.unfinished.pop(lease, None)
        account.held_bytes -= lease.held_bytes
        self.held_bytes -= lease.held_bytes
        lease.held_bytes = 0

    def _serve_waiting(self) -> None:
        """Grant what fits by now, to the owner with the least first."""
        for account in sorted(self._accounts.values(), key=lambda account: account.held_bytes):
            while account.waiting and self._has_room(account.waiting[0].lease, account.waiting[0].more_bytes):
                lease, more_bytes, granted = account.waiting.popleft()
                if not granted.done() and lease.refusal is None:
                    self._grant(lease, more_bytes)
                    granted.set_result(None)

    def _forget_if_empty(self, owner: str) -> None:
        account = self._accounts.get(owner)
        if account is not None and account.is_empty:
            del self._accounts[owner]

    @staticmethod
    def _too_many(owner: str) -> TooManyBodyBytes:
        return TooManyBodyBytes(
            f"{owner} sends too much at a time: wait for answers, or send smaller requests",
            retry_after_s=RETRY_S,
        )
