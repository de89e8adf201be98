"""Random tenants, requests, cancellations, limits, swaps, moves, caches, adapters and crashes over llama.cpp, with the
real scheduler and loop. A seed always gives the same schedule: a pass takes a set time on a clock of its own.

A crash drops the engine and what its last step said; the next one gets what was live again, as the daemon sends it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tenantd.domain import Sampling
from tenantd.engine.compute import Chunk, Kept, Owner, PassResult
from tenantd.engine.llama import LlamaCompute
from tenantd.wire.messages import Load, Submit
from tenantd.wire.settings import Settings
from tests.engine.world import World
from tests.isolation.alone import NOISE
from tests.support.grammars import compiled
from tests.support.loads import make_load

PASS_MICROS = 1000
CONTEXT_TOKENS = 192
MOST_PROMPT_TOKENS, MOST_OUTPUT_TOKENS = 90, 40
TENANTS = "abcd"
SWAP_BYTES = (0, 0, 20_000, 1 << 20)
"""Of no state, of one or two, of all."""
CACHE_BYTES = (0, 200_000, 1 << 20, 1 << 20)
"""For no prefix, for few, for all."""
LIVELY = {"max_stall_ms": 3, "half_life_s": 1, "burst_credit": 0}
"""Settings with which tenants take turns every few steps."""


class SteadyLlama(LlamaCompute):
    """llama.cpp, but its times do not depend on the machine. Counts what it was made to do."""

    def __init__(self, load: Load, sleep: Callable[[float], None]) -> None:
        super().__init__(load, lambda _: None)
        self._sleep = sleep
        self.done: Counter[str] = Counter()

    def bind(
        self,
        sequence: int,
        sampling: Sampling,
        history: list[int],
        generated: list[int],
        adapter: str = "",
        request: int = 0,
        prefix: int = 0,
    ) -> int:
        super().bind(sequence, sampling, history, generated, adapter, request, prefix)
        return 0

    def run(self, chunks: list[Chunk]) -> PassResult:
        sampled = super().run(chunks).sampled
        self.done["shared passes"] += len(chunks) > 1
        self._sleep(PASS_MICROS / 1e6)
        return PassResult({s: one._replace(grammar_micros=0) for s, one in sampled.items()}, PASS_MICROS)

    def move(self, source: int, target: int) -> None:
        self.done["moves"] += 1
        super().move(source, target)

    def copy(self, source: int, target: int, owner: Owner, prefix: int, tokens: int) -> bool:
        self.done["copies"] += 1
        return super().copy(source, target, owner, prefix, tokens)

    def restore(self, sequence: int, kept: Kept) -> bool:
        self.done["restored"] += 1
        return super().restore(sequence, kept)


@dataclass(frozen=True)
class Files:
    """A model, and two adapters of it."""

    model: Path
    adapters: tuple[Path, Path]


@dataclass(repr=False)
class Tenants(World):
    """Their requests ask for random tokens of their own, so each prompt is a canary from end to end. Some begin alike,
    in whichever tenant."""

    seed: int = 0
    done: Counter[str] = field(default_factory=Counter)  # what happened, over all engines

    def prompt(self, request: int, tokens: int) -> list[int]:
        own = random.Random(f"{self.seed} {request}")
        prompt = [own.randrange(3, 500) for _ in range(tokens)]
        if own.random() < 0.2:
            same = random.Random(self.seed)
            prompt[:-1] = [same.randrange(3, 500) for _ in range(tokens - 1)]
        return prompt

    def beginning(self, tenant: str, draw: random.Random) -> list[int]:
        """What a tenant asked before and was answered, or a part of it; nothing if it has not asked yet."""
        before = [submit for submit in self.submits.values() if submit.tenant == tenant]
        ended = [submit for submit in before if submit.request in self.finishes.keys() - self.cancelled]
        if not before:
            return []
        submit = draw.choice(ended or before)
        text = [*submit.prompt, *self.tokens[submit.request]]
        return text[: draw.choice([len(text), draw.randint(1, len(text))])]

    def step(self) -> None:
        super().step()
        self.note()

    def crash(self) -> None:
        self.note()
        super().crash()
        self.done["crashes"] += 1

    def note(self) -> None:
        """Take over the engine's counts."""
        self.done.update(self.compute.done)
        self.compute.done.clear()

    def answers(self) -> list[tuple[Submit, Sampling]]:
        """The requests that were given anything."""
        return [(submit, self.samplings[request]) for request, submit in self.submits.items() if self.tokens[request]]


def interleaving(seed: int, files: Files, engine: type[SteadyLlama] = SteadyLlama) -> Tenants:
    """What came of the scenario with this seed."""
    draw = random.Random(seed)
    load = make_load(
        backend="llama",
        model_path=str(files.model),
        slots=draw.randint(2, 5),
        context_tokens=CONTEXT_TOKENS,
        batch_tokens=64,
        kv=draw.choice(["streams", "unified"]),
        flash_attention=draw.choice(sorted(NOISE)),
        swap_bytes=draw.choice(SWAP_BYTES),
        scrub=draw.random() < 0.5,
        cache_bytes=draw.choice(CACHE_BYTES),
    )
    settings = Settings(min_run_tokens=draw.randint(1, 4), **LIVELY)
    w = Tenants(load, chunk=draw.choice([8, 16, 64]), settings=settings, engine=engine, seed=seed)
    try:
        one, other = map(str, files.adapters)
        w.adapters = {"b": one, "c": other, "d": one} if draw.random() < 0.7 else {}
        for tenant in TENANTS:
            w.share(tenant, cache=owner(tenant))
        for _ in range(draw.randint(20, 40)):
            happen(w, draw)
        for tenant in TENANTS:
            w.share(tenant)  # nobody is held at zero for ever, and what was cached is forgotten
        w.run()
        assert w.compute.is_empty()
    finally:
        w.compute.close()
    w.done.update({"swaps": w.swaps, "recomputes": w.recomputes, "cancelled": len(w.cancelled)})
    w.done["cached"] += sum(tokens > 0 for tokens in w.cached.values())
    return w


def happen(w: Tenants, draw: random.Random) -> None:
    """One event."""
    kind = draw.random()
    if kind < 0.4:
        tenant = draw.choice(TENANTS)
        count = draw.choice([1, 1, 4])
        group, begins = draw.choice([0, len(w.submits) + 1]), w.beginning(tenant, draw) if draw.random() < 0.8 else []
        for _ in range(count):
            output = draw.randint(1, MOST_OUTPUT_TOKENS)
            prompt = begins + w.prompt(len(w.submits), draw.randint(1, MOST_PROMPT_TOKENS))
            w.submit(len(w.submits), tenant, prompt[: CONTEXT_TOKENS - output], output, group=group, **sampling(draw))
    elif kind < 0.48 and (live := sorted(w.submits.keys() - w.finishes.keys())):
        w.cancel(draw.choice(live))
    elif kind < 0.55:
        most = draw.choice([None, None, 0, 1, 2])
        tenant = draw.choice(TENANTS)
        cache = draw.choice([0, *[owner(tenant)] * 4])
        w.share(tenant, weight=draw.choice([0.2, 1, 5]), max_concurrent=most, cache=cache)
    elif kind < 0.58:
        w.crash()
    else:
        for _ in range(draw.randint(1, 50)):
            if w.has_work:
                w.step()


def owner(tenant: str) -> int:
    """Whose its cache is."""
    return TENANTS.index(tenant) + 1


def sampling(draw: random.Random) -> dict[str, Any]:
    """Every way in which a sampler keeps something of its request: a seed, what was said, a bias, a grammar."""
    wild = {"temperature": 1.0, "top_k": 0, "top_p": 1, "min_p": 0}
    banned = {draw.randrange(3, 500): -100.0 for _ in range(50)}
    kinds: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 0},
        {"temperature": 0, "repeat_penalty": 1.3},
        {"temperature": 0, "logit_bias": banned},
        wild,
        {**wild, "presence_penalty": 1.0, "logit_bias": banned},
        {**draw.choice([wild, {"temperature": 0}]), "grammar": grammar(draw.choice("abcdefgh"))},
    ]
    return {**draw.choice(kinds), "logprobs": 3}


def grammar(letter: str) -> str:
    """Of texts without one letter."""
    if letter not in _grammars:
        _grammars[letter] = compiled(f"root ::= [^{letter}]*")
    return _grammars[letter]


_grammars: dict[str, str] = {}
