"""A paused request goes on in the way that takes less time, as measured: from its state, or by computing it again."""

from __future__ import annotations

from typing import Any

import pytest

from tenantd.engine.compute import Swapped
from tenantd.engine.fake import FakeCompute
from tenantd.engine.kv.states import States
from tenantd.engine.speeds import CLEARLY, TRIED, Keeping
from tests.engine.kv.test_states import State
from tests.engine.world import World, world


class CopyingCompute(FakeCompute):
    """Takes as long as given to copy a state, by its tokens, in each direction."""

    token_micros = 0

    def swap_out(self, sequence: int, room_bytes: int) -> Any:
        swapped = super().swap_out(sequence, room_bytes)
        self._copy(swapped)
        return swapped

    def swap_in(self, sequence: int, swapped: Swapped, request: int = 0) -> bool:
        self._copy(swapped)
        return super().swap_in(sequence, swapped, request)

    def _copy(self, swapped: Swapped) -> None:
        if swapped.size_bytes:
            self._sleep(self.token_micros * swapped.length / 1e6)  # type: ignore[attr-defined]


def paused_often(token_micros: int) -> World:
    """Two requests that take turns in one slot. A prompt's token takes 500 µs."""
    w = world(slots=1, token_micros=500)
    w.engine = type("Compute", (CopyingCompute,), {"token_micros": token_micros})
    w._start()
    for request, tenant in enumerate("ab"):
        w.submit(request, tenant, 60, 300)
    w.run()
    return w


def test_states_are_kept_while_that_is_faster_and_computed_again_otherwise() -> None:
    fast, slow = paused_often(100), paused_often(5000)
    assert fast.swaps > 2 * TRIED and not fast.recomputes
    assert slow.recomputes > TRIED and slow.swaps < 4 + slow.recomputes / TRIED
    assert slow.tokens == fast.tokens
    assert slow.passed_s < paused_often(5000 * 100).passed_s / 2, "it does not depend on how slow"
    slow.check_charges()


def test_time_for_computing_tokens_again_is_nobodys() -> None:
    w = world(slots=1, chunk=64, swap_bytes=0, token_micros=500)
    for request, tenant in enumerate("ab"):
        w.submit(request, tenant, 60, 300)
    w.run()
    assert w.recomputes > 20
    a_pass, a_token = 1000, 500
    for request in (0, 1):
        assert w.prefilled[request] == 60
        assert w.micros[request] <= a_pass + 60 * a_token + 299 * (a_pass + a_token)
    assert w.busy_micros > sum(w.micros.values()) + w.recomputes * 60 * a_token
    w.check_charges()


def test_a_state_that_nothing_may_replace_fits_only_where_there_is_room() -> None:
    keeping = Keeping(lambda tokens: tokens / 1000)
    keeping.saved(100, 1_000_000)
    keeping.restored(100, 1_000_000)
    states = States(100, keeping=keeping)
    states.keep(1, State(60), 6, 6)
    assert states.fits(5, 5), "it need not be kept"
    assert states.fits(4, 0) and not states.fits(5, 0)


def test_nothing_is_computed_again_before_both_ways_are_measured() -> None:
    keeping = Keeping(lambda tokens: tokens / 1000)
    assert keeping.is_worth(100)
    keeping.saved(100, 10_000_000)
    assert keeping.is_worth(100), "it was not restored yet"
    keeping.restored(100, 10_000_000)
    assert not keeping.is_worth(100)
    assert Keeping(lambda tokens: 0.0).is_worth(100)


@pytest.mark.parametrize(("times", "is_worth"), [(0.9 * CLEARLY, True), (1.1 * CLEARLY, False)])
def test_a_state_is_kept_unless_computing_is_clearly_faster(times: float, is_worth: bool) -> None:
    keeping = Keeping(lambda tokens: tokens / 1000)
    keeping.saved(100, round(times * 50_000))
    keeping.restored(100, round(times * 50_000))
    assert keeping.is_worth(100) is is_worth


def test_now_and_then_a_state_is_kept_to_measure_again() -> None:
    keeping = Keeping(lambda tokens: tokens / 1000)
    keeping.saved(100, 1_000_000)
    keeping.restored(100, 1_000_000)
    decisions = [keeping.decide(100) for _ in range(4 * TRIED)]
    assert sum(decisions) == 4 and not any(decisions[: TRIED - 1])
    for _ in range(100):  # copies have become fast
        keeping.saved(100, 1000)
        keeping.restored(100, 1000)
    assert keeping.decide(100) and keeping.decide(100)
