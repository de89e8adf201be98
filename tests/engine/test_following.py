"""Which running request is followed, and where checkpoints are."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tenantd.domain import Sampling
from tenantd.engine.following import LEAST_APART, MOST_CHECKPOINTS, best_lead, checkpoints
from tenantd.engine.jobs import Job
from tenantd.engine.kv.prefixes import BLOCK_TOKENS, Key, chain_of
from tenantd.wire.messages import Submit


def job(number: int, tokens: list[int], computed: int = 0, owner: int = 1) -> Job:
    submit = Submit(request=number, tenant="a", prompt=tokens, max_tokens=9, sampling=1)
    made = Job(submit, Sampling(), tokens, 0, 0, computed)
    made.key, made.chain = Key(owner, 0, "", ()), chain_of(tokens)
    return made


def test_the_one_with_most_in_common_leads_and_of_several_the_furthest() -> None:
    ours = job(9, list(range(100)))
    little, much, further = job(1, [*range(40), 99]), job(2, [*range(80), 99]), job(3, [*range(80), 98], 20)
    lead = best_lead(ours, [ours, little, further, much])
    assert lead is not None and lead.job is further and lead.tokens == 80 and not lead.is_ready
    further.computed = 80
    assert lead.is_ready


def test_nobody_leads_whom_it_shares_nothing_with_or_while_it_follows_itself() -> None:
    ours, theirs, follower = job(9, list(range(100))), job(1, list(range(100)), owner=2), job(2, list(range(100)))
    follower.leader = ours
    assert best_lead(ours, [ours, theirs, follower, job(3, [9] * 100)]) is None


@given(
    st.integers(1, 2000),
    st.integers(0, 2000),
    st.lists(st.integers(0, 2000), max_size=40),
    st.integers(0, 2000),
    st.sampled_from([0, 64, 512]),
)
def test_checkpoints_are_apart_and_within_what_is_computed(
    prompt: int, hidden: int, marks: list[int], begins: int, every: int
) -> None:
    submit = Submit(
        request=1, tenant="a", prompt=[0] * prompt, hidden_tokens=hidden, marks=sorted(marks), max_tokens=1, sampling=1
    )
    lengths = checkpoints(submit, begins, every)
    assert lengths == sorted(set(lengths))
    assert all(BLOCK_TOKENS <= tokens < prompt and tokens > begins for tokens in lengths)
    assert all(b - a >= LEAST_APART for a, b in itertools.pairwise(lengths))
    if max(begins, BLOCK_TOKENS - 1) < hidden < prompt:
        assert hidden in lengths, "the end of the system prompt goes before all others"
    assert len(lengths) <= MOST_CHECKPOINTS
    few = len(marks) <= MOST_CHECKPOINTS // 2 and prompt <= every * MOST_CHECKPOINTS // 2
    wanted = [hidden, *marks, *range(every, prompt, every)] if few else [hidden, max(marks, default=0)]
    for tokens in wanted:
        if max(begins, BLOCK_TOKENS - 1) < tokens < prompt:
            assert any(abs(tokens - near) < LEAST_APART for near in lengths)


def test_a_chat_of_any_length_has_few_checkpoints_the_latest_turns_and_some_all_along() -> None:
    prompt, every = 100_000, 500
    submit = Submit(
        request=1, tenant="a", prompt=[0] * prompt, marks=list(range(0, prompt, 70)), max_tokens=1, sampling=1
    )
    lengths = checkpoints(submit, 0, every)
    assert MOST_CHECKPOINTS // 2 < len(lengths) <= MOST_CHECKPOINTS
    assert lengths[-3:] == submit.marks[-3:]
    assert all(b - a <= prompt / (MOST_CHECKPOINTS // 2 - 1) for a, b in itertools.pairwise(lengths))
    assert all(tokens % every == 0 for tokens in lengths[:6]), "so that prompts that begin alike have the same ones"
