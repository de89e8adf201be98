"""What administrators change, put into force in the running daemon."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from tenantd.domain import Tenant
from tenantd.errors import LedgerUnavailable, QueueFull
from tenantd.fleet.replica import Replica
from tenantd.ledger.ledger import Ledger
from tenantd.serving.admission import changed_hands, renamed
from tenantd.serving.allowances import Allowances
from tenantd.serving.attempts import Attempts
from tenantd.serving.gate import Gate
from tenantd.serving.kept_responses import KeptResponses
from tenantd.serving.own import cancel_whole
from tenantd.serving.permissions import Permissions
from tenantd.serving.rows import RequestRows
from tenantd.serving.system_prompts import check_fits
from tenantd.serving.waits import Waits
from tenantd.tenancy.directory import Directory
from tenantd.tenancy.key_uses import KeyUses
from tenantd.tenancy.rates import Rates
from tenantd.text.chat import ChatFormatter
from tenantd.text.pool import TextPool
from tenantd.wire.messages import TenantPolicy

log = logging.getLogger(__name__)

RELOAD_INTERVAL_S: Final = 1.0


class Changes:
    """Tenants, keys and budgets as they are in the ledger now, told to all who need to know."""

    def __init__(
        self,
        ledger: Ledger,
        directory: Directory,
        replica: Replica,
        rows: RequestRows,
        *,
        rates: Rates,
        gate: Gate,
        permissions: Permissions,
        attempts: Attempts,
        responses: KeptResponses,
        budgets: Allowances,
        key_uses: KeyUses,
        waits: Waits,
        shares: Callable[[], list[TenantPolicy]],
        chat: ChatFormatter,
        pool: TextPool,
        on_tenants: Callable[[Iterable[str]], None] | None,
    ) -> None:
        """`shares` gives the tenants' parts of the engine as they are now. `on_tenants` hears all names whenever
        tenants have changed: first without those that are new or changed hands."""
        self._ledger, self._directory, self._replica, self._rows = ledger, directory, replica, rows
        self._rates, self._gate, self._permissions = rates, gate, permissions
        self._attempts, self._budgets, self._key_uses, self._waits = attempts, budgets, key_uses, waits
        self._responses = responses
        self._shares, self._on_tenants = shares, on_tenants
        self._chat, self._pool = chat, pool
        self._reloading: asyncio.Task[None] | None = None  # while a change is committed but cannot be read

    async def close(self) -> None:
        """Stop trying to read what could not be read."""
        if self._reloading is not None:
            self._reloading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reloading
            self._reloading = None

    async def tenants_changed(self) -> None:
        """Reload tenants, tell the engine, end what may not run.

        Raises LedgerUnavailable or QueueFull if they cannot be read now. Then nothing has changed yet, and it is tried
        again every second until it works.
        """
        try:
            await self._reload()
        except (LedgerUnavailable, QueueFull) as e:
            if self._reloading is None or self._reloading.done():
                log.error("cannot read the tenants; trying again every second: %s", e.message)
                self._reloading = asyncio.create_task(self._reload_at_last())
            raise

    async def budgets_changed(self) -> None:
        """Reload budgets and prices, and end what may not run. Raises as `tenants_changed` does."""
        await self.tenants_changed()

    async def _reload(self) -> None:
        self._tenants_are_new_since(await self._directory.reload(self._ledger))
        await self._budgets.reload()

    async def _reload_at_last(self) -> None:
        while True:
            await asyncio.sleep(RELOAD_INTERVAL_S)
            with contextlib.suppress(LedgerUnavailable, QueueFull):
                await self._reload()
                log.warning("the tenants were read again, and their changes are in force")
                return

    def tenant_removed(self, tenant_id: int | None) -> None:
        """End the requests of a tenant whose removal is committed, and forget it."""
        before = self._directory.tenants
        self._directory.remove(tenant_id)
        self._tenants_are_new_since(before)

    def tenant_forgotten(self, tenant_id: int) -> None:
        """Forget the responses that are kept for a tenant."""
        self._responses.forget_all(tenant_id)

    def tenant_suspended(self, tenant_id: int | None) -> None:
        """Admit no more requests of a tenant whose suspension is committed."""
        before = self._directory.tenants
        self._directory.suspend(tenant_id)
        self._tenants_are_new_since(before)

    def _tenants_are_new_since(self, before: Mapping[str, Tenant]) -> None:
        after = self._directory.tenants
        moved = renamed(before, after)
        for old, name in moved:
            self._rates.rename(old, name)
        self._rates.keep(after.keys())
        self._attempts.tenants_are(after)
        self._responses.tenants_are(after)
        self._replica.served.keep({tenant.id for tenant in after.values()})
        self._key_uses.forget_unless(self._directory.has_key)
        self._permissions.enforce()
        kept = {name for _, name in moved}
        names = changed_hands(before, after)
        if self._on_tenants is not None:
            self._on_tenants(after.keys() - names)
            self._on_tenants(after)
        for name in names:
            if name not in kept:
                self._rates.forget(name)  # with what was booked for the last tenant of this name after its removal
            self._replica.forget(name)
            self._waits.forget(name)
        self.limits_changed()

    def limits_changed(self) -> None:
        """Tell the engine, and let those that wait for their limits look again."""
        for share in self._shares():
            self._replica.supervisor.send(share)
        self._gate.wake()

    def has_requests(self, tenant: str) -> bool:
        """Whether requests under this name are live, wait for its limits per minute, or are not settled yet."""
        return self._rows.has(tenant) or bool(self._gate.waiting(tenant))

    def key_revoked(self, key_id: str) -> None:
        """End the requests of a key whose revocation is committed, and admit no new ones."""
        self._directory.revoke(key_id)
        self._gate.wake()
        self._permissions.enforce()

    def cancel(self, request_id: str) -> bool:
        """Cancel a live request, with all its choices, for an administrator; generated tokens are billed. False if
        there is none."""
        if stream := self._replica.live.find(request_id):
            cancel_whole(self._replica, stream, "an administrator cancelled the request")
        return stream is not None

    async def check_system_prompt(self, text: str) -> None:
        """Raises InvalidRequest if a chat with this system prompt does not fit the context, if that is known, or cannot
        show it."""
        info = self._replica.supervisor.info
        await check_fits(text, self._chat, self._pool, None if info is None else info.context_tokens)
