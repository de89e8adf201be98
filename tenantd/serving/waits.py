"""How long waiting requests will wait for their first token: what the engine foresees, carried on for the requests that
it does not have yet, and corrected by how predictions turned out. The clock is an argument.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from tenantd.events import CleanedUp, Event, FirstToken
from tenantd.live.streams import LiveStream
from tenantd.serving.accuracy import SMALL_S, Accuracies, Wait
from tenantd.wire.messages import Outlook

SHORTER: Final = 0.5
"""Of each request, the first prediction is remembered, and each later one that is at most this part of the last one
remembered. So every request teaches something about waits of every length."""
NEW: Final = 0.35
"""The part of a new prediction in what is told: each assumes other lengths of answers, so several are worth more."""


class Waits:
    """What was foreseen last, and how it turned out before."""

    def __init__(self) -> None:
        self._first_s: dict[int, float] = {}  # when requests should get their first token, by number
        self._last_s: dict[str, float] = {}  # the latest of these, by tenant
        self._apart_s: dict[str, float] = {}  # the time between two of them
        self._told: dict[str, list[tuple[float, float]]] = {}  # by request id: its age, and the wait predicted then
        self._guessed: dict[str, tuple[float, float]] = {}  # the same before anything was foreseen for it
        self.predictions, self.guesses = Accuracies(), Accuracies()

    def foresee(self, outlook: Outlook | None, waiting: Iterable[LiveStream], now_s: float) -> None:
        """The engine has told what it foresees; None: nothing. `waiting` are the requests without a token, by age."""
        waiting = list(waiting)
        self._note_guesses(waiting, now_s)
        before_s, self._first_s = self._first_s, {}
        self._last_s, self._apart_s = {}, {}
        if outlook is None:
            self._told.clear()  # whoever computes them now is not who was asked
            self._guessed.clear()
            return
        held: list[LiveStream] = []
        counts: dict[str, int] = {}
        for stream in waiting:
            if (wait_ms := outlook.waits_ms.get(stream.number)) is None:
                held.append(stream)
                continue
            at_s = now_s + wait_ms / 1000
            if (told_s := before_s.get(stream.number, 0.0)) > now_s:  # what should have come by now was wrong
                at_s = told_s + NEW * (at_s - told_s)
            self._first_s[stream.number] = at_s
            self._last_s[stream.tenant] = max(at_s, self._last_s.get(stream.tenant, now_s))
            counts[stream.tenant] = counts.get(stream.tenant, 0) + 1
            self._remember(stream, at_s - now_s)
        self._apart_s = {name: (last_s - now_s) / counts[name] for name, last_s in self._last_s.items()}
        self._apart_s |= {name: apart_ms / 1000 for name, apart_ms in outlook.apart_ms.items()}
        for stream in held:
            if stream.tenant in outlook.apart_ms:
                at_s = self._last_s.get(stream.tenant, now_s) + self._apart_s[stream.tenant]
                self._first_s[stream.number] = self._last_s[stream.tenant] = at_s
                self._remember(stream, at_s - now_s)

    def of(self, stream: LiveStream, newer: int, now_s: float) -> Wait | None:
        """The wait of a request before which `newer` others of its tenant came that were not foreseen either; None if
        nothing is known of its tenant."""
        if (at_s := self._first_s.get(stream.number)) is not None:
            return self.predictions.of(stream.tenant).corrected(max(0.0, at_s - now_s))
        guess_s = self._guess_s(stream.tenant, newer, now_s)
        return None if guess_s is None else self.guesses.of(stream.tenant).corrected(guess_s)

    def is_foreseen(self, stream: LiveStream) -> bool:
        """Whether the last prediction was about it."""
        return stream.number in self._first_s

    def forget(self, tenant: str) -> None:
        """Forget a removed tenant."""
        self.predictions.forget(tenant)
        self.guesses.forget(tenant)

    def hear(self, event: Event) -> None:
        """Compare what was predicted for a request to what came, at its first token; no more is known of others."""
        match event:
            case FirstToken():
                after_s, guessed = event.after_micros / 1e6, self._guessed.pop(event.request_id, None)
                for age_s, wait_s in self._told.pop(event.request_id, ()):
                    self.predictions.learn(event.tenant, wait_s, max(0.0, after_s - age_s))
                if guessed is not None:
                    self.guesses.learn(event.tenant, guessed[1], max(0.0, after_s - guessed[0]))
            case CleanedUp():
                self._told.pop(event.request_id, None)
                self._guessed.pop(event.request_id, None)

    def _guess_s(self, tenant: str, newer: int, now_s: float) -> float | None:
        """The wait of a request of which nothing is foreseen; `newer` as in `of`."""
        if (last_s := self._last_s.get(tenant)) is None:
            return None
        return max(now_s, last_s) + (newer + 1) * self._apart_s[tenant] - now_s

    def _note_guesses(self, waiting: list[LiveStream], now_s: float) -> None:
        """Remember what would have been told so far of those of which nothing was foreseen yet."""
        newer: Counter[str] = Counter()
        for stream in waiting:
            if self.is_foreseen(stream):
                continue
            guess_s = self._guess_s(stream.tenant, newer[stream.tenant], now_s)
            newer[stream.tenant] += 1
            if guess_s is not None:
                self._guessed.setdefault(stream.id, (stream.age_s, guess_s))

    def _remember(self, stream: LiveStream, wait_s: float) -> None:
        told = self._told.setdefault(stream.id, [])
        if not told or wait_s + SMALL_S <= SHORTER * (told[-1][1] + SMALL_S):
            told.append((stream.age_s, wait_s))
