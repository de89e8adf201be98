"""Sequence ids: bound to one request each, and moved together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.engine.compute import EngineBroken
from tenantd.engine.kv.slots import Slots


def test_a_sequence_is_released_only_by_its_own_request():
    slots = Slots(2)
    sequence = slots.take(7)
    with pytest.raises(EngineBroken):
        slots.release(sequence, 8)


def test_the_last_decoding_sequence_moves_into_the_hole():
    slots = Slots(4)
    for request in range(4):
        slots.take(request)
    slots.release(1, 1)
    assert slots.compact({0, 2, 3}) == [(3, 1)]
    assert [slots.owner(s) for s in range(4)] == [0, 3, 2, None]


def test_a_request_in_prefill_makes_way_to_a_free_sequence():
    slots = Slots(4)
    for request in range(3):
        slots.take(request)
    assert slots.compact({0, 2}) == [(1, 3), (2, 1)]


def test_without_a_free_sequence_the_hole_stays():
    slots = Slots(3)
    for request in range(3):
        slots.take(request)
    assert slots.compact({0, 2}) == []


def test_consecutive_sequences_are_left_alone_wherever_they_are():
    slots = Slots(5)
    for request in range(5):
        slots.take(request)
    slots.release(0, 0)
    assert slots.compact({1, 2, 3}) == []


@given(data=st.data(), n=st.integers(1, 12))
def test_compaction_loses_nobody_and_packs_whenever_a_sequence_is_free(data, n):
    slots = Slots(n)
    taken = data.draw(st.integers(0, n))
    where = {slots.take(request): request for request in range(taken)}
    for sequence in data.draw(st.sets(st.sampled_from(range(n)), max_size=n)):
        if sequence in where:
            slots.release(sequence, where.pop(sequence))
    decoding = {s for s in where if data.draw(st.booleans())}
    for source, target in slots.compact(set(decoding)):
        assert target not in where, "a move's target is free when it is made"
        where[target] = where.pop(source)
        if source in decoding:
            decoding = decoding - {source} | {target}
    assert {s: slots.owner(s) for s in range(n) if slots.owner(s) is not None} == where
    if decoding and len(where) < n:
        assert max(decoding) - min(decoding) + 1 == len(decoding)


def test_a_parked_prefix_keeps_its_slot_until_no_other_is_empty() -> None:
    slots = Slots(3)
    for sequence in (0, 1):
        slots.release(slots.take(sequence), sequence)
    slots.park(0, 100)
    slots.park(1, 101)
    assert slots.can_take() and slots.take(7) == 2
    slots.touch(0)
    assert slots.take(8) == 1, "the least recently used"
    assert slots.unpark(1) == 101 and slots.where(100) == 0 and slots.where(101) is None


def test_a_request_changes_only_to_a_free_sequence() -> None:
    slots = Slots(3)
    sequence, other = slots.take(7), slots.take(8)
    with pytest.raises(EngineBroken):
        slots.exchange(sequence, other, 7)
    with pytest.raises(EngineBroken):
        slots.exchange(sequence, 2, 8)
    slots.exchange(sequence, 2, 7)
    assert [slots.owner(s) for s in range(3)] == [None, 8, 7] and slots.bindings[2] == 1


def test_a_prefix_is_parked_only_in_an_empty_sequence() -> None:
    slots = Slots(2)
    sequence = slots.take(7)
    with pytest.raises(EngineBroken):
        slots.park(sequence, 100)
    slots.park(1, 100)
    with pytest.raises(EngineBroken):
        slots.park(1, 101)


@given(data=st.data(), n=st.integers(1, 10))
def test_packing_moves_prefixes_out_of_the_way_and_loses_none(data: st.DataObject, n: int) -> None:
    slots = Slots(n)
    what = {s: data.draw(st.sampled_from(["empty", "parked", "prefill", "decoding"])) for s in range(n)}
    for sequence in range(n):
        slots.take(sequence)
    for sequence, kind in what.items():
        if kind in ("empty", "parked"):
            slots.release(sequence, sequence)
        if kind == "parked":
            slots.park(sequence, 100 + sequence)
    decoding = {s for s, kind in what.items() if kind == "decoding"}
    if (blocked := slots.in_the_way(set(decoding))) is not None:
        assert what[blocked] == "parked"
        slots.unpark(blocked)
        what[blocked] = "empty"
    held = sorted(slots.owners[s] or slots.parked.get(s, 0) for s in range(n))
    for source, target in slots.compact(set(decoding)):
        assert what[target] == "empty", "a move's target is empty when it is made"
        what[target], what[source] = what[source], "empty"
    assert sorted(slots.owners[s] or slots.parked.get(s, 0) for s in range(n)) == held
    assert set(slots.parked) == {s for s, kind in what.items() if kind == "parked"}
    decoding = {s for s, kind in what.items() if kind == "decoding"}
    if decoding and "empty" in what.values():
        assert max(decoding) - min(decoding) + 1 == len(decoding)
