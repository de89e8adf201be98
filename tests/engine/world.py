"""A loop with the real scheduler over the engine without a model, on a clock of its own."""

from __future__ import annotations

import functools
import os
import secrets
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from hypothesis import seed, settings

from tenantd import costs
from tenantd.domain import FinishReason, Sampling, TokenLogprobs
from tenantd.engine.compute import Compute
from tenantd.engine.fairness import Fairness
from tenantd.engine.fake import FakeCompute
from tenantd.engine.loop import Loop
from tenantd.engine.scheduler import Scheduler
from tenantd.wire.messages import (
    Cancel,
    DropSampling,
    Finish,
    Load,
    Progress,
    Remember,
    SetSampling,
    Step,
    Submit,
    TenantPolicy,
)
from tenantd.wire.settings import Settings
from tests.support.loads import fake_load

STEP_MICROS = 1000
SCENARIOS = int(os.environ.get("TENANTD_SCENARIOS", "50"))
"""How many of each kind. A night takes TENANTD_SCENARIOS=10000 or more, and draws a seed; else the set is fixed."""
SEED = int(os.environ.get("TENANTD_SEED") or (secrets.randbits(32) if "TENANTD_SCENARIOS" in os.environ else 1))
BURST_CREDIT = 200
CACHED_COST = 0.5
SETTINGS = Settings(max_stall_ms=10, min_run_tokens=4, burst_credit=BURST_CREDIT, cached_token_cost=CACHED_COST)


def scenarios(test: Callable[..., None]) -> Callable[..., None]:
    """SCENARIOS random ones from SEED. When one fails, the command that replays it is printed with it."""
    seeded = seed(SEED)(settings(max_examples=SCENARIOS)(test))

    @functools.wraps(seeded)
    def replayable(*args: Any, **kwargs: Any) -> None:
        try:
            seeded(*args, **kwargs)
        except Exception as e:
            where = f"{sys.modules[test.__module__].__file__}::{test.__name__}"
            command = f"TENANTD_SEED={SEED} TENANTD_SCENARIOS={SCENARIOS} python -m pytest {where}"
            e.add_note(f"replay: {command}")
            raise

    return replayable


class CountingFairness(Fairness):
    """Notes what each tenant was charged in all."""

    def __init__(self, *settings: Any, **more: Any) -> None:
        super().__init__(*settings, **more)
        self.charged: Any = Counter()  # by tenant

    def charge(self, tenant: str, cost: float, now_s: float) -> None:
        super().charge(tenant, cost, now_s)
        self.charged[tenant] += int(2 * cost) / 2  # tokens; the time of a binding is less


@dataclass(repr=False)
class World:
    """A loop with a virtual clock, and what came out of it."""

    load: Load
    chunk: int = 16
    settings: Settings = SETTINGS
    now_s: float = 0.0
    set_back_s: float = 0.0  # by how much the clock jumped backwards in all
    engine: Callable[[Load, Callable[[float], None]], Compute] = FakeCompute
    fills: bool = False  # as with an engine that `is_faster_when_full`
    tokens: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    prefilled: Counter[int] = field(default_factory=Counter)
    cached: Counter[int] = field(default_factory=Counter)
    vectors: dict[int, bytes] = field(default_factory=lambda: defaultdict(bytes))
    logprobs: dict[int, list[TokenLogprobs | None]] = field(default_factory=lambda: defaultdict(list))
    finishes: dict[int, FinishReason] = field(default_factory=dict)
    finished: dict[int, Finish] = field(default_factory=dict)
    service: Any = field(default_factory=Counter)  # by tenant, in usage
    submits: dict[int, Submit] = field(default_factory=dict)
    samplings: dict[int, Sampling] = field(default_factory=dict)
    shares: dict[str, TenantPolicy] = field(default_factory=dict)
    cancelled: set[int] = field(default_factory=set)
    adapters: dict[str, str] = field(default_factory=dict)
    unfinished: Counter[str] = field(default_factory=Counter)
    swaps: int = 0
    recomputes: int = 0
    active: dict[str, int] = field(default_factory=dict)
    lost: Any = field(default_factory=Counter)  # the same
    busy_micros: int = 0
    micros: Counter[int] = field(default_factory=Counter)  # engine time that is billed, by request
    given: dict[str, list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.fairness = CountingFairness(60, BURST_CREDIT)
        self.settings = replace(self.settings, prefill_chunk_tokens=self.chunk)
        self._start()

    def _start(self) -> None:
        self.compute = self.engine(self.load, self._sleep)
        context_tokens = self.compute.info.context_tokens
        self.scheduler = Scheduler(
            self.load.slots,
            context_tokens,
            self.fairness,
            self.settings,
            swap_bytes=self.load.swap_bytes,
            cache_bytes=self.load.cache_bytes,
            packs=True,
        )
        self.scheduler.passes.whole = self.load.slots if self.fills else 0
        checkpoint_tokens = self.load.checkpoint_tokens
        self.loop = Loop(self.scheduler, self.compute, lambda: self.now_s, checkpoint_tokens=checkpoint_tokens)

    def tenant_of(self, request: int) -> str:
        return self.submits[request].tenant

    def _sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def submit(
        self,
        request: int,
        tenant: str,
        prompt: int | list[int],
        output: int,
        *,
        generated=(),
        billed=0,
        counts_prompt=True,
        group=0,
        marks=(),
        hidden=0,
        is_flex=False,
        **sampling,
    ):
        self.submits[request] = Submit(
            request=request,
            tenant=tenant,
            prompt=prompt if isinstance(prompt, list) else self.prompt(request, prompt),
            generated=list(generated),
            max_tokens=output,
            adapter=self.adapters.get(tenant, ""),
            sampling=request,
            seed=request,
            billed_prompt_tokens=billed,
            counts_prompt=counts_prompt,
            group=group,
            marks=list(marks),
            hidden_tokens=hidden,
            is_flex=is_flex,
        )
        self.unfinished[tenant] += 1
        self.samplings[request] = Sampling(**({"ignore_eos": True} | sampling))
        self._send(self.submits[request])

    def prompt(self, request: int, tokens: int) -> list[int]:
        """What a request of this length asks."""
        return [(request * 31 + i) % 256 for i in range(tokens)]

    def _send(self, submit: Submit) -> None:
        sampling = SetSampling(submit.request, self.samplings[submit.request])
        self.loop.apply([sampling, submit, DropSampling(submit.request)])

    def top_up(self, tenant: str, clients: int, prompt: int, output: int) -> list[int]:
        """Submit what brings a tenant's unfinished requests to so many, as clients do that send one after the other."""
        requests = range(len(self.submits), len(self.submits) + clients - self.unfinished[tenant])
        for request in requests:
            self.submit(request, tenant, prompt, output)
        return list(requests)

    def share(self, tenant: str, **share: Any) -> None:
        self.shares[tenant] = TenantPolicy(**{"tenant": tenant, "weight": 1, **share})
        self.loop.apply([self.shares[tenant]])

    def cancel(self, request: int) -> None:
        self.cancelled.add(request)
        self.loop.apply([Cancel(request)])

    def crash(self) -> None:
        """The engine computes a step that nobody hears of, and is gone. The next one is told what the daemon knows."""
        if self.has_work:
            for made in self.loop.step().progress:
                self.lost[self.tenant_of(made.request)] += cost_of(made)
        usage = self.fairness.snapshot(self.now_s)
        given = {
            # a little more than a minute, as the daemon tells it: the clocks are rounded to microseconds
            name: [(round((at_s + 60 - self.passed_s) * 1e6) + 2, tokens) for at_s, tokens in each]
            for name, each in self.given.items()
        }
        busy = {self.tenant_of(request) for request in self.submits.keys() - self.finishes.keys() - self.cancelled}
        memory = Remember(usage, given, sorted(busy), self.scheduler.roster.level(self.now_s))
        charged, self.fairness = self.fairness.charged, CountingFairness(60, BURST_CREDIT)
        self.fairness.charged = charged
        self.compute.close()
        self._start()
        self.loop.apply([*self.shares.values(), memory])
        for request, submit in self.submits.items():
            if request in self.finishes:
                continue
            if request in self.cancelled:
                self._finish(request, FinishReason.CANCELLED)
            else:
                billed = self.prefilled[request] + self.cached[request]
                done = {"generated": list(self.tokens[request]), "billed_prompt_tokens": billed}
                self._send(msgspec.structs.replace(submit, **done))

    def step(self) -> None:
        step = self.loop.step()
        self.scheduler.check()
        self.loop._reuse.cache.check()
        self.check_no_slot_idles(step)
        assert step.busy_micros == sum(p.micros for p in step.progress) + step.unbilled_micros
        self.check_pacing(step)
        self.check_concurrency()
        self.busy_micros += step.busy_micros
        self.swaps += step.swaps
        self.recomputes += step.recomputes
        for made in step.progress:
            assert made.request not in self.finishes, "nothing comes after the end"
            self.micros[made.request] += made.micros
            self.prefilled[made.request] += made.prefilled
            assert not (made.cached and self.cached[made.request]), "it is told once"
            self.cached[made.request] += made.cached
            self.vectors[made.request] += made.vectors
            if made.token >= 0:
                self.tokens[made.request].append(made.token)
                self.logprobs[made.request].append(made.logprobs)
            self.service[self.tenant_of(made.request)] += cost_of(made)
        for finish in step.finishes:
            assert finish.request not in self.finishes, "a request ends once"
            self.finished[finish.request] = finish
            self._finish(finish.request, finish.reason)

    def _finish(self, request: int, reason: FinishReason) -> None:
        self.finishes[request] = reason
        self.unfinished[self.tenant_of(request)] -= 1

    def check_no_slot_idles(self, step: Step) -> None:
        """Work conservation: no slot is free while a request waits that may have it, unless it was freed just now."""
        ready = [t for t in self.scheduler._tenants.values() if t.queue and t.may_start(self.now_s)]
        assert not ready or not self.scheduler.slots.free or step.finishes

    def check_concurrency(self) -> None:
        """A tenant has no more than its `max_concurrent` unless it had them before that was lowered."""
        active = {name: tenant.active for name, tenant in self.scheduler._tenants.items()}
        for name, tenant in self.scheduler._tenants.items():
            if tenant.max_concurrent is not None and active[name] > tenant.max_concurrent:
                assert active[name] <= self.active.get(name, 0)
        self.active = active

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work(self.now_s)

    @property
    def passed_s(self) -> float:
        """Time that has passed. A clock that jumps backwards takes none of it back."""
        return self.now_s + self.set_back_s

    def check_charges(self) -> None:
        """Each tenant was charged what was delivered to it, or computed for it and lost."""
        for tenant in {submit.tenant for submit in self.submits.values()}:
            assert self.fairness.charged[tenant] == self.service[tenant] + self.lost[tenant]

    def jump(self, jump_s: float) -> None:
        self.now_s += jump_s
        self.set_back_s += max(0.0, -jump_s)

    def check_pacing(self, step: Step) -> None:
        """No window of 60 seconds that ends now holds more than a tenant's limit."""
        for made in step.progress:
            self.given[self.tenant_of(made.request)].append((self.passed_s, self.counted(made)))
        for name, tenant in self.scheduler._tenants.items():
            limit = tenant.window.limit_tokens
            if limit is not None and any(p.token >= 0 or p.prefilled for p in step.progress):
                recent = sum(tokens for at_s, tokens in self.given[name] if self.passed_s < at_s + 60)
                mine = sum(self.counted(p) for p in step.progress if self.tenant_of(p.request) == name)
                assert recent <= limit or not mine

    def counted(self, made: Progress) -> int:
        """Towards tokens per minute."""
        return (made.prefilled if self.submits[made.request].counts_prompt else 0) + (made.token >= 0)

    def run(self) -> None:
        while self.has_work or not self.scheduler.is_idle or self.loop._reuse.cache.is_wiping:
            if not self.has_work and not self.scheduler.is_idle:  # all are paced until the window moves on
                wake_s = self.scheduler.wake_s(self.now_s)
                assert wake_s is not None, "what waits, waits for something"
                assert wake_s > self.now_s, "a time that has come is no reason to wait"
                self.now_s = wake_s
            self.step()
            if self.loop.patience_s():  # nothing could be done: a prompt's last token needs room for the answer's first
                self.now_s += 1


def cost_of(made: Progress) -> float:
    """In usage."""
    return made.prefilled + CACHED_COST * made.cached + 2 * (made.token >= 0)


def world(
    slots: int = 4,
    chunk: int = 16,
    context_tokens: int = 512,
    swap_bytes: int = 1 << 30,
    token_micros: int = 0,
    fills: bool = False,
    **settings: Any,
) -> World:
    load = fake_load(
        slots=slots,
        context_tokens=context_tokens,
        swap_bytes=swap_bytes,
        fake_step_micros=STEP_MICROS,
        fake_token_micros=token_micros,
    )
    return World(load, chunk, replace(SETTINGS, **settings), fills=fills)


def bound(w: World, prompt: int) -> int:
    """How far tenants of weight 1 or more with work always waiting may come apart in service by weight.

    What one of them can use, on either side, before the other has its turn: a prompt that was begun, the prompts of one
    pass, and first tokens on every slot. And the margin that keeps requests from thrashing.
    """
    slots = w.load.slots
    one_pass = min(slots * prompt, w.settings.prefill_chunk_tokens)
    first_tokens = 2 * slots * w.settings.min_run_tokens
    return int(2 * (prompt + one_pass + first_tokens + costs.margin(w.settings)))


def newcomers_bound(w: World, prompt: int) -> int:
    """The same where a tenant may come from idle: its credit, once for what it was behind and once for being back."""
    return bound(w, prompt) + 2 * BURST_CREDIT
