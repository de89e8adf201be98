"""One deadline for the whole shutdown: each stage gets what is left, and at the end the process exits, even if it
hangs."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from enum import Enum
from typing import Final

from tenantd.errors import CancelledByShutdown

log = logging.getLogger(__name__)

CANCEL_GRACE_S: Final = 2.0
"""How long to wait for the engine to confirm that requests have ended, so that their last tokens are billed."""
SETTLE_GRACE_S: Final = 5.0
"""How long to wait for rows to be settled; the ledger writes the rest when it closes."""
LINGER_S: Final = 1.0
"""How long threads may continue once everything is closed; nobody waits for their results."""
EXIT_CUT_OFF: Final = 1


class Stage(Enum):
    """The stages of a shutdown in order. The value is the fraction of the whole time left to later stages."""

    DRAIN = 0.3
    SETTLE = 0.2
    ENGINE = 0.14
    GOODBYE = 0.08
    LEDGER = 0.04
    CUT_OFF = 0.0


class StopClock:
    """The time that a shutdown may take, and a thread that ends the process when it is over.

    A hard exit is safe at any time: the next start settles what the ledger has not written.
    """

    def __init__(self) -> None:
        self._total_s = 0.0
        self._end_s = math.inf
        self._changed = threading.Condition()  # guards the exit code and when it is due
        self._exit_code: int | None = None
        self._due_s = math.inf

    def begin(self, total_s: float) -> None:
        """Start the clock. Only the first call counts."""
        if self._end_s < math.inf:
            return
        self._total_s = total_s
        self._end_s = self._due_s = time.monotonic() + total_s
        threading.Thread(target=self._cut_off, name="stop-clock", daemon=True).start()

    def most(self, wanted_s: float, stage: Stage) -> float:
        """Seconds for `stage`: `wanted_s`, or less if later stages would not get their part."""
        return max(0.0, min(wanted_s, self._end_s - time.monotonic() - stage.value * self._total_s))

    def closed(self, exit_code: int) -> None:
        """Everything is closed: soon end the process with this code, even if a thread continues."""
        with self._changed:
            self._exit_code = exit_code
            self._due_s = time.monotonic() + LINGER_S
            self._changed.notify()

    def _cut_off(self) -> None:
        with self._changed:
            while (left_s := self._due_s - time.monotonic()) > 0:
                self._changed.wait(left_s)
            code = self._exit_code
        if code is None:
            log.error("not everything stopped within server.stop_timeout_s = %g s; exiting now", self._total_s)
        for handler in logging.getLogger().handlers:
            handler.close()
        os._exit(EXIT_CUT_OFF if code is None else code)


UNHURRIED: Final = StopClock()
"""A clock that never starts: every stage gets the time that it wants."""


def shutting_down() -> CancelledByShutdown:
    """How a request ends that a stop cancels."""
    return CancelledByShutdown("the daemon is shutting down")
