"""Keeps the ledger row of each live request: inserted on admission, checkpointed while it runs, settled once."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from typing import Any, Final

from tenantd.config import Config
from tenantd.domain import RequestKind, Usage
from tenantd.errors import LedgerUnavailable, TenantdError
from tenantd.events import Admitted, CleanedUp, Events, PathKind, Settled
from tenantd.ledger.ledger import Admitted as AdmittedRow
from tenantd.ledger.ledger import Ledger, Settlement
from tenantd.ledger.spending import Use
from tenantd.live.generation import Generation
from tenantd.live.streams import LiveStream
from tenantd.printable import one_line
from tenantd.serving.attempts import Attempt
from tenantd.serving.entries import PromptHashes, RequestEntries

log = logging.getLogger(__name__)

MAX_ERROR_CHARACTERS: Final = 500


class RequestRows:
    """All open rows. A row is written while the engine already computes; the stream waits for it.

    Waits for a stuck ledger as long as configured. Then the reader gets an error, and the row is still written once the
    ledger works again. A request that gets this error before it has started costs nothing.
    """

    def __init__(
        self,
        ledger: Ledger,
        events: Events,
        audit_key: Callable[[int | None], bytes | None],
        config: Callable[[], Config],
        on_settled: Callable[[LiveStream, Sequence[Use]], None],
    ) -> None:
        """`on_settled` hears what a row has used of budgets, before the reader sees the end; and again, without any,
        when the row is done with. `audit_key` returns the key for the hashes of a tenant, by its id. `config` is called
        each time, because the configuration can be reloaded."""
        self._ledger = ledger
        self._events = events
        self._audit_key = audit_key
        self._is_audited = config().security.is_audited
        self._config = config
        self._on_settled = on_settled
        self._open: dict[asyncio.Task[None], LiveStream] = {}
        self._is_held = False
        self._checkpointed: dict[str, Usage] = {}

    @property
    def open_rows(self) -> int:
        """Rows that are not settled yet."""
        return len(self._open)

    def unsettled(self) -> list[LiveStream]:
        """The requests whose rows are not settled yet, whether or not they have ended."""
        return list(self._open.values())

    def has(self, tenant: str) -> bool:
        """Whether requests that came under this name are not settled yet."""
        return any(stream.tenant == tenant for stream in self._open.values())

    def open(
        self,
        stream: LiveStream,
        generation: Generation,
        admission: AdmittedRow,
        on_refused: Callable[[LiveStream, TenantdError], None],
        hashes: PromptHashes,
        attempt: Attempt | None = None,
    ) -> None:
        """Start writing the row of an admitted request, and see it through. `on_refused` is called if that fails.

        `hashes` are shared by the rows of one client's request, and so is its `attempt`, if it has an idempotency key.
        """
        self._events.announce(admitted(stream, generation))
        if not self._is_audited:
            stream.said = None
        key = self._audit_key(stream.tenant_id)
        entries = RequestEntries(stream, generation, key, hashes, is_kept=self._is_audited)
        if attempt is None:
            writing = self._ledger.admit(admission, entries.entered)
        else:
            attempt.open(admission, entries.entered)
            writing = attempt.written()
        task = asyncio.create_task(self._keep(stream, entries, admission, writing, on_refused))
        task.add_done_callback(functools.partial(self._forget, stream, on_refused))
        if attempt is not None:
            task.add_done_callback(lambda _: attempt.let_go())
        self._open[task] = stream
        stream.hold(is_held=self._is_held)

    def _forget(
        self, stream: LiveStream, on_refused: Callable[[LiveStream, TenantdError], None], task: asyncio.Task[None]
    ) -> None:
        del self._open[task]
        if stream.finished.done():
            stream.settle(self._late("record the answer"))  # in case nothing else did
        else:
            on_refused(stream, self._late("record the request"))
        self._on_settled(stream, ())
        self._events.announce(CleanedUp(request_id=stream.id, tenant=stream.tenant, tenant_id=stream.tenant_id))

    def hold(self, *, is_held: bool) -> None:
        """Stop delivering what cannot be billed, or resume."""
        self._is_held = is_held
        for stream in self._open.values():
            stream.hold(is_held=is_held)

    def checkpoint(self, streams: Iterable[LiveStream]) -> None:
        """Record the usage of requests for which it has changed since the last call."""
        before, self._checkpointed = self._checkpointed, {}
        changed: dict[str, Usage] = {}
        for stream in streams:
            if stream.is_durable:
                usage = self._checkpointed[stream.id] = stream.usage
                if usage != before.get(stream.id):
                    changed[stream.id] = usage
        if changed:
            self._ledger.checkpoint(changed)

    async def closed(self, timeout_s: float) -> None:
        """Wait until every row is settled, for at most `timeout_s`."""
        if self._open:
            await asyncio.wait(set(self._open), timeout=timeout_s)

    async def close(self, timeout_s: float) -> None:
        """Like `closed`, then give up on the rest: the ledger still writes what it holds when it closes, if it can."""
        await self.closed(timeout_s)
        left = set(self._open)
        if left:
            log.error("%d requests are not yet settled in the ledger: %s", len(left), self._ledger.trouble)
            for task in left:
                task.cancel()
            await asyncio.wait(left)

    async def _keep(
        self,
        stream: LiveStream,
        entries: RequestEntries,
        admission: AdmittedRow,
        writing: Coroutine[Any, Any, None],
        on_refused: Callable[[LiveStream, TenantdError], None],
    ) -> None:
        """Keep one row, from its insertion by `writing` to its settlement."""
        async with _task(writing) as admitting:
            if not await self._in_time(admitting):
                on_refused(stream, self._late("record the request"))
            if (error := await _outcome(admitting)) is not None:
                on_refused(stream, error)
                await stream.finished  # there is no row, but the engine still has the request
                self._events.announce(settled(stream, admission.kind, has_row=False))
                return
        stream.make_durable()
        await stream.finished
        uses: list[Use] = []
        async with _task(self._ledger.settle(settlement(stream), admission, entries.response(), uses)) as settling:
            if not await self._in_time(settling):
                log.error("%s is waiting to be settled: %s", stream.id, self._ledger.trouble)
                stream.settle(self._late("record the answer"))
            if (error := await _outcome(settling)) is not None:
                log.error("cannot settle %s: %s", stream.id, error.message)
            else:
                self._events.announce(settled(stream, admission.kind))
                self._on_settled(stream, uses)
            stream.settle(error)

    @property
    def _timeout_s(self) -> float:
        return self._config().ledger.settle_timeout_s

    async def _in_time(self, task: asyncio.Task[Any]) -> bool:
        done, _ = await asyncio.wait({task}, timeout=self._timeout_s)
        return bool(done)

    def _late(self, what: str) -> LedgerUnavailable:
        trouble = self._ledger.trouble or "it is busy"
        return LedgerUnavailable(f"the ledger did not {what} within {self._timeout_s:g} s: {trouble}")


@contextlib.asynccontextmanager
async def _task(work: Coroutine[Any, Any, Any]) -> AsyncIterator[asyncio.Task[Any]]:
    """Runs `work` as a task, which is cancelled together with its caller."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()


async def _outcome(task: asyncio.Task[Any]) -> TenantdError | None:
    """The error of the ledger, if any. Unexpected errors count too, so that no reader is left waiting."""
    try:
        await task
    except TenantdError as e:
        return e
    except Exception as e:
        log.exception("the ledger failed")
        return LedgerUnavailable(f"the ledger failed: {e!r}")
    return None


def admitted(stream: LiveStream, generation: Generation) -> Admitted:
    """The event for an admitted request."""
    sampling = generation.sampling
    return Admitted(
        request_id=stream.id,
        tenant=stream.tenant,
        tenant_id=stream.tenant_id,
        key_id=stream.actor.key_id,
        uid=stream.actor.uid,
        path=PathKind(generation.kind),
        prompt_tokens=stream.prompt_tokens,
        max_tokens=stream.max_tokens,
        choice=generation.choice,
        queue_position=stream.queue_position,
        logprobs=sampling.logprobs,
        logit_biases=len(sampling.logit_bias),
    )


def settled(stream: LiveStream, kind: str, *, has_row: bool = True) -> Settled:
    """The event for a settled request."""
    assert stream.finish_reason is not None, "only what has ended is settled"
    return Settled(
        request_id=stream.id,
        tenant=stream.tenant,
        tenant_id=stream.tenant_id,
        key_id=stream.actor.key_id,
        state=stream.finish_reason,
        usage=stream.usage,
        first_token_micros=stream.first_token_micros,
        duration_micros=stream.duration_micros,
        cause=None if stream.error is None else stream.error.code,
        path=PathKind(kind),
        queue_micros=stream.metered.queue_micros,
        kv_token_micros=stream.metered.kv_token_micros,
        has_row=has_row,
    )


def settlement(stream: LiveStream) -> Settlement:
    """What the ledger records about a finished stream."""
    assert stream.finish_reason is not None and stream.duration_micros is not None, "only what has ended is settled"
    metered = stream.metered
    return Settlement(
        id=stream.id,
        state=stream.finish_reason,
        usage=stream.usage,
        first_token_micros=stream.first_token_micros,
        duration_micros=stream.duration_micros,
        error="" if stream.error is None else one_line(stream.error.message, MAX_ERROR_CHARACTERS),
        cause="" if stream.error is None else stream.error.code,
        queue_micros=metered.queue_micros,
        prefill_micros=metered.prefill_micros(stream.first_token_micros),
        kv_token_micros=metered.kv_token_micros,
        swaps=metered.swaps,
    )


def admission(stream: LiveStream, kind: str, model: str, *, unbilled: bool) -> AdmittedRow:
    """The row of a new request."""
    return AdmittedRow(
        id=stream.id,
        tenant=stream.tenant,
        tenant_id=stream.tenant_id,
        key_id=stream.actor.key_id,
        uid=stream.actor.uid,
        kind=RequestKind(kind),
        model=model,
        created_micros=stream.created_micros,
        prompt_length_tokens=stream.prompt_tokens,
        max_tokens=stream.max_tokens,
        unbilled=unbilled,
        adapter=stream.adapter,
    )
