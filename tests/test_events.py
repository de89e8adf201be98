"""Events: what they may carry, and that no listener harms anybody."""

from __future__ import annotations

import asyncio
import threading
import time
import types
import typing
from enum import Enum

import msgspec
import pytest

from tenantd import events
from tenantd.budget_events import BudgetReached
from tenantd.events import Account, Action, Administered, CleanedUp, Event, Events, FirstToken
from tests.support.daemon import wait_until

TEXTS = {
    *("request_id", "tenant", "key_id", "actor_key_id", "actor_address", "address", "cause", "fields"),
    *("adapter", "adapter_sha256", "adapter_version", "system_prompt_hmac", "other"),
}
"""The fields of events that hold text. All of it is the daemon's own words: ids that it made, names of tenants that
exist and of their adapters, times and sizes of their files, codes of errors, names of fields, hashes. Nothing that a
client has written may become one more."""


def kinds() -> list[type[Event]]:
    return Event.__subclasses__()


def cleaned_up(number: int) -> CleanedUp:
    return CleanedUp(request_id=f"req_{number}", tenant="acme")


def types_within(annotation: object) -> set[type]:
    """The types of the values that a field can have."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType, tuple):
        return set().union(*(types_within(argument) for argument in arguments if argument is not ...))
    assert isinstance(annotation, type), annotation
    if issubclass(annotation, msgspec.Struct):
        return set().union(*(types_within(hint) for hint in typing.get_type_hints(annotation).values()))
    return {annotation}


def test_there_is_a_kind_for_everything_that_happens() -> None:
    named = {kind.__struct_config__.tag for kind in kinds()}
    assert named == {
        "admitted",
        "refused",
        "started",
        "first_token",
        "settled",
        "cleaned_up",
        "repeated",
        "key_first_used",
        "administered",
        "engine_started",
        "engine_lost",
        "sketched",
        "anomaly_found",
        "isolation_checked",
        "binding_broken",
        BudgetReached.__struct_config__.tag,
    }


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_a_field_is_a_number_one_of_a_closed_set_or_a_name(kind: type[Event]) -> None:
    for name, hint in typing.get_type_hints(kind).items():
        for found in types_within(hint):
            if found is str:
                assert name in TEXTS, f"{kind.__name__}.{name} could hold any text"
            else:
                assert found in (int, float, bool, types.NoneType) or issubclass(found, Enum), (kind, name, found)


def test_events_cannot_be_changed_and_become_json() -> None:
    event = Administered(action=Action.KEY_CREATED, actor_uid=0, tenant="acme", at_micros=5)
    with pytest.raises(AttributeError):
        event.tenant = "globex"  # type: ignore[misc]
    found = msgspec.json.decode(msgspec.json.encode(event))
    assert (found["event"], found["action"], found["at_micros"]) == ("administered", "key_created", 5)
    assert msgspec.json.decode(msgspec.json.encode(event), type=Administered) == event


def test_an_event_has_the_time_at_which_it_was_made() -> None:
    before_micros = time.time_ns() // 1000
    event = FirstToken(request_id="req_1", tenant="acme", after_micros=1)
    assert before_micros <= event.at_micros <= time.time_ns() // 1000


def test_every_listener_gets_every_event_once_and_in_order() -> None:
    announcer, at_once, queued = Events(), list[Event](), list[Event]()
    announcer.call("at once", at_once.append)
    announcer.queue("queued", queued.append)
    announced: list[Event] = [cleaned_up(number) for number in range(100)]
    for event in announced:
        announcer.announce(event)
    assert at_once == announced
    assert announcer.close(timeout_s=60)
    assert queued == announced
    assert announcer.accounts() == {"at once": Account(), "queued": Account()}


def test_a_listener_that_raises_is_counted_and_the_others_get_everything(caplog: pytest.LogCaptureFixture) -> None:
    class Awkward(Exception):
        def __str__(self) -> str:
            raise AssertionError("not even this works")

    def broken(event: Event) -> None:
        raise Awkward

    announcer, heard = Events(), list[Event]()
    announcer.call("broken", broken)
    announcer.queue("broken too", broken)
    announcer.call("last", heard.append)
    for number in range(10):
        announcer.announce(cleaned_up(number))
    assert len(heard) == 10
    assert announcer.close(timeout_s=60)
    announcer.report()  # nothing has happened since
    assert announcer.accounts() == {"broken": Account(failed=10), "broken too": Account(failed=10), "last": Account()}
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and all("failed on 10 events:" in line and "Awkward" in line for line in said)


def test_a_listener_that_blocks_keeps_nobody_waiting_and_misses_what_its_queue_cannot_hold(
    caplog: pytest.LogCaptureFixture,
) -> None:
    let_go, began = threading.Event(), threading.Event()
    slow: list[Event] = []

    def listen_slowly(event: Event) -> None:
        began.set()
        let_go.wait(120)
        slow.append(event)

    announcer, heard = Events(), list[Event]()
    announcer.queue("slow", listen_slowly, most_waiting=8)
    announcer.queue("quick", heard.append)
    announcer.announce(cleaned_up(0))
    assert began.wait(120)
    began_s = time.monotonic()
    for number in range(1, 101):
        announcer.announce(cleaned_up(number))
    wait_until(lambda: len(heard) == 101, "all of them in the other thread")
    assert not announcer.close(0.1)  # nor does it keep the daemon from stopping
    assert time.monotonic() - began_s < 60
    assert announcer.accounts()["slow"] == Account(dropped=92)
    announcer.report()
    assert [record.getMessage() for record in caplog.records] == ["listener slow was too slow and missed 92 events"]
    let_go.set()
    assert announcer.close(timeout_s=60)
    assert slow == heard[:9]


def test_once_a_minute_the_log_says_which_listeners_missed_events(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert events.REPORT_INTERVAL_S == 60
    monkeypatch.setattr(events, "REPORT_INTERVAL_S", 0.01)
    let_go = threading.Event()
    announcer = Events()
    announcer.queue("slow", lambda event: let_go.wait(120) and None, most_waiting=0)

    async def main() -> None:
        watching = asyncio.create_task(announcer.watch())
        for announced in (1, 2):
            announcer.announce(cleaned_up(announced))
            async with asyncio.timeout(120):
                while len(caplog.records) < announced:
                    await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        watching.cancel()

    asyncio.run(main())
    let_go.set()
    announcer.close()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2 and all("slow" in line and line.endswith(" 1 events") for line in lines), lines
