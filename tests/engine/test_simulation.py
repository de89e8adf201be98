"""The real scheduler and loop over the engine without a model, on a clock of its own: random requests, cancels.

What must always hold: one Finish for each Submit; tokens and charges as delivered; slots and KV conserved; no step
without progress while there is work; engine time divided without remainder.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantd.domain import FinishReason, Sampling
from tenantd.engine.fairness import Fairness
from tenantd.engine.fake import BROKEN_GRAMMAR, FakeCompute
from tenantd.engine.loop import Loop
from tenantd.engine.protocol import Cancel, Load, Share, Step, Submit
from tenantd.engine.scheduler import Scheduler
from tenantd.engine.settings import Policy, Settings
from tests.support.loads import fake_load

STEP_MICROS = 1000
SCENARIOS = int(os.environ.get("TENANTD_SCENARIOS", "150"))
"""Random scenarios; a night's run takes TENANTD_SCENARIOS=10000 or more. A failing one prints how to replay it."""
SETTINGS = Settings(max_stall_ms=10, min_run_tokens=4)


@dataclass
class World:
    """A loop with a virtual clock, and what came out of it."""

    load: Load
    chunk: int = 16
    settings: Settings = SETTINGS
    now_s: float = 0.0
    tokens: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    prefilled: Counter[int] = field(default_factory=Counter)
    finishes: dict[int, FinishReason] = field(default_factory=dict)
    service: Counter[str] = field(default_factory=Counter)
    tenant_of: dict[int, str] = field(default_factory=dict)
    given: dict[str, list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.compute = FakeCompute(self.load, self._sleep)
        self.fairness = Fairness(60, burst_credit=200)
        self.settings = replace(self.settings, prefill_chunk_tokens=self.chunk)
        context_tokens = self.compute.info.context_tokens
        self.scheduler = Scheduler(self.load.slots, context_tokens, self.fairness, self.settings)
        self.loop = Loop(self.scheduler, self.compute, lambda: self.now_s)

    def _sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def submit(self, request: int, tenant: str, prompt: int, output: int, *, generated=(), billed=0, **sampling):
        self.tenant_of[request] = tenant
        tokens = [(request * 31 + i) % 256 for i in range(prompt)]
        self.loop.apply(
            [
                Submit(
                    request=request,
                    tenant=tenant,
                    prompt=tokens,
                    generated=list(generated),
                    max_tokens=output,
                    sampling=Sampling(**({"ignore_eos": True} | sampling)),
                    billed_prompt_tokens=billed,
                )
            ]
        )

    def step(self) -> None:
        step = self.loop.step()
        self.scheduler.check()
        self.check_no_slot_idles(step)
        assert step.busy_micros == sum(p.micros for p in step.progress) + step.unbilled_micros
        self.check_pacing(step)
        for made in step.progress:
            assert made.request not in self.finishes, "nothing comes after the end"
            self.prefilled[made.request] += made.prefilled
            cost = made.prefilled
            if made.token >= 0:
                self.tokens[made.request].append(made.token)
                cost += 2
            self.service[self.tenant_of[made.request]] += cost
        for finish in step.finishes:
            assert finish.request not in self.finishes, "a request ends once"
            self.finishes[finish.request] = finish.reason

    def check_no_slot_idles(self, step: Step) -> None:
        """Work conservation: no slot is free while a request waits that may have it, unless it was freed just now."""
        ready = [t for t in self.scheduler._tenants.values() if t.queue and t.may_start(self.now_s)]
        assert not ready or not self.scheduler._slots.free or step.finishes

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work(self.now_s)

    def check_pacing(self, step: Step) -> None:
        """No window of 60 seconds that ends now holds more than a tenant's limit."""
        for made in step.progress:
            tokens = made.prefilled + (made.token >= 0)
            self.given[self.tenant_of[made.request]].append((self.now_s, tokens))
        for name, tenant in self.scheduler._tenants.items():
            limit = tenant.window.limit_tokens
            if limit is not None and any(p.token >= 0 or p.prefilled for p in step.progress):
                recent = sum(tokens for at_s, tokens in self.given[name] if at_s <= self.now_s < at_s + 60)
                mine = sum(p.prefilled + (p.token >= 0) for p in step.progress if self.tenant_of[p.request] == name)
                assert recent <= limit or not mine

    def run(self) -> None:
        while self.has_work or not self.scheduler.is_idle:
            if not self.has_work:  # all are paced: nothing to do until the window moves on
                wake_s = self.scheduler.wake_s(self.now_s)
                assert wake_s is not None, "what waits, waits for something"
                assert wake_s > self.now_s, "a time that has come is no reason to wait"
                self.now_s = wake_s
            self.step()
            if self.loop.patience_s():  # nothing could be done: a prompt's last token needs room for the answer's first
                self.now_s += 1


def world(slots: int = 4, chunk: int = 16, context_tokens: int = 512, **settings: Any) -> World:
    load = fake_load(slots=slots, context_tokens=context_tokens, fake_step_micros=STEP_MICROS)
    return World(load, chunk, replace(SETTINGS, **settings))


events = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.sampled_from("abcd"), st.integers(1, 60), st.integers(1, 40)),
        st.tuples(st.just("cancel"), st.integers(0, 60)),
        st.tuples(
            st.just("share"),
            st.sampled_from("abcd"),
            st.floats(0.1, 100),
            st.none() | st.integers(0, 3),
            st.integers(0, 2),
            st.none() | st.integers(2, 200),
        ),
        st.tuples(st.just("clock"), st.floats(-7200, 7200)),
        st.tuples(st.just("steps"), st.integers(1, 20)),
    ),
    max_size=80,
)


@settings(max_examples=SCENARIOS, deadline=None, print_blob=True)
@given(
    events=events,
    slots=st.integers(1, 6),
    chunk=st.integers(1, 64),
    swap_bytes=st.sampled_from([0, 500, 1 << 30]),
    policy=st.sampled_from(Policy),
)
def test_whatever_arrives_every_request_ends_once_and_is_charged_as_delivered(events, slots, chunk, swap_bytes, policy):
    w = world(slots, chunk, swap_bytes=swap_bytes, policy=policy)
    submitted: dict[int, tuple[int, int]] = {}
    for event in events:
        match event:
            case ("submit", tenant, prompt, output):
                request = len(submitted)
                submitted[request] = (prompt, output)
                w.submit(request, tenant, prompt, output)
            case ("cancel", request):
                w.loop.apply([Cancel(request)])
            case ("share", tenant, weight, most, reserved, paced):
                w.loop.apply(
                    [
                        Share(
                            tenant=tenant,
                            weight=weight,
                            max_concurrent=most,
                            reserved_slots=reserved,
                            tokens_per_minute=paced,
                        )
                    ]
                )
            case ("clock", jump_s):
                w.now_s += jump_s
            case ("steps", n):
                for _ in range(n):
                    if w.has_work:
                        w.step()
    w.loop.apply([Share(tenant=t, weight=1) for t in "abcd"])  # nobody is held at zero for ever
    w.run()
    assert set(w.finishes) == set(submitted)
    assert w.compute.is_empty()
    for request, reason in w.finishes.items():
        prompt, output = submitted[request]
        if reason is FinishReason.LENGTH:
            assert (w.prefilled[request], len(w.tokens[request])) == (prompt, output)
        else:
            assert reason is FinishReason.CANCELLED
            assert w.prefilled[request] <= prompt and len(w.tokens[request]) <= output


@settings(max_examples=60, deadline=None)
@given(
    prompt=st.integers(1, 80),
    output=st.integers(2, 60),
    seam=st.integers(0, 60),
    billed=st.integers(0, 80),
    others=st.integers(0, 5),
)
def test_a_resumed_request_continues_token_for_token_and_is_charged_once(prompt, output, seam, billed, others):
    seam, billed = min(seam, output - 1), min(billed, prompt)
    if seam:
        billed = prompt  # its prompt was computed whole before the first token
    whole = world()
    whole.submit(0, "a", prompt, output)
    whole.run()
    resumed = world()
    for other in range(1, others + 1):
        resumed.submit(other, "b", 7 * other, 20)
    resumed.submit(0, "a", prompt, output, generated=whole.tokens[0][:seam], billed=billed)
    resumed.run()
    assert whole.tokens[0][:seam] + resumed.tokens[0] == whole.tokens[0]
    assert resumed.prefilled[0] == prompt - billed


def test_a_tenant_held_at_zero_waits_without_work_and_goes_on_when_it_may():
    w = world()
    w.loop.apply([Share(tenant="a", weight=1, max_concurrent=0)])
    w.submit(0, "a", 4, 4)
    assert not w.has_work and not w.scheduler.is_idle
    w.loop.apply([Share(tenant="a", weight=1)])
    w.run()
    assert w.finishes[0] is FinishReason.LENGTH


def test_two_backlogged_tenants_get_service_by_weight():
    w = world(slots=4, chunk=64)
    w.loop.apply([Share(tenant="a", weight=3), Share(tenant="b", weight=1)])
    for request in range(400):
        w.submit(request, "ab"[request % 2], 32, 16)
    while len(w.finishes) < 200:
        w.step()
    # One request in flight for each slot is the grain of sharing without preemption.
    grain = 4 * (32 + 2 * 16)
    assert abs(w.service["a"] - 3 * w.service["b"]) <= 3 * grain


def test_the_neediest_tenants_prompt_goes_first_whatever_its_slot():
    w = world(slots=2, chunk=8)
    w.fairness.charge("heavy", 1000, 0)
    w.submit(0, "heavy", 100, 4)
    w.step()  # heavy has slot 0 and has begun
    w.scheduler.submit(Submit(request=1, tenant="light", prompt=[1] * 16, max_tokens=1), w.now_s)
    w.tenant_of[1] = "light"
    w.fairness.charge("heavy", 1000, 0)
    w.step()
    w.step()
    assert w.prefilled[1] == 16 and 1 in w.tokens
    assert w.prefilled[0] == 8


def test_one_tenant_does_not_take_all_free_slots_at_once():
    w = world(slots=4)
    for request in range(20):
        w.submit(request, "a" if request < 16 else "b", 20, 20)
    w.step()
    held = Counter(job.submit.tenant for job in w.scheduler._active.values())
    assert held == {"a": 2, "b": 2}


def test_a_rejected_request_fails_with_the_reason_and_its_slot_goes_to_the_next():
    w = world(slots=1)
    w.submit(0, "a", 4, 4, grammar=BROKEN_GRAMMAR)
    w.submit(1, "a", 4, 4)
    w.run()
    assert w.finishes == {0: FinishReason.FAILED, 1: FinishReason.LENGTH}


def test_a_request_at_the_end_of_its_context_ends_with_length():
    w = world(context_tokens=64)
    w.submit(0, "a", 60, 100)
    w.run()
    assert w.finishes[0] is FinishReason.LENGTH
    assert len(w.tokens[0]) == 4


def test_a_prompt_longer_than_the_context_fails_alone():
    w = world(context_tokens=64)
    w.submit(0, "a", 65, 1)
    w.submit(1, "a", 10, 1)
    w.run()
    assert w.finishes == {0: FinishReason.FAILED, 1: FinishReason.LENGTH}


def test_cancelling_ten_thousand_queued_requests_leaves_the_other_tenant_running():
    w = world(slots=2)
    w.submit(99_999, "b", 8, 30)
    for request in range(10_000):
        w.submit(request, "a", 8, 8)
    w.step()
    w.loop.apply([Cancel(request) for request in range(10_000)])
    w.run()
    assert w.finishes[99_999] is FinishReason.LENGTH
    assert Counter(w.finishes.values())[FinishReason.CANCELLED] == 10_000


# ---- preemption -----------------------------------------------------------------------------------------------------


def flooded(**settings: Any) -> World:
    """A noisy tenant with all four slots and more waiting, well under way."""
    w = world(slots=4, chunk=64, **settings)
    for request in range(100, 140):
        w.submit(request, "noisy", 32, 200)
    for _ in range(60):
        w.step()
    return w


def steps_to_first_token(w: World, request: int) -> int:
    steps = 0
    while not w.tokens[request]:
        w.step()
        steps += 1
    return steps


def test_a_needier_tenant_gets_a_slot_at_once_from_one_that_holds_more_than_its_share() -> None:
    w = flooded()
    w.submit(0, "quiet", 32, 20)
    assert steps_to_first_token(w, 0) <= 2
    fifo = flooded(policy=Policy.FIFO)
    fifo.submit(0, "quiet", 32, 20)
    assert steps_to_first_token(fifo, 0) > 500


@pytest.mark.parametrize("swap_bytes", [1 << 30, 0])
def test_who_gave_way_goes_on_token_for_token_and_is_charged_once(swap_bytes: int) -> None:
    alone = world(slots=4, chunk=64)
    for request in range(100, 104):
        alone.submit(request, "noisy", 32, 200)
    alone.run()
    w = flooded(swap_bytes=swap_bytes)
    for request in range(8):
        w.submit(request, "quiet", 32, 20)
    w.run()
    last = w.loop.step()
    assert (last.swaps > 0, last.recomputes > 0) == (swap_bytes > 0, swap_bytes == 0)
    for request in range(100, 104):
        assert w.tokens[request] == alone.tokens[request]
        assert w.prefilled[request] == 32
    assert w.service["noisy"] == 40 * (32 + 2 * 200)


def test_a_request_that_ends_while_it_is_swapped_out_leaves_nothing_behind() -> None:
    w = flooded()
    w.submit(0, "quiet", 32, 20)
    w.step()
    swapped = [job for job in w.scheduler._jobs.values() if job.swapped is not None]
    assert len(swapped) == 1
    w.loop.apply([Cancel(job.submit.request) for job in swapped])
    w.step()
    assert w.scheduler._swapped_bytes == 0
    w.run()
    assert w.compute.is_empty()


def test_idle_reserved_slots_are_lent_and_taken_back() -> None:
    w = world(slots=4, chunk=64)
    w.loop.apply([Share(tenant="vip", weight=0.001, reserved_slots=2)])
    for request in range(100, 120):
        w.submit(request, "noisy", 16, 100)
    for _ in range(30):
        w.step()
    assert Counter(job.submit.tenant for job in w.scheduler._active.values()) == {"noisy": 4}
    for request in range(3):
        w.submit(request, "vip", 16, 100)
    w.step()
    w.step()  # one a step
    assert Counter(job.submit.tenant for job in w.scheduler._active.values()) == {"noisy": 2, "vip": 2}


def test_equal_tenants_with_full_queues_do_not_take_slots_from_each_other() -> None:
    w = world(slots=4, chunk=64)
    for request in range(80):
        w.submit(request, "ab"[request % 2], 32, 32)
    w.run()
    last = w.loop.step()
    assert last.swaps + last.recomputes <= 8  # a few while their first answers are compared


# ---- pacing and prompts ---------------------------------------------------------------------------------------------


def test_a_paced_stream_gets_its_limit_every_minute_and_never_more() -> None:
    w = world(slots=2, chunk=64)
    w.loop.apply([Share(tenant="a", weight=1, tokens_per_minute=100)])
    w.submit(0, "a", 40, 300)
    w.submit(1, "b", 40, 300)
    w.run()
    assert len(w.tokens[0]) == len(w.tokens[1]) == 300
    assert 180 <= w.now_s < 190  # 340 tokens at 100 a minute: the rest waits until the fourth minute begins
    times = w.given["a"]
    for at_s, _ in times:
        assert sum(tokens for other_s, tokens in times if other_s <= at_s < other_s + 60) <= 100


def test_a_paced_tenant_gives_its_slot_to_whoever_can_use_it() -> None:
    w = world(slots=1, chunk=64)
    w.loop.apply([Share(tenant="a", weight=1, tokens_per_minute=50)])
    w.submit(0, "a", 40, 100)
    w.step()
    while w.has_work:
        w.step()
    w.submit(1, "b", 10, 10)
    for _ in range(12):
        w.step()
    assert w.finishes == {1: FinishReason.LENGTH}
    w.run()
    assert w.finishes[0] is FinishReason.LENGTH and len(w.tokens[0]) == 100


def test_a_long_prompt_does_not_stall_the_others_for_longer_than_is_allowed() -> None:
    w = world(slots=2, chunk=8, max_stall_ms=5)
    w.submit(0, "a", 8, 200)
    w.step()
    w.submit(1, "b", 400, 10)
    gaps, last_s = [], w.now_s
    while 1 not in w.finishes:
        before = len(w.tokens[0])
        w.step()
        if len(w.tokens[0]) > before:
            gaps.append(w.now_s - last_s)
            last_s = w.now_s
    assert max(gaps) <= 0.005 + 2 * STEP_MICROS / 1e6


@settings(max_examples=40, deadline=None)
@given(
    weights=st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4])),
    shapes=st.tuples(
        st.tuples(st.integers(1, 60), st.integers(1, 40)), st.tuples(st.integers(1, 60), st.integers(1, 40))
    ),
    slots=st.integers(2, 8),
)
def test_two_tenants_with_work_always_waiting_are_served_by_weight_within_the_bound(weights, shapes, slots) -> None:
    w = world(slots=slots, chunk=64)
    w.loop.apply([Share(tenant=t, weight=weight) for t, weight in zip("ab", weights, strict=True)])
    request = 0
    baseline: Counter[str] | None = None
    for _ in range(600):
        for tenant, (prompt, output) in zip("ab", shapes, strict=True):
            while sum(j.submit.tenant == tenant for j in w.scheduler._jobs.values()) < 2 * slots:
                w.submit(request, tenant, prompt, output)
                request += 1
        w.step()
        if w.now_s > 0.1 and baseline is None:
            baseline = Counter(w.service)
    assert baseline is not None
    served = [(w.service[t] - baseline[t]) / weight for t, weight in zip("ab", weights, strict=True)]
    # Slots are whole and a request keeps its slot for min_run_tokens: the grain is what all slots hold at once.
    grain = 2 * slots * max(prompt + 2 * output for prompt, output in shapes)
    assert abs(served[0] - served[1]) <= grain
