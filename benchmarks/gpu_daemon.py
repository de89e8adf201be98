"""The parts of benchmarks/gpu.py that measure a whole daemon, through its socket."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from chats import chat, work
from fairness import measure
from gpu_setup import Found, Setup, speed_text, whole
from tenantctl.bench.figures import output_tokens
from tenantctl.bench.launcher import OwnDaemon, own_daemon
from tenantctl.bench.load import send_shape
from tenantctl.bench.measurement import Measurement, Plan
from tenantctl.bench.observed import Outcome, Record
from tenantctl.bench.subjects import ordinary_tokens
from tenantctl.bench.suites import SUITES, Shape
from tenantctl.bench.target import Target
from tenantctl.client import url

TENANTS: dict[str, dict[str, Any]] = {"bench": {}, "cached": {"cache": "on"}}
FLOOD_SLOTS = 16  # half as many as the flood has clients
FLOOD_SUITES = ("solo", "flood-alone", "flood")
CONVERSATIONS = 8
CHAT_TOKENS = 2048


@contextmanager
def daemon_of(setup: Setup, slots: int, context_tokens: int) -> Iterator[tuple[OwnDaemon, Target, range]]:
    """A daemon, its target, and the tokens of prompts."""
    engine = {**setup.engine, "slots": slots, "context_tokens": context_tokens}
    with own_daemon({"model": {"path": str(setup.model)}, "engine": engine}, TENANTS) as daemon:
        with daemon.admin() as client:
            vocabulary = ordinary_tokens(client.get(url("status"))["engine"]["vocabulary"])
        yield daemon, Target("tenantd", path=daemon.socket).acting_for("bench"), vocabulary


def start(setup: Setup) -> Found:
    """Until the daemon is ready, and until its first answer has ended; later starts have the file in memory."""
    ready: list[float] = []
    answered: list[float] = []
    for _ in range(min(2, setup.rounds)):
        began_s = time.perf_counter()
        with daemon_of(setup, setup.slots, setup.context) as (daemon, target, vocabulary):
            ready.append(time.perf_counter() - began_s)
            asyncio.run(_together(target, 1, Shape(16, 2), vocabulary))
            answered.append(time.perf_counter() - began_s)
            with daemon.admin() as client:
                engine = client.get(url("status"))["engine"]
    lines = [
        (f"start {number}", f"ready after {until_ready:.1f} s, first answer after {until_answer:.1f} s")
        for number, (until_ready, until_answer) in enumerate(zip(ready, answered, strict=True), 1)
    ]
    return Found(lines, {"ready_s": ready, "answered_s": answered, "engine": engine})


def served(setup: Setup) -> Found:
    """tenantd with so many streams, prompts and answers as in the raw loop."""
    shape = Shape(setup.prompt, setup.output)
    speeds, runs = {}, []
    with daemon_of(setup, setup.slots, setup.context) as (_, target, vocabulary):
        asyncio.run(_together(target, setup.slots, Shape(16, 8), vocabulary))
        for count in setup.sequences:
            rates = []
            for _ in range(setup.rounds):
                records = asyncio.run(_together(target, count, shape, vocabulary))
                rate, are_together = _rate(records)
                rates.append(rate)
                runs.append({"streams": count, "tokens_per_s": rate, "all_at_once": are_together})
            speeds[count] = statistics.median(rates)
    lines = [(f"{count} at once", speed_text(count, rate)) for count, rate in speeds.items()]
    return Found(lines, {"tokens_per_s": speeds, "runs": runs})


async def _together(target: Target, streams: int, shape: Shape, vocabulary: range) -> list[Record]:
    """So many requests at once. Raises RuntimeError unless all are complete."""
    records = [Record("bench") for _ in range(streams)]
    await asyncio.gather(
        *(send_shape(target, shape, vocabulary, random.Random(i), record) for i, record in enumerate(records))
    )
    if failed := [record.message for record in records if record.outcome is not Outcome.DONE]:
        raise RuntimeError(f"{len(failed)} of {streams} requests failed: {failed[0]}")
    return records


def _rate(records: list[Record]) -> tuple[float, bool]:
    """Tokens per second while all streams generate, and whether they ever did; else from request to last token."""
    firsts = [record.first_s for record in records if record.first_s is not None]
    lasts = [record.write_times_s[-1] for record in records]
    are_together = max(firsts) < min(lasts)
    span = (max(firsts), min(lasts)) if are_together else (min(record.sent_s for record in records), max(lasts))
    return output_tokens(records, span) / (span[1] - span[0]), are_together


def flood(setup: Setup) -> Found:
    """A quiet tenant alone and next to 32 clients that never pause."""
    runs: dict[str, list[Measurement]] = {name: [] for name in FLOOD_SUITES}
    context = max(SUITES[name].context_tokens for name in FLOOD_SUITES)
    with daemon_of(setup, min(FLOOD_SLOTS, setup.slots), whole(context)) as (_, target, vocabulary):
        for number in range(setup.rounds):
            for name in FLOOD_SUITES:
                measurement = measure(target, Plan(SUITES[name], setup.run_s, number + 1, vocabulary=vocabulary))
                if measurement.interrupted:
                    raise KeyboardInterrupt
                runs[name].append(measurement)
    lines = []
    figures: dict[str, Any] = {name: [_brief(m) for m in measurements] for name, measurements in runs.items()}
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        alone, beside = (_wait_s(runs[suite], share) for suite in ("solo", "flood"))
        lines.append((
            f"quiet's first token, {name}",
            f"{1000 * alone:.0f} ms alone, {1000 * beside:.0f} beside: {beside / alone:.2f} ×",
        ))  # fmt: skip
        figures[name] = {"alone_s": alone, "beside_s": beside}
    served = {suite: statistics.median(m.service_per_s for m in runs[suite]) for suite in ("flood-alone", "flood")}
    quiet, noisy = (
        statistics.median(m.figures[tenant].service / m.length_s for m in runs["flood"])
        for tenant in ("quiet", "noisy")
    )
    kept = noisy / (served["flood-alone"] - quiet)
    lines.append(("noisy keeps", f"{kept:.0%} of {served['flood-alone']:,.0f} service/s"))
    return Found(lines, {**figures, "noisy_keeps": kept})


def _wait_s(runs: list[Measurement], share: float) -> float:
    """Of quiet, the median over the rounds. Raises RuntimeError if nobody was answered."""
    waits = [wait.seconds for run in runs if (wait := _quiet(run, share)) is not None]
    if not waits:
        raise RuntimeError("quiet never sent a request; runs are too short (--run-s)")
    return statistics.median(waits)


def _quiet(run: Measurement, share: float) -> Any:
    figures = run.figures["quiet"]
    return figures.ttft_p50 if share == 0.5 else figures.ttft_p99


def _brief(run: Measurement) -> dict[str, Any]:
    return {key: value for key, value in run.as_json(with_requests=False).items() if key != "service_over_time"}


def chats(setup: Setup) -> Found:
    """Chats that grow, with the cache of prompts and without."""
    runs: list[dict[str, Any]] = []
    with daemon_of(setup, CONVERSATIONS, CHAT_TOKENS) as (_, target, _vocabulary):
        targets = {"cache on": target.acting_for("cached"), "cache off": target}
        for number in range(setup.rounds):
            for label, of in list(targets.items())[:: 1 if number % 2 == 0 else -1]:
                done = asyncio.run(work(of, chat(CONVERSATIONS), seed=number, scale=setup.chat_scale))
                runs.append({"round": number + 1, "target": label, **asdict(done)})

    def medians_of(label: str) -> list[float]:
        names = ("total_s", "later_ttft_s")
        return [statistics.median(run[name] for run in runs if run["target"] == label) for name in names]

    medians = {label: medians_of(label) for label in targets}
    lines = [
        (label, f"{total:.2f} s, first token of later turns {1000 * later:.0f} ms")
        for label, (total, later) in medians.items()
    ]
    (on, later_on), (off, later_off) = medians["cache on"], medians["cache off"]
    lines.append(("on ÷ off", f"{on / off:.2f} of the time, first tokens {later_off / later_on:.1f} × as fast"))
    return Found(lines, {"conversations": CONVERSATIONS, "runs": runs})
