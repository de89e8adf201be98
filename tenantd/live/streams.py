"""One live request: what the engine has done for it, and what its reader has not taken yet.

It is written by the replica that runs it, in the event loop, and read by one task. A reader that is slow holds nothing
up: what it has not taken waits here, bounded by the request's own `max_tokens`.
"""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from tenantd.domain import NOBODY, Actor, FinishReason, TokenLogprobs, Usage
from tenantd.errors import TenantdError
from tenantd.live.generation import SharedSampling
from tenantd.live.metered import Metered
from tenantd.live.phases import NEXT, OVER, Phase
from tenantd.text.detokenize import TextStream
from tenantd.text.image_parts import Placed
from tenantd.wire.messages import Progress, Submit

MIXED_UP: Final = "the answer was mixed up with another request's and was stopped; send the request again"
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
    """One request, from admission until its row is settled. `phase` tells how far it is.

    Readers get nothing before the row is durable, and see the end only after settlement.
    """

    cached_tokens = 0  # of its prompt, charged without being computed
    energy_millijoules = 0  # as far as the engine has told
    adapter_version: str | None = None  # of the file of its adapter, as the engine found it
    images: tuple[Placed, ...] = ()  # in its prompt, kept for the engine until it ends
    # Without a budget these stay as they are.
    allowed_tokens: int | None = None  # to be generated for the time being
    ask_at_tokens = sys.maxsize  # when this many are generated, it needs to be allowed more
    is_out_of_budget = False  # it was ended for that

    def __init__(
        self,
        submit: Submit,
        sampling: SharedSampling,
        text: TextStream,
        *,
        request_id: str,
        tenant_id: int | None = None,
        actor: Actor = NOBODY,
        client_id: str = "",
        system_prompt_hmac: str | None = None,
        created_micros: int,
        clock_s: Callable[[], float],
        on_abandon: Callable[[LiveStream], None],
    ) -> None:
        """`submit` makes an engine run it; `actor` sent it, and the actor's key must stay live.

        `client_id` is the client's own id for it. `system_prompt_hmac` is the hash of the system prompt before its own
        prompt, if there is one. `clock_s` is monotonic.
        """
        self.id = request_id
        self.number = submit.request  # its name in the engine's protocol
        self.tenant = submit.tenant
        self.tenant_id, self.actor = tenant_id, actor
        self.asker = (tenant_id, actor)  # whose connection may get the answer
        self.binding: int | None = None  # of its sequence, or its last; as the engine that has it told
        self.sequence: int | None = None  # the one that it was given last; it may have been moved since
        self.prompt_tokens = len(submit.prompt)
        self.max_tokens, self.is_flex = submit.max_tokens, submit.is_flex
        self.texts = len(submit.texts)  # to embed; 0 for a request that generates
        self.vectors: list[bytes] = []  # of those so far, in their order; see `Progress`
        self.adapter = submit.adapter  # the path of its adapter; "" for none
        self.system_prompt_hmac = system_prompt_hmac
        self.counts_prompt = submit.counts_prompt  # otherwise another choice pays for it
        self.sampling = sampling
        self.phase = Phase.WAITING
        self.prefilled_tokens = 0  # of its prompt, computed and charged
        self.created_micros = created_micros
        self.generated: list[int] = []
        self.said: io.StringIO | None = io.StringIO()  # its text without stop strings; None if nobody wants it
        self.engine_micros = 0
        self.first_token_micros: int | None = None  # since creation
        self.duration_micros: int | None = None
        self.metered = Metered()
        self.finish_reason: FinishReason | None = None
        self.error: TenantdError | None = None
        self.is_durable = False  # its row is in the ledger
        self.has_started = False  # it has, or had, a slot
        self.queue_position = 0  # on arrival: 1 is next to get a token; 0 if a slot was free
        self.client_id = client_id
        self._submit = submit
        self._text = text
        self._clock_s = clock_s
        self._created_s = clock_s()
        self._on_abandon = on_abandon
        self._decision: FinishReason | None = None  # how it will end, decided before the engine knew
        self._deltas: list[Delta] = []
        self._waiter: asyncio.Future[None] | None = None
        self._is_held = self._is_begun = self._is_behind = False  # begun: something was taken; behind: something left
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # ---- for the reader -----------------------------------------------------------------------------------------

    @property
    def usage(self) -> Usage:
        """What is billed so far; final once `finish_reason` is set."""
        if self.phase is Phase.REFUSED:
            return Usage()
        return Usage(
            prompt_tokens=self.prefilled_tokens if self.counts_prompt else 0,
            completion_tokens=len(self.generated),
            engine_micros=self.engine_micros,
            cached_tokens=self.cached_tokens if self.counts_prompt else 0,
            energy_millijoules=self.energy_millijoules,
        )

    async def started(self) -> None:
        """Wait until the row is durable and the first token, or the end, has arrived.

        Raises the request's TenantdError if it failed before anything was taken.
        """
        while not (self.phase in OVER or self._may_be_taken):
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
            if self.phase in OVER:
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
        return bool(self.is_durable and self._deltas) and (not self._is_held or self.phase in OVER)

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

    # ---- for the replica ----------------------------------------------------------------------------------------

    def _become(self, phase: Phase) -> None:
        assert phase in NEXT[self.phase], f"{self.id}: {self.phase.name} is not followed by {phase.name}"
        self.phase = phase

    def sent(self) -> Submit:
        """Mark it as sent to an engine. Returns the command that makes the engine start it, or resume it."""
        self._become(Phase.IN_ENGINE)
        return msgspec.structs.replace(
            self._submit,
            generated=list(self.generated),
            billed_prompt_tokens=self.prefilled_tokens + self.cached_tokens,
            allowed_tokens=self.allowed_tokens,
        )

    def lost(self) -> None:
        """The engine that ran it is gone; it waits for the next one."""
        self._become(Phase.WAITING)
        self.binding = None
        self.metered.lose()

    def seat(self, sequence: int, ago_micros: int) -> None:
        """It got a sequence, some time ago."""
        self.sequence = sequence
        self.metered.seat(self._elapsed_micros() - ago_micros)

    def decide(self, reason: FinishReason, error: TenantdError | None) -> None:
        """Decide how it will end, whatever the engine says."""
        self._become(Phase.DECIDED)
        self._decision = reason
        self.error = self.error or error

    def advance(self, progress: Progress) -> bool:
        """Book what a step did. True if the replica must act: at the first token, at a stop string, and when it
        needs to be allowed more.

        Time counts until the end. Tokens computed after a stop string, before the engine knew of it, are discarded.
        """
        self.prefilled_tokens += progress.prefilled
        self.cached_tokens += progress.cached
        self.engine_micros += progress.micros
        token = progress.token
        if progress.vectors:
            self.vectors.append(progress.vectors)
        if token < 0 or self._text.stopped:
            return False
        self.generated.append(token)
        text = self._text.push(token)
        if self.said is not None:
            self.said.write(text)
        self._deltas.append(Delta(text, token, progress.logprobs))
        waiter = self._waiter  # _wake, without a call for each token
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self.first_token_micros is None:
            self.first_token_micros = self._elapsed_micros()
            return True
        return self._text.stopped or len(self.generated) >= self.ask_at_tokens

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string has been generated."""
        return self._text.stopped

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
        self._become(Phase.REFUSED)
        self.error = self.error or error
        self.finish_reason = FinishReason.FAILED
        self._deltas.clear()
        self._wake()

    def finish(self, reason: FinishReason, error: TenantdError | None) -> None:
        """The engine is done with it. The reader sees the end after settlement. An earlier decision stands."""
        assert not self.finished.done(), "a request finishes once"
        if self._decision is not None:
            reason, error = self._decision, None
        if self.is_out_of_budget and self.texts and self.prefilled_tokens == self.prompt_tokens:
            self.is_out_of_budget, reason = False, FinishReason.STOP  # decided when the last vector was on its way
        if self.phase is not Phase.REFUSED:
            self._become(Phase.FINISHED)
            if rest := self._text.finish():
                if self.said is not None:
                    self.said.write(rest)
                self._deltas.append(Delta(rest, -1, None))
        self.finish_reason = self.finish_reason or reason
        self.error = self.error or error
        self.duration_micros = self._elapsed_micros()
        self.images = ()
        self.finished.set_result(None)

    def settle(self, error: TenantdError | None = None) -> None:
        """Its row is final, or waiting for that ended with `error`: show the end to the reader."""
        if self.phase not in OVER:
            self._become(Phase.SETTLED)
            self.error = self.error or error
            self._wake()

    @property
    def age_s(self) -> float:
        """Seconds since the request was created."""
        return self._clock_s() - self._created_s

    def _elapsed_micros(self) -> int:
        return int(self.age_s * 1e6)
