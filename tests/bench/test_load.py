from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace

import pytest

from tenantctl.bench import load
from tenantctl.bench.arrivals import steady
from tenantctl.bench.load import Progress, capacity, prompt, run, try_out
from tenantctl.bench.measurement import Measurement, Plan
from tenantctl.bench.observed import Clock, Outcome, Record
from tenantctl.bench.subjects import ordinary_tokens
from tenantctl.bench.suites import Closed, Open, Shape, Suite, TenantLoad
from tenantctl.bench.target import Target
from tenantd.errors import TenantdError
from tests.bench import simulated

NOWHERE = Target("nowhere")
SHAPE = Shape(20, 4)


class FakeServer:
    """Stands in for `send`: answers at once, never, or with a refusal. Notes the most requests at a time."""

    def __init__(self, outcome: Outcome = Outcome.DONE) -> None:
        self.outcome = outcome
        self.prompts: list[list[int]] = []
        self.answered_s: list[float] = []
        self.at_once = self.most_at_once = 0

    async def send(self, target: Target, body: dict[str, list[int]], record: Record, clock: Clock) -> None:
        self.prompts.append(body["prompt"])
        record.begin(clock())
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(3600 if self.outcome is Outcome.WAITING else 0.001)
        except asyncio.CancelledError:
            record.end(clock(), Outcome.CUT)
            raise
        finally:
            self.at_once -= 1
        if self.outcome is Outcome.DONE:
            self.answered_s.append(clock())
            record.add_tokens(self.answered_s[-1], SHAPE.output_tokens)
        record.end(clock(), self.outcome, "" if self.outcome is Outcome.DONE else "go away")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    fake = FakeServer()
    monkeypatch.setattr(load, "send", fake.send)
    monkeypatch.setattr(load, "time", SimpleNamespace(perf_counter=simulated.now_s))
    return fake


def measure(how: Closed | Open, duration_s: float = 0.3, **plan: float) -> Measurement:
    suite = Suite("s", "", (TenantLoad("a", SHAPE, how),))
    return simulated.run(run(Plan(suite, duration_s, **plan), {"a": NOWHERE}))  # type: ignore[arg-type]


def test_a_closed_loop_has_one_request_of_each_client_under_way(server: FakeServer) -> None:
    made = measure(Closed(3))
    assert server.most_at_once == 3
    assert made.figures["a"].done > 6
    assert made.end_s == pytest.approx(0.3, abs=0.01)
    assert not made.interrupted


def test_a_closed_loop_sends_nothing_while_it_is_off(server: FakeServer) -> None:
    made = measure(Closed(2, on=((0.0, 0.25), (0.5, 0.75))), 0.4)
    on, off = made.phases("a")
    assert [round(edge, 6) for span in on for edge in span] == [0, 0.1, 0.2, 0.3]
    assert [round(edge, 6) for span in off for edge in span] == [0.1, 0.2, 0.3, 0.4]
    sent = [r.sent_s for r in made.records["a"]]
    assert any(t < 0.1 for t in sent) and any(0.2 <= t < 0.35 for t in sent)
    assert not any(0.15 < t < 0.199 for t in sent)


def test_a_tenant_may_also_have_another_loop_at_another_time(server: FakeServer) -> None:
    load = TenantLoad("a", SHAPE, Closed(3, on=((0.0, 0.25),)), also=Closed(1, on=((0.75, 1.0),)))
    made = simulated.run(run(Plan(Suite("s", "", (load,)), 0.8), {"a": NOWHERE}))
    sent = [r.sent_s for r in made.records["a"]]
    assert server.most_at_once == 3
    assert any(t < 0.2 for t in sent) and any(t >= 0.6 for t in sent)
    assert not any(0.4 < t < 0.599 for t in sent)


def test_an_open_loop_does_not_wait_for_answers(server: FakeServer) -> None:
    server.outcome = Outcome.WAITING
    made = measure(Open(steady(50)), 0.4, rate_scale=2.0)
    assert server.most_at_once == len(made.records["a"]) == pytest.approx(40, abs=12)
    assert made.figures["a"].cut == len(made.records["a"])


def test_a_client_that_is_refused_pauses(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "RETRY_PAUSE_S", 30.0)
    server.outcome = Outcome.REFUSED
    made = measure(Closed(2))
    assert made.figures["a"].refused == len(made.records["a"]) == 2
    assert made.failures() == {"go away": 2}


def test_the_live_view_is_told_how_it_stands(server: FakeServer) -> None:
    seen: list[Progress] = []
    suite = Suite("s", "", (TenantLoad("a", SHAPE, Closed(2)),))
    made = simulated.run(run(Plan(suite, 0.6), {"a": NOWHERE}, seen.append))
    assert len(seen) >= 2
    tally = seen[-1].tallies["a"]
    answered = tally.outcomes[Outcome.DONE]
    assert answered > 0
    assert tally.output_tokens == answered * SHAPE.output_tokens
    assert tally.prompt_tokens == answered * SHAPE.prompt_tokens
    assert tally.outcomes[Outcome.WAITING] == tally.outcomes[Outcome.RUNNING] == 0
    assert sum(tally.outcomes.values()) == len(made.records["a"])


def test_prompts_share_no_begin_even_with_the_same_seed(server: FakeServer) -> None:
    measure(Closed(1), 0.05)
    measure(Closed(1), 0.05)
    first, *others = server.prompts
    assert all(len(p) == SHAPE.prompt_tokens for p in server.prompts)
    assert first[:4] not in [p[:4] for p in others]


def test_prompts_are_within_the_vocabulary() -> None:
    tokens = prompt(random.Random(1), 5000, range(40, 44))
    assert set(tokens) == {40, 41, 42, 43}
    assert len(prompt(random.Random(1), 3, range(40, 44))) == 3


@pytest.mark.parametrize(
    ("n_tokens", "tokens"),
    [
        (258, range(32, 127)),
        (32_000, range(1000, 32_000)),
        (262_144, range(1000, 100_000)),
        (None, range(1000, 100_000)),
    ],
)
def test_prompts_are_of_ordinary_tokens(n_tokens: int | None, tokens: range) -> None:
    assert ordinary_tokens(n_tokens) == tokens


def test_capacity_is_what_is_served_in_a_second(server: FakeServer) -> None:
    served = simulated.run(capacity(NOWHERE, 0.6, range(100)))
    a_request = 32 + 2 * SHAPE.output_tokens
    counted = [at_s for at_s in server.answered_s if 0.2 < at_s <= 0.6]  # without the first third
    assert len(counted) > 1
    assert served == pytest.approx(len(counted) * a_request / 0.4)


def test_a_server_that_serves_nothing_is_an_error(server: FakeServer) -> None:
    server.outcome = Outcome.REFUSED
    with pytest.raises(TenantdError, match=r"served nothing.*go away"):
        simulated.run(capacity(NOWHERE, 0.2, range(100)))
    with pytest.raises(TenantdError, match="nowhere is not answering: go away"):
        simulated.run(try_out(NOWHERE, range(100)))


def test_a_bug_in_a_client_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(load, "send", broken)
    with pytest.raises(ZeroDivisionError):
        measure(Closed(1), 0.05)
