"""Images in the scheduler: each whole and in a pass alone, in the order of usage, charged once, never in the cache."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tenantd.domain import FinishReason, Sampling
from tenantd.engine.compute import Chunk, PassResult
from tenantd.engine.fake import FakeCompute
from tenantd.wire.messages import IMAGE_TOKENS_FROM, PlacedImage, Submit
from tests.engine.world import World, scenarios
from tests.support.loads import fake_load


class Watched(FakeCompute):
    """Notes its passes."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.passes: list[list[Chunk]] = []

    def run(self, chunks: list[Chunk]) -> PassResult:
        self.passes.append(chunks)
        for chunk in chunks:
            are_images = {token >= IMAGE_TOKENS_FROM for token in chunk.tokens}
            assert are_images == {chunk.image is not None}, "an image is computed as one, and nothing else is"
        if chunks[0].image is not None:
            assert len(chunks) == 1 and len(chunks[0].tokens) == chunks[0].image.tokens, "it is whole, and alone"
        return super().run(chunks)


class Seen(World):
    """With requests that have images."""

    def __init__(self, **changes: Any) -> None:
        settings = {"slots": 4, "fake_step_micros": 1000, "fake_token_micros": 50, "cache_bytes": 1 << 20}
        super().__init__(fake_load(**(settings | changes)), chunk=32, engine=Watched)

    def ask(self, request: int, tenant: str, *parts: int, output: int = 3, seed: int = 0) -> None:
        """Positive parts are texts of so many tokens, negative ones images. Another `seed` is for other images."""
        prompt: list[int] = []
        images: list[PlacedImage] = []
        for part in parts:
            if part < 0:
                images.append(PlacedImage(len(prompt), -part, 0, 1, 1))
                prompt += range(IMAGE_TOKENS_FROM + seed, IMAGE_TOKENS_FROM + seed - part)
            else:
                prompt += self.prompt(1, part)
        self.submits[request] = Submit(
            request=request, tenant=tenant, prompt=prompt, max_tokens=output, sampling=request, images=images
        )
        self.unfinished[tenant] += 1
        self.samplings[request] = Sampling(temperature=0, ignore_eos=True)
        self._send(self.submits[request])

    def run(self) -> None:
        for _ in range(20_000):
            if not self.has_work:
                break
            self.step()
        assert self.finishes.keys() == self.submits.keys()

    @property
    def passes(self) -> list[list[Chunk]]:
        compute: Any = self.compute
        passes: list[list[Chunk]] = compute.passes
        return passes


def test_an_image_larger_than_a_pass_is_computed_whole_between_the_texts_around_it() -> None:
    w = Seen()
    w.ask(1, "a", 5, -60, 7, -40)
    w.run()
    lengths = [len(chunk.tokens) for chunks in w.passes for chunk in chunks]
    assert lengths == [5, 60, 7, 40, 1, 1]
    assert w.prefilled[1] == 112 and len(w.tokens[1]) == 3


def test_another_image_is_another_answer_and_nothing_of_it_is_kept_for_later_requests() -> None:
    w = Seen()
    w.share("a", cache=1)
    for request, seed in enumerate((0, 1000, 0), 1):
        w.ask(request, "a", 40, -40, 20, seed=seed)
        w.run()
        assert w.compute.is_empty()
    assert w.tokens[1] == w.tokens[3] != w.tokens[2]
    assert not any(w.cached.values())


def test_an_image_waits_for_so_many_tokens_of_the_minute_and_ends_if_they_can_never_be_had() -> None:
    w = Seen()
    w.share("a", tokens_per_minute=50)
    w.ask(1, "a", 4, -40, 2, output=1)
    w.ask(2, "a", 2, -40, 2, output=1)
    for _ in range(20):
        w.step()
    assert (w.prefilled[1], w.prefilled[2]) == (46, 2)
    wait_s = w.loop.patience_s()
    assert wait_s is not None and 0 < wait_s <= 1
    w.now_s += 61
    w.run()
    assert set(w.finishes.values()) == {FinishReason.LENGTH}
    w.share("a", tokens_per_minute=39)
    w.ask(3, "a", 4, -40, 2, output=1)
    w.run()
    assert w.finishes[3] is FinishReason.FAILED and "an image has 40 tokens" in w.finished[3].message


REQUEST = st.tuples(
    st.sampled_from(["a", "b", "c"]),
    st.lists(st.one_of(st.integers(1, 70), st.integers(-70, -1)), min_size=1, max_size=5),
    st.integers(1, 6),
)


@scenarios
@given(requests=st.lists(REQUEST, min_size=1, max_size=12), swap_bytes=st.sampled_from([0, 400, 1 << 20]))
def test_requests_with_images_get_the_same_answers_beside_others_as_alone(requests: Any, swap_bytes: int) -> None:
    w = Seen(swap_bytes=swap_bytes, slots=2)
    for number, (tenant, parts, output) in enumerate(requests, 1):
        w.ask(number, tenant, *parts, output=output, seed=100 * number)
        w.step()
    w.run()
    assert w.compute.is_empty()
    for number, (tenant, parts, output) in enumerate(requests, 1):
        alone = Seen(slots=1)
        alone.ask(number, tenant, *parts, output=output, seed=100 * number)
        alone.run()
        assert w.tokens[number] == alone.tokens[number] and len(w.tokens[number]) == output
        assert w.prefilled[number] == sum(map(abs, parts))
