"""Requests with an `Idempotency-Key`: what such a key stands for, so that nothing is run or billed twice.

A key is claimed in memory from the moment its request has arrived until the rows of that request are settled, and it is
written in the transaction in which these rows are inserted. After that the answer may be kept in memory; whether or not
it is, the ledger says for a day what became of the request. A request that has used nothing does not keep its key.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final

from tenantd.domain import RUNNING, Tenant, Usage, as_billed
from tenantd.errors import Conflict, ErrorBody, FirstOfKey, TenantdError
from tenantd.ledger.audit import MakeEntry
from tenantd.ledger.idempotency import BATCH_KEYS, FirstRequest, KeyedBody, find_first, prune_keys
from tenantd.ledger.ledger import Admitted, Ledger
from tenantd.live.streams import LiveStream
from tenantd.serving.kept_answers import KeptAnswer, KeptAnswers, Recording

log = logging.getLogger(__name__)

PRUNE_INTERVAL_S: Final = 600.0
UNANSWERED_S: Final = 600.0
"""How long a key is claimed by a request that nobody begins to answer, as when its connection is lost before."""
PAUSE_S: Final = 0.05
"""Between two batches of keys that are pruned."""
SETTLING_S: Final = 1
"""How long it takes until a request that has ended, or is just being read, can be told of."""


class AboutKey(Conflict):
    """An idempotency key stands for another request, which `first` describes if the client should know of it."""

    def __init__(self, message: str, *, first: FirstOfKey | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message, param="idempotency-key", retry_after_s=retry_after_s)
        self.first = first

    def body(self) -> ErrorBody:
        """The JSON object of an HTTP answer."""
        body = super().body()
        if self.first is not None:
            body["error"]["x_tenantd"] = self.first
        return body


class IdempotencyKeyReused(AboutKey):
    """The key was sent before, with another body."""

    code = "idempotency_key_reused"
    exit_code = 2
    should_retry = False


class IdempotencyInProgress(AboutKey):
    """The first request with this key has not ended; it should have after `retry_after_s`."""

    code = "idempotency_in_progress"
    exit_code = 75


class IdempotencyResultGone(AboutKey):
    """The first request with this key has ended, and its answer is not in memory; it is not run again."""

    code = "idempotency_result_gone"
    should_retry = False


class Attempt:
    """One client's request with a key. It is held by whoever answers it and by each of its open rows."""

    def __init__(
        self,
        keyed: KeyedBody,
        ledger: Ledger,
        recording: Recording,
        on_end: Callable[[Attempt], None],
        begun_s: float,
    ) -> None:
        """`begun_s` is now, by a monotonic clock."""
        self.keyed = keyed
        self.recording = recording
        self.begun_s = begun_s
        self.is_answered = False  # whoever answers it has begun, and lets go of it for certain
        self.streams: Sequence[LiveStream] = ()  # once it is admitted
        self._ledger = ledger
        self._on_end = on_end
        self._holders = 1
        self._rows: list[tuple[Admitted, MakeEntry | None]] = []
        self._writing: asyncio.Task[None] | None = None

    def open(self, row: Admitted, entry: MakeEntry | None) -> None:
        """One of its rows is about to be written. All of them are opened before the first is awaited, and each lets go
        when it is settled."""
        assert self._writing is None, "all rows are written together"
        self._rows.append((row, entry))
        self._holders += 1

    async def written(self) -> None:
        """Wait until all rows are inserted, together with the key. Raises what `Ledger.admit_keyed` raises.

        If any waiter is cancelled before the ledger has begun, none is inserted.
        """
        if self._writing is None:
            rows, entries = zip(*self._rows, strict=True)
            self._writing = asyncio.create_task(self._ledger.admit_keyed(self.keyed, rows, entries))
        try:
            await asyncio.shield(self._writing)
        except asyncio.CancelledError:
            self._writing.cancel()
            raise

    def let_go(self) -> None:
        """One holder is done with it. After the last one, its answer is kept or its key is free."""
        self._holders -= 1
        assert self._holders >= 0, "each holder lets go once"
        if not self._holders:
            self._on_end(self)

    @property
    def has_used(self) -> bool:
        """Whether it has used anything that is billed."""
        return any(stream.usage != Usage() for stream in self.streams)

    def described(self) -> FirstOfKey:
        """For the client."""
        states = {one.id: RUNNING if one.finish_reason is None else one.finish_reason.value for one in self.streams}
        return _described(states, [stream.usage for stream in self.streams])


class Attempts:
    """All keys of all tenants. Call it only in the event loop."""

    def __init__(
        self,
        ledger: Ledger,
        share_bytes: int,
        now_micros: Callable[[], int],
        clock_s: Callable[[], float],
        wait_s: Callable[[], float],
    ) -> None:
        """`share_bytes` limits the answers that are kept for each tenant. `wait_s` is how long a request waits for a
        slot now."""
        self.answers = KeptAnswers(share_bytes, clock_s)
        self._ledger = ledger
        self._now_micros = now_micros
        self._clock_s = clock_s
        self._wait_s = wait_s
        self._claimed: dict[tuple[int, str], Attempt] = {}
        self._turns: dict[int, asyncio.Lock] = {}  # by tenant: one of them does not fill the ledger's lane

    def tenants_are(self, tenants: Mapping[str, Tenant]) -> None:
        """These tenants exist from now on."""
        ids = {_id(tenant) for tenant in tenants.values()}
        self.answers.tenants_are(ids)
        self._turns = {one: turn for one, turn in self._turns.items() if one in ids}

    async def begin(self, tenant: Tenant, key: str, body_hash: bytes) -> Attempt | KeptAnswer:
        """The attempt to run, which the caller holds, or the answer to give again.

        Raises IdempotencyKeyReused, IdempotencyInProgress, IdempotencyResultGone; LedgerUnavailable, QueueFull.
        """
        name = _id(tenant), key
        if (claimed := self._claimed.get(name)) is not None and not self._is_abandoned(claimed):
            _check_same(claimed.keyed.body_hash, body_hash)
            raise self._in_progress(claimed.described(), claimed.streams)
        if (answer := self.answers.find(*name)) is not None:
            _check_same(answer.keyed.body_hash, body_hash)
            return answer
        keyed = KeyedBody(tenant_id=name[0], key=key, body_hash=body_hash)
        attempt = Attempt(keyed, self._ledger, Recording(self.answers, keyed), self._end, self._clock_s())
        self._claimed[name] = attempt
        with letting_go(attempt):
            async with self._turns.setdefault(name[0], asyncio.Lock()):
                now = self._now_micros()
                first = await self._ledger.read(lambda conn: find_first(conn, *name, now))
            if first is not None and first.is_spent:
                _check_same(first.body_hash, body_hash)
                raise self._ended(first)
        return attempt

    async def prune(self) -> None:
        """Delete what is older than a day, now and then. Runs until cancelled."""
        while True:
            self.answers.forget_old()
            for name in [name for name, attempt in self._claimed.items() if self._is_abandoned(attempt)]:
                del self._claimed[name]
            try:
                while await self._ledger.write(lambda conn: prune_keys(conn, self._now_micros())) == BATCH_KEYS:
                    await asyncio.sleep(PAUSE_S)
            except TenantdError as e:
                log.warning("cannot delete old idempotency keys; trying again later: %s", e.message)
            except Exception:  # such as a file that somebody has altered; the daemon serves on
                log.exception("cannot delete old idempotency keys; trying again later")
            await asyncio.sleep(PRUNE_INTERVAL_S)

    def _end(self, attempt: Attempt) -> None:
        if attempt.has_used:
            attempt.recording.keep(self._clock_s())
        else:
            attempt.recording.drop()
        name = attempt.keyed.tenant_id, attempt.keyed.key
        if self._claimed.get(name) is attempt:
            del self._claimed[name]

    def _is_abandoned(self, attempt: Attempt) -> bool:
        """If it does run after all, the ledger still lets only one request have the key."""
        return not attempt.is_answered and self._clock_s() - attempt.begun_s > UNANSWERED_S

    def _ended(self, first: FirstRequest) -> TenantdError:
        described = _described(first.states, [first.usage])
        if first.is_running:
            return self._in_progress(described, ())
        states = ", ".join(dict.fromkeys(first.states.values()))
        return IdempotencyResultGone(
            f"the request with this Idempotency-Key has ended ({states}), and its answer is not in memory; to run it "
            "again, send another key",
            first=described,
        )

    def _in_progress(self, first: FirstOfKey, streams: Sequence[LiveStream]) -> IdempotencyInProgress:
        rest_s = max((self._rest_s(stream) for stream in streams), default=0.0)
        return IdempotencyInProgress(
            "the first request with this Idempotency-Key is still running; try again when it has ended",
            first=first,
            retry_after_s=max(SETTLING_S, math.ceil(rest_s)),
        )

    def _rest_s(self, stream: LiveStream) -> float:
        """How long a request still takes if it gives all its tokens at its pace so far; while that is not known, how
        long one waits for a slot."""
        if stream.finish_reason is not None:
            return 0.0
        done = len(stream.generated)
        if stream.first_token_micros is None or done < 2:
            return self._wait_s()
        took_s = stream.age_s - stream.first_token_micros / 1e6
        return (stream.max_tokens - done) * took_s / (done - 1)


@contextlib.contextmanager
def letting_go(attempt: Attempt | None) -> Iterator[None]:
    """Lets go of an attempt if what follows fails; otherwise somebody else holds it."""
    try:
        yield
    except BaseException:
        if attempt is not None:
            attempt.let_go()
        raise


def _check_same(first: bytes, body_hash: bytes) -> None:
    if not hmac.compare_digest(first, body_hash):
        raise IdempotencyKeyReused(
            "this Idempotency-Key was sent with another body or to another route; send a new key for a new request"
        )


def _described(states: Mapping[str, str], usages: Collection[Usage]) -> FirstOfKey:
    return {
        "requests": [{"id": request_id, "state": state} for request_id, state in states.items()],
        "usage": as_billed(usages),
    }


def _id(tenant: Tenant) -> int:
    return tenant.id or 0  # without one it is none of the ledger's
