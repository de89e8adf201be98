"""Divides the energy of the GPUs over requests, like the time of a step.

The counters are read about ten times a second while there is work, in a thread of its own: a driver that hangs or fails
costs the figures and nothing else. What was used between two readings is divided over the engine time in between.
A request that ends before the next reading gets what its time cost lately. What the GPUs use while no request is
computed is nobody's, and so is what could not be measured.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Final, NamedTuple, Protocol

import msgspec

from tenantd.engine.energy import EnergyShares
from tenantd.engine.nvml import Counter, Unmeasurable, counters
from tenantd.wire.messages import Step

INTERVAL_S: Final = 0.1
"""Between readings. The counters of GPUs themselves change every 20 to 100 ms."""
LATE_S: Final = 0.25
"""A reading that takes longer is of an unknown moment."""
RETRY_S: Final = 60.0
"""After a failure the driver is left alone for this long."""


class Reading(NamedTuple):
    """The sum of all counters, None if it could not be read, and when."""

    millijoules: int | None
    at_s: float


class Meter(Protocol):
    """Reads counters when asked, once at a time. Never waits."""

    def ask(self) -> None:
        """Read them now."""

    def take(self) -> Reading | None:
        """What was asked for, once; None while it is not there."""


class EnergyMeter:
    """Reads in a thread."""

    def __init__(
        self, open_counters: Callable[[], Sequence[Counter] | None], clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        """`open_counters` returns None if there is nothing to measure, and is called in the thread."""
        self._open = open_counters
        self._clock_s = clock_s
        self._asked: SimpleQueue[None] = SimpleQueue()
        self._answers: SimpleQueue[Reading] = SimpleQueue()
        Thread(target=self._run, name="energy", daemon=True).start()

    def ask(self) -> None:
        self._asked.put(None)

    def take(self) -> Reading | None:
        try:
            return self._answers.get_nowait()
        except Empty:
            return None

    def _run(self) -> None:
        opened: Sequence[Counter] = ()
        retry_s, said = -RETRY_S, ""
        while True:
            self._asked.get()
            used: int | None = None
            if self._clock_s() >= retry_s:
                try:
                    if not opened and not (opened := self._open() or ()):
                        return  # and nothing is ever measured
                    used = sum(read() for read in opened)
                except Unmeasurable as e:
                    opened, retry_s = (), self._clock_s() + RETRY_S
                    if said != (said := str(e)):
                        print(f"energy is not measured: {said}", file=sys.stderr, flush=True)
            self._answers.put(Reading(used, self._clock_s()))


class Metering:
    """What the loop tells of its steps, and the energy of requests that its steps tell in turn."""

    def __init__(self, meter: Meter, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._meter = meter
        self._clock_s = clock_s
        self._shares = EnergyShares()
        self._before: int | None = None  # the last reading, if the time since can be measured from it
        self._is_asked = False
        self._asked_s = 0.0
        self._is_resting = self._was_resting = True  # now, and until a reading was asked for
        self._known: dict[int, int] = {}  # and to be told with the next step

    def begin(self) -> None:
        """A step begins."""
        if self._is_resting:
            self._collect()
            self._ask()
            self._is_resting = False

    def end(self, step: Step, *, is_resting: bool) -> Step:
        """The step as it is to be told. `is_resting`: the next one does not follow at once."""
        self._shares.worked(((one.request, one.micros) for one in step.progress), step.busy_micros)
        self._collect()
        since_s = self._clock_s() - self._asked_s
        is_measured = self._before is not None and not (self._is_asked and since_s > LATE_S)
        for finish in step.finishes:
            last = self._shares.leave(finish.request)
            if is_measured and last:
                self._known[finish.request] = self._known.get(finish.request, 0) + last
        if is_resting or since_s >= INTERVAL_S:
            self._ask()
        self._is_resting = is_resting
        if not self._known:
            return step
        known, self._known = self._known, {}
        return msgspec.structs.replace(step, energy=known)

    def _ask(self) -> None:
        if not self._is_asked:
            self._is_asked, self._asked_s, self._was_resting = True, self._clock_s(), self._is_resting
            self._shares.cut()
            self._meter.ask()

    def _collect(self) -> None:
        """Divide what a reading tells, if one is there."""
        if not self._is_asked or (reading := self._meter.take()) is None:
            return
        self._is_asked = False
        before, now = self._before, reading.millijoules if reading.at_s - self._asked_s <= LATE_S else None
        self._before = now
        if self._was_resting or before is None or now is None or now < before:
            self._shares.miss()
            return
        for request, millijoules in self._shares.measured(now - before).items():
            self._known[request] = self._known.get(request, 0) + millijoules


def metering(bus_ids: Sequence[str]) -> Metering | None:
    """Of the GPUs that the model is on; None if there are none."""
    return Metering(EnergyMeter(lambda: counters(bus_ids))) if bus_ids else None
