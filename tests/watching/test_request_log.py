"""The log of requests: a line each, bounded, followed without a gap."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tenantd.domain import FinishReason, Usage
from tenantd.events import Events, FirstToken, PathKind, Settled
from tenantd.watching.request_log import RequestLog

MOST = 5


def settled(n: int, tenant: str = "acme", at_micros: int = 0) -> Settled:
    return Settled(
        at_micros=at_micros or n,
        request_id=f"req_{n}",
        tenant=tenant,
        tenant_id=1,
        key_id=None,
        state=FinishReason.FAILED,
        usage=Usage(prompt_tokens=7, completion_tokens=3, engine_micros=4500, cached_tokens=2),
        first_token_micros=None,
        duration_micros=1_234_567,
        cause="engine_failure",
        path=PathKind.CHAT,
        queue_micros=100,
        kv_token_micros=1,
    )


@pytest.fixture
def events() -> Iterator[Events]:
    events = Events()
    yield events
    events.close()


@pytest.fixture
def kept(events: Events) -> RequestLog:
    return RequestLog(events, MOST)


def ids(lines: object) -> list[str]:
    return [line.request_id for line in lines.lines]  # type: ignore[attr-defined]


def test_a_request_that_has_ended_is_one_structured_line_of_the_log(
    events: Events, kept: RequestLog, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    events.announce(FirstToken(request_id="req_1", tenant="acme", after_micros=5))
    events.announce(settled(1))
    assert events.close(timeout_s=60)
    [record] = [each for each in caplog.records if each.name == "tenantd.watching.request_log"]
    assert record.levelname == "INFO"
    assert record.getMessage() == (
        "request id=req_1 tenant=acme key=- path=chat state=failed cause=engine_failure prompt=7 cached=2 output=3 "
        "queue_ms=0.1 first_ms=- took_ms=1234.6 engine_ms=4.5"
    )


def test_only_the_newest_lines_are_kept_and_what_a_follower_missed_is_counted(kept: RequestLog) -> None:
    assert (kept.newest(10).lines, kept.after(0, 10).missed) == ([], 0)
    for n in range(1, 9):
        kept.hear(settled(n, "globex" if n % 2 else "acme"))
    assert ids(kept.newest(100)) == ["req_4", "req_5", "req_6", "req_7", "req_8"]
    assert ids(kept.newest(2)) == ["req_7", "req_8"]
    assert ids(kept.newest(2, "acme")) == ["req_6", "req_8"]
    assert ids(kept.newest(100, since_micros=7)) == ["req_7", "req_8"]
    assert kept.newest(1).since_micros == 4 and kept.newest(1).head == 8
    followed = kept.after(1, 100)
    assert (ids(followed), followed.missed) == (["req_4", "req_5", "req_6", "req_7", "req_8"], 2)
    assert (ids(kept.after(3, 2)), kept.after(3, 2).missed) == (["req_4", "req_5"], 0)
    assert ids(kept.after(5, 100, "acme")) == ["req_6", "req_8"]
    assert ids(kept.after(8, 100)) == []
    assert ids(kept.after(1000, 1)) == ["req_4"], "the number is of an earlier daemon"


@pytest.mark.parametrize("page", [1, 2, 3])
def test_a_follower_sees_every_line_once(kept: RequestLog, page: int) -> None:
    seen: list[str] = []
    after = kept.newest(1).head
    for n in range(1, 30):
        kept.hear(settled(n))
        if n % 3:
            continue
        while True:
            found = kept.after(after, page)
            assert not found.missed
            seen += ids(found)
            if len(found.lines) < page:
                after = found.head
                break
            after = found.lines[-1].number
    assert seen == [f"req_{n}" for n in range(1, 28)]
