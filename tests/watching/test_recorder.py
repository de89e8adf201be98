"""Events become entries of the audit trail, refusals one a second."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec
import pytest

from tenantd import budget_events, events
from tenantd.budget_events import BudgetReached
from tenantd.config import Config, parse_config
from tenantd.domain import BudgetUnit
from tenantd.events import (
    Action,
    Administered,
    CleanedUp,
    EngineLost,
    EngineStarted,
    Event,
    Events,
    Loss,
    PathKind,
    Refused,
    Started,
)
from tenantd.ledger.audit import Entry, columns
from tenantd.periods import Period
from tenantd.watching import recorder as recording
from tenantd.watching.recorder import _NAMES, MOST_COUNTED, MOST_NAMED, PORTION, WITHOUT_ROW, Recorder
from tests.serving.daemon_kit import run

MODULES = (events.__name__, budget_events.__name__)


class Ledger:
    """Remembers what is to be recorded."""

    def __init__(self) -> None:
        self.healthy = True
        self.entries: list[Entry] = []

    def audit(self, entries: list[Entry]) -> None:
        for entry in entries:
            columns(entry)  # it can be stored
        self.entries += entries


def recorder() -> tuple[Recorder, Ledger, Events]:
    ledger, announced = Ledger(), Events()
    return Recorder(cast(Any, ledger), announced), ledger, announced


def refused(number: int, cause: str = "queue_full", tenant_id: int | None = 1, **who: Any) -> Refused:
    tenant = None if tenant_id is None else f"tenant{tenant_id}"
    return Refused(
        at_micros=number, cause=cause, http_status=429, path=PathKind.CHAT, tenant=tenant, tenant_id=tenant_id, **who
    )


OF = {"request_id": "req_1", "tenant": "acme", "tenant_id": 7, "at_micros": 5}


@pytest.mark.parametrize(
    ("event", "name", "detail"),
    [
        (
            Started(waited_micros=1, adapter="a.gguf", adapter_sha256="00", system_prompt_hmac="ff", **OF),
            "resources",
            {"adapter": "a.gguf", "adapter_sha256": "00", "system_prompt_hmac": "ff"},
        ),
        (CleanedUp(**OF), "cleaned_up", {}),
        (
            EngineStarted(pid=3, slots=4, context_tokens=512, restarts=1, at_micros=5),
            "engine_started",
            {"pid": 3, "slots": 4, "context_tokens": 512, "restarts": 1},
        ),
        (
            EngineLost(reason=Loss.SIGNAL, status=-9, live=2, at_micros=5),
            "engine_lost",
            {"reason": "signal", "status": -9, "live": 2},
        ),
        (
            BudgetReached(
                budget_id=3,
                tenant="acme",
                tenant_id=7,
                key_id=None,
                period=Period.DAILY,
                unit=BudgetUnit.TOKENS,
                level=80,
                used=8,
                cap=10,
                since_micros=1,
                resets_micros=2,
                at_micros=5,
            ),
            "budget_reached",
            {"budget_id": 3, "period": "daily", "unit": "tokens", "level": 80, "used": 8, "cap": 10},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_happens_is_recorded_at_once(event: Event, name: str, detail: dict[str, Any]) -> None:
    _, ledger, announced = recorder()
    announced.announce(event)
    [entry] = ledger.entries
    assert (entry.event, entry.at_micros) == (name, 5)
    assert {key: entry.detail[key] for key in detail} == detail
    if isinstance(event, BudgetReached):
        assert (entry.request_id, entry.tenant_id, entry.tenant) == (None, 7, "acme")
    elif isinstance(event, Started | CleanedUp):
        assert (entry.request_id, entry.tenant_id, entry.tenant) == ("req_1", 7, "acme")
    else:
        assert entry.request_id is entry.tenant_id is entry.tenant is None
    assert announced.accounts()["audit"].failed == 0


def test_a_cancelled_request_is_recorded_with_its_actor() -> None:
    _, ledger, announced = recorder()
    cancelled = Administered(action=Action.REQUEST_CANCELLED, actor_uid=0, actor_pid=9, request_id="req_1")
    announced.announce(cancelled)
    [entry] = ledger.entries
    assert (entry.event, entry.request_id, entry.detail["action"]) == ("administered", "req_1", "request_cancelled")
    assert (entry.detail["by"]["uid"], entry.detail["by"]["pid"]) == (0, 9)


@pytest.mark.parametrize("action", [action for action in Action if action not in WITHOUT_ROW])
def test_what_is_recorded_with_its_change_is_not_recorded_again(action: Action) -> None:
    _, ledger, announced = recorder()
    announced.announce(Administered(action=action, actor_uid=0))
    assert ledger.entries == []


def test_a_reload_is_recorded_with_what_it_changed() -> None:
    listener, ledger, _ = recorder()
    after = parse_config({"limits": {"default_max_tokens": 9}}, "test")
    listener.reloaded(Config(), after)
    [entry] = ledger.entries
    assert entry.detail["before"] == {"limits.default_max_tokens": Config().limits.default_max_tokens}
    assert entry.detail["after"] == {"limits.default_max_tokens": 9}
    assert entry.detail["action"] == "reloaded"


def test_ten_thousand_refusals_a_second_are_one_entry_for_each_tenant_and_cause() -> None:
    listener, ledger, announced = recorder()
    for number in range(10_000):
        announced.announce(refused(number, uid=number, key_id=f"key_{number}"))
        announced.announce(refused(number, cause="not_found", tenant_id=None))
    assert ledger.entries == []
    listener.flush()
    queue_full, not_found = ledger.entries
    assert (queue_full.event, queue_full.tenant_id, queue_full.tenant) == ("refused", 1, "tenant1")
    assert (queue_full.at_micros, queue_full.detail["until_micros"]) == (0, 9_999)
    assert (queue_full.detail["cause"], queue_full.detail["http_status"]) == ("queue_full", 429)
    assert queue_full.detail["uids"] == list(range(MOST_NAMED)) and len(queue_full.detail["keys"]) == MOST_NAMED
    assert (not_found.tenant_id, not_found.tenant) == (None, None)
    assert queue_full.detail["count"] == not_found.detail["count"] == 10_000
    listener.flush()
    assert len(ledger.entries) == 2, "no refusal, no entry"


def test_refusals_wait_while_nothing_can_be_written_and_none_is_forgotten() -> None:
    listener, ledger, announced = recorder()
    ledger.healthy = False
    for second in range(5):
        announced.announce(refused(second))
        listener.flush()
    assert ledger.entries == []
    ledger.healthy = True
    listener.flush()
    [entry] = ledger.entries
    assert (entry.detail["count"], entry.at_micros, entry.detail["until_micros"]) == (5, 0, 4)
    ledger.healthy = False
    announced.announce(refused(9))
    listener.flush(is_last=True)
    assert ledger.entries[1].detail["count"] == 1, "the ledger sets it aside for the next start"


def test_the_counts_are_bounded_and_their_sum_is_right() -> None:
    listener, ledger, announced = recorder()
    for number in range(2 * MOST_COUNTED):
        announced.announce(refused(number, tenant_id=number))
    listener.flush()
    assert len(ledger.entries) == MOST_COUNTED + 1
    assert sum(entry.detail["count"] for entry in ledger.entries) == 2 * MOST_COUNTED
    assert ledger.entries[-1].tenant_id is None


def test_many_counts_are_recorded_in_portions_between_which_the_loop_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "INTERVAL_S", 0.001)
    listener, ledger, announced = recorder()
    for number in range(5 * PORTION // 2):
        announced.announce(refused(number, tenant_id=number))
    sizes: list[int] = []

    async def scene() -> None:
        running = asyncio.create_task(listener.run())
        while len(ledger.entries) < 5 * PORTION // 2:
            await asyncio.sleep(0)
            if not sizes or len(ledger.entries) > sizes[-1]:
                sizes.append(len(ledger.entries))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run(scene())
    assert [size for size in sizes if size] == [PORTION, 2 * PORTION, 5 * PORTION // 2]
    assert [entry.tenant_id for entry in ledger.entries] == list(range(5 * PORTION // 2))


def test_every_kind_of_event_is_recorded_or_is_known_not_to_be() -> None:
    elsewhere = {"Repeated", "Admitted", "Settled", "FirstToken", "Refused", "Administered", "Sketched"}
    kinds = {kind.__name__ for kind in Event.__subclasses__() if kind.__module__ in MODULES}
    assert kinds == elsewhere | {kind.__name__ for kind in _NAMES}
    assert msgspec.json.encode(refused(1))
