"""A started service over a scripted engine and a ledger in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from tenantd.config import Config
from tenantd.domain import Limits, Priority, Tenant
from tenantd.events import Event, Settled
from tenantd.live.generation import Generation
from tenantd.live.streams import Delta, LiveStream
from tenantd.serving.service import Service
from tenantd.text.vocabulary import ByteVocabulary
from tests.fleet.scripted_engine import token_at
from tests.serving.daemon_kit import config, is_gone, scripted
from tests.serving.memory_ledger import MemoryDirectory, MemoryLedger
from tests.support.hearing.lives import check_lives

ACME = Tenant(name="acme", weight=2.0, priority=Priority.HIGH)


GLOBEX = Tenant(name="globex", limits=Limits(max_concurrent=3))
SLOW = {"step_s": 0.02}
"""The script of an engine whose requests last for seconds."""


class Scene:
    """A started service with a ready engine; at the end everything is settled and nothing is left over."""

    def __init__(
        self,
        folder: Path,
        *script: dict[str, Any],
        settings: Config | None = None,
        tenants: tuple[Tenant, ...] = (ACME, GLOBEX),
        clock_s: Callable[[], float] = time.monotonic,
        on_tenants: Callable[[Iterable[str]], None] | None = None,
    ) -> None:
        self.ledger = MemoryLedger()
        self.heard: list[Event] = []
        self.directory = MemoryDirectory(*tenants)
        self.service = Service(
            settings or config(),
            cast(Any, self.ledger),
            cast(Any, self.directory),
            ByteVocabulary(),
            cast(Any, None),
            command=scripted(folder, *script),
            clock_s=clock_s,
            slowest_restart_s=0.05,
            on_tenants=on_tenants,
        )
        self.service.events.call("test", self.heard.append)

    async def __aenter__(self) -> Scene:
        await self.service.start()
        await self.service.supervisor.wait_ready()
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        pid = self.service.supervisor.pid
        await self.service.stop()
        assert pid is None or is_gone(pid)
        if kind is None:
            self.service.idle_check()
            assert self.ledger.settlements.keys() == self.ledger.admissions.keys(), "every row is settled"
            check_lives(self.heard)
            settled = {event.request_id for event in self.heard if isinstance(event, Settled) and event.has_row}
            assert settled == self.ledger.settlements.keys(), "every settlement is announced"

    async def submit(
        self, prompt: list[int], max_tokens: int | None = 10, tenant: Tenant = ACME, stops: tuple[str, ...] = ()
    ) -> LiveStream:
        return await self.service.submit(
            tenant, Generation(kind="completion", prompt=prompt, max_tokens=max_tokens, stops=stops)
        )

    def row(self, stream: LiveStream) -> Any:
        return self.ledger.settlements[stream.id]


async def read(stream: LiveStream) -> list[Delta]:
    deltas: list[Delta] = []
    while new := await stream.take():
        deltas += new
    return deltas


def tokens(deltas: list[Delta]) -> list[int]:
    return [delta.token for delta in deltas if delta.token >= 0]


def expected(prompt: list[int], count: int) -> list[int]:
    return [token_at(prompt, i) for i in range(count)]
