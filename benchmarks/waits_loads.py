"""What benchmarks/waits.py has in common, with a model and without: loads, what was told, and the figures of that."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from tenantctl.bench.arrivals import steady
from tenantctl.bench.suites import SUITES, Closed, Open, Shape, TenantLoad

SLOTS: Final = 8
CONTEXT_TOKENS: Final = 4096
SMALL_S: Final = 0.5
"""Nobody minds half a second."""
LEAST_S: Final = 1.0
"""Shorter waits are not judged: what is shown begins at a second."""


@dataclass(frozen=True)
class Request:
    """How long it is: `output_tokens` is where it ends by itself, if `max_tokens` does not come first."""

    prompt_tokens: int
    output_tokens: int
    max_tokens: int


Draw = Callable[[random.Random], Request]


@dataclass(frozen=True)
class Scenario:
    """Tenants, what they may do, and how long the requests of some are, instead of their shape's length."""

    name: str
    tenants: tuple[TenantLoad, ...]
    limits: dict[str, dict[str, Any]] = field(default_factory=dict)
    lengths: dict[str, Draw] = field(default_factory=dict)


def _chat(most: int) -> Draw:
    """Prompts and answers as people send and get them: most are short, some long."""

    def draw(chance: random.Random) -> Request:
        prompt = min(1000, max(8, chance.lognormvariate(math.log(100), 0.8)))
        output = min(most, max(5, chance.lognormvariate(math.log(100), 0.7)))
        return Request(int(prompt), int(output), most)

    return draw


def _clients(name: str, count: int, prompt: int = 128, output: int = 128) -> TenantLoad:
    return TenantLoad(name, Shape(prompt, output), Closed(count))


SCENARIOS: Final = (
    *(Scenario(name, SUITES[name].tenants) for name in ("flood", "long-prompts", "overload", "weighted", "short-long")),
    Scenario(
        "chats",
        (_clients("a", 12), _clients("b", 24), TenantLoad("c", Shape(128, 128), Open(steady(0.3), poisson=True))),
        lengths=dict.fromkeys("abc", _chat(512)),
    ),
    Scenario("one-tenant", (_clients("a", 40),), lengths={"a": _chat(512)}),
    Scenario(
        "many-tenants",
        tuple(_clients(f"t{n}", 2) for n in range(12)),
        lengths={f"t{n}": _chat(400) for n in range(12)},
    ),
    Scenario(
        "tokens-per-minute", (_clients("slow", 12, 64, 64), _clients("fast", 12)), {"slow": {"tokens_per_minute": 1500}}
    ),
    Scenario("concurrency", (_clients("slow", 12, 64, 64), _clients("fast", 12)), {"slow": {"max_concurrent": 1}}),
)


@dataclass(frozen=True)
class Told:
    """What a waiting request was told, and what then came, in seconds."""

    tenant: str
    before_s: float | None  # by the former method
    likely_s: float
    low_s: float
    high_s: float
    actual_s: float


def figures(told: list[Told]) -> dict[str, float]:
    """Of these: errors relative to the wait, and what the ranges are worth."""
    actual, likely = (np.array([getattr(one, name) for one in told]) for name in ("actual_s", "likely_s"))
    low, high = (np.array([getattr(one, name) for one in told]) for name in ("low_s", "high_s"))
    off = np.abs(likely - actual) / actual
    result = {
        "told": len(told),
        "wait_s": float(np.median(actual)),
        "error_p50": float(np.median(off)),
        "error_p90": float(np.percentile(off, 90)),
        "longer": float(np.median((actual + SMALL_S) / (likely + SMALL_S))),  # than told
        # a range is read in whole seconds from one on
        "inside": float(np.mean((np.floor(np.maximum(low, 1)) <= actual) & (actual <= np.ceil(high)))),
        "width": float(np.median(np.maximum(high, 1) / np.maximum(low, 1))),
    }
    if all(one.before_s is not None for one in told):
        before = np.abs(np.array([one.before_s for one in told], dtype=float) - actual) / actual
        result |= {"before_p50": float(np.median(before)), "before_p90": float(np.percentile(before, 90))}
    return result


def show(name: str, result: dict[str, float]) -> None:
    before = f"{result['before_p50']:7.0%}" if "before_p50" in result else ""
    print(
        f"{name:20} {result['told']:7.0f} {result['wait_s']:6.1f} s "
        f"{result['error_p50']:5.0%} {result['error_p90']:5.0%} "
        f"{result['inside']:6.0%} {result['width']:5.1f} {result['longer']:6.2f} {before}",
        flush=True,
    )


HEAD: Final = (
    f"{'':20} {'told':>7} {'wait':>8} {'p50':>5} {'p90':>5} {'inside':>6} {'width':>5} {'longer':>6} {'before':>7}"
)
