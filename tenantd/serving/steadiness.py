"""Keeps what runs beside requests for as long as the daemon runs going, whatever goes wrong in it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

log = logging.getLogger(__name__)

PAUSE_S: Final = 1.0


async def steadily(work: Callable[[], Awaitable[None]]) -> None:
    """Run `work`, which runs until it is cancelled; begin it again a second after an error that it did not expect."""
    while True:
        try:
            return await work()
        except Exception:
            log.exception("%s failed, and starts again in %g s", getattr(work, "__qualname__", work), PAUSE_S)
            await asyncio.sleep(PAUSE_S)
