"""Models that remember in different ways, and what follows a prefix on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tenantd.engine.compute import Chunk
from tenantd.engine.llama import LlamaCompute
from tests.engine.llama.kit import GREEDY, Engines, logits, prompt
from tests.support.tiny_gguf import Architecture

CHUNK = 50
LENGTH = 300
"""More than the 256 cells that a window of this size gets."""
TEXT = prompt(LENGTH + 100, seed=1)
NEXT = [prompt(1, seed=seed)[0] for seed in range(2, 5)]
NOISE = 0.02
"""Logits that are computed in other passes differ by less; a missing token makes ten times as much."""
ROOM = 1 << 30


@dataclass(frozen=True)
class Shape:
    """A model and a KV layout. `make` also takes settings of the load."""

    architecture: Architecture
    kv: str
    engines: Engines
    model: Path

    def make(self, **changes: Any) -> LlamaCompute:
        return self.engines(model_path=str(self.model), kv=self.kv, **{"context_tokens": 512, **changes})

    @property
    def is_recurrent(self) -> bool:
        return self.architecture in ("mamba", "jamba")


def compute(engine: LlamaCompute, sequence: int, request: int, tokens: list[int], done: int = 0) -> None:
    """Compute the tokens of a bound sequence from `done` on, in passes that end where those of any other do."""
    while done < len(tokens):
        end = min(len(tokens), (done // CHUNK + 1) * CHUNK)
        engine.run([Chunk(sequence, done, tokens[done:end], end == len(tokens), request)])
        done = end


def park(engine: LlamaCompute, sequence: int, tokens: list[int], prefix: int) -> int:
    """Returns what it can be cut to."""
    engine.bind(sequence, GREEDY, [], [], request=prefix)
    compute(engine, sequence, prefix, tokens)
    return engine.park(sequence, prefix, prefix).least_tokens


def after(engine: LlamaCompute, sequence: int, length: int, prefix: int = 0) -> np.ndarray[Any, Any]:
    """The logits of the tokens that follow a prefix, which is cleared then; without one, those of its tokens alone."""
    engine.bind(sequence, GREEDY, [], [], request=99, prefix=prefix)
    if not prefix:
        compute(engine, sequence, 99, TEXT[:length])
    rows = []
    for position, token in enumerate(NEXT, length):
        engine.run([Chunk(sequence, position, [token], True, 99)])
        rows.append(logits(engine, 0).copy())
    engine.clear(sequence)
    return np.array(rows)


def farthest(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    return float(np.abs(one - other).max())
