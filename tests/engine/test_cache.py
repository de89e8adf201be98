"""What requests share: with those of their tenant before them if its cache is on, and within one call."""

from __future__ import annotations

from typing import Any

import pytest

from tenantd.domain import FinishReason
from tenantd.engine.compute import RequestRejected
from tenantd.engine.fake import BROKEN_GRAMMAR
from tests.engine.chats import Chats, alone, chats, text


def ask(w: Chats, tenant: str, prompt: list[int], output: int = 10, **more: object) -> int:
    """A request that has ended. Its answer is that of an engine without a cache."""
    request = len(w.submits)
    w.submit(request, tenant, prompt, output, **more)
    w.run()
    check(w, request)
    return request


def check(w: Chats, *requests: int) -> None:
    for request in requests:
        submit = w.submits[request]
        assert w.tokens[request] == alone(submit, w.samplings[request])
        assert w.prefilled[request] + w.cached[request] == len(submit.prompt)


def test_without_a_cache_every_request_is_computed() -> None:
    w = chats()
    for _ in range(2):
        assert not w.cached[ask(w, "a", text(1, 200))]
    assert w.compute.is_empty()


def test_the_next_turn_of_a_chat_computes_only_what_is_new() -> None:
    w = chats()
    w.share("a", cache=7)
    prompt = text(1, 200)
    for turn in range(4):
        request = ask(w, "a", prompt)
        done = prompt + w.tokens[request]
        assert w.cached[request] == (len(prompt) - 21 if turn else 0)
        prompt = done + text(100 + turn, 20, same=0)
    assert len(w.scheduler.slots.parked) == 1, "it goes on where it is"


def test_a_prompt_that_is_a_beginning_of_one_before_computes_its_last_token() -> None:
    w = chats()
    w.share("a", cache=7)
    ask(w, "a", text(1, 200))
    for length in (200, 150, 64, 63):
        assert w.cached[ask(w, "a", text(1, length))] == length - 1


def test_what_differs_in_one_token_is_not_used_beyond_it() -> None:
    w = chats()
    w.share("a", cache=7)
    ask(w, "a", text(1, 200))
    for at in (199, 100, 33, 3):
        prompt = text(1, 200)
        prompt[at] ^= 1
        assert w.cached[ask(w, "a", prompt)] == (at if at >= 16 else 0)


def test_nobody_finds_what_another_tenant_left() -> None:
    w = chats()
    w.share("a", cache=7)
    w.share("b", cache=8)
    ask(w, "a", text(1, 200))
    assert not w.cached[ask(w, "b", text(1, 200))]
    assert not w.cached[ask(w, "c", text(1, 200))]


def test_a_prompt_that_spells_a_system_prompt_does_not_find_it() -> None:
    w = chats()
    w.share("a", cache=7)
    ask(w, "a", text(1, 200), hidden=100)
    assert not w.cached[ask(w, "a", text(1, 150))], "how much of it were found would tell what it is"
    assert w.cached[ask(w, "a", text(1, 250), hidden=100)] == 200
    w.submit(3, "a", text(2, 600), 10, hidden=100)
    w.submit(4, "a", text(2, 600), 10)
    w.step()
    assert not w.scheduler.followers
    w.run()
    check(w, 3, 4)


def test_a_tenant_made_again_finds_nothing_and_one_switched_off_leaves_nothing() -> None:
    w = chats()
    w.share("a", cache=7)
    ask(w, "a", text(1, 200))
    w.share("a", cache=9)
    w.run()
    assert w.compute.is_empty()
    assert not w.cached[ask(w, "a", text(1, 200))]
    w.share("a")
    w.run()
    assert w.compute.is_empty() and not w.scheduler.states.shares.used_bytes
    assert not w.cached[ask(w, "a", text(1, 200))]
    w.share("a", cache=9)
    assert not w.cached[ask(w, "a", text(1, 200))], "what it computed meanwhile is not kept"


def test_switching_off_while_requests_run_keeps_nothing_of_them() -> None:
    w = chats()
    w.share("a", cache=7)
    w.submit(0, "a", text(1, 200), 30)
    w.submit(1, "a", text(1, 300), 30)
    for _ in range(8):
        w.step()
    w.share("a")
    w.run()
    check(w, 0, 1)
    assert w.compute.is_empty()


def test_an_adapter_that_was_replaced_begins_anew() -> None:
    w = chats()
    w.adapters = {"a": "x"}
    w.share("a", cache=7)
    ask(w, "a", text(1, 200))
    assert w.cached[ask(w, "a", text(1, 200))] == 199
    w.compute.replace_adapter("x")
    w.submit(2, "a", text(1, 200), 5)
    w.run()
    assert not w.cached[2]
    assert len(w.scheduler.states.prefixes()) == 1, "nobody can use the earlier one"


def test_the_choices_of_a_call_share_their_prompt_without_a_cache() -> None:
    w = chats(slots=8)
    for request in range(4):
        w.submit(request, "a", text(1, 300), 20, group=5)
    w.submit(4, "a", text(1, 300), 20, group=6)
    w.submit(5, "a", text(1, 300), 20)
    w.run()
    check(w, *range(6))
    assert [w.cached[request] for request in range(6)] == [0, 299, 299, 299, 0, 0]
    assert w.compute.is_empty()


@pytest.mark.parametrize("window_tokens", [None, 64, 0])
def test_requests_at_once_compute_their_system_prompt_once(window_tokens: int | None) -> None:
    w = chats(slots=8, window_tokens=window_tokens)
    w.share("a", cache=7)
    for request in range(8):
        w.submit(request, "a", text(1, 300) + text(50 + request, 20, same=0), 20)
    w.run()
    check(w, *range(8))
    assert sum(w.prefilled.values()) <= 300 + 8 * 22


def test_who_waits_for_a_request_that_is_cancelled_computes_by_itself() -> None:
    w = chats()
    for request in range(3):
        w.submit(request, "a", text(1, 600), 20, group=5)
    w.step()
    w.step()
    w.cancel(0)
    w.run()
    check(w, 1, 2)
    assert w.cached[1] <= 200 and w.cached[2] == 599


def test_a_follower_that_is_cancelled_or_paused_leaves_the_others_alone() -> None:
    w = chats(slots=2)
    w.submit(0, "a", text(1, 600), 20, group=5)
    w.submit(1, "a", text(1, 600), 20, group=5)
    w.step()
    assert w.scheduler.followers == {1}
    w.cancel(1)
    w.submit(2, "a", text(1, 600), 20, group=5)
    w.step()
    assert w.scheduler.followers == {2}
    w.share("a", tokens_per_minute=1)
    w.submit(3, "b", text(1, 20), 20)
    w.step()
    w.share("a")
    w.run()
    check(w, 0, 2, 3)


@pytest.mark.parametrize("at_fault", ["grammar", "adapter"])
def test_a_follower_that_is_rejected_leaves_its_place_to_others(at_fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    w = chats()
    w.share("a", cache=7)
    w.adapters = {"a": "x"}
    w.submit(0, "a", text(1, 600), 40)
    w.submit(1, "a", text(1, 600), 40, grammar=BROKEN_GRAMMAR if at_fault == "grammar" else "")
    w.step()
    assert w.scheduler.followers == {1}
    w.submit(2, "b", text(2, 50), 80)
    w.step()
    if at_fault == "adapter":
        monkeypatch.setattr(w.compute, "adapter_version", gone)
    w.run()
    assert w.finishes[1] is FinishReason.FAILED
    check(w, 0, 2)


def gone(adapter: str) -> tuple[()]:
    raise RequestRejected(f"{adapter} is not there")


def test_restoring_many_beginnings_is_spread_over_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    w = chats(slots=8)
    w.share("a", cache=7)
    for conversation in range(6):
        ask(w, "a", text(conversation, 100, same=0))
    w.loop._reuse.cache.vacate_all()
    restore = w.compute.restore

    def slow_restore(*args: Any) -> bool:
        w.now_s += 0.015
        return restore(*args)

    monkeypatch.setattr(w.compute, "restore", slow_restore)
    for conversation in range(6):
        w.submit(6 + conversation, "a", text(conversation, 110, same=0), 10)
    w.loop.step()
    assert len(w.scheduler.active) == 2, "others wait for a pass meanwhile"


@pytest.mark.parametrize("window_tokens", [64, 0])
def test_a_model_that_cannot_go_back_goes_on_from_a_checkpoint(window_tokens: int) -> None:
    w = chats(window_tokens=window_tokens, checkpoint_tokens=128)
    w.share("a", cache=7)
    prompt = text(1, 500)
    first = ask(w, "a", prompt, marks=(330,))
    assert w.cached[ask(w, "a", prompt + w.tokens[first] + [1, 2, 3])] == 509
    other = [*prompt[:340], *text(9, 100)]
    assert w.cached[ask(w, "a", other)] == 330
    assert w.cached[ask(w, "a", [*prompt[:290], *text(9, 100)])] == 256


def test_bytes_stay_within_the_budget_and_each_has_its_share() -> None:
    w = chats(slots=2, cache_bytes=52_000)
    w.share("a", cache=1, weight=3)
    w.share("b", cache=2, weight=1)
    shares = w.scheduler.states.shares
    ask(w, "a", text(1, 200))
    for conversation in range(10, 20):
        ask(w, "b", text(conversation, 200))
        assert shares.used_bytes <= 52_000
    assert shares.used[2] > shares.share_bytes(2), "what is not used is lent"
    assert w.cached[ask(w, "a", text(1, 200))] == 199, "but not what is another's"
    for conversation in range(20, 30):
        ask(w, "a", text(conversation, 200))
    assert shares.used[2] <= shares.share_bytes(2), "it is taken back"
    assert w.cached[ask(w, "b", text(19, 200))] == 199, "the latest stays"


def test_what_is_larger_than_the_share_is_not_kept() -> None:
    w = chats(cache_bytes=10_000)
    w.share("a", cache=1)
    w.share("b", cache=2)
    ask(w, "a", text(1, 400))
    assert w.compute.is_empty()


def test_a_tenant_that_fills_its_share_and_never_returns_keeps_nobody_from_theirs() -> None:
    w = chats(slots=2, cache_bytes=60_000)
    w.share("a", cache=1)
    for conversation in range(20):
        ask(w, "a", text(conversation, 200))
    w.share("b", cache=2)
    ask(w, "b", text(1, 200))
    assert w.cached[ask(w, "b", text(1, 200))] == 199


def test_slots_that_others_need_send_what_is_parked_to_host_memory() -> None:
    w = chats(slots=2)
    w.share("a", cache=1)
    ask(w, "a", text(1, 200))
    ask(w, "a", text(2, 200))
    assert len(w.scheduler.slots.parked) == 2
    for request in (2, 3):
        w.submit(request, "b", text(request, 50), 200)
    w.step()
    assert not w.scheduler.slots.parked
    w.run()
    assert w.cached[ask(w, "a", text(1, 200))] == 199
    assert w.compute.done["restored"] == 1


def test_a_state_that_cannot_be_restored_or_copied_is_computed_again() -> None:
    w = chats(slots=2)
    w.compute.failing = 1.0
    w.share("a", cache=1)
    ask(w, "a", text(1, 200))
    for request in (1, 2):
        w.submit(request, "b", text(request, 50), 20)
    w.run()
    assert not w.cached[ask(w, "a", text(1, 200))]
    w.compute.failing = 0.0
    assert w.cached[ask(w, "a", text(1, 200))] == 199


def test_a_crash_loses_the_cache_and_nothing_else() -> None:
    w = chats()
    w.share("a", cache=1)
    ask(w, "a", text(1, 200))
    w.submit(1, "a", text(1, 200) + text(2, 50), 40)
    for _ in range(4):
        w.step()
    cached = w.cached[1]
    assert cached and w.tokens[1]
    w.crash()
    w.run()
    assert w.tokens[1] == alone(w.submits[1], w.samplings[1])
    assert (w.cached[1], w.prefilled[1]) == (cached, 250 - cached), "each token of the prompt is told once"
    assert not w.cached[ask(w, "a", text(3, 200, same=0))] and w.finishes[1] is FinishReason.LENGTH


def test_cached_tokens_do_not_count_towards_tokens_per_minute_and_cost_a_part() -> None:
    w = chats()
    w.share("a", cache=1, tokens_per_minute=300)
    ask(w, "a", text(1, 200))
    before_s, before = w.now_s, w.service["a"]
    request = ask(w, "a", text(1, 205))
    assert w.now_s - before_s < 1
    assert w.cached[request] == 200 and w.service["a"] - before == 5 + 0.5 * 200 + 2 * 10


def test_the_longest_beginning_goes_first_but_not_for_ever() -> None:
    w = chats(slots=1)
    w.share("a", cache=1)
    ask(w, "a", text(1, 200))
    w.submit(1, "a", text(2, 200), 5)
    w.submit(2, "a", text(3, 200), 5)
    for request in range(3, 15):
        w.submit(request, "a", [*text(1, 200), request], 5)
    ended: list[int] = []
    while w.has_work:
        w.step()
        ended += [request for request in w.finishes if request not in ended]
    check(w, *range(15))
    assert ended.index(3) < ended.index(1), "it has a beginning"
    assert ended.index(1) == 1 + 8, "so many may go first"


def test_a_cached_prompt_does_not_teach_the_speed_of_passes() -> None:
    w = chats()
    w.share("a", cache=1)
    ask(w, "a", text(1, 200))
    learnt = vars(w.scheduler.passes.slack._prompts).copy()
    ask(w, "a", text(1, 200) + text(2, 30))
    assert vars(w.scheduler.passes.slack._prompts) == learnt
    ask(w, "a", text(3, 200, same=0))
    assert vars(w.scheduler.passes.slack._prompts) != learnt


def test_packing_is_not_kept_from_its_work_by_what_is_parked() -> None:
    w = chats(slots=4)
    w.share("a", cache=1)
    for request, output in enumerate((60, 5, 60, 5)):
        w.submit(request, "a" if output == 5 else "b", text(request, 60), output)
    while len(w.finishes) < 2:
        w.step()
    w.step()
    decoding = sorted(s for s, job in w.scheduler.active.items())
    assert decoding[-1] - decoding[0] + 1 == len(decoding) == 2
    w.run()
    check(w, *range(4))
