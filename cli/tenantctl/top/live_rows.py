"""What is shown, computed from two samples: rates, shares, times, limits and reasons. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from tenantctl.standing import IN_USE, Use, fullest
from tenantctl.top.entitlements import entitlements
from tenantctl.top.samples import Ended, Sample
from tenantctl.top.slow_reasons import Reason, reasons

OVER_S: Final = 5.0
"""Rates are over this long: long enough to be steady, short enough to be of now."""
_PER_MINUTE: Final = {"requests_per_minute": "requests", "tokens_per_minute": "tokens"}


@dataclass(frozen=True)
class Row:
    """A tenant. Rates are None until there are two samples; `share` and `entitled` are fractions of the service of all
    tenants, None if there was none or they are not told."""

    name: str
    told: dict[str, Any]
    output_per_s: float | None
    input_per_s: float | None
    share: float | None
    entitled: float | None
    first_p50_micros: int | None
    first_p99_micros: int | None
    limit: Use | None  # the one nearest to its end
    budget: dict[str, Any] | None  # the one nearest to its end
    why: list[Reason] = field(default_factory=list)

    @property
    def is_busy(self) -> bool:
        """Whether it has requests that run or wait."""
        return bool(self.told["running"] or self.told["paused"] or self.told["waiting"])


@dataclass(frozen=True)
class Engine:
    """What the engine does, in a second; None until there are two samples, or if it is not told. `busy` is a fraction,
    `step_ms` of a mean step."""

    output_per_s: float | None
    input_per_s: float | None
    busy: float | None
    step_ms: float | None


class View(NamedTuple):
    """All that can be shown of a moment. `totals` are of all tenants: running, paused, waiting."""

    sample: Sample
    engine: Engine
    rows: list[Row]
    totals: Counter[str]


def view(samples: Sequence[Sample]) -> View:
    """Of the last sample, with rates since an earlier one."""
    later = samples[-1]
    earlier = _before(samples)
    slots = (later.daemon.get("engine") or {}).get("slots", 0)
    entitled = entitlements(later.tenants, slots) if later.is_whole else {}
    service = _deltas(earlier, later, "service") if later.is_whole else {}
    whole_service = sum(service.values())
    outputs, inputs = _rates(earlier, later, "completion_tokens"), _rates(earlier, later, "prompt_tokens")
    times = _first_tokens(later)
    rows = []
    for told in later.tenants:
        name = told["name"]
        p50, p99 = _quantiles(times.get(name, []))
        rows.append(
            Row(
                name,
                told,
                outputs.get(name),
                inputs.get(name),
                service[name] / whole_service if whole_service and name in service else None,
                entitled.get(name),
                p50,
                p99,
                _limit(told),
                max(told["budgets"], key=used_fraction, default=None),
                reasons(told, later.daemon, later.requests),
            )
        )
    totals = Counter({state: sum(told[state] for told in later.tenants) for state in ("running", "paused", "waiting")})
    return View(later, _engine(earlier, later, outputs, inputs), rows, totals)


def used_fraction(budget: dict[str, Any]) -> float:
    """How much of a budget is used: 1 if it is used up."""
    cap = budget["amount"] + budget["topped_up"]
    return float(min(1.0, budget["used"] / cap)) if cap else 1.0


def limits_of(told: dict[str, Any]) -> list[Use]:
    """The limits of what adds up, as far as they are set, and how much of each is used."""
    uses = []
    for name, figure in IN_USE.items():
        if (allowed := told["limits"][name]) is not None:
            rate = told["rates"][_PER_MINUTE[name]] if name in _PER_MINUTE else None
            used = told.get(figure, 0) if rate is None else rate["limit"] - rate["remaining"]
            uses.append(Use(name.replace("_", " "), used, allowed))
    return uses


def recent(sample: Sample, tenant: str | None = None) -> list[Ended]:
    """Requests that have ended, the newest first."""
    return [each for each in reversed(sample.ended) if tenant in (None, each.tenant)]


def _limit(told: dict[str, Any]) -> Use | None:
    """Places in the queue matter only when they run out."""
    return fullest([use for use in limits_of(told) if use.what != "max queued" or use.fraction >= 0.5])


def _before(samples: Sequence[Sample]) -> Sample | None:
    """The newest sample that is old enough to compare with, else the oldest; None if the daemon is not the same."""
    later = samples[-1]
    earlier = None
    for sample in reversed(samples[:-1]):
        if not _is_later(later, sample):
            break
        earlier = sample
        if later.at_s - sample.at_s >= OVER_S:
            break
    return earlier


def _is_later(later: Sample, earlier: Sample) -> bool:
    """Whether no count of a tenant has fallen, as it does when the daemon starts again."""
    before = {told["name"]: told["engine_micros"] for told in earlier.tenants}
    return all(told["engine_micros"] >= before.get(told["name"], 0) for told in later.tenants)


def _deltas(earlier: Sample | None, later: Sample, what: str) -> dict[str, float]:
    if earlier is None:
        return {}
    before = {told["name"]: told[what] for told in earlier.tenants}
    return {told["name"]: max(0, told[what] - before[told["name"]]) for told in later.tenants if told["name"] in before}


def _rates(earlier: Sample | None, later: Sample, what: str) -> dict[str, float]:
    if earlier is None or later.at_s <= earlier.at_s:
        return {}
    return {name: delta / (later.at_s - earlier.at_s) for name, delta in _deltas(earlier, later, what).items()}


def _engine(earlier: Sample | None, later: Sample, outputs: dict[str, float], inputs: dict[str, float]) -> Engine:
    output, input_ = (sum(each.values()) if each else None for each in (outputs, inputs))
    if earlier is None or not later.is_whole or later.at_s <= earlier.at_s:
        return Engine(output, input_, None, None)
    steps = later.daemon["steps"] - earlier.daemon["steps"]
    busy_micros = later.daemon["engine_busy_micros"] - earlier.daemon["engine_busy_micros"]
    busy = min(1.0, max(0, busy_micros) / 1e6 / (later.at_s - earlier.at_s))
    return Engine(output, input_, busy, busy_micros / 1000 / steps if steps > 0 else None)


def _first_tokens(sample: Sample) -> dict[str, list[int]]:
    """By tenant, how long requests waited for their first token: those that ended lately, and those that run."""
    times: dict[str, list[int]] = {}
    ended = ((each.tenant, each.first_token_micros) for each in sample.ended)
    live = ((each["tenant"], each["first_token_micros"]) for each in sample.requests)
    for tenant, micros in (*ended, *live):
        if micros is not None:
            times.setdefault(tenant, []).append(micros)
    return times


def _quantiles(times: Iterable[int]) -> tuple[int | None, int | None]:
    """Nearest-rank p50 and p99."""
    ordered = sorted(times)
    if not ordered:
        return None, None
    return ordered[(len(ordered) - 1) // 2], ordered[-(-99 * len(ordered) // 100) - 1]
