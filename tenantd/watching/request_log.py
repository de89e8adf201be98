"""A line for each request that has ended: in the log, and the newest in memory for `tenantctl logs`.

Lines tell who, when, how much and how it ended, never a prompt or an answer. A bounded number is kept, since the daemon
started. The ledger has all of them.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from itertools import islice
from typing import Final

import msgspec

from tenantd.clock import now_micros
from tenantd.domain import FinishReason
from tenantd.events import Event, Events, PathKind, Settled

log = logging.getLogger(__name__)

MOST_KEPT: Final = 10_000
"""Lines in memory, of about half a kilobyte each."""


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """A request that has ended. `number` counts lines since the daemon started. Times are in microseconds; `cause` is
    the code of the error that it ended with, null after a good end. `first_token_micros` and `queue_micros`, until it
    had a slot, are null if there was none."""

    number: int
    at_micros: int
    request_id: str
    tenant: str
    tenant_id: int | None
    key_id: str | None
    path: PathKind
    state: FinishReason
    cause: str | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    engine_micros: int
    queue_micros: int | None
    first_token_micros: int | None
    duration_micros: int | None


class KeptLines(msgspec.Struct, frozen=True, kw_only=True):
    """Lines, oldest first. `head` is the number of the newest line, `missed` how many after the wanted one are no
    longer kept. Lines before `since_micros` are not kept."""

    lines: list[LogLine]
    head: int
    missed: int
    since_micros: int


class RequestLog:
    """Listens to all events in a thread of its own."""

    def __init__(self, events: Events, most: int = MOST_KEPT) -> None:
        self._lock = threading.Lock()  # guards everything below
        self._lines: deque[LogLine] = deque(maxlen=most)
        self._head = 0
        self._began_micros = now_micros()
        events.queue("log", self.hear)

    def hear(self, event: Event) -> None:
        """Write and keep the line of a request that has ended."""
        if not isinstance(event, Settled):
            return
        with self._lock:
            self._head += 1
            line = _line(self._head, event)
            self._lines.append(line)
        if log.isEnabledFor(logging.INFO):
            log.info("%s", in_words(line))

    def newest(self, most: int, tenant: str | None = None, since_micros: int = 0) -> KeptLines:
        """The newest lines, at most that many, of all tenants or one, since a time."""
        with self._lock:
            wanted = (line for line in reversed(self._lines) if tenant in (None, line.tenant))
            found = [line for line in islice(wanted, most) if line.at_micros >= since_micros]
            return self._kept(found[::-1], 0)

    def after(self, number: int, most: int, tenant: str | None = None) -> KeptLines:
        """Lines after a number: the oldest of those that are kept, at most `most` of all tenants or one. A number that
        is yet to come is one of an earlier daemon."""
        with self._lock:
            number = number if number <= self._head else 0
            oldest = self._head - len(self._lines) + 1
            new = islice(self._lines, max(0, number + 1 - oldest), None)  # numbers have no gaps
            found = list(islice((line for line in new if tenant in (None, line.tenant)), most))
            return self._kept(found, max(0, oldest - 1 - number))

    def _kept(self, lines: list[LogLine], missed: int) -> KeptLines:
        is_full = len(self._lines) == self._lines.maxlen
        since_micros = self._lines[0].at_micros if is_full else self._began_micros
        return KeptLines(lines=lines, head=self._head, missed=missed, since_micros=since_micros)


def in_words(line: LogLine) -> str:
    """The line as the log has it: `request id=… tenant=acme … state=stop …`, - for nothing."""
    fields = {
        "id": line.request_id,
        "tenant": line.tenant,
        "key": line.key_id,
        "path": line.path.value,
        "state": line.state.value,
        "cause": line.cause,
        "prompt": line.prompt_tokens,
        "cached": line.cached_tokens,
        "output": line.completion_tokens,
        "queue_ms": _ms(line.queue_micros),
        "first_ms": _ms(line.first_token_micros),
        "took_ms": _ms(line.duration_micros),
        "engine_ms": _ms(line.engine_micros),
    }
    return "request " + " ".join(f"{name}={'-' if value is None else value}" for name, value in fields.items())


def _ms(micros: int | None) -> str | None:
    return None if micros is None else f"{micros / 1000:.1f}"


def _line(number: int, event: Settled) -> LogLine:
    usage = event.usage
    return LogLine(
        number=number,
        at_micros=event.at_micros,
        request_id=event.request_id,
        tenant=event.tenant,
        tenant_id=event.tenant_id,
        key_id=event.key_id,
        path=event.path,
        state=event.state,
        cause=event.cause,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
        engine_micros=usage.engine_micros,
        queue_micros=event.queue_micros,
        first_token_micros=event.first_token_micros,
        duration_micros=event.duration_micros,
    )
