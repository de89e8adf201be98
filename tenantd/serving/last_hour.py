"""What each tenant was given during the last hour, in intervals of a few seconds.

It is kept in memory for whoever looks at it, and is gone when the daemon ends; the ledger has what counts. A fixed
number of tenants fits: those that have been without work longest make room.
"""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tenantd.clock import now_micros
from tenantd.costs import Claim, entitlements, of_tokens
from tenantd.events import Event, Events, FirstToken
from tenantd.wire.settings import Settings

INTERVAL_S: Final = 5
SAMPLES: Final = 720
MOST_TENANTS: Final = 64
MOST_SHOWN: Final = 12
"""Tenants at once: more lines cannot be told apart."""
_CHANNELS: Final = ("prompt_tokens", "generated_tokens", "running", "waiting", "entitled_share", "first_token_micros")
_PROMPT, _GENERATED, _RUNNING, _WAITING, _ENTITLED, _FIRST = range(len(_CHANNELS))
_NONE_WITHOUT_WORK: Final = [_ENTITLED, _FIRST]

Samples = NDArray[np.float32]
"""By channel and sample, the oldest first."""


class Work(NamedTuple):
    """A tenant's tokens since the daemon started, and how many of its requests have a token or wait for one. `claim` is
    what decides its part of the slots."""

    name: str
    claim: Claim
    prompt_tokens: int
    generated_tokens: int
    running: int
    waiting: int


class Period(NamedTuple):
    """What is known since some time: when each sample ended, the samples by tenant id, and what all tenants together
    were given in each, as the scheduler counts it."""

    ended_micros: list[int]
    tenants: dict[int, Samples]
    costs: Samples


class LastHour:
    """Samples of all tenants. Asks `work` for what they have and had, by tenant id; hears of first tokens."""

    def __init__(
        self, events: Events, work: Callable[[], Mapping[int, Work]], settings: Callable[[], Settings], slots: int
    ) -> None:
        """`settings` have the costs of tokens; `slots` are those of the engine."""
        self._work, self._settings, self._slots = work, settings, slots
        self._kept = np.stack([_nothing(SAMPLES)] * MOST_TENANTS)
        self._ended_micros: list[int] = []
        self._rows: dict[int, int] = {}  # by tenant id; the one that worked last is last
        self._seen: dict[int, tuple[int, int]] = {}  # tokens at the last sample
        self._first_micros: dict[str, int] = {}  # the slowest first token since then, by name
        events.call("last hour", self._hear)

    async def run(self) -> None:
        """Take samples until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            self.take(now_micros())

    def take(self, at_micros: int) -> None:
        """Take a sample of what was given since the last one."""
        work = self._work()
        column = len(self._ended_micros)
        if column == SAMPLES:
            self._kept[:, :, :-1] = self._kept[:, :, 1:]
            self._ended_micros.pop(0)
            column -= 1
        self._ended_micros.append(max(at_micros, self._ended_micros[-1] + 1) if column else at_micros)
        self._kept[:, :, column] = _nothing(1)[:, 0]
        given = {number: self._given(number, one) for number, one in work.items()}
        busy = [number for number, one in work.items() if one.running or one.waiting or any(given[number])]
        # whose requests have all ended since the last sample wanted one slot at least
        claims = {work[number].name: work[number].claim for number in busy}
        claims = {name: claim._replace(wanted=max(1, claim.wanted)) for name, claim in claims.items()}
        entitled = entitlements(self._slots, claims)
        for number in busy:
            one = work[number]
            sample = self._kept[self._row(number), :, column]
            sample[_PROMPT], sample[_GENERATED] = given[number]
            sample[_RUNNING], sample[_WAITING] = one.running, one.waiting
            sample[_ENTITLED] = entitled[one.name]
            sample[_FIRST] = self._first_micros.get(one.name, np.nan)
        self._first_micros = {}
        self._seen = {number: seen for number, seen in self._seen.items() if number in work}

    def own(self, tenant_id: int, since_micros: int) -> tuple[list[int], Samples]:
        """When each sample after `since_micros` ended, and the samples of one tenant."""
        first, count = self._first_after(since_micros), len(self._ended_micros)
        row = self._rows.get(tenant_id)
        samples = self._kept[row, :, first:count].copy() if row is not None else _nothing(count - first)
        return self._ended_micros[first:], samples

    def of_all(self, since_micros: int) -> Period:
        """The samples after `since_micros` of the tenants that were given most in the whole hour."""
        first, count = self._first_after(since_micros), len(self._ended_micros)
        kept = self._kept[list(self._rows.values()), :, :count]
        costs = self._cost(kept)
        used = {number: float(of_it.sum()) for number, of_it in zip(self._rows, costs, strict=True)}
        had_work = [
            number for number, of_it in zip(self._rows, kept, strict=True) if np.isfinite(of_it[_ENTITLED]).any()
        ]
        shown = sorted(had_work, key=lambda number: -used[number])[:MOST_SHOWN]
        found = {number: self._kept[self._rows[number], :, first:count].copy() for number in shown}
        return Period(self._ended_micros[first:], found, costs[:, first:].sum(axis=0))

    def shares(self, samples: Samples, costs: Samples) -> list[float | None]:
        """The part of `costs` that `samples` are; None where there was nothing to share."""
        with np.errstate(invalid="ignore"):
            return _numbers(self._cost(samples) / costs, 4)

    def _first_after(self, since_micros: int) -> int:
        return bisect.bisect_right(self._ended_micros, since_micros)

    def _cost(self, samples: Samples) -> Samples:
        """Without tokens from a cache, which the engine does not compute."""
        prompt, generated = of_tokens(self._settings(), 1, 0), of_tokens(self._settings(), 0, 1)
        return np.asarray(samples[..., _PROMPT, :] * prompt + samples[..., _GENERATED, :] * generated, np.float32)

    def _hear(self, event: Event) -> None:
        if isinstance(event, FirstToken):
            self._first_micros[event.tenant] = max(self._first_micros.get(event.tenant, 0), event.after_micros)

    def _given(self, number: int, one: Work) -> tuple[int, int]:
        """Tokens since the last sample."""
        before = self._seen.get(number, (0, 0))
        # what a request was given no longer counts if its row could not be written
        prompt, generated = max(before[0], one.prompt_tokens), max(before[1], one.generated_tokens)
        self._seen[number] = prompt, generated
        return prompt - before[0], generated - before[1]

    def _row(self, number: int) -> int:
        """The row of a tenant that has work now; that of another if there is no free one."""
        row = self._rows.pop(number, None)
        if row is None:
            row = len(self._rows) if len(self._rows) < MOST_TENANTS else self._rows.pop(next(iter(self._rows)))
            self._kept[row] = _nothing(SAMPLES)
        self._rows[number] = row
        return row


def as_lists(samples: Samples, *, of_all: bool) -> dict[str, list[Any]]:
    """Each channel by its name; without what depends on other tenants unless `of_all`."""
    return {
        name: _numbers(samples[channel], 4 if channel == _ENTITLED else None)
        for channel, name in enumerate(_CHANNELS)
        if of_all or channel != _ENTITLED
    }


def _nothing(count: int) -> Samples:
    """Samples of a tenant without work."""
    samples = np.zeros((len(_CHANNELS), count), np.float32)
    samples[_NONE_WITHOUT_WORK, :] = np.nan
    return samples


def _numbers(values: Iterable[float], digits: int | None) -> list[Any]:
    """For JSON, which has no NaN."""
    return [None if value != value else round(float(value), digits) for value in values]
