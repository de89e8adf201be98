"""Responses that can be shown again and continued, in memory. They never touch the disk.

Every tenant has the same memory for its own. What one keeps does not push out what another keeps, and an id of another
tenant is as unknown as one that nobody has.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from tenantd.domain import Tenant

OVERHEAD_BYTES: Final = 1024
"""What a response takes besides its parts, at most."""
SWEEP_S: Final = 60.0


class KeptResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A response as JSON: its `body`, what it answers (`input_items`), and all messages up to its end (`conversation`).
    `kept_s` is when it was kept, by a monotonic clock."""

    id: str
    body: bytes
    input_items: bytes
    conversation: bytes
    kept_s: float

    @property
    def size_bytes(self) -> int:
        """What it takes in memory."""
        return size_of(self.body, self.input_items, self.conversation)


def number_of(tenant: Tenant) -> int:
    """What its responses are kept under."""
    return tenant.id or 0  # without one it is none of the ledger's


def size_of(*parts: bytes) -> int:
    """What a response with these parts takes in memory."""
    return OVERHEAD_BYTES + sum(map(len, parts))


class _Account:
    """One tenant's responses by id, the oldest first; `held_bytes` also counts those that are not complete yet."""

    def __init__(self) -> None:
        self.responses: OrderedDict[str, KeptResponse] = OrderedDict()
        self.held_bytes = 0

    def make_room(self, more_bytes: int, share_bytes: int) -> bool:
        """Forget the oldest until `more_bytes` fit. False if they never do."""
        if more_bytes > share_bytes:
            return False
        while self.held_bytes + more_bytes > share_bytes and self.responses:
            self.forget(next(iter(self.responses)))
        return self.held_bytes + more_bytes <= share_bytes

    def forget(self, response_id: str) -> None:
        self.held_bytes -= self.responses.pop(response_id).size_bytes


class KeptResponses:
    """All tenants' responses. Call it only in the event loop, but for `find`, which any thread may call."""

    def __init__(self, share_bytes: int, keep_s: float, clock_s: Callable[[], float]) -> None:
        """Each tenant's take at most `share_bytes`, each for `keep_s`. `clock_s` is monotonic."""
        self._share_bytes = share_bytes
        self._keep_s = keep_s
        self._clock_s = clock_s
        self._accounts: dict[int, _Account] = {}

    @property
    def held_bytes(self) -> int:
        """By all tenants together."""
        return sum(account.held_bytes for account in self._accounts.values())

    def tenants_are(self, tenants: Mapping[str, Tenant]) -> None:
        """These tenants exist from now on. Forgets the responses of others."""
        before = self._accounts
        self._accounts = {number_of(one): before.get(number_of(one)) or _Account() for one in tenants.values()}

    def forget_all(self, tenant_id: int) -> None:
        """Forget those of one tenant."""
        if (account := self._accounts.get(tenant_id)) is not None:
            for response_id in list(account.responses):
                account.forget(response_id)

    def find(self, tenant_id: int, response_id: str) -> KeptResponse | None:
        """The response of this tenant with this id."""
        account = self._accounts.get(tenant_id)
        found = None if account is None else account.responses.get(response_id)
        return found if found is not None and self._is_fresh(found) else None

    def forget(self, tenant_id: int, response_id: str) -> bool:
        """Forget one of a tenant's. False if there is none with this id."""
        if self.find(tenant_id, response_id) is None:
            return False
        self._accounts[tenant_id].forget(response_id)
        return True

    def reserve(self, tenant_id: int, more_bytes: int) -> Room | None:
        """Room for one that is being made, if need be at the cost of the tenant's oldest. None if it can have none."""
        account = self._accounts.get(tenant_id)
        if account is None or self._keep_s <= 0 or not account.make_room(more_bytes, self._share_bytes):
            return None
        account.held_bytes += more_bytes
        return Room(self, account, more_bytes)

    def keep(self, account: _Account, room_bytes: int, response: KeptResponse) -> bool:
        """Keep what `room_bytes` were reserved for. False if there is no room for the rest of it."""
        is_there = any(account is one for one in self._accounts.values())  # its tenant may have been removed
        more_bytes = response.size_bytes - room_bytes
        if not is_there or not account.make_room(more_bytes, self._share_bytes):
            return False
        account.held_bytes += more_bytes
        account.responses[response.id] = response
        return True

    def now_s(self) -> float:
        """The clock that `kept_s` is by."""
        return self._clock_s()

    async def sweep(self) -> None:
        """Forget old ones now and then. Runs until cancelled."""
        while True:
            self.forget_old()
            await asyncio.sleep(SWEEP_S)

    def forget_old(self) -> None:
        """Forget those that were kept for long enough."""
        for account in self._accounts.values():
            while account.responses and not self._is_fresh(next(iter(account.responses.values()))):
                account.forget(next(iter(account.responses)))

    def _is_fresh(self, response: KeptResponse) -> bool:
        return self._clock_s() - response.kept_s < self._keep_s


class Room:
    """Room for one response while it is made."""

    def __init__(self, responses: KeptResponses, account: _Account, held_bytes: int) -> None:
        self._responses = responses
        self._account = account
        self._held_bytes = held_bytes

    def keep(self, response_id: str, body: bytes, input_items: bytes, conversation: bytes) -> bool:
        """Keep it. False if it is too large after all, or its tenant is gone. The room is used up or given back."""
        kept = KeptResponse(
            id=response_id,
            body=body,
            input_items=input_items,
            conversation=conversation,
            kept_s=self._responses.now_s(),
        )
        if self._responses.keep(self._account, self._held_bytes, kept):
            self._held_bytes = 0
            return True
        self.give_back()
        return False

    def give_back(self) -> None:
        """It is not kept. Safe to call twice."""
        self._account.held_bytes -= self._held_bytes
        self._held_bytes = 0
