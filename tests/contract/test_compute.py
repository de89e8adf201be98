"""One suite for every engine: what compute.py promises holds without a model, and with llama.cpp in both KV layouts."""

from __future__ import annotations

from typing import Any

import pytest

from tenantd.domain import Sampling
from tenantd.engine.compute import Chunk, Compute, EngineBroken, RequestRejected
from tenantd.engine.fake import BROKEN_GRAMMAR
from tests.contract.kit import GREEDY, PROMPT, generate, given_logits, seen_logits
from tests.support.device import LOGITS_NOISE
from tests.support.grammars import compiled


def run_alone(engine: Compute, sequence: int, n: int = 8, sampling: Sampling = GREEDY) -> list[int]:
    engine.bind(sequence, sampling, PROMPT, [])
    out = generate(engine, sequence, PROMPT, n)
    engine.clear(sequence)
    return out


def test_a_fresh_engine_is_empty_and_says_what_it_is(engine: Compute) -> None:
    assert engine.is_empty()
    assert engine.info.slots == 4
    assert engine.info.context_tokens > 0


def test_greedy_tokens_do_not_depend_on_the_sequence(engine: Compute) -> None:
    assert run_alone(engine, 0) == run_alone(engine, 3)


def test_greedy_tokens_do_not_depend_on_how_the_prompt_is_cut(engine: Compute) -> None:
    whole = run_alone(engine, 0)
    engine.bind(0, GREEDY, PROMPT, [])
    assert generate(engine, 0, PROMPT, 8, chunk=3) == whole


def test_a_pass_answers_exactly_the_chunks_that_ask_for_a_token(engine: Compute) -> None:
    for sequence in range(3):
        engine.bind(sequence, GREEDY, PROMPT, [])
    result = engine.run([Chunk(0, 0, PROMPT, True), Chunk(1, 0, PROMPT[:2], False), Chunk(2, 0, PROMPT, True)])
    assert set(result.sampled) == {0, 2}
    assert result.sampled[0].token == result.sampled[2].token
    assert result.micros >= 0


def test_sequences_side_by_side_keep_to_themselves(engine: Compute) -> None:
    alone = run_alone(engine, 0)
    for sequence, prompt in enumerate([PROMPT, PROMPT[::-1], PROMPT[:3]]):
        engine.bind(sequence, GREEDY, prompt, [])
        engine.run([Chunk(sequence, 0, prompt, True)])
    engine.clear(1)
    engine.clear(2)
    engine.clear(0)
    assert engine.is_empty()
    assert run_alone(engine, 0) == alone


def test_the_logits_that_a_token_is_chosen_from_can_be_read(engine: Compute) -> None:
    seen: list[tuple[int, list[float]]] = []
    engine.on_logits = lambda sequence, logits: seen.append((sequence, logits.tolist()))
    for sequence, prompt in enumerate([PROMPT, PROMPT[:2], PROMPT, PROMPT[::-1]]):
        engine.bind(sequence, GREEDY, prompt, [])
    chunks = [Chunk(0, 0, PROMPT, True), Chunk(1, 0, PROMPT[:2], False), Chunk(2, 0, PROMPT, True)]
    sampled = engine.run([*chunks, Chunk(3, 0, PROMPT[::-1], True)]).sampled
    assert [sequence for sequence, _ in seen] == [0, 2, 3]
    for sequence, row in seen:
        assert len(row) == engine.info.vocabulary and row.index(max(row)) == sampled[sequence].token
    assert seen[0][1] == pytest.approx(seen[1][1], abs=LOGITS_NOISE) != seen[2][1]
    engine.on_logits = None
    engine.run([Chunk(0, len(PROMPT), [5], True)])
    assert len(seen) == 3


def test_a_cleared_sequence_holds_nothing_and_can_be_bound_again(engine: Compute) -> None:
    first = run_alone(engine, 2)
    assert engine.is_empty()
    assert run_alone(engine, 2) == first


def test_a_moved_sequence_goes_on_as_if_it_had_stayed(engine: Compute) -> None:
    whole = run_alone(engine, 0, n=6)
    engine.bind(3, GREEDY, PROMPT, [])
    assert generate(engine, 3, PROMPT, 1) == whole[:1]
    engine.move(3, 0)
    position, out = len(PROMPT), whole[:1]
    while len(out) < 6:
        out.append(engine.run([Chunk(0, position, out[-1:], True)]).sampled[0].token)
        position += 1
    assert out == whole
    engine.clear(0)
    assert engine.is_empty()


def test_a_sequence_that_is_bound_and_still_empty_can_be_moved(engine: Compute) -> None:
    engine.bind(1, GREEDY, PROMPT, [])
    engine.move(1, 2)
    assert generate(engine, 2, PROMPT, 2)
    engine.clear(2)
    assert engine.is_empty()


WILD = {"temperature": 1.2, "top_k": 0, "top_p": 1, "min_p": 0, "seed": 42, "ignore_eos": True}
COUNTED = 'root ::= "a" [b-y] [c-x] [d-w] [e-v] [f-u] [g-t] [h-s] [i-r] "j" "z"'
RESUMED = {
    "greedy": {"temperature": 0, "ignore_eos": True},
    "sampled": WILD,
    "penalised": {**WILD, "repeat_penalty": 1.1},
    "greedy with a grammar": {"temperature": 0, "grammar": compiled(COUNTED)},
    "sampled with a grammar": {**WILD, "grammar": compiled(COUNTED)},
    "penalised with a grammar": {**WILD, "repeat_penalty": 1.1, "grammar": compiled(COUNTED)},
    "with a grammar that allows anything": {**WILD, "grammar": compiled("root ::= .*")},
}


@pytest.mark.parametrize("settings", RESUMED.values(), ids=RESUMED)
def test_a_resumed_sequence_draws_the_tokens_an_undisturbed_one_would(
    engine: Compute, settings: dict[str, Any]
) -> None:
    sampling = Sampling(**settings)
    with seen_logits(engine) as rows:
        whole = run_alone(engine, 0, n=10, sampling=sampling)
    for done in (1, 4, 9):
        engine.bind(0, sampling, PROMPT, whole[:done])
        with given_logits(engine, rows[done:]):
            assert generate(engine, 0, PROMPT + whole[:done], 10 - done) == whole[done:]
        engine.clear(0)


def test_logprobs_are_given_when_asked_for(engine: Compute) -> None:
    engine.bind(0, Sampling(temperature=0, ignore_eos=True, logprobs=1), PROMPT, [])
    sampled = engine.run([Chunk(0, 0, PROMPT, True)]).sampled[0]
    assert sampled.logprobs is not None and sampled.logprobs.logprob < 0
    assert sampled.logprobs.top[0] == (sampled.token, pytest.approx(sampled.logprobs.logprob))


def test_a_grammar_that_cannot_be_used_rejects_the_request_alone(engine: Compute) -> None:
    with pytest.raises(RequestRejected, match="grammar") as rejected:
        engine.bind(0, Sampling(grammar=BROKEN_GRAMMAR), PROMPT, [])
    assert rejected.value.param == "grammar"
    engine.clear(0)
    assert engine.is_empty()
    assert run_alone(engine, 0)


def test_a_position_that_does_not_follow_breaks_the_engine(engine: Compute) -> None:
    engine.bind(0, GREEDY, PROMPT, [])
    engine.run([Chunk(0, 0, PROMPT, True)])
    with pytest.raises(EngineBroken):
        engine.run([Chunk(0, len(PROMPT) + 3, [1], True)])


def test_a_sequence_computes_for_its_own_request_only(engine: Compute) -> None:
    engine.bind(0, GREEDY, PROMPT, [], request=7)
    engine.bind(1, GREEDY, PROMPT, [], request=8)
    engine.run([Chunk(0, 0, PROMPT, True, 7), Chunk(1, 0, PROMPT, True, 8)])
    with pytest.raises(EngineBroken, match="belongs to request 8, not 7"):
        engine.run([Chunk(1, len(PROMPT), [1], True, 7)])
    engine.move(1, 3)
    for sequence, request in ((1, 8), (3, 7), (2, 8)):
        with pytest.raises(EngineBroken):
            engine.run([Chunk(sequence, len(PROMPT), [1], True, request)])
    assert engine.run([Chunk(3, len(PROMPT), [1], True, 8)]).sampled.keys() == {3}


def test_nothing_is_computed_of_a_pass_with_one_chunk_of_another_request(engine: Compute) -> None:
    engine.bind(0, GREEDY, PROMPT, [], request=7)
    engine.bind(1, GREEDY, PROMPT, [], request=8)
    with pytest.raises(EngineBroken):
        engine.run([Chunk(0, 0, PROMPT, True, 7), Chunk(1, 0, PROMPT, True, 9)])
    assert engine.run([Chunk(1, 0, PROMPT, True, 8)]).sampled.keys() == {1}


def test_a_sequence_in_use_takes_nobody_else(engine: Compute) -> None:
    engine.bind(0, GREEDY, PROMPT, [], request=7)
    engine.bind(1, GREEDY, PROMPT, [], request=8)
    engine.run([Chunk(0, 0, PROMPT, True, 7), Chunk(1, 0, PROMPT, True, 8)])
    swapped = engine.swap_out(1, 1 << 30)
    for take in (
        lambda: engine.bind(0, GREEDY, PROMPT, [], request=9),
        lambda: engine.swap_in(0, swapped, 8),
        lambda: engine.move(2, 0),
    ):
        with pytest.raises(EngineBroken):
            take()


def test_a_state_goes_back_to_its_own_request_only(engine: Compute) -> None:
    engine.bind(0, GREEDY, PROMPT, [], request=7)
    engine.run([Chunk(0, 0, PROMPT, True, 7)])
    swapped = engine.swap_out(0, 1 << 30)
    assert swapped.request == 7
    with pytest.raises(EngineBroken, match="state of request 7 was to be restored for request 8"):
        engine.swap_in(0, swapped, 8)
    assert engine.is_empty()
    assert engine.swap_in(1, swapped, 7)
    assert engine.run([Chunk(1, len(PROMPT), [1], True, 7)]).sampled.keys() == {1}


@pytest.mark.parametrize("room_bytes", [1 << 30, 0], ids=["kept", "computed-again"])
def test_a_request_that_gave_its_sequence_away_goes_on_where_it_stood(engine: Compute, room_bytes: int) -> None:
    sampling = Sampling(temperature=1.2, top_k=0, top_p=1, min_p=0, seed=7, ignore_eos=True)
    whole = run_alone(engine, 0, n=10, sampling=sampling)
    engine.bind(1, sampling, PROMPT, [])
    assert generate(engine, 1, PROMPT, 5) == whole[:5]
    swapped = engine.swap_out(1, room_bytes)
    assert engine.is_empty()
    assert (swapped.size_bytes > 0) == (room_bytes > 0)
    run_alone(engine, 1)  # somebody else has the sequence for a while
    is_whole = engine.swap_in(2, swapped)
    assert is_whole == (room_bytes > 0)
    tokens = PROMPT + whole[:5]
    done = len(tokens) - 1 if is_whole else 0
    out = [engine.run([Chunk(2, done, tokens[done:], True)]).sampled[2].token]
    for position in range(len(tokens), len(tokens) + 4):
        out.append(engine.run([Chunk(2, position, out[-1:], True)]).sampled[2].token)
    assert out == whole[5:]
    engine.clear(2)
    assert engine.is_empty()


def test_a_request_swapped_out_before_its_first_token_needs_no_state(engine: Compute) -> None:
    engine.bind(0, GREEDY, PROMPT, [])
    swapped = engine.swap_out(0, 0)
    assert engine.is_empty()
    assert engine.swap_in(3, swapped)
    assert generate(engine, 3, PROMPT, 2)
    swapped = engine.swap_out(3, 1 << 30)
    swapped.free()
    assert engine.is_empty()


# ---- adapters -------------------------------------------------------------------------------------------------------


def run_with(engine: Compute, sequence: int, adapter: str, n: int = 8) -> list[int]:
    engine.bind(sequence, GREEDY, PROMPT, [], adapter)
    out = generate(engine, sequence, PROMPT, n)
    engine.clear(sequence)
    return out


def test_an_adapter_changes_what_its_own_requests_get_and_nothing_else(engine: Compute, adapter: str) -> None:
    plain, adapted = run_alone(engine, 0), run_with(engine, 0, adapter)
    assert plain != adapted
    engine.bind(1, GREEDY, PROMPT, [])
    engine.bind(2, GREEDY, PROMPT, [], adapter)
    tokens: dict[int, list[int]] = {1: [], 2: []}
    pending = {1: PROMPT, 2: PROMPT}
    for _ in range(8):  # in turns, each pass with its own
        for sequence, out in tokens.items():
            position = len(PROMPT) + len(out) - 1 if out else 0
            sampled = engine.run([Chunk(sequence, position, pending[sequence], True)]).sampled[sequence]
            out.append(sampled.token)
            pending[sequence] = [sampled.token]
    assert tokens == {1: plain, 2: adapted}


def test_an_adapter_goes_along_when_its_request_is_moved_or_gives_way(engine: Compute, adapter: str) -> None:
    whole = run_with(engine, 0, adapter)
    engine.bind(0, GREEDY, PROMPT, [], adapter)
    out = generate(engine, 0, PROMPT, 3)
    engine.move(0, 2)
    out.append(engine.run([Chunk(2, len(PROMPT) + 2, out[-1:], True)]).sampled[2].token)
    swapped = engine.swap_out(2, 1 << 30)
    assert run_alone(engine, 2) != whole  # somebody without one in between
    assert engine.swap_in(1, swapped)
    for _ in range(4):
        chunk = Chunk(1, len(PROMPT) + len(out) - 1, out[-1:], True)
        out.append(engine.run([chunk]).sampled[1].token)
    assert out == whole
