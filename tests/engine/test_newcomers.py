"""Who comes to whom: newcomers start where the others are, and what was used before takes nobody's slots away."""

from __future__ import annotations

from collections import Counter

from tests.engine.test_scheduling import served_in, steps_to_first_token
from tests.engine.world import SETTINGS, World, bound, world


def slots_held(w: World) -> Counter[str]:
    return Counter(job.submit.tenant for job in w.scheduler._active.values())


def test_who_worked_alone_and_pauses_for_an_instant_waits_no_longer_than_a_newcomers_first_tokens() -> None:
    w = world(slots=8, chunk=64)
    for request in range(8):
        w.submit(request, "alone", 16, 400)
    w.run()
    for request in range(100, 132):
        w.submit(request, "newcomer", 16, 400)
    w.step()
    w.submit(9, "alone", 16, 400)
    assert steps_to_first_token(w, 9) <= 6


def test_a_single_request_beside_a_flood_that_just_began_has_its_first_token_as_soon_as_alone() -> None:
    """Both tenants are back from idle and have a credit, which the flood divides among its requests."""
    w = world(slots=8, chunk=16)
    w.submit(0, "single", 64, 4)
    alone = steps_to_first_token(w, 0)
    w.run()
    for request in range(100, 132):
        w.submit(request, "flood", 64, 400)
    w.step()
    w.submit(1, "single", 64, 4)
    assert steps_to_first_token(w, 1) == alone


def test_work_next_to_a_single_stream_of_another_is_held_against_nobody_either() -> None:
    w = world(slots=8, chunk=64, context_tokens=4096)
    w.submit(50, "stream", 4, 3000)
    for request in range(7):
        w.submit(request, "busy", 16, 400)
    while w.unfinished["busy"]:
        w.step()
    for request in range(100, 132):
        w.submit(request, "newcomer", 16, 400)
    w.step()
    w.submit(9, "busy", 16, 400)
    assert w.fairness.normalised("newcomer", w.now_s) > 0.9 * w.fairness.normalised("busy", w.now_s)
    assert steps_to_first_token(w, 9) <= 6 + SETTINGS.max_stall_ms  # the stream has used least and decodes first


def test_a_tenant_that_waits_has_the_whole_slots_of_its_share_whatever_it_used_before() -> None:
    w = world(slots=8, chunk=64)
    w.fairness.charge("punished", 100_000, 0)
    for request in range(32):
        w.submit(request, "other", 8, 400)
    for _ in range(20):
        w.step()
    for request in range(100, 132):
        w.submit(request, "punished", 8, 400)
    for _ in range(4):
        w.step()  # a slot a step
    assert slots_held(w) == {"other": 4, "punished": 4}
    for _ in range(100):
        w.step()
        assert slots_held(w) == {"other": 4, "punished": 4}


def test_slots_that_get_free_go_to_whoever_has_fewer_than_the_whole_slots_of_its_share() -> None:
    w = world(slots=4, chunk=64, min_run_tokens=400)  # nobody is asked to give way
    for request in range(16):
        w.submit(request, "other", 8, 20)
    w.step()
    w.fairness.charge("punished", 100_000, 0)
    for request in range(100, 116):
        w.submit(request, "punished", 8, 20)
    while len(w.finishes) < 4:
        w.step()
    w.step()
    assert slots_held(w) == {"other": 2, "punished": 2}


def test_who_was_given_more_while_both_waited_gives_up_whole_slots_as_well() -> None:
    """Prompts fill a whole pass and decoding does not: with four slots each, one would get twice as much."""
    w = world(slots=8, chunk=64)
    for request in range(600):
        w.submit(request, "prompts", 64, 20)
        w.submit(1000 + request, "decodes", 1, 80)
    served = served_in(w, 1500)
    assert abs(served["prompts"] - served["decodes"]) <= bound(w, 64)


def test_a_fresh_engine_knows_where_newcomers_start() -> None:
    w = world(slots=2, chunk=64)
    w.submit(0, "alone", 16, 200)
    w.run()
    level = w.fairness.normalised("alone", w.now_s)
    w.crash()
    for request in range(100, 110):
        w.submit(request, "newcomer", 16, 100)
    w.step()
    assert w.fairness.normalised("newcomer", w.now_s) >= 0.99 * level
    w.submit(1, "alone", 16, 100)
    assert steps_to_first_token(w, 1) <= 2 * SETTINGS.min_run_tokens
