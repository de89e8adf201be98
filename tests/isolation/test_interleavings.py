"""Whatever tenants do beside each other, each request is answered as if it were alone: no foreign byte.

`make test` runs a fixed sample; `make night` 1,000 interleavings from a new seed.
"""

from __future__ import annotations

import os
import random
import secrets
from collections import Counter
from collections.abc import Iterator

import pytest

from tenantd.domain import FinishReason, Sampling
from tenantd.wire.messages import Submit
from tests.isolation.alone import NOISE, Alone
from tests.isolation.broken_engines import BROKEN
from tests.isolation.interleaving import CONTEXT_TOKENS, Files, SteadyLlama, Tenants, interleaving
from tests.support.tiny_gguf import write_tiny_gguf, write_tiny_lora

SAMPLE = 10
COUNT = int(os.environ.get("TENANTD_INTERLEAVINGS", SAMPLE))
SEED = int(os.environ.get("TENANTD_SEED") or (secrets.randbits(32) if "TENANTD_INTERLEAVINGS" in os.environ else 1))
NEEDED = {
    "swaps": 1,
    "recomputes": 1,
    "moves": 1,
    "cached": 2,
    "copies": 0.5,
    "restored": 0.2,
    "crashes": 0.5,
    "cancelled": 1,
    "shared passes": 20,
    "answers": 5,
}
"""How often each must happen in an interleaving, on average."""
REPLAY = "TENANTD_SEED={} TENANTD_INTERLEAVINGS=1 python -m pytest tests/isolation/test_interleavings.py"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("model")
    model = write_tiny_gguf(folder / "tiny.gguf", is_packed=False)
    one, other = (write_tiny_lora(folder / f"{seed}.gguf", seed=seed, strength=0.25) for seed in (1, 2))
    return Files(model, (one, other))


@pytest.fixture(scope="module")
def alone(files: Files) -> Iterator[dict[str, Alone]]:
    """By the setting of flash attention."""
    engines = {setting: Alone(files.model, CONTEXT_TOKENS, setting) for setting in NOISE}
    yield engines
    for engine in engines.values():
        engine.close()


def foreign(w: Tenants, alone: dict[str, Alone]) -> str:
    """What of another request is in an answer; "" if each is its request's own."""
    for submit, sampling in w.answers():
        tokens, logprobs = w.tokens[submit.request], w.logprobs[submit.request]
        if found := alone[w.load.flash_attention].foreign(submit, sampling, tokens, logprobs):
            return f"request {submit.request} of {submit.tenant}: {found}"
    return ""


def test_no_answer_has_anything_of_another_request(files: Files, alone: dict[str, Alone]) -> None:
    done: Counter[str] = Counter()
    for seed in range(SEED, SEED + COUNT):
        try:
            w = interleaving(seed, files)
            assert not (found := foreign(w, alone)), found
            assert set(w.finishes) == set(w.submits)
            assert set(w.finishes.values()) <= {FinishReason.LENGTH, FinishReason.STOP, FinishReason.CANCELLED}
        except BaseException as e:
            e.add_note(f"replay: {REPLAY.format(seed)}")
            raise
        done += w.done
        done["answers"] += len(w.answers())
    widest = {setting: round(engine.widest, 4) for setting, engine in alone.items()}
    print(f"\n{COUNT} interleavings from seed {SEED}: {dict(done)}; logprobs up to {widest} apart")
    assert all(engine.widest < engine.noise / 2 for engine in alone.values()), "noise is told from what is foreign"
    if COUNT >= SAMPLE:
        too_few = {name: done[name] for name, n in NEEDED.items() if done[name] < n * COUNT}
        assert not too_few, "too little happened to say anything"


@pytest.mark.parametrize("engine", BROKEN, ids=lambda engine: engine.__name__)
def test_an_engine_that_lets_something_through_is_caught(
    engine: type[SteadyLlama], files: Files, alone: dict[str, Alone]
) -> None:
    for seed in range(1, 1 + SAMPLE):
        if found := foreign(interleaving(seed, files, engine), alone):
            print(f"\nseed {seed}: {found}")
            return
    pytest.fail("nobody noticed")


@pytest.mark.parametrize("tokens", [10, 50, 130])
@pytest.mark.parametrize("setting", NOISE)
def test_one_foreign_token_anywhere_in_a_context_shows_in_the_answer(
    tokens: int, setting: str, alone: dict[str, Alone]
) -> None:
    draw = random.Random(tokens)
    greedy = Sampling(temperature=0, ignore_eos=True, logprobs=3)
    for _ in range(8):
        prompt = [draw.randrange(3, 500) for _ in range(tokens)]
        other = list(prompt)
        other[draw.randrange(tokens)] = draw.randrange(500, 520)
        asked, leaked = (Submit(request=1, tenant="a", prompt=p, max_tokens=8, sampling=1) for p in (prompt, other))
        said = alone[setting].answer(leaked, greedy)
        assert alone[setting].foreign(asked, greedy, [one.token for one in said], [one.logprobs for one in said])
