"""Ends what may not run any more: requests of removed tenants, and of keys that were revoked or have expired."""

from __future__ import annotations

import asyncio
from typing import Final

from tenantd.domain import FinishReason
from tenantd.errors import TenantdError
from tenantd.fleet.replica import Replica
from tenantd.serving.admission import as_it_is
from tenantd.serving.gate import Gate
from tenantd.tenancy.directory import Directory

KEYS_INTERVAL_S: Final = 0.25
"""How often to look whether keys have expired, so that what runs with them ends within a second."""


class Permissions:
    """Looks at all that is live, whenever what is allowed may have changed."""

    def __init__(self, directory: Directory, replica: Replica, gate: Gate) -> None:
        self._directory = directory
        self._replica = replica
        self._gate = gate

    def enforce(self) -> None:
        """End what may not run."""
        for stream in self._replica.live:
            try:
                as_it_is(self._directory, stream.tenant, stream.tenant_id, stream.actor.key_id)
            except TenantdError as e:
                self._replica.end(stream, FinishReason.CANCELLED, e)

    async def watch_keys(self) -> None:
        """End what runs with a key when the key's end comes. Runs until cancelled."""
        seen: tuple[int, int] | None = None
        while True:
            await asyncio.sleep(KEYS_INTERVAL_S)
            if (ended := self._directory.keys_ended()) != seen:
                self._gate.wake()
                self.enforce()
                seen = ended
