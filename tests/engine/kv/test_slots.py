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
