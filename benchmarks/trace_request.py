"""The files that one streamed request enters, in the daemon and in the engine process, in order of first entry.

    python benchmarks/trace_request.py [--checkout FOLDER]

A profile function in both processes notes every call. There: from when the client connects until the first token is
sampled. Back: from when a token is sampled until the client has it. The engine without a model takes 150 ms for a
step, so what the daemon does meanwhile falls into the right part. A file counts if every one of several requests, or
tokens, enters it, with a function that an idle server does not call. `>` marks files that hand the request on, by
calling another file; the rest only answer a question.

The lines of the files that docs/architecture.md lists as the hot path are counted too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import httpx

from common import tenantd

ROOT = Path(__file__).parent.parent
REQUESTS = 6
WARM_UP = 2
"""Requests that are not counted: later ones do not pass what is imported or made once."""
OUTPUT_TOKENS = 6
STEP_MICROS = 150_000
IDLE_S = 3.0
TENANT = {"x-tenant": "traced"}


class Call(NamedTuple):
    """A function that was called or that returned. `by`: the file that called it, "-" for the event loop."""

    nanos: int
    event: str
    file: str
    function: str
    by: str


class Answer(NamedTuple):
    """When a client connected, in nanoseconds of the monotonic clock, and when each of its tokens came."""

    sent: int
    tokens: list[int]


class Way(NamedTuple):
    """The files on one part of a request's way, in order of first entry, and those of them that hand it on."""

    files: list[str]
    hand_on: set[str]


def ask(socket: Path) -> Answer:
    """One streamed completion on a connection of its own."""
    body = {"prompt": "Once upon a time", "max_tokens": OUTPUT_TOKENS, "stream": True, "ignore_eos": True}
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), timeout=60) as client:
        sent, tokens = time.monotonic_ns(), []
        with client.stream("POST", "http://tenantd/v1/completions", json=body, headers=TENANT) as answer:
            answer.raise_for_status()
            for line in answer.iter_lines():
                if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["finish_reason"] is None:
                    tokens.append(time.monotonic_ns())
    assert len(tokens) == OUTPUT_TOKENS, f"{len(tokens)} tokens came"
    return Answer(sent, tokens)


class Trace:
    """The calls of one process, without those that it also makes while it is idle."""

    def __init__(self, file: Path, idle: tuple[int, int]) -> None:
        lines = (line.split(" ") for line in file.read_text().splitlines())
        calls = [Call(int(nanos), *rest) for nanos, *rest in lines]
        background = {call[2:4] for call in calls if idle[0] <= call.nanos < idle[1]}
        self._calls = [call for call in calls if call[2:4] not in background]

    def returns(self, name: str) -> list[int]:
        """When functions of this name returned."""
        return [c.nanos for c in self._calls if c.event == "return" and c.function.endswith(name)]

    def way(self, spans: Iterable[tuple[int, int]]) -> Way:
        """The files on the way in every one of the spans, in the order of the last one."""
        found = [[c for c in self._calls if c.event == "call" and start <= c.nanos < end] for start, end in spans]
        hand_on = _in_all(found, lambda call: [call.by] if call.by not in ("-", call.file) else [])
        files = _in_all(found, lambda call: [call.by, call.file] if call.by != "-" else [call.file])
        return Way(files, set(hand_on))


def _in_all(spans: list[list[Call]], names: Callable[[Call], list[str]]) -> list[str]:
    found = [[name for call in calls for name in names(call)] for calls in spans]
    everywhere = set.intersection(*map(set, found))
    return list(dict.fromkeys(name for name in found[-1] if name in everywhere))


def trace(checkout: Path) -> dict[str, Way]:
    """The parts of a request's way."""
    with tempfile.TemporaryDirectory(prefix="tenantd-trace-") as folder:
        os.environ["PYTHONPATH"] = str(ROOT / "benchmarks" / "tracer")
        os.environ |= {"TRACE_FOLDER": folder, "TRACE_CHECKOUT": str(checkout)}
        engine = {"backend": "fake", "slots": 2, "fake_step_micros": STEP_MICROS}
        with tenantd({"engine": engine}, {"traced": {}}, checkout) as target:
            assert target.path is not None
            answers = [ask(target.path) for _ in range(REQUESTS)][WARM_UP:]
            time.sleep(1.0)  # the last request is settled
            idle = (time.monotonic_ns(), time.monotonic_ns() + round(IDLE_S * 1e9))
            time.sleep(IDLE_S)
            daemon, engine_process = (Trace(Path(folder) / str(pid), idle) for pid in target.pids[:2])
    there: list[tuple[int, int]] = []
    out_of_engine: list[tuple[int, int]] = []
    back: list[tuple[int, int]] = []
    for answer in answers:
        sampled = [nanos for nanos in engine_process.returns(".run") if answer.sent < nanos < answer.tokens[-1]]
        sent = [min(n for n in engine_process.returns(".send") if n > nanos) for nanos in sampled]
        there.append((answer.sent, sampled[0]))
        for i in range(1, OUTPUT_TOKENS - 1):  # with the first and the last token more is done
            out_of_engine.append((sampled[i], sent[i]))
            back.append((sampled[i], sampled[i + 1]))
    return {
        "there, in the daemon": daemon.way(there),
        "there, in the engine": engine_process.way(there),
        "back, in the engine": engine_process.way(out_of_engine),
        "back, in the daemon": daemon.way(back),
    }


def hot_path(checkout: Path) -> dict[str, int]:
    """Lines of the files that docs/architecture.md names as the hot path."""
    text = (checkout / "docs" / "architecture.md").read_text("utf-8")
    listed = re.search(r"hot path, in this order:(.*?)\n\n", text, re.DOTALL)
    assert listed is not None, "docs/architecture.md lists the hot path"
    files = re.findall(r"`([\w/.]+)`", listed[1])
    return {file: len((checkout / file).read_text("utf-8").splitlines()) for file in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, default=ROOT, help="whose code to run, with the packages of this one")
    checkout = parser.parse_args().checkout.resolve()
    for part, way in trace(checkout).items():
        print(f"{part}: {len(way.files)} files, {len(way.hand_on)} of them hand it on")
        for file in way.files:
            print(f"  {'>' if file in way.hand_on else ' '} {file}")
    lines = hot_path(checkout)
    print(f"hot path: {sum(lines.values()):,} lines")
    for file, count in lines.items():
        print(f"    {count:4} {file}")


if __name__ == "__main__":
    main()
