"""What `security.scrub` costs: CPU time of an engine for short requests, with it on and off.

    python benchmarks/scrub.py --model FILE [--requests 40] [--rounds 5] [--context 1024] [--json FILE]

Two engines in this process, one with `scrub` and one without, take rounds in turn, in an order that changes. In a
round, all slots are busy: whenever a request ends, its sequence is cleared and the next one begins there, while the
others run on. One thread, and its CPU time, so that other programs disturb little.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

from common import machine
from tenantd.domain import Sampling
from tenantd.engine.compute import Chunk
from tenantd.engine.llama import LlamaCompute
from tenantd.wire.messages import Load
from tenantd.wire.settings import Settings

SLOTS = 4
PROMPT_TOKENS = 32
OUTPUT_TOKENS = 16
GREEDY = Sampling(temperature=0, ignore_eos=True)


def engine(model: Path, kv: str, context_tokens: int, *, scrub: bool) -> LlamaCompute:
    load = Load(
        backend="llama",
        model_path=str(model),
        slots=SLOTS,
        context_tokens=context_tokens,
        batch_tokens=256,
        kv=kv,
        threads=1,
        gpu_layers=0,
        flash_attention="auto",
        swap_bytes=0,
        scrub=scrub,
        grammar_budget_ms=1000,
        fake_step_micros=0,
        fake_token_micros=0,
        settings=Settings(),
    )
    return LlamaCompute(load, lambda _: None)


def one_round(compute: LlamaCompute, requests: int, draw: random.Random) -> float:
    """CPU milliseconds for a request."""
    began_ns = time.process_time_ns()
    at: dict[int, tuple[int, list[int]]] = {}  # by sequence: tokens computed, and those to compute next
    begun = 0
    while begun < requests or at:
        for sequence in range(SLOTS):
            if sequence not in at and begun < requests:
                prompt = [draw.randrange(32, 127) for _ in range(PROMPT_TOKENS - begun % SLOTS)]
                compute.bind(sequence, GREEDY, prompt, [])
                at[sequence] = 0, prompt
                begun += 1
        fresh = [sequence for sequence, (computed, _) in at.items() if not computed]
        turn = sorted(fresh) or sorted(at)  # prompts by themselves, as the scheduler has them
        sampled = compute.run([Chunk(sequence, *at[sequence], True) for sequence in turn]).sampled
        for sequence in turn:
            computed, tokens = at[sequence]
            at[sequence] = computed + len(tokens), [sampled[sequence].token]
            if at[sequence][0] >= PROMPT_TOKENS + OUTPUT_TOKENS:
                compute.clear(sequence)
                del at[sequence]
    assert compute.is_empty()
    return (time.process_time_ns() - began_ns) / 1e6 / requests


def measure(model: Path, kv: str, context_tokens: int, requests: int, rounds: int) -> dict[str, Any]:
    """Medians of the rounds, and of the ratios of neighbours."""
    engines = {on: engine(model, kv, context_tokens, scrub=on) for on in (False, True)}
    took: dict[bool, list[float]] = {False: [], True: []}
    for number in range(-1, rounds):
        for on in (False, True) if number % 2 else (True, False):
            cpu_ms = one_round(engines[on], requests, random.Random(number))
            if number >= 0:
                took[on].append(cpu_ms)
    for one in engines.values():
        one.close()
    ratios = [on / off for on, off in zip(took[True], took[False], strict=True)]
    return {
        "kv": kv,
        "off_ms": statistics.median(took[False]),
        "on_ms": statistics.median(took[True]),
        "ratio": statistics.median(ratios),
        "ratios": [min(ratios), max(ratios)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = [measure(given.model, kv, given.context, given.requests, given.rounds) for kv in ("streams", "unified")]
    for one in found:
        least, most = one["ratios"]
        print(
            f"{one['kv']}: {one['off_ms']:.2f} ms of CPU time a request without, {one['on_ms']:.2f} ms with scrub: "
            f"{one['ratio']:.3f} times ({least:.3f} to {most:.3f})"
        )
    if given.json is not None:
        about = {"machine": machine(), "model": given.model.name, "slots": SLOTS, "context_tokens": given.context}
        given.json.write_text(json.dumps({**about, "figures": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
