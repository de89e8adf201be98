"""What tenants were given during the last hour: exact, in bounded memory, and of others only for administrators."""

from __future__ import annotations

from tenantd.costs import Claim
from tenantd.events import Events, FirstToken
from tenantd.serving.last_hour import MOST_SHOWN, MOST_TENANTS, SAMPLES, LastHour, Work, as_lists
from tenantd.wire.settings import Settings

SECOND = 1_000_000


class Hour:
    """With tenants that a test gives work to."""

    def __init__(self) -> None:
        self.events = Events()
        self.work: dict[int, Work] = {}
        self.kept = LastHour(self.events, lambda: self.work, Settings, slots=8)
        self.now_micros = 0

    def give(
        self,
        number: int,
        *,
        prompt: int = 0,
        generated: int = 0,
        running: int = 1,
        wanted: int = 8,
        weight: float = 1.0,
        most: int | None = None,
    ) -> None:
        claim = Claim(weight, wanted, running, most, None)
        self.work[number] = Work(f"t{number}", claim, prompt, generated, running, 0)

    def take(self) -> None:
        self.now_micros += 5 * SECOND
        self.kept.take(self.now_micros)

    def own(self, number: int, since_micros: int = 0) -> dict[str, list[object]]:
        return as_lists(self.kept.own(number, since_micros)[1], of_all=False)


def test_every_token_counts_once_while_a_request_runs_and_when_it_has_ended() -> None:
    hour = Hour()
    hour.give(1, prompt=100, generated=2)
    hour.take()
    hour.give(1, prompt=100, generated=30)
    hour.take()
    hour.give(1, prompt=100, generated=35, running=0)
    hour.take()
    hour.take()
    found = hour.own(1)
    assert found["prompt_tokens"] == [100, 0, 0, 0]
    assert found["generated_tokens"] == [2, 28, 5, 0]
    assert found["running"] == [1, 1, 0, 0]
    assert "entitled_share" not in found, "it would tell of others"


def test_shares_are_of_what_all_were_given_and_of_the_weights_of_those_with_work() -> None:
    hour = Hour()
    hour.give(1, generated=30, weight=3)
    hour.give(2, generated=10)
    hour.give(3, running=0, weight=100)
    hour.take()
    hour.events.announce(FirstToken(request_id="req_1", tenant="t2", after_micros=7))
    hour.events.announce(FirstToken(request_id="req_2", tenant="t2", after_micros=5))
    hour.give(2, generated=20)
    hour.give(1, generated=30, running=0, weight=3)
    hour.take()
    period = hour.kept.of_all(0)
    assert period.ended_micros == [5 * SECOND, 10 * SECOND] and list(period.tenants) == [1, 2], "most first"
    one, two = (as_lists(samples, of_all=True) for samples in period.tenants.values())
    assert hour.kept.shares(period.tenants[1], period.costs) == [0.75, 0.0]
    assert (one["entitled_share"], two["entitled_share"]) == ([0.75, None], [0.25, 1.0])
    assert (one["first_token_micros"], two["first_token_micros"]) == ([None, None], [None, 7])
    later = hour.kept.of_all(5 * SECOND)
    assert later.ended_micros == [10 * SECOND] and hour.kept.shares(later.tenants[2], later.costs) == [1.0]


def test_a_tenant_is_entitled_to_no_more_than_it_can_use() -> None:
    hour = Hour()
    hour.give(1, generated=9, weight=3, wanted=2)
    hour.give(2, generated=9, most=4)
    hour.give(3, generated=9, running=0, wanted=0)
    hour.take()
    tenants = hour.kept.of_all(0).tenants
    entitled = {number: as_lists(samples, of_all=True)["entitled_share"] for number, samples in tenants.items()}
    # 2 of 8 slots, since it has no more requests; 4, its limit; and one of those that are left, since it had a request
    assert entitled == {1: [round(2 / 7, 4)], 2: [round(4 / 7, 4)], 3: [round(1 / 7, 4)]}


def test_an_hour_and_a_number_of_tenants_are_kept_and_those_without_work_make_room() -> None:
    hour = Hour()
    for number in range(MOST_TENANTS):
        hour.give(number, generated=1)
    hour.take()
    hour.work = {}
    for number in (0, 1000):
        hour.give(number, generated=2)
    hour.take()
    assert hour.own(0)["generated_tokens"] == [1, 1]
    assert hour.own(1)["generated_tokens"] == [0, 0], "it made room"
    assert hour.own(1000)["generated_tokens"] == [0, 2]
    assert len(hour.kept.of_all(0).tenants) == MOST_SHOWN
    hour.work = {}
    for _ in range(SAMPLES):
        hour.take()
    ended_micros, _ = hour.kept.own(0, 0)
    assert len(ended_micros) == SAMPLES and ended_micros[-1] == hour.now_micros
    assert hour.own(0)["generated_tokens"] == [0] * SAMPLES
    assert not hour.kept.of_all(0).tenants, "none had work in this hour"
