"""Decayed usage: charge, decay, order, lift."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.engine.fairness import Fairness

costs = st.floats(0, 1e6, allow_nan=False)


def test_usage_halves_after_one_half_life():
    fairness = Fairness(half_life_s=60)
    fairness.charge("acme", 100, now_s=0)
    assert math.isclose(fairness.normalised("acme", now_s=60), 50)
    assert math.isclose(fairness.normalised("acme", now_s=180), 12.5)


def test_usage_counts_by_weight():
    fairness = Fairness(60)
    fairness.set_weight("acme", 4)
    for tenant in ("acme", "globex"):
        fairness.charge(tenant, 100, 0)
    assert fairness.normalised("acme", 0) == 25
    assert fairness.normalised("globex", 0) == 100


def test_another_weight_counts_for_what_comes_and_not_for_what_was():
    fairness = Fairness(60)
    fairness.charge("acme", 100, 0)
    fairness.set_weight("acme", 4)
    assert fairness.normalised("acme", 0) == 100
    fairness.charge("acme", 40, 0)
    assert fairness.normalised("acme", 0) == 110


def test_a_clock_that_goes_backwards_neither_decays_nor_grows_usage():
    fairness = Fairness(60)
    fairness.charge("acme", 100, now_s=1000)
    assert fairness.normalised("acme", now_s=10) == 100
    assert math.isclose(fairness.normalised("acme", now_s=1060), 50)


def test_who_begins_to_wait_is_raised_to_the_level_of_the_others():
    fairness = Fairness(1e9, burst_credit=10)
    fairness.begin_to_wait("new", 500, [], 0)
    assert math.isclose(fairness.normalised("new", 0), 500)


def test_into_an_empty_system_a_newcomer_is_raised_to_the_level_of_who_left_last():
    fairness = Fairness(60, burst_credit=10)
    fairness.charge("acme", 800, 0)
    fairness.leave("acme", 800, 0)
    fairness.begin_to_wait("new", 0, [], now_s=60)
    assert math.isclose(fairness.normalised("new", 60), 400)
    assert math.isclose(fairness.normalised("new", 60), fairness.normalised("acme", 60))


def test_the_virtual_time_decays_as_usage_does_and_never_falls_behind_otherwise():
    fairness = Fairness(60)
    fairness.leave("acme", 800, 0)
    fairness.leave("globex", 100, 0)
    assert fairness.virtual_time(0) == 800
    assert math.isclose(fairness.virtual_time(now_s=120), 200)
    assert math.isclose(fairness.virtual_time(now_s=10), 200), "a clock that goes backwards"


@pytest.mark.parametrize(("credit", "then"), [(1000, 850), (20, 880)])
def test_who_was_behind_when_it_fell_idle_is_as_far_behind_when_it_comes_back_up_to_its_credit(credit, then):
    fairness = Fairness(1e9, burst_credit=credit)
    fairness.charge("quiet", 100, 0)
    fairness.leave("quiet", 150, 0)
    fairness.begin_to_wait("quiet", 900, [], 0)
    assert math.isclose(fairness.normalised("quiet", 0), then)


def test_who_was_ahead_when_it_fell_idle_earns_nothing_by_idling():
    fairness = Fairness(1e9, burst_credit=1000)
    fairness.charge("heavy", 500, 0)
    fairness.leave("heavy", 100, 0)
    fairness.begin_to_wait("heavy", 1000, [], 0)
    assert fairness.normalised("heavy", 0) == 1000


def test_who_has_work_but_none_that_waits_falls_no_further_behind_than_its_credit():
    fairness = Fairness(1e9, burst_credit=50)
    fairness.begin_to_wait("stream", 0, [], 0)
    fairness.charge("stream", 10, 0)
    fairness.begin_to_wait("stream", 9000, [], 0)
    assert fairness.normalised("stream", 0) == 9000 - 50


def test_being_behind_decays_as_usage_does():
    fairness = Fairness(60, burst_credit=1000)
    fairness.leave("quiet", 200, 0)
    fairness.begin_to_wait("quiet", 1000, [], now_s=60)
    assert math.isclose(fairness.normalised("quiet", 60), 1000 - 100)


def test_usage_is_never_lowered():
    fairness = Fairness(1e9)
    fairness.charge("heavy", 900, 0)
    fairness.begin_to_wait("heavy", 5, [], 0)
    assert fairness.normalised("heavy", 0) == 900


def test_a_lead_counts_what_was_given_since_the_tenant_began_to_wait_and_decays():
    fairness = Fairness(60)
    fairness.set_weight("acme", 2)
    fairness.charge("acme", 9000, 0)
    fairness.begin_to_wait("globex", 0, [], 0)
    fairness.charge("globex", 300, 0)
    fairness.begin_to_wait("acme", 0, ["globex"], 0)
    assert fairness.lead("acme", 0) == fairness.lead("globex", 0)
    fairness.charge("acme", 80, 0)
    assert math.isclose(fairness.lead("acme", 0) - fairness.lead("globex", 0), 40)
    assert math.isclose(fairness.lead("acme", 60) - fairness.lead("globex", 60), 20)


def test_to_be_raised_is_not_to_be_given_anything():
    fairness = Fairness(60)
    fairness.begin_to_wait("acme", 0, [], 0)
    fairness.begin_to_wait("globex", 5000, ["acme"], 0)
    assert fairness.lead("acme", 0) == fairness.lead("globex", 0)


@given(charges=st.lists(st.tuples(st.sampled_from("abc"), costs, st.floats(0, 100)), max_size=30))
def test_order_does_not_change_while_time_passes_without_charges(charges):
    fairness = Fairness(half_life_s=30)
    now_s = 0.0
    for tenant, cost, wait_s in charges:
        now_s += wait_s
        fairness.charge(tenant, cost, now_s)
    before = [fairness.normalised(t, now_s) for t in "abc"]
    after = [fairness.normalised(t, now_s + 45) for t in "abc"]
    for x, y, later_x, later_y in zip(before, before[1:], after, after[1:], strict=False):
        if x < y * (1 - 1e-9):
            assert later_x <= later_y


def test_remembered_usage_counts_as_if_it_had_been_charged_here():
    fairness = Fairness(60)
    fairness.set_weight("acme", 2)
    fairness.remember({"acme": 50}, 40, now_s=100)
    assert fairness.virtual_time(now_s=100) == 40
    fairness.charge("acme", 20, now_s=100)
    assert fairness.normalised("acme", now_s=100) == 60
    assert math.isclose(fairness.normalised("acme", now_s=160), 30)
