"""Bytes between tenants: by weight, and what is not used is lent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.engine.kv.shares import Shares


def test_shares_are_by_weight_and_nobody_without_one_has_any() -> None:
    shares = Shares(100)
    shares.set_weight(1, 3)
    shares.set_weight(2, 1)
    assert [shares.share_bytes(owner) for owner in (1, 2, 3)] == [75, 25, 0]
    shares.set_weight(1, None)
    assert [shares.share_bytes(owner) for owner in (1, 2)] == [0, 100]


def test_who_would_be_over_its_share_is_asked_to_give_back() -> None:
    shares = Shares(100)
    shares.set_weight(1, 1)
    shares.set_weight(2, 1)
    shares.take(1, 80)
    assert shares.is_over(1) and shares.is_over(1, 10) and not shares.is_over(2, 40)
    shares.give_back(1, 40)
    assert not shares.is_over(1, 10) and shares.is_over(1, 11) and not shares.is_over(2, 40)
    assert shares.used == {1: 40, 2: 0}


def test_more_than_there_is_cannot_be_taken_or_given_back() -> None:
    shares = Shares(100)
    shares.take(1, 100)
    with pytest.raises(AssertionError):
        shares.take(2, 1)
    with pytest.raises(AssertionError):
        shares.give_back(1, 101)


@given(
    st.integers(0, 10**12),
    st.dictionaries(st.integers(1, 9), st.floats(1e-3, 1e6), min_size=1),
    st.data(),
)
def test_whoever_is_within_its_share_finds_room_once_others_gave_back(
    budget_bytes: int, weights: dict[int, float], data: st.DataObject
) -> None:
    shares = Shares(budget_bytes)
    for owner, weight in weights.items():
        shares.set_weight(owner, weight)
    for owner in weights:
        shares.take(owner, data.draw(st.integers(0, shares.room_bytes)))
    newcomer = data.draw(st.sampled_from(list(weights)))
    size_bytes = data.draw(st.integers(0, shares.share_bytes(newcomer)))
    if shares.room_bytes < size_bytes:
        over = {owner for owner in weights if shares.is_over(owner, size_bytes if owner == newcomer else 0)}
        asked = over | {newcomer}
        within = sum(used for owner, used in shares.used.items() if owner not in asked)
        entitled = sum(shares.share_bytes(owner) for owner in asked)
        assert within + entitled <= budget_bytes + len(weights), "the shares of all fit"
        assert over or shares.used_bytes + size_bytes <= budget_bytes + len(weights)
