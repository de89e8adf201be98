"""Prompts are sketched once each, off the event loop, and never more of one tenant than may wait."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

from tenantd.domain import Tenant
from tenantd.events import Event, Events, Sketched
from tenantd.live.generation import Generation
from tenantd.serving.policies import shares
from tenantd.serving.sketching import MOST_WAITING, Sketching
from tenantd.text.pool import TextPool
from tenantd.text.sketches import KEY_BYTES, Sketcher
from tests.serving.daemon_kit import run, until

ACME = Tenant(id=1, name="acme")
SKETCHER = Sketcher(bytes(KEY_BYTES))


class NotingSketcher(Sketcher):
    """Notes in which threads it works."""

    def __init__(self) -> None:
        super().__init__(bytes(KEY_BYTES))
        self.threads: set[str] = set()

    def sketch(self, prompt: Any) -> Any:
        self.threads.add(threading.current_thread().name)
        return super().sketch(prompt)


def prompt(number: int, choice: int = 0) -> Generation:
    return Generation(kind="completion", prompt=[number, 2, 3], choice=choice)


def sketched(tenant: Tenant, generations: list[Generation], sketcher: Sketcher | None = SKETCHER) -> list[Sketched]:
    """What is announced of them, once nothing waits."""
    heard: list[Event] = []

    async def scene() -> None:
        pool, events = TextPool(), Events()
        events.call("test", heard.append)
        sketching = Sketching(sketcher, pool, events)
        sketching.begin(tenant, generations)
        assert not heard, "nothing is done at once"
        await until(lambda: sketching.waiting == 0)
        assert sketching.left_out == max(0, len({tuple(g.prompt) for g in generations}) - MOST_WAITING)
        await sketching.close()
        pool.close()

    run(scene())
    return [event for event in heard if isinstance(event, Sketched)]


def test_each_prompt_is_sketched_once_whatever_the_number_of_choices() -> None:
    sketcher = NotingSketcher()
    found = sketched(ACME, [prompt(1), prompt(1, choice=1), prompt(2)], sketcher)
    assert [event.sketch for event in found] == [SKETCHER.sketch([number, 2, 3]) for number in (1, 2)]
    assert {(event.tenant, event.tenant_id) for event in found} == {("acme", 1)}
    assert all(name.startswith("text-") for name in sketcher.threads), "not in the event loop"


def test_a_system_prompt_is_no_part_of_a_sketch() -> None:
    asked = [9, 8, 7]
    with_system = Generation(kind="chat", prompt=[1, 2, 3, *asked], hidden_tokens=3)
    nothing_else = Generation(kind="completion", prompt=[1, 2, 3], hidden_tokens=3)
    found = sketched(ACME, [with_system, nothing_else])
    assert [event.sketch for event in found] == [SKETCHER.sketch(asked)]


def test_of_very_many_prompts_some_are_left_out() -> None:
    found = sketched(ACME, [prompt(number) for number in range(MOST_WAITING + 40)])
    assert len(found) == MOST_WAITING


def test_without_a_watch_nothing_is_sketched() -> None:
    assert sketched(ACME, [], None) == []


def test_what_waits_when_the_daemon_stops_is_left_out(tmp_path: Path) -> None:
    async def scene() -> None:
        pool, events = TextPool(threads=1), Events()
        sketching = Sketching(SKETCHER, pool, events)
        busy, may_end = threading.Event(), threading.Event()
        blocking = asyncio.create_task(pool.run("acme", lambda: busy.set() or may_end.wait()))
        await until(busy.is_set)
        sketching.begin(ACME, [prompt(1)])
        await asyncio.sleep(0)
        await sketching.close()
        assert sketching.waiting == 0
        may_end.set()
        await blocking
        pool.close()

    run(scene())


def test_a_throttled_tenant_has_an_eighth_of_its_weight() -> None:
    tenants = [Tenant(name="a", weight=4.0), Tenant(name="b", weight=4.0, throttled_micros=1)]
    assert [policy.weight for policy in shares(tenants, 8)] == [4.0, 0.5]
