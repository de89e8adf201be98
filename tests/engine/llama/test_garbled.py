"""A request for which the model returns no numbers ends, and leaves none of them to whoever gets its place."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from tenantd.engine.compute import Chunk, Sampled
from tenantd.engine.llama import LlamaCompute
from tenantd.wire.messages import LoadEmbeddings
from tests.contract.kit import generate
from tests.engine.llama.kit import GREEDY, LAYOUTS, Engines
from tests.engine.world import World
from tests.isolation.interleaving import SteadyLlama
from tests.support.device import GPU_LAYERS
from tests.support.loads import make_load
from tests.support.tiny_gguf import Architecture, write_tiny_gguf

BAD = 5
"""A token after which everything is NaN."""
LONG = [7 + n % 90 for n in range(60)]
SHORT = LONG[3:15]
ARCHITECTURES = [each for each in get_args(Architecture) if each != "gemma2"]  # there, the token's own logit is NaN too


@pytest.fixture(scope="module")
def bad_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("model")
    return {
        name: write_tiny_gguf(folder / f"{name}.gguf", architecture=name, is_packed=False, garbling_token=BAD)
        for name in ARCHITECTURES
    }


def garbled(engine: LlamaCompute, sequence: int, request: int) -> Sampled:
    """The end of a request that ends in NaN. It stays on its sequence.

    Where a device adds up in 16 bits, llama.cpp limits the sums of a product of matrices to what 16 bits hold, and NaN
    becomes a number. The product with a single column, of a pass of one token, is as on a CPU.
    """
    text = [*LONG[:20], BAD, *LONG[20:]]
    engine.bind(sequence, GREEDY, text, [], request=request)
    if GPU_LAYERS:
        text = text[:22]
        engine.run([Chunk(sequence, 0, text[:20], False, request)])
        engine.run([Chunk(sequence, 20, [BAD], False, request)])
    done = 21 if GPU_LAYERS else 0
    return engine.run([Chunk(sequence, done, text[done:], True, request)]).sampled[sequence]


def garble(engine: LlamaCompute, sequence: int) -> None:
    """Run a request that ends in NaN, and take it off its sequence."""
    sampled = garbled(engine, sequence, 8)
    assert sampled.is_garbled and "invalid probabilities" in sampled.failed and not sampled.is_end
    engine.clear(sequence)


@pytest.mark.parametrize("flash_attention", ["on", "off"])
@pytest.mark.parametrize("kv", LAYOUTS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_whoever_comes_next_gets_what_it_gets_on_a_new_engine(
    make: Engines, bad_models: dict[str, Path], architecture: str, kv: str, flash_attention: str
) -> None:
    settings = {"model_path": str(bad_models[architecture]), "kv": kv, "flash_attention": flash_attention}
    answers = []
    for is_garbled in (False, True):
        engine = make(**settings)
        engine.bind(0, GREEDY, LONG, [], request=1)
        said = generate(engine, 0, LONG, 3, request=1)
        if is_garbled:
            garble(engine, 1)
        engine.bind(1, GREEDY, SHORT, [], request=2)
        answers.append(generate(engine, 1, SHORT, 6, request=2))
        answers[-1] += generate(engine, 0, [*LONG, *said], 6, done=len(LONG) + 2, request=1)
    assert answers[0] == answers[1]


@pytest.mark.parametrize("end", ["cancelled", "one token"])
@pytest.mark.parametrize("kv", LAYOUTS)
@pytest.mark.parametrize("flash_attention", ["on", "off"])
def test_what_a_request_leaves_that_was_not_seen_to_be_garbled_garbles_nobody(
    bad_models: dict[str, Path], kv: str, flash_attention: str, end: str
) -> None:
    """It has shown no NaN when it is cancelled, or on a device after its prompt, so its cells are only freed."""
    answers = []
    for is_garbled in (False, True):
        load = make_load(
            backend="llama",
            model_path=str(bad_models["llama"]),
            slots=1,
            kv=kv,
            flash_attention=flash_attention,
            swap_bytes=0,
        )
        w = World(load, chunk=16, engine=SteadyLlama)
        if is_garbled:
            w.submit(0, "a", [*LONG[:7], BAD, *LONG], 1)
            w.step()
            w.step()
            assert not w.tokens[0]
            if end == "cancelled":
                w.cancel(0)
            w.run()
        w.submit(1, "b", SHORT, 6, temperature=0)
        w.run()
        answers.append((w.finishes[1], w.tokens[1]))
        w.compute.close()
    assert answers[0] == answers[1]


@pytest.mark.parametrize("scrub", [True, False])
def test_several_at_once_leave_nothing_either(make: Engines, bad_models: dict[str, Path], scrub: bool) -> None:
    engine = make(model_path=str(bad_models["llama"]), scrub=scrub, flash_attention="off")
    assert all(garbled(engine, sequence, sequence).is_garbled for sequence in (0, 1))
    for sequence in (0, 1):
        engine.clear(sequence)
    assert engine.is_empty()
    for sequence in (0, 1):
        engine.bind(sequence, GREEDY, SHORT, [], request=3 + sequence)
        assert generate(engine, sequence, SHORT, 6, request=3 + sequence)


def test_a_text_whose_vector_is_none_ends_as_garbled_and_the_next_is_embedded(
    make: Engines, bad_models: dict[str, Path]
) -> None:
    embeddings = LoadEmbeddings(model_path="", pooling="mean", input_tokens=64)
    engine = make(model_path=str(bad_models["llama"]), embeddings=embeddings, flash_attention="off")
    engine.bind(0, GREEDY, [], [], request=1)
    engine.bind(1, GREEDY, [], [], request=2)
    bad = Chunk(0, 0, [*SHORT, BAD, *SHORT], False, 1, (2 * len(SHORT) + 1,))
    result = engine.run([bad])
    assert result.sampled[0].is_garbled and not result.vectors
    result = engine.run([Chunk(1, 0, SHORT, False, 2, (len(SHORT),))])
    assert not result.sampled and len(result.vectors[1])
