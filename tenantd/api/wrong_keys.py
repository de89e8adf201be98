"""Wrong API keys cost time: whoever goes on showing them is answered later and later.

Right keys are never held up, whatever else comes from their address: many clients share that of a router or a proxy,
and nobody guesses 192 random bits. So this does not protect keys; it keeps programs that retry with a wrong one, and
lists of stolen keys that somebody tries out, from taking the daemon's time.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from tenantd.errors import TooManyWrongKeys

FREE: Final = 10
"""Wrong keys of an address that are answered at once."""
REFILL_S: Final = 6.0
"""After which one of them is forgotten."""
LONGEST_PAUSE_S: Final = 4.0
MOST_COUNTED: Final = 40
"""Of an address, so that it is forgiven after four minutes at most."""
MOST_ADDRESSES: Final = 4096
MOST_HELD: Final = 8
"""Answers to one address that are held up at once. Further ones are refused."""
MOST_HELD_IN_ALL: Final = 256


class _Address:
    __slots__ = ("at_s", "held", "wrong")

    def __init__(self, at_s: float) -> None:
        self.wrong = 0.0  # less what has been forgotten by `at_s`
        self.at_s = at_s
        self.held = 0


class WrongKeys:
    """Counts them by address, in bounded memory: the addresses that have been quiet longest are forgotten."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        """`clock_s` is a monotonic clock."""
        self._clock_s = clock_s
        self._addresses: OrderedDict[str, _Address] = OrderedDict()
        self._held = 0

    def __len__(self) -> int:
        return len(self._addresses)

    def count(self, address: str) -> float:
        """Count a wrong key. Returns for how many seconds to hold up its answer."""
        now_s = self._clock_s()
        one = self._addresses.pop(address, None) or _Address(now_s)
        self._addresses[address] = one
        if len(self._addresses) > MOST_ADDRESSES:
            self._addresses.popitem(last=False)
        one.wrong = min(max(0.0, one.wrong - (now_s - one.at_s) / REFILL_S) + 1, MOST_COUNTED)
        one.at_s = now_s
        over = one.wrong - FREE
        return 0.0 if over <= 0 else min(2.0 ** (over - 2), LONGEST_PAUSE_S)

    async def hold_up(self, address: str) -> None:
        """Count a wrong key and wait before it is answered. Raises TooManyWrongKeys if too many answers wait."""
        pause_s = self.count(address)
        if not pause_s:
            return
        one = self._addresses[address]
        if one.held >= MOST_HELD or self._held >= MOST_HELD_IN_ALL:
            retry_s = -(-(one.wrong - FREE) * REFILL_S // 1)
            raise TooManyWrongKeys(
                "too many wrong API keys from your address; correct the key", retry_after_s=int(retry_s)
            )
        one.held += 1
        self._held += 1
        try:
            await asyncio.sleep(pause_s)
        finally:
            one.held -= 1
            self._held -= 1
