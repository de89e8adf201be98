"""Sampling on llama.cpp: grammars, penalties, rows that hold no numbers."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from llguidance import LLMatcher

from tenantd.domain import Sampling
from tenantd.engine.compute import Chunk
from tenantd.engine.llama.sampling import Sampler, Vocabulary
from tests.engine.llama.kit import GREEDY, Engines, logits, prompt
from tests.support.grammars import compiled


@pytest.fixture(scope="module")
def vocabulary(tiny_model: Path) -> Iterator[Vocabulary]:
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(bytes(tiny_model), params)
    yield Vocabulary(model, 5_000)
    llama_cpp.llama_model_free(model)


def rising(vocabulary: Vocabulary, best: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Logits in which `best` is first and the others follow by id."""
    row = np.arange(vocabulary.size, dtype=np.float32) / vocabulary.size
    row[best] = 5.0
    return row


def byte_token(character: str) -> int:
    return 3 + ord(character)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_grammar_decides_over_any_logits(make: Engines, temperature: float) -> None:
    engine = make()
    sampling = Sampling(temperature=temperature, seed=1, grammar=compiled('root ::= "ab" [0-9]'))
    engine.bind(0, sampling, [5, 6, 7], [])
    pending, position, text = [5, 6, 7], 0, ""
    while True:
        sampled = engine.run([Chunk(0, position, pending, True)]).sampled[0]
        assert not sampled.failed
        if sampled.is_end:
            break
        position, pending = position + len(pending), [sampled.token]
        buffer = ctypes.create_string_buffer(16)
        handle = llama_cpp.llama_model_get_vocab(engine._model)
        size = llama_cpp.llama_token_to_piece(handle, sampled.token, buffer, 16, 0, False)
        text += buffer.raw[:size].decode()
    assert text[:2] == "ab" and text[2:].isdigit() and len(text) == 3


def test_where_a_grammar_leaves_nothing_but_the_end_the_answer_ends(vocabulary: Vocabulary) -> None:
    sampler = Sampler(vocabulary, Sampling(temperature=0, grammar=compiled('root ::= "a"')), [], [])
    row = rising(vocabulary, byte_token("a"))
    assert sampler.sample(None, 0, row).token == byte_token("a")
    assert sampler.sample(None, 0, row).is_end, "nothing but the end is left"
    sampler.free()


def test_a_grammar_that_nothing_can_follow_fails_the_request_alone(vocabulary: Vocabulary) -> None:
    """Its second part is a character that is none."""
    grammar = LLMatcher.grammar_from_lark("start: a b\na: /[a-z]/\nb: /[^\\x{0}-\\x{10FFFF}]/\n")
    sampler = Sampler(vocabulary, Sampling(temperature=0, grammar=grammar), [], [])
    row = rising(vocabulary, byte_token("a"))
    assert sampler.sample(None, 0, row).token == byte_token("a")
    failed = sampler.sample(None, 0, row)
    assert "grammar" in failed.failed and failed.param == "grammar" and not failed.is_end
    sampler.free()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_grammar_beyond_its_budget_of_time_fails_the_request_alone(
    vocabulary: Vocabulary, temperature: float
) -> None:
    vocabulary.grammar_budget_ms = 20
    sampler = Sampler(vocabulary, Sampling(temperature=temperature, grammar=compiled("root ::= [a-z]*")), [], [])
    row = rising(vocabulary, vocabulary.size - 1)  # never allowed, so there is a mask for each token
    sampled = sampler.sample(None, 0, row)
    assert not sampled.failed and sampled.grammar_micros > 0
    for _ in range(100_000):
        if sampled.failed:
            break
        sampled = sampler.sample(None, 0, row)
    assert "20 ms" in sampled.failed and sampled.param == "grammar"
    sampler.free()


@pytest.mark.parametrize("grammar", ["", compiled("root ::= [a-z]*")], ids=["free", "grammar"])
def test_ignore_eos_takes_the_next_best_and_leaves_the_probabilities_alone(
    vocabulary: Vocabulary, grammar: str
) -> None:
    (end, *_) = vocabulary.end_tokens
    row = rising(vocabulary, end)
    row[byte_token("q")] = 4.0
    before = row.copy()
    obedient = Sampler(vocabulary, Sampling(temperature=0, grammar=grammar), [], [])
    assert obedient.sample(None, 0, row).is_end
    sampling = Sampling(temperature=0, ignore_eos=True, logprobs=2, grammar=grammar)
    sampler = Sampler(vocabulary, sampling, [], [])
    sampled = sampler.sample(None, 0, row)
    assert (sampled.token, sampled.is_end) == (byte_token("q"), False)
    assert np.array_equal(row, before)
    assert sampled.logprobs is not None
    assert [token for token, _ in sampled.logprobs.top] == [end, byte_token("q")]
    obedient.free()
    sampler.free()


def test_penalties_look_back_over_prompt_and_answer_as_far_as_asked(make: Engines) -> None:
    tokens = prompt(12, 0)

    def first(history: list[int], **settings: Any) -> int:
        engine = make()
        engine.bind(0, Sampling(temperature=0, ignore_eos=True, **settings), history, [])
        return engine.run([Chunk(0, 0, tokens, True)]).sampled[0].token

    best = first(tokens)
    assert first([*tokens, best], presence_penalty=2.0, repeat_penalty=10.0) != best
    assert first([best, *tokens], presence_penalty=2.0, repeat_penalty=10.0, repeat_last_n=len(tokens)) == best
    assert first([*tokens, best], presence_penalty=2.0, repeat_penalty=10.0, repeat_last_n=0) == best


def test_resumed_penalties_count_what_was_generated(make: Engines) -> None:
    sampling = Sampling(temperature=0, ignore_eos=True, frequency_penalty=2.0, repeat_penalty=1.5)
    tokens = prompt(12, 0)

    def go_on(generated: list[int], n: int) -> list[int]:
        engine = make()
        engine.bind(0, sampling, tokens, generated)
        said, pending, position = list(generated), tokens + generated, 0
        while len(said) < n:
            sampled = engine.run([Chunk(0, position, pending, True)]).sampled[0]
            position, pending = position + len(pending), [sampled.token]
            said.append(sampled.token)
        return said

    whole = go_on([], 10)
    assert go_on(whole[:5], 10) == whole


@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        Sampling(temperature=1.0, seed=1),
        Sampling(temperature=1.0, seed=1, top_k=0, top_p=1.0, min_p=0.0),
        Sampling(temperature=1.0, seed=1, typical_p=0.5),
        Sampling(temperature=0, repeat_penalty=1.3),
        Sampling(temperature=0, grammar=compiled("root ::= [a-z]+")),
        Sampling(temperature=1.0, seed=1, grammar=compiled("root ::= [a-z]+")),
    ],
    ids=["greedy", "sampled", "untruncated", "typical", "penalised", "grammar", "sampled grammar"],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", [slice(None), slice(2, 3)], ids=["all", "the end of texts"])
def test_a_row_without_numbers_fails_its_request_and_no_other(
    make: Engines, monkeypatch: pytest.MonkeyPatch, sampling: Sampling, value: float, where: slice
) -> None:
    """Weights or a driver gone bad: written where llama.cpp itself would have put them."""
    engine = make()
    for sequence in (0, 1):
        engine.bind(sequence, sampling if sequence else GREEDY, [5, 6, 7], [])
    decode = llama_cpp.llama_decode

    def poisoned(context: Any, batch: Any) -> int:
        code = int(decode(context, batch))
        logits(engine, 5)[where] = value
        return code

    monkeypatch.setattr(llama_cpp, "llama_decode", poisoned)
    sampled = engine.run([Chunk(0, 0, [5, 6, 7], True), Chunk(1, 0, [5, 6, 7], True)]).sampled
    assert "invalid probabilities" in sampled[1].failed and sampled[1].is_garbled
    assert not sampled[0].failed
