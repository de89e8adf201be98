"""Prometheus metrics: counted from events, and read from the service at each scrape.

Label values are names of existing tenants, error codes, states and names of listeners. Nothing that a
stranger sends can add one.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tenantd.budget_events import BudgetReached
from tenantd.domain import Verdict
from tenantd.events import MALFORMED, Account, AnomalyFound, BindingBroken, Event, Events, Refused, Repeated, Settled
from tenantd.logs import dropped_lines
from tenantd.tenancy.budget_accounts import BudgetState
from tenantd.watching.gen_ai import GenAi

M = TypeVar("M", Counter, Histogram)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_LAG_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
LAG_INTERVAL_S: Final = 0.25


class Meter:
    """Counts requests as they are refused and as they end. It listens to `events`, which call it at once."""

    def __init__(self, events: Events, model: str = "", embeddings_model: str = "") -> None:
        """The names of the model that is served, and of the one that embeds texts."""
        self.registry = CollectorRegistry()
        self._events = events
        self._tenants: frozenset[str] | None = None  # None: any tenant
        self._children: dict[str, set[tuple[Counter | Histogram, tuple[str, ...]]]] = {}  # by tenant
        self._refused_by: dict[str, dict[str, int]] = {}  # by tenant and cause
        self._refused = Counter(
            "tenantd_refused_requests", "Requests answered with an error.", ["tenant", "code"], registry=self.registry
        )
        self._refusals = Counter(
            "tenantd_refusals",
            "Refusals by cause; the tenant label is empty if unknown.",
            ["tenant", "cause"],
            registry=self.registry,
        )
        self._malformed = Counter("tenantd_malformed_requests", "Input that was not HTTP.", registry=self.registry)
        self._anomalies = Counter(
            "tenantd_anomalies",
            "Times that a tenant seemed to copy the model, by what was done about it.",
            ["tenant", "action"],
            registry=self.registry,
        )
        self._broken_bindings = Counter(
            "tenantd_broken_bindings", "Answers that were another request's and were stopped.", registry=self.registry
        )
        self._budget_warnings = Counter(
            "tenantd_budget_warnings",
            "Levels, in percent, that budgets of a tenant and its keys have reached.",
            ["tenant", "period", "unit", "level"],
            registry=self.registry,
        )
        self._requests = Counter("tenantd_requests", "Finished requests.", ["tenant", "state"], registry=self.registry)
        count = functools.partial(Counter, labelnames=["tenant"], registry=self.registry)
        self._repeated = count("tenantd_repeated_answers", "Answers given again for an Idempotency-Key.")
        self._prompt = count("tenantd_prompt_tokens", "Prompt tokens billed.")
        self._cached = count("tenantd_cached_tokens", "Prompt tokens found in the cache instead of computed.")
        self._hits = count("tenantd_cache_hits", "Finished requests with cached tokens.")
        self._completion = count("tenantd_completion_tokens", "Generated tokens billed.")
        self._engine = count("tenantd_engine_seconds", "Engine time billed.")
        self._energy = count("tenantd_energy_joules", "Energy of GPUs used for requests, where it is measured.")
        seconds = functools.partial(Histogram, labelnames=["tenant"], buckets=_SECONDS, registry=self.registry)
        self._first_token = seconds("tenantd_first_token_seconds", "From admission to the first token.")
        self._duration = seconds("tenantd_request_seconds", "From admission to the end.")
        self._queue = seconds("tenantd_queue_seconds", "From admission to the first slot.")
        self._kv = count(
            "tenantd_kv_token_seconds", "Token-seconds of KV cache: a token that stays in a slot for a second adds 1."
        )
        self._gen_ai = GenAi(self.registry, model, embeddings_model)
        self._lag = Histogram(
            "tenantd_loop_lag_seconds",
            "Delay of an event loop timer by the wall clock, measured four times a second.",
            buckets=_LAG_SECONDS,
            registry=self.registry,
        )
        events.call("metrics", self.hear)

    async def watch_loop(self) -> None:
        """Keep measuring the delay of the event loop, until cancelled."""
        while True:
            due_s = time.monotonic() + LAG_INTERVAL_S
            await asyncio.sleep(LAG_INTERVAL_S)
            self._lag.observe(max(0.0, time.monotonic() - due_s))

    def keep(self, tenants: Iterable[str]) -> None:
        """From now on there are these tenants: what was counted for others goes, tens of kilobytes for each."""
        self._tenants = frozenset(tenants)
        for gone in self._refused_by.keys() - self._tenants:
            del self._refused_by[gone]
        for gone in self._children.keys() - self._tenants:
            for metric, labels in self._children.pop(gone):
                metric.remove(*labels)

    def hear(self, event: Event) -> None:
        """Count an event. Takes microseconds."""
        if isinstance(event, Settled):
            self._settled(event)
        elif isinstance(event, Refused):
            self._refuse(event)
        elif isinstance(event, AnomalyFound) and self._is_there(event.tenant):
            self._of(self._anomalies, event.tenant, event.action.value).inc()
        elif isinstance(event, BudgetReached) and self._is_there(event.tenant):
            self._of(self._budget_warnings, event.tenant, event.period, event.unit, str(event.level)).inc()
        elif isinstance(event, Repeated) and self._is_there(event.tenant):
            self._of(self._repeated, event.tenant).inc()
        elif isinstance(event, BindingBroken):
            self._broken_bindings.inc()

    def refusals(self, tenant: str) -> dict[str, int]:
        """What a tenant was refused since the start, by cause."""
        return dict(self._refused_by.get(tenant, {}))

    def _refuse(self, event: Refused) -> None:
        if event.cause == MALFORMED:
            self._malformed.inc()
        if event.tenant is not None and self._is_there(event.tenant):
            self._of(self._refusals, event.tenant, event.cause).inc()
            self._of(self._refused, event.tenant, event.cause).inc()
            counts = self._refused_by.setdefault(event.tenant, {})
            counts[event.cause] = counts.get(event.cause, 0) + 1
        else:
            self._refusals.labels("", event.cause).inc()

    def _settled(self, event: Settled) -> None:
        tenant, usage = event.tenant, event.usage
        if not self._is_there(tenant):
            return  # its removal is what ended it
        self._of(self._requests, tenant, event.state.value).inc()
        self._of(self._prompt, tenant).inc(usage.prompt_tokens)
        self._of(self._completion, tenant).inc(usage.completion_tokens)
        if usage.cached_tokens:
            self._of(self._cached, tenant).inc(usage.cached_tokens)
            self._of(self._hits, tenant).inc()
        self._of(self._engine, tenant).inc(usage.engine_micros / 1e6)
        if usage.energy_millijoules:
            self._of(self._energy, tenant).inc(usage.energy_millijoules / 1000)
        if event.first_token_micros is not None:
            self._of(self._first_token, tenant).observe(event.first_token_micros / 1e6)
        if event.duration_micros is not None:
            self._of(self._duration, tenant).observe(event.duration_micros / 1e6)
        if event.queue_micros is not None:
            self._of(self._queue, tenant).observe(event.queue_micros / 1e6)
        self._of(self._kv, tenant).inc(event.kv_token_micros / 1e6)
        for metric, labels, seconds in self._gen_ai.observed(event):
            self._of(metric, *labels).observe(seconds)

    def _is_there(self, tenant: str) -> bool:
        return self._tenants is None or tenant in self._tenants

    def _of(self, metric: M, *labels: str) -> M:
        """The part of `metric` with these labels, the tenant's name first."""
        self._children.setdefault(labels[0], set()).add((metric, labels))
        return metric.labels(*labels)

    def render(self, status: dict[str, Any], budgets: Sequence[tuple[str, BudgetState]] = ()) -> bytes:
        """The text format. `status` is the service's, and `budgets` all with the names of their tenants. Safe in a
        thread: with many tenants it takes a while."""
        state = CollectorRegistry()
        state.register(_ServiceState(status, self._events.accounts()))
        state.register(_Budgets(budgets))
        return generate_latest(self.registry) + generate_latest(state)


class _ServiceState(Collector):
    """Gauges of one moment."""

    def __init__(self, status: dict[str, Any], listeners: dict[str, Account]) -> None:
        self._status = status
        self._listeners = listeners

    def collect(self) -> Iterator[Metric]:
        status = self._status
        yield _gauge("tenantd_ready", "1 while requests are served.", float(status["state"] == "ready"))
        yield _count("tenantd_engine_restarts", "Restarts of the engine process.", status["engine_restarts"])
        yield _count("tenantd_swaps", "Preempted requests whose state was swapped out.", status["swaps"])
        yield _count("tenantd_recomputes", "Preempted requests that were recomputed.", status["recomputes"])
        yield _count(
            "tenantd_log_lines_dropped", "Log lines dropped because nobody read them in time.", dropped_lines()
        )
        yield _gauge("tenantd_ledger_healthy", "0 while usage cannot be written.", status["ledger"]["healthy"])
        yield _gauge(
            "tenantd_ledger_paused",
            "1 while requests are paused because nothing can be billed.",
            status["ledger"]["requests_paused"],
        )
        yield _gauge("tenantd_ledger_wal_bytes", "Size of the write-ahead log.", status["ledger"]["wal_bytes"])
        yield from _anchor_metrics(status["ledger"]["anchor"])
        yield from _isolation(status["isolation"])
        yield _count(
            "tenantd_unwatched_prompts",
            "Prompts that the anomaly watch skipped, because too many of the same tenant were waiting.",
            status["unwatched_prompts"],
        )
        for name, text in (
            ("running", "Requests being generated."),
            ("paused", "Requests that have started but gave up their slot."),
            ("waiting", "Requests waiting for a slot."),
            ("usage", "Decayed usage, which decides whose turn it is."),
            ("throttled", "1 while a tenant has an eighth of its weight because of an anomaly."),
        ):
            family = GaugeMetricFamily(f"tenantd_{name}", text, labels=["tenant"])
            for tenant in status["tenants"]:
                family.add_metric([tenant["name"]], float(tenant[name]))
            yield family
        cached = GaugeMetricFamily("tenantd_cache_bytes", "Host memory taken by cached prompts.", labels=["tenant"])
        for tenant in status["tenants"]:
            if tenant["cache_bytes"] is not None:
                cached.add_metric([tenant["name"]], float(tenant["cache_bytes"]))
        yield cached
        failed = CounterMetricFamily(
            "tenantd_listener_failures", "Events on which a listener failed.", labels=["listener"]
        )
        dropped = CounterMetricFamily(
            "tenantd_events_dropped", "Events that a slow listener missed.", labels=["listener"]
        )
        for name, account in self._listeners.items():
            failed.add_metric([name], float(account.failed))
            dropped.add_metric([name], float(account.dropped))
        yield from (failed, dropped)


class _Budgets(Collector):
    """Gauges of what is used of budgets. `key` is empty for those of all keys."""

    def __init__(self, budgets: Sequence[tuple[str, BudgetState]]) -> None:
        self._budgets = budgets

    def collect(self) -> Iterator[Metric]:
        labels = ["tenant", "key", "period", "unit"]
        used = GaugeMetricFamily("tenantd_budget_used_ratio", "Part of a budget used in its period.", labels=labels)
        held = GaugeMetricFamily(
            "tenantd_budget_reserved_ratio", "Part of a budget held by running and waiting requests.", labels=labels
        )
        for tenant, state in self._budgets:
            budget = state.budget
            for family, amount in ((used, state.used), (held, state.reserved)):
                ratio = amount / state.cap if state.cap else float(family is used)
                family.add_metric([tenant, budget.key_id, budget.period, budget.unit], ratio)
        yield from (used, held)


def _anchor_metrics(anchor: dict[str, Any] | None) -> Iterator[Metric]:
    """Nothing without an anchor."""
    if anchor is None:
        return
    yield _count("tenantd_audit_anchor_failures", "Failed attempts to anchor the audit trail.", anchor["failures"])
    yield _count(
        "tenantd_audit_anchor_mismatches",
        "Times that the audit trail, or the anchor's file, did not hold what had been anchored.",
        anchor["mismatches"],
    )
    if anchor["age_s"] is not None:
        yield _gauge("tenantd_audit_anchor_age_seconds", "Time since the last anchor.", anchor["age_s"])


def _isolation(last: dict[str, Any] | None) -> Iterator[Metric]:
    checked_s = 0.0 if last is None else last["checked_micros"] / 1e6
    yield _gauge("tenantd_isolation_checked_timestamp_seconds", "When isolation was last checked; 0: never.", checked_s)
    family = GaugeMetricFamily("tenantd_isolation", "1 for the result of the last check.", labels=["result"])
    for verdict in Verdict:
        family.add_metric([verdict], float(last is not None and last["result"] is verdict))
    yield family


def _count(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=float(value))


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))
