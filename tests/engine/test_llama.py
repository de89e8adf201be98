"""What llama.cpp must do for us and the contract suite cannot ask of every engine: isolation to the last bit, running
out of room, memory checked before it is taken, limits of the model, and broken numbers."""

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
from tenantd.engine.compute import Chunk, RequestRejected
from tenantd.engine.llama import LlamaCompute
from tenantd.engine.llama.sampling import Sampler, Vocabulary
from tenantd.errors import ModelError, NotEnoughMemory
from tenantd.llamacpp import devices
from tests.support.grammars import compiled
from tests.support.loads import make_load
from tests.support.models import gemma_path
from tests.support.tiny_gguf import write_tiny_gguf, write_tiny_lora

GREEDY = Sampling(temperature=0, ignore_eos=True)
CAREFUL = Sampling(temperature=0, ignore_eos=True, logprobs=5)
LAYOUTS = ["streams", "unified"]


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf", context_length=1024)


class Engines:
    """Makes engines and closes them."""

    def __init__(self, default: Path) -> None:
        self._default = default
        self._made: list[LlamaCompute] = []

    def __call__(self, **changes: Any) -> LlamaCompute:
        load = make_load(**{"backend": "llama", "model_path": str(self._default), **changes})
        self._made.append(LlamaCompute(load, lambda _: None))
        return self._made[-1]

    def close(self) -> None:
        for engine in self._made:
            engine.close()


@pytest.fixture
def make(tiny_model: Path) -> Iterator[Engines]:
    engines = Engines(tiny_model)
    yield engines
    engines.close()


def prompt(n: int, seed: int) -> list[int]:
    """Tokens that both models have."""
    return [int(token) for token in np.random.default_rng(seed).integers(3, 500, n)]


# ---- isolation ---------------------------------------------------------------------------------------------------


def run_beside(engine: LlamaCompute, others: list[list[int]], steps: int) -> tuple[list[Any], list[bytes]]:
    """Sequence 0 says the same beside `others`: its tokens and logprobs, and its whole rows of logits."""
    rows: list[bytes] = []
    texts = [prompt(24, seed=0), *others]
    for sequence, tokens in enumerate(texts):
        engine.bind(sequence, CAREFUL, tokens, [])
    chunks = [Chunk(sequence, 0, tokens, True) for sequence, tokens in enumerate(texts)]
    sampled: list[Any] = []
    for _ in range(steps):
        result = engine.run(chunks)
        sampled.append(result.sampled[0])
        rows.append(logits(engine, len(chunks[0].tokens) - 1).tobytes())
        chunks = [
            Chunk(chunk.sequence, chunk.position + len(chunk.tokens), [result.sampled[chunk.sequence].token], True)
            for chunk in chunks
        ]
    for sequence in range(len(texts)):
        engine.clear(sequence)
    assert engine.is_empty()
    return sampled, rows


def logits(engine: LlamaCompute, index: int) -> np.ndarray[Any, Any]:
    pointer = llama_cpp.llama_get_logits_ith(engine._context, index)
    return np.ctypeslib.as_array(pointer, (engine.info.vocabulary,))


@pytest.mark.parametrize("kv", LAYOUTS)
@pytest.mark.parametrize("model", ["tiny", "gemma"])
def test_a_sequence_gets_the_same_logits_to_the_last_bit_whatever_its_neighbours_hold(
    make: Engines, kv: str, model: str
) -> None:
    changes = {"model_path": str(gemma_path())} if model == "gemma" else {}
    engine = make(kv=kv, slots=3, batch_tokens=128, **changes)
    first = run_beside(engine, [prompt(24, seed=1), prompt(24, seed=2)], steps=6)
    for seed in (3, 5):
        assert run_beside(engine, [prompt(24, seed), prompt(24, seed + 1)], steps=6) == first
    assert len(set(first[1])) == 6, "each step has its own logits"


def test_a_sequence_moved_between_streams_gets_the_same_logits_to_the_last_bit(make: Engines) -> None:
    engine = make()
    tokens = prompt(20, seed=0)
    rows = []
    for target in (1, 2):
        engine.bind(1, GREEDY, tokens, [])
        first = engine.run([Chunk(1, 0, tokens, True)]).sampled[1]
        if target != 1:
            engine.move(1, target)
        engine.run([Chunk(target, 20, [first.token], True)])
        rows.append(logits(engine, 0).tobytes())
        engine.clear(target)
    assert rows[0] == rows[1]


# ---- no room -----------------------------------------------------------------------------------------------------


def test_a_pass_without_room_is_answered_in_halves_and_only_what_does_not_fit_fails(make: Engines) -> None:
    """One pool for four sequences of 64 tokens; one of them is given most of it, which no scheduler would."""
    engine = make(kv="unified", slots=4, context_tokens=64, batch_tokens=256)
    pool = llama_cpp.llama_n_ctx(engine._context)
    greedy_one, neighbour, too_long = prompt(pool - 40, 0), prompt(10, 1), prompt(60, 2)
    for sequence, tokens in enumerate((greedy_one, neighbour, too_long)):
        engine.bind(sequence, GREEDY, tokens, [])
    first = engine.run([Chunk(0, 0, greedy_one, True), Chunk(1, 0, neighbour, True)]).sampled
    assert not first[0].failed and not first[1].failed

    steps = [Chunk(0, len(greedy_one), [first[0].token], True), Chunk(1, 10, [first[1].token], True)]
    sampled = engine.run([*steps, Chunk(2, 0, too_long, True)]).sampled
    assert not sampled[0].failed and not sampled[1].failed, "its neighbours got their tokens"
    assert "no room" in sampled[2].failed

    engine.clear(2)
    again = engine.run([Chunk(1, 11, [sampled[1].token], True)]).sampled
    assert not again[1].failed, "what the failed one held is free again"
    for sequence in (0, 1):
        engine.clear(sequence)
    assert engine.is_empty()


def test_what_is_decoded_in_halves_is_what_would_have_come_at_once(
    make: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp says "no room" to every pass of more than eight tokens: nothing else differs."""
    tokens = prompt(30, 0)

    def two_sequences() -> list[list[int]]:
        engine = make()
        said = []
        for sequence in range(2):
            engine.bind(sequence, GREEDY, tokens, [])
        chunks = [Chunk(sequence, 0, tokens, True) for sequence in range(2)]
        for _ in range(4):
            sampled = engine.run(chunks).sampled
            assert not any(one.failed for one in sampled.values())
            said.append([sampled[sequence].token for sequence in range(2)])
            chunks = [Chunk(c.sequence, c.position + len(c.tokens), [sampled[c.sequence].token], True) for c in chunks]
        return said

    at_once = two_sequences()
    decode, passes = llama_cpp.llama_decode, []

    def cramped(context: Any, batch: Any) -> int:
        passes.append(int(batch.n_tokens))
        return 1 if batch.n_tokens > 8 else int(decode(context, batch))

    monkeypatch.setattr(llama_cpp, "llama_decode", cramped)
    assert two_sequences() == at_once
    assert passes[:4] == [60, 30, 15, 7]


# ---- before the memory is taken ----------------------------------------------------------------------------------


def test_what_does_not_fit_the_memory_is_refused_before_it_is_taken(
    make: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress: list[float] = []
    monkeypatch.setattr(devices, "host_memory", lambda: (1 << 20, 1 << 50))
    load = make_load(backend="llama", model_path=str(gemma_path()), slots=8, context_tokens=2048)
    with pytest.raises(NotEnoughMemory, match=r"235 weights.*8 slots of 2048 tokens.*lower engine\.slots") as refused:
        LlamaCompute(load, progress.append)
    assert "1 MiB are free" in refused.value.message
    monkeypatch.setattr(devices, "host_memory", lambda: (1 << 20, 1 << 21))
    with pytest.raises(ModelError) as hopeless:
        LlamaCompute(load, progress.append)
    assert not isinstance(hopeless.value, NotEnoughMemory), "it will not fit later either"
    assert progress == [0.0, 0.0], "nothing was loaded"


def test_the_sizes_that_are_checked_are_the_sizes_that_are_taken(
    make: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what it says it needs it loads, with a MiB less it does not."""
    monkeypatch.setattr(devices, "host_memory", lambda: (0, 1 << 50))
    with pytest.raises(ModelError) as refused:
        make(slots=4, context_tokens=1024)
    needed = float(refused.value.message.split(" needs ")[1].split(" MiB")[0].replace(",", ""))
    monkeypatch.setattr(devices, "host_memory", lambda: (int((needed + 1) * (1 << 20)), 1 << 50))
    engine = make(slots=4, context_tokens=1024)
    assert engine.info.kv_bytes == 4 * 1024 * 2 * 2 * 32 * 2  # cells, layers, K and V, kv width, bytes of f16
    monkeypatch.setattr(devices, "host_memory", lambda: (int((needed - 1) * (1 << 20)), 1 << 50))
    with pytest.raises(ModelError):
        make(slots=4, context_tokens=1024)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"context_tokens": 1025},
            "more than the 1024 tokens that this model was trained for; lower it to at most 1024",
        ),
        ({"slots": 257}, "engine.slots = 257: llama.cpp supports at most 256"),
    ],
)
def test_more_than_the_model_or_the_library_can_do_is_refused(
    make: Engines, changes: dict[str, int], says: str
) -> None:
    with pytest.raises(ModelError, match=says):
        make(**changes)


def test_a_context_left_open_is_the_models_own(make: Engines) -> None:
    assert make(context_tokens=0).info.context_tokens == 1024


def test_a_truncated_model_is_refused_with_llama_cpps_reason(make: Engines, tiny_model: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny_model.read_bytes()[:-5000])
    with pytest.raises(ModelError, match=r"cut\.gguf: llama\.cpp cannot load it: .+"):
        make(model_path=str(cut))


def test_slots_and_layout_are_as_asked(make: Engines) -> None:
    for kv in LAYOUTS:
        info = make(kv=kv, slots=3, context_tokens=128).info
        assert (info.kv, info.slots, info.context_tokens, info.gpu_build) == (kv, 3, 128, False)
        assert info.layers == 3 and info.layers_offloaded == 0


# ---- sampling ----------------------------------------------------------------------------------------------------


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


# ---- broken numbers ----------------------------------------------------------------------------------------------


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
def test_a_row_without_numbers_fails_its_request_and_no_other(
    make: Engines, monkeypatch: pytest.MonkeyPatch, sampling: Sampling, value: float
) -> None:
    """Weights or a driver gone bad: written where llama.cpp itself would have put them."""
    engine = make()
    for sequence in (0, 1):
        engine.bind(sequence, sampling if sequence else GREEDY, [5, 6, 7], [])
    decode = llama_cpp.llama_decode

    def poisoned(context: Any, batch: Any) -> int:
        code = int(decode(context, batch))
        logits(engine, 5)[:] = value
        return code

    monkeypatch.setattr(llama_cpp, "llama_decode", poisoned)
    sampled = engine.run([Chunk(0, 0, [5, 6, 7], True), Chunk(1, 0, [5, 6, 7], True)]).sampled
    assert "invalid probabilities" in sampled[1].failed
    assert not sampled[0].failed


# ---- adapters ----------------------------------------------------------------------------------------------------


def first_tokens(engine: LlamaCompute, adapter: str) -> list[float]:
    """Logprobs of what comes after a prompt: any change of the weights shows in them."""
    engine.bind(0, CAREFUL, prompt(24, seed=1), [], adapter)
    sampled = engine.run([Chunk(0, 0, prompt(24, seed=1), True)]).sampled[0]
    engine.clear(0)
    assert sampled.logprobs is not None
    return [logprob for _, logprob in sampled.logprobs.top]


def test_a_file_that_was_replaced_is_another_adapter(make: Engines, tmp_path: Path) -> None:
    engine, path = make(), tmp_path / "lora.gguf"
    none = first_tokens(engine, "")
    write_tiny_lora(path, seed=1)
    first = first_tokens(engine, str(path))
    write_tiny_lora(tmp_path / "new.gguf", seed=2).rename(path)
    second = first_tokens(engine, str(path))
    assert len({tuple(none), tuple(first), tuple(second)}) == 3
    assert first_tokens(engine, "") == none


def test_an_adapter_that_is_none_is_refused_and_the_engine_goes_on(make: Engines, tmp_path: Path) -> None:
    engine = make()
    none = first_tokens(engine, "")
    truncated = write_tiny_lora(tmp_path / "truncated.gguf")
    truncated.write_bytes(truncated.read_bytes()[:500])
    text = tmp_path / "text.gguf"
    text.write_text("hello")
    model = write_tiny_gguf(tmp_path / "model.gguf")
    for path in (tmp_path / "missing", tmp_path, text, truncated, model):
        with pytest.raises(RequestRejected, match="cannot load the tenant's adapter"):
            engine.bind(0, CAREFUL, [5], [], str(path))
        assert engine.is_empty()
    assert first_tokens(engine, "") == none
