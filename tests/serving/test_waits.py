"""What clients are told of their waits, and how that learns from what came."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from tenantd.events import CleanedUp, FirstToken
from tenantd.serving.accuracy import ENOUGH, REMEMBERED, Accuracy
from tenantd.serving.waits import Waits
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
    own, others = (waits.predictions.of(name).corrected(10.0) for name in ("acme", "globex"))
    assert own.likely_s > 13 and own.high_s == pytest.approx(20, rel=0.01)
    assert waits.predictions.of("globex") is waits.predictions.of("another")
    waits.forget("acme")
    assert waits.predictions.of("acme") is waits.predictions.of("globex")
    assert others.high_s >= own.likely_s


def test_requests_that_end_without_a_token_teach_nothing_and_are_forgotten() -> None:
    waits = Waits()
    request = Request(1)
    waits.foresee(Outlook({1: 10_000}, {}), [request], 0.0)  # type: ignore[list-item]
    waits.hear(CleanedUp(request_id=request.id, tenant="acme"))
    assert not waits._told and waits.predictions.of("acme").count == 0


def test_predictions_of_every_length_are_learned_from_each_request() -> None:
    waits, request = Waits(), Request(1)
    for wait_s in (40, 30, 12, 9, 3, 3):
        now_s = request.age_s  # what was told before is over, so that it does not count beside the new one
        waits.foresee(Outlook({1: 1000 * wait_s}, {}), [request], now_s)  # type: ignore[list-item]
        request.age_s += 50
    waits.hear(FirstToken(request_id=request.id, tenant="acme", after_micros=300_000_000))
    assert waits.predictions.of("acme").count == len((40, 12, 3))


def test_old_errors_are_forgotten() -> None:
    accuracy = Accuracy()
    for actual_s in (5.0, 20.0):
        for _ in range(REMEMBERED):
            accuracy.learn(10.0, actual_s)
    assert accuracy.corrected(10.0).low_s > 14


def test_many_predictions_of_the_same_length_give_the_range_of_all_their_errors() -> None:
    accuracy = Accuracy()
    for number in range(REMEMBERED):
        accuracy.learn(0.0, 3.0 if number % 3 == 0 else 0.0)
    for about_s in (0.0, 0.05):
        wait = accuracy.corrected(about_s)
        assert wait.low_s < 0.1 and 2.9 < wait.high_s < 3.5


def test_a_tenants_guesses_have_errors_of_their_own() -> None:
    waits = Waits()
    for tenant, after_s in (("acme", 20), ("globex", 10)):
        known = Request(0, tenant)
        for number in range(1, ENOUGH + 1):
            new = Request(number, tenant)
            for waiting in ([known], [known, new]):
                waits.foresee(Outlook({0: 5000}, {}), waiting, 0.0)  # type: ignore[arg-type]
            waits.hear(FirstToken(request_id=new.id, tenant=tenant, after_micros=after_s * 1_000_000))
        wait = waits.of(Request(99, tenant), 0, 0.0)  # type: ignore[arg-type]
        assert wait is not None and wait.high_s == pytest.approx(after_s), "it was guessed 10 seconds"
        assert waits.predictions.of(tenant).count == 0
    waits.forget("acme")
    assert waits.guesses.of("acme") is waits.guesses.of("initech")


def test_a_guess_is_remembered_as_it_was_told() -> None:
    waits, known = Waits(), Request(0)
    new = [Request(number) for number in range(1, 4)]
    for count in range(4):
        told = [likely_s(waits, request, newer) for newer, request in enumerate(new[:count])]
        waits.foresee(Outlook({0: 5000}, {}), [known, *new[:count]], 0.0)  # type: ignore[list-item]
        assert told == pytest.approx([10, 15, 20][:count])
    assert [wait_s for _, wait_s in waits._guessed.values()] == pytest.approx([10, 15, 20])
    waits.hear(CleanedUp(request_id="req_1", tenant="acme"))
    assert list(waits._guessed) == ["req_2", "req_3"]
    waits.foresee(None, [], 0.0)
    assert not waits._guessed and not waits._told


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
