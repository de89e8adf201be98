"""Starts a client's request: admitted, numbered in the queue, handed to the engine, and its rows written meanwhile."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence

from tenantd.domain import NOBODY, Actor, FinishReason, Tenant
from tenantd.fleet.replica import Replica
from tenantd.live.generation import Generation
from tenantd.live.streams import LiveStream
from tenantd.serving.attempts import Attempt
from tenantd.serving.entrance import Entrance
from tenantd.serving.entries import PromptHashes
from tenantd.serving.gate import Deadline
from tenantd.serving.positions import Positions
from tenantd.serving.rows import RequestRows, admission
from tenantd.serving.sketching import Sketching


class Submission:
    """`Entrance` decides which requests come in. `Replica` runs them, and `RequestRows` has their rows until they are
    settled; a request is in both from its admission."""

    def __init__(
        self,
        entrance: Entrance,
        positions: Positions,
        replica: Replica,
        rows: RequestRows,
        sketching: Sketching,
        model_name: Callable[[str], str],
        clock_s: Callable[[], float],
    ) -> None:
        """`model_name` is that of the model for a kind of request. `clock_s` is monotonic."""
        self._entrance = entrance
        self._positions = positions
        self._replica = replica
        self._rows = rows
        self._sketching = sketching
        self._model_name = model_name
        self._clock_s = clock_s

    async def submit_all(
        self,
        tenant: Tenant,
        generations: Sequence[Generation],
        timeout_s: float | None = None,
        actor: Actor = NOBODY,
        attempt: Attempt | None = None,
    ) -> list[LiveStream]:
        """Start all generations of one client's request, or none, once the tenant's limits per minute admit it.

        They count it as one request. Rows are written while the engine already works; `started()` waits for both.
        Generations that are not complete after `timeout_s` end with RequestTimeout. With an `attempt`, its key is
        written together with all rows.
        Raises Draining, TenantSuspended, EngineUnavailable,
        LedgerUnavailable, InvalidRequest and its subclasses, Forbidden, QueueFull, RequestsPerMinuteExceeded,
        TokensPerMinuteExceeded, RequestTimeout, and KeyRevoked if the key was revoked or has expired.
        """
        deadline = None if timeout_s is None else Deadline(timeout_s, self._clock_s() + timeout_s)
        tenant, streams = await self._entrance.let_in(tenant, generations, deadline, actor)
        self._positions.assign(tenant, streams)
        if attempt is not None:
            attempt.streams = streams
        hashes = PromptHashes()
        for stream, generation in zip(streams, generations, strict=True):
            self._replica.run(stream)
            row = admission(stream, generation.kind, self._model_name(generation.kind), unbilled=tenant.unbilled)
            self._rows.open(stream, generation, row, self._replica.refuse, hashes, attempt)
            if deadline is not None:
                self._end_at(deadline, stream)
        self._sketching.begin(tenant, generations)
        return streams

    def _end_at(self, deadline: Deadline, stream: LiveStream) -> None:
        timer = asyncio.get_running_loop().call_later(
            max(0.0, deadline.at_s - self._clock_s()),
            functools.partial(self._replica.end, stream, FinishReason.CANCELLED, deadline.error()),
        )
        stream.finished.add_done_callback(lambda _: timer.cancel())
