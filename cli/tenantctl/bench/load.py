"""Runs a suite: sends its requests, records the answers, ends on time."""

from __future__ import annotations

import asyncio
import random
import resource
import secrets
import signal
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from tenantctl.bench.arrivals import even_arrivals, poisson_arrivals
from tenantctl.bench.measurement import Measurement, Plan
from tenantctl.bench.observed import Clock, Outcome, Record, Tally
from tenantctl.bench.suites import VTC_CAPACITY, VTC_SHAPE, Closed, Open, Shape, Suite, TenantLoad
from tenantctl.bench.target import Target, send
from tenantd.errors import TenantdError

UNIQUE_TOKENS: Final = 8
"""The number of tokens at the start of a prompt that are new in every run, so that no cache can know them."""
RETRY_PAUSE_S: Final = 0.1
MOST_PAUSE_S: Final = 5.0
TICK_S: Final = 0.25
FIRST_SHAPE: Final = Shape(16, 2)
CALIBRATION_CLIENTS: Final = 32
CALIBRATION_SHAPE: Final = VTC_SHAPE.scaled(1 / 8)


@dataclass
class Progress:
    """The progress of a run."""

    plan: Plan
    tallies: dict[str, Tally]
    clock: Clock

    @property
    def elapsed_s(self) -> float:
        return min(self.clock(), self.plan.duration_s)


Watch = Callable[[Progress], None]


async def run(plan: Plan, targets: Mapping[str, Target], watch: Watch | None = None) -> Measurement:
    """Run a plan. `targets` tells where each tenant's requests go; `watch` is called a few times a second.

    Ends after the duration, or on SIGINT; unfinished requests are then cut off.
    """
    started = time.perf_counter()

    def clock() -> float:
        return time.perf_counter() - started

    sources = [_Source(plan, load, targets[load.name], clock) for load in plan.suite.tenants]
    progress = Progress(plan, {source.load.name: source.tally for source in sources}, clock)
    with _many_files(), _stopped_by_sigint() as stop:
        for source in sources:
            source.start()
        try:
            while not stop.is_set() and (left_s := plan.duration_s - clock()) > 0:
                if watch is not None:
                    watch(progress)
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), min(TICK_S, left_s))
        finally:
            end_s = min(clock(), plan.duration_s)
            for source in sources:
                await source.stop()
    records = {source.load.name: source.records for source in sources}
    return Measurement(plan, next(iter(targets.values())).name, records, end_s, stop.is_set())


class _Source:
    """One tenant's requests."""

    def __init__(self, plan: Plan, load: TenantLoad, target: Target, clock: Clock) -> None:
        self.load = load
        self.records: list[Record] = []
        self.tally = Tally()
        self._plan = plan
        self._target = target
        self._clock = clock
        self._rng = random.Random(f"{plan.seed}/{load.name}")
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Start sending."""
        for load in (self.load.load, self.load.also):
            if isinstance(load, Open):
                self._spawn(self._arrivals(load))
            elif load is not None:
                for _ in range(load.clients):
                    self._spawn(self._client(load))

    async def stop(self) -> None:
        """Cut off unfinished requests. Raises the error of a task that failed because of a bug."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:  # failed tasks are kept for stop()
            self._tasks.discard(task)

    async def _client(self, load: Closed) -> None:
        """Send a request, wait for the answer, and repeat while the tenant is on."""
        for begin, end in load.on:
            await asyncio.sleep(begin * self._plan.duration_s - self._clock())
            while self._clock() < end * self._plan.duration_s:
                record = Record(self.load.name)
                await self._request(record)
                if record.outcome is not Outcome.DONE:
                    await asyncio.sleep(min(record.retry_after_s or RETRY_PAUSE_S, MOST_PAUSE_S))

    async def _arrivals(self, load: Open) -> None:
        times = poisson_arrivals if load.poisson else even_arrivals
        for due_s in times(load.rate, self._plan.duration_s, self._rng, self._plan.rate_scale):
            await asyncio.sleep(due_s - self._clock())
            self._spawn(self._request(Record(self.load.name)))

    async def _request(self, record: Record) -> None:
        record.tally = self.tally
        self.records.append(record)
        await send_shape(self._target, self.load.shape, self._plan.vocabulary, self._rng, record, self._clock)


async def send_shape(
    target: Target,
    shape: Shape,
    vocabulary: range,
    rng: random.Random,
    record: Record,
    clock: Clock = time.perf_counter,
) -> None:
    """A request of this size: random token ids, greedy sampling, an output of exactly this length."""
    record.prompt_tokens, record.max_tokens = shape.prompt_tokens, shape.output_tokens
    body = {
        "prompt": prompt(rng, shape.prompt_tokens, vocabulary),
        "max_tokens": shape.output_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    await send(target, body, record, clock)


def prompt(rng: random.Random, tokens: int, vocabulary: range) -> list[int]:
    """Random token ids. The first few differ between runs, the rest depend on the seed."""
    unique = min(UNIQUE_TOKENS, tokens)
    first = [vocabulary[secrets.randbelow(len(vocabulary))] for _ in range(unique)]
    return first + rng.choices(vocabulary, k=tokens - unique)


# -- before a run


async def try_out(target: Target, vocabulary: range) -> None:
    """Send a small request, so that everything is warm when the run starts. Raises TenantdError with the server's
    reason if there is no answer."""
    record = Record("first")
    await send_shape(target, FIRST_SHAPE, vocabulary, random.Random(), record)
    if record.outcome is not Outcome.DONE:
        raise TenantdError(f"{target.name} is not answering: {record.message}")


async def capacity(target: Target, duration_s: float, vocabulary: range, watch: Watch | None = None) -> float:
    """Service per second under full load, with requests of equal input and output length as in most suites.

    Raises TenantdError if nothing was served.
    """
    load = TenantLoad("calibration", CALIBRATION_SHAPE, Closed(CALIBRATION_CLIENTS))
    suite = Suite("calibration", "how much the server can do", (load,))
    measurement = await run(Plan(suite, duration_s, vocabulary=vocabulary), {load.name: target}, watch)
    if measurement.interrupted:
        raise KeyboardInterrupt
    begin_s = duration_s / 3  # by then the prompts of the first requests, which arrive all at once, are done
    served = measurement.service((begin_s, duration_s))
    if not served:
        reasons = {r.message for r in measurement.records[load.name] if r.message}
        raise TenantdError(f"{target.name} served nothing in {duration_s:g} s; {'; '.join(sorted(reasons)[:3])}")
    return served / (duration_s - begin_s)


def rate_scale(service_per_s: float, length_scale: float) -> float:
    """The factor for the rates of a calibrated suite on a server of this capacity."""
    return service_per_s / VTC_CAPACITY / length_scale


# -- the process


@contextmanager
def _stopped_by_sigint() -> Iterator[asyncio.Event]:
    """An event that is set by Ctrl-C."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGINT)
    try:
        loop.add_signal_handler(signal.SIGINT, stop.set)
    except (ValueError, RuntimeError):  # not the main thread, which handles signals
        yield stop
        return
    try:
        yield stop
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)


@contextmanager
def _many_files() -> Iterator[None]:
    """Every unfinished request has a connection, and an open loop may have thousands."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
