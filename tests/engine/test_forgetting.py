"""What is forgotten is found no more at once, and is overwritten a little in each step; what is pushed out for others
is chosen in one go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tenantd.domain import FinishReason
from tenantd.engine import reuse
from tenantd.engine.cache import MOST_WIPED
from tenantd.engine.compute import Chunk, PassResult, Sampled
from tenantd.engine.kv.prefixes import BLOCK_TOKENS
from tenantd.engine.kv.shares import Shares
from tests.engine.chats import Chats, MarkedCompute, chats, text
from tests.engine.test_cache import ask, check

PREFIXES = 3 * MOST_WIPED


def filled(**settings: Any) -> Chats:
    """One with many prefixes, most of them in host memory."""
    w = chats(**{"slots": 4, "cache_bytes": 1 << 24, **settings})
    w.adapters = {"a": "x"}
    w.share("a", cache=7)
    w.share("b", cache=8)
    for conversation in range(PREFIXES):
        ask_any(w, "a", text(conversation, 100, same=0))
    ask_any(w, "b", text(1, 100))
    return w


def ask_any(w: Chats, tenant: str, prompt: list[int]) -> int:
    """A request that has ended, with an adapter or without."""
    request = len(w.submits)
    w.submit(request, tenant, prompt, 10)
    w.run()
    return request


def switched_off_and_on(w: Chats) -> None:
    w.share("a")
    w.share("a", cache=7)


def replaced(w: Chats) -> None:
    w.compute.replace_adapter("x")


@pytest.mark.parametrize("forget", [switched_off_and_on, replaced])
def test_what_is_forgotten_is_not_found_and_leaves_a_little_in_each_step(forget: Callable[[Chats], None]) -> None:
    w = filled()
    cache = w.loop._reuse.cache
    forget(w)
    w.submit(90, "a", text(1, 100, same=0), 10)
    left = []
    while not left or left[-1]:
        w.step()
        left.append(len(cache._forgotten))
    assert not w.cached[90]
    assert all(before - after <= MOST_WIPED + 1 for before, after in zip([PREFIXES, *left], left, strict=False))
    assert len(left) >= PREFIXES // MOST_WIPED
    w.run()
    assert {prefix.number for prefix in cache._prefixes} == w.scheduler.states.prefixes()
    assert w.cached[ask_any(w, "b", text(1, 100))] == 99, "others keep what they have"


def test_an_engine_without_requests_goes_on_until_nothing_is_left() -> None:
    w = filled()
    assert w.loop.patience_s() is None
    w.share("a")
    w.share("b")
    steps = 0
    while w.loop.patience_s() == 0.0:
        [step] = w.loop.turn()
        steps += 1
    assert PREFIXES / MOST_WIPED <= steps <= 2 * PREFIXES / MOST_WIPED + 2 and w.loop.patience_s() is None
    assert w.compute.is_empty() and not any((step.cache or {}).values())


def test_what_needs_the_place_of_what_was_forgotten_gets_it_at_once() -> None:
    w = filled()
    w.share("a")
    for request in range(100, 104):
        w.submit(request, "c", text(request, 50), 5)
    w.step()
    assert len(w.scheduler.active) == 4
    w.run()
    w = filled(cache_bytes=20 * (100 * 16 + 100 * 28 + 2048 + 500))
    w.share("a")
    shares = w.scheduler.states.shares
    assert shares.room_bytes < shares.share_bytes(8) // 2
    assert w.loop._reuse.cache._make_room(8, shares.share_bytes(8) // 2)
    w.run()
    assert w.cached[ask_any(w, "b", text(1, 100))] == 99


def test_a_crash_or_a_check_meanwhile_does_no_harm() -> None:
    w = filled()
    w.share("a")
    w.loop._reuse.cache.vacate_all()
    w.loop._reuse.cache.check()
    w.run()
    assert w.scheduler.states.shares.used.keys() == {8}


# ---- room ---------------------------------------------------------------------------------------------------------


def test_room_is_made_without_looking_at_everybody_for_each_that_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    w = chats(cache_bytes=1 << 20)
    for number, tenant in enumerate("abcdefgh", 1):
        w.share(tenant, cache=number)
    for conversation in range(60):
        ask(w, "a", text(conversation, 100, same=0))
    used_before = dict(w.scheduler.states.shares.used)
    looks = 0
    is_over = Shares.is_over

    def counted(self: Shares, owner: int, more_bytes: int = 0) -> bool:
        nonlocal looks
        looks += 1
        return is_over(self, owner, more_bytes)

    monkeypatch.setattr(Shares, "is_over", counted)
    cache, shares = w.loop._reuse.cache, w.scheduler.states.shares
    shares.budget_bytes = used_before[1] + 1  # nothing is left
    assert cache._make_room(2, shares.share_bytes(2))
    gone = 60 - len(cache._prefixes)
    assert gone > 3 and looks == gone + 1
    assert shares.used[1] >= shares.share_bytes(1) - used_before[1] // 60


# ---- hashes -------------------------------------------------------------------------------------------------------


def test_a_waiting_prompt_is_hashed_once_and_a_part_of_it_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reuse, "MOST_HASHED_BLOCKS", 4)
    hashed: list[int] = []
    chain_of = reuse.chain_of

    def counted(tokens: Any, before: Any = (), most_more: int | None = None) -> list[int]:
        chain = chain_of(tokens, before, most_more)
        hashed.append(len(chain) - len(before))
        return chain

    monkeypatch.setattr(reuse, "chain_of", counted)
    w = chats(slots=1)
    w.share("a", cache=7)
    prompts = [text(request, 160) for request in range(8)]
    for request, prompt in enumerate(prompts):
        w.submit(request, "a", prompt, 3)
    w.step()
    assert max(hashed[:-1]) <= 4
    w.run()
    check(w, *range(8))
    assert sum(hashed) == 8 * 160 // BLOCK_TOKENS


def test_a_follower_that_gives_way_begins_with_what_was_computed_meanwhile() -> None:
    w = chats(slots=2)
    w.submit(0, "a", text(1, 600), 60, group=5)
    w.submit(1, "a", text(1, 600), 20, group=5)
    w.step()
    assert w.scheduler.followers == {1}
    job = w.scheduler._jobs[1]
    w.loop._swap_out(job, 1 << 30)
    assert not w.scheduler.followers and job.is_queued
    w.run()
    check(w, 0, 1)
    assert w.cached[1] == 599 and w.prefilled[1] == 1


# ---- a model that returns no numbers ---------------------------------------------------------------------------------


class Garbling(MarkedCompute):
    """Returns no numbers for these requests, so often that they have none afterwards."""

    garbled: Counter[int] = Counter()  # noqa: RUF012

    def run(self, chunks: list[Chunk]) -> PassResult:
        result = super().run(chunks)
        for chunk in chunks:
            if chunk.sample and self.garbled[chunk.request]:
                self.garbled[chunk.request] -= 1
                result.sampled[chunk.sequence] = Sampled(-1, False, failed="no numbers", is_garbled=True)
        return result


def test_what_a_garbled_request_began_with_is_not_used_again_and_others_go_on() -> None:
    w = chats()
    w.engine = Garbling
    w._start()
    w.share("a", cache=7)
    ask(w, "a", text(1, 200))
    w.compute.garbled = Counter({1: 2})
    w.submit(1, "a", [*text(1, 200), 5], 10)
    w.submit(2, "b", text(3, 50), 10)
    w.step()
    w.run()
    check(w, 2)
    assert w.finishes[1] is FinishReason.FAILED and w.cached[1] == 200 and w.micros[1] > 0
    assert w.finished[1].is_garbled and not w.finished[2].is_garbled
    assert w.compute.is_empty() and not w.scheduler.states.prefixes()
    request = len(w.submits)
    w.submit(request, "a", text(1, 200), 10)
    w.run()
    assert not w.cached[request]
    check(w, request)


@pytest.mark.parametrize("computed", [0, 4], ids=["first token", "fifth token"])
def test_a_request_that_is_garbled_once_begins_again_and_gets_the_rest_of_its_answer(computed: int) -> None:
    w = chats()
    w.engine = Garbling
    w._start()
    w.share("a", cache=7)
    ask(w, "a", text(1, 200))
    w.submit(1, "a", [*text(1, 200), 5], 10)
    w.submit(2, "b", text(3, 50), 10)
    while len(w.tokens[1]) < computed:
        w.step()
    w.compute.garbled = Counter({1: 1})
    w.run()
    check(w, 1, 2)
    assert not w.compute.garbled[1] and w.finishes[1] is w.finishes[2] is FinishReason.LENGTH
    assert not w.finished[1].is_garbled
    assert w.fairness.charged["a"] == w.service["a"], "what is computed again costs nothing"


def test_a_request_that_is_cancelled_when_it_was_garbled_leaves_nothing() -> None:
    w = chats()
    w.engine = Garbling
    w._start()
    w.compute.garbled = Counter({0: 1})
    w.submit(0, "a", text(1, 10), 10)
    w.step()
    assert not w.compute.garbled[0]
    w.cancel(0)
    w.submit(1, "b", text(3, 50), 10)
    w.run()
    check(w, 1)
    assert w.finishes[0] is FinishReason.CANCELLED and w.compute.is_empty()
