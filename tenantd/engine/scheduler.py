"""Whose tokens are computed next. Pure: no clock, no llama.cpp; `plan()` decides a step, `commit()` books it.

A request waits in its tenant's queue, is bound to a sequence (prefill), decodes one token a step, and ends. The
tenant with the least usage for its weight goes first everywhere: at free slots and in the prompt tokens of a step.
Usage is charged in `commit()` and nowhere else; between plan and commit nothing changes hands.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from tenantd.domain import FinishReason
from tenantd.engine.compute import Chunk, PassResult
from tenantd.engine.fairness import Fairness
from tenantd.engine.protocol import Finish, Progress, Share, Step, Submit
from tenantd.engine.slots import Slots

FIRST_OUTPUT_TOKENS: Final = 128.0
"""How long an answer is expected to be before a tenant has had one."""
AVERAGE_WEIGHT: Final = 0.2
"""How much the last answer counts in the moving average of a tenant's answers."""


@dataclass(slots=True, eq=False)
class Job:
    """One request in the engine.

    `tokens` is the prompt and all that was generated; the first `computed` of them are in the KV cache. It decodes
    when one token is left to compute, and that token was the last to be generated.
    """

    submit: Submit
    arrival: int
    tokens: list[int]
    generated: int
    charged_prompt: int  # prompt tokens charged so far, here or before a crash
    computed: int = 0
    sequence: int = -1
    is_queued: bool = False

    @property
    def remaining(self) -> int:
        return len(self.tokens) - self.computed

    @property
    def is_decoding(self) -> bool:
        return self.computed > 0 and self.remaining == 1


@dataclass(slots=True)
class Plan:
    """One step: sequences to move, in order, then forward passes, each one llama_decode call."""

    moves: list[tuple[int, int]]
    passes: list[list[Chunk]]


@dataclass(slots=True)
class _Tenant:
    queue: deque[Job] = field(default_factory=deque)
    active: int = 0
    max_concurrent: int | None = None
    output_tokens: float = FIRST_OUTPUT_TOKENS  # of its recent answers, a moving average


class Scheduler:
    """Owner of every job. Exactly one Finish comes out for each Submit that goes in.

    The order of a step: take_released, bind, plan, (the engine runs the passes), commit, take_released.
    """

    def __init__(
        self,
        slots: int,
        context_tokens: int,
        fairness: Fairness,
        *,
        prompt_token_cost: float = 1.0,
        generated_token_cost: float = 2.0,
        prefill_chunk_tokens: int = 256,
        keep_packed: bool = True,
    ) -> None:
        """`keep_packed`: move decoding sequences together, as KV streams want it (see slots.py)."""
        self._slots = Slots(slots)
        self._context_tokens = context_tokens
        self._fairness = fairness
        self._prompt_token_cost = prompt_token_cost
        self._generated_token_cost = generated_token_cost
        self._prefill_chunk_tokens = prefill_chunk_tokens
        self._keep_packed = keep_packed
        self._tenants: dict[str, _Tenant] = {}
        self._jobs: dict[int, Job] = {}
        self._active: dict[int, Job] = {}  # by sequence
        self._released: list[int] = []
        self._finishes: list[Finish] = []
        self._arrivals = 0
        self._steps = 0

    # ---- what comes in ------------------------------------------------------------------------------------------

    def submit(self, submit: Submit, now_s: float) -> None:
        """Queue a request. Its tenant, if idle until now, is lifted to the others' usage."""
        assert submit.request not in self._jobs, "a request is submitted once"
        tenant = self._tenant(submit.tenant)
        if not tenant.queue and not tenant.active:
            self._fairness.lift(submit.tenant, self._busy_tenants(), now_s)
        job = Job(
            submit=submit,
            arrival=self._arrivals,
            tokens=submit.prompt + submit.generated,
            generated=len(submit.generated),
            charged_prompt=submit.billed_prompt_tokens,
        )
        self._arrivals += 1
        self._jobs[submit.request] = job
        if not job.tokens or len(job.tokens) > self._context_tokens:
            self._finish(job, FinishReason.FAILED, f"{len(job.tokens)} tokens in a context of {self._context_tokens}")
        elif job.generated >= submit.max_tokens or len(job.tokens) == self._context_tokens:
            self._finish(job, FinishReason.LENGTH)
        else:
            tenant.queue.append(job)
            job.is_queued = True

    def cancel(self, request: int) -> None:
        """End a request now; its sequence is free in the next plan. Unknown ids are ignored."""
        if (job := self._jobs.get(request)) is not None:
            self._finish(job, FinishReason.CANCELLED)

    def reject(self, request: int, message: str) -> None:
        """The engine could not bind or run it."""
        if (job := self._jobs.get(request)) is not None:
            self._finish(job, FinishReason.FAILED, message)

    def set_share(self, share: Share) -> None:
        """Effective from the next plan; running requests over a lower `max_concurrent` finish."""
        self._fairness.set_weight(share.tenant, share.weight)
        self._tenant(share.tenant).max_concurrent = share.max_concurrent

    # ---- a step -------------------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """A step now would get something done. Requests held back by `max_concurrent` are no work."""
        return bool(self._active or self._finishes or self._released) or any(
            tenant.queue and self._may_start(tenant) for tenant in self._tenants.values()
        )

    @property
    def is_idle(self) -> bool:
        """No request is left, not even one held back."""
        return not self._jobs

    def take_released(self) -> list[int]:
        """Sequences whose requests ended since the last call; they must be cleared before the next `bind`."""
        released, self._released = self._released, []
        return released

    def bind(self, now_s: float) -> list[Job]:
        """Give free slots to waiting requests: neediest tenant first, then its oldest request."""
        assert not self._released, "released sequences are cleared first"
        bound: list[Job] = []
        while self._slots.can_take():
            ready = [name for name, tenant in self._tenants.items() if tenant.queue and self._may_start(tenant)]
            if not ready:
                break
            pending = self._pending_costs()
            name = min(ready, key=lambda n: (self._fairness.normalised(n, now_s, pending.get(n, 0.0)), self._first(n)))
            job = self._tenants[name].queue.popleft()
            job.is_queued = False
            self._tenants[name].active += 1
            job.sequence = self._slots.take(job.submit.request)
            self._active[job.sequence] = job
            bound.append(job)
        return bound

    def plan(self, now_s: float) -> Plan:
        """Decide one step for the bound requests: every decoding one, and prompt tokens up to the budget."""
        moves: list[tuple[int, int]] = []
        if self._keep_packed:
            moves = self._slots.compact({s for s, job in self._active.items() if job.is_decoding})
            for source, target in moves:
                job = self._active[target] = self._active.pop(source)
                job.sequence = target
        decode = [self._chunk(job, 1) for job in self._active.values() if job.is_decoding]
        prefill = self._prefill_chunks(now_s)
        return Plan(moves, [sorted(chunks) for chunks in (decode, prefill) if chunks])

    def commit(self, plan: Plan, results: list[PassResult], now_s: float) -> Step:
        """Book what was computed: tokens, charges, engine time and endings. The only place that charges."""
        progress: list[Progress] = []
        busy_micros = unbilled_micros = 0
        for chunks, result in zip(plan.passes, results, strict=True):
            busy_micros += result.micros
            for chunk, micros in zip(chunks, _divide(result.micros, chunks), strict=True):
                job = self._active.get(chunk.sequence)
                assert job is not None, "a planned sequence is bound until commit"
                made = self._advance(job, chunk, result, micros, now_s)
                unbilled_micros += micros - made.micros
                progress.append(made)
        self._steps += 1
        finishes, self._finishes = self._finishes, []
        return Step(
            number=self._steps,
            busy_micros=busy_micros,
            unbilled_micros=unbilled_micros,
            progress=progress,
            finishes=finishes,
            running=len(self._active),
            waiting=len(self._jobs) - len(self._active),
        )

    def _advance(self, job: Job, chunk: Chunk, result: PassResult, micros: int, now_s: float) -> Progress:
        """One chunk of one job: move on, charge, take the sampled token, end it if it is time."""
        sampled = result.sampled.get(chunk.sequence)
        if sampled is not None and sampled.failed:
            self._finish(job, FinishReason.FAILED, sampled.failed)
            return Progress(job.submit.request, 0, -1, micros)
        job.computed = chunk.position + len(chunk.tokens)
        fresh_prompt = max(0, min(job.computed, len(job.submit.prompt)) - max(job.charged_prompt, chunk.position))
        job.charged_prompt += fresh_prompt
        token, logprobs = -1, None
        if sampled is not None and sampled.is_end:
            self._finish(job, FinishReason.STOP)
        elif sampled is not None:
            token, logprobs = sampled.token, sampled.logprobs
            job.tokens.append(token)
            job.generated += 1
            if job.generated >= job.submit.max_tokens or len(job.tokens) >= self._context_tokens:
                self._finish(job, FinishReason.LENGTH)
        cost = fresh_prompt * self._prompt_token_cost + (token >= 0) * self._generated_token_cost
        self._fairness.charge(job.submit.tenant, cost, now_s)
        is_recompute = fresh_prompt == 0 and not chunk.sample
        return Progress(job.submit.request, fresh_prompt, token, 0 if is_recompute else micros, logprobs)

    # ---- inside -------------------------------------------------------------------------------------------------

    def _pending_costs(self) -> dict[str, float]:
        """Cost that bound requests will be charged, as far as can be told: or one tenant would take all free slots.

        Output is expected to be as long as the tenant's recent answers, so a large `max_tokens` neither buys nor
        costs a slot.
        """
        pending: dict[str, float] = {}
        for job in self._active.values():
            name = job.submit.tenant
            prompt = max(0, len(job.submit.prompt) - job.charged_prompt)
            expected = min(self._tenants[name].output_tokens, job.submit.max_tokens)
            output = max(1.0, expected - job.generated)
            cost = prompt * self._prompt_token_cost + output * self._generated_token_cost
            pending[name] = pending.get(name, 0.0) + cost
        return pending

    def _prefill_chunks(self, now_s: float) -> list[Chunk]:
        """Prompt tokens of this step, neediest tenant first, then oldest request; never in slot order."""
        jobs = [job for job in self._active.values() if not job.is_decoding]
        jobs.sort(key=lambda job: (self._fairness.normalised(job.submit.tenant, now_s), job.arrival))
        chunks: list[Chunk] = []
        budget = self._prefill_chunk_tokens
        for job in jobs:
            if budget == 0:
                break
            count = min(budget, job.remaining)
            budget -= count
            chunks.append(self._chunk(job, count))
        return chunks

    def _chunk(self, job: Job, count: int) -> Chunk:
        start = job.computed
        tokens = job.tokens[start : start + count] if count > 1 else [job.tokens[start]]
        return Chunk(job.sequence, start, tokens, start + count == len(job.tokens))

    def _finish(self, job: Job, reason: FinishReason, message: str = "") -> None:
        """The one way out of the scheduler, from any state."""
        del self._jobs[job.submit.request]
        tenant = self._tenant(job.submit.tenant)
        if job.sequence >= 0:
            self._slots.release(job.sequence, job.submit.request)
            self._released.append(job.sequence)
            del self._active[job.sequence]
            tenant.active -= 1
            tenant.output_tokens += AVERAGE_WEIGHT * (job.generated - tenant.output_tokens)
        elif job.is_queued:
            tenant.queue.remove(job)
        self._finishes.append(Finish(job.submit.request, reason, message))

    def _may_start(self, tenant: _Tenant) -> bool:
        return tenant.max_concurrent is None or tenant.active < tenant.max_concurrent

    def _first(self, name: str) -> int:
        return self._tenants[name].queue[0].arrival

    def _busy_tenants(self) -> list[str]:
        return [name for name, tenant in self._tenants.items() if tenant.queue or tenant.active]

    def _tenant(self, name: str) -> _Tenant:
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._tenants[name] = _Tenant()
        return tenant

    # ---- what can be asked --------------------------------------------------------------------------------------

    def usage(self, now_s: float) -> dict[str, float]:
        """Normalised decayed usage by tenant."""
        return self._fairness.snapshot(now_s)

    def check(self) -> None:
        """Conservation: every job is in one place, every bound sequence has its job."""
        queued = sum(len(tenant.queue) for tenant in self._tenants.values())
        assert queued + len(self._active) == len(self._jobs), "every job waits or is active"
        assert len(self._slots) - self._slots.free == len(self._active), "every bound sequence has a job"
        for sequence, job in self._active.items():
            assert job.sequence == sequence and self._slots.owner(sequence) == job.submit.request
        actives = sum(tenant.active for tenant in self._tenants.values())
        assert actives == len(self._active), "tenants' counts add up"


def _divide(micros: int, chunks: list[Chunk]) -> list[int]:
    """Share the time of a pass by tokens, in whole microseconds that add up exactly."""
    total = sum(len(chunk.tokens) for chunk in chunks)
    shares: list[int] = []
    tokens = given = 0
    for chunk in chunks:
        tokens += len(chunk.tokens)
        shares.append(micros * tokens // total - given)
        given += shares[-1]
    return shares
