"""Python imports this at its start where it is on the path: times parts of a step for `step_profile.py`, in both
processes.

Writes STOPWATCH_FOLDER/PID at the end of the process: a list of steps, each with how many requests got something, and
microseconds by part. Time counts for the innermost part that it was spent in.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

PARTS = {
    "tenantd.engine.loop": {"Loop._plan": "plan", "Loop.patience_s": "plan", "Loop.step": "loop"},
    "tenantd.engine.scheduler": {"Scheduler.check_plan": "plan", "Scheduler.commit": "commit"},
    "tenantd.engine.llama.batch": {"Batch.fill": "batch"},
    "tenantd.engine.llama.cells": {"Cells.decode": "decode"},
    "tenantd.engine.llama.decode": {
        "LlamaCompute.run": "loop",
        "LlamaCompute._check": "batch",
        "LlamaCompute._decode": "decode",  # on a GPU llama_synchronize, which waits for it
        "LlamaCompute._sample": "sampling",
    },
    "tenantd.engine.fake": {"FakeCompute.run": "decode"},
    "tenantd.engine.pipe": {"Pipe.receive": "commands", "Pipe.send": "pipe", "Pipe._write": "pipe"},
    "tenantd.wire.frames": {"frame": "encode", "decode_event": "decode frame", "split_frames": "decode frame"},
    "tenantd.fleet.link": {"EngineLink.data_received": "read"},
    "tenantd.fleet.replica": {"Replica.on_step": "book"},
    "tenantd.live.streams": {"LiveStream.advance": "book"},
    "tenantd.text.detokenize": {"TextStream.push": "text"},
    "tenantd.api.openai.answers": {"encode_line": "events"},
    "tenantd.api.connection": {"Outlet.write": "socket"},
}
BY_CPU = {"read", "decode frame", "book", "text", "events", "socket"}
"""Parts of the daemon, measured in CPU time of its thread: it holds nobody up, but takes a core from them."""
ENDS = {"Loop.step", "Replica.on_step"}
"""A step ends when one of these returns. What comes after it belongs to the next."""


class Stopwatch:
    """Adds up nanoseconds by part until a step ends."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self._spent: defaultdict[str, int] = defaultdict(int)
        self._measuring_ns = 0
        self._inner = threading.local()  # .stack: nanoseconds of the parts inside each part that is running
        self._overhead_ns = {True: 0, False: 0}  # of measuring by CPU time, and by the clock
        self._ended = (time.perf_counter_ns(), time.thread_time_ns())
        self._overhead_ns = {by_cpu: self._measured_overhead_ns(part) for by_cpu, part in ((True, "read"), (False, ""))}

    def timed(self, name: str, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, measured."""
        clock_ns = time.thread_time_ns if part in BY_CPU else time.perf_counter_ns
        overhead_ns = self._overhead_ns[part in BY_CPU]

        def measured(*given: Any, **named: Any) -> Any:
            stack: list[int] = self._inner.__dict__.setdefault("stack", [])
            stack.append(0)
            began_ns = clock_ns()
            try:
                result = function(*given, **named)
            finally:
                took_ns = clock_ns() - began_ns
                self._spent[part] += took_ns - stack.pop()
                self._measuring_ns += overhead_ns
                if stack:
                    stack[-1] += took_ns + overhead_ns
            if name in ENDS:
                self._end_step(len((result if name == "Loop.step" else given[1]).progress))
            return result

        return measured

    def _end_step(self, requests: int) -> None:
        ended = (time.perf_counter_ns(), time.thread_time_ns())
        wall, cpu = ((now - before - self._measuring_ns) / 1000 for now, before in zip(ended, self._ended, strict=True))
        spent = {part: ns / 1000 for part, ns in self._spent.items()}
        self.steps.append({"requests": requests, "wall": wall, "cpu": cpu, **spent})
        self._spent.clear()
        self._measuring_ns = 0
        self._ended = (time.perf_counter_ns(), time.thread_time_ns())

    def _measured_overhead_ns(self, part: str) -> int:
        """What measuring costs the caller, in addition to what is measured: the least of some tries, because others use
        the machine as well."""
        nothing, found = self.timed("", part, lambda: None), []
        for _ in range(50):
            began_ns = time.perf_counter_ns()
            for _ in range(100):
                nothing()
            found.append((time.perf_counter_ns() - began_ns - self._spent.pop(part)) // 100)
        return min(found)


class Finder(MetaPathFinder):
    """Measures the functions of PARTS as soon as their module is there."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in PARTS or (spec := PathFinder.find_spec(fullname, path, target)) is None:
            return None
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            for name, part in PARTS[fullname].items():
                *owners, attribute = name.split(".")
                owner = getattr(module, owners[0], None) if owners else module
                if hasattr(owner, attribute):  # another version may lack it
                    setattr(owner, attribute, STOPWATCH.timed(name, part, getattr(owner, attribute)))

        loader.exec_module = exec_module
        return spec


def write() -> None:
    with open(f"{os.environ['STOPWATCH_FOLDER']}/{os.getpid()}", "w", encoding="utf-8") as file:
        json.dump(STOPWATCH.steps, file)


STOPWATCH = Stopwatch()
sys.meta_path.insert(0, Finder())
atexit.register(write)
