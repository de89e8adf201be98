"""State outside the slots: whose it is, and one budget for all of it."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.engine.compute import EngineBroken
from tenantd.engine.kv.states import States


@dataclass(frozen=True)
class State:
    size_bytes: int
    request: int = 1

    def free(self) -> None:
        """Nothing to free."""


def test_what_goes_back_or_ends_gives_its_bytes_back() -> None:
    states = States(100)
    first, second = State(60, 1), State(30, 2)
    states.keep(1, first, 6, 6)
    states.keep(2, second, 3, 3)
    assert states.room_bytes == 10
    assert states.take(1) is first and states.take(1) is None
    assert states.take(2) is second and states.room_bytes == 100


def test_a_request_has_one_state() -> None:
    states = States(100)
    states.keep(1, State(10), 1, 1)
    with pytest.raises(EngineBroken):
        states.keep(1, State(10), 1, 1)


@dataclass
class Changing:
    """It says that it is another's once it is kept."""

    request: int
    size_bytes: int = 10

    def free(self) -> None:
        """Nothing to free."""


def test_a_state_of_another_request_is_neither_kept_nor_given_back() -> None:
    states = States(100)
    with pytest.raises(EngineBroken):
        states.keep(1, State(10, 2), 1, 1)
    assert states.room_bytes == 100
    state = Changing(1)
    states.keep(1, state, 1, 1)
    state.request = 2
    with pytest.raises(EngineBroken):
        states.take(1)


def test_what_fits_is_told_from_the_last_state_that_was_kept_or_had_no_room() -> None:
    states = States(100)
    assert states.fits(10**9, 10**9), "nobody knows yet"
    states.keep(1, State(40), 4, 4)
    assert states.fits(6, 6) and not states.fits(7, 7)
    states.keep(2, State(0, 2), 5, 5)  # it had no room, so each of its tokens takes more than 12 bytes
    assert states.fits(4, 4) and not states.fits(5, 5)


@given(st.lists(st.tuples(st.sampled_from(["keep", "take"]), st.integers(0, 5), st.integers(0, 50))))
def test_bytes_add_up_whatever_happens(events: list[tuple[str, int, int]]) -> None:
    states = States(100)
    kept: dict[int, State] = {}
    for event, request, size_bytes in events:
        if event == "keep" and request not in kept:
            kept[request] = State(size_bytes if size_bytes <= states.room_bytes else 0, request)
            states.keep(request, kept[request], 5, 5)
        elif event == "take":
            assert states.take(request) is kept.pop(request, None)
        states.check()
        assert states.requests() == kept.keys()
        assert states.room_bytes == 100 - sum(state.size_bytes for state in kept.values())


@dataclass
class Prefix:
    prefix: int
    size_bytes: int
    tokens: int = 1
    least_tokens: int = 0

    def free(self) -> None:
        """Nothing to free."""


def test_a_prefix_has_its_bytes_wherever_it_is_beside_those_of_swapped_out_requests() -> None:
    states = States(100, 50)
    states.shares.set_weight(7, 1)
    states.keep(1, State(100), 1, 1)
    states.reserve(3, 7, 40)
    assert states.shares.room_bytes == 10 and states.of_prefix(3) is None
    kept = Prefix(3, 40)
    states.put(kept)
    states.check()
    assert states.of_prefix(3) is kept and states.prefixes() == {3}
    with pytest.raises(EngineBroken):
        states.put(Prefix(3, 1))
    assert states.release(3) is kept and states.release(3) is None
    assert states.shares.room_bytes == 50 and not states.prefixes()
    states.check()


def test_the_state_of_another_prefix_is_not_given_out() -> None:
    states = States(0, 50)
    states.shares.set_weight(7, 1)
    states.reserve(3, 7, 40)
    kept = Prefix(3, 40)
    states.put(kept)
    kept.prefix = 4
    with pytest.raises(EngineBroken):
        states.of_prefix(3)
