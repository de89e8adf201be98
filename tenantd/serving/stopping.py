"""One deadline for a whole stop: each stage gets what is left of it, and what still hangs at its end is cut off."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from enum import Enum
from typing import Final

log = logging.getLogger(__name__)

CANCEL_GRACE_S: Final = 2.0
"""How long a shutdown waits for the engine to confirm that requests have ended: their last tokens are billed."""
SETTLE_GRACE_S: Final = 5.0
"""How long a stop waits for rows to be settled; what the ledger still holds after that it writes as it closes."""
LINGER_S: Final = 1.0
"""How long threads may go on once everything is closed: they work for somebody who has gone."""
EXIT_CUT_OFF: Final = 1


class Stage(Enum):
    """The stages of a stop in their order; the value is what each leaves to those after it, as a part of the whole."""

    DRAIN = 0.3
    SETTLE = 0.2
    ENGINE = 0.14
    GOODBYE = 0.08
    LEDGER = 0.04
    CUT_OFF = 0.0


class StopClock:
    """The time a stop may take, and the thread that ends the process when it is over.

    Ending hard is safe at any time: what the ledger has not written is settled by the next start.
    """

    def __init__(self) -> None:
        self._total_s = 0.0
        self._end_s = math.inf
        self._changed = threading.Condition()  # guards the exit code and when it is due
        self._exit_code: int | None = None
        self._due_s = math.inf

    def begin(self, total_s: float) -> None:
        """The stop begins. Only the first call counts."""
        if self._end_s < math.inf:
            return
        self._total_s = total_s
        self._end_s = self._due_s = time.monotonic() + total_s
        threading.Thread(target=self._cut_off, name="stop-clock", daemon=True).start()

    def most(self, wanted_s: float, stage: Stage) -> float:
        """Seconds for `stage`, which would take `wanted_s`: less when those after it would not have their part."""
        return max(0.0, min(wanted_s, self._end_s - time.monotonic() - stage.value * self._total_s))

    def closed(self, exit_code: int) -> None:
        """Everything is closed: the process ends with this code, soon, even if a thread goes on."""
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
"""Never begun: every stage gets what it wants."""
