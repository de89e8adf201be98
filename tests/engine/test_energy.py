"""Whose energy it is: exact sums, nobody's while nothing is computed, and nothing made up where it is not known."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from tenantd.domain import FinishReason
from tenantd.engine.metering import RETRY_S, EnergyMeter, Metering, Reading
from tenantd.engine.nvml import Unmeasurable
from tenantd.wire.messages import Finish, Progress, Step

WATTS = 300


class Gpu:
    """Draws 300 W from the start, or what a test says; its counter is read at once, or `delay_s` later."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.used_millijoules = 0
        self.delay_s = 0.0
        self.is_lost = False
        self._answer: Reading | None = None

    def passes(self, seconds: float, watts: int = WATTS) -> None:
        self.now_s += seconds
        self.used_millijoules += round(seconds * watts * 1000)

    def ask(self) -> None:
        assert self._answer is None, "one at a time"
        self._answer = Reading(None if self.is_lost else self.used_millijoules, self.now_s + self.delay_s)

    def take(self) -> Reading | None:
        if self._answer is None or self.now_s < self._answer.at_s:
            return None
        answer, self._answer = self._answer, None
        return answer


class Engine:
    """Steps of a loop on that GPU. `told` adds up what requests were told to have used."""

    def __init__(self) -> None:
        self.gpu = Gpu()
        self.metering = Metering(self.gpu, lambda: self.gpu.now_s)
        self.told: dict[int, int] = {}

    def step(self, micros: dict[int, int], *, ends: tuple[int, ...] = (), rests: bool = False, nobody: int = 0) -> None:
        """It takes the time of all its requests, and some that is nobody's."""
        self.metering.begin()
        busy_micros = sum(micros.values()) + nobody
        self.gpu.passes(busy_micros / 1e6)
        step = Step(
            number=1,
            busy_micros=busy_micros,
            unbilled_micros=nobody,
            progress=[Progress(request, 1, 0, 1, each) for request, each in micros.items()],
            finishes=[Finish(request, 1, FinishReason.STOP) for request in ends],
            running=0,
            waiting=0,
        )
        for request, millijoules in (self.metering.end(step, is_resting=rests).energy or {}).items():
            assert millijoules > 0
            self.told[request] = self.told.get(request, 0) + millijoules

    def rest(self, seconds: float) -> None:
        """After a step that said so."""
        self.gpu.passes(seconds, watts=50)


@given(
    st.lists(
        st.tuples(st.dictionaries(st.integers(1, 5), st.integers(1, 90_000), max_size=5), st.integers(0, 9_000)),
        min_size=1,
        max_size=40,
    )
)
def test_all_that_was_used_for_requests_is_theirs_by_their_time_to_the_millijoule(
    steps: list[tuple[dict[int, int], int]],
) -> None:
    engine = Engine()
    micros: dict[int, int] = {}
    for each, nobody in steps:
        engine.step(each, nobody=nobody)
        for request, took in each.items():
            micros[request] = micros.get(request, 0) + took
    engine.step({}, rests=True)
    engine.step({})
    readings = len(steps) + 2  # at most
    for request, took in micros.items():
        assert abs(engine.told.get(request, 0) - took * WATTS / 1000) <= readings
    if not any(nobody for _, nobody in steps):
        assert abs(sum(engine.told.values()) - engine.gpu.used_millijoules) <= readings


def test_what_the_gpu_uses_while_nothing_is_computed_is_nobodys() -> None:
    engine = Engine()
    engine.rest(1000)
    for _ in range(3):
        for _ in range(10):
            engine.step({1: 30_000, 2: 10_000})
        engine.step({1: 30_000, 2: 10_000}, rests=True)
        engine.rest(1000)
    engine.step({})
    assert engine.told == {1: 3 * 11 * 9_000, 2: 3 * 11 * 3_000}


def test_a_request_that_ends_between_readings_gets_what_its_time_cost_lately() -> None:
    engine = Engine()
    engine.step({1: 200_000})
    engine.step({1: 20_000, 2: 20_000}, ends=(2,))
    assert engine.told == {1: 60_000, 2: 6_000}
    engine.step({1: 80_000})
    engine.step({1: 1_000}, ends=(1,), rests=True)
    assert engine.told == {1: 60_000 + 6_000 + 24_000 + 300, 2: 6_000}


def test_a_reading_that_hangs_costs_the_figures_of_that_time_and_nothing_else() -> None:
    engine = Engine()
    engine.step({1: 200_000})
    engine.gpu.delay_s = 60.0
    engine.step({1: 200_000})  # the last reading that is answered in time was asked for before
    assert engine.told == {1: 60_000}
    engine.step({1: 200_000})
    for number in range(2, 52):  # nothing else is asked for, and nothing is made up
        engine.step({1: 300_000, number: 300_000}, ends=(number,))
    assert engine.told == {1: 60_000}
    engine.gpu.delay_s = 0.0
    engine.gpu.passes(60)
    engine.step({1: 200_000})  # an answer of an unknown moment
    engine.step({1: 200_000})  # one to measure from
    assert engine.told == {1: 60_000}
    engine.step({1: 200_000})
    assert engine.told == {1: 120_000}


def test_a_reading_that_fails_costs_the_figures_of_that_time_and_nothing_else() -> None:
    engine = Engine()
    engine.step({1: 200_000})
    engine.gpu.is_lost = True
    engine.step({1: 200_000})
    for number in range(2, 12):
        engine.step({1: 200_000, number: 200_000}, ends=(number,))
    assert engine.told == {1: 60_000}
    engine.gpu.is_lost = False
    engine.step({1: 200_000})
    engine.step({1: 200_000})
    assert engine.told == {1: 60_000}
    engine.step({1: 200_000})
    assert engine.told == {1: 120_000}


def test_a_counter_that_starts_again_is_not_billed() -> None:
    engine = Engine()
    for _ in range(2):
        engine.step({1: 200_000})
    assert engine.told == {1: 60_000}
    engine.gpu.used_millijoules = 0
    engine.step({1: 200_000})
    engine.step({1: 200_000})
    assert engine.told == {1: 120_000}, "what was known before, and nothing of the step in which it started again"
    engine.step({1: 200_000})
    assert engine.told == {1: 180_000}


class Scripted:
    """Counters that answer what a test says, in the meter's thread."""

    def __init__(self, *answers: int | Exception) -> None:
        self._answers: Iterator[int | Exception] = iter(answers)
        self.opened = 0
        self.answered = threading.Semaphore(0)

    def open(self) -> list[Scripted]:
        self.opened += 1
        return [self]

    def __call__(self) -> int:
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


def read(meter: EnergyMeter) -> Reading:
    """The next one, waited for."""
    meter.ask()
    pause = threading.Event()
    while (reading := meter.take()) is None:
        pause.wait(0.001)
    return reading


def test_a_device_that_vanishes_is_left_alone_for_a_minute_and_then_opened_again() -> None:
    now_s = 1000.0
    script = Scripted(5, Unmeasurable("GPU is lost"), 7)
    meter = EnergyMeter(script.open, lambda: now_s)
    assert read(meter).millijoules == 5
    assert read(meter).millijoules is None
    now_s += RETRY_S / 2
    assert read(meter).millijoules is None and script.opened == 1
    now_s += RETRY_S / 2
    assert read(meter).millijoules == 7 and script.opened == 2
