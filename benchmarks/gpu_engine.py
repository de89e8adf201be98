"""The parts of benchmarks/gpu.py with the engine in this process, or only its plan.

Each part has a process of its own, so it may change that as it likes, and leave the memory to its end.
"""

from __future__ import annotations

import random
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import llama_cpp
import psutil

from gpu_setup import Found, Setup, load_message, whole
from tenantctl.bench.subjects import ordinary_tokens
from tenantd.domain import FinishReason, Sampling
from tenantd.engine.compute import Chunk
from tenantd.engine.fairness import Fairness
from tenantd.engine.llama import LlamaCompute
from tenantd.engine.loop import Loop
from tenantd.engine.scheduler import Scheduler
from tenantd.llamacpp import log
from tenantd.llamacpp.devices import gpus
from tenantd.llamacpp.memory_plan import MIB, plan_memory
from tenantd.process_limits import lock_much_memory
from tenantd.wire.messages import DropSampling, EngineInfo, SetSampling, Submit

# ---- devices


def nvidia(fields: str) -> list[list[str]]:
    """What NVML says of each GPU, by nvidia-smi; [] without it."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return []
    command = [tool, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.split(", ") for line in done.stdout.splitlines()]


def devices(_: Setup) -> Found:
    """What llama.cpp would compute on, and the driver."""
    llama_cpp.llama_backend_init()
    found = gpus()
    drivers = sorted({driver for (driver,) in nvidia("driver_version")})
    name = ", ".join(gpu.description for gpu in found) or "CPU"
    lines = [("device", name)]
    lines += [("memory", f"{sum(gpu.total_bytes for gpu in found) / (1 << 30):.1f} GiB")] if found else []
    lines += [("driver", ", ".join(drivers) or "unknown")] if found else []
    lines.append(("llama.cpp", llama_cpp.llama_version().decode()))
    return Found(lines, {**dict(lines), "gpus": [asdict(gpu) for gpu in found]})


def used_bytes() -> tuple[str, int]:
    """Who counts, and the memory in use where the model is put: of all GPUs, else of this process."""
    if gpus():
        try:
            if rows := nvidia("memory.used"):
                return "NVML", sum(int(mib) for (mib,) in rows) * MIB
        except ValueError:  # "[N/A]"
            pass
        return "llama.cpp", sum(gpu.total_bytes - gpu.free_bytes for gpu in gpus())
    return "the process's resident memory", psutil.Process().memory_info().rss


def memory(setup: Setup) -> Found:
    """The plan for the memory, next to what is in use after a prompt and a pass of every sequence."""
    load = load_message(setup, setup.slots, setup.context)
    plan = plan_memory(load, setup.model)
    who, before = used_bytes()
    began_s = time.perf_counter()
    compute = LlamaCompute(load, lambda _: None)
    load_s = time.perf_counter() - began_s
    own = re.findall(r"(\S+) +(KV|RS|compute|output) buffer size = +([\d.]+) MiB", "\n".join(log.lines()))
    prompt = min(setup.prompt, load.batch_tokens)
    for sequence in range(setup.slots):
        compute.run(_prompt(compute, sequence, prompt))
    compute.run([Chunk(sequence, prompt, [1], True, sequence + 1) for sequence in range(setup.slots)])
    taken = used_bytes()[1] - before
    where = f"{compute.info.layers_offloaded} of {compute.info.layers} layers on {compute.info.device}"
    lines = [
        ("model loaded", f"{load_s:.2f} s, {where}"),
        ("planned", f"{plan.needed / MIB:,.0f} MiB (weights {plan.weights / MIB:,.0f}, KV cache {plan.kv / MIB:,.0f}, "
         f"work space {plan.compute / MIB:,.0f})"),
        (f"taken, by {who}", f"{taken / MIB:,.0f} MiB, {taken / plan.needed:.2f} × the plan"),
    ]  # fmt: skip
    buffers = [{"device": device, "what": what, "mib": float(mib)} for device, what, mib in own]
    figures = {"load_s": load_s, "plan": asdict(plan), "needed": plan.needed, "taken": taken, "counted_by": who}
    return Found(lines, {**figures, "buffers": buffers, "engine": _fields(compute.info)})


def _fields(info: EngineInfo) -> dict[str, Any]:
    return {name: getattr(info, name) for name in info.__struct_fields__}


def _prompt(compute: LlamaCompute, sequence: int, tokens: int) -> list[Chunk]:
    """Bind a sequence; the chunk of its prompt."""
    compute.bind(sequence, Sampling(temperature=0, ignore_eos=True), [], [], request=sequence + 1)
    return [Chunk(sequence, 0, [1] * tokens, True, sequence + 1)]


# ---- the engine in this process


class Inside:
    """Adds up the seconds that calls of some functions take."""

    def __init__(self, module: Any, *names: str) -> None:
        self.seconds = 0.0
        for name in names:
            setattr(module, name, self._timed(getattr(module, name)))

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any) -> Any:
            began_s = time.perf_counter()
            try:
                return function(*given)
            finally:
                self.seconds += time.perf_counter() - began_s

        return timed


def outside(setup: Setup) -> Found:
    """What a pass of the engine takes outside llama_decode: scheduler, batch and sampling. What it did is encoded while
    the next one runs."""
    load = load_message(setup, setup.slots, setup.context)
    compute, settings = LlamaCompute(load, lambda _: None), load.settings
    inside = Inside(llama_cpp, "llama_decode", "llama_synchronize")
    fairness = Fairness(settings.half_life_s, settings.burst_credit)
    scheduler = Scheduler(setup.slots, setup.context, fairness, settings, swap_bytes=0, packs=load.kv == "streams")
    loop = Loop(scheduler, compute, batch_tokens=load.batch_tokens)
    lines, figures = [], {}
    first = 1
    for count in setup.sequences:
        passes = list(_passes(loop, inside, setup, range(first, first + count)))
        first += count
        if not passes:
            raise RuntimeError(f"{count} sequences never ran in one pass; their answers are too short (--output)")
        total, beyond = (1000 * statistics.median(values) for values in zip(*passes, strict=True))
        lines.append((f"{count} at once", f"{beyond:.3f} of {total:.2f} ms a pass"))
        figures[str(count)] = {"pass_ms": total, "outside_ms": beyond, "passes": len(passes)}
    compute.close()
    return Found(lines, figures)


def _passes(loop: Loop, inside: Inside, setup: Setup, numbers: range) -> Iterator[tuple[float, float]]:
    """Seconds of each pass with a token of every request, and of them outside llama.cpp."""
    rng = random.Random(1)
    loop.apply([SetSampling(1, Sampling(temperature=0, ignore_eos=True))])
    loop.apply(
        Submit(request=n, tenant="one", prompt=[rng.randrange(3, 250) for _ in range(setup.prompt)],
               max_tokens=setup.output, sampling=1)
        for n in numbers
    )  # fmt: skip
    loop.apply([DropSampling(1)])
    unfinished = len(numbers)
    while unfinished:
        before_s, began_s = inside.seconds, time.perf_counter()
        step = loop.step()
        took_s = time.perf_counter() - began_s
        unfinished -= len(step.finishes)
        if failed := [finish.message for finish in step.finishes if finish.reason is FinishReason.FAILED]:
            raise RuntimeError(failed[0])
        if len(step.progress) == len(numbers) and all(p.token >= 0 and not p.prefilled for p in step.progress):
            yield took_s, took_s - (inside.seconds - before_s)


def swap(setup: Setup) -> Found:
    """Taking a sequence to host memory and back, next to computing it again."""
    lock_much_memory()  # states are kept out of swap space
    load = load_message(setup, 2, whole(max(setup.swapped)))
    compute = LlamaCompute(load, lambda _: None)
    rng, vocabulary = random.Random(1), ordinary_tokens(compute.info.vocabulary)
    lines, figures = [], {}
    for length in setup.swapped:
        times: list[tuple[float, ...]] = []
        size_bytes = 0
        for _ in range(setup.rounds + 1):
            compute.bind(0, Sampling(temperature=0), [], [], request=1)
            began_s = time.perf_counter()
            _compute_again(compute, rng.choices(vocabulary, k=length), load.batch_tokens)
            computed_s = time.perf_counter()
            state = compute.swap_out(0, 1 << 62)
            out_s, size_bytes = time.perf_counter(), state.size_bytes
            if not size_bytes or not compute.swap_in(0, state, 1):
                raise RuntimeError(f"a sequence of {length} tokens could not be swapped")
            in_s = time.perf_counter()
            compute.clear(0)
            times.append((computed_s - began_s, out_s - computed_s, in_s - out_s))
        again, out, back = (1000 * statistics.median(values) for values in zip(*times[1:], strict=True))
        lines.append((
            f"{length} tokens, {size_bytes / MIB:,.1f} MiB",
            f"out {out:.1f} ms, in {back:.1f} ms, again {again:.1f} ms: {again / (out + back):.1f} × as long",
        ))  # fmt: skip
        figures[str(length)] = {"size_bytes": size_bytes, "recompute_ms": again, "out_ms": out, "in_ms": back}
    return Found(lines, figures)


def _compute_again(compute: LlamaCompute, tokens: list[int], batch_tokens: int) -> None:
    """As one that was recomputed: in passes as large as a batch."""
    for start in range(0, len(tokens), batch_tokens):
        part = tokens[start : start + batch_tokens]
        compute.run([Chunk(0, start, part, start + len(part) == len(tokens), 1)])
