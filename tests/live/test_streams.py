"""One live stream, driven by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from tenantd.domain import FinishReason, Sampling, TokenLogprobs, Usage
from tenantd.errors import EngineUnavailable, LedgerUnavailable, TenantdError
from tenantd.live.generation import SharedSampling
from tenantd.live.phases import NEXT, Phase
from tenantd.live.streams import MOST_TAKEN, Delta, LiveStream
from tenantd.text.detokenize import TextStream
from tenantd.text.vocabulary import ByteVocabulary
from tenantd.wire.messages import Progress, Submit
from tests.serving.daemon_kit import run


def stream(*stops: str, counts_prompt: bool = True, texts: tuple[int, ...] = ()) -> LiveStream:
    clock = iter(range(1000))
    return LiveStream(
        Submit(
            request=1,
            tenant="acme",
            prompt=[1, 2, 3],
            max_tokens=0 if texts else 20,
            sampling=1,
            counts_prompt=counts_prompt,
            texts=list(texts),
        ),
        SharedSampling(1, Sampling()),
        TextStream(ByteVocabulary(), stops),
        request_id="req_1",
        created_micros=5,
        clock_s=lambda: float(next(clock)),
        on_abandon=lambda _: None,
    )


def feed(live: LiveStream, text: bytes) -> list[bool]:
    return [live.advance(Progress(1, 1, 0, token, 10)) for token in text]


async def waits(work: Coroutine[object, object, object]) -> asyncio.Task[object]:
    """Start it and see that it does not come to its end by itself."""
    task = asyncio.ensure_future(work)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    return task


def test_nothing_is_handed_out_before_the_row_is_durable() -> None:
    async def scene() -> None:
        live = stream()
        started = await waits(live.started())
        feed(live, b"ab")
        await asyncio.sleep(0)
        assert not started.done()
        started.cancel()
        await asyncio.wait({started})
        taking = await waits(live.take())
        live.make_durable()
        assert await taking == [Delta("a", 97, None), Delta("b", 98, None)]

    run(scene())


def test_what_gathered_for_a_slow_reader_is_handed_out_in_parts_and_others_get_a_turn_between() -> None:
    async def scene() -> None:
        live = stream()
        live.make_durable()
        feed(live, b"a" * (2 * MOST_TAKEN + 1))
        turns: list[str] = []
        assert len(await live.take()) == MOST_TAKEN
        asyncio.get_running_loop().call_soon(turns.append, "another's")
        assert len(await live.take()) == MOST_TAKEN and turns == ["another's"]
        assert len(await live.take()) == 1
        feed(live, b"b")
        assert await live.take() == [Delta("b", 98, None)]

    run(scene())


@pytest.mark.parametrize("counts_prompt", [True, False])
def test_cached_tokens_are_billed_once_apart_from_computed_ones_also_over_crashes(counts_prompt: bool) -> None:
    async def scene() -> None:
        live = stream(counts_prompt=counts_prompt)
        live.sent()
        live.advance(Progress(1, 1, 1, -1, 10, cached=2))
        assert live.usage == (
            Usage(prompt_tokens=1, cached_tokens=2, engine_micros=10) if counts_prompt else Usage(engine_micros=10)
        )
        live.lost()
        assert live.sent().billed_prompt_tokens == 3

    run(scene())


def test_the_end_is_handed_out_only_when_it_is_settled() -> None:
    async def scene() -> None:
        live = stream()
        live.make_durable()
        feed(live, b"a")
        assert len(await live.take()) == 1
        live.finish(FinishReason.STOP, None)
        taking = await waits(live.take())
        live.settle()
        assert await taking == [] and await live.take() == []
        assert live.finish_reason is FinishReason.STOP and live.error is None

    run(scene())


def test_what_came_before_a_failure_is_handed_out_before_it() -> None:
    async def scene() -> None:
        live = stream()
        live.make_durable()
        feed(live, b"a")
        await live.take()
        feed(live, b"b")
        live.finish(FinishReason.FAILED, EngineUnavailable("gone"))
        live.settle()
        await live.started()  # it had begun: the status is out
        assert await live.take() == [Delta("b", 98, None)]
        assert await live.take() == [] and isinstance(live.error, EngineUnavailable)

    run(scene())


@pytest.mark.parametrize("tokens", [b"", b"ab"])
def test_a_failure_before_anything_was_taken_is_raised_with_its_own_error(tokens: bytes) -> None:
    async def scene() -> None:
        live = stream()
        live.make_durable()
        feed(live, tokens)
        live.finish(FinishReason.FAILED, EngineUnavailable("gone"))
        live.settle()
        with pytest.raises(EngineUnavailable, match="gone"):
            await live.started()

    run(scene())


def test_a_request_without_a_row_is_refused_at_once_whatever_the_engine_does() -> None:
    async def scene() -> None:
        live = stream()
        started = await waits(live.started())
        feed(live, b"ab")
        await asyncio.sleep(0)
        live.refuse(LedgerUnavailable("disk full"))
        with pytest.raises(LedgerUnavailable):
            await started
        assert await live.take() == [] and live.finish_reason is FinishReason.FAILED
        live.finish(FinishReason.STOP, None)
        assert live.finish_reason is FinishReason.FAILED and isinstance(live.error, TenantdError)

    run(scene())


def test_a_token_without_text_yet_is_a_start() -> None:
    async def scene() -> None:
        live = stream()
        live.make_durable()
        feed(live, "ü".encode()[:1])
        await live.started()
        assert await live.take() == [Delta("", 0xC3, None)]
        live.finish(FinishReason.LENGTH, None)
        live.settle()
        assert await live.take() == [Delta("\ufffd", -1, None)], "half a character is shown as one that was lost"
        assert await live.take() == []

    run(scene())


def test_a_stop_string_ends_text_and_billing_but_not_the_count_of_time() -> None:
    async def scene() -> None:
        live = stream("END")
        assert feed(live, b"okEN") == [True, False, False, False]
        assert feed(live, b"D") == [True] and live.is_stopped
        assert feed(live, b"more") == [False] * 4
        live.make_durable()
        assert "".join(d.text for d in await live.take()) == "ok"
        live.finish(FinishReason.STOP, None)
        live.settle()
        assert await live.take() == []
        assert live.usage == Usage(prompt_tokens=0, completion_tokens=5, engine_micros=90)

    run(scene())


def test_usage_counts_prompt_tokens_tokens_and_time() -> None:
    async def scene() -> None:
        live = stream()
        assert not live.advance(Progress(1, 1, 2, -1, 7))
        assert live.advance(Progress(1, 1, 1, 65, 8, TokenLogprobs(-0.5, ((65, -0.5),))))
        assert live.usage == Usage(prompt_tokens=3, completion_tokens=1, engine_micros=15)
        live.make_durable()
        assert (await live.take())[0].logprobs == TokenLogprobs(-0.5, ((65, -0.5),))
        command = live.sent()
        assert (command.prompt, command.generated, command.billed_prompt_tokens) == ([1, 2, 3], [65], 3)

    run(scene())


def test_a_start_needs_both_the_row_and_a_token() -> None:
    async def scene() -> None:
        live = stream()
        live.make_durable()
        started = await waits(live.started())
        feed(live, b"a")
        await started

    run(scene())


def test_a_reader_that_is_cancelled_can_be_followed_by_another() -> None:
    async def scene() -> None:
        live = stream()
        live.make_durable()
        reader = await waits(live.take())
        reader.cancel()
        await asyncio.wait({reader})
        feed(live, b"x")
        assert len(await live.take()) == 1

    run(scene())


STEPS: dict[Phase, Callable[[LiveStream], object]] = {
    Phase.WAITING: lambda live: live.lost(),
    Phase.IN_ENGINE: lambda live: live.sent(),
    Phase.DECIDED: lambda live: live.decide(FinishReason.CANCELLED, None),
    Phase.FINISHED: lambda live: live.finish(FinishReason.STOP, None),
    Phase.SETTLED: lambda live: live.settle(),
    Phase.REFUSED: lambda live: live.refuse(LedgerUnavailable("disk full")),
}
WAYS = {
    Phase.WAITING: [],
    Phase.IN_ENGINE: [Phase.IN_ENGINE],
    Phase.DECIDED: [Phase.IN_ENGINE, Phase.DECIDED],
    Phase.FINISHED: [Phase.FINISHED],
    Phase.SETTLED: [Phase.FINISHED, Phase.SETTLED],
    Phase.REFUSED: [Phase.REFUSED],
}


@pytest.mark.parametrize("before", Phase)
@pytest.mark.parametrize("after", Phase)
def test_a_phase_is_followed_only_by_those_that_may(before: Phase, after: Phase) -> None:
    async def scene() -> None:
        live = stream()
        for phase in WAYS[before]:
            STEPS[phase](live)
        assert live.phase is before
        if after in NEXT[before]:
            STEPS[after](live)
            assert live.phase is after
        elif (after is Phase.SETTLED and before is Phase.REFUSED) or before is after is Phase.SETTLED:
            STEPS[after](live)  # its row may come to its end later
            assert live.phase is before
        elif after is Phase.FINISHED and before is Phase.REFUSED:
            STEPS[after](live)  # the engine is rid of it
            assert live.phase is before and live.finish_reason is FinishReason.FAILED
        else:
            with pytest.raises(AssertionError):
                STEPS[after](live)

    run(scene())


def test_what_was_decided_stands_whatever_the_engine_says() -> None:
    async def scene() -> None:
        live = stream()
        live.sent()
        live.decide(FinishReason.DISCONNECTED, None)
        live.finish(FinishReason.FAILED, EngineUnavailable("gone"))
        assert (live.finish_reason, live.error) == (FinishReason.DISCONNECTED, None)

    run(scene())


@pytest.mark.parametrize(("computed", "reason"), [(3, FinishReason.STOP), (2, FinishReason.LENGTH)])
def test_a_budget_that_ends_after_the_last_vector_has_cut_nothing_off(computed: int, reason: FinishReason) -> None:
    async def scene() -> None:
        live = stream(texts=(2, 1))
        live.sent()
        live.is_out_of_budget = True
        live.decide(FinishReason.LENGTH, None)
        live.advance(Progress(1, 1, computed, -1, 10, vectors=b"\0" * 8))
        live.finish(FinishReason.CANCELLED, None)
        assert (live.finish_reason, live.is_out_of_budget) == (reason, reason is FinishReason.LENGTH)

    run(scene())


def test_what_is_sent_again_goes_on_from_where_it_stands() -> None:
    async def scene() -> None:
        live = stream()
        assert (live.sent().generated, live.sampling.number) == ([], 1)
        live.advance(Progress(1, 1, 3, 97, 10))
        live.lost()
        again = live.sent()
        assert (again.generated, again.billed_prompt_tokens, again.prompt) == ([97], 3, [1, 2, 3])

    run(scene())
