"""What happens in the daemon, as typed events, each announced once to all listeners.

Events tell who, when, how much and why, in numbers, names and fixed sets of causes. They never contain a prompt, a
text, a grammar or a schema, so a listener may record everything.

A listener cannot do harm. One that does very little (such as counting) may be called directly in the event loop; its
exceptions are counted. Any other has its own thread and bounded queue: while it is slow, its events wait there,
and if the queue is full they are dropped and counted. Announcing never waits.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
import traceback
from collections.abc import Callable
from enum import StrEnum
from queue import SimpleQueue
from typing import Final, NamedTuple

import msgspec

from tenantd.actions import Action as Action
from tenantd.clock import now_micros
from tenantd.domain import Breach, FinishReason, IsolationCheck, OnAnomaly, Part, Sketch, Usage, Verdict

log = logging.getLogger(__name__)

MOST_WAITING: Final = 4096
"""Maximum events that wait for one listener; each takes a few hundred bytes."""
GATHER_S: Final = 0.02  # for which a thread lets events come, because waking it costs whoever announces them
REPORT_INTERVAL_S: Final = 60.0
CLOSE_TIMEOUT_S: Final = 1.0


class PathKind(StrEnum):
    """What a refused request was for; the path itself could contain anything."""

    COMPLETION = "completion"
    CHAT = "chat"
    EMBEDDING = "embedding"
    TEXT = "text"  # of text alone: its tokens, messages as a prompt
    MODELS = "models"
    QUEUE = "queue"
    FIGURES = "figures"  # what tenants ask of their own: usage, limits, requests, invoices
    ADMIN = "admin"
    METRICS = "metrics"
    PAGE = "page"  # the web page, and what it asks for
    HEALTH = "health"
    OTHER = "other"  # no such route
    NONE = "none"  # refused without a path: not HTTP, or too many connections


class Loss(StrEnum):
    """How an engine process was lost."""

    EXITED = "exited"
    SIGNAL = "signal"
    MEMORY = "out_of_memory"
    HUNG = "hung"  # no heartbeat; killed by the daemon
    KILLED = "killed"  # by the daemon, because of its behaviour
    NOT_STARTED = "not_started"


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


class Event(msgspec.Struct, frozen=True, kw_only=True, tag=_snake, tag_field="event"):
    """Something that has happened. `at_micros`: wall clock, microseconds since 1970.

    As JSON, `event` is its kind: "first_token".
    """

    at_micros: int = msgspec.field(default_factory=now_micros)


class Admitted(Event, frozen=True, kw_only=True):
    """A request was admitted: it has an id and will have a row in the ledger. One event per choice and prompt.

    `key_id` is None for a request that showed no key; `uid` is the user at the other end. `logprobs`: alternatives
    asked for with each token, None for no logprobs; `logit_biases`: how many tokens are biased.
    """

    request_id: str
    tenant: str
    tenant_id: int | None
    key_id: str | None
    uid: int | None
    path: PathKind
    prompt_tokens: int
    max_tokens: int
    choice: int
    queue_position: int
    logprobs: int | None
    logit_biases: int


class Refused(Event, frozen=True, kw_only=True):
    """A client got an error instead of an answer. `cause` is the error's code, or `MALFORMED`.

    `request_id` is None for a request that was not admitted; otherwise it failed before its first token. `tenant`,
    `key_id` and `uid` (of the peer process) are None if unknown, `address` (or network, of IPv6) on the Unix socket.
    """

    cause: str
    http_status: int
    path: PathKind
    tenant: str | None = None
    tenant_id: int | None = None
    key_id: str | None = None
    uid: int | None = None
    address: str | None = None
    request_id: str | None = None


MALFORMED: Final = "malformed_http"
"""The cause for input that is not HTTP. Its answer has the code of any other bad request."""


class Repeated(Event, frozen=True, kw_only=True):
    """An answer that was kept for an `Idempotency-Key` is given again."""

    tenant: str


class Started(Event, frozen=True, kw_only=True):
    """A request got a sequence in the engine and starts to run, `waited_micros` after its creation.

    `binding` is the number of this use of the sequence; a sequence may be moved later, and a binding stays.
    `adapter` is the name of the file of its adapter, `adapter_sha256` the hash of its whole path, and `adapter_version`
    what tells this file from others at that path (last change, size, inode); None without one.
    `system_prompt_hmac` is the keyed hash of the system prompt put before its own, None if there is none.
    """

    request_id: str
    tenant: str
    waited_micros: int
    tenant_id: int | None = None
    sequence: int | None = None
    binding: int | None = None
    adapter: str | None = None
    adapter_sha256: str | None = None
    adapter_version: str | None = None
    system_prompt_hmac: str | None = None


class FirstToken(Event, frozen=True, kw_only=True):
    """A request's first token arrived, `after_micros` after its creation."""

    request_id: str
    tenant: str
    after_micros: int


class Settled(Event, frozen=True, kw_only=True):
    """A request has ended, and its row in the ledger is final.

    Without `has_row`, the ledger has no row, and the request costs nothing. `cause` is the code of the error it
    ended with, None after a good end. `queue_micros` is None if it never had a slot; `kv_token_micros` counts the
    tokens it had in slots, times how long they were there.
    """

    request_id: str
    tenant: str
    tenant_id: int | None
    key_id: str | None
    state: FinishReason
    usage: Usage
    first_token_micros: int | None  # since its creation, as is the next
    duration_micros: int | None
    cause: str | None
    path: PathKind
    queue_micros: int | None
    kv_token_micros: int
    has_row: bool = True


class CleanedUp(Event, frozen=True, kw_only=True):
    """Nothing is left of a request: its sequence in the engine is cleared, and the daemon has forgotten it."""

    request_id: str
    tenant: str
    tenant_id: int | None = None


class KeyFirstUsed(Event, frozen=True, kw_only=True):
    """A key was shown for the first time since it was created. One that administers has no tenant; `uid` is the user at
    the other end."""

    key_id: str
    tenant: str | None
    tenant_id: int | None
    uid: int | None


class Administered(Event, frozen=True, kw_only=True):
    """An administrator changed something. `fields` names what changed.

    The actor is the key, if one was shown, or else the user. Both are None for a signal, and for `actor_part`,
    a part of the daemon that acts by itself.
    """

    action: Action
    actor_uid: int | None
    actor_pid: int | None = None
    actor_key_id: str | None = None
    actor_part: Part | None = None
    actor_address: str | None = None
    tenant: str | None = None
    tenant_id: int | None = None
    key_id: str | None = None
    request_id: str | None = None
    fields: tuple[str, ...] = ()


class Sketched(Event, frozen=True, kw_only=True):
    """The sketch of an admitted prompt is made. One event per prompt, whatever the number of choices."""

    tenant: str
    tenant_id: int
    sketch: Sketch


class Signal(StrEnum):
    """What the anomaly watch compares with a tenant's past."""

    VOLUME = "volume"  # requests
    DISTINCT = "distinct"  # share of prompts that are not repeated
    SWEEP = "sweep"  # share of prompts that resemble a recent one
    LOGPROBS = "logprobs"  # share of requests with logprobs or biased logits
    OUTPUT = "output"  # output tokens per prompt token
    COVERAGE = "coverage"  # different tokens in the prompts
    NOVELTY = "novelty"  # share of those that the tenant did not use before
    SHIFT = "shift"  # distance of the prompts from those of the past (maximum mean discrepancy)


class Deviation(msgspec.Struct, frozen=True, kw_only=True):
    """One signal of an anomaly: its value, what is usual for the tenant, and what it adds to the score."""

    signal: Signal
    value: float
    usual: float
    weight: float


class AnomalyFound(Event, frozen=True, kw_only=True):
    """A tenant's requests of the last 12 to 24 hours are so unlike those before that it may be copying the model.

    `deviations` begin with the strongest. `action` is what is done about it.
    """

    tenant: str
    tenant_id: int
    requests: int
    score: float
    threshold: float
    deviations: tuple[Deviation, ...]
    action: OnAnomaly


class BindingBroken(Event, frozen=True, kw_only=True):
    """What came for a request was not its own. The request was ended before anything was delivered, and the engine is
    restarted.

    `binding` is the request's, `reported` what the engine said; `other` is the tenant of the connection.
    """

    breach: Breach
    request_id: str
    tenant: str
    tenant_id: int | None
    binding: int | None
    reported: int | None = None
    other: str | None = None


class EngineStarted(Event, frozen=True, kw_only=True):
    """An engine process has loaded the model and is ready."""

    pid: int | None
    slots: int
    context_tokens: int
    restarts: int  # processes before it


class EngineLost(Event, frozen=True, kw_only=True):
    """An engine process ended unexpectedly. `status` is like `Popen.returncode`; `live`: requests that wait for the
    next."""

    reason: Loss
    status: int | None
    live: int


class IsolationChecked(Event, frozen=True, kw_only=True):
    """The isolation between tenants was checked by an administrator. Checks that are not named held."""

    result: Verdict
    failed: tuple[IsolationCheck, ...]
    inconclusive: tuple[IsolationCheck, ...]
    quick: bool
    duration_micros: int
    actor_uid: int | None
    actor_pid: int | None
    actor_key_id: str | None


Listener = Callable[[Event], None]


class Account(NamedTuple):
    """How many events a listener failed on, and how many were dropped because its queue was full."""

    failed: int = 0
    dropped: int = 0


class _Direct:
    """A listener that is called in the event loop."""

    def __init__(self, name: str, listener: Listener) -> None:
        self.name = name
        self.failed = self.dropped = 0
        self.error = ""  # the last that the listener raised
        self._listener = listener

    def take(self, event: Event) -> None:
        """Deliver an event. Never raises, never waits."""
        try:
            self._listener(event)
        except Exception as e:
            self.failed += 1
            self.error = traceback.format_exception_only(e)[-1].strip()  # works even if its own repr fails


class _Lane(_Direct):
    """A listener with a thread and a queue. `dropped` is written by the announcer, `failed` by the thread."""

    def __init__(self, name: str, listener: Listener, most_waiting: int) -> None:
        super().__init__(name, listener)
        self._most_waiting = most_waiting
        self._queue: SimpleQueue[Event | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"events-{name}", daemon=True)
        self._thread.start()

    def take(self, event: Event) -> None:
        if self._queue.qsize() >= self._most_waiting:
            self.dropped += 1
        else:
            self._queue.put(event)

    def end(self) -> None:
        self._queue.put(None)

    def join(self, timeout_s: float) -> bool:
        """Whether it has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (event := self._queue.get()) is not None:
            super().take(event)
            if self._queue.empty():
                time.sleep(GATHER_S)


class Events:
    """Announces events. Everything except queued listeners runs in the event loop's thread. Register listeners at
    start, before anything is announced."""

    def __init__(self) -> None:
        self._listeners: list[_Direct] = []
        self._reported: dict[str, Account] = {}

    def call(self, name: str, listener: Listener) -> None:
        """Call `listener` directly with each event; it must return within microseconds and never wait."""
        self._listeners.append(_Direct(name, listener))

    def queue(self, name: str, listener: Listener, most_waiting: int = MOST_WAITING) -> None:
        """Call `listener` with each event in order, in a thread of its own."""
        self._listeners.append(_Lane(name, listener, most_waiting))

    def announce(self, event: Event) -> None:
        """Tell all listeners. Never raises, never waits."""
        for listener in self._listeners:
            listener.take(event)

    def accounts(self) -> dict[str, Account]:
        """By listener."""
        return {each.name: Account(each.failed, each.dropped) for each in self._listeners}

    async def watch(self) -> None:
        """Once a minute, log which listeners fail or miss events. Runs until cancelled."""
        while True:
            await asyncio.sleep(REPORT_INTERVAL_S)
            self.report()

    def report(self) -> None:
        """Log which listeners have failed or missed events since the last report."""
        before, self._reported = self._reported, self.accounts()
        for each in self._listeners:
            now, then = self._reported[each.name], before.get(each.name, Account())
            if dropped := now.dropped - then.dropped:
                log.warning("listener %s was too slow and missed %d events", each.name, dropped)
            if failed := now.failed - then.failed:
                log.warning("listener %s failed on %d events: %s", each.name, failed, each.error)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Let queued listeners finish, for at most this long together. Returns whether all have ended. Blocks."""
        lanes = [each for each in self._listeners if isinstance(each, _Lane)]
        end_s = time.monotonic() + timeout_s
        for lane in lanes:
            lane.end()
        have_ended = [lane.join(max(0.0, end_s - time.monotonic())) for lane in lanes]
        self.report()
        return all(have_ended)
