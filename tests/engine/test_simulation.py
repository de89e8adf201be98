"""The real scheduler and loop over the engine without a model, on a clock of its own: random tenants, weights,
requests, limits, cancellations, crashes, clock jumps.

What must always hold: one end for each request; tokens and charges as delivered; slots and KV conserved; no slot idle
while a request waits that may have it; engine time divided without remainder; no minute over its limit of tokens. And
between tenants with work always waiting: service by weight within a bound, so that nobody starves.
"""

from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from tenantd.domain import FinishReason
from tenantd.wire.settings import Policy
from tests.engine.world import bound, newcomers_bound, scenarios, world
from tests.support.examples import examples

events = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.sampled_from("abcd"), st.integers(1, 60), st.integers(1, 40), st.booleans()),
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
        st.tuples(st.just("crash")),
        st.tuples(st.just("steps"), st.integers(1, 20)),
    ),
    max_size=80,
)


@scenarios
@given(
    events=events,
    slots=st.integers(1, 6),
    chunk=st.integers(1, 64),
    swap_bytes=st.sampled_from([0, 500, 1 << 30]),
    policy=st.sampled_from(Policy),
    adapters=st.sampled_from([{}, {"a": "x"}, {"a": "x", "b": "x", "c": "y"}]),
    fills=st.booleans(),
)
def test_whatever_arrives_every_request_ends_once_and_is_charged_as_delivered(
    events, slots, chunk, swap_bytes, policy, adapters, fills
):
    w = world(slots, chunk, swap_bytes=swap_bytes, policy=policy, fills=fills)
    w.adapters = adapters
    submitted: dict[int, tuple[int, int]] = {}
    for event in events:
        match event:
            case ("submit", tenant, prompt, output, counts_prompt):
                request = len(submitted)
                submitted[request] = (prompt, output)
                w.submit(request, tenant, prompt, output, counts_prompt=counts_prompt)
            case ("cancel", request):
                w.cancel(request)
            case ("share", tenant, weight, most, reserved, paced):
                limits = {"max_concurrent": most, "reserved_slots": reserved, "tokens_per_minute": paced}
                w.share(tenant, weight=weight, **limits)
            case ("crash",):
                w.crash()
            case ("clock", jump_s):
                w.jump(jump_s)
            case ("steps", n):
                for _ in range(n):
                    if w.has_work:
                        w.step()
    for tenant in "abcd":
        w.share(tenant)  # nobody is held at zero for ever
    w.run()
    assert set(w.finishes) == set(submitted)
    assert w.compute.is_empty()
    w.check_charges()
    for request, reason in w.finishes.items():
        prompt, output = submitted[request]
        if reason is FinishReason.LENGTH:
            assert (w.prefilled[request], len(w.tokens[request])) == (prompt, output)
        else:
            assert reason is FinishReason.CANCELLED
            assert w.prefilled[request] <= prompt and len(w.tokens[request]) <= output


@examples(60)
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


@scenarios
@given(
    tenants=st.lists(
        st.tuples(st.sampled_from([1, 2, 3, 4, 8]), st.integers(1, 120), st.integers(1, 80)), min_size=2, max_size=5
    ),
    slots=st.integers(1, 8),
    chunk=st.sampled_from([8, 64]),
    min_run_tokens=st.sampled_from([1, 4, 16]),
    token_micros=st.sampled_from([0, 0, 100]),
    pace_ms=st.sampled_from([1, 4, 100]),
    fills=st.booleans(),
)
def test_tenants_with_work_always_waiting_are_served_by_weight_within_the_bound(
    tenants, slots, chunk, min_run_tokens, token_micros, pace_ms, fills
) -> None:
    given = {"min_run_tokens": min_run_tokens, "token_micros": token_micros, "target_itl_ms": pace_ms, "fills": fills}
    w = world(slots=slots, chunk=chunk, **given)
    names = "abcde"[: len(tenants)]
    for name, (weight, _, _) in zip(names, tenants, strict=True):
        w.share(name, weight=weight)
    least = dict.fromkeys(itertools.combinations(names, 2), 0.0)
    most = dict(least)
    for _ in range(400):
        for name, (_, prompt, output) in zip(names, tenants, strict=True):
            w.top_up(name, 2 * slots, prompt, output)
        w.step()
        served = {name: w.service[name] / weight for name, (weight, _, _) in zip(names, tenants, strict=True)}
        for pair in least:
            apart = served[pair[0]] - served[pair[1]]
            least[pair], most[pair] = min(least[pair], apart), max(most[pair], apart)
    widest = max(most[pair] - least[pair] for pair in least)  # over any stretch of time
    assert widest <= bound(w, max(prompt for _, prompt, _ in tenants))


shapes = st.tuples(st.integers(1, 120), st.integers(1, 80))
newcomers = {
    "weights": st.tuples(*[st.sampled_from([1, 1, 1, 2, 4])] * 3),
    "ours": shapes,
    "theirs": shapes,
    "slots": st.integers(1, 8),
    "chunk": st.sampled_from([8, 64]),
    "min_run_tokens": st.sampled_from([1, 4, 16]),
    "clients": st.integers(1, 16),
    "steps_alone": st.integers(10, 150),
    "has_companion": st.booleans(),
    "gap_s": st.just(0.0) | st.floats(0, 600),
    "is_new_engine": st.booleans(),
    "steps_later": st.sampled_from([0, 0, 1]) | st.integers(0, 30),
    "token_micros": st.sampled_from([0, 0, 100]),
    "pace_ms": st.sampled_from([1, 4, 100]),
}


class Newcomer:
    """One tenant works alone, or next to a single stream of another, and pauses; while nobody waits a third one comes
    and floods; then the first is back."""

    def __init__(
        self, weights, ours, theirs, slots, chunk, min_run_tokens, clients, steps_alone, has_companion, gap_s,
        is_new_engine, steps_later, token_micros, pace_ms,
    ) -> None:  # fmt: skip
        given = {"min_run_tokens": min_run_tokens, "token_micros": token_micros, "target_itl_ms": pace_ms}
        self.w = world(slots=slots, chunk=chunk, **given)
        for name, weight in zip("abc", weights, strict=True):
            self.w.share(name, weight=weight)
        self.weights = dict(zip("abc", weights, strict=True))
        self.ours, self.theirs, self.slots, self.has_companion = ours, theirs, slots, has_companion
        self.is_flooded = False
        for _ in range(steps_alone):
            self.w.top_up("a", clients, *ours)
            self.step()
        while self.w.unfinished["a"]:
            self.step()
        if is_new_engine:
            self.w.crash()
        self.w.now_s += gap_s
        self.is_flooded = True
        for _ in range(steps_later):
            self.step()
        self.bound = newcomers_bound(self.w, max(ours[0], theirs[0], 5 * has_companion))

    def step(self) -> None:
        if self.has_companion:
            self.w.top_up("c", 1, 5, 400)
        if self.is_flooded:
            self.w.top_up("b", 4 * self.slots, *self.theirs)
        self.w.step()

    def served(self) -> dict[str, float]:
        """By weight."""
        return {name: self.w.service[name] / weight for name, weight in self.weights.items()}

    def most_since(self, before: dict[str, float]) -> float:
        """What one of the others was given at most."""
        return max(self.served()[name] - before[name] for name in "bc")


@scenarios
@given(scenario=st.builds(Newcomer, **newcomers), pauses=st.lists(st.integers(0, 20), min_size=4, max_size=4))
def test_who_worked_alone_and_asks_again_waits_no_longer_than_the_bound_next_to_a_newcomer(
    scenario: Newcomer, pauses: list[int]
) -> None:
    w = scenario.w
    for pause in pauses:
        [request] = w.top_up("a", 1, *scenario.ours)
        before = scenario.served()
        while not w.tokens[request]:
            scenario.step()
            assert scenario.most_since(before) <= scenario.bound
        while request not in w.finishes:
            scenario.step()
        for _ in range(pause):
            scenario.step()


@scenarios
@given(scenario=st.builds(Newcomer, **newcomers))
def test_who_worked_alone_and_works_on_soon_has_its_share_next_to_a_newcomer(scenario: Newcomer) -> None:
    """The whole slots of its share before another is given more than the bound, and service by weight within it.

    Requests that hold a slot and have not begun keep it until they have run for `min_run_tokens`.
    """
    w = scenario.w
    before = scenario.served()
    least = most = 0.0
    has_slots = False
    for _ in range(200):
        w.top_up("a", 2 * scenario.slots, *scenario.ours)
        before_step = w.unfinished["a"]
        scenario.step()
        held = w.scheduler._tenants["a"].active + before_step - w.unfinished["a"]  # some ended in their first step
        has_slots = has_slots or held >= math.floor(w.scheduler.sharing._shares()["a"])
        served = scenario.served()
        assert has_slots or scenario.most_since(before) <= scenario.bound
        apart = (served["a"] - before["a"]) - (served["b"] - before["b"])
        least, most = min(least, apart), max(most, apart)
    assert most - least <= scenario.bound
