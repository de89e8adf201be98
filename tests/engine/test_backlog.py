"""Requests that the daemon still holds count as work, and what requests share is told once."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tenantd.domain import FinishReason, Sampling
from tenantd.fleet.backlog import WINDOW_PER_SLOT
from tenantd.wire.messages import Backlog, Cancel, DropSampling, SetSampling, Submit
from tests.engine.world import World, scenarios, world


def backlogged() -> World:
    """A tenant with a window of its requests in the engine, and more in the daemon; and another that works."""
    w = world(slots=4, chunk=64)
    for request in range(8):
        w.submit(request, "deep", 8, 100)
    w.loop.apply([Backlog("deep", True)])
    for request in range(100, 108):
        w.submit(request, "other", 8, 100)
    for _ in range(40):
        w.step()
    return w


def test_a_tenant_whose_requests_wait_in_the_daemon_is_not_idle_when_the_last_one_here_ends() -> None:
    w = backlogged()
    deep = w.scheduler._tenants["deep"]
    usage = w.fairness.normalised("deep", w.now_s)
    for request in range(8):
        w.cancel(request)
    w.step()
    assert deep.is_busy and not deep.queue and not deep.active
    w.submit(8, "deep", 8, 4)
    assert not deep.credit, "it gets no credit for coming back"
    assert w.fairness.normalised("deep", w.now_s) <= usage, "nor is it lifted"
    w.loop.apply([Backlog("deep", False), Cancel(8)])
    assert not deep.is_busy
    w.submit(9, "deep", 8, 4)
    assert deep.credit, "now it comes back from idle"


def test_a_share_is_not_cut_to_what_has_been_sent_so_far() -> None:
    w = backlogged()
    for request in range(1, 8):
        w.cancel(request)
    w.step()
    sharing = w.scheduler.sharing
    assert sharing._shares() == {"deep": 2, "other": 2}
    w.loop.apply([Backlog("deep", False)])
    assert sharing._shares() == {"deep": 1, "other": 3}
    w.loop.apply([Backlog("deep", True)])
    w.share("deep", max_concurrent=1)
    assert sharing._shares() == {"deep": 1, "other": 3}, "its own limit still holds"


def test_an_engine_that_waits_for_the_daemon_is_idle_and_goes_on() -> None:
    w = world()
    w.loop.apply([Backlog("a", True)])
    assert w.loop.patience_s() is None
    w.submit(0, "a", 4, 4)
    w.run()
    assert w.finishes == {0: FinishReason.LENGTH}


def test_settings_are_kept_for_requests_to_come_and_each_has_its_own_seed() -> None:
    w = world(slots=1)
    first, second = (Submit(request=n, tenant="a", prompt=[n], max_tokens=3, sampling=5, seed=70 + n) for n in range(2))
    w.submits.update({0: first, 1: second})
    w.loop.apply([SetSampling(5, Sampling(ignore_eos=True, logit_bias={1: 2.0})), first])
    w.run()
    w.loop.apply([second, DropSampling(5)])
    assert w.loop._samplings == {}
    assert w.scheduler._jobs[1].sampling == Sampling(ignore_eos=True, logit_bias={1: 2.0}, seed=71)
    w.run()
    assert w.finishes == {0: FinishReason.LENGTH, 1: FinishReason.LENGTH}


def test_the_choices_of_one_prompt_are_paced_by_it_once_and_pay_for_what_they_compute() -> None:
    w = world(slots=4, chunk=64)
    w.share("a", tokens_per_minute=60)
    for request in range(4):
        w.submit(request, "a", 48, 3, counts_prompt=request == 0)
    w.run()
    assert w.now_s < 60, "all within the minute: 48 + 4 * 3 tokens"
    assert w.fairness.charged["a"] == 4 * (48 + 3 * 2)


class Windowed:
    """A world behind a daemon that sends each tenant's requests in a window; or, without one, all at once."""

    def __init__(self, slots: int, *, has_window: bool) -> None:
        self.world = world(slots, chunk=16)
        self.window = WINDOW_PER_SLOT * slots if has_window else 1_000_000
        self.lines: dict[str, dict[int, tuple[int, int]]] = {"a": {}, "b": {}, "c": {}}
        self.told = dict.fromkeys(self.lines, False)
        self.done: list[object] = []  # all that any step did

    def submit(self, request: int, tenant: str, prompt: int, output: int) -> None:
        self.lines[tenant][request] = (prompt, output)
        self.send()

    def cancel(self, request: int) -> None:
        if not any(line.pop(request, None) for line in self.lines.values()):
            self.world.cancel(request)
        self.send()

    def send(self) -> None:
        w = self.world
        for tenant, line in self.lines.items():
            here = [r for r in w.submits.keys() - w.finishes.keys() - w.cancelled if w.tenant_of(r) == tenant]
            for request in list(line)[: max(0, self.window - len(here))]:
                w.submit(request, tenant, *line.pop(request))
            if self.told[tenant] is not bool(line):
                self.told[tenant] = bool(line)
                w.loop.apply([Backlog(tenant, bool(line))])

    def step(self) -> None:
        w = self.world
        if w.has_work:
            before = {request: (w.prefilled[request], len(tokens)) for request, tokens in w.tokens.items()}
            ended = len(w.finishes)
            w.step()
            after = {request: (w.prefilled[request], len(tokens)) for request, tokens in w.tokens.items()}
            ends = sorted(end for end in list(w.finishes.items())[ended:] if end[1] is not FinishReason.CANCELLED)
            if made := sorted(after.items() - before.items()):
                self.done.append((made, ends))
        self.send()


@scenarios
@given(
    events=st.lists(
        st.one_of(
            st.tuples(
                st.just("submit"), st.sampled_from("abc"), st.integers(1, 60), st.integers(1, 20), st.integers(1, 30)
            ),
            st.tuples(st.just("cancel"), st.integers(0, 100)),
            st.tuples(st.just("share"), st.sampled_from("abc"), st.integers(1, 9), st.none() | st.integers(1, 3)),
            st.tuples(st.just("steps"), st.integers(1, 20)),
        ),
        max_size=30,
    ),
    slots=st.integers(1, 5),
)
def test_with_a_window_everything_happens_as_if_all_had_been_sent(events, slots) -> None:
    runs = Windowed(slots, has_window=True), Windowed(slots, has_window=False)
    for run in runs:
        numbers = itertools.count()
        for event in events:
            match event:
                case ("submit", tenant, prompt, output, count):
                    for _ in range(count):
                        run.submit(next(numbers), tenant, prompt, output)
                case ("cancel", request):
                    run.cancel(request)
                case ("share", tenant, weight, most):
                    run.world.share(tenant, weight=weight, max_concurrent=most)
                case ("steps", count):
                    for _ in range(count):
                        run.step()
        while not run.world.scheduler.is_idle or any(run.lines.values()):
            run.step()
    assert runs[0].done == runs[1].done
    usages = [run.world.fairness.snapshot(run.world.now_s) for run in runs]
    assert usages[0] == usages[1]
