"""The real scheduler and loop over the engine without a model, on a clock of its own: random tenants, weights,
requests, limits, cancellations, crashes, clock jumps.

What must always hold: one end for each request; tokens and charges as delivered; slots and KV conserved; no slot idle
while a request waits that may have it; engine time divided without remainder; no minute over its limit of tokens. And
between tenants with work always waiting: service by weight within a bound, so that nobody starves.
"""

from __future__ import annotations

import itertools
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from tenantd.domain import FinishReason
from tenantd.engine.settings import Policy
from tests.engine.world import bound, scenarios, world

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
)
def test_whatever_arrives_every_request_ends_once_and_is_charged_as_delivered(
    events, slots, chunk, swap_bytes, policy, adapters
):
    w = world(slots, chunk, swap_bytes=swap_bytes, policy=policy)
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
                w.now_s += jump_s
            case ("steps", n):
                for _ in range(n):
                    if w.has_work:
                        w.step()
    for tenant in "abcd":
        w.share(tenant)  # nobody is held at zero for ever
    w.run()
    assert set(w.finishes) == set(submitted)
    assert w.compute.is_empty()
    assert w.fairness.charged == w.service + w.lost
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


@scenarios
@given(
    tenants=st.lists(
        st.tuples(st.sampled_from([1, 2, 3, 4, 8]), st.integers(1, 120), st.integers(1, 80)), min_size=2, max_size=5
    ),
    slots=st.integers(1, 8),
    chunk=st.sampled_from([8, 64]),
    min_run_tokens=st.sampled_from([1, 4, 16]),
)
def test_tenants_with_work_always_waiting_are_served_by_weight_within_the_bound(
    tenants, slots, chunk, min_run_tokens
) -> None:
    w = world(slots=slots, chunk=chunk, min_run_tokens=min_run_tokens)
    names = "abcde"[: len(tenants)]
    for name, (weight, _, _) in zip(names, tenants, strict=True):
        w.share(name, weight=weight)
    waiting: Counter[str] = Counter()
    least = dict.fromkeys(itertools.combinations(names, 2), 0.0)
    most = dict(least)
    for _ in range(400):
        for name, (_, prompt, output) in zip(names, tenants, strict=True):
            while waiting[name] < 2 * slots:
                w.submit(len(w.submits), name, prompt, output)
                waiting[name] += 1
        ended = len(w.finishes)
        w.step()
        for request in list(w.finishes)[ended:]:
            waiting[w.tenant_of(request)] -= 1
        served = {name: w.service[name] / weight for name, (weight, _, _) in zip(names, tenants, strict=True)}
        for pair in least:
            apart = served[pair[0]] - served[pair[1]]
            least[pair], most[pair] = min(least[pair], apart), max(most[pair], apart)
    widest = max(most[pair] - least[pair] for pair in least)  # over any stretch of time
    assert widest <= bound(w, max(prompt for _, prompt, _ in tenants))
