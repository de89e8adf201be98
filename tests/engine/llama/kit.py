"""Engines on a tiny model, closed when their test ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from tenantd.domain import Sampling
from tenantd.engine.llama import LlamaCompute
from tests.support.loads import make_load

GREEDY = Sampling(temperature=0, ignore_eos=True)


CAREFUL = Sampling(temperature=0, ignore_eos=True, logprobs=5)


LAYOUTS = ["streams", "unified"]


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


def prompt(n: int, seed: int) -> list[int]:
    """Tokens that both models have."""
    return [int(token) for token in np.random.default_rng(seed).integers(3, 500, n)]


def logits(engine: LlamaCompute, index: int) -> np.ndarray[Any, Any]:
    pointer = llama_cpp.llama_get_logits_ith(engine._context, index)
    return np.ctypeslib.as_array(pointer, (engine.info.vocabulary,))
