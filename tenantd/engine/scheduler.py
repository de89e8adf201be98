"""Decides whose tokens are computed next. Pure: no clock, no llama.cpp. `plan()` decides a step, `commit()` books it.

A request waits in its tenant's queue, is bound to a sequence, prefilled in chunks, decodes one token per step, and
ends. It may have to give its sequence to a needier tenant for a while. The tenant with the least usage for its weight
goes first everywhere: for free slots, for slots that others hold beyond their share, and in the passes of a step. Usage
is charged only in `commit()`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tenantd.domain import FinishReason, Sampling
from tenantd.engine.booking import Booking
from tenantd.engine.charges import Charges
from tenantd.engine.compute import Chunk, EngineBroken, PassResult, Swapped
from tenantd.engine.fairness import Fairness
from tenantd.engine.jobs import Job, TenantJobs
from tenantd.engine.kv.slots import Slots
from tenantd.engine.kv.states import States
from tenantd.engine.passes import Passes, Plan, divided
from tenantd.engine.precedence import take_next
from tenantd.engine.roster import Roster
from tenantd.engine.sharing import Sharing
from tenantd.engine.speeds import Keeping
from tenantd.wire.messages import Backlog, Finish, Progress, Step, Submit, TenantPolicy
from tenantd.wire.settings import Policy, Settings


class Scheduler:
    """Owns every job. Each Submit gets exactly one Finish.

    The order of calls in a step: take_released; next_victim and swapped_out until there is no victim; bind; plan; (the
    engine runs the passes); commit; take_released. `swap_bytes` is host memory for the state of swapped-out requests,
    `cache_bytes` for that of prefixes. `packs`: keep decoding sequences adjacent, as KV streams need it (see slots.py).
    `cached`, if set, tells how many tokens of a waiting request are computed already, about.
    """

    cached: Callable[[Job], int] | None = None

    def __init__(
        self,
        slots: int,
        context_tokens: int,
        fairness: Fairness,
        settings: Settings,
        *,
        swap_bytes: int,
        cache_bytes: int = 0,
        packs: bool,
    ) -> None:
        self.slots = Slots(slots)
        self._context_tokens = context_tokens
        self._fairness = fairness
        self._settings = settings
        self._packs = packs
        self.passes = Passes(settings)
        self.slack = self.passes.slack
        self._tenants: dict[str, TenantJobs] = {}  # of these, `roster` adds and forgets some
        self._jobs: dict[int, Job] = {}
        self._active: dict[int, Job] = {}  # by sequence
        self.sharing = Sharing(slots, fairness, settings, self._tenants)
        self.roster = Roster(self.sharing, fairness, self._tenants)
        self.keeping = Keeping(self.slack.prompt_s)
        self.states = States(swap_bytes, cache_bytes, self.keeping)
        self._promised: list[str] = []  # the tenants for which slots were freed, until they are bound
        self._released: list[tuple[int, Job]] = []
        self._ended: list[tuple[Job, FinishReason, str, str]] = []  # in the step that is being booked
        self._discarded: list[tuple[Job, Swapped]] = []
        self._charges = Charges(settings, fairness, self.slack)
        self._booking = Booking(self._charges)
        self._warm: set[int] = set()  # bound requests that began with a prefix
        self.followers: set[int] = set()  # bound requests that may wait for another's tokens; see reuse.py
        self._now_s = 0.0  # of the last submit, search for a victim, plan or commit

    # ---- commands ------------------------------------------------------------------------------------------

    def submit(self, submit: Submit, sampling: Sampling, now_s: float) -> None:
        """Queue a request, which is submitted once."""
        assert submit.request not in self._jobs
        self._now_s = now_s
        tenant = self.roster.came(submit, now_s)
        job = Job(
            submit=submit,
            sampling=sampling,
            tokens=submit.prompt + submit.generated,
            generated=len(submit.generated),
            charged_prompt=submit.billed_prompt_tokens,
        )
        self._jobs[submit.request] = job
        if (end := job.at_once(self._context_tokens, tenant.window.limit_tokens)) is not None:
            self._finish(job, *end)
        else:
            tenant.add(job)
            job.is_queued = True

    def set_backlog(self, backlog: Backlog, now_s: float) -> None:
        """Requests that still wait in the daemon are work too: a tenant with any is not idle."""
        self._now_s = now_s
        self.roster.set_backlog(backlog, now_s)

    def allow(self, request: int, tokens: int) -> None:
        """Let a request generate so many tokens in all. Ignores unknown ids."""
        if (job := self._jobs.get(request)) is not None and not job.ends:
            job.allowed = tokens

    def cancel(self, request: int) -> None:
        """End a request now; its sequence is free at the next plan. Ignores unknown ids."""
        if (job := self._jobs.get(request)) is not None:
            self._finish(job, FinishReason.CANCELLED)

    def reject(self, request: int, message: str, param: str = "", detail: str = "") -> None:
        """Fail a request that the engine could not bind. `param` names the field at fault, `detail` is for the log."""
        if (job := self._jobs.get(request)) is not None:
            self._finish(job, FinishReason.FAILED, message, param, detail)

    def set_policy(self, policy: TenantPolicy) -> None:
        """Takes effect at the next plan. Running requests over a lowered `max_concurrent` finish."""
        self.roster.set_policy(policy)
        for job in [job for job in self._jobs.values() if job.has_wholes and job.submit.tenant == policy.tenant]:
            if (end := job.at_once(self._context_tokens, policy.tokens_per_minute)) is not None:
                self._finish(job, *end)

    # ---- slots --------------------------------------------------------------------------------------------------

    def take_released(self) -> list[tuple[int, Job]]:
        """Sequences whose requests ended since the last call, and these. Clear or park them before the next `bind`."""
        released, self._released = self._released, []
        return released

    def take_discarded(self) -> list[tuple[Job, Swapped]]:
        """Requests that ended while they were swapped out since the last call, and their states. Free those."""
        discarded, self._discarded = self._discarded, []
        return discarded

    def next_victim(self, now_s: float) -> tuple[Job, int] | None:
        """The request that must now give its sequence to a needier tenant, and how many bytes its state may take.

        Swap it out before the next call. See Sharing.victim.
        """
        self._now_s = now_s
        self.roster.note_waiting(now_s)
        search = self.sharing.yielding if self.slots.can_take() else self.sharing.victim
        found = search(self._active.values(), now_s, lambda job: self.states.fits(job.kept, job.recomputable))
        if found is None:
            return None
        job, taker = found
        if taker is not None:
            self._promised.append(taker)
        return job, self.states.room_for(job.recomputable)

    @property
    def has_bound(self) -> bool:
        """Whether any request has a sequence."""
        return bool(self._active) or bool(self._released)

    def newest_bound(self) -> tuple[Job, int] | None:
        """The newest request that has a sequence, and how many bytes its state may take; None if none has one."""
        newest = max(self._active.values(), key=lambda job: job.arrival, default=None)
        return None if newest is None else (newest, self.states.room_for(newest.recomputable))

    def swapped_out(self, job: Job, swapped: Swapped | None) -> None:
        """Record that the victim was swapped out; None: before it began. It goes first among its like in the queue."""
        self._unbind(job)
        job.swaps += 1
        job.is_queued = True
        if swapped is not None:
            self.states.keep(job.submit.request, swapped, job.kept, job.recomputable)
            self._booking.swapped(job, swapped)
        self._tenants[job.submit.tenant].put_back(job)

    def bind(self, now_s: float) -> Job | None:
        """Give a free slot to the next request of the neediest tenant. None if there is no slot or no request.

        If a prefix is parked in it, that must be used or moved out first.
        """
        assert not self._released, "released sequences are cleared first"
        if not self.slots.can_take() or (name := self._next_tenant(now_s)) is None:
            return None
        tenant = self._tenants[name]
        job = take_next(tenant, self.cached if self._settings.policy is Policy.USAGE else None)
        job.is_queued = False
        job.run_tokens = 0
        job.decoded_s = job.bound_s = now_s
        job.sequence = self.slots.take(job.submit.request)
        job.binding = self.slots.bindings[job.sequence]
        self._booking.took(job, job.sequence, now_s)
        tenant.active += 1
        self._active[job.sequence] = job
        return job

    def reseat(self, job: Job, sequence: int) -> None:
        """Give a request, of which nothing is computed, another free slot instead of its own."""
        self.slots.exchange(job.sequence, sequence, job.submit.request)
        self._active[sequence] = self._active.pop(job.sequence)
        job.sequence = sequence
        self._booking.took(job, sequence, job.bound_s)

    def begin_with(self, job: Job, tokens: int, now_s: float) -> None:
        """A request's first tokens were computed before, and are in its slot now."""
        self._booking.cached(job, job.begin_with(tokens, now_s))
        self._warm.add(job.submit.request)

    def _next_tenant(self, now_s: float) -> str | None:
        """The tenant for which a slot was freed, if any, so that the slot cannot bounce back; else the neediest."""
        while self._promised:
            name = self._promised.pop(0)
            if (tenant := self._tenants.get(name)) and tenant.queue and tenant.may_start(now_s):
                return name  # it was not removed meanwhile, and can still use the slot
        return self.sharing.neediest(self._active.values(), now_s)

    def take_state(self, job: Job) -> Swapped | None:
        """The state kept of a job that was just bound; None if it had no sequence before. Raises EngineBroken."""
        return self.states.take(job.submit.request)

    def lost_state(self, job: Job) -> None:
        """The job's tokens must be recomputed, which is charged to nobody."""
        job.computed = 0

    def worked(self, job: Job | None, micros: int, *, is_usage: bool = True) -> None:
        """Record engine time outside of passes, for a request that has or had a sequence, or for nobody."""
        self._booking.timed(job, micros, is_usage=is_usage)

    # ---- a step -------------------------------------------------------------------------------------------------

    def has_work(self, now_s: float) -> bool:
        """Whether a step now would do anything. Requests held back by their tenant's limits do not count."""
        if self._booking.finishes or self._released or self._discarded:
            return True
        if not all(job.is_paced(self._tenants[job.submit.tenant], now_s) for job in self._active.values()):
            return True
        has_place = self.slots.can_take() or (bool(self._active) and self._settings.policy is Policy.USAGE)
        return has_place and any(tenant.queue and tenant.may_start(now_s) for tenant in self._tenants.values())

    def wake_s(self, now_s: float) -> float | None:
        """The earliest time at which a tenant over its tokens per minute may continue; None if there is none."""
        return self.roster.wake_s(self._active.values(), now_s)

    @property
    def is_idle(self) -> bool:
        """Whether no request is left, not even one that is held back."""
        return not self._jobs

    def plan(self, now_s: float) -> Plan:
        """Decide one step for the bound requests: a decoding pass or a prefill pass."""
        self._now_s = now_s
        usage = {
            # the credit buys one quick answer; with several requests it is divided among them
            name: self._fairness.normalised(name, now_s, -tenant.credit / tenant.active)
            for name, tenant in self._tenants.items()
            if tenant.active
        }
        ready = list(self._active.values())
        if self.followers:
            ready = [job for job in ready if job.leader is None]
        chunks = self.passes.choose(ready, self._tenants, usage, now_s)
        if not chunks:
            return Plan([], [])  # no moves, either: their copies are made by a pass
        moves = self._compact() if self._packs and not chunks[0].texts else []
        if moves:
            chunks = [chunk._replace(sequence=self._jobs[chunk.request].sequence) for chunk in chunks]
        return Plan(moves, sorted(chunks))

    def _compact(self) -> list[tuple[int, int]]:
        moves = self.slots.compact({s for s, job in self._active.items() if job.is_decoding})
        for source, target in moves:
            if (job := self._active.pop(source, None)) is not None:  # otherwise a prefix is moved
                self._active[target] = job
                job.sequence = target
        return moves

    def in_the_way(self) -> int | None:
        """The sequence of a prefix that must be moved out before decoding requests can be adjacent, if one must."""
        decoding = {s for s, job in self._active.items() if job.is_decoding}
        return self.slots.in_the_way(decoding) if self._packs else None

    def check_plan(self, plan: Plan) -> None:
        """Check that each chunk holds the next tokens of the request that its sequence is bound to.

        Call it before the pass is run. Raises EngineBroken: rather no answer than another's.
        """
        owners, jobs = self.slots.owners, self._jobs
        for sequence, position, tokens, _, request, _, image in plan.chunks:
            if (
                owners[sequence] != request
                or (job := jobs.get(request)) is None
                or job.computed != position
                or job.tokens[position] != tokens[0]
                or job.image is not image
                or (len(tokens) > 1 and job.tokens[position : position + len(tokens)] != tokens)
            ):
                raise EngineBroken(
                    f"sequence {sequence} of request {owners[sequence]} was to compute {len(tokens)} tokens at "
                    f"{position} for request {request}, which are not its next ones"
                )

    def commit(self, plan: Plan, result: PassResult | None, now_s: float, leave: Callable[[], None]) -> Step:
        """Book what was computed: tokens, charges, engine time and ends. The only place that charges. `result` is None
        if the plan has no pass.

        `leave` clears or parks what those leave that ended, which takes engine time as well.
        """
        self._now_s = now_s
        made: dict[int, Progress] = {}
        busy_micros = 0 if result is None else result.busy_micros
        if result is not None:
            self._book(plan.chunks, result, made, now_s)
        for name, tokens in self._charges.settle(now_s):
            self._tenants[name].window.give(tokens, now_s)
        while self._ended:
            self._finish(*self._ended.pop(0))
        leave()
        busy_micros += self._booking.add_to(made, now_s)
        return self._booking.step(self._active, len(self._jobs), list(made.values()), busy_micros, now_s)

    def _book(self, chunks: list[Chunk], result: PassResult, made: dict[int, Progress], now_s: float) -> None:
        """Book a pass, chunk by chunk, and learn how long it took."""
        # tokens after a cached prefix take longer
        is_cold = not self._warm or self._warm.isdisjoint(chunk.request for chunk in chunks)
        self.slack.learn(chunks, result.micros, is_cold=is_cold)
        bindings = self.slots.bindings
        for chunk, shared_micros in zip(chunks, divided(result.shared_micros, chunks), strict=True):
            request, job = chunk.request, self._active[chunk.sequence]
            if job.submit.request != request:
                raise EngineBroken(f"sequence {chunk.sequence} computed for request {request} is another's")
            made[request] = self._advance(job, chunk, bindings[chunk.sequence], result, shared_micros, now_s)

    def _advance(
        self, job: Job, chunk: Chunk, binding: int, result: PassResult, shared_micros: int, now_s: float
    ) -> Progress:
        """Book one chunk of one job: advance, charge, take the sampled token, and note whether it has ended.

        `shared_micros` is its part of the time of the pass. That of tokens which are computed again is nobody's.
        """
        submit, sampled = job.submit, result.sampled.get(chunk.sequence)
        own_micros = result.own_micros.get(chunk.sequence, 0)
        if sampled is not None and sampled.grammar_micros:
            self._charges.time(submit.tenant, sampled.grammar_micros, now_s)
        if sampled is not None and sampled.failed:
            job.is_garbled = sampled.is_garbled
            self._ended.append((job, FinishReason.FAILED, sampled.failed, sampled.param))
            return Progress(submit.request, binding, 0, -1, shared_micros + own_micros)
        job.advance(chunk.position + len(chunk.tokens), len(chunk.tokens), now_s)
        fresh_prompt = 0
        if job.charged_prompt < len(submit.prompt):
            fresh_prompt = max(0, min(job.computed, len(submit.prompt)) - max(job.charged_prompt, chunk.position))
            job.charged_prompt += fresh_prompt
        token, logprobs = -1, None
        tenant = self._tenants[submit.tenant]
        tenant.spend(fresh_prompt * self._settings.prompt_token_cost)
        if sampled is not None or chunk.texts:
            job.decoded_s, tenant.credit = now_s, 0.0
        if sampled is not None and not sampled.is_end:
            token, logprobs = sampled.token, sampled.logprobs
            job.tokens.append(token)
            job.generated += 1
            if job.generated >= submit.max_tokens or len(job.tokens) >= self._context_tokens:
                self._ended.append((job, FinishReason.LENGTH, "", ""))
        elif sampled is not None or (chunk.texts and not job.remaining):
            self._ended.append((job, FinishReason.STOP, "", ""))
        self._charges.tokens(submit, fresh_prompt, int(token >= 0))
        if chunk.image and fresh_prompt:
            self._charges.time(submit.tenant, result.image_micros, now_s)
        count, new = len(chunk.tokens), fresh_prompt + (chunk.sample and job.computed > len(submit.prompt))
        micros = own_micros + (shared_micros if new == count else shared_micros * new // count)
        vectors = result.vectors.get(chunk.sequence, b"")
        return Progress(submit.request, binding, fresh_prompt, token, micros, logprobs, 0, vectors)

    # ---- endings ------------------------------------------------------------------------------------------------

    def _finish(self, job: Job, reason: FinishReason, message: str = "", param: str = "", detail: str = "") -> None:
        """The only way out of the scheduler, from any state."""
        del self._jobs[job.submit.request]
        job.has_failed = reason is FinishReason.FAILED
        if job.sequence >= 0:
            self._released.append((job.sequence, job))
            self._unbind(job)
        elif job.is_queued:
            self._tenants[job.submit.tenant].queue.remove(job)
            job.is_queued = False
        if (state := self.states.take(job.submit.request)) is not None:
            self._discarded.append((job, state))
        self.roster.left(job, self._now_s)
        held = (*job.held(self._now_s), job.is_garbled)
        self._booking.finishes.append(Finish(job.submit.request, job.binding, reason, message, param, detail, *held))

    def _unbind(self, job: Job) -> None:
        self.slots.release(job.sequence, job.submit.request)
        del self._active[job.sequence]
        self._warm.discard(job.submit.request)
        self._booking.left()
        job.leave(self._now_s)
        self._tenants[job.submit.tenant].active -= 1

    # ---- queries --------------------------------------------------------------------------------------

    @property
    def active(self) -> Mapping[int, Job]:
        """The requests that have a sequence, by it."""
        return self._active

    def usage(self, now_s: float) -> dict[str, float]:
        """Decayed usage by weight, by tenant."""
        return self._fairness.snapshot(now_s)

    def held(self, now_s: float) -> list[tuple[int, int, int]]:
        """What those that have or had a slot have held; see `Step.held`."""
        return [(number, *job.held(now_s)) for number, job in self._jobs.items() if job.binding is not None]

    def check(self) -> None:
        """Check invariants: every job is in one place, and every bound sequence has its job."""
        queued = sum(len(tenant.queue) for tenant in self._tenants.values())
        assert queued + len(self._active) == len(self._jobs), "every job waits or is active"
        assert len(self.slots) - self.slots.free == len(self._active), "every bound sequence has a job"
        for sequence, job in self._active.items():
            assert job.sequence == sequence and self.slots.owner(sequence) == job.submit.request
        queued_requests = {job.submit.request for tenant in self._tenants.values() for job in tenant.queue}
        assert self.states.requests() <= queued_requests, "a state waits with its request"
        assert sum(tenant.active for tenant in self._tenants.values()) == len(self._active), "tenants' counts add up"
        self.states.check()
