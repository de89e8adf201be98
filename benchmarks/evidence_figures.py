"""What benchmarks/evidence.py works out of its runs: ratios with 95% intervals, and the page that shows them."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chats import Work
from tenantctl.bench.measurement import Measurement

DRAWS = 2000
T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Student's t for 1 to 9 degrees of freedom, two-sided; 1.96 beyond."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95% interval, None if one run cannot tell it."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" ({self.low:.2f}–{self.high:.2f})"
        return f"{self.value:.2f}{interval}"


@dataclass(frozen=True)
class Row:
    """A line of the page. `least` and `most` are what is aimed at, None for nothing."""

    what: str
    estimate: Estimate
    least: float | None = None
    most: float | None = None
    detail: str = ""

    @property
    def aim(self) -> str:
        """What is aimed at, in words."""
        if self.least is not None and self.most is not None:
            return f"{self.least:.2f}–{self.most:.2f}"
        if self.most is not None:
            return f"≤ {self.most:.2f}"
        return "" if self.least is None else f"≥ {self.least:.2f}"

    @property
    def met(self) -> bool | None:
        """Whether it is met, to two decimals; None where nothing is aimed at."""
        value = round(self.estimate.value, 2)
        if self.least is None and self.most is None:
            return None
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


def of_rounds(ratios: Sequence[float]) -> Estimate:
    """The geometric mean of one ratio for each round, and Student's interval of their logarithms."""
    logs = [math.log(ratio) for ratio in ratios]
    mean = statistics.fmean(logs)
    if len(logs) < 2:
        return Estimate(math.exp(mean))
    degrees = len(logs) - 1
    t = T_95[degrees - 1] if degrees <= len(T_95) else 1.96
    half = t * statistics.stdev(logs) / math.sqrt(len(logs))
    return Estimate(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def of_waits(ours: Sequence[float], theirs: Sequence[float], share: float, seed: int = 1) -> Estimate:
    """The ratio of a quantile of pooled waits, and its bootstrap interval, both sides drawn again."""
    rng = random.Random(seed)

    def ratio(a: Sequence[float], b: Sequence[float]) -> float:
        return quantile(a, share) / quantile(b, share)

    if min(len(ours), len(theirs)) < 2:
        return Estimate(ratio(ours, theirs))
    drawn = sorted(ratio(rng.choices(ours, k=len(ours)), rng.choices(theirs, k=len(theirs))) for _ in range(DRAWS))
    return Estimate(ratio(ours, theirs), drawn[round(0.025 * DRAWS)], drawn[round(0.975 * DRAWS) - 1])


def quantile(values: Sequence[float], share: float) -> float:
    """The least value that this share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


# ---- of runs


def waits(measurements: Sequence[Measurement], tenant: str) -> list[float]:
    """Seconds to the first token of each of a tenant's requests; of one without an answer, to its end."""
    found = []
    for measurement in measurements:
        for record in measurement.records[tenant]:
            end_s = measurement.end_s if record.done_s is None else record.done_s
            found.append(record.ttft_s if record.ttft_s is not None else end_s - record.sent_s)
    return found


Runs = dict[str, list[Measurement]]
"""The runs of one server, by suite, in the order of rounds."""


def rows(ours: Runs, theirs: Runs | None, chats: dict[str, list[Work]]) -> list[Row]:
    """All lines. `chats` has what each server's conversations took, in the order of rounds."""
    result = [
        _next_to_flood("tenantd", ours, 0.5, most=1.15),
        _next_to_flood("tenantd", ours, 0.99, most=1.5),
        _shares("tenantd", ours, least=0.95, most=1.05),
    ]
    if theirs is None:
        return result
    alone = of_waits(waits(ours["solo"], "quiet"), waits(theirs["solo"], "quiet"), 0.5)
    pairs = list(zip(chats["tenantd"], chats["llama-server"], strict=True))
    return [
        *result,
        _next_to_flood("llama-server", theirs, 0.5),
        _next_to_flood("llama-server", theirs, 0.99),
        _shares("llama-server", theirs),
        Row("first token alone, p50: tenantd ÷ llama-server", alone, most=1.0),
        _speed("flood", ours, theirs),
        _speed("overload", ours, theirs),
        Row(
            "growing chats, total time: tenantd ÷ llama-server",
            of_rounds([our.total_s / their.total_s for our, their in pairs]),
            most=1.0,
            detail=" and ".join(f"{_cached(works):.0%}" for works in chats.values()) + " of prompt tokens cached",
        ),
        Row(
            "growing chats, first token of later turns: tenantd ÷ llama-server",
            of_rounds([our.later_ttft_s / their.later_ttft_s for our, their in pairs]),
        ),
    ]


def _next_to_flood(name: str, runs: Runs, share: float, most: float | None = None) -> Row:
    flooded, alone = waits(runs["flood"], "quiet"), waits(runs["solo"], "quiet")
    detail = (
        f"{quantile(flooded, share):.3f} s and {quantile(alone, share):.3f} s; {len(flooded)} and {len(alone)} requests"
    )
    what = f"{name}: quiet's first token next to a flood ÷ alone, p{share * 100:.0f}"
    return Row(what, of_waits(flooded, alone, share), most=most, detail=detail)


def _shares(name: str, runs: Runs, least: float | None = None, most: float | None = None) -> Row:
    ratios = [m.figures["twelve"].service / m.figures["six"].service for m in runs["overload"]]
    return Row(f"{name}: service of 12 clients ÷ of 6 clients, equal weights", of_rounds(ratios), least, most)


def _speed(suite: str, ours: Runs, theirs: Runs) -> Row:
    ratios = [our.service_per_s / their.service_per_s for our, their in zip(ours[suite], theirs[suite], strict=True)]
    return Row(f"{suite}, service per second: tenantd ÷ llama-server", of_rounds(ratios), least=1.0)


def _cached(works: Sequence[Work]) -> float:
    return sum(work.cached_tokens for work in works) / sum(work.prompt_tokens for work in works)


# ---- the page

Promise = tuple[str, str, bool | None]
"""What has to hold, what was found, and whether it holds; None if that could not be told."""
HELD = {True: "yes", False: "**no**", None: "not shown"}


def page(about: dict[str, Any], table: Sequence[Row], promises: Sequence[Promise]) -> str:
    """One page of Markdown: what was measured on, ratios, and what has to hold."""
    lines = ["# Evidence", "", *(f"- {name}: {value}" for name, value in about.items()), ""]
    lines += ["| figure | value (95% interval) | aim | met | |", "|---|---:|---:|---|---|"]
    for row in table:
        met = "" if row.met is None else "yes" if row.met else "**no**"
        lines.append(f"| {row.what} | {row.estimate} | {row.aim} | {met} | {row.detail} |")
    lines += ["", "| promise | found | held |", "|---|---|---|"]
    lines += [f"| {what} | {found} | {HELD[held]} |" for what, found, held in promises]
    return "\n".join(lines) + "\n"
