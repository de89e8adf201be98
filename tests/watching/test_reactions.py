"""What is done about an anomaly is done at last, even if the ledger cannot be written at first."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

import pytest

from tenantd.domain import WATCH, OnAnomaly, Tenant
from tenantd.errors import InvalidRequest, LedgerUnavailable, NotFound, TenantdError
from tenantd.events import AnomalyFound, Deviation, Event, Events, Signal
from tenantd.watching import reactions
from tenantd.watching.reactions import Reactions
from tenantd.watching.scores import Anomaly
from tests.serving.daemon_kit import run, until

ANOMALY = Anomaly(70, 12.5, (Deviation(signal=Signal.VOLUME, value=70, usual=7, weight=12.5),))


class Directory:
    def __init__(self, action: OnAnomaly) -> None:
        self.tenants = {"acme": Tenant(id=1, name="acme", on_anomaly=action)}


class Administration:
    """Fails as often as it is told to, then notes what it is asked for."""

    def __init__(self, failures: int = 0, error: TenantdError | None = None) -> None:
        self.failures = failures
        self.error = error or LedgerUnavailable("the disk is full")
        self.done: list[Any] = []

    async def _do(self, *what: Any) -> None:
        if self.failures:
            self.failures -= 1
            raise self.error
        self.done.append(what)

    async def record_anomaly(self, found: AnomalyFound) -> None:
        await self._do("record", found.tenant)

    async def throttle(self, actor: Any, name: str) -> None:
        await self._do("throttle", actor, name)

    async def suspend(self, actor: Any, name: str) -> None:
        await self._do("suspend", actor, name)


def react(action: OnAnomaly, failures: int = 0, tenant_id: int = 1) -> tuple[list[Any], list[Event]]:
    """What is done, and what is announced, when another thread finds an anomaly."""
    administration, heard = Administration(failures), list[Event]()

    async def scene() -> None:
        events = Events()
        events.call("test", heard.append)
        reacting = Reactions(events, cast(Any, Directory(action)), cast(Any, administration))
        finder = threading.Thread(target=reacting.found, args=(tenant_id, ANOMALY))
        finder.start()
        wanted = 0 if tenant_id != 1 else 1 if action is OnAnomaly.LOG else 2
        await until(lambda: len(administration.done) == wanted and not finder.is_alive())
        await asyncio.sleep(0)
        await reacting.close()

    run(scene())
    return administration.done, heard


@pytest.mark.parametrize("action", OnAnomaly)
def test_it_is_announced_recorded_and_acted_on(action: OnAnomaly) -> None:
    done, [event] = react(action)
    acted = [] if action is OnAnomaly.LOG else [(action.value, WATCH, "acme")]
    assert done == [("record", "acme"), *acted]
    assert isinstance(event, AnomalyFound) and (event.action, event.requests, event.score) == (action, 70, 12.5)


def test_it_is_tried_until_the_ledger_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reactions, "RETRY_S", 0.001)
    done, heard = react(OnAnomaly.SUSPEND, failures=3)
    assert done == [("record", "acme"), ("suspend", WATCH, "acme")] and len(heard) == 1


def test_of_a_tenant_that_is_gone_nothing_is_said() -> None:
    assert react(OnAnomaly.SUSPEND, tenant_id=2) == ([], [])


@pytest.mark.parametrize(
    ("error", "tries"),
    [(InvalidRequest("no such weight"), 1), (NotFound("no such tenant"), reactions.MOST_NOT_FOUND)],
    ids=["invalid", "not found"],
)
def test_what_can_never_be_done_is_given_up_and_said(
    error: TenantdError, tries: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reactions, "RETRY_S", 0.001)
    administration = Administration(1000, error)

    async def scene() -> None:
        reacting = Reactions(Events(), cast(Any, Directory(OnAnomaly.LOG)), cast(Any, administration))
        reacting.found(1, ANOMALY)
        await until(lambda: "gave up" in caplog.text and not reacting._tasks)
        await reacting.close()

    run(scene())
    assert administration.failures == 1000 - tries
    assert f"gave up acting on an anomaly of tenant acme: {error.message}" in caplog.text
