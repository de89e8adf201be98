"""What is done about an anomaly: it is announced, logged, recorded, and the tenant is throttled or suspended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Final

from tenantd.domain import WATCH, OnAnomaly, Tenant
from tenantd.errors import InvalidRequest, NotFound, TenantdError
from tenantd.events import AnomalyFound, Events
from tenantd.tenancy.administration import Administration
from tenantd.tenancy.directory import Directory
from tenantd.watching.scores import THRESHOLD, Anomaly, explain

log = logging.getLogger(__name__)

RETRY_S: Final = 5.0
MOST_NOT_FOUND: Final = 12
"""How often a tenant that the daemon knows may be missing in the ledger: the daemon reads it again within seconds."""
_DONE: Final[Mapping[OnAnomaly, str]] = {
    OnAnomaly.LOG: "nothing is done about it",
    OnAnomaly.THROTTLE: "it gets an eighth of its weight until you run: tenantctl anomalies clear {tenant}",
    OnAnomaly.SUSPEND: "it is suspended until you run: tenantctl tenant resume {tenant}",
}


class Reactions:
    """Reacts in the event loop in which it was made."""

    def __init__(self, events: Events, directory: Directory, administration: Administration) -> None:
        self._events = events
        self._directory = directory
        self._administration = administration
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def found(self, tenant_id: int, anomaly: Anomaly) -> None:
        """React to an anomaly. Safe in any thread; returns at once."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the next daemon finds it again
            self._loop.call_soon_threadsafe(self._react, tenant_id, anomaly)

    async def close(self) -> None:
        """Give up what could not be done yet."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _react(self, tenant_id: int, anomaly: Anomaly) -> None:
        tenant = self._find(tenant_id)
        if tenant is None:
            return  # it was removed
        event = AnomalyFound(
            tenant=tenant.name,
            tenant_id=tenant_id,
            requests=anomaly.requests,
            score=anomaly.score,
            threshold=THRESHOLD,
            deviations=anomaly.deviations,
            action=tenant.on_anomaly,
        )
        self._events.announce(event)
        log.warning(
            "tenant %s may be copying the model: %s; %s",
            tenant.name,
            "; ".join(explain(anomaly.deviations)),
            _DONE[tenant.on_anomaly].format(tenant=tenant.name),
        )
        task = self._loop.create_task(self._act(event))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _act(self, event: AnomalyFound) -> None:
        await self._at_last(event, OnAnomaly.LOG)
        if event.action is not OnAnomaly.LOG:
            await self._at_last(event, event.action)

    async def _at_last(self, event: AnomalyFound, action: OnAnomaly) -> None:
        """Do it, again and again while the ledger cannot be written. What can never be done is logged and given up."""
        not_found = 0
        while (tenant := self._find(event.tenant_id)) is not None:
            try:
                if action is OnAnomaly.LOG:
                    await self._administration.record_anomaly(event)
                elif action is OnAnomaly.THROTTLE:
                    await self._administration.throttle(WATCH, tenant.name)
                else:
                    await self._administration.suspend(WATCH, tenant.name)
                return
            except (NotFound, InvalidRequest) as e:
                not_found += isinstance(e, NotFound)  # it was removed or renamed, and that is not read again yet
                if isinstance(e, InvalidRequest) or not_found >= MOST_NOT_FOUND:
                    log.error("gave up acting on an anomaly of tenant %s: %s", tenant.name, e.message)
                    return
            except TenantdError as e:
                log.error("cannot act on an anomaly of tenant %s yet: %s", tenant.name, e.message)
            await asyncio.sleep(RETRY_S)

    def _find(self, tenant_id: int) -> Tenant | None:
        return next((one for one in self._directory.tenants.values() if one.id == tenant_id), None)
