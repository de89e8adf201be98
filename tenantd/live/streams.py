"""One live request: what the engine has done for it, and what its reader has not taken yet.

It is written by the service, in the event loop, and read by one task. A reader that is slow holds nothing up: what it
has not taken waits here, bounded by the request's own `max_tokens`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

from tenantd.domain import NOBODY, Actor, FinishReason, TokenLogprobs, Usage
from tenantd.errors import TenantdError
from tenantd.live.generation import SharedSampling
from tenantd.text.detokenize import TextStream
from tenantd.wire.messages import Progress, Submit

SUSPECT_CRASHES: Final = 2
"""Any request may have caused a single crash; after this many in a row, requests are tried one by one."""

MOST_TAKEN: Final = 256
"""Maximum tokens that a reader takes at once; processing them takes a few milliseconds, including logprobs."""


class Delta(NamedTuple):
    """One token, and the text that became certain with it, possibly none.

    `token` is -1 for text that was held back until the end.
    """

    text: str
    token: int
    logprobs: TokenLogprobs | None


class LiveStream:
    """One request, from admission until its row is settled.

    Its life: live in the engine (`finish_reason` is None), then finished, then settled. What is taken before the row
    is durable waits; the end is seen only after settlement.
    """

    def __init__(
        self,
        *,
        request_id: str,
        number: int,
        tenant: str,
        tenant_id: int | None = None,
        actor: Actor = NOBODY,
        prompt: list[int],
        max_tokens: int,
        sampling: SharedSampling,
        seed: int = 0,
        counts_prompt: bool = True,
        adapter: str = "",
        text: TextStream,
        created_micros: int,
        clock_s: Callable[[], float],
        on_abandon: Callable[[LiveStream], None],
    ) -> None:
        """`number` is its name in the engine's protocol; `actor` sent it, and its key must stay live.

        Without `counts_prompt` its prompt is another's to pay for. `clock_s` is monotonic.
        """
        self.id = request_id
        self.number = number
        self.tenant = tenant
        self.tenant_id, self.actor = tenant_id, actor
        self.prompt_tokens = len(prompt)
        self.max_tokens = max_tokens
        self.sampling = sampling
        self.counts_prompt = counts_prompt
        self.prefilled_tokens = 0  # of its prompt, computed and charged
        self.created_micros = created_micros
        self.generated: list[int] = []
        self.engine_micros = 0
        self.first_token_micros: int | None = None  # since creation
        self.duration_micros: int | None = None
        self.finish_reason: FinishReason | None = None
        self.error: TenantdError | None = None
        self.decision: FinishReason | None = None  # how it will end, decided here before the engine knows
        self.is_durable = False  # its row is in the ledger
        self.is_refused = False  # its row was late or missing: nobody gets its answer, and it costs nothing
        self.is_in_engine = self.has_started = False  # the latter: it has had a slot
        self.queue_position = 0  # on arrival: 1 is next to get a token; 0 if a slot was free
        self.client_id = ""  # the client's own id for it
        self.crashes = 0  # engine crashes in a row while it was running, without a token in between
        self._prompt = prompt
        self._seed = seed
        self._adapter = adapter
        self._text = text
        self._clock_s = clock_s
        self._created_s = clock_s()
        self._on_abandon = on_abandon
        self._generated_at_crash = 0
        self._deltas: list[Delta] = []
        self._waiter: asyncio.Future[None] | None = None
        self._is_settled = self._is_held = False
        self._is_begun = False  # something was taken
        self._is_behind = False  # and something left
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # ---- for the reader -----------------------------------------------------------------------------------------

    @property
    def usage(self) -> Usage:
        """What is billed so far; final once `finish_reason` is set."""
        if self.is_refused:
            return Usage()
        return Usage(
            prompt_tokens=self.prefilled_tokens if self.counts_prompt else 0,
            completion_tokens=len(self.generated),
            engine_micros=self.engine_micros,
        )

    async def started(self) -> None:
        """Wait until the row is durable and the first token, or the end, has arrived.

        Raises the request's TenantdError if it failed before anything was taken.
        """
        while not (self._is_settled or self._may_be_taken):
            await self._wait()
        if self.error is not None and not self._is_begun:
            raise self.error

    async def take(self) -> list[Delta]:
        """The tokens since the last call, at least one; [] once the request has ended and its row is settled.

        A slow reader gets its backlog in parts, and the event loop gets a turn between them.
        """
        if self._is_behind:
            await asyncio.sleep(0)
        while not self._may_be_taken:
            if self._is_settled:
                return []
            await self._wait()
        self._is_begun = True
        self._is_behind = len(self._deltas) > MOST_TAKEN
        if self._is_behind:
            deltas, self._deltas = self._deltas[:MOST_TAKEN], self._deltas[MOST_TAKEN:]
        else:
            deltas, self._deltas = self._deltas, []
        return deltas

    @property
    def _may_be_taken(self) -> bool:
        return bool(self.is_durable and self._deltas) and not (self._is_held and not self._is_settled)

    def abandon(self) -> None:
        """Stop decoding because the client is gone; generated tokens are billed. Does nothing after the end."""
        self._on_abandon(self)

    async def _wait(self) -> None:
        assert self._waiter is None, "a stream has one reader"
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # ---- for the service ----------------------------------------------------------------------------------------

    def submit_command(self) -> Submit:
        """The command that makes an engine start, or resume from the current position."""
        return Submit(
            request=self.number,
            tenant=self.tenant,
            prompt=self._prompt,
            generated=list(self.generated),
            max_tokens=self.max_tokens,
            sampling=self.sampling.number,
            seed=self._seed,
            adapter=self._adapter,
            billed_prompt_tokens=self.prefilled_tokens,
            counts_prompt=self.counts_prompt,
        )

    def advance(self, progress: Progress) -> bool:
        """Book what a step did. True if the caller must act: at the first token and at a stop string.

        Time counts until the end. Tokens computed after a stop string, before the engine knew of it, are discarded.
        """
        self.prefilled_tokens += progress.prefilled
        self.engine_micros += progress.micros
        token = progress.token
        if token < 0 or self._text.stopped:
            return False
        self.generated.append(token)
        self._deltas.append(Delta(self._text.push(token), token, progress.logprobs))
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self.first_token_micros is None:
            self.first_token_micros = self._elapsed_micros()
            return True
        return self._text.stopped

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string has been generated."""
        return self._text.stopped

    def count_crash(self) -> int:
        """Count a crash of the engine. Returns how many in a row this request took part in without getting a token."""
        if self.is_in_engine:
            got_further = len(self.generated) > self._generated_at_crash
            self.crashes = 1 if got_further else self.crashes + 1
            self._generated_at_crash = len(self.generated)
        self.is_in_engine = False
        return self.crashes

    @property
    def is_suspect(self) -> bool:
        """Whether it may be the cause of crashes: it took part in two or more and has got no token since."""
        return self.crashes >= SUSPECT_CRASHES and len(self.generated) == self._generated_at_crash

    def make_durable(self) -> None:
        """Its row is in the ledger, so the reader may take its tokens."""
        self.is_durable = True
        self._wake()

    def hold(self, *, is_held: bool) -> None:
        """Stop giving tokens to the reader until this is reversed or the request is settled."""
        self._is_held = is_held
        self._wake()

    def refuse(self, error: TenantdError) -> None:
        """Its row was not written in time: give the reader the error now, even if the engine is still working."""
        self.is_refused = True
        self.error = self.error or error
        self.finish_reason = FinishReason.FAILED
        self._deltas.clear()
        self._is_settled = True
        self._wake()

    def finish(self, reason: FinishReason, error: TenantdError | None) -> None:
        """The engine is done with it. The reader sees the end after settlement."""
        assert not self.finished.done(), "a request finishes once"
        if rest := self._text.finish():
            self._deltas.append(Delta(rest, -1, None))
        self.finish_reason = self.finish_reason or reason
        self.error = self.error or error
        self.duration_micros = self._elapsed_micros()
        self.finished.set_result(None)

    def settle(self, error: TenantdError | None = None) -> None:
        """Its row is final, or waiting for that ended with `error`: show the end to the reader."""
        if not self._is_settled:
            self.error = self.error or error
            self._is_settled = True
            self._wake()

    @property
    def age_s(self) -> float:
        """Seconds since the request was created."""
        return self._clock_s() - self._created_s

    def _elapsed_micros(self) -> int:
        return int(self.age_s * 1e6)
