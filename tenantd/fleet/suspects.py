"""Requests that may have crashed the engine. Pure.

After a crash everything is submitted again. When that crashes too, one request is likely the cause, and to submit all
again would fail all: from then on those that were in both are tried one by one, each when the one before has got a
token.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from tenantd.live.phases import Phase
from tenantd.live.streams import LiveStream

SUSPECT_CRASHES: Final = 2
"""One crash can be anybody's fault; from this many in a row on, requests are tried one by one."""


class Crashed(NamedTuple):
    """How many crashes in a row a request was part of, and how many tokens it had at the last."""

    crashes: int
    tokens: int


class Suspects:
    """Who was in how many crashes, and who is tried or waits to be."""

    def __init__(self) -> None:
        self._crashed: dict[int, Crashed] = {}  # by number
        self._untried: deque[LiveStream] = deque()
        self.probe: LiveStream | None = None  # the one that is being tried

    def crashed(self, stream: LiveStream) -> int:
        """The engine ended with this in it: how many times in a row now without a token in between."""
        before, tokens = self._crashed.get(stream.number), len(stream.generated)
        crashes = 1 if before is None or tokens > before.tokens else before.crashes + 1
        self._crashed[stream.number] = Crashed(crashes, tokens)
        return crashes

    def has(self, stream: LiveStream) -> bool:
        """It was in two crashes or more and has got no token since: it may be their cause."""
        crashed = self._crashed.get(stream.number)
        return crashed is not None and crashed.crashes >= SUSPECT_CRASHES and len(stream.generated) == crashed.tokens

    def ended(self, stream: LiveStream) -> None:
        """Nothing more comes of it."""
        self._crashed.pop(stream.number, None)

    def try_in_turn(self, streams: Iterable[LiveStream]) -> None:
        """On a fresh engine these are tried one by one, those with the fewest crashes first."""
        self.probe = None
        self._untried = deque(sorted(streams, key=lambda stream: self._crashed[stream.number].crashes))

    def next(self) -> LiveStream | None:
        """The next to be tried once the one before is cleared or has ended; None until then, and when none is left."""
        if self.probe is not None and self.has(self.probe) and not self.probe.finished.done():
            return None
        self.probe = None
        while self._untried and self.probe is None:
            stream = self._untried.popleft()
            if stream.phase is Phase.WAITING:
                self.probe = stream
        return self.probe

    def check_empty(self) -> None:
        """Conservation: nothing is live, so nobody is suspected."""
        assert not self._crashed, f"left over: {self._crashed}"
