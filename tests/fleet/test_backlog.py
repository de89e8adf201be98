"""Who goes to the engine next, and that it never holds more of a tenant than it has places for."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.domain import SEED_VALUES, FinishReason, Sampling, Tenant
from tenantd.fleet.backlog import WINDOW_PER_SLOT, Backlog
from tenantd.live.generation import Generation, counted_prompt_tokens
from tenantd.live.streams import LiveStream
from tenantd.serving.service import Service
from tenantd.text.vocabulary import ByteVocabulary
from tenantd.wire.messages import Backlog as BacklogNews
from tenantd.wire.messages import Cancel, Command, DropSampling, Forget, SetSampling, Step, Submit
from tests.serving.daemon_kit import config, run, until
from tests.serving.memory_ledger import MemoryDirectory, MemoryLedger

SLOTS = 3
WINDOW = WINDOW_PER_SLOT * SLOTS
ACME, GLOBEX = Tenant(name="acme"), Tenant(name="globex")


class Numbered:
    """As much of a stream as a backlog looks at."""

    def __init__(self, tenant: str, number: int, *, is_flex: bool = False) -> None:
        self.tenant = tenant
        self.is_flex = is_flex
        self.number = number


def live(tenant: str, number: int, *, is_flex: bool = False) -> LiveStream:
    return cast(LiveStream, Numbered(tenant, number, is_flex=is_flex))


def taken(backlog: Backlog) -> list[int]:
    return [stream.number for stream in iter(backlog.take, None)]


def test_a_tenant_fills_its_window_in_order_and_what_ends_makes_room_for_the_next() -> None:
    backlog = Backlog(SLOTS)
    streams = [live("acme", number) for number in range(20)]
    for stream in streams:
        backlog.add(stream)
    assert WINDOW > SLOTS, "more than can run, so that no slot waits for the daemon"
    assert taken(backlog) == list(range(WINDOW))
    backlog.leave(streams[2])
    backlog.leave(streams[2])
    backlog.leave(streams[WINDOW])  # it waits here, and gives nobody a place
    assert taken(backlog) == [WINDOW + 1]


def test_tenants_take_turns_so_a_small_one_is_at_most_one_of_each_behind() -> None:
    backlog = Backlog(SLOTS)
    for number in range(20):
        backlog.add(live("acme" if number < 10 else "globex", number))
    first = backlog.take()
    backlog.add(live("initech", 99))
    assert first is not None and first.number == 0
    assert taken(backlog)[:4] == [10, 1, 99, 11]


def test_flex_requests_have_a_window_of_their_own_and_the_others_never_wait_for_them() -> None:
    backlog = Backlog(SLOTS)
    for number in range(20):
        backlog.add(live("acme", number, is_flex=True))
    assert taken(backlog) == list(range(WINDOW))
    assert backlog.news() == [BacklogNews("acme", True, True)]
    for number in range(20, 40):
        backlog.add(live("acme", number))
    assert taken(backlog) == list(range(20, 20 + WINDOW))
    assert backlog.news() == [BacklogNews("acme", True)]
    for number in range(20, 40):
        backlog.leave(live("acme", number))
    assert backlog.news() == [BacklogNews("acme", True, True)]


def test_before_there_is_an_engine_everything_waits() -> None:
    backlog = Backlog()
    backlog.add(live("acme", 1))
    assert backlog.take() is None


@given(
    st.lists(st.tuples(st.sampled_from(["add", "leave", "take", "news"]), st.sampled_from("abAB"), st.integers(0, 30)))
)
def test_whatever_happens_nobody_has_too_many_places_and_the_engine_knows_who_has_a_line(
    events: list[tuple[str, str, int]],
) -> None:
    backlog = Backlog(1)
    numbers = itertools.count()
    waiting: dict[int, LiveStream] = {}
    placed: dict[int, LiveStream] = {}
    told: dict[str, BacklogNews] = {}
    for event, tenant, which in events:
        if event == "add":
            stream = live(tenant.lower(), next(numbers), is_flex=tenant.isupper())
            waiting[stream.number] = stream
            backlog.add(stream)
        elif event == "take" and (taken := backlog.take()) is not None:
            of_its_line = [n for n, s in waiting.items() if (s.tenant, s.is_flex) == (taken.tenant, taken.is_flex)]
            assert taken.number == min(of_its_line)
            placed[taken.number] = waiting.pop(taken.number)
        elif event == "leave" and (known := {**waiting, **placed}):
            stream = known[sorted(known)[which % len(known)]]
            waiting.pop(stream.number, None)
            placed.pop(stream.number, None)
            backlog.leave(stream)
        elif event == "news":
            for news in backlog.news():
                assert news != told.get(news.tenant, BacklogNews(news.tenant, False)), "only what has changed"
                told[news.tenant] = news
            known_flex = {name: each.is_flex for name, each in told.items() if each.exists}
            assert known_flex.keys() == {s.tenant for s in waiting.values()}
            ordinary = {s.tenant for s in waiting.values() if not s.is_flex}
            assert all(is_flex == (name not in ordinary) for name, is_flex in known_flex.items())
        counts = Counter((stream.tenant, stream.is_flex) for stream in placed.values())
        assert all(count <= WINDOW_PER_SLOT for count in counts.values())
    for stream in [*waiting.values(), *placed.values()]:
        backlog.leave(stream)
    backlog.check_empty()


class Scene:
    """A service over the real engine process, and all that was said between them."""

    def __init__(self, **engine: Any) -> None:
        self.ledger = MemoryLedger()
        self.directory = MemoryDirectory(ACME, GLOBEX)
        self.sent: list[Command] = []
        self.steps: list[Step] = []
        self.service = Service(
            config(slots=SLOTS, fake_step_micros=1000, **engine),
            cast(Any, self.ledger),
            cast(Any, self.directory),
            ByteVocabulary(),
            cast(Any, None),
            slowest_restart_s=0.05,
        )
        self.replica = self.service._replica
        supervisor, on_step = self.service.supervisor, self.replica.on_step
        send = supervisor.send

        def spy_on_send(command: Command) -> None:
            self.sent.append(command)
            send(command)

        def spy_on_step(step: Step) -> None:
            self.steps.append(step)
            on_step(step)

        supervisor.send = spy_on_send  # type: ignore[method-assign]
        self.replica.on_step = spy_on_step  # type: ignore[method-assign]

    async def __aenter__(self) -> Scene:
        await self.service.start()
        await self.service.supervisor.wait_ready()
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        if kind is None:
            await until(lambda: not self.replica.live)
        await self.service.stop()
        if kind is None:
            self.service.idle_check()

    async def ask(
        self, prompts: int, n: int = 1, tenant: Tenant = ACME, tokens: int = 4, **sampling: Any
    ) -> list[LiveStream]:
        settings = Sampling(ignore_eos=True, **sampling)
        generations = [
            Generation(kind="completion", prompt=[7, prompt], max_tokens=tokens, sampling=settings, choice=choice)
            for prompt in range(prompts)
            for choice in range(n)
        ]
        return await self.service.submit_all(tenant, generations)

    def submitted(self) -> list[Submit]:
        return [command for command in self.sent if isinstance(command, Submit)]


async def read_all(streams: Iterable[LiveStream]) -> None:
    async def read(stream: LiveStream) -> None:
        while await stream.take():
            pass

    await asyncio.gather(*map(read, streams))


def test_the_engine_holds_a_window_of_a_tenants_requests_and_no_slot_waits_for_the_next() -> None:
    async def scene() -> None:
        async with Scene() as s:
            streams = await s.ask(40, tokens=3)
            assert s.service.status()["waiting"] == 40, "whoever waits here is counted as whoever waits there"
            await read_all(streams)
            assert max(step.running + step.waiting for step in s.steps) == WINDOW
            ended = 0
            for step in s.steps:
                ended += len(step.finishes)
                assert step.running + len(step.finishes) == SLOTS or ended > 40 - SLOTS, "every slot is busy"
            assert [submit.prompt[1] for submit in s.submitted()] == list(range(40))
            backlogs = [command for command in s.sent if isinstance(command, BacklogNews)]
            assert backlogs == [BacklogNews("acme", True), BacklogNews("acme", False)]

    run(scene())


def test_another_tenants_request_does_not_wait_behind_a_backlog() -> None:
    async def scene() -> None:
        async with Scene() as s:
            bulk = await s.ask(60, tokens=20)
            await until(lambda: len(s.submitted()) == WINDOW)
            [small] = await s.ask(1, tenant=GLOBEX)
            await read_all([small])
            assert len(s.submitted()) < 2 * WINDOW
            for stream in bulk:
                stream.abandon()

    run(scene())


def test_requests_that_end_together_are_not_sent_to_the_engine_in_each_others_place() -> None:
    async def scene() -> None:
        async with Scene() as s:
            streams = await s.ask(64, tokens=400)
            await until(lambda: s.steps)
            for stream in streams:
                stream.abandon()
            await until(lambda: not s.replica.live)
            assert len(s.submitted()) == WINDOW
            assert sum(isinstance(command, Cancel) for command in s.sent) == WINDOW
            assert {row.state for row in s.ledger.settlements.values()} == {FinishReason.DISCONNECTED}

    run(scene())


def test_the_engine_forgets_a_tenant_that_is_removed_with_a_backlog() -> None:
    async def scene() -> None:
        async with Scene() as s:
            streams = await s.ask(40, tokens=400)
            await until(lambda: s.steps)
            s.directory.next_tenants = {"globex": GLOBEX}
            await s.service.changes.tenants_changed()
            await read_all(streams)
            about = [c for c in s.sent if isinstance(c, BacklogNews | Forget) and c.tenant == "acme"]
            assert about == [BacklogNews("acme", True), BacklogNews("acme", False), Forget("acme")]
            await read_all(await s.ask(1, tenant=GLOBEX))
            await until(lambda: s.steps[-1].usage is not None)
            assert s.steps[-1].usage is not None and s.steps[-1].usage.keys() == {"globex"}

    run(scene())


def test_one_in_the_middle_of_the_line_can_be_ended_and_the_others_keep_their_order() -> None:
    async def scene() -> None:
        async with Scene() as s:
            streams = await s.ask(20, tokens=4)
            streams[15].abandon()
            await read_all(streams)
            assert [submit.prompt[1] for submit in s.submitted()] == [n for n in range(20) if n != 15]

    run(scene())


def test_after_a_crash_what_ran_goes_first_and_the_rest_waits_in_its_order() -> None:
    async def scene() -> None:
        async with Scene() as s:
            streams = await s.ask(30, tokens=30)
            await until(lambda: any(stream.generated for stream in streams))
            before = len(s.sent)
            s.service.supervisor.kill("for the test")
            await read_all(streams)
            again = [c.prompt[1] for c in s.sent[before:] if isinstance(c, Submit)]
            assert again == sorted(again) and again[-1] == 29
            assert [len(stream.generated) for stream in streams] == [30] * 30
            assert s.service.supervisor.restarts == 1

    run(scene())


def test_what_prompts_and_choices_share_is_sent_once_to_each_engine_and_dropped_with_the_last() -> None:
    async def scene() -> None:
        async with Scene() as s:
            streams = await s.ask(4, n=5, tokens=20, logit_bias=dict.fromkeys(range(200), 1.0))
            await until(lambda: any(stream.generated for stream in streams))
            s.service.supervisor.kill("for the test")
            await read_all(streams)
            told = [c.number for c in s.sent if isinstance(c, SetSampling)]
            assert told == [streams[0].number] * 2, "one for each engine"
            assert {submit.sampling for submit in s.submitted()} == {streams[0].number}
            assert [c.number for c in s.sent if isinstance(c, DropSampling)] == [streams[0].number]
            assert isinstance(s.sent[-1], DropSampling | BacklogNews), "dropped when the last has ended"
            await read_all(await s.ask(1))  # and the engine goes on

    run(scene())


def test_choices_have_seeds_of_their_own_and_one_of_them_has_the_prompt() -> None:
    async def scene() -> None:
        async with Scene() as s:
            streams = await s.ask(2, n=3, seed=SEED_VALUES - 2)
            await read_all(streams)
            assert [submit.seed for submit in s.submitted()] == [SEED_VALUES - 2, SEED_VALUES - 1, 0] * 2
            usages = [s.ledger.settlements[stream.id].usage for stream in streams]
            assert [usage.prompt_tokens for usage in usages] == [2, 0, 0] * 2
            assert [usage.completion_tokens for usage in usages] == [4] * 6
            drawn = await s.ask(1, n=3)
            await read_all(drawn)
            assert len({submit.seed for submit in s.submitted()[6:]}) == 3

    run(scene())


@pytest.mark.parametrize("crashes", [0, 1])
def test_a_prompt_is_billed_and_counted_once_and_used_as_often_as_computed(crashes: int) -> None:
    async def scene() -> None:
        async with Scene() as s:
            streams = await s.ask(6, n=4, tokens=10)
            if crashes:
                await until(lambda: sum(len(stream.generated) for stream in streams) > 20)
                s.service.supervisor.kill("for the test")
            await read_all(streams)
            assert s.service.supervisor.restarts == crashes
            usages = [s.ledger.settlements[stream.id].usage for stream in streams]
            assert [usage.prompt_tokens for usage in usages] == [2, 0, 0, 0] * 6
            now_micros = round(s.service._clock_s() * 1e6)
            [(_, tokens)] = {
                name: sum(tokens for _, tokens in each)
                for name, each in s.service._rates.tokens_counting(now_micros).items()
            }.items()
            assert tokens == 6 * 2 + 24 * 10, "in its tokens of this minute: what is billed"
            if not crashes:  # an engine that dies takes a second's usage with it
                await until(lambda: s.steps[-1].usage is not None)
                usage = s.replica.board.usage("acme", s.service._clock_s(), 1e9)
                assert usage > 0.9 * (24 * 2 + 24 * 10 * 2), "in its usage: what was computed"

    run(scene())


def test_a_clients_request_counts_each_of_its_prompts_once() -> None:
    prompt = [1, 2, 3]
    generations = [Generation(kind="completion", prompt=prompt, choice=choice) for _ in range(2) for choice in range(4)]
    assert counted_prompt_tokens(generations) == 6
