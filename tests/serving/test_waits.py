"""What clients are told of their waits, and how that learns from what came."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from tenantd.events import CleanedUp, FirstToken
from tenantd.serving.accuracy import Accuracy
from tenantd.serving.waits import ENOUGH, Waits
from tenantd.wire.messages import Outlook


@dataclass
class Request:
    """As much of a live stream as is looked at."""

    number: int
    tenant: str = "acme"
    age_s: float = 0.0

    @property
    def id(self) -> str:
        return f"req_{self.number}"


def likely_s(waits: Waits, request: Request, newer: int = 0, now_s: float = 0.0) -> float | None:
    wait = waits.of(request, newer, now_s)  # type: ignore[arg-type]
    return None if wait is None else wait.likely_s


def test_nine_of_ten_waits_are_in_their_range_once_there_are_some() -> None:
    chance = random.Random(1)
    accuracy = Accuracy()
    inside = []
    for _ in range(500):
        predicted_s = chance.uniform(1, 60)
        actual_s = predicted_s * chance.lognormvariate(0.3, 0.4)
        wait = accuracy.corrected(predicted_s)
        inside.append(wait.low_s <= actual_s <= wait.high_s)
        accuracy.learn(predicted_s, actual_s)
    assert sum(inside[50:]) / len(inside[50:]) > 0.87
    wait = accuracy.corrected(10)
    assert 10 < wait.likely_s < 10 * 1.35 and 3 < wait.high_s / wait.low_s < 6


def test_a_wait_gets_shorter_while_time_passes_and_is_never_negative() -> None:
    waits = Waits()
    request = Request(1)
    waits.foresee(Outlook({1: 8000}, {}), [request], 100.0)  # type: ignore[list-item]
    assert likely_s(waits, request, now_s=100.0) == pytest.approx(8)
    assert likely_s(waits, request, now_s=105.0) == pytest.approx(3)
    assert likely_s(waits, request, now_s=120.0) == 0


def test_requests_that_the_engine_does_not_have_follow_those_of_their_tenant() -> None:
    waits = Waits()
    known, held, later, new, stranger = Request(1), Request(2), Request(3), Request(4), Request(5, "globex")
    waits.foresee(Outlook({1: 4000}, {"acme": 2000}), [known, held, later], 0.0)  # type: ignore[list-item]
    assert [likely_s(waits, each) for each in (known, held, later)] == pytest.approx([4, 6, 8])
    assert [likely_s(waits, new, newer) for newer in (0, 1)] == pytest.approx([10, 12])
    assert likely_s(waits, stranger) is None
    waits.foresee(None, [known], 1.0)  # type: ignore[list-item]
    assert likely_s(waits, known) is None, "the engine is gone"


def test_a_tenants_own_errors_count_once_there_are_enough_of_them() -> None:
    waits = Waits()
    for number in range(ENOUGH):
        request = Request(number)
        waits.foresee(Outlook({number: 10_000}, {}), [request], 0.0)  # type: ignore[list-item]
        waits.hear(FirstToken(request_id=request.id, tenant="acme", after_micros=20_000_000))
    own, others = (waits.accuracy(name).corrected(10.0) for name in ("acme", "globex"))
    assert own.likely_s > 13 and own.high_s == pytest.approx(20, rel=0.01)
    assert waits.accuracy("globex") is waits.accuracy("another")
    waits.forget("acme")
    assert waits.accuracy("acme") is waits.accuracy("globex")
    assert others.high_s >= own.likely_s


def test_requests_that_end_without_a_token_teach_nothing_and_are_forgotten() -> None:
    waits = Waits()
    request = Request(1)
    waits.foresee(Outlook({1: 10_000}, {}), [request], 0.0)  # type: ignore[list-item]
    waits.hear(CleanedUp(request_id=request.id, tenant="acme"))
    assert not waits._told and waits.accuracy("acme").count == 0


def test_predictions_of_every_length_are_learned_from_each_request() -> None:
    waits, request = Waits(), Request(1)
    for wait_s in (40, 30, 19, 15, 9, 9):
        waits.foresee(None, [], request.age_s)
        waits.foresee(Outlook({1: 1000 * wait_s}, {}), [request], request.age_s)  # type: ignore[list-item]
        request.age_s += 5
    waits.hear(FirstToken(request_id=request.id, tenant="acme", after_micros=40_000_000))
    assert waits.accuracy("acme").count == len((40, 19, 9))


def test_guesses_before_anything_is_foreseen_have_errors_of_their_own() -> None:
    waits, known = Waits(), Request(0)
    for number in range(1, 41):
        waits.foresee(Outlook({0: 5000}, {"acme": 5000}), [known], 0.0)  # type: ignore[list-item]
        new, newer = Request(number), Request(100 + number)
        assert not waits.is_foreseen(new)  # type: ignore[arg-type]
        waits.foresee(Outlook({0: 5000, number: 20_000}, {}), [known, new, newer], 0.0)  # type: ignore[list-item]
        waits.hear(FirstToken(request_id=new.id, tenant="acme", after_micros=20_000_000))
        waits.hear(FirstToken(request_id=newer.id, tenant="acme", after_micros=30_000_000))
    waits.foresee(Outlook({0: 10_000}, {"acme": 5000}), [known], 100.0)  # type: ignore[list-item]
    foreseen, guessed = (waits.of(each, 0, 105.0) for each in (known, Request(99)))  # type: ignore[arg-type]
    assert foreseen is not None and foreseen.high_s < 8
    assert guessed is not None and 18 < guessed.high_s < 25, "twice as long as guessed, as with the others"
    waits.hear(CleanedUp(request_id=known.id, tenant="acme"))
    assert not waits._told and not waits._guessed


def test_a_new_prediction_counts_beside_those_before_it() -> None:
    waits, request = Waits(), Request(1)
    told = []
    for second, wait_s in enumerate((20, 9, 18, 7)):
        waits.foresee(Outlook({1: 1000 * wait_s}, {}), [request], float(second))  # type: ignore[list-item]
        told.append(likely_s(waits, request, now_s=float(second)))
    assert told[0] == pytest.approx(20) and 9 < told[1] < 19, "between both"
    assert max(told[1:]) - min(told[1:]) < 5
    waits.foresee(None, [], 4.0)
    waits.foresee(Outlook({1: 3000}, {}), [request], 5.0)  # type: ignore[list-item]
    assert likely_s(waits, request, now_s=5.0) == pytest.approx(3), "nothing is left of those of another engine"


def test_what_should_have_come_by_now_does_not_count_beside_a_new_prediction() -> None:
    waits, request = Waits(), Request(1)
    for now_s in (0.0, 3.0, 6.0):
        waits.foresee(Outlook({1: 2000}, {}), [request], now_s)  # type: ignore[list-item]
        assert likely_s(waits, request, now_s=now_s) == pytest.approx(2)


def test_errors_of_short_waits_do_not_widen_the_range_of_long_ones() -> None:
    accuracy = Accuracy()
    for _ in range(50):
        accuracy.learn(0.0, 3.0)
        accuracy.learn(60.0, 60.0)
    assert accuracy.corrected(0.0).high_s == pytest.approx(3)
    assert accuracy.corrected(60.0).high_s == pytest.approx(60)
    assert accuracy.corrected(600.0) == Accuracy().corrected(600.0), "nothing is known of such waits"
