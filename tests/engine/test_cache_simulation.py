"""Random tenants with and without a cache, whose requests begin alike: what is shared is only ever the tenant's own,
and every answer is the one that its request gets alone. The bytes stay within their budget, and service by weight
within the bound that holds without a cache."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tenantd.domain import FinishReason
from tests.engine.chats import Chats, alone, chats, text
from tests.engine.world import bound, scenarios

TENANTS = "abcd"
events = st.lists(
    st.one_of(
        st.tuples(
            st.just("ask"),
            st.sampled_from(TENANTS),
            st.integers(1, 2),  # conversation
            st.integers(1, 150),
            st.integers(1, 30),
            st.integers(1, 3),  # choices
        ),
        st.tuples(st.just("go on"), st.integers(0, 15), st.integers(1, 40), st.integers(1, 30)),
        st.tuples(st.just("cancel"), st.integers(0, 60)),
        st.tuples(
            st.just("share"),
            st.sampled_from(TENANTS),
            st.floats(0.1, 100),
            st.sampled_from([True, True, False]),
            st.none() | st.integers(1, 3),
            st.none() | st.integers(2, 300),
        ),
        st.tuples(st.just("crash")),
        st.tuples(st.just("adapter")),
        st.tuples(st.just("steps"), st.integers(1, 20)),
    ),
    min_size=10,
    max_size=60,
)


class Scenario:
    """`caches` are on for these tenants at first."""

    def __init__(self, caches: str, adapters: dict[str, str], **world: Any) -> None:
        self.w = chats(**world)
        self.w.adapters = adapters
        self.budget_bytes = self.w.load.cache_bytes
        self.numbers = itertools.count(1)
        for tenant in TENANTS:
            self.w.share(tenant, cache=next(self.numbers) if tenant in caches else 0)
        self.groups = itertools.count(1)

    def play(self, event: tuple[Any, ...]) -> None:
        w = self.w
        match event:
            case ("ask", tenant, conversation, tokens, output, choices):
                group = next(self.groups) if choices > 1 else 0
                for _ in range(choices):
                    self.submit(tenant, text(conversation, tokens), output, group)
            case ("go on", request, tokens, output) if request in w.finishes:
                before = w.submits[request]
                prompt = [*before.prompt, *w.tokens[request], *text(request, tokens, same=0)]
                self.submit(before.tenant, prompt[:1500], output, 0, marks=(len(before.prompt),))
            case ("cancel", request):
                w.cancel(request)
            case ("share", tenant, weight, has_cache, most, paced):
                before = w.shares[tenant].cache
                cache = (before or next(self.numbers)) if has_cache else 0
                w.share(tenant, weight=weight, cache=cache, max_concurrent=most, tokens_per_minute=paced)
            case ("crash",):
                w.crash()
            case ("adapter",):
                w.compute.replace_adapter("x")
            case ("steps", n):
                for _ in range(n):
                    if w.has_work:
                        self.step()

    def submit(self, tenant: str, prompt: list[int], output: int, group: int, **more: Any) -> None:
        self.w.submit(len(self.w.submits), tenant, prompt, output, group=group, **more)

    def step(self) -> None:
        self.w.step()
        assert self.w.scheduler.states.shares.used_bytes <= self.budget_bytes

    def end(self) -> None:
        for tenant in TENANTS:
            self.w.share(tenant, cache=self.w.shares[tenant].cache)
        self.w.run()
        assert self.w.compute.holds_only(self.w.scheduler.slots.parked)


@scenarios
@given(
    events=events,
    caches=st.sampled_from(["abcd", "abc", "a", ""]),
    adapters=st.sampled_from([{}, {"a": "x", "b": "x"}]),
    slots=st.integers(1, 6),
    chunk=st.integers(1, 64),
    swap_bytes=st.sampled_from([0, 500, 1 << 30]),
    cache_bytes=st.sampled_from([0, 20_000, 1 << 20]),
    checkpoint_tokens=st.sampled_from([0, 64]),
    window_tokens=st.sampled_from([None, None, 0, 64]),
    failing=st.sampled_from([0.0, 0.0, 0.5]),
    upkeep_s=st.sampled_from([0.0, 1e-6]),
)
def test_what_is_shared_is_ones_own_and_changes_nothing_but_what_is_computed(
    events: list[tuple[Any, ...]], caches: str, adapters: dict[str, str], **world: Any
) -> None:
    scenario = Scenario(caches, adapters, **world)
    for event in events:
        scenario.play(event)
    scenario.end()
    w = scenario.w
    assert set(w.finishes) == set(w.submits)
    w.check_charges()
    for request, submit in w.submits.items():
        told = w.prefilled[request] + w.cached[request]
        if w.finishes[request] is FinishReason.LENGTH:
            assert (told, len(w.tokens[request])) == (len(submit.prompt), submit.max_tokens)
        assert told <= len(submit.prompt)
        if not submit.adapter:  # its version depends on when it was bound
            assert w.tokens[request] == alone(submit, w.samplings[request])[: len(w.tokens[request])]


@scenarios
@given(
    tenants=st.lists(
        st.tuples(
            st.sampled_from([1, 2, 4]), st.integers(1, 120), st.integers(1, 60), st.booleans(), st.integers(1, 6)
        ),
        min_size=2,
        max_size=4,
    ),
    slots=st.integers(1, 8),
    chunk=st.sampled_from([8, 64]),
    cache_bytes=st.sampled_from([20_000, 1 << 20]),
    window_tokens=st.sampled_from([None, 64]),
)
def test_tenants_with_a_cache_and_without_are_served_by_weight_within_the_bound(
    tenants: list[tuple[int, int, int, bool, int]], **world: Any
) -> None:
    w = chats(**world)
    names = TENANTS[: len(tenants)]
    for number, (name, (weight, *_, has_cache, _)) in enumerate(zip(names, tenants, strict=True), 1):
        w.share(name, weight=weight, cache=number * has_cache)
    least = dict.fromkeys(itertools.combinations(names, 2), 0.0)
    most = dict(least)
    for _ in range(300):
        for name, (_, prompt, output, _, conversations) in zip(names, tenants, strict=True):
            while w.unfinished[name] < 2 * w.load.slots:
                request = len(w.submits)
                w.submit(request, name, text(request % conversations, prompt), output)
        w.step()
        served = {name: w.service[name] / weight for name, (weight, *_) in zip(names, tenants, strict=True)}
        for pair in least:
            apart = served[pair[0]] - served[pair[1]]
            least[pair], most[pair] = min(least[pair], apart), max(most[pair], apart)
    widest = max(most[pair] - least[pair] for pair in least)
    assert widest <= bound(w, max(prompt for _, prompt, *_ in tenants))


def test_the_scenarios_have_what_they_are_for() -> None:
    """Hits of every kind, in one that is not random."""
    w: Chats = chats(slots=3)
    w.share("a", cache=1)
    for request in range(3):
        w.submit(request, "a", text(1, 120), 10, group=1)
    w.run()
    for request in range(3, 5):
        w.submit(request, "a", text(1, 30 * request, same=30), 100)
        w.run()
    for request in range(5, 9):
        w.submit(request, "b", text(request, 60), 30)
    w.run()
    w.submit(9, "a", text(1, 120), 10)
    w.run()
    for kind in ("hits", "parked", "restored", "copies of a request", "copies of a prefix", "states of a prefix"):
        assert w.compute.done[kind], kind
