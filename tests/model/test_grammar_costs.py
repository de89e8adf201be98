"""What a grammar may cost on a vocabulary of 262,144 tokens: CPU time of each mask, over grammars made at random."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator

import llama_cpp
import numpy as np
import pytest

from tenantd.engine.llama.sampling import Vocabulary
from tenantd.llamacpp.constraint import Constraint, ConstraintError, Matchers
from tenantd.text.compiler import Source, compile_grammar
from tests.attacks.test_grammars import BOMBS, SCHEMAS
from tests.support.models import gemma_path
from tests.support.random_grammars import random_gbnf, random_schema

GRAMMARS = int(os.environ.get("TENANTD_GRAMMARS", "250"))
SEED = int(os.environ.get("TENANTD_SEED", "1"))
STEPS = 12
MOST_MICROS = 50_000
P99_MICROS = 5_000 if GRAMMARS >= 10_000 else 10_000
"""The few of a quick run share their machine with who knows what: there the tail may take twice as long."""
ENDLESS_MICROS = 1 << 40


@pytest.fixture(scope="module")
def matchers() -> Iterator[Matchers]:
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(bytes(gemma_path()), params)
    matchers = Vocabulary(model, 5_000).matchers
    assert matchers is not None and matchers.tokenizer.vocab_size == 262_144
    yield matchers
    llama_cpp.llama_model_free(model)


def sources() -> Iterator[Source]:
    yield from (Source("gbnf", bomb) for name, bomb in BOMBS.items() if name != "a chain")  # it ends its compiler
    yield from (Source("json_schema", json.dumps(schema)) for schema in SCHEMAS.values())
    rng = random.Random(SEED)
    for number in range(GRAMMARS):
        if number % 2:
            yield Source("json_schema", json.dumps(random_schema(rng)))
        else:
            yield Source("gbnf", random_gbnf(rng))


def walk(matchers: Matchers, grammar: str, rng: random.Random) -> list[int]:
    """CPU time of each mask, the token after it included, while any token that is allowed follows."""
    micros: list[int] = []
    try:
        constraint = Constraint(matchers, grammar, ENDLESS_MICROS)
        for _ in range(STEPS):
            before_micros = constraint.used_micros
            try:
                allowed = np.flatnonzero(constraint.allowed())
                if not len(allowed) or (token := int(allowed[rng.randrange(len(allowed))])) in matchers.end_tokens:
                    break
                constraint.accept(token)
            finally:
                micros.append(constraint.used_micros - before_micros)
    except ConstraintError:
        pass  # too complex for this vocabulary, or become so: its request would end here
    return micros


def test_masks_stay_cheap_whatever_the_grammar(matchers: Matchers) -> None:
    rng = random.Random(SEED)
    micros: list[int] = []
    taken = 0
    for source in sources():
        compiled = compile_grammar(source)
        if compiled.grammar:
            taken += 1
            micros += walk(matchers, compiled.grammar, rng)
    micros.sort()
    p99, most = micros[len(micros) * 99 // 100], micros[-1]
    print(f"{taken} of {GRAMMARS} grammars taken, {len(micros)} masks: p99 {p99} µs, max {most} µs of CPU time")
    assert taken > GRAMMARS / 2, "most are fit for use"
    assert p99 <= P99_MICROS and most <= MOST_MICROS
