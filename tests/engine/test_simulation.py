"""The real scheduler and loop over the engine without a model, on a clock of its own: random requests, cancels.

What must always hold: one Finish for each Submit; tokens and charges as delivered; slots and KV conserved; no step
without progress while there is work; engine time divided without remainder.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from tenantd.domain import FinishReason, Sampling
from tenantd.engine.fairness import Fairness
from tenantd.engine.fake import BROKEN_GRAMMAR, FakeCompute
from tenantd.engine.loop import Loop
from tenantd.engine.protocol import Cancel, Load, Share, Submit
from tenantd.engine.scheduler import Scheduler
from tests.support.loads import fake_load

STEP_MICROS = 1000


@dataclass
class World:
    """A loop with a virtual clock, and what came out of it."""

    load: Load
    chunk: int = 16
    now_s: float = 0.0
    tokens: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    prefilled: Counter[int] = field(default_factory=Counter)
    finishes: dict[int, FinishReason] = field(default_factory=dict)
    service: Counter[str] = field(default_factory=Counter)
    tenant_of: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.compute = FakeCompute(self.load, self._sleep)
        self.fairness = Fairness(60)
        self.scheduler = Scheduler(
            self.load.slots, self.compute.info.context_tokens, self.fairness, prefill_chunk_tokens=self.chunk
        )
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
        assert step.busy_micros == sum(p.micros for p in step.progress) + step.unbilled_micros
        assert step.progress or step.finishes, "a step with work gets something done"
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

    def run(self) -> None:
        while self.loop.has_work:
            self.step()


def world(slots: int = 4, chunk: int = 16, context_tokens: int = 512) -> World:
    return World(fake_load(slots=slots, context_tokens=context_tokens, fake_step_micros=STEP_MICROS), chunk)


events = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.sampled_from("abcd"), st.integers(1, 60), st.integers(1, 40)),
        st.tuples(st.just("cancel"), st.integers(0, 60)),
        st.tuples(st.just("share"), st.sampled_from("abcd"), st.floats(0.1, 100), st.none() | st.integers(0, 3)),
        st.tuples(st.just("steps"), st.integers(1, 20)),
    ),
    max_size=80,
)


@settings(max_examples=150, deadline=None)
@given(events=events, slots=st.integers(1, 6), chunk=st.integers(1, 64))
def test_whatever_arrives_every_request_ends_once_and_is_charged_as_delivered(events, slots, chunk):
    w = world(slots, chunk)
    submitted: dict[int, tuple[int, int]] = {}
    for event in events:
        match event:
            case ("submit", tenant, prompt, output):
                request = len(submitted)
                submitted[request] = (prompt, output)
                w.submit(request, tenant, prompt, output)
            case ("cancel", request):
                w.loop.apply([Cancel(request)])
            case ("share", tenant, weight, most):
                w.loop.apply([Share(tenant=tenant, weight=weight, max_concurrent=most)])
            case ("steps", n):
                for _ in range(n):
                    if w.loop.has_work:
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
    assert not w.loop.has_work and not w.loop.is_idle
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
