"""How well the anomaly watch tells copying the model from harmless work, on made-up traffic (benchmarks/traffic.py).

    python benchmarks/anomalies.py collect FOLDER [--seeds 0-199]             run the watch over the traffic: minutes
    python benchmarks/anomalies.py freeze FOLDER                             weights and threshold from seeds 0-99
    python benchmarks/anomalies.py report FOLDER [--json FILE]               figures from seeds 100-199, and the cost

Every tenant works harmlessly for 21 days. On the day after, five copies of it each try to copy the model in their own
way, beside the tenant's work; with --instead in its place, in as many requests as usual. The code that sees the traffic
is the daemon's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from common import machine
from tenantd.domain import FinishReason, Tenant, Usage
from tenantd.events import Admitted, Events, PathKind, Settled, Signal, Sketched
from tenantd.live.generation import Generation
from tenantd.serving.sketching import Sketching
from tenantd.text.pool import TextPool
from tenantd.text.sketches import Sketcher
from tenantd.watching import habits, scores
from tenantd.watching.anomalies import JUDGED_EVERY, AnomalyWatch, HabitFile
from tenantd.watching.habits import SIGNALS, Row
from traffic import ATTACKS, KINDS, MIXED, PURE, VOCABULARY, Request, Work, harmless, spread

DAYS: Final = 21
DAY_MICROS: Final = 2 * habits.PANE_MICROS
BEGIN_MICROS: Final = 20_000 * DAY_MICROS  # a Monday or not: the kinds count their own days
TRAINING: Final = range(100)
TESTED: Final = range(100, 200)
FALSE_ALARMS: Final = 0.007
"""Share of harmless tenant-days of the training seeds that the threshold lets through."""
THRESHOLD: Final = 10.0
MOST_WEIGHT: Final = np.array([1.6 if signal is Signal.VOLUME else 3.3 for signal in SIGNALS])
"""So that no signal makes an anomaly by itself unless it is 3 standard deviations off, and a high volume never does."""
LEAST_WEIGHT: Final = 0.3
FROZEN: Final = Path(scores.__file__).with_name("frozen.json")
Vectors = npt.NDArray[np.float32]
"""One row for each time that a window is judged: the surprise of each signal."""


# -- collecting


def feed(row: Row, requests: Sequence[Request], day: int, sketcher: Sketcher) -> Vectors:
    """Let a tenant send a day's requests. Returns what the watch sees each time it would judge."""
    seen = []
    for request in requests:
        habits.turn_to(row, BEGIN_MICROS + int((day + request.at) * DAY_MICROS))
        habits.add_request(row, is_probing=request.probing)
        habits.add_prompt(row, sketcher.sketch(request.prompt))
        habits.add_answer(row, len(request.prompt), request.output_tokens)
        if int(row["recent_prompts"]) % JUDGED_EVERY == 0 and habits.is_known(row):
            measures = habits.measure(row)
            seen.append(scores.surprise(habits.deviations(row, measures)))
    return np.array(seen, np.float32).reshape(-1, len(SIGNALS))


def attacked(work: Work, attack: str, *, instead: bool) -> tuple[list[Request], dict[str, float]]:
    """A day's requests with an attempt to copy the model, and how large it is."""
    if instead:
        times, cover = 0.0, list[Request]()
        number = len(work.day(DAYS))
        queries = PURE[attack](work)
    elif attack == MIXED:
        times = float(np.exp(work.rng.uniform(0, np.log(8))))
        cover = work.day(DAYS, times)
        queries = list(PURE.values())[work.between(0, len(PURE))](work)
        number = max(1, len(cover) // 10)
    else:
        times = 1.0
        cover = work.day(DAYS)
        queries = PURE[attack](work)
        number = int(np.exp(work.rng.uniform(np.log(60), np.log(400))))
    requests = sorted([*cover, *spread(queries, number, work.rng)], key=lambda request: request.at)
    return requests, {"queries": number, "times": times}


def tenant(kind: str, seed: int, *, instead: bool = False) -> dict[str, Any]:
    """One tenant: its harmless days, and the day on which it copies the model in each of the ways."""
    sketcher = Sketcher(seed.to_bytes(32, "big"))
    work = harmless(kind, 1000 * seed + list(KINDS).index(kind))
    rows = np.zeros(1, habits.HABIT)
    row = rows[0]
    row["pane"] = BEGIN_MICROS // habits.PANE_MICROS
    found: dict[str, Any] = {"kind": kind, "seed": seed, "days": [], "attacks": {}}
    for day in range(DAYS):
        vectors = feed(row, work.day(day), day, sketcher)
        found["days"].append(vectors)
    for attack in PURE if instead else ATTACKS:
        copy = rows.copy()
        requests, size = attacked(work, attack, instead=instead)
        found["attacks"][attack] = {**size, "vectors": feed(copy[0], requests, DAYS, sketcher)}
    return found


def collect_seed(arguments: tuple[int, Path, bool]) -> None:
    seed, folder, instead = arguments
    for kind in KINDS:
        name = folder / f"{seed:03}-{kind.replace(' ', '-')}.npy"
        if not name.exists():
            np.save(name, np.array(tenant(kind, seed, instead=instead), object), allow_pickle=True)


def load(folder: Path, seeds: range) -> list[dict[str, Any]]:
    files = sorted(folder.glob("*.npy"))
    return [np.load(file, allow_pickle=True).item() for file in files if int(file.name[:3]) in seeds]


# -- scoring


def highest(vectors: Vectors, weights: npt.NDArray[np.float64]) -> float:
    """The highest score of a day; 0 if the watch was blind."""
    return float((vectors @ weights).max()) if len(vectors) else 0.0


def harmless_scores(tenants: list[dict[str, Any]], weights: npt.NDArray[np.float64]) -> list[float]:
    """Of each tenant-day that was judged."""
    return [highest(day, weights) for one in tenants for day in one["days"] if len(day)]


def fit(tenants: list[dict[str, Any]]) -> tuple[npt.NDArray[np.float64], float]:
    """Weights by logistic regression over the most surprising moment of each day, within bounds, and scaled so that the
    threshold leaves `FALSE_ALARMS`."""
    weights = np.full(len(SIGNALS), 1 / len(SIGNALS))
    for _ in range(4):  # which moment is the most surprising depends on the weights
        good = [day[np.argmax(day @ weights)] for one in tenants for day in one["days"] if len(day)]
        bad = [
            a["vectors"][np.argmax(a["vectors"] @ weights)]
            for one in tenants
            for a in one["attacks"].values()
            if len(a["vectors"])
        ]
        weights = regress(np.array(good, np.float64), np.array(bad, np.float64))
    for _ in range(50):
        weights = np.clip(weights, LEAST_WEIGHT, MOST_WEIGHT)
        weights *= THRESHOLD / np.quantile(harmless_scores(tenants, weights), 1 - FALSE_ALARMS)
    return np.minimum(weights, MOST_WEIGHT), THRESHOLD


def regress(good: npt.NDArray[np.float64], bad: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """By projected gradient descent; both classes count the same."""
    weights, bias = np.full(good.shape[1], 0.3), -3.0
    for _ in range(3000):
        p_good = 1 / (1 + np.exp(-(good @ weights + bias)))
        p_bad = 1 / (1 + np.exp(-(bad @ weights + bias)))
        slope = good.T @ p_good / len(good) - bad.T @ (1 - p_bad) / len(bad) + 0.002 * weights
        weights = np.clip(weights - 0.1 * slope, 0.02, None)
        bias -= 0.1 * (p_good.mean() - (1 - p_bad).mean())
    return weights


def wilson(hits: int, number: int) -> list[float]:
    """The share and its 95% interval."""
    if not number:
        return [math.nan, 0.0, 1.0]
    z, share = 1.96, hits / number
    middle = (share + z * z / (2 * number)) / (1 + z * z / number)
    half = z * math.sqrt(share * (1 - share) / number + z * z / (4 * number * number)) / (1 + z * z / number)
    return [round(100 * value, 2) for value in (share, max(0.0, middle - half), min(1.0, middle + half))]


def figures(tenants: list[dict[str, Any]], weights: npt.NDArray[np.float64], threshold: float) -> dict[str, Any]:
    """Shares in percent: [share, low, high]."""
    scored = harmless_scores(tenants, weights)
    result: dict[str, Any] = {
        "tenant_days": len(scored),
        "false_alarms": wilson(sum(score >= threshold for score in scored), len(scored)),
        "false_alarms_by_kind": {},
        "found": {},
    }
    for kind in sorted({one["kind"] for one in tenants}):
        own = harmless_scores([one for one in tenants if one["kind"] == kind], weights)
        result["false_alarms_by_kind"][kind] = wilson(sum(score >= threshold for score in own), len(own))
    every, pure = [], []
    for attack in ATTACKS:
        if attack not in tenants[0]["attacks"]:
            continue
        hits = [highest(one["attacks"][attack]["vectors"], weights) >= threshold for one in tenants]
        result["found"][attack] = wilson(sum(hits), len(hits))
        every += hits
        pure += hits if attack in PURE else []
    result["found"]["all but mixed"] = wilson(sum(pure), len(pure))
    result["found"]["all"] = wilson(sum(every), len(every))
    return result


def report(folder: Path) -> dict[str, Any]:
    training, tested = load(folder, TRAINING), load(folder, TESTED)
    own = figures(tested, scores.WEIGHTS, scores.THRESHOLD)
    left_out = {}
    for kind in KINDS:
        weights, threshold = fit([one for one in training if one["kind"] != kind])
        left_out[kind] = figures([one for one in tested if one["kind"] == kind], weights, threshold)
    mixed = [one["attacks"][MIXED] for one in tested]
    by_size = {}
    for low, high in ((1, 2), (2, 4), (4, 8.01)):
        hits = [highest(a["vectors"], scores.WEIGHTS) >= scores.THRESHOLD for a in mixed if low <= a["times"] < high]
        by_size[f"{low}-{high:.0f}"] = wilson(sum(hits), len(hits))
    small = {}
    for low, high in ((60, 120), (120, 240), (240, 401)):
        hits = [
            highest(a["vectors"], scores.WEIGHTS) >= scores.THRESHOLD
            for one in tested
            for name, a in one["attacks"].items()
            if name != MIXED and low <= a["queries"] < high
        ]
        small[f"{low}-{high - 1}"] = wilson(sum(hits), len(hits))
    blind = {
        kind: [next((i for i, d in enumerate(o["days"]) if len(d)), DAYS) for o in tested if o["kind"] == kind]
        for kind in KINDS
    }
    return {
        "machine": machine(),
        "seeds": {"training": [TRAINING[0], TRAINING[-1]], "tested": [TESTED[0], TESTED[-1]]},
        "training": figures(training, scores.WEIGHTS, scores.THRESHOLD),
        "tested": own,
        "left_out": left_out,
        "mixed_by_cover": by_size,
        "pure_by_queries": small,
        "blind_days": {kind: {"median": float(np.median(b)), "most": max(b)} for kind, b in blind.items()},
        "cpu_micros_per_request": cost(),
    }


# -- the cost of a request


async def loop_micros(requests: int = 2000) -> float:
    """CPU time of the event loop's thread for one request, without the sketch, which is made in another."""
    pool, events = TextPool(), Events()
    sketching = Sketching(Sketcher(bytes(32)), pool, events)
    events.queue("watch", lambda event: None)
    tenant, generation = Tenant(id=1, name="acme"), Generation(kind="completion", prompt=[1, 2, 3])
    began = time.thread_time()
    for i in range(requests):
        sketching.begin(tenant, [generation])
        if i % 16 == 0:
            await asyncio.sleep(0.001)
    while sketching.waiting:
        await asyncio.sleep(0.001)
    spent = time.thread_time() - began
    pool.close()
    events.close()
    return spent / requests * 1e6


def cost() -> dict[str, Any]:
    """CPU microseconds of each thread for one request."""
    sketcher, rng = Sketcher(bytes(32)), np.random.default_rng(1)
    sketches = {}
    for tokens in (10, 100, 1000, 100_000):
        prompt = rng.integers(0, VOCABULARY, tokens).tolist()
        sketches[str(tokens)] = round(timed(lambda prompt=prompt: sketcher.sketch(prompt)), 1)
    watch = AnomalyWatch(HabitFile(Path("/nonexistent/habits")), bytes(32), habits.Habits(), lambda *_: None)
    sketched = Sketched(tenant="acme", tenant_id=1, sketch=sketcher.sketch(prompt))
    who: dict[str, Any] = {"request_id": "req_1", "tenant": "acme", "tenant_id": 1, "key_id": None}
    settled = Settled(
        **who, state=FinishReason.STOP, usage=Usage(), first_token_micros=1, duration_micros=2, cause=None
    )
    more: dict[str, Any] = {"logprobs": None, "logit_biases": 0, "choice": 0, "queue_position": 0}
    admitted = Admitted(**who, **more, uid=0, path=PathKind.CHAT, prompt_tokens=9, max_tokens=9)
    watch.habits.of(1, sketched.at_micros)["windows"] = habits.LEARNING_WINDOWS

    def hear() -> None:
        for event in (admitted, sketched, settled):
            watch.hear(event)

    return {
        "sketch_by_prompt_tokens": sketches,
        "watch": round(timed(hear), 1),
        "event_loop": round(asyncio.run(loop_micros()), 1),
        "bytes_per_tenant": habits.HABIT.itemsize,
    }


def timed(work: Callable[[], object], times: int = 500) -> float:
    """CPU microseconds of one call, the median of seven rounds."""
    rounds = []
    for _ in range(7):
        began = time.thread_time()
        for _ in range(times):
            work()
        rounds.append((time.thread_time() - began) / times * 1e6)
    return statistics.median(rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["collect", "freeze", "report"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", default="0-199", help="of the tenants to collect")
    parser.add_argument("--instead", help="copy instead of working, not beside it", action="store_true")
    parser.add_argument("--other", type=Path, help="with report: a folder collected with --instead")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    arguments = parser.parse_args()
    if arguments.what == "collect":
        arguments.folder.mkdir(parents=True, exist_ok=True)
        first, last = map(int, arguments.seeds.split("-"))
        with multiprocessing.Pool(os.cpu_count()) as pool:
            work = [(seed, arguments.folder, arguments.instead) for seed in range(first, last + 1)]
            for _ in pool.imap_unordered(collect_seed, work):
                print(".", end="", flush=True)
        print()
    elif arguments.what == "freeze":
        weights, threshold = fit(load(arguments.folder, TRAINING))
        frozen = {
            "weights": {signal.value: round(float(w), 3) for signal, w in zip(SIGNALS, weights, strict=True)},
            "threshold": threshold,
        }
        FROZEN.write_text(json.dumps(frozen, indent=2) + "\n")
        print(json.dumps(frozen, indent=2))
    else:
        result = report(arguments.folder)
        if arguments.other:
            result["instead"] = figures(load(arguments.other, TESTED), scores.WEIGHTS, scores.THRESHOLD)
        print(json.dumps(result, indent=2))
        if arguments.json:
            arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
