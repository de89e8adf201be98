"""What is known of tenants: of fixed size, for as many as there are, and about the past only what it should be."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from tenantd.events import Signal
from tenantd.text.sketches import KEY_BYTES, Sketcher
from tenantd.watching import habits
from tenantd.watching.habits import HABIT, LEARNING_WINDOWS, PANE_MICROS, SIGNALS, Habits, Row
from tests.support.little_traffic import BEGIN_MICROS, DAY_MICROS

SKETCHER = Sketcher(bytes(KEY_BYTES))
MOST_BYTES = 2500
"""Of a tenant, what finds it included: 250 MB for 100,000."""


def test_a_tenant_takes_so_many_bytes_and_the_least_recently_seen_are_forgotten() -> None:
    known, most = Habits(most_tenants=2000), 2000
    tracemalloc.start()
    try:
        for tenant in range(3 * most):
            habits.add_request(known.of(tenant, BEGIN_MICROS + tenant), is_probing=False)
        assert tracemalloc.get_traced_memory()[0] <= MOST_BYTES * most
    finally:
        tracemalloc.stop()
    assert HABIT.itemsize < MOST_BYTES and len(known) <= most
    assert known.get(3 * most - 1) is not None and known.get(0) is None
    known.of(3 * most - most // 2, BEGIN_MICROS + 4 * most)  # seen again
    for tenant in range(4 * most, 4 * most + most // 2):
        known.of(tenant, BEGIN_MICROS + tenant)
    assert known.get(3 * most - most // 2) is not None


def test_a_tenant_that_takes_the_place_of_another_knows_nothing_of_it() -> None:
    known = Habits(most_tenants=1)
    habits.add_request(known.of(1, BEGIN_MICROS), is_probing=True)
    row = known.of(2, BEGIN_MICROS)
    assert int(row["panes"]["requests"].sum()) == 0 and known.get(1) is None
    known.forget(2)
    assert len(known) == 0 and int(known.of(3, BEGIN_MICROS)["tenant_id"]) == 3


def work(row: Row, panes: int, prompts: int = 20) -> None:
    """The same prompts in each pane."""
    for pane in range(panes):
        habits.turn_to(row, BEGIN_MICROS + pane * PANE_MICROS)
        for i in range(prompts):
            habits.add_request(row, is_probing=i % 2 == 0)
            habits.add_prompt(row, SKETCHER.sketch([i, *range(100)]))
            habits.add_answer(row, 101, 202)


def value(row: Row, signal: Signal) -> float:
    return float(habits.measure(row).values[SIGNALS.index(signal)])


def test_signals_are_those_of_the_window() -> None:
    row = Habits().of(1, BEGIN_MICROS)
    work(row, 3)
    assert value(row, Signal.VOLUME) == pytest.approx(np.log(41))
    assert value(row, Signal.LOGPROBS) == 0.5
    assert value(row, Signal.DISTINCT) == pytest.approx(0.5, abs=0.1), "each prompt twice"
    assert value(row, Signal.SWEEP) > 0.9
    assert value(row, Signal.OUTPUT) == pytest.approx(np.log(2), abs=0.01)
    assert np.expm1(value(row, Signal.COVERAGE)) == pytest.approx(100, rel=0.2)
    assert (value(row, Signal.NOVELTY), value(row, Signal.SHIFT)) == (0.0, pytest.approx(0.0, abs=0.05))


def test_a_tenant_is_known_after_a_week_of_work_and_idle_days_teach_nothing() -> None:
    row = Habits().of(1, BEGIN_MICROS)
    work(row, LEARNING_WINDOWS)
    assert not habits.is_known(row)
    habits.turn_to(row, BEGIN_MICROS + 30 * DAY_MICROS)
    learned = int(row["windows"])
    assert learned == LEARNING_WINDOWS + 1 and not habits.is_known(row), "nothing is in the window"
    habits.turn_to(row, BEGIN_MICROS + 300 * DAY_MICROS)
    assert int(row["windows"]) == learned


def test_a_clock_that_is_set_back_and_forth_stops_nothing() -> None:
    row = Habits().of(1, BEGIN_MICROS)
    work(row, 4)
    habits.turn_to(row, BEGIN_MICROS + 10_000 * DAY_MICROS)
    habits.turn_to(row, BEGIN_MICROS)
    windows = int(row["windows"])
    work(row, 4)
    assert int(row["windows"]) > windows


def test_what_is_known_can_be_kept() -> None:
    known, after = Habits(), Habits()
    for tenant in (3, 9):
        work(known.of(tenant, BEGIN_MICROS), tenant)
    after.restore(known.rows())
    assert len(after) == 2
    assert np.array_equal(after.rows(), known.rows())
    work(after.of(3, BEGIN_MICROS), 5)
    assert not np.array_equal(after.rows(), known.rows()), "they share no memory"
