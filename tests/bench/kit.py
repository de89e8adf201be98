"""Records made by hand."""

from __future__ import annotations

from collections.abc import Sequence

from tenantctl.bench.arrivals import steady
from tenantctl.bench.measurement import Measurement, Plan
from tenantctl.bench.observed import Outcome, Record
from tenantctl.bench.suites import Open, Shape, Suite, TenantLoad


def record(
    sent_s: float,
    writes: Sequence[tuple[float, int]] = (),
    outcome: Outcome = Outcome.DONE,
    *,
    done_s: float | None = None,
    prompt_tokens: int = 10,
    output_tokens: int | None = None,
    tenant: str = "a",
) -> Record:
    """A request that was sent, got its tokens at some times, and ended with the last of them unless told otherwise."""
    made = Record(tenant, prompt_tokens, max_tokens=sum(n for _, n in writes))
    made.begin(sent_s)
    for at_s, tokens in writes:
        made.add_tokens(at_s, tokens)
    if output_tokens is not None:
        made.output_tokens = output_tokens
    if outcome not in (Outcome.WAITING, Outcome.RUNNING):
        last_s = writes[-1][0] if writes else sent_s
        made.end(last_s if done_s is None else done_s, outcome)
    return made


def suite(weights: dict[str, float], name: str = "made-up") -> Suite:
    """Tenants with weights; what they send makes no difference."""
    load = Open(steady(1.0))
    return Suite(name, "", tuple(TenantLoad(t, Shape(10, 5), load, w) for t, w in weights.items()))


def measurement(
    records: dict[str, list[Record]], end_s: float, *, weights: dict[str, float] | None = None, name: str = "made-up"
) -> Measurement:
    """A run of so many seconds."""
    made = suite(weights or dict.fromkeys(records, 1.0), name)
    return Measurement(Plan(made, end_s), "somewhere", records, end_s)
