"""The loads of waits.py on a daemon with a real model: what clients over its socket are told, and what then comes.

Each client sends requests as the load says, and closes the connection once it has as many tokens as it wants. What
`/admin/v1/status` tells of every waiting request is noted twice a second. The load goes on until everybody who came
within the duration has a first token, so that long waits are not left out.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from common import tenantd
from tenantctl.bench.arrivals import even_arrivals, poisson_arrivals
from tenantctl.bench.load import prompt
from tenantctl.bench.observed import Outcome, Record
from tenantctl.bench.subjects import ordinary_tokens
from tenantctl.bench.suites import Closed, Open, TenantLoad
from tenantctl.bench.target import Target, send
from tenantctl.client import CLIENT_ID_HEADER, Client, url
from waits_loads import LEAST_S, SLOTS, Request, Scenario, Told

CONTEXT_TOKENS: Final = 2048
"""No request is longer."""
ASKED_S: Final = 0.5
"""How often clients ask."""
LONGER: Final = 3
"""The load goes on for at most this many times the duration, for those that still wait."""
PAUSE_S: Final = 1.0
"""Before a client whose request was refused sends another."""


@dataclass
class Answer(Record):
    """A request that its client ends after `wanted_tokens`."""

    wanted_tokens: int = 0
    told: list[tuple[float, float, float, float]] = field(default_factory=list, repr=False)  # when; likely, low, high
    reader: asyncio.Task[None] | None = field(default=None, repr=False)

    def add_tokens(self, now_s: float, tokens: int) -> None:
        super().add_tokens(now_s, tokens)
        if self.arrived_tokens >= self.wanted_tokens < self.max_tokens and self.reader is not None:
            self.reader.cancel()


class Clients:
    """All who send, and who asks for them how long they will wait."""

    def __init__(self, scenario: Scenario, target: Target, vocabulary: range, duration_s: float, seed: int) -> None:
        self.answers: dict[str, Answer] = {}  # by the client's id for it
        self._scenario, self._target, self._vocabulary = scenario, target, vocabulary
        self._duration_s, self._random = duration_s, random.Random(seed)
        self._numbers = itertools.count()
        self._began_s = time.perf_counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until all that came within the duration have a token."""
        for load in self._scenario.tenants:
            if isinstance(load.load, Closed):
                for _ in range(load.load.clients):
                    self._spawn(self._client(load))
            else:
                self._spawn(self._arrivals(load, load.load))
        asking = asyncio.create_task(self._ask())
        try:
            while self._now_s < self._duration_s or (self._are_missing and self._now_s < LONGER * self._duration_s):
                await asyncio.sleep(ASKED_S)
                if asking.done():
                    break
        finally:
            for task in (asking, *self._tasks):
                task.cancel()
            results = await asyncio.gather(asking, *self._tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    @property
    def _now_s(self) -> float:
        return time.perf_counter() - self._began_s

    @property
    def _are_missing(self) -> bool:
        """Whether anybody who came within the duration has neither token nor refusal."""
        return any(
            answer.outcome is Outcome.WAITING and answer.sent_s < self._duration_s for answer in self.answers.values()
        )

    def _spawn(self, work: Any) -> None:
        self._tasks.add(asyncio.get_running_loop().create_task(work))

    async def _client(self, load: TenantLoad) -> None:
        while True:
            answer = await self._request(load)
            if answer.outcome in (Outcome.REFUSED, Outcome.FAILED):
                await asyncio.sleep(PAUSE_S)

    async def _arrivals(self, load: TenantLoad, rate: Open) -> None:
        times = poisson_arrivals if rate.poisson else even_arrivals
        for due_s in times(rate.rate, LONGER * self._duration_s, self._random):
            await asyncio.sleep(due_s - self._now_s)
            self._spawn(self._once(load))

    async def _once(self, load: TenantLoad) -> None:
        await self._request(load)

    async def _request(self, load: TenantLoad) -> Answer:
        draw, shape = self._scenario.lengths.get(load.name), load.shape
        size = draw(self._random) if draw else Request(shape.prompt_tokens, shape.output_tokens, shape.output_tokens)
        answer = Answer(
            load.name, size.prompt_tokens, size.max_tokens, wanted_tokens=min(size.output_tokens, size.max_tokens)
        )
        name = f"{load.name}-{next(self._numbers)}"
        self.answers[name] = answer
        target = self._target.acting_for(load.name)
        target = replace(target, headers=(*target.headers, (CLIENT_ID_HEADER, name)))
        body = {
            "prompt": prompt(self._random, size.prompt_tokens, self._vocabulary),
            "max_tokens": size.max_tokens,
            "temperature": 0,
            "ignore_eos": True,
        }
        answer.reader = asyncio.create_task(send(target, body, answer, lambda: self._now_s))
        try:
            await asyncio.wait([answer.reader])
        finally:
            answer.reader.cancel()
        with suppress(asyncio.CancelledError):
            answer.reader.result()
        return answer

    async def _ask(self) -> None:
        """Note what each waiting request is told."""
        assert self._target.path is not None
        with Client(self._target.path) as client:
            for number in itertools.count():
                await asyncio.sleep(number * ASKED_S - self._now_s)
                state = await asyncio.to_thread(client.get, url("status"))
                now_s = self._now_s
                for waiting in state["queue"]:
                    if (answer := self.answers.get(waiting["client_request_id"])) is not None:
                        told = ("estimated_wait_ms", "estimated_wait_low_ms", "estimated_wait_high_ms")
                        likely_s, low_s, high_s = (waiting[name] / 1000 for name in told)
                        answer.told.append((now_s, likely_s, low_s, high_s))

    def told(self, *, is_first: bool = False) -> Iterator[Told]:
        """What those that came within the duration were told, and how long it then took; or only what each was told
        first."""
        for answer in self.answers.values():
            if answer.first_s is None or answer.sent_s >= self._duration_s:
                continue
            for at_s, likely_s, low_s, high_s in answer.told[:1] if is_first else answer.told:
                if (actual_s := answer.first_s - at_s) >= LEAST_S:
                    yield Told(answer.tenant, None, likely_s, low_s, high_s, actual_s)


@dataclass
class Served:
    """Of one scenario."""

    told: list[Told]
    first: list[Told]  # what each was told first
    answers: int
    unanswered: int


def serve(scenario: Scenario, model: Path, threads: int, duration_s: float, seed: int) -> Served:
    """A scenario on a daemon of its own, which knows nothing of these tenants at its start."""
    config = {
        "model": {"path": str(model)},
        "engine": {"slots": SLOTS, "context_tokens": CONTEXT_TOKENS, "threads": threads},
    }
    limits = scenario.limits
    tenants = {load.name: {"weight": load.weight, "limits": limits.get(load.name, {})} for load in scenario.tenants}
    with tenantd(config, tenants) as target:
        assert target.path is not None
        with Client(target.path) as client:
            vocabulary = ordinary_tokens(client.get(url("status"))["engine"]["vocabulary"])
        clients = Clients(scenario, target, vocabulary, duration_s, seed)
        asyncio.run(clients.run())
    came = [answer for answer in clients.answers.values() if answer.sent_s < duration_s]
    if failed := {answer.message for answer in came if answer.outcome is Outcome.FAILED}:
        raise RuntimeError(f"{scenario.name}: {'; '.join(sorted(failed)[:3])}")
    return Served(
        list(clients.told()), list(clients.told(is_first=True)), len(came), sum(a.first_s is None for a in came)
    )
