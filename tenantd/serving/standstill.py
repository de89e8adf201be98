"""Checkpoints running requests once a second, and pauses everything when nothing can be written any more.

If the ledger is stuck for longer than `ledger.settle_timeout_s`, tokens that are computed and delivered might never be
billed. Then the engine computes nothing and readers get nothing until the ledger is back, and everything resumes with
the next token.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from tenantd.fleet.replica import Replica
from tenantd.ledger.ledger import Ledger
from tenantd.serving.rows import RequestRows

log = logging.getLogger(__name__)

INTERVAL_S: Final = 1.0


class Standstill:
    """Decides whether to compute and deliver."""

    def __init__(self, ledger: Ledger, replica: Replica, rows: RequestRows, timeout_s: Callable[[], float]) -> None:
        """`timeout_s` is called each time, because the configuration can be reloaded."""
        self.is_paused = False
        self._ledger = ledger
        self._replica = replica
        self._rows = rows
        self._timeout_s = timeout_s

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            self._rows.checkpoint(self._replica.live)
            self._look()

    def _look(self) -> None:
        stuck_s = self._ledger.stuck_s
        is_stuck = stuck_s > 0 and stuck_s >= self._timeout_s()
        if is_stuck == self.is_paused:
            return
        self.is_paused = is_stuck
        if is_stuck:
            log.error("nothing could be billed for %.0f s; requests are paused until billing works again", stuck_s)
        else:
            log.warning("billing works again; paused requests resume")
        self._replica.pause(is_paused=is_stuck)
        self._rows.hold(is_held=is_stuck)
