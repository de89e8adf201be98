"""When keys were last used: written for each key at most once a minute, and never waited for."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from typing import Final

from tenantd import clock
from tenantd.domain import Actor
from tenantd.errors import LedgerUnavailable
from tenantd.events import Events, KeyFirstUsed
from tenantd.ledger.ledger import Ledger
from tenantd.tenancy.directory import KnownKey
from tenantd.tenancy.keys import note_uses

INTERVAL_S: Final = 60.0


class KeyUses:
    """Notes uses. Of those within a minute the first is written, so what is written is exact to a minute.

    What cannot be written now is written with a later use. A first use is announced again if the daemon was killed
    before it was written.
    """

    def __init__(
        self,
        ledger: Ledger,
        events: Events,
        *,
        now_micros: Callable[[], int] = clock.now_micros,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock_s` is monotonic."""
        self._ledger = ledger
        self._events = events
        self._now_micros = now_micros
        self._clock_s = clock_s
        self._due_s: dict[str, float] = {}  # of keys used in this run: when to write their use again
        self._unwritten: dict[str, int] = {}
        self._writing: asyncio.Task[None] | None = None

    def note(self, key: KnownKey, actor: Actor) -> None:
        """A request shows this key. Takes a microsecond, but for once a minute."""
        now_s = self._clock_s()
        due_s = self._due_s.get(key.id)
        if due_s is not None and now_s < due_s:
            return
        self._due_s[key.id] = now_s + INTERVAL_S
        self._unwritten[key.id] = self._now_micros()
        if due_s is None and not key.is_used:
            name, tenant_id = (None, None) if key.tenant is None else (key.tenant.name, key.tenant.id)
            self._events.announce(KeyFirstUsed(key_id=key.id, tenant=name, tenant_id=tenant_id, uid=actor.uid))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())

    def forget_unless(self, is_live: Callable[[str], bool]) -> None:
        """Forget keys that cannot be used any more."""
        for key_id in [key_id for key_id in self._due_s if not is_live(key_id)]:
            del self._due_s[key_id]

    async def _write(self) -> None:
        """Write all that is noted, and what is noted meanwhile."""
        while uses := self._unwritten:
            self._unwritten = {}
            try:
                await self._ledger.write(functools.partial(note_uses, uses=uses))
            except LedgerUnavailable:
                self._unwritten = {**uses, **self._unwritten}
                return
