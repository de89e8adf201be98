"""A run: its plan, its records, and its figures."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from tenantctl.bench.figures import (
    WARM_UP_PART,
    Curve,
    Gap,
    Quantile,
    Span,
    TenantFigures,
    largest_gap,
    output_tokens,
    tenant_figures,
    ttft_quantile,
)
from tenantctl.bench.observed import Record
from tenantctl.bench.suites import Closed, Suite

CURVE_POINTS: Final = 201


@dataclass(frozen=True)
class Plan:
    """How a suite is run. `rate_scale` multiplies the rates of open loops; `vocabulary` holds the tokens of prompts."""

    suite: Suite
    duration_s: float
    seed: int = 1
    rate_scale: float = 1.0
    vocabulary: range = range(1000, 100_000)


@dataclass
class Measurement:
    """`records` are by tenant, in the order in which they were sent. `end_s` is the length of the run, less than
    planned when it was interrupted."""

    plan: Plan
    target: str
    records: dict[str, list[Record]]
    end_s: float
    interrupted: bool = False

    @property
    def span(self) -> Span:
        """The span that counts for rates and shares."""
        return (self.end_s * WARM_UP_PART, self.end_s)

    @property
    def length_s(self) -> float:
        """Length of `span`."""
        return self.span[1] - self.span[0]

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """Accumulated service by tenant."""
        return {name: Curve(records) for name, records in self.records.items()}

    @cached_property
    def figures(self) -> dict[str, TenantFigures]:
        """By tenant, in the suite's order."""
        total = self.service()
        return {
            t.name: tenant_figures(t.name, t.weight, self.records[t.name], self.span, total)
            for t in self.plan.suite.tenants
        }

    @cached_property
    def gap(self) -> Gap:
        """See `largest_gap`."""
        tenants = {t.name: (t.weight, self.records[t.name]) for t in self.plan.suite.tenants}
        return largest_gap(tenants, self.end_s)

    def service(self, span: Span | None = None) -> float:
        """Of all tenants together."""
        return sum(curve.between(span or self.span) for curve in self.curves.values())

    def output_tokens(self, span: Span) -> int:
        """Of all tenants together."""
        return sum(output_tokens(records, span) for records in self.records.values())

    @property
    def service_per_s(self) -> float:
        """Of all tenants together."""
        return self.service() / self.length_s

    @property
    def output_tokens_per_s(self) -> float:
        """Of all tenants together."""
        return sum(f.output_tokens_per_s for f in self.figures.values())

    def ttft_next_to_newcomer(self, tenant: str, share: float) -> Quantile | None:
        """`ttft_quantile` of a tenant's requests from the arrival of the suite's newcomer on; None without any."""
        if not self.plan.suite.newcomer:
            return None
        on, _ = self.phases(self.plan.suite.newcomer)
        later = [record for record in self.records[tenant] if on and record.sent_s >= on[0][0]]
        return ttft_quantile(later, share, self.end_s)

    def phases(self, tenant: str) -> tuple[list[Span], list[Span]]:
        """The spans in which an on-and-off closed loop was on, and those in which it was off, as far as the run got."""
        load = next(t.load for t in self.plan.suite.tenants if t.name == tenant)
        assert isinstance(load, Closed)
        edges = [0.0, *(edge for span in load.on for edge in span), 1.0]
        seconds = [min(edge * self.plan.duration_s, self.end_s) for edge in edges]
        spans = list(itertools.pairwise(seconds))
        return ([s for s in spans[1::2] if s[1] > s[0]], [s for s in spans[0::2] if s[1] > s[0]])

    def failures(self) -> dict[str, int]:
        """Error messages of the server with their counts, most frequent first."""
        counts: dict[str, int] = {}
        for record in (r for records in self.records.values() for r in records if r.message):
            counts[record.message] = counts.get(record.message, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    def as_json(self, *, with_requests: bool = True) -> dict[str, Any]:
        """Everything, as JSON can carry it. Seconds since the run began."""
        moments = np.linspace(0, self.end_s, CURVE_POINTS)
        content = {
            "suite": self.plan.suite.name,
            "target": self.target,
            "seed": self.plan.seed,
            "rate_scale": self.plan.rate_scale,
            "planned_s": self.plan.duration_s,
            "measured_s": self.end_s,
            "interrupted": self.interrupted,
            "tenants": [asdict(f) for f in self.figures.values()],
            "output_tokens_per_s": self.output_tokens_per_s,
            "service_per_s": self.service_per_s,
            "gap": asdict(self.gap),
            "failures": self.failures(),
            "service_over_time": {
                "seconds": [round(float(m), 4) for m in moments],
                "tenants": {name: curve.at(moments).tolist() for name, curve in self.curves.items()},
            },
        }
        if with_requests:
            content["requests"] = [_request(r) for records in self.records.values() for r in records]
        return content


def _request(record: Record) -> dict[str, Any]:
    return {
        "tenant": record.tenant,
        "outcome": record.outcome.value,
        "sent_s": round(record.sent_s, 6),
        "first_s": None if record.first_s is None else round(record.first_s, 6),
        "done_s": None if record.done_s is None else round(record.done_s, 6),
        "prompt_tokens": record.prompt_tokens,
        "output_tokens": record.output_tokens,
    }
