"""What llama.cpp must do for us and the contract suite cannot ask of every engine: isolation to the last bit, running
out of room, memory checked before it is taken, limits of the model, and adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from tenantd.engine.compute import Chunk, RequestRejected
from tenantd.engine.llama import LlamaCompute
from tenantd.engine.llama.cells import SHORT_PART
from tenantd.errors import ModelError, NotEnoughMemory
from tests.engine.llama.kit import CAREFUL, GREEDY, LAYOUTS, Engines, logits, prompt
from tests.support.device import GPU_LAYERS, set_memory
from tests.support.loads import make_load
from tests.support.models import gemma_path
from tests.support.tiny_gguf import write_tiny_gguf, write_tiny_lora

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


@pytest.mark.parametrize("length", [10, 100], ids=["short, as a state", "long, as a copy of its stream"])
def test_a_sequence_moved_between_streams_gets_the_same_logits_to_the_last_bit(make: Engines, length: int) -> None:
    engine = make(batch_tokens=128)
    assert (length * SHORT_PART <= engine.info.context_tokens) == (length == 10)
    tokens = prompt(length, seed=0)
    rows = []
    for target in (1, 2):
        engine.bind(1, GREEDY, tokens, [])
        first = engine.run([Chunk(1, 0, tokens, True)]).sampled[1]
        if target != 1:
            engine.move(1, target)
        engine.run([Chunk(target, length, [first.token], True)])
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
    set_memory(monkeypatch, 1 << 20)
    load = make_load(backend="llama", model_path=str(gemma_path()), slots=8, context_tokens=2048)
    with pytest.raises(NotEnoughMemory, match=r"235 weights.*8 slots of 2048 tokens.*lower engine\.slots") as refused:
        LlamaCompute(load, progress.append)
    assert "1 MiB are free" in refused.value.message
    set_memory(monkeypatch, 1 << 20, 1 << 21)
    with pytest.raises(ModelError) as hopeless:
        LlamaCompute(load, progress.append)
    assert not isinstance(hopeless.value, NotEnoughMemory), "it will not fit later either"
    assert progress == [0.0, 0.0], "nothing was loaded"


def test_the_sizes_that_are_checked_are_the_sizes_that_are_taken(
    make: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what it says it needs it loads, with a MiB less it does not."""
    set_memory(monkeypatch, 0)
    with pytest.raises(ModelError) as refused:
        make(slots=4, context_tokens=1024)
    needed = float(refused.value.message.split(" needs ")[1].split(" MiB")[0].replace(",", ""))
    set_memory(monkeypatch, int((needed + 1) * (1 << 20)))
    engine = make(slots=4, context_tokens=1024)
    assert engine.info.kv_bytes == 4 * 1024 * 2 * 2 * 32 * 2  # cells, layers, K and V, kv width, bytes of f16
    set_memory(monkeypatch, int((needed - 1) * (1 << 20)))
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
        assert (info.kv, info.slots, info.context_tokens) == (kv, 3, 128)
        assert info.gpu_build == llama_cpp.llama_supports_gpu_offload()
        assert (info.layers, info.layers_offloaded) == (3, 3 if GPU_LAYERS else 0)


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
