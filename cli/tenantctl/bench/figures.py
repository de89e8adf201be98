"""Computes figures from records: waiting times, speeds, service, and gaps between tenants. Pure functions.

Service is counted as in the VTC paper: 1 per input token, 2 per output token. To a client, input tokens are served
when the first output token arrives.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tenantctl.bench.observed import Outcome, Record
from tenantctl.bench.suites import INPUT_COST, OUTPUT_COST

WARM_UP_PART: Final = 0.1
"""The first tenth of a run, in which a closed loop starts up, does not count for speeds and shares."""

Floats = NDArray[np.float64]
Span = tuple[float, float]


@dataclass(frozen=True)
class Quantile:
    """`at_least`: the figure is a lower bound, because too many requests were still unanswered at the end."""

    seconds: float
    at_least: bool = False


@dataclass(frozen=True)
class TenantFigures:
    """Results of one tenant. Counts cover the whole run; rates, service and share exclude the warm-up."""

    name: str
    weight: float
    requests: int
    done: int
    refused: int
    failed: int
    cut: int
    short: int
    ttft_p50: Quantile | None
    ttft_p99: Quantile | None
    inter_token_p50_s: float | None
    inter_token_p99_s: float | None
    output_tokens_per_s: float
    service: float
    share: float


@dataclass(frozen=True)
class Gap:
    """The largest difference in service between two tenants over a period in which both had requests waiting,
    each divided by its weight. `of` names the two; () if no two ever waited at the same time."""

    service: float
    of: tuple[str, ...] = ()
    from_s: float = 0.0
    to_s: float = 0.0


class Curve:
    """Accumulated service of one tenant over time."""

    def __init__(self, records: Iterable[Record]) -> None:
        times: list[Floats] = []
        amounts: list[Floats] = []
        for record in records:
            if record.first_s is not None:
                times.append(np.array([record.first_s]))
                amounts.append(np.array([INPUT_COST * record.prompt_tokens], dtype=float))
                times.append(np.asarray(record.write_times_s, dtype=float))
                amounts.append(OUTPUT_COST * np.asarray(record.write_tokens, dtype=float))
            unseen = record.output_tokens - record.arrived_tokens  # tokens without text of their own
            if unseen > 0 and record.done_s is not None:
                times.append(np.array([record.done_s]))
                amounts.append(np.array([OUTPUT_COST * unseen], dtype=float))
        joined = np.concatenate(times) if times else np.empty(0)
        order = np.argsort(joined, kind="stable")
        self.times: Floats = joined[order]
        self.totals: Floats = np.cumsum(np.concatenate(amounts)[order]) if times else np.empty(0)

    def at(self, moments: Floats | Sequence[float]) -> Floats:
        """Service up to and including each moment."""
        steps = np.searchsorted(self.times, np.asarray(moments, dtype=float), side="right")
        return np.concatenate([np.zeros(1), self.totals])[steps]

    def between(self, span: Span) -> float:
        """Service after the start of a span, up to its end."""
        before, after = self.at(span)
        return float(after - before)


def tenant_figures(name: str, weight: float, records: list[Record], span: Span, total_service: float) -> TenantFigures:
    """`span` counts for rates; `total_service` is that of all tenants in it, for the share."""
    outcomes = [r.outcome for r in records]
    gaps = inter_token_s(records)
    service = Curve(records).between(span)
    return TenantFigures(
        name=name,
        weight=weight,
        requests=len(records),
        done=outcomes.count(Outcome.DONE),
        refused=outcomes.count(Outcome.REFUSED),
        failed=outcomes.count(Outcome.FAILED),
        cut=outcomes.count(Outcome.CUT),
        short=sum(r.is_short for r in records),
        ttft_p50=ttft_quantile(records, 0.5, span[1]),
        ttft_p99=ttft_quantile(records, 0.99, span[1]),
        inter_token_p50_s=float(np.quantile(gaps, 0.5)) if len(gaps) else None,
        inter_token_p99_s=float(np.quantile(gaps, 0.99)) if len(gaps) else None,
        output_tokens_per_s=output_tokens(records, span) / (span[1] - span[0]),
        service=service,
        share=service / total_service if total_service else 0.0,
    )


def output_tokens(records: Iterable[Record], span: Span) -> int:
    """Tokens that arrived after the start of a span, up to its end."""
    tokens = 0
    for record in records:
        times = np.asarray(record.write_times_s, dtype=float)
        inside = (times > span[0]) & (times <= span[1])
        tokens += int(np.asarray(record.write_tokens, dtype=np.int64)[inside].sum())
        if record.done_s is not None and span[0] < record.done_s <= span[1]:
            tokens += max(0, record.output_tokens - record.arrived_tokens)
    return tokens


def inter_token_s(records: Iterable[Record]) -> Floats:
    """Seconds between consecutive tokens of an answer; 0 for tokens that arrived in one write."""
    gaps: list[Floats] = [np.empty(0)]
    for record in records:
        if len(record.write_times_s) > 1 or record.arrived_tokens > 1:
            times = np.repeat(np.asarray(record.write_times_s, dtype=float), np.asarray(record.write_tokens))
            gaps.append(np.diff(times))
    return np.concatenate(gaps)


def ttft_quantile(records: Iterable[Record], share: float, end_s: float) -> Quantile | None:
    """The time to first token that this share of requests did not exceed; None without requests.

    Unanswered requests count for as long as they waited (Kaplan-Meier): leaving them out would hide the longest
    waits, and treating the time so far as an answer would make late requests look quick. Refused and
    failed requests are excluded; they are counted separately.
    """
    seen: list[tuple[float, bool]] = []
    for r in records:
        if r.ttft_s is not None:
            seen.append((r.ttft_s, True))
        elif r.outcome not in (Outcome.REFUSED, Outcome.FAILED):
            seen.append(((end_s if r.done_s is None else r.done_s) - r.sent_s, False))
    if not seen:
        return None
    seen.sort(key=lambda wait: (wait[0], not wait[1]))
    surviving = 1.0
    for i, (seconds, answered) in enumerate(seen):
        if answered:
            surviving *= 1 - 1 / (len(seen) - i)
            if surviving <= 1 - share + 1e-12:
                return Quantile(seconds)
    return Quantile(seen[-1][0], at_least=True)


# -- gaps


def backlogged(records: Iterable[Record], end_s: float) -> list[Span]:
    """Spans in which at least one request waited for its first token, in order, without overlap."""
    spans: list[Span] = []
    for record in sorted(records, key=lambda r: r.sent_s):
        begin = record.sent_s
        end = next((t for t in (record.first_s, record.done_s) if t is not None), end_s)
        if spans and begin <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end))
        else:
            spans.append((begin, end))
    return spans


def overlap(ours: Sequence[Span], theirs: Sequence[Span]) -> list[Span]:
    """The intersection of two lists of spans."""
    common: list[Span] = []
    i = j = 0
    while i < len(ours) and j < len(theirs):
        begin, end = max(ours[i][0], theirs[j][0]), min(ours[i][1], theirs[j][1])
        if begin < end:
            common.append((begin, end))
        if ours[i][1] < theirs[j][1]:
            i += 1
        else:
            j += 1
    return common


def largest_gap(tenants: dict[str, tuple[float, list[Record]]], end_s: float) -> Gap:
    """The VTC paper's measure of unfairness, from weights and records by tenant: the largest amount by which, over a
    period in which two tenants were continuously backlogged, the service of one exceeded that of the other."""
    curves = {name: Curve(records) for name, (_, records) in tenants.items()}
    waiting = {name: backlogged(records, end_s) for name, (_, records) in tenants.items()}
    worst = Gap(0.0)
    for a, b in itertools.combinations(tenants, 2):
        moments = np.union1d(curves[a].times, curves[b].times)
        for span in overlap(waiting[a], waiting[b]):
            inside = moments[np.searchsorted(moments, span[0], "right") : np.searchsorted(moments, span[1], "right")]
            at = np.concatenate([[span[0]], inside])
            ahead = curves[a].at(at) / tenants[a][0] - curves[b].at(at) / tenants[b][0]
            gap = float(ahead.max() - ahead.min())
            if gap > worst.service:
                first, last = sorted((int(ahead.argmin()), int(ahead.argmax())))
                worst = Gap(gap, (a, b), float(at[first]), float(at[last]))
    return worst
