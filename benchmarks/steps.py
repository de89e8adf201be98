"""What the choice of steps does to a quiet and a noisy tenant, without loading the machine: the real scheduler and loop
over the engine without a model, on a clock of their own.

    python benchmarks/steps.py [--costs epyc] [--duration 300] [--seeds 3] [--set target_itl_ms=50] [--json FILE]

The time of a pass is that of gemma-3-270m Q4_K_M on two cores, as a function of its decoding sequences or prompt
tokens (`COSTS`), times a random factor. The loads are those of `tenantctl bench`. So a change to the scheduler can be
judged in seconds and repeated exactly. What the daemon and the clients cost, only benchmarks/fairness.py can tell.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from tenantctl.bench.suites import SUITES, Closed, Suite, TenantLoad
from tenantd.domain import Sampling
from tenantd.engine.compute import Chunk, PassResult
from tenantd.engine.fairness import Fairness
from tenantd.engine.fake import FakeCompute
from tenantd.engine.loop import Loop
from tenantd.engine.scheduler import Scheduler
from tenantd.wire.messages import DropSampling, Load, SetSampling, Submit, TenantPolicy
from tenantd.wire.settings import Settings

SLOTS: Final = 8
WARM_UP: Final = 0.1  # of the duration, as in tenantctl bench


@dataclass(frozen=True)
class Costs:
    """Milliseconds of a pass: `base_ms` and `sequence_ms` for each token that decodes; for prompts by their tokens,
    and linear in between and beyond."""

    base_ms: float
    sequence_ms: float
    prompt_ms: tuple[tuple[int, float], ...]
    spread: float = 0.06  # standard deviation of the logarithm of a pass's time

    def of(self, chunks: list[Chunk]) -> float:
        """A pass in milliseconds."""
        prompts = sum(len(chunk.tokens) for chunk in chunks if len(chunk.tokens) > 1)
        decoding = sum(len(chunk.tokens) == 1 for chunk in chunks)
        ms = self._prompts(prompts) if prompts else self.base_ms
        return ms + self.sequence_ms * decoding

    def _prompts(self, tokens: int) -> float:
        (last, last_ms), (end, end_ms) = self.prompt_ms[-2:]
        if tokens > end:
            return end_ms + (tokens - end) * (end_ms - last_ms) / (end - last)
        sizes, times = zip(*self.prompt_ms, strict=True)
        return float(np.interp(tokens, sizes, times))


COSTS: Final = {
    "epyc": Costs(17, 5.2, ((1, 24), (16, 42), (32, 72), (48, 100), (128, 205), (512, 815))),
    "xeon": Costs(15, 6.5, ((1, 15), (16, 35), (512, 1126))),
    "gpu": Costs(9, 0.05, ((1, 9), (128, 10), (512, 22))),
}
"""Measured with gemma-3-270m on two cores of either kind. On the Xeon by CPU time on one core, halved, because others
worked on it. "gpu" is made up: what a pass costs hardly depends on what it holds."""


class TimedCompute(FakeCompute):
    """The engine without a model, whose passes take as long as they would with one."""

    def __init__(self, load: Load, costs: Costs, world: World, seed: int) -> None:
        super().__init__(load)
        self._costs, self._world, self._random = costs, world, random.Random(seed)

    def run(self, chunks: list[Chunk]) -> PassResult:
        result = super().run(chunks)
        micros = int(1000 * self._costs.of(chunks) * self._random.lognormvariate(0, self._costs.spread))
        self._world.now_s += micros / 1e6
        return replace(result, micros=micros, own_micros={})


@dataclass
class Figures:
    """Of one tenant in one run. Times in seconds, service in units of usage per second."""

    ttft_s: list[float] = field(default_factory=list)
    itl_s: list[float] = field(default_factory=list)
    service: float = 0.0


class World:
    """One run of a suite."""

    def __init__(self, suite: Suite, settings: Settings, costs: Costs, duration_s: float, seed: int) -> None:
        self.now_s = 0.0
        self._duration_s = duration_s
        self._random = random.Random(seed)
        load = Load(
            backend="fake", model_path="", slots=SLOTS, context_tokens=1280, batch_tokens=512, kv="streams", threads=2,
            gpu_layers=0, flash_attention="auto", swap_bytes=1 << 30, grammar_budget_ms=5000, fake_step_micros=0,
            fake_token_micros=0, settings=settings,
        )  # fmt: skip
        fairness = Fairness(settings.half_life_s, settings.burst_credit)
        scheduler = Scheduler(SLOTS, 1280, fairness, settings, swap_bytes=1 << 30, packs=True)
        self._loop = Loop(scheduler, TimedCompute(load, costs, self, seed), lambda: self.now_s)
        self._loads = {tenant.name: tenant for tenant in suite.tenants}
        self._due: list[tuple[float, str]] = []  # when somebody sends a request
        self._requests: dict[int, TenantLoad] = {}
        self._sent_s: dict[int, float] = {}
        self._last_s: dict[int, float] = {}
        self.figures: dict[str, Figures] = defaultdict(Figures)
        self.passes: Counter[str] = Counter()
        for tenant in suite.tenants:
            self._loop.apply([TenantPolicy(tenant=tenant.name, weight=tenant.weight)])
            for at_s in self._arrivals(tenant):
                heapq.heappush(self._due, (at_s, tenant.name))

    def _arrivals(self, tenant: TenantLoad) -> Iterator[float]:
        if isinstance(tenant.load, Closed):
            yield from (0.0 for _ in range(tenant.load.clients))
            return
        # a little off the beat, so that each meets the others in another phase
        beats = (number + self._random.uniform(0.3, 0.7) for number in itertools.count())
        yield from tenant.load.rate.times(beats, self._duration_s)

    def run(self) -> None:
        """Until the end of the duration."""
        while self.now_s < self._duration_s:
            while self._due and self._due[0][0] <= self.now_s:
                self._send(*heapq.heappop(self._due))
            if self._loop.patience_s() == 0:
                self._step()
            else:
                self.now_s = max(self.now_s, self._due[0][0]) if self._due else self._duration_s

    def _send(self, at_s: float, name: str) -> None:
        tenant, number = self._loads[name], len(self._requests)
        self._requests[number], self._sent_s[number] = tenant, at_s
        prompt = [self._random.randrange(256) for _ in range(tenant.shape.prompt_tokens)]
        self._loop.apply([
            SetSampling(number, Sampling(ignore_eos=True)),
            Submit(
                request=number, tenant=name, prompt=prompt, max_tokens=tenant.shape.output_tokens, sampling=number
            ),
            DropSampling(number),
        ])  # fmt: skip

    def _step(self) -> None:
        counts = self.now_s >= WARM_UP * self._duration_s
        step = self._loop.step()
        for made in step.progress:
            figures = self.figures[self._requests[made.request].name]
            if counts:
                figures.service += made.prefilled + 2 * (made.token >= 0)
            if made.token < 0:
                continue
            before_s = self._last_s.get(made.request)
            self._last_s[made.request] = self.now_s
            if counts and before_s is None:
                figures.ttft_s.append(self.now_s - self._sent_s[made.request])
            elif counts and before_s is not None:
                figures.itl_s.append(self.now_s - before_s)
        self.passes["prefill" if any(p.prefilled for p in step.progress) else "decode"] += 1
        for finish in step.finishes:
            tenant = self._requests[finish.request]
            if isinstance(tenant.load, Closed):
                heapq.heappush(self._due, (self.now_s, tenant.name))

    def service_per_s(self, tenant: str) -> float:
        """After the warm-up."""
        return self.figures[tenant].service / (self._duration_s * (1 - WARM_UP))


def summary(settings: Settings, costs: Costs, duration_s: float, seed: int) -> dict[str, float]:
    """The figures of benchmarks/fairness.py, and how long the quiet tenant waits between two tokens."""
    runs = {}
    for name in ("solo", "flood", "flood-alone", "long-prompts", "long-alone", "peak", "overload"):
        runs[name] = World(SUITES[name], settings, costs, duration_s, seed)
        runs[name].run()
    result = {}
    for name, of in (("solo", "ttft_s"), ("solo", "itl_s")):
        values = getattr(runs[name].figures["quiet"], of)
        result |= {f"{name} {of} p{q}": float(np.percentile(values, q)) for q in (50, 99)}
    for name, alone in (("flood", "flood-alone"), ("long-prompts", "long-alone")):
        run = runs[name]
        for q in (50, 99):
            here = float(np.percentile(run.figures["quiet"].ttft_s, q))
            result[f"{name} ttft p{q} to solo"] = here / result[f"solo ttft_s p{q}"]
        result[f"{name} quiet itl p50 ms"], result[f"{name} quiet itl p99 ms"] = (
            1000 * float(np.percentile(run.figures["quiet"].itl_s, q)) for q in (50, 99)
        )
        result[f"{name} noisy itl p99 ms"] = 1000 * float(np.percentile(run.figures["noisy"].itl_s, 99))
        for tenant in ("quiet", "noisy"):
            result[f"{name} {tenant} service/s"] = run.service_per_s(tenant)
        result[f"{alone} service/s"] = runs[alone].service_per_s("noisy")
        result[f"{alone} itl p99 ms"] = 1000 * float(np.percentile(runs[alone].figures["noisy"].itl_s, 99))
        result[f"{name} kept"] = run.service_per_s("noisy") / (
            runs[alone].service_per_s("noisy") - run.service_per_s("quiet")
        )
    six, twelve = (runs["overload"].service_per_s(name) for name in ("six", "twelve"))
    result |= {"overload service/s": six + twelve, "overload apart": max(six, twelve) / min(six, twelve) - 1}
    result["peak service/s"] = runs["peak"].service_per_s("peak")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--costs", choices=COSTS, default="xeon")
    parser.add_argument("--duration", type=float, default=300, metavar="SECONDS", help="of each run, on its own clock")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each suite; figures are medians")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=NUMBER", help="a setting of [scheduler]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    arguments = parser.parse_args()
    given = dict(text.split("=", 1) for text in arguments.set)
    settings = replace(Settings(), **{name: float(value) for name, value in given.items()})
    runs = [
        summary(settings, COSTS[arguments.costs], arguments.duration, seed) for seed in range(1, arguments.seeds + 1)
    ]
    medians = {name: float(np.median([run[name] for run in runs])) for name in runs[0]}
    for name, value in medians.items():
        print(f"{name:34} {value:9.3f}")
    if arguments.json:
        everything = {"costs": asdict(COSTS[arguments.costs]), "settings": given, "medians": medians, "runs": runs}
        arguments.json.write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
