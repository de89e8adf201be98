"""Whose engine time it is that passes between forward passes: saving, restoring, copying, swapping, clearing."""

from __future__ import annotations

import pytest

from tenantd.engine.between import Upkeep
from tenantd.wire.messages import Check, Forget
from tests.engine.chats import Chats, chats, text
from tests.engine.world import STEP_MICROS

UPKEEP_MICROS = 300
PARKED = 1
"""How often a request with a cache costs that at its end, and one without: it is parked or cleared."""


def slow(**settings: object) -> Chats:
    return chats(upkeep_s=UPKEEP_MICROS / 1e6, **settings)  # type: ignore[arg-type]


def ask(w: Chats, tenant: str, prompt: list[int], output: int = 10) -> int:
    request = len(w.submits)
    w.submit(request, tenant, prompt, output)
    w.run()
    return request


def upkeep(w: Chats, request: int) -> int:
    """How many pieces of work a request paid for that ran alone."""
    passes = len(w.tokens[request]) + max(0, -(-w.prefilled[request] // 64) - 1)
    pieces, rest = divmod(w.micros[request] - passes * STEP_MICROS, UPKEEP_MICROS)
    assert not rest
    return pieces


def test_what_a_request_leaves_is_parked_or_cleared_on_its_own_account() -> None:
    w = slow()
    w.share("a", cache=7)
    assert upkeep(w, ask(w, "a", text(1, 60))) == upkeep(w, ask(w, "b", text(1, 60))) == PARKED
    assert w.busy_micros == sum(w.micros.values())


def test_who_begins_with_a_copy_or_a_restored_state_pays_for_it() -> None:
    w = slow()
    w.share("a", cache=7)
    ask(w, "a", text(1, 200))
    copied = ask(w, "a", [*text(1, 100), *text(9, 20, same=0)])
    assert w.cached[copied] == 100 and w.compute.done["copies of a prefix"] == 1
    assert upkeep(w, copied) == PARKED + 1
    w.loop._reuse.cache.vacate_all()
    assert w.loop.step().unbilled_micros == 4 * UPKEEP_MICROS, "nobody runs"
    restored = ask(w, "a", [*text(1, 150), *text(9, 20, same=0)])
    assert w.cached[restored] == 150 and w.compute.done["restored"] == 1
    assert upkeep(w, restored) == PARKED + 1


def test_a_checkpoint_is_the_requests_that_computed_it() -> None:
    w = slow(window_tokens=64, checkpoint_tokens=128)
    w.share("a", cache=7)
    request = ask(w, "a", text(1, 500), 1)
    assert w.compute.done["states of a request"] == 3
    passes = (w.micros[request] - (PARKED + 3) * UPKEEP_MICROS) / STEP_MICROS
    assert passes == int(passes)


def test_what_is_moved_out_for_a_newcomer_is_its_owners_or_nobodys_and_never_the_newcomers() -> None:
    w = slow(slots=2)
    w.share("a", cache=7)
    ask(w, "a", text(1, 60))
    assert len(w.scheduler.slots.parked) == 1
    w.submit(1, "a", text(2, 60, same=0), 200)
    w.step()
    before = w.micros[1]
    w.submit(2, "b", text(3, 60, same=0), 5)
    w.step()
    assert w.compute.done["states of a prefix"] == 1 and not w.scheduler.slots.parked
    moving_out = 2 * UPKEEP_MICROS  # save and clear
    assert w.micros[1] - before in (moving_out, moving_out + STEP_MICROS)
    w.run()
    assert w.busy_micros == sum(w.micros.values())
    for request in (3, 4):
        w.submit(request, "b", text(request, 60, same=0), 5)
    w.run()
    assert w.compute.done["states of a prefix"] == 2
    assert w.busy_micros - sum(w.micros.values()) == moving_out, "its owner had nothing running"


def test_a_request_that_gives_way_pays_for_its_own_state() -> None:
    w = slow(slots=1)
    w.submit(0, "a", text(1, 60), 40)
    for _ in range(8):
        w.step()
    w.submit(1, "b", text(2, 60), 5)
    w.run()
    for request in (0, 1):
        swaps = w.finished[request].swaps
        assert w.micros[request] == len(w.tokens[request]) * STEP_MICROS + (2 * swaps + 1) * UPKEEP_MICROS
    assert w.finished[0].swaps


def test_who_gives_way_to_a_check_does_not_pay_for_that() -> None:
    w = slow(slots=1)
    w.submit(0, "a", text(1, 60), 40)
    w.step()
    w.loop.apply([Check(nonce=1, quick=True, adapters=[])])
    w.now_s += 11
    step = w.loop.step()
    assert (step.swaps, step.progress, step.unbilled_micros) == (1, [], UPKEEP_MICROS)


def test_a_state_that_is_given_up_is_freed_on_its_requests_account() -> None:
    w = slow(slots=1)
    w.submit(0, "a", text(1, 60), 40)
    for _ in range(8):
        w.step()
    w.submit(1, "b", text(2, 60), 5)
    w.step()
    assert w.swaps == 1
    [swapped] = w.scheduler.states._kept.values()

    class Slow:
        request, size_bytes = swapped.request, swapped.size_bytes

        def free(self) -> None:
            w.now_s += 0.002

    w.scheduler.states._kept[0] = Slow()
    before = w.micros[0]
    w.cancel(0)
    w.step()
    assert w.micros[0] - before == 2_000


def test_moves_are_shared_like_the_pass_for_which_they_are_made() -> None:
    w = slow(slots=3)
    for request, output in enumerate((5, 40, 40)):
        w.submit(request, "abc"[request], text(request, 16), output)
    w.run()
    assert w.busy_micros == sum(w.micros.values())
    assert abs(w.micros[1] - w.micros[2]) < UPKEEP_MICROS, "both decode adjacent then"


def test_after_a_crash_what_is_done_again_is_nobodys() -> None:
    w = slow()
    w.share("a", cache=7)
    w.submit(0, "a", text(1, 60), 20)
    w.submit(1, "a", [*text(1, 50), 1], 20)
    for _ in range(4):
        w.step()
    w.crash()
    w.step()
    w.submit(2, "a", [*text(1, 50), 2], 20)
    w.run()
    assert not [request for request in range(3) if not w.micros[request]]


def test_time_within_other_work_is_counted_once() -> None:
    now_s, booked = 0.0, []

    class Scheduler:
        def worked(self, job: object, micros: int, *, is_usage: bool) -> None:
            assert not is_usage
            booked.append((job, micros))

    measured = Upkeep(Scheduler(), lambda: now_s)  # type: ignore[arg-type]
    with measured.of("outer"):  # type: ignore[arg-type]
        now_s += 0.001
        with measured.of("inner"):  # type: ignore[arg-type]
            now_s += 0.002
            with measured.of(None):
                now_s += 0.004
        with measured.of("inner"):  # type: ignore[arg-type]
            now_s += 0.008
        now_s += 0.016
    with pytest.raises(ValueError), measured.of("raises"):  # type: ignore[arg-type]
        now_s += 0.032
        raise ValueError
    micros = [(None, 4_000), ("inner", 2_000), ("inner", 8_000), ("outer", 17_000), ("raises", 32_000)]
    assert booked == micros


def test_a_removed_tenant_is_not_remembered_for_what_is_cleared_after_it() -> None:
    w = slow()
    w.submit(0, "a", text(1, 60), 40)
    w.step()
    w.cancel(0)
    w.loop.apply([Forget("a")])
    w.step()
    assert w.micros[0] == STEP_MICROS + UPKEEP_MICROS and not w.fairness.snapshot(w.now_s)
