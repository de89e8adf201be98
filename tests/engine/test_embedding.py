"""Texts to embed in the scheduler: whole, in passes of their own, in the order of usage, once."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tenantd.domain import FinishReason, Sampling
from tenantd.engine.compute import Chunk, PassResult
from tenantd.engine.fake import DIMENSIONS, FakeCompute, _vectors
from tenantd.engine.jobs import Job
from tenantd.engine.passes import MOST_TEXTS_IN_ALL
from tenantd.engine.slack import Room
from tenantd.wire.messages import LoadEmbeddings, Submit
from tests.engine.world import World, scenarios
from tests.support.loads import fake_load

EMBEDS = LoadEmbeddings(model_path="", pooling="mean", input_tokens=64)


class Watched(FakeCompute):
    """Notes its passes."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.passes: list[list[Chunk]] = []

    def run(self, chunks: list[Chunk]) -> PassResult:
        self.passes.append(chunks)
        assert len({bool(chunk.texts) for chunk in chunks}) == 1, "a pass is of one kind"
        assert all(sum(chunk.texts) == len(chunk.tokens) for chunk in chunks if chunk.texts), "texts are whole"
        return super().run(chunks)


class Texts(World):
    """With requests that embed, and their vectors."""

    def __init__(self, **changes: Any) -> None:
        settings = {"slots": 4, "fake_step_micros": 1000, "fake_token_micros": 50, "embeddings": EMBEDS}
        super().__init__(fake_load(**(settings | changes)), chunk=32, engine=Watched)

    def embed(self, request: int, tenant: str, *lengths: int) -> None:
        self.submits[request] = Submit(
            request=request,
            tenant=tenant,
            prompt=self.prompt(request, sum(lengths)),
            max_tokens=0,
            allowed_tokens=1,
            sampling=request,
            texts=list(lengths),
        )
        self.unfinished[tenant] += 1
        self.samplings[request] = Sampling(temperature=0)
        self._send(self.submits[request])

    def run(self) -> None:
        for _ in range(5000):
            if not self.has_work:
                break
            self.step()
        assert self.finishes.keys() == self.submits.keys()
        assert self.compute.is_empty()

    @property
    def passes(self) -> list[list[Chunk]]:
        compute: Any = self.compute
        passes: list[list[Chunk]] = compute.passes
        return passes

    def expected(self, request: int) -> bytes:
        submit = self.submits[request]
        return _vectors(submit.prompt, submit.texts)


def test_a_request_is_embedded_text_by_text_and_billed_by_its_tokens() -> None:
    w = Texts()
    w.embed(1, "a", 20, 5, 5, 30, 1)
    w.run()
    assert w.vectors[1] == w.expected(1)
    assert w.prefilled[1] == 61 and w.tokens[1] == []
    assert w.finishes[1] is FinishReason.STOP
    assert [chunk.texts for chunks in w.passes for chunk in chunks] == [(20, 5, 5), (30, 1)]


def test_a_text_longer_than_a_pass_should_be_is_a_pass_alone_and_never_cut() -> None:
    w = Texts()
    w.embed(1, "a", 60, 3)
    w.embed(2, "b", 4)
    w.run()
    assert [60] in [[len(chunk.tokens) for chunk in chunks] for chunks in w.passes]
    assert w.vectors[1] == w.expected(1) and w.vectors[2] == w.expected(2)


def test_many_short_texts_share_a_pass() -> None:
    w = Texts()
    w.embed(1, "a", *[1] * 100)
    w.run()
    assert len(w.passes) < 10
    assert w.vectors[1] == w.expected(1)


def test_one_sum_of_texts_may_be_longer_than_the_context() -> None:
    w = Texts(context_tokens=32)
    w.embed(1, "a", *[16] * 10)
    w.run()
    assert w.finishes[1] is FinishReason.STOP and w.prefilled[1] == 160


def test_the_tenant_that_used_less_is_embedded_first_whoever_came_first() -> None:
    w = Texts()
    w.submit(0, "heavy", 200, 50)
    while w.has_work:
        w.step()
    w.embed(1, "heavy", *[30] * 20)
    w.embed(2, "light", *[30] * 3)
    done: list[int] = []
    while w.has_work:
        before = set(w.finishes)
        w.step()
        done += sorted(set(w.finishes) - before)
    assert done == [2, 1]


def test_a_stream_keeps_its_pace_beside_texts() -> None:
    w = Texts()
    w.submit(0, "light", 4, 60)
    w.step()
    w.embed(1, "heavy", *[30] * 200)
    waited = longest = 0
    while 0 not in w.finishes:
        before = len(w.tokens[0])
        w.step()
        waited = 0 if len(w.tokens[0]) > before else waited + 1
        longest = max(longest, waited)
    w.run()
    assert 1 not in w.finishes or w.finishes[1] is FinishReason.STOP
    assert 0 < longest <= 4, "passes of texts come between tokens, a few at most"


def test_a_crash_repeats_only_what_was_not_told() -> None:
    w = Texts()
    w.embed(1, "a", *[20] * 12)
    w.step()
    w.step()
    told = w.prefilled[1]
    assert 0 < told < 240
    w.crash()
    w.run()
    assert w.vectors[1] == w.expected(1) and w.prefilled[1] == 240


def test_a_cancelled_request_leaves_nothing_and_is_billed_for_what_was_done() -> None:
    w = Texts()
    w.embed(1, "a", *[20] * 12)
    w.step()
    w.cancel(1)
    w.run()
    assert w.finishes[1] is FinishReason.CANCELLED
    assert len(w.vectors[1]) == w.prefilled[1] // 20 * 4 * DIMENSIONS


def test_tokens_per_minute_hold_it_back_at_whole_texts() -> None:
    w = Texts()
    w.share("a", tokens_per_minute=50)
    w.embed(1, "a", 20, 20, 20)
    for _ in range(10):
        w.step()
    assert w.prefilled[1] == 40
    w.now_s += 61
    w.run()
    assert w.vectors[1] == w.expected(1)


def test_a_text_that_waits_for_its_tokens_is_woken_when_they_are_there() -> None:
    w = Texts()
    w.share("a", tokens_per_minute=50)
    w.embed(1, "a", 20, 20, 20)
    for _ in range(10):
        w.step()
    assert w.scheduler._tenants["a"].window.allowance(w.now_s) == 10
    wake_s = w.scheduler.wake_s(w.now_s)
    assert wake_s is not None and wake_s > w.now_s
    w.now_s = wake_s
    w.step()
    assert w.prefilled[1] == 60
    w.run()


def test_a_text_that_never_fits_a_lowered_limit_ends_its_request_with_the_reason() -> None:
    w = Texts()
    w.embed(1, "a", 10, 20, 40)
    w.embed(2, "a", 20)
    w.embed(3, "b", 40)
    w.share("a", tokens_per_minute=30)
    w.embed(4, "a", 5, 31)
    w.run()
    assert {request: w.finishes[request] for request in (2, 3)} == dict.fromkeys((2, 3), FinishReason.STOP)
    for request, longest in ((1, 40), (4, 31)):
        assert w.finishes[request] is FinishReason.FAILED
        assert f"a text has {longest} tokens" in w.finished[request].message


def test_a_pass_has_no_more_texts_than_a_message_holds_vectors_of() -> None:
    w = Texts(slots=12, fake_step_micros=0, fake_token_micros=0)
    jobs = []
    for request in range(12):
        submit = Submit(
            request=request, tenant="a", prompt=[1] * 64, max_tokens=0, allowed_tokens=1, sampling=0, texts=[1] * 64
        )
        jobs.append(Job(submit, Sampling(temperature=0), [1] * 64, 0, 0, sequence=request))
    chunks = list(w.scheduler.passes._prefill(jobs, Room(10_000, 10_000), 1.0, {"a": 0.0}, {"a": None}))
    assert sum(len(chunk.texts) for chunk in chunks) == MOST_TEXTS_IN_ALL


def test_with_a_cache_nothing_of_texts_is_kept_or_found() -> None:
    w = Texts(cache_bytes=1 << 20)
    w.share("a", cache=1)
    for request in (1, 2):
        w.embed(request, "a", 30, 30)
    w.submit(3, "a", w.prompt(1, 60), 2)
    while w.has_work:
        w.step()
    assert w.cached[1] == w.cached[2] == w.cached[3] == 0
    assert w.vectors[2] == w.expected(2)


def test_a_paused_request_leaves_nothing_in_its_slot_and_teaches_nothing_about_copies() -> None:
    w = Texts(slots=1)
    w.embed(1, "a", *[20] * 40)
    for _ in range(10):
        w.step()
    w.embed(2, "b", 20)
    w.run()
    assert w.finished[1].swaps and not w.swaps and not w.recomputes
    assert not w.scheduler.keeping._restores.is_known


kinds = st.one_of(
    st.tuples(st.just("embed"), st.sampled_from("abc"), st.lists(st.integers(1, 60), min_size=1, max_size=12)),
    st.tuples(st.just("generate"), st.sampled_from("abc"), st.tuples(st.integers(1, 60), st.integers(1, 12))),
    st.tuples(st.just("steps"), st.just(""), st.integers(1, 6)),
    st.tuples(st.just("cancel"), st.just(""), st.integers(0, 20)),
    st.tuples(st.just("crash"), st.just(""), st.just(0)),
)


@scenarios
@given(st.lists(kinds, max_size=30))
def test_whatever_happens_each_vector_is_that_of_its_text_and_is_billed_once(events: list[Any]) -> None:
    w = Texts(slots=2)
    for kind, tenant, what in events:
        request = len(w.submits)
        if kind == "embed":
            w.embed(request, tenant, *what)
        elif kind == "generate":
            w.submit(request, tenant, *what)
        elif kind == "cancel" and what in w.submits and what not in w.finishes:
            w.cancel(what)
        elif kind == "crash":
            w.crash()
        else:
            for _ in range(what if kind == "steps" else 0):
                if w.has_work:
                    w.step()
    w.run()
    for request, submit in w.submits.items():
        if submit.texts:
            whole = w.expected(request)
            assert whole.startswith(w.vectors[request])
            if request not in w.cancelled:
                assert w.vectors[request] == whole and w.prefilled[request] == len(submit.prompt)
