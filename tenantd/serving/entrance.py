"""Checks what a client asks for, and creates the streams that answer it.

admission.py decides what a request may ask for; gate.py lets it wait for its tenant's limits per minute.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Final

from tenantd.config import LimitsConfig
from tenantd.domain import NOBODY, Actor, OnLimit, Tenant
from tenantd.errors import (
    Draining,
    EngineUnavailable,
    InvalidRequest,
    LedgerUnavailable,
    ModelNotLoaded,
    TenantdError,
)
from tenantd.fleet.link import MAX_COMMAND_BYTES, bytes_at_most
from tenantd.fleet.replica import Replica
from tenantd.fleet.supervisor import SLOWEST_RESTART_S, EngineState
from tenantd.ledger.ledger import Ledger
from tenantd.live.generation import Generation, SharedSampling, counted_prompt_tokens
from tenantd.live.streams import LiveStream
from tenantd.request_ids import new_request_id
from tenantd.serving.admission import (
    as_it_is,
    check_active,
    check_allowed,
    check_prompt,
    check_texts,
    full_queue,
    may_wait,
    output_tokens,
)
from tenantd.serving.allowances import Allowances
from tenantd.serving.gate import Deadline, Gate
from tenantd.tenancy.budget_accounts import Draw
from tenantd.tenancy.directory import Directory
from tenantd.text.vocabulary import Vocabulary
from tenantd.wire.messages import Command, EngineInfo, Submit

LOADING_RETRY_S: Final = 2


class Entrance:
    """Decides which requests are admitted, and numbers them. Once `is_closed` is set, it admits none."""

    def __init__(
        self,
        replica: Replica,
        ledger: Ledger,
        directory: Directory,
        vocabulary: Vocabulary,
        gate: Gate,
        allowances: Allowances,
        limits: Callable[[], LimitsConfig],
        *,
        now_micros: Callable[[], int],
        clock_s: Callable[[], float],
        on_abandon: Callable[[LiveStream], None],
    ) -> None:
        """`limits` is called each time, because the configuration can be reloaded."""
        self.is_closed = False
        self._replica = replica
        self._ledger = ledger
        self._directory = directory
        self._vocabulary = vocabulary
        self._gate = gate
        self._allowances = allowances
        self._limits = limits
        self._now_micros = now_micros
        self._clock_s = clock_s
        self._on_abandon = on_abandon
        self._number = 0

    async def let_in(
        self, tenant: Tenant, generations: Sequence[Generation], deadline: Deadline | None, actor: Actor
    ) -> tuple[Tenant, list[LiveStream]]:
        """The current tenant, and a stream for each generation, once its limits admit them. Run them at once.

        Raises what `Service.submit_all` raises.
        """
        tenant = as_it_is(self._directory, tenant.name, tenant.id, actor.key_id)  # it may have changed meanwhile
        most_tokens = self._check(tenant, generations)
        prompt_tokens = counted_prompt_tokens(generations)
        refusal = self._reason_to_wait(tenant, prompt_tokens, len(generations))
        self._allowances.check(tenant, actor, generations, may_wait=refusal is not None)
        if refusal is not None:
            look_again = functools.partial(self._look_again, tenant, actor, generations)
            tenant = await self._gate.wait(tenant, prompt_tokens, len(generations), deadline, look_again)
            most_tokens = self._check(tenant, generations)
            self._allowances.check(tenant, actor, generations)
        streams = self._new_streams(tenant, generations, most_tokens, actor)
        self._allowances.begin(tenant, streams)
        self._gate.book(tenant)
        return tenant, streams

    def check_early(self, tenant: Tenant, prompt_tokens: int) -> None:
        """Refuse what would be refused now, before work is done for a prompt of at least so many tokens.

        Raises what `let_in` raises; budgets of keys come later.
        """
        self._check_open(tenant)
        check_allowed(tenant, prompt_tokens)
        self._reason_to_wait(tenant, prompt_tokens, 1)
        self._allowances.check_draws(tenant, NOBODY, [Draw(prompt_tokens, 1)], may_wait=True)

    def _reason_to_wait(self, tenant: Tenant, prompt_tokens: int, more: int) -> TenantdError | None:
        """The limits per minute for which `more` requests of one client must wait; None if they need not.

        Raises them if the tenant would rather not wait, and QueueFull.
        """
        refusal = self._gate.refusal(tenant, prompt_tokens)
        if refusal is not None and tenant.limits.on_limit is OnLimit.REJECT:
            raise refusal
        self._check_queue(tenant, more, refusal)
        return refusal

    def _check(self, tenant: Tenant, generations: Sequence[Generation]) -> list[int]:
        """The maximum tokens of each generation. Makes all checks but those of limits per minute and of the queue."""
        info = self._check_open(tenant)
        for generation in generations:
            check_prompt(generation.prompt)
        check_allowed(tenant, counted_prompt_tokens(generations))
        return [self._most_tokens(tenant, generation, info) for generation in generations]

    def _most_tokens(self, tenant: Tenant, generation: Generation, info: EngineInfo) -> int:
        """The maximum tokens to generate."""
        if generation.texts:
            check_texts(tenant, generation.texts, info.embeddings, generation.texts_field)
            return 0
        return output_tokens(
            tenant,
            len(generation.prompt),
            generation.max_tokens,
            context_tokens=info.context_tokens,
            default_tokens=self._limits().default_max_tokens,
        )

    def _look_again(self, tenant: Tenant, actor: Actor, generations: Sequence[Generation]) -> Tenant:
        """The current tenant of a waiting request. Raises if the request can no longer start."""
        tenant = as_it_is(self._directory, tenant.name, tenant.id, actor.key_id)
        self._check(tenant, generations)
        return tenant

    def _check_open(self, tenant: Tenant) -> EngineInfo:
        """What is loaded. Raises if requests of this tenant are not accepted now."""
        if self.is_closed:
            raise Draining("the daemon is shutting down and accepts no new requests")
        check_active(tenant)
        engine = self._replica.supervisor
        if engine.state is EngineState.FAILED:
            retry_after_s = None if engine.is_hopeless else int(SLOWEST_RESTART_S)
            raise EngineUnavailable(f"the engine is not running: {engine.reason}", retry_after_s=retry_after_s)
        if engine.info is None or engine.state is EngineState.STOPPED:
            raise ModelNotLoaded(f"the model is loading ({engine.progress:.0%})", retry_after_s=LOADING_RETRY_S)
        if not self._ledger.healthy:
            raise LedgerUnavailable(f"cannot write the ledger: {self._ledger.trouble}")
        return engine.info

    def _check_queue(self, tenant: Tenant, more: int, refusal: TenantdError | None) -> None:
        """Raises QueueFull if there is no place for `more` requests; with `refusal` they wait for limits per minute."""
        live, info, held = self._replica.live, self._replica.supervisor.info, self._gate.waiting(tenant.name)
        count = live.count(tenant.name)
        assert info is not None, "checked before"
        if may_wait(
            tenant,
            waiting=count.waiting,
            running=count.running,
            others=len(live) - count.waiting - count.running,
            slots=info.slots,
            held=held,
            more=more,
            is_held=refusal is not None,
        ):
            return
        raise full_queue(tenant, count, held, more=more, refusal=refusal, retry_after_s=self.wait_s())

    def wait_s(self) -> int:
        """Whole seconds until a place should be free."""
        live = self._replica.live
        return self._replica.throughput.wait_s(self._clock_s(), len(live.waiting_tenants()), live.oldest_s())

    def _new_streams(
        self, tenant: Tenant, generations: Sequence[Generation], most_tokens: Sequence[int], actor: Actor
    ) -> list[LiveStream]:
        """A stream for each generation. Raises InvalidRequest if one does not fit a command to the engine."""
        shared: dict[int, SharedSampling] = {}
        commands: list[Command] = []
        streams: list[LiveStream] = []
        group = self._number + 1 if len(generations) > 1 else 0  # the number of its first request
        for generation, max_tokens in zip(generations, most_tokens, strict=True):
            self._number += 1
            if (sampling := shared.get(id(generation.sampling))) is None:
                sampling = shared[id(generation.sampling)] = SharedSampling(self._number, generation.sampling)
                commands.append(sampling.command())
            submit = Submit(
                request=self._number,
                tenant=tenant.name,
                prompt=generation.prompt,
                hidden_tokens=generation.hidden_tokens,
                max_tokens=max_tokens,
                sampling=sampling.number,
                seed=generation.seed(),
                adapter="" if generation.texts else tenant.adapter,
                counts_prompt=generation.counts_prompt,
                is_flex=generation.is_flex,
                group=group,
                marks=list(generation.marks),
                texts=list(generation.texts),
                images=[placed.sent() for placed in generation.images],
            )
            commands.append(submit)
            created_micros = self._now_micros()
            stream = LiveStream(
                submit,
                sampling,
                generation.text_stream(self._vocabulary),
                request_id=new_request_id(created_micros),
                tenant_id=tenant.id,
                actor=actor,
                client_id=generation.client_id,
                system_prompt_hmac=generation.system_prompt_hmac,
                created_micros=created_micros,
                clock_s=self._clock_s,
                on_abandon=self._on_abandon,
            )
            stream.images = generation.images
            streams.append(stream)
        if any(bytes_at_most(command) > MAX_COMMAND_BYTES for command in commands):
            raise InvalidRequest("the prompt and its sampling settings are too large for the engine")
        return streams
